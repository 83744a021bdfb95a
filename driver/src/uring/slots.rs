//! Which sockets have a fixed slot in the ring.
//!
//! ```text
//!   listener 0, 1, ... | relay socket 0, 1, ... up to FIXED_RELAYS        (all others by their descriptor)
//! ```

use std::os::fd::{AsRawFd, RawFd};

use rustix::process::{Resource, getrlimit};

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

/// The fixed slots that a ring has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    listeners: u32,
    /// All of them.
    pub(super) count: u32,
}

impl Slots {
    /// One for each listener, and as many for relay sockets as are of use and may be had: the kernel grants no more
    /// than the process may have descriptors.
    pub(super) fn for_listeners(listeners: u32) -> Slots {
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| u32::try_from(limit).ok());
        let most = limit.unwrap_or(u32::MAX).max(listeners);
        Slots { listeners, count: (listeners + FIXED_RELAYS).min(most) }
    }

    /// How to name the socket that sends; `None` if it was closed.
    pub(super) fn target(self, sockets: &Sockets, sender: Sender) -> Option<Target> {
        match sender {
            Sender::Listener(index) => sockets.listener(index).map(|_| Target::Slot(index)),
            Sender::Relay { index, .. } => {
                let socket = socket_of(sockets, sender)?;
                Some(self.of_relay(index).map_or(Target::Descriptor(socket.as_raw_fd()), Target::Slot))
            }
        }
    }

    /// The fixed slot of the relay socket with that index.
    pub(super) fn of_relay(self, index: u32) -> Option<u32> {
        Some(self.listeners.saturating_add(index)).filter(|slot| *slot < self.count)
    }
}
