//! Turnpike's relay: drives the core with sockets.
//!
//! `main` → [`cli`] → [`run`]: it makes the shared state ([`setup`]), binds the listeners,
//! and starts one [`shard`] per worker over a driver of `turnpike-driver`. Afterwards only the shards touch
//! packets; [`run`] waits for signals.

#![forbid(unsafe_code)]

pub mod admin;
pub mod banner;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
mod ctl;
mod descriptors;
pub mod handover;
pub mod health;
mod kernel;
pub mod logging;
pub mod network;
mod notices;
mod patience;
pub mod probe;
pub mod refusals;
pub mod run;
mod service_manager;
pub mod setup;
pub mod shard;
pub mod signals;
mod stop;
mod survey;
mod watch;
