//! How often somebody who has not authenticated is answered, and how often a failed login is.
//!
//! Decides only whether an answer is sent. A request that authenticates is never asked about here, so
//! nobody behind an address, or with a user's name, can keep the right password out (conformance Q7).
//!
//! ```text
//!   source, /32 or /64 ──┬─► secret hash ─► one bucket of a fixed array ─► answer
//!   claimed user name  ──┘                           └ empty: one in eight, by chance
//! ```
//!
//! Memory is the same whatever is spoofed. Sources with the same hash share a bucket; which ones do
//! nobody outside can know, so nobody can aim at another's. Charged by control messages only, by any
//! worker, without a lock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use turnpike_abi::{Rate, charge};
use zeroize::Zeroizing;

use crate::io::Now;
use crate::limits::{
    BINDINGS_BURST_MS, BINDINGS_PER_SEC, FAILED_LOGIN_BUCKETS, FAILED_LOGINS_BURST_MS, FAILED_LOGINS_PER_SEC,
    ONE_IN, SOURCE_BUCKETS, UNAUTHENTICATED_BURST_MS,
};

/// What one answer costs: the bucket counts bytes, and its burst is never below two packets of this size.
const ANSWER_BYTES: u64 = 1500;

/// The limits on answers to strangers. Shared by all workers.
pub(crate) struct Limiter {
    /// Answers per second and source; 0 is no limit.
    unauthenticated_per_sec: AtomicU32,
    unauthenticated: Buckets,
    bindings: Buckets,
    failed_by_source: Buckets,
    failed_by_user: Buckets,
}

impl Limiter {
    /// `key` must be secret: whoever knows it can find sources that share a bucket.
    pub(crate) fn new(key: Zeroizing<[u8; 32]>, unauthenticated_per_sec: u32) -> Self {
        Self {
            unauthenticated_per_sec: unauthenticated_per_sec.into(),
            unauthenticated: Buckets::new(&key, 1, SOURCE_BUCKETS),
            bindings: Buckets::new(&key, 2, SOURCE_BUCKETS),
            failed_by_source: Buckets::new(&key, 3, FAILED_LOGIN_BUCKETS),
            failed_by_user: Buckets::new(&key, 4, FAILED_LOGIN_BUCKETS),
        }
    }

    /// Changes the rate of unauthenticated answers; 0 lifts it, and the one of Binding with it.
    pub(crate) fn set_unauthenticated_rate(&self, per_sec: u32) {
        self.unauthenticated_per_sec.store(per_sec, Ordering::Relaxed);
    }

    /// Whether a request without credentials is answered. `random` draws the one in eight.
    pub(crate) fn admits_unauthenticated(&self, now: Now, source: IpAddr, random: u32) -> bool {
        let per_sec = self.unauthenticated_per_sec.load(Ordering::Relaxed);
        let rate = answers(per_sec, UNAUTHENTICATED_BURST_MS);
        self.unauthenticated.take(now, network(source), &rate) || is_drawn(random, ONE_IN)
    }

    /// Whether a Binding request is answered.
    pub(crate) fn admits_binding(&self, now: Now, source: IpAddr, random: u32) -> bool {
        if self.unauthenticated_per_sec.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let rate = const { answers(BINDINGS_PER_SEC, BINDINGS_BURST_MS) };
        self.bindings.take(now, network(source), &rate) || is_drawn(random, ONE_IN)
    }

    /// Whether a failed login is answered: one in eight once its source or the name it claims has failed
    /// too often, one in 64 when both have.
    ///
    /// A name that exists and one that doesn't are counted alike (Q6).
    pub(crate) fn admits_failed_login(&self, now: Now, source: IpAddr, name: &[u8], random: u32) -> bool {
        let rate = const { answers(FAILED_LOGINS_PER_SEC, FAILED_LOGINS_BURST_MS) };
        // Both are charged, whatever the first one says.
        let by_source = self.failed_by_source.take(now, network(source), &rate);
        let by_name = self.failed_by_user.take(now, name, &rate);
        match (by_source, by_name) {
            (true, true) => true,
            (false, false) => is_drawn(random, ONE_IN * ONE_IN),
            _ => is_drawn(random, ONE_IN),
        }
    }
}

/// Buckets in a fixed array, found by a keyed hash.
struct Buckets {
    /// The hash after it has taken in the key: SipHash, whose input can't be guessed from its collisions.
    keyed: DefaultHasher,
    words: Box<[AtomicU64]>,
}

impl Buckets {
    /// `purpose` keeps the arrays apart: two sources that share a bucket in one don't in another.
    fn new(key: &[u8; 32], purpose: u8, len: usize) -> Self {
        let mut keyed = DefaultHasher::new();
        keyed.write(key);
        keyed.write_u8(purpose);
        Self { keyed, words: (0..len).map(|_| AtomicU64::new(0)).collect() }
    }

    fn take(&self, now: Now, whose: impl Hash, rate: &Rate) -> bool {
        let mut hasher = self.keyed.clone();
        whose.hash(&mut hasher);
        let index = hasher.finish() % self.words.len() as u64;
        charge(&self.words[index as usize], rate, now.mono_ns, ANSWER_BYTES)
    }
}

/// A rate of answers as a rate of bytes.
const fn answers(per_sec: u32, burst_ms: u32) -> Rate {
    Rate::new(per_sec as u64 * ANSWER_BYTES * 8, burst_ms)
}

/// What is one source: an IPv4 address, or an IPv6 /64, since one host can use all of its addresses.
fn network(source: IpAddr) -> (bool, u64) {
    match source.to_canonical() {
        IpAddr::V4(ip) => (true, u64::from(ip.to_bits())),
        IpAddr::V6(ip) => (false, (ip.to_bits() >> 64) as u64),
    }
}

fn is_drawn(random: u32, one_in: u32) -> bool {
    random.is_multiple_of(one_in)
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
