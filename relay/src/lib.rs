//! Turnpike's relay: drives the core with sockets.

pub mod banner;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod driver;
pub mod logging;
pub mod probe;
pub mod run;
pub mod signals;
