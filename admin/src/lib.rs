//! Administration of a relay over HTTP: REST API, metrics, events and a dashboard.
//!
//! ```text
//!   HTTP ──► server ──► guard ──► api ──► trait ManagedRelay ◄── the relay implements it
//!         (limits, TLS) (host, token)  │
//!                                    model (what goes over the wire, also for clients of the API)
//! ```
//!
//! This crate decides who may ask what, and how answers look. It knows no worker, no socket of the
//! relay and no packet: all it can ask for is in [`ManagedRelay`]. Whether something can be done, and what it does to
//! calls, is decided behind that trait.
//!
//! Begin with [`ManagedRelay`], which a relay implements, and [`start`], which serves it to holders of [`Tokens`];
//! [`model`] has the types of what goes over the wire, [`limits`] what is taken at the most. With the feature `fake`
//! there is a relay in memory behind that trait; the example `fake` serves it.

mod api;
mod audit;
mod dashboard;
mod extract;
#[cfg(feature = "fake")]
pub mod fake;
pub mod files;
mod guard;
mod history;
pub mod limits;
pub mod managed;
mod metrics;
pub mod model;
mod problem;
mod server;
mod slots;
mod state;
mod strangers;
#[cfg(test)]
mod tests;
mod tls;
mod token;
pub mod users;

pub use api::openapi;
pub use managed::{Answer, ManagedRelay, RelayError};
pub use problem::ProblemBody;
pub use server::{Handle, Running, Settings, StartError, start};
pub use token::{Scope, Scopes, Tokens};
