//! What changes while a route lives: leases, buckets, counters. Written by both planes at once.

use crate::bucket::COARSE_TICK_NS;
use crate::{Entry, Rate, Word};

/// How much earlier than a thing ends its lease does, nanoseconds: the program's clock may be two ticks late.
pub const LEASE_MARGIN_NS: u64 = 2 * COARSE_TICK_NS;

/// A slot of the map `ROUTES`: a channel binding's two routes, and whether they may still be used.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Binding<W> {
    /// What the client sends on the channel.
    pub to_peer: Entry<W>,
    /// What the peer sends.
    pub to_client: Entry<W>,
}

/// One direction of an allocation, a cache line: bandwidth limit and counters.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Direction<W> {
    /// The token bucket's word.
    pub bucket: W,
    /// The first word of its [`Rate`].
    pub price: W,
    /// The second word of its [`Rate`].
    pub burst: W,
    /// Datagrams that were forwarded.
    pub packets: W,
    /// Their payload, bytes.
    pub bytes: W,
    /// Datagrams that the limit dropped.
    pub rate_drops: W,
    /// The lease of the allocation, as in [`Entry`]; in both directions, so that one line is read.
    pub lease_ns: W,
    /// Who has the slot.
    pub generation: W,
}

impl<W: Word> Direction<W> {
    /// The limit.
    #[inline(always)]
    pub fn rate(&self) -> Rate {
        Rate::from_words([self.price.load(), self.burst.load()])
    }

    /// Whether the lease holds.
    #[inline(always)]
    pub fn is_leased(&self, now_ns: u64) -> bool {
        self.lease_ns.load() > now_ns
    }

    /// Whether the slot belongs to this generation.
    #[inline(always)]
    pub fn is_of(&self, generation: u32) -> bool {
        self.generation.load() == generation as u64
    }
}

/// An entry of the map `ALLOCATIONS`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Allocation<W> {
    /// From the client to its peers.
    pub to_peer: Direction<W>,
    /// From the peers to the client.
    pub to_client: Direction<W>,
}

/// The entry of the map `SWITCH`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Switch<W> {
    /// Which entry of `CONFIG` holds: 0 or 1. The other one may be written, once a grace period is over since it was
    /// in use: so a configuration takes the place of another without anything passing in between.
    pub config: W,
    /// Until when the program may be used, on the coarse monotonic clock, nanoseconds. Who fills the maps renews it: a
    /// program that nobody looks after passes everything.
    pub lease_ns: W,
    /// How keys of routes are hashed: by how many bits a sum is shifted, and what a key's words are multiplied by.
    /// Written once, before there are routes.
    pub shift: W,
    /// Odd and random.
    pub multipliers: [W; 5],
}

const _: () = {
    assert!(size_of::<Switch<u64>>() == 64);
    assert!(size_of::<Binding<u64>>() == 256);
    assert!(size_of::<Direction<u64>>() == 64);
    assert!(size_of::<Allocation<u64>>() == 128);
};
