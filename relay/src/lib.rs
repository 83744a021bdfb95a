//! Turnpike's relay: drives the core with sockets.
//!
//! `main` → [`cli`] → [`start`]: it makes the shared state ([`setup`]), binds the listeners,
//! and starts the [`worker`]s, each over a driver of `turnpike-driver`. Afterwards only they touch packets; [`start`]
//! waits for signals.

#![forbid(unsafe_code)]

pub mod banner;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
mod ctl;
pub mod health;
mod kernel;
mod limits;
pub mod logging;
pub mod network;
mod patience;
pub mod probe;
mod service_manager;
pub mod setup;
pub mod start;
pub mod tls;
pub mod worker;
