//! The sockets of a worker, and which of them are armed.

use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;
use turnpike_proto::RelaySocket;

use crate::kernel::Losses;
use crate::send::batch::Sender;
use crate::send::queue::Senders;
use crate::sockets::ListenerSocket;

/// Relay sockets that have a fixed slot in the ring; those beyond work by their descriptor. A slot takes
/// 8 bytes of the kernel's memory.
pub(super) const FIXED_RELAYS: u32 = 16_384;

/// A listener.
pub(super) struct OpenListener {
    pub(super) socket: ListenerSocket,
    pub(super) losses: Losses,
}

/// A relay socket, from its opening until the kernel has let go of it.
pub(super) struct OpenRelay {
    pub(super) generation: u32,
    pub(super) socket: Socket,
    pub(super) losses: Losses,
    /// A request to receive is under way.
    pub(super) armed: bool,
    /// It is closed as soon as that request has ended.
    pub(super) closing: bool,
}

/// A worker's sockets.
pub(super) struct Sockets {
    pub(super) listeners: Vec<OpenListener>,
    relays: Vec<Option<OpenRelay>>,
    /// Those not closing.
    pub(super) open: usize,
    /// Those in the table.
    held: usize,
}

impl Sockets {
    pub(super) fn new(listeners: Vec<ListenerSocket>) -> Sockets {
        let listeners =
            listeners.into_iter().map(|socket| OpenListener { socket, losses: Losses::default() }).collect();
        Sockets { listeners, relays: Vec::new(), open: 0, held: 0 }
    }

    /// A relay socket, also if it is closing.
    pub(super) fn held(&mut self, relay: RelaySocket) -> Option<&mut OpenRelay> {
        let open = self.relays.get_mut(relay.index as usize)?.as_mut()?;
        (open.generation == relay.generation).then_some(open)
    }

    /// Whether a name's place is taken, by whatever generation.
    pub(super) fn is_taken(&self, relay: RelaySocket) -> bool {
        self.relays.get(relay.index as usize).is_some_and(Option::is_some)
    }

    /// Keeps a socket under its name.
    pub(super) fn insert(&mut self, relay: RelaySocket, socket: Socket) {
        let index = relay.index as usize;
        if index >= self.relays.len() {
            self.relays.resize_with(index + 1, || None);
        }
        self.relays[index] = Some(OpenRelay {
            generation: relay.generation,
            socket,
            losses: Losses::default(),
            armed: false,
            closing: false,
        });
        self.open += 1;
        self.held += 1;
    }

    /// Takes a socket out, to be closed.
    pub(super) fn remove(&mut self, relay: RelaySocket) -> Option<OpenRelay> {
        self.held(relay)?;
        let removed = self.relays[relay.index as usize].take()?;
        self.held -= 1;
        self.open -= usize::from(!removed.closing);
        if self.held == 0 {
            self.relays = Vec::new();
        }
        Some(removed)
    }

    /// The sender's slot in the ring, if it has one, else its descriptor.
    pub(super) fn target(&self, sender: Sender) -> Option<Target> {
        match sender {
            Sender::Listener(index) => {
                ((index as usize) < self.listeners.len()).then_some(Target::Slot(index))
            }
            Sender::Relay { index, .. } => {
                let socket = self.socket(sender)?;
                Some(match self.slot(index) {
                    Some(slot) => Target::Slot(slot),
                    None => Target::Descriptor(socket.as_raw_fd()),
                })
            }
        }
    }

    /// The fixed slot of the relay socket with that index.
    pub(super) fn slot(&self, index: u32) -> Option<u32> {
        (index < FIXED_RELAYS).then_some(self.listeners.len() as u32 + index)
    }
}

impl Senders for Sockets {
    fn listener(&self, index: u32) -> Option<&ListenerSocket> {
        self.listeners.get(index as usize).map(|listener| &listener.socket)
    }

    fn relay(&self, relay: RelaySocket) -> Option<&Socket> {
        let open = self.relays.get(relay.index as usize)?.as_ref()?;
        (open.generation == relay.generation && !open.closing).then_some(&open.socket)
    }
}

/// How a request names a socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// A fixed slot.
    Slot(u32),
    /// A descriptor.
    Descriptor(RawFd),
}
