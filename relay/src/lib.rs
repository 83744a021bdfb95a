//! Turnpike's relay: drives the core with sockets.

pub mod config;
pub mod driver;
pub mod run;
