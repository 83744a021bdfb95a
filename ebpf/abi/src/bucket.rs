//! One token bucket for both planes: GCRA in a single 64-bit word.
//!
//! The word holds the time at which everything admitted so far is paid for, in sixteenths of a
//! nanosecond. A packet moves it by its cost; it is refused if that would put it further ahead of
//! the clock than the burst. An idle word lies in the past and counts as *now*, so a bucket never
//! saves up more than its burst.
//!
//! ```text
//!   ───────┬──────────────┬───────────────┬──────► time
//!         now          paid until      now + burst
//!          └ already spent ┘└─ still free ─┘
//! ```

use core::cell::Cell;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Units of the word in a nanosecond: a 60-byte packet at 10 Gbit/s costs 48 ns, whole ones would be too coarse.
const TICKS_PER_NS: u64 = 16;
/// Fraction bits of the cost of one byte.
const FRACTION_BITS: u32 = 16;
/// Latest time that is told apart, nanoseconds: 18 years of uptime; leaves room for cost and burst above it.
const MAX_NOW_NS: u64 = 1 << 59;
/// Largest charge, bytes: above any IP packet, small enough that no product overflows.
const MAX_BYTES: u64 = (1 << 17) - 1;
/// Lowest rate, bits per second: below it products could overflow, and nobody could talk anyway.
const MIN_BITS_PER_SEC: u64 = 1000;
/// Resolution of the coarse clock at HZ=100, nanoseconds: the slowest there is.
pub(crate) const COARSE_TICK_NS: u64 = 10_000_000;
/// A full packet, bytes: two of them have to fit into any burst.
const MTU_BYTES: u64 = 1500;
/// How far beyond its burst a word may be before the clock must have been set back, nanoseconds.
const MAX_LEAD_NS: u64 = 1_000_000_000;
/// Compare-and-swap attempts before the charge is forced.
const MAX_TRIES: u32 = 4;

/// A shared 64-bit word, in ordinary memory or in a BPF map.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u64;
    /// Writes `new` if it still is `current`; the error is what it was instead.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// Adds, and returns what it was before.
    fn fetch_add(&self, value: u64) -> u64;
}

/// A shared word that userspace writes, too.
#[cfg(not(target_arch = "bpf"))]
pub trait Store: Word {
    /// Writes it; whoever reads the new value sees what this thread wrote before.
    fn store(&self, value: u64);
}

/// The price of a byte and how much may be spent ahead of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rate {
    /// Ticks per byte with 16 fraction bits; 0 means no limit.
    price: u64,
    /// Burst in ticks.
    burst: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Rate = Rate { price: 0, burst: 0 };

    /// A limit in bits per second (0: none; 1 to 999 count as 1000) with a burst in milliseconds at that rate.
    ///
    /// The burst is raised to what the machinery needs: two ticks of the coarse clock, since time
    /// advances in such steps, and two full packets. A packet larger than the burst never passes.
    pub const fn new(bits_per_sec: u64, burst_ms: u32) -> Rate {
        if bits_per_sec == 0 {
            return Rate::UNLIMITED;
        }
        let bits = max(bits_per_sec, MIN_BITS_PER_SEC);
        let per_sec = (8 * 1_000_000_000 * TICKS_PER_NS) << FRACTION_BITS;
        let price = max((per_sec + bits / 2) / bits, 1);
        let rate = Rate { price, burst: 0 };
        let floor = max(2 * COARSE_TICK_NS * TICKS_PER_NS, rate.cost(2 * MTU_BYTES));
        Rate { price, burst: max(burst_ms as u64 * 1_000_000 * TICKS_PER_NS, floor) }
    }

    /// The two words that stand for it in a map value: price and burst.
    pub const fn to_words(self) -> [u64; 2] {
        [self.price, self.burst]
    }

    /// The inverse of [`Rate::to_words`].
    #[inline(always)]
    pub const fn from_words([price, burst]: [u64; 2]) -> Rate {
        Rate { price, burst }
    }

    /// Whether there is no limit.
    pub const fn is_unlimited(&self) -> bool {
        self.price == 0
    }

    /// What may be spent at once, nanoseconds at the rate.
    pub const fn burst_ns(&self) -> u64 {
        self.burst / TICKS_PER_NS
    }

    #[inline(always)]
    const fn cost(&self, bytes: u64) -> u64 {
        let bytes = if bytes > MAX_BYTES { MAX_BYTES } else { bytes };
        (self.price * bytes) >> FRACTION_BITS
    }
}

/// Charges `bytes` to a bucket at `now_ns` of the monotonic clock; `false` if they have to be dropped.
///
/// Callers may disagree about the time by some milliseconds. A refused packet isn't charged, except
/// after four lost races: then the charge comes first, so that no race admits anything for free.
#[inline(always)]
pub fn charge<W: Word>(word: &W, rate: &Rate, now_ns: u64, bytes: u64) -> bool {
    if rate.is_unlimited() {
        return true;
    }
    let now = (if now_ns > MAX_NOW_NS { MAX_NOW_NS } else { now_ns }) * TICKS_PER_NS;
    let limit = now + rate.burst;
    let cost = rate.cost(bytes);
    let mut paid_until = word.load();
    let mut tries = 0;
    while tries < MAX_TRIES {
        if paid_until > limit + rate.burst + MAX_LEAD_NS * TICKS_PER_NS {
            // The clock was set back. Begin again with an empty bucket; if another did so already, fine.
            let _ = word.compare_exchange(paid_until, limit);
            return false;
        }
        let paid = max(paid_until, now) + cost;
        if paid > limit {
            return false;
        }
        match word.compare_exchange(paid_until, paid) {
            Ok(_) => return true,
            Err(current) => paid_until = current,
        }
        tries += 1;
    }
    if max(paid_until, now) + cost > limit {
        return false;
    }
    let before = word.fetch_add(cost);
    max(before, now).saturating_add(cost) <= limit
}

#[inline(always)]
const fn max(a: u64, b: u64) -> u64 {
    if a > b { a } else { b }
}

// BPF has its own instructions for these: the program brings its own word.
#[cfg(not(target_arch = "bpf"))]
impl Word for AtomicU64 {
    // Acquire for the words of a route's entry, whose order counts.
    fn load(&self) -> u64 {
        AtomicU64::load(self, Acquire)
    }

    // Relaxed: the word says all there is to say, no other memory depends on it.

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        AtomicU64::compare_exchange(self, current, new, Relaxed, Relaxed)
    }

    fn fetch_add(&self, value: u64) -> u64 {
        AtomicU64::fetch_add(self, value, Relaxed)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Store for AtomicU64 {
    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Release);
    }
}

/// For a bucket that only one thread charges.
impl Word for Cell<u64> {
    fn load(&self) -> u64 {
        self.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        match self.get() {
            found if found == current => Ok(self.replace(new)),
            found => Err(found),
        }
    }

    fn fetch_add(&self, value: u64) -> u64 {
        self.replace(self.get().wrapping_add(value))
    }
}

/// Every interleaving of several workers: `RUSTFLAGS="--cfg loom" cargo test -p turnpike-abi --lib`.
#[cfg(loom)]
#[cfg(test)]
mod interleavings {
    extern crate std;

    use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::sync::Arc;

    use super::{Rate, Word, charge};

    struct Shared(AtomicU64);

    impl Word for Shared {
        fn load(&self) -> u64 {
            self.0.load(Relaxed)
        }

        fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
            self.0.compare_exchange(current, new, Relaxed, Relaxed)
        }

        fn fetch_add(&self, value: u64) -> u64 {
            self.0.fetch_add(value, Relaxed)
        }
    }

    /// A burst of two packets admits two of three, whoever comes first.
    #[test]
    fn races_admit_neither_more_nor_less_than_the_burst() {
        loom::model(|| {
            let rate = Rate::new(1_000_000, 0);
            assert_eq!(rate.burst_ns(), 24_000_000, "two packets of 1500 bytes at 1 Mbit/s");
            let word = Arc::new(Shared(AtomicU64::new(0)));
            let threads = [0, 1].map(|_| {
                let word = Arc::clone(&word);
                loom::thread::spawn(move || charge(&*word, &rate, 1_000_000_000, 1500))
            });
            let mine = charge(&*word, &rate, 1_000_000_000, 1500);
            let theirs = threads.map(|thread| thread.join().expect("no panic"));
            let admitted = [mine, theirs[0], theirs[1]].iter().filter(|admitted| **admitted).count();
            assert_eq!(admitted, 2);
        });
    }
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
