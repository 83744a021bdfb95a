//! Turnpike's relay: drives the core with sockets.

pub mod driver;
