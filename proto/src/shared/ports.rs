//! Relay ports of one address: a bitmap that all workers share.
//!
//! Touched when an allocation begins or ends, never by data. A port is held by a
//! [`PortLease`]; dropping the lease is the only way to give it back, so no path
//! through the server can leak one.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use crate::addr::RelayedTransport;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Which ports may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Any port.
    Any,
    /// An even port; its odd sibling stays free (RFC 8656 s. 7.2, EVEN-PORT with R = 0).
    Even,
}

/// The ports of one relay address. A set bit is a port that is taken, or not ours to give.
#[derive(Debug)]
pub struct PortPool {
    first_port: u16,
    words: Box<[AtomicU64]>,
    /// Ports that a relay socket is bound to, by what it relays.
    open: [Box<[AtomicU64]>; 2],
    capacity: usize,
    /// Ports that other programs were found to have, with the time at which they may be tried again, monotonic
    /// nanoseconds; oldest first. Their bits are set.
    foreign: Mutex<VecDeque<(u64, u16)>>,
    /// How many there are: taken without the lock.
    foreign_count: AtomicUsize,
}

/// Even ports within a word: words start at multiples of 64, so bit parity is port parity.
const EVEN_BITS: u64 = 0x5555_5555_5555_5555;

impl PortPool {
    /// A pool with every port of `range` free.
    pub fn new(range: RangeInclusive<u16>) -> Arc<Self> {
        let (first_word, last_word) = (*range.start() as usize / 64, *range.end() as usize / 64);
        let words = (first_word..=last_word)
            .map(|word| {
                let taken = (0..64).filter(|bit| !range.contains(&((word * 64 + bit) as u16)));
                AtomicU64::new(taken.fold(0, |bits, bit| bits | 1 << bit))
            })
            .collect();
        let open = [0; 2].map(|_| (first_word..=last_word).map(|_| AtomicU64::new(0)).collect());
        Arc::new(Self {
            first_port: *range.start(),
            words,
            open,
            capacity: range.count(),
            foreign: Mutex::default(),
            foreign_count: AtomicUsize::new(0),
        })
    }

    /// Takes a free port, searching from a random place (RFC 6056 s. 3.3).
    pub fn take(self: &Arc<Self>, parity: Parity, random: u32) -> Option<PortLease> {
        let mask = match parity {
            Parity::Any => u64::MAX,
            Parity::Even => EVEN_BITS,
        };
        self.search(random, |free| free & mask, 1).map(|port| self.lease(port))
    }

    /// Takes an even port and the odd one above it (RFC 8656 s. 7.2, EVEN-PORT with R = 1).
    pub fn take_pair(self: &Arc<Self>, random: u32) -> Option<(PortLease, PortLease)> {
        let port = self.search(random, |free| free & (free >> 1) & EVEN_BITS, 0b11)?;
        Some((self.lease(port), self.lease(port + 1)))
    }

    /// Takes this very port, if it is one of these and free: it was held before, by another process.
    pub(crate) fn claim_port(self: &Arc<Self>, port: u16) -> Option<PortLease> {
        let index = (port as usize / 64).checked_sub(self.first_word())?;
        let bit = 1 << (port % 64);
        let before = self.words.get(index)?.fetch_or(bit, Ordering::AcqRel);
        (before & bit == 0).then(|| self.lease(port))
    }

    /// Ports that other programs have, with the times at which they may be tried again.
    pub(crate) fn foreign_ports(&self) -> Vec<(u64, u16)> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// How many ports are taken by us.
    pub fn taken(&self) -> usize {
        let free: u32 = self.words.iter().map(|w| w.load(Ordering::Relaxed).count_zeros()).sum();
        (self.capacity - free as usize).saturating_sub(self.foreign())
    }

    /// How many ports other programs are known to have.
    pub fn foreign(&self) -> usize {
        self.foreign_count.load(Ordering::Relaxed)
    }

    /// How many ports there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Lets ports be tried again that other programs were found to have long enough ago.
    pub fn retry_foreign(&self, now_ns: u64) {
        if self.foreign() == 0 {
            return;
        }
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        let due = foreign.iter().take_while(|(until_ns, _)| *until_ns <= now_ns).count();
        let due: Vec<u16> = foreign.drain(..due).map(|(_, port)| port).collect();
        drop(foreign);
        self.foreign_count.fetch_sub(due.len(), Ordering::Relaxed);
        due.into_iter().for_each(|port| self.release(port));
    }

    /// Whether a relay socket of that transport is bound to the port: more than that it is taken. Asked on the data
    /// path.
    pub fn is_open(&self, transport: RelayedTransport, port: u16) -> bool {
        let index = (port as usize / 64).checked_sub(self.first_word());
        let word = index.and_then(|index| self.open[transport as usize].get(index));
        word.is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (port % 64) != 0)
    }

    fn lease(self: &Arc<Self>, port: u16) -> PortLease {
        PortLease { pool: Arc::clone(self), port, is_foreign: false }
    }

    /// Looks at each word once, from a random one, and claims `pattern` at a candidate's place.
    fn search(&self, random: u32, candidates: impl Fn(u64) -> u64, pattern: u64) -> Option<u16> {
        let start = self.first_port as usize % 64 + random as usize % self.capacity.max(1);
        let (first, bit) = (start / 64, start % 64);
        let above = u64::MAX << bit;
        // The first word comes twice: above the random bit at the beginning, below it at the end.
        (0..=self.words.len()).find_map(|step| {
            let mask = match step {
                0 => above,
                step if step == self.words.len() => !above,
                _ => u64::MAX,
            };
            self.claim((first + step) % self.words.len(), |free| candidates(free) & mask, pattern)
        })
    }

    /// Claims `pattern` within one word; a lost race only means another look at the same word.
    fn claim(&self, index: usize, candidates: impl Fn(u64) -> u64, pattern: u64) -> Option<u16> {
        let word = &self.words[index];
        let mut current = word.load(Ordering::Relaxed);
        loop {
            let found = candidates(!current);
            if found == 0 {
                return None;
            }
            let bit = found.trailing_zeros();
            let wanted = current | pattern << bit;
            match word.compare_exchange_weak(current, wanted, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(((self.first_word() + index) * 64) as u16 + bit as u16),
                Err(actual) => current = actual,
            }
        }
    }

    fn first_word(&self) -> usize {
        self.first_port as usize / 64
    }

    fn set_open(&self, port: u16, open: Option<RelayedTransport>) {
        let (index, bit) = (port as usize / 64 - self.first_word(), 1 << (port % 64));
        for transport in [RelayedTransport::Udp, RelayedTransport::Tcp] {
            let word = &self.open[transport as usize][index];
            match open == Some(transport) {
                true => word.fetch_or(bit, Ordering::Relaxed),
                false => word.fetch_and(!bit, Ordering::Relaxed),
            };
        }
    }

    fn release(&self, port: u16) {
        self.set_open(port, None);
        let index = port as usize / 64 - self.first_word();
        self.words[index].fetch_and(!(1 << (port % 64)), Ordering::AcqRel);
    }
}

/// A port held; dropping it gives the port back.
#[derive(Debug)]
pub struct PortLease {
    pool: Arc<PortPool>,
    port: u16,
    /// Another program has it: the pool keeps it.
    is_foreign: bool,
}

impl PortLease {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Another program has the port: it is not given out before `until_ns`.
    pub fn leave_to_others(mut self, until_ns: u64) {
        self.is_foreign = true;
        let mut foreign = self.pool.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        foreign.push_back((until_ns, self.port));
        self.pool.foreign_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a relay socket is bound to the port, or that none is any more: only then, and for that transport, it
    /// is a peer's address.
    pub fn set_open(&self, open: Option<RelayedTransport>) {
        self.pool.set_open(self.port, open);
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        if !self.is_foreign {
            self.pool.release(self.port);
        }
    }
}

/// Every interleaving of two workers: `RUSTFLAGS="--cfg loom" cargo test -p turnpike-proto --lib ports`.
#[cfg(loom)]
#[cfg(test)]
mod interleavings {
    use super::*;

    #[test]
    fn two_workers_never_get_the_same_port() {
        loom::model(|| {
            let pool = PortPool::new(50_000..=50_001);
            let other = Arc::clone(&pool);
            let thread = loom::thread::spawn(move || other.take(Parity::Any, 0));
            let mine = pool.take(Parity::Any, 0);
            let theirs = thread.join().expect("no panic");
            let (mine, theirs) = (mine.expect("two are free"), theirs.expect("two are free"));
            assert_ne!(mine.port(), theirs.port());
            drop((mine, theirs));
            assert_eq!(pool.taken(), 0);
        });
    }

    #[test]
    fn a_pair_is_taken_whole_or_not_at_all() {
        loom::model(|| {
            let pool = PortPool::new(50_000..=50_001);
            let other = Arc::clone(&pool);
            let thread = loom::thread::spawn(move || other.take(Parity::Any, 1));
            let pair = pool.take_pair(0);
            let single = thread.join().expect("no panic");
            assert!(pair.is_some() != single.is_some(), "one of them was first");
            drop((pair, single));
            assert_eq!(pool.taken(), 0);
        });
    }

    #[test]
    fn a_port_given_back_can_be_taken_again() {
        loom::model(|| {
            let pool = PortPool::new(50_000..=50_000);
            let lease = pool.take(Parity::Any, 0).expect("free");
            let other = Arc::clone(&pool);
            let thread = loom::thread::spawn(move || other.take(Parity::Any, 0).map(|lease| lease.port()));
            drop(lease);
            let taken = thread.join().expect("no panic");
            assert!(matches!(taken, None | Some(50_000)));
            assert_eq!(pool.taken(), 0);
        });
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn gives_each_port_of_the_range_once() {
        let pool = PortPool::new(50_001..=50_200);
        let leases: Vec<_> =
            (0..200).map(|i| pool.take(Parity::Any, i * 7919).expect("a free port")).collect();
        let ports: HashSet<u16> = leases.iter().map(PortLease::port).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| (50_001..=50_200).contains(port)));
        assert!(pool.take(Parity::Any, 5).is_none());
        drop(leases);
        assert_eq!(pool.taken(), 0);
    }

    // RFC 8656 s. 7.2: EVEN-PORT
    #[test]
    fn a7_even_ports_leave_the_sibling_free_and_pairs_take_it() {
        let pool = PortPool::new(60_000..=60_003);
        let even = pool.take(Parity::Even, 1).expect("free");
        assert_eq!(even.port() % 2, 0);
        assert_eq!(pool.taken(), 1);
        let (low, high) = pool.take_pair(9).expect("the other pair is free");
        assert_eq!((low.port() % 2, high.port()), (0, low.port() + 1));
        assert!(pool.take_pair(2).is_none());
        assert!(pool.take(Parity::Even, 3).is_none());
        assert_eq!(pool.take(Parity::Any, 3).expect("the sibling").port(), even.port() + 1);
    }

    #[test]
    fn ports_of_other_programs_are_left_alone_for_a_while_and_are_not_ours() {
        let pool = PortPool::new(50_000..=50_003);
        let leases: Vec<_> = (0..4).map(|_| pool.take(Parity::Any, 0).expect("free")).collect();
        let mut leases = leases.into_iter();
        leases.next().expect("four").leave_to_others(60);
        leases.next().expect("four").leave_to_others(61);
        assert_eq!((pool.taken(), pool.foreign()), (2, 2));
        drop(leases);
        assert_eq!((pool.taken(), pool.foreign()), (0, 2));
        let rest: Vec<_> = std::iter::from_fn(|| pool.take(Parity::Any, 7)).collect();
        assert_eq!(rest.len(), 2);
        pool.retry_foreign(59);
        assert!(pool.take(Parity::Any, 7).is_none());
        pool.retry_foreign(60);
        let again = pool.take(Parity::Any, 7).expect("one may be tried again");
        assert!(pool.take(Parity::Any, 7).is_none());
        pool.retry_foreign(61);
        assert!(pool.take(Parity::Any, 7).is_some());
        drop((rest, again));
        assert_eq!((pool.taken(), pool.foreign()), (0, 0));
    }

    // RFC 6056 s. 3.3 and conformance A12: the next port can't be told from the last one.
    #[test]
    fn a12_ports_are_spread_over_the_range() {
        let pool = PortPool::new(49_152..=65_535);
        let halves = (0..1000u32)
            .map(|i| pool.take(Parity::Any, i.wrapping_mul(2_654_435_761)).expect("free"))
            .filter(|lease| lease.port() >= 57_344)
            .count();
        assert!((400..600).contains(&halves), "{halves} of 1000 in the upper half");
    }

    #[test]
    fn threads_never_get_the_same_port() {
        let pool = PortPool::new(40_000..=40_999);
        let leases: Vec<PortLease> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u32)
                .map(|thread| {
                    let pool = &pool;
                    scope.spawn(move || {
                        (0..250u32)
                            .map(|i| pool.take(Parity::Any, i * 31 + thread).expect("enough"))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(leases.iter().map(PortLease::port).collect::<HashSet<_>>().len(), 1000);
        assert_eq!(pool.taken(), 1000);
    }
}
