//! Which sockets have a fixed slot in the ring.
//!
//! ```text
//!   listener 0, 1, ... | relay socket 0, 1, ... FIXED_RELAYS - 1        (all others by their descriptor)
//! ```

use std::os::fd::{AsRawFd, RawFd};

use crate::kernel::table::Sockets;
use crate::limits::FIXED_RELAYS;
use crate::send::batch::Sender;
use crate::send::queue::socket_of;

/// How a request names a socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// A fixed slot.
    Slot(u32),
    /// A descriptor.
    Descriptor(RawFd),
}

/// How to name the socket that sends; `None` if it was closed.
pub(super) fn target(sockets: &Sockets, sender: Sender) -> Option<Target> {
    match sender {
        Sender::Listener(index) => sockets.listener(index).map(|_| Target::Slot(index)),
        Sender::Relay { index, .. } => {
            let socket = socket_of(sockets, sender)?;
            Some(slot(sockets, index).map_or(Target::Descriptor(socket.as_raw_fd()), Target::Slot))
        }
    }
}

/// The fixed slot of the relay socket with that index.
pub(super) fn slot(sockets: &Sockets, index: u32) -> Option<u32> {
    (index < FIXED_RELAYS).then_some(sockets.listeners.len() as u32 + index)
}
