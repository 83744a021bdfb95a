//! Turnpike's relay: drives the core with sockets.
//!
//! `main` → [`cli`] → [`run`]: it makes the shared state ([`setup`]), binds the listeners
//! ([`sockets`]), and starts one [`shard`] per worker over a [`driver`]. Afterwards only the shards
//! touch packets; [`run`] waits for signals.

pub mod admin;
pub mod backend;
pub mod banner;
pub mod buffers;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod credentials;
mod ctl;
pub mod driver;
pub mod handover;
mod heap;
pub mod logging;
mod notices;
pub mod offload;
mod patience;
pub mod probe;
pub mod run;
pub mod setup;
pub mod shard;
pub mod signals;
pub mod sockets;
