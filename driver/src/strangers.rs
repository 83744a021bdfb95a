//! The turn of strangers: those without an allocation have sockets of their own, of which a bounded part is read after
//! all others.
//!
//! Each listener may have such a socket ([`ListenerSocket::strangers`](crate::sockets::ListenerSocket::strangers)). What
//! waits there has a short queue, so a flood fills that one and no other.

use crate::kernel::received::Received;
use crate::kernel::recv::Receiver;
use crate::limits::{STRANGER_DATAGRAMS, TURNS_WITHOUT_STRANGERS};
use crate::mechanism::Base;

/// Which of a worker's sockets for strangers have something to read, and when they are read.
pub(crate) struct Strangers {
    receiver: Receiver,
    /// The first of [`STRANGER_DATAGRAMS`] buffers of the pool that are theirs.
    first_buffer: usize,
    /// Listeners whose socket for strangers has something to read.
    ready: Vec<u32>,
    /// Those that this turn has looked at.
    looked_at: Vec<u32>,
    /// Turns in a row in which they were left out.
    left_out: u32,
}

impl Strangers {
    /// With the pool's buffers from `first_buffer` on, in which so many bytes are in front of each payload.
    pub(crate) fn new(first_buffer: usize, prefix_bytes: usize) -> Strangers {
        let receiver = Receiver::new(prefix_bytes);
        Strangers { receiver, first_buffer, ready: Vec::new(), looked_at: Vec::new(), left_out: 0 }
    }

    /// A listener's socket for strangers has something to read.
    pub(crate) fn note_ready(&mut self, index: u32) {
        if !self.ready.contains(&index) {
            self.ready.push(index);
        }
    }

    /// Whether there is something to read.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reads a turn's share, unless more waits in other sockets than a turn takes; gives how many datagrams there were.
    pub(crate) fn receive(&mut self, base: &mut Base, has_more: bool) -> usize {
        self.looked_at.clear();
        if base.is_paused || self.ready.is_empty() || !self.is_due(has_more) {
            return 0;
        }
        std::mem::swap(&mut self.ready, &mut self.looked_at);
        let mut used = 0;
        for place in 0..self.looked_at.len() {
            let share = (STRANGER_DATAGRAMS - used) / (self.looked_at.len() - place);
            used += self.receive_from(base, self.looked_at[place], self.first_buffer + used, share);
        }
        used
    }

    /// The listeners that the last turn has looked at.
    pub(crate) fn looked_at(&self) -> &[u32] {
        &self.looked_at
    }

    fn is_due(&mut self, has_more: bool) -> bool {
        let is_due = !has_more || self.left_out >= TURNS_WITHOUT_STRANGERS;
        self.left_out = if is_due { 0 } else { self.left_out + 1 };
        is_due
    }

    fn receive_from(&mut self, base: &mut Base, index: u32, first: usize, share: usize) -> usize {
        let Some(listener) = base.sockets.listeners.get(index as usize) else { return 0 };
        let Some(socket) = listener.socket.strangers() else { return 0 };
        let port = listener.socket.local_addr().port();
        let count = self.receiver.receive(socket, &mut base.pool, first, share);
        for offset in 0..count {
            match self.receiver.received(offset, port) {
                Some(received) => {
                    let received = Received { is_strangers: true, ..received };
                    base.received_by_listener(index, &received, first + offset);
                }
                None => base.received_unaddressed(),
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_wait_for_others_but_not_for_ever() {
        let mut strangers = Strangers::new(0, 0);
        assert!(strangers.is_due(false));
        for _ in 0..3 {
            for _ in 0..TURNS_WITHOUT_STRANGERS {
                assert!(!strangers.is_due(true));
            }
            assert!(strangers.is_due(true));
        }
        assert!(!strangers.is_due(true));
        assert!(strangers.is_due(false));
        assert!(!strangers.is_due(true));
    }
}
