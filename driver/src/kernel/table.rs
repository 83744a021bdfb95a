//! The sockets of a worker, under the names that the core has for them.

use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;
use turnpike_proto::RelaySocket;

use crate::sockets::{self, ListenerSocket};
use crate::{HeldSocket, SocketName};

/// A listener.
pub(crate) struct OpenListener {
    pub(crate) socket: ListenerSocket,
    pub(crate) losses: Losses,
    /// Those of its socket for strangers.
    pub(crate) stranger_losses: Losses,
}

/// A relay socket, from its opening until the kernel has let go of it.
pub(crate) struct OpenRelay {
    generation: u32,
    pub(crate) socket: Socket,
    pub(crate) losses: Losses,
    /// A request to receive is under way (io_uring).
    pub(crate) armed: bool,
    /// It is closed as soon as that request has ended.
    pub(crate) closing: bool,
}

/// A worker's sockets.
pub(crate) struct Sockets {
    pub(crate) listeners: Vec<OpenListener>,
    relays: Vec<Option<OpenRelay>>,
    /// Those not closing.
    pub(crate) open: usize,
    /// Those in the table.
    held: usize,
}

impl Sockets {
    pub(crate) fn new(listeners: Vec<ListenerSocket>) -> Sockets {
        let open = |socket: ListenerSocket| OpenListener {
            losses: socket.losses(),
            stranger_losses: socket.stranger_losses(),
            socket,
        };
        let listeners = listeners.into_iter().map(open).collect();
        Sockets { listeners, relays: Vec::new(), open: 0, held: 0 }
    }

    /// The listener of that number.
    pub(crate) fn listener(&self, index: u32) -> Option<&ListenerSocket> {
        self.listeners.get(index as usize).map(|listener| &listener.socket)
    }

    /// A relay socket, unless it was closed.
    pub(crate) fn relay(&self, relay: RelaySocket) -> Option<&Socket> {
        let open = self.relays.get(relay.index as usize)?.as_ref()?;
        (open.generation == relay.generation && !open.closing).then_some(&open.socket)
    }

    /// Relay sockets whose request to receive has not ended yet.
    pub(crate) fn closing(&self) -> usize {
        self.held - self.open
    }

    /// A relay socket, also if it is closing.
    pub(crate) fn held(&mut self, relay: RelaySocket) -> Option<&mut OpenRelay> {
        let open = self.relays.get_mut(relay.index as usize)?.as_mut()?;
        (open.generation == relay.generation).then_some(open)
    }

    /// All of them, those closing excepted.
    pub(crate) fn all(&self) -> impl Iterator<Item = HeldSocket<'_>> {
        let listeners = (0..).zip(&self.listeners).flat_map(|(index, listener)| {
            let first = HeldSocket {
                name: SocketName::Listener(index),
                socket: listener.socket.as_fd(),
                lost: listener.losses.count,
            };
            let second = listener.socket.strangers().map(|socket| HeldSocket {
                name: SocketName::Strangers(index),
                socket,
                lost: listener.stranger_losses.count,
            });
            [Some(first), second].into_iter().flatten()
        });
        let relays = (0..).zip(&self.relays).filter_map(|(index, open)| {
            let open = open.as_ref().filter(|open| !open.closing)?;
            Some(HeldSocket {
                name: SocketName::Relay(RelaySocket { index, generation: open.generation }),
                socket: open.socket.as_fd(),
                lost: open.losses.count,
            })
        });
        listeners.chain(relays)
    }

    /// Closes the listeners' sockets for strangers.
    pub(crate) fn close_strangers(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.socket.close_strangers());
    }

    /// Relay sockets whose request to receive is under way.
    pub(crate) fn armed(&self) -> usize {
        self.relays.iter().flatten().filter(|open| open.armed).count()
    }

    /// A socket goes on from this count of losses.
    pub(crate) fn set_losses(&mut self, relay: RelaySocket, losses: Losses) {
        if let Some(open) = self.held(relay) {
            open.losses = losses;
        }
    }

    /// Whether a name's place is taken, by whatever generation.
    pub(crate) fn is_taken(&self, relay: RelaySocket) -> bool {
        self.relays.get(relay.index as usize).is_some_and(Option::is_some)
    }

    /// Keeps a socket under its name, whose place must be free.
    pub(crate) fn insert(&mut self, relay: RelaySocket, socket: Socket) {
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

    /// Closes a socket; returns what it had lost since that was last counted, or `None` if there is none
    /// of that name.
    pub(crate) fn close(&mut self, relay: RelaySocket) -> Option<u64> {
        self.held(relay)?;
        let mut closed = self.relays[relay.index as usize].take()?;
        self.held -= 1;
        self.open -= usize::from(!closed.closing);
        if self.held == 0 {
            self.relays = Vec::new();
        }
        Some(closed.losses.last_news(closed.socket.as_fd()))
    }
}

/// A socket's count of lost datagrams, of which news come with the next datagram.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    count: u32,
    has_received: bool,
}

impl Losses {
    /// Of a socket that has lost so many already, which are counted.
    pub(crate) fn after(count: u32) -> Losses {
        Losses { count, has_received: true }
    }

    /// How many were lost since the last time, as it came with a datagram: the kernel's running count,
    /// which wraps and is told only if it isn't zero.
    pub(crate) fn news(&mut self, count: Option<u32>) -> u64 {
        self.has_received = true;
        count.map_or(0, |count| u64::from(count.wrapping_sub(std::mem::replace(&mut self.count, count))))
    }

    /// The same of a socket that is being closed.
    pub(crate) fn last_news(&mut self, socket: BorrowedFd<'_>) -> u64 {
        // One that never had anything to read has lost nothing: most of those that never carry data.
        if !self.has_received {
            return 0;
        }
        self.news(sockets::lost_datagrams(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_once_also_across_the_wrap() {
        let mut losses = Losses::default();
        assert_eq!(losses.news(None), 0);
        assert_eq!(losses.news(Some(5)), 5);
        assert_eq!(losses.news(Some(5)), 0);
        assert_eq!(losses.news(Some(u32::MAX)), u64::from(u32::MAX) - 5);
        assert_eq!(losses.news(Some(1)), 2);
    }
}
