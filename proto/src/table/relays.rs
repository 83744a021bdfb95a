//! Relay sockets: whose they are, and the port that each of them holds.
//!
//! Invariant: a port's lease lives here from the moment it is taken until the driver has closed the socket, so
//! that a port is never given out while a socket still has it.

use super::allocation::AllocationId;
use super::arena::{Arena, Name};
use super::{Half, Table};
use crate::addr::{Family, RelayedTransport};
use crate::io::RelaySocket;
use crate::shared::ports::PortLease;

impl Name for RelaySocket {
    fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    fn index(self) -> u32 {
        self.index
    }

    fn generation(self) -> u32 {
        self.generation
    }
}

/// The relay sockets of one worker.
pub(super) struct RelaySockets(Arena<RelaySocket, Held>);

/// What is known of one relay socket.
struct Held {
    /// `None` when its half has ended.
    owner: Option<(AllocationId, Family)>,
    lease: PortLease,
    /// Slots of channel bindings through it that the kernel plane has not forgotten yet.
    bindings: u32,
    /// Its half has ended, and until then it waits for the kernel plane, on the monotonic clock, nanoseconds.
    waits_until_ns: Option<u64>,
}

impl RelaySockets {
    pub(super) fn new() -> Self {
        Self(Arena::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A name for a socket to be opened.
    pub(super) fn hold(&mut self, id: AllocationId, family: Family, lease: PortLease) -> RelaySocket {
        self.0.insert(Held { owner: Some((id, family)), lease, bindings: 0, waits_until_ns: None })
    }

    #[inline]
    pub(super) fn owner(&self, socket: RelaySocket) -> Option<(AllocationId, Family)> {
        self.0.get(socket)?.owner
    }

    /// Whether the socket's port is a peer's address that somebody reads from, and what is relayed there.
    pub(super) fn set_open(&self, socket: RelaySocket, open: Option<RelayedTransport>) {
        if let Some(held) = self.0.get(socket) {
            held.lease.set_open(open);
        }
    }

    /// Its half has ended: whether it may be closed, since the kernel plane knows nothing of it; else it waits.
    pub(super) fn disown(&mut self, socket: RelaySocket, waits_until_ns: u64) -> bool {
        self.set_open(socket, None);
        let Some(held) = self.0.get_mut(socket) else { return false };
        held.owner = None;
        if held.bindings > 0 {
            held.waits_until_ns = Some(waits_until_ns);
        }
        held.bindings == 0
    }

    /// The kernel plane is told of a channel binding through it.
    pub(super) fn add_binding(&mut self, socket: RelaySocket) {
        if let Some(held) = self.0.get_mut(socket) {
            held.bindings += 1;
        }
    }

    /// The kernel plane has forgotten a channel binding through it: if the socket waited for that alone, until when
    /// it would have. It may be closed then.
    pub(super) fn drop_binding(&mut self, socket: RelaySocket) -> Option<u64> {
        let held = self.0.get_mut(socket)?;
        held.bindings -= 1;
        if held.bindings > 0 {
            return None;
        }
        held.waits_until_ns.take()
    }

    /// It has waited for the kernel plane for long enough: whether it may be closed.
    pub(super) fn end_wait(&mut self, socket: RelaySocket) -> bool {
        self.0.get_mut(socket).is_some_and(|held| held.waits_until_ns.take().is_some())
    }

    /// There is no such socket any more.
    pub(super) fn release(&mut self, socket: RelaySocket) -> Option<PortLease> {
        self.0.remove(socket).map(|held| held.lease)
    }
}

impl Table {
    /// The allocation behind a relay socket, with the socket's family.
    #[inline]
    pub(crate) fn owner(&self, socket: RelaySocket) -> Option<(AllocationId, Family)> {
        self.sockets.owner(socket)
    }

    /// The allocation behind a relay socket, with the socket's family, unless the relayed address has come to its
    /// end: data must not outlive it by the time a tick is late (RFC 8656 s. 6).
    #[inline]
    pub(crate) fn live_owner(&self, socket: RelaySocket, now_ns: u64) -> Option<(AllocationId, Family)> {
        let (id, family) = self.owner(socket)?;
        let half: &Half = self.get(id)?.half(family)?;
        half.lives(now_ns).then_some((id, family))
    }

    /// The driver has closed a relay socket: its port may be taken again.
    pub(crate) fn relay_closed(&mut self, socket: RelaySocket) {
        drop(self.sockets.release(socket));
    }
}
