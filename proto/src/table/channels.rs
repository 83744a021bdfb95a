//! Channel bindings (RFC 8656 s. 12): one number and one peer each, found by either of them.

use foldhash::fast::FixedState;

use super::arena::{Arena, Name};
use super::offload::Bound;
use super::timer::{Expiry, Timed};
use super::{AllocationId, Map, Table, shrink_map};
use crate::addr::PeerAddr;
use crate::io::RelaySocket;
use crate::limits::{CHANNEL_LIFETIME_SECS, SECOND_NS};

/// A channel binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(super) number: u16,
    pub(super) peer: PeerAddr,
    pub(super) internal: bool,
    pub(super) relay: RelaySocket,
    pub(super) expiry: Expiry,
}

impl Channel {
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn peer(&self) -> PeerAddr {
        self.peer
    }

    /// The peer is within the relayed addresses of this very server, where other programs may have ports, too.
    pub(crate) fn is_internal(&self) -> bool {
        self.internal
    }

    /// The socket that reaches the peer.
    pub(crate) fn relay(&self) -> RelaySocket {
        self.relay
    }

    pub(crate) fn ends_ns(&self) -> u64 {
        self.expiry.ends_ns
    }
}

/// Names a channel binding within its worker.
#[derive(Clone, Copy, Debug)]
struct ChannelId {
    index: u32,
    generation: u32,
}

impl Name for ChannelId {
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

/// The channel bindings of one worker. Which ones an allocation has, it lists itself.
pub(super) struct Channels {
    all: Arena<ChannelId, Channel>,
    /// By the place of the allocation and the channel's number.
    by_number: Map<(u32, u16), ChannelId>,
    /// By the place of the allocation and the peer.
    by_peer: Map<(u32, PeerAddr), ChannelId>,
}

impl Channels {
    pub(super) fn new(hasher: &FixedState) -> Self {
        let (by_number, by_peer) = (Map::with_hasher(hasher.clone()), Map::with_hasher(hasher.clone()));
        Self { all: Arena::new(), by_number, by_peer }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    #[inline]
    pub(super) fn find(&self, id: AllocationId, number: u16) -> Option<&Channel> {
        self.all.get(*self.by_number.get(&(id.index, number))?)
    }

    #[inline]
    pub(super) fn find_peer(&self, id: AllocationId, peer: PeerAddr) -> Option<&Channel> {
        self.all.get(*self.by_peer.get(&(id.index, peer))?)
    }

    fn find_mut(&mut self, id: AllocationId, number: u16) -> Option<&mut Channel> {
        self.all.get_mut(*self.by_number.get(&(id.index, number))?)
    }

    pub(super) fn insert(&mut self, id: AllocationId, channel: Channel) {
        let name = self.all.insert(channel);
        self.by_number.insert((id.index, channel.number), name);
        self.by_peer.insert((id.index, channel.peer), name);
    }

    fn remove(&mut self, id: AllocationId, number: u16) -> Option<Channel> {
        let channel = self.all.remove(self.by_number.remove(&(id.index, number))?)?;
        self.by_peer.remove(&(id.index, channel.peer));
        shrink_map(&mut self.by_number);
        shrink_map(&mut self.by_peer);
        Some(channel)
    }
}

impl Table {
    /// Creates or refreshes a channel binding (RFC 8656 s. 12.2: 600 s) to a peer, which may be internal.
    pub(crate) fn bind(
        &mut self,
        id: AllocationId,
        number: u16,
        (peer, internal): (PeerAddr, bool),
        relay: RelaySocket,
        now_ns: u64,
    ) {
        let ends_ns = now_ns + u64::from(CHANNEL_LIFETIME_SECS) * SECOND_NS;
        if let Some(channel) = self.channels.find_mut(id, number) {
            debug_assert_eq!(channel.peer, peer, "a live channel is never bound to another peer");
            channel.expiry.move_to(ends_ns, Timed::Channel(id, number), &mut self.timers);
            return self.renew_lease(id, number);
        }
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        allocation.bound.push(Bound::new(number));
        self.channels.insert(id, Channel { number, peer, internal, relay, expiry: Expiry::at(ends_ns) });
        self.timers.add(ends_ns, Timed::Channel(id, number));
    }

    #[inline]
    pub(crate) fn channel(&self, id: AllocationId, number: u16, now_ns: u64) -> Option<&Channel> {
        self.channels.find(id, number).filter(|channel| channel.expiry.lives(now_ns))
    }

    #[inline]
    pub(crate) fn channel_of(&self, id: AllocationId, peer: PeerAddr, now_ns: u64) -> Option<&Channel> {
        self.channels.find_peer(id, peer).filter(|channel| channel.expiry.lives(now_ns))
    }

    /// Takes back the channels that `keep` doesn't name, in one pass over them.
    pub(crate) fn retain_channels(&mut self, id: AllocationId, keep: impl Fn(&Channel) -> bool) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        allocation.bound.retain(|bound| {
            let number = bound.number();
            let Some(channel) = self.channels.find(id, number) else { return false };
            let stays = keep(channel);
            if !stays && let Some(channel) = self.channels.remove(id, number) {
                self.timers.remove(channel.expiry.timer_ns, Timed::Channel(id, number));
                self.kernel.withdraw(bound);
            }
            stays
        });
    }

    /// A channel's timer fired: it goes if its end has come, else the timer is set again.
    pub(super) fn channel_due(&mut self, id: AllocationId, number: u16, now_ns: u64) {
        let Some(channel) = self.channels.find_mut(id, number) else { return };
        if channel.expiry.is_due(now_ns, Timed::Channel(id, number), &mut self.timers) {
            self.retain_channels(id, |other| other.number != number);
        }
    }
}
