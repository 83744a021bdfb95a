//! Turnpike's relay: drives the core with sockets.

pub mod buffers;
pub mod driver;
pub mod sockets;
