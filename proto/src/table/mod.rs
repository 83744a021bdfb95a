//! The truth of one worker: its allocations, permissions, channels and relay sockets.
//!
//! State changes here and nowhere else: fields are private to this module, and each method that changes one keeps
//! indexes and timers in step. It decides nothing: whether something is allowed was asked before.
//!
//! ```text
//!   five_tuples ─► allocation ─► halves (IPv4, IPv6) ─► relay sockets ─► back to the allocation
//!                      │
//!                      ├─ permissions (allocation, IP)
//!                      ├─ channels    (allocation, number) and (allocation, peer)
//!                      └─ connections (name) and (allocation, peer)
//! ```
//!
//! Invariant: a port's lease lives with its relay socket (`relays`) until the driver has closed that; and it is
//! closed only when the kernel plane has forgotten every channel binding of it (`offload`).

mod allocation;
mod arena;
mod channels;
mod connections;
mod migrate;
mod offload;
mod permissions;
mod relays;
mod timer;

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::FixedState;

pub(crate) use self::allocation::{Admission, AllocateState, Allocation, AllocationId, Half, NewAllocation};
use self::arena::{Arena, SMALL};
pub(crate) use self::channels::Channel;
use self::channels::Channels;
pub(crate) use self::connections::ConnectionState;
use self::connections::Connections;
pub(crate) use self::migrate::Place;
use self::offload::Kernel;
pub(crate) use self::offload::{Bound, Released};
use self::permissions::Permissions;
use self::relays::RelaySockets;
pub(crate) use self::timer::Due;
use self::timer::Timers;
use crate::addr::FiveTuple;

/// How many of each there are: all zero when every client is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Allocations, those still being opened included.
    pub allocations: usize,
    /// Permissions.
    pub permissions: usize,
    /// Channel bindings.
    pub channels: usize,
    /// Connections with peers (RFC 6062), those being made included.
    pub connections: usize,
    /// Relay sockets open, being opened or being closed.
    pub relay_sockets: usize,
    /// Slots of channel bindings in the kernel plane, those being withdrawn included.
    pub offloaded: usize,
    /// Allocations that have ended and wait for the kernel plane to forget their channels.
    pub ending: usize,
    /// Deadlines waiting.
    pub timers: usize,
}

type Map<K, V> = HashMap<K, V, FixedState>;

/// All state of one worker.
pub(crate) struct Table {
    next_number: u64,
    allocations: Arena<AllocationId, Box<Allocation>>,
    five_tuples: Map<FiveTuple, AllocationId>,
    numbers: Map<u64, AllocationId>,
    sockets: RelaySockets,
    permissions: Permissions,
    channels: Channels,
    connections: Connections,
    kernel: Kernel,
    timers: Timers,
}

impl Table {
    /// `first_number` is the number of the first allocation; `seed` keys the hashes, so that nobody
    /// outside can make addresses collide.
    pub(crate) fn new(first_number: u64, seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self {
            next_number: first_number,
            allocations: Arena::new(),
            five_tuples: Map::with_hasher(hasher.clone()),
            numbers: Map::with_hasher(hasher.clone()),
            sockets: RelaySockets::new(),
            permissions: Map::with_hasher(hasher.clone()),
            channels: Channels::new(&hasher),
            connections: Connections::new(&hasher),
            kernel: Kernel::new(&hasher),
            timers: Timers::default(),
        }
    }

    pub(crate) fn counts(&self) -> TableCounts {
        TableCounts {
            allocations: self.len(),
            permissions: self.permissions.len(),
            channels: self.channels.len(),
            connections: self.connections.len(),
            relay_sockets: self.sockets.len(),
            offloaded: self.kernel.bindings(),
            ending: self.kernel.endings(),
            timers: self.timers.len(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.allocations.len()
    }

    /// Connections that carry data.
    pub(crate) fn bound_connections(&self) -> usize {
        self.connections.bound()
    }

    /// The number that the next allocation gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    #[inline]
    pub(crate) fn find(&self, five_tuple: &FiveTuple) -> Option<AllocationId> {
        self.five_tuples.get(five_tuple).copied()
    }

    pub(crate) fn find_number(&self, number: u64) -> Option<AllocationId> {
        self.numbers.get(&number).copied()
    }

    #[inline]
    pub(crate) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.allocations.get(id).map(|allocation| &**allocation)
    }

    /// For counting data: whatever else can be changed of an allocation has its own method here.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.allocations.get_mut(id).map(|allocation| &mut **allocation)
    }

    /// Allocations at places from `start` on, at most `places` of them, and where to go on. None moves
    /// while it lives, so a walk meets each at most once.
    pub(crate) fn walk(
        &self,
        start: u32,
        places: usize,
    ) -> (impl Iterator<Item = (AllocationId, &Allocation)>, Option<u32>) {
        let (found, next) = self.allocations.walk(start, places);
        (found.map(|(id, allocation)| (id, &**allocation)), next)
    }

    /// Takes back an allocation's permissions and channels whose time has come, before their timers fire.
    pub(crate) fn drop_ended(&mut self, id: AllocationId, now_ns: u64) {
        self.retain_permissions(id, |_, ends_ns| ends_ns > now_ns);
        self.retain_channels(id, |channel| channel.ends_ns() > now_ns);
    }
}

/// Each shrinking pays for itself: the map has to lose seven of eight entries before the next one. A crowd that
/// left must not cost for ever.
fn shrink_map<K: Eq + Hash, V>(map: &mut Map<K, V>) {
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(map.capacity() / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_gives_memory_back_when_most_of_it_is_gone() {
        let mut map: Map<u32, u32> = Map::with_hasher(FixedState::with_seed(1));
        (0..100_000).for_each(|key| {
            map.insert(key, key);
        });
        let full = map.capacity();
        for key in 0..99_990 {
            map.remove(&key);
            shrink_map(&mut map);
        }
        assert!(map.capacity() <= 8 * SMALL, "{} of {full}", map.capacity());
        assert_eq!(map.len(), 10);
        assert!((99_990..100_000).all(|key| map.get(&key) == Some(&key)));
    }
}
