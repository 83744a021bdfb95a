//! The table of routes: how the program finds one, in memory that userspace changes meanwhile.
//!
//! ```text
//!   key ─► hash ─► Bucket: 8 words {fingerprint, Lead} ─┬─► Entry: key, route, lease, generation
//!                    └─ the bucket beside it,           └─► the allocation's slot
//!                       if that was full
//! ```
//!
//! The entries of a binding lie in its slot, one for each direction, so a lease is written without asking where a
//! route is, and read in the same lines of memory. A word of a bucket leads to an entry: it is written last when a
//! route comes, and taken out first when one goes. What is found there counts only if the whole key is right. It leads
//! to the allocation as well, so that both are fetched from memory at once.
//!
//! Invariant: a route is read as a whole or not at all. An entry says for which generation of its slot its route was
//! made; that is read before the route, the slot's own generation after it. The core changes that one before anybody
//! writes another route, and no program runs on in an entry that was let go: see `write.rs`.

use crate::{Address, Route, RouteFlags, RouteKey, Switch, Word};

/// Words in a bucket: a line of the processor's cache.
pub const BUCKET_WORDS: usize = 8;
/// Bits of a word that are its fingerprint: the upper ones.
const FINGERPRINT_BITS: u32 = 28;
/// Bits of a [`Lead`] that are a number of an entry: the lower ones.
const NUMBER_BITS: u32 = 19;
/// Bits of a [`Lead`] that are an allocation's slot.
#[cfg(not(target_arch = "bpf"))]
const ALLOCATION_BITS: u32 = u64::BITS - FINGERPRINT_BITS - NUMBER_BITS;
/// Odd, with bits all over: carries what is left of a sum into its upper bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// An entry of the map `INDEX`. A word is a fingerprint and, below it, a [`Lead`]; 0 is free.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Bucket<W> {
    pub(crate) words: [W; BUCKET_WORDS],
}

/// An entry of the map `ROUTES`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Entry<W> {
    pub(crate) key: [W; 5],
    /// The binding's lease ends at this time of the coarse monotonic clock, nanoseconds; 0 withdraws. It is written
    /// [`crate::LEASE_MARGIN_NS`] early; in both directions, so that one entry is read.
    pub lease_ns: W,
    /// Who has the binding's slot.
    pub generation: W,
    /// In the lower half the generation that the route was made for, 0 for no route; in the upper one the slot.
    pub(crate) made_for: W,
    pub(crate) route: [W; 7],
    pub(crate) reserved: W,
}

/// Where a word of a bucket leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead(u64);

impl Lead {
    /// To nothing.
    pub const NONE: Lead = Lead(0);

    /// To an entry, by its place in `ROUTES`, and to what it says of its allocation; `None` if there can't be such a
    /// place.
    #[cfg(not(target_arch = "bpf"))]
    pub(crate) const fn new(entry: u32, allocation: u32) -> Option<Lead> {
        if entry >= (1 << NUMBER_BITS) - 1 {
            return None;
        }
        let allocation = allocation as u64 & ((1 << ALLOCATION_BITS) - 1);
        Some(Lead((entry as u64 + 1) | allocation << NUMBER_BITS))
    }

    /// From what is left of a word without its fingerprint; `None` if it had another one.
    #[inline(always)]
    pub(crate) const fn of(rest: u64) -> Option<Lead> {
        if rest < 1 << (u64::BITS - FINGERPRINT_BITS) { Some(Lead(rest)) } else { None }
    }

    /// From a whole word.
    #[cfg(not(target_arch = "bpf"))]
    pub(crate) const fn of_word(word: u64) -> Lead {
        Lead(word << FINGERPRINT_BITS >> FINGERPRINT_BITS)
    }

    #[cfg(not(target_arch = "bpf"))]
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// The entry's place in `ROUTES`: far behind the last one for [`Lead::NONE`].
    #[inline(always)]
    pub const fn entry(self) -> u32 {
        (self.0 as u32 & ((1 << NUMBER_BITS) - 1)).wrapping_sub(1)
    }

    /// The allocation's slot, if the route says the same.
    #[inline(always)]
    pub const fn allocation(self) -> u32 {
        (self.0 >> NUMBER_BITS) as u32
    }
}

/// Where a key is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket it should be in; the other one is beside it: [`Place::other`].
    pub bucket: u32,
    /// What its word has in the upper bits; never 0 there.
    pub fingerprint: u64,
}

impl Place {
    /// The same in the other bucket.
    #[inline(always)]
    pub const fn other(self) -> Place {
        Place { bucket: self.bucket ^ 1, ..self }
    }
}

impl<W: Word> Switch<W> {
    /// Where a key is looked for. Nobody who doesn't know the multipliers can choose keys that meet.
    #[inline(always)]
    pub fn place(&self, key: &RouteKey) -> Place {
        let mut sum = 0_u64;
        let mut i = 0;
        let words = key.words();
        while i < words.len() {
            sum = sum.wrapping_add(words[i].wrapping_mul(self.multipliers[i].load()));
            i += 1;
        }
        let hash = (sum ^ sum >> 32).wrapping_mul(SPREAD);
        let bucket = hash.wrapping_shr(self.shift.load() as u32) as u32;
        let fingerprint = (hash << 1 | 1) << (u64::BITS - FINGERPRINT_BITS);
        Place { bucket, fingerprint }
    }
}

impl<W: Word> Bucket<W> {
    /// Where a fingerprint leads.
    #[inline(always)]
    pub fn find(&self, fingerprint: u64) -> Lead {
        let mut i = 0;
        while i < BUCKET_WORDS {
            if let Some(lead) = Lead::of(self.words[i].load() ^ fingerprint) {
                return lead;
            }
            i += 1;
        }
        Lead::NONE
    }
}

impl<W: Word> Entry<W> {
    /// The route, if it is for this key.
    ///
    /// It may be used only if the entry's generation is the route's, asked for afterwards: [`Entry::is_of`].
    #[inline(always)]
    pub fn read(&self, key: &RouteKey) -> Option<Route> {
        let made_for = self.made_for.load();
        let words = key.words();
        let mut i = 0;
        while i < words.len() {
            if self.key[i].load() != words[i] {
                return None;
            }
            i += 1;
        }
        Some(self.read_route(made_for))
    }

    #[inline(always)]
    pub(crate) fn read_route(&self, made_for: u64) -> Route {
        let [ports, slots, rest] = [&self.route[4], &self.route[5], &self.route[6]].map(W::load);
        Route {
            source: Address::from_v6_words(self.route[0].load(), self.route[1].load()),
            destination: Address::from_v6_words(self.route[2].load(), self.route[3].load()),
            ports: ports as u32,
            channel: (ports >> 32) as u16,
            flags: RouteFlags((ports >> 48) as u16),
            allocation: slots as u32,
            allocation_generation: (slots >> 32) as u32,
            binding: (made_for >> 32) as u32,
            binding_generation: made_for as u32,
            next_hop: rest as u16,
            checksum: (rest >> 16) as u16,
            ingress: (rest >> 32) as u16,
        }
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

const _: () = {
    assert!(size_of::<Bucket<u64>>() == 64);
    assert!(size_of::<Entry<u64>>() == 128);
};
