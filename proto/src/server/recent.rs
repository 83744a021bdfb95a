//! Transactions that must not take effect twice, kept for the 40 s in which they may be repeated
//! (RFC 8489 s. 6.3.1, RFC 8656 s. 5).

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::addr::FiveTuple;
use crate::io::Now;
use crate::limits::{MAX_RECENT_TRANSACTIONS, RETRANSMISSION_SECS, SECOND_NS};
use crate::wire::TransactionId;

/// At most [`MAX_RECENT_TRANSACTIONS`] of them; the oldest is forgotten first. They are kept as hashes, 8 bytes
/// each: two of them are the same by chance once in 2^46 where the memory is full, and nobody else knows the
/// key. Memory goes with what is out of date: a crowd that left must not cost for ever.
#[derive(Debug)]
pub(super) struct Recent {
    hasher: FixedState,
    order: VecDeque<Entry>,
    until_ns: HashMap<u64, u64, FixedState>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    ends_ns: u64,
}

impl Recent {
    /// `seed` keys the hash: clients choose their transaction ids.
    pub(super) fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self { until_ns: HashMap::with_hasher(hasher.clone()), hasher, order: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, now: Now, five_tuple: FiveTuple, transaction: TransactionId) {
        // Two of the old for each new one: the memory follows the rate, and no request pays for a crowd.
        for _ in 0..2 {
            if self.order.front().is_some_and(|oldest| oldest.ends_ns <= now.mono_ns) {
                self.forget_oldest();
            }
        }
        if self.order.len() >= MAX_RECENT_TRANSACTIONS {
            self.forget_oldest();
        }
        let ends_ns = now.mono_ns + u64::from(RETRANSMISSION_SECS) * SECOND_NS;
        let hash = self.hasher.hash_one((five_tuple, transaction));
        self.until_ns.insert(hash, ends_ns);
        self.order.push_back(Entry { hash, ends_ns });
    }

    pub(super) fn contains(&self, now: Now, five_tuple: FiveTuple, transaction: TransactionId) -> bool {
        let hash = self.hasher.hash_one((five_tuple, transaction));
        self.until_ns.get(&hash).is_some_and(|ends_ns| *ends_ns > now.mono_ns)
    }

    /// At most `max` entries from the one at `place` on, with their ends: for a snapshot.
    pub(super) fn part(&self, place: usize, max: usize) -> Vec<(u64, u64)> {
        self.order.iter().skip(place).take(max).map(|entry| (entry.hash, entry.ends_ns)).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Adds one of a snapshot, if it is none of the past.
    pub(super) fn adopt(&mut self, now: Now, hash: u64, ends_ns: u64) {
        let last_ns = now.mono_ns + u64::from(RETRANSMISSION_SECS) * SECOND_NS;
        if ends_ns <= now.mono_ns || ends_ns > last_ns || self.order.len() >= MAX_RECENT_TRANSACTIONS {
            return;
        }
        self.until_ns.insert(hash, ends_ns);
        // Of several workers' the order is by their ends again.
        let place = self.order.partition_point(|entry| entry.ends_ns <= ends_ns);
        self.order.insert(place, Entry { hash, ends_ns });
    }

    /// When the newest is out of date; `None` if there is none.
    pub(super) fn ends_ns(&self) -> Option<u64> {
        self.order.back().map(|newest| newest.ends_ns)
    }

    /// Forgets everything, and gives its memory back, if all of it is out of date.
    pub(super) fn expire(&mut self, now: Now) {
        if self.ends_ns().is_some_and(|ends_ns| ends_ns <= now.mono_ns) {
            self.order = VecDeque::new();
            self.until_ns = HashMap::with_hasher(self.hasher.clone());
        }
    }

    fn forget_oldest(&mut self) {
        let Some(Entry { hash, ends_ns }) = self.order.pop_front() else { return };
        // The same transaction may have been noted again since.
        if self.until_ns.get(&hash) == Some(&ends_ns) {
            self.until_ns.remove(&hash);
        }
        if self.order.capacity() > SMALL && self.order.len() < self.order.capacity() / 8 {
            let smaller = self.order.capacity() / 4;
            self.order.shrink_to(smaller);
            self.until_ns.shrink_to(smaller);
        }
    }
}

/// Up to so many are kept room for, whatever there is.
const SMALL: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{ClientAddr, Transport};

    fn five_tuple() -> FiveTuple {
        let client = ClientAddr("203.0.113.5:1000".parse().expect("an address"));
        FiveTuple { client, server: "192.0.2.1:3478".parse().expect("an address"), transport: Transport::Udp }
    }

    fn at(secs: u64) -> Now {
        Now { mono_ns: secs * SECOND_NS, unix_secs: secs }
    }

    fn id(number: u64) -> TransactionId {
        let mut id = [0; 12];
        id[4..].copy_from_slice(&number.to_be_bytes());
        TransactionId(id)
    }

    #[test]
    fn memory_goes_with_the_newest() {
        let mut recent = Recent::new(1);
        recent.insert(at(1), five_tuple(), id(1));
        recent.insert(at(20), five_tuple(), id(2));
        assert_eq!(recent.ends_ns(), Some(at(60).mono_ns));
        recent.expire(at(59));
        assert!(recent.contains(at(59), five_tuple(), id(2)));
        recent.expire(at(60));
        assert_eq!((recent.order.capacity(), recent.until_ns.capacity(), recent.ends_ns()), (0, 0, None));
    }

    #[test]
    fn s26_forgets_after_forty_seconds() {
        let mut recent = Recent::new(1);
        recent.insert(at(1), five_tuple(), id(1));
        recent.insert(at(20), five_tuple(), id(1));
        assert!(recent.contains(at(40), five_tuple(), id(1)));
        recent.insert(at(41), five_tuple(), id(2));
        assert!(recent.contains(at(41), five_tuple(), id(1)), "noted again at 20 s");
        assert!(!recent.contains(at(60), five_tuple(), id(1)));
        recent.insert(at(100), five_tuple(), id(3));
        assert_eq!((recent.order.len(), recent.until_ns.len()), (1, 1));
    }

    // A restart of a media server deletes thousands of allocations at once
    #[test]
    fn s26_r3_remembers_as_many_as_there_are_ports_and_more() {
        let mut recent = Recent::new(1);
        (0..65_536).for_each(|number| recent.insert(at(1), five_tuple(), id(number)));
        assert!((0..65_536).all(|number| recent.contains(at(40), five_tuple(), id(number))));
        assert!(!recent.contains(at(40), five_tuple(), id(65_536)));
    }

    #[test]
    fn memory_follows_the_rate_though_there_is_always_a_newest() {
        let mut recent = Recent::new(1);
        (0..100_000).for_each(|number| recent.insert(at(1), five_tuple(), id(number)));
        let full = (recent.order.capacity(), recent.until_ns.capacity());
        (0..99_999).for_each(|number| recent.insert(at(50 + number / 1000), five_tuple(), id(number)));
        assert!(recent.order.len() <= 41_000, "{} in 40 s at 1000 per second", recent.order.len());
        (0..1000).for_each(|number| {
            (0..40).for_each(|_| recent.insert(at(1000 + 41 * number), five_tuple(), id(number)))
        });
        assert!(recent.order.capacity() < full.0 / 8 && recent.until_ns.capacity() < full.1 / 8);
    }

    #[test]
    fn holds_a_bounded_number_and_forgets_the_oldest_first() {
        let mut recent = Recent::new(1);
        let count = MAX_RECENT_TRANSACTIONS as u64 + 10;
        for number in 0..count {
            recent.insert(at(1), five_tuple(), id(number));
        }
        assert_eq!(recent.order.len(), MAX_RECENT_TRANSACTIONS);
        assert_eq!(recent.until_ns.len(), MAX_RECENT_TRANSACTIONS);
        assert!(!recent.contains(at(1), five_tuple(), id(9)));
        assert!(recent.contains(at(1), five_tuple(), id(10)));
        assert!(recent.contains(at(1), five_tuple(), id(count - 1)));
    }
}
