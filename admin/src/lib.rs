//! Administration of a relay over HTTP: REST API, metrics, events and a dashboard.
//!
//! ```text
//!   HTTP ──► api ──► trait Relay ◄── the relay implements it
//!             │
//!           model (what goes over the wire, also for clients of the API)
//! ```
//!
//! This crate decides who may ask what, and how answers look. It knows no worker, no socket of the
//! relay and no packet: all it can ask for is in [`Relay`].

pub mod model;
pub mod relay;
pub mod users;

pub use relay::{Answer, Relay, RelayError};
