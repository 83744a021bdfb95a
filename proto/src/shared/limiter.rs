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
//!
//! A flood from random sources has none to limit. So each worker has a [`StrangerBudget`] on top; who proves by a
//! nonce to receive what is sent to its address, or has an allocation, is no stranger.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use turnpike_abi::{Rate, charge};
use zeroize::Zeroizing;

use crate::io::Now;
use crate::limits::{
    BINDINGS_BURST_MS, BINDINGS_PER_SEC, FAILED_LOGIN_BUCKETS, FAILED_LOGINS_BURST_MS, FAILED_LOGINS_PER_SEC,
    MAX_RETURNED_CHALLENGES, ONE_IN, SOURCE_BUCKETS, STRANGERS_BURST_MS, STRANGERS_BURST_MS_BEHIND,
    STRANGERS_PER_SEC, STRANGERS_PER_SEC_BEHIND, UNAUTHENTICATED_BURST_MS,
};
use crate::migrate::images::StrangersImage;

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
        self.unauthenticated_per_sec.store(per_sec, Relaxed);
    }

    /// Whether the operator wants no limits on strangers.
    pub(crate) fn is_lifted(&self) -> bool {
        self.unauthenticated_per_sec.load(Relaxed) == 0
    }

    /// Whether a request without credentials is answered. `random` draws the one in eight.
    pub(crate) fn admits_unauthenticated(&self, now: Now, source: IpAddr, random: u32) -> bool {
        let per_sec = self.unauthenticated_per_sec.load(Relaxed);
        let rate = answers(per_sec, UNAUTHENTICATED_BURST_MS);
        self.unauthenticated.take(now, network(source), &rate) || is_drawn(random, ONE_IN)
    }

    /// Whether a Binding request is answered.
    pub(crate) fn admits_binding(&self, now: Now, source: IpAddr, random: u32) -> bool {
        if self.is_lifted() {
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

impl Limiter {
    fn arrays(&self) -> [&Buckets; 4] {
        [&self.unauthenticated, &self.bindings, &self.failed_by_source, &self.failed_by_user]
    }

    /// What was spent and has not come back yet, by array and place: for a snapshot.
    pub(crate) fn image(&self, now: Now) -> Vec<Vec<(u32, u64)>> {
        self.arrays().map(|buckets| buckets.image(now)).to_vec()
    }

    /// Takes what a snapshot says; the key has to be the same.
    pub(crate) fn adopt(&self, image: &[Vec<(u32, u64)>]) {
        for (buckets, image) in self.arrays().into_iter().zip(image) {
            for (place, word) in image {
                if let Some(bucket) = buckets.words.get(*place as usize) {
                    bucket.store(*word, Relaxed);
                }
            }
        }
    }
}

/// What a stranger's answer costs the worker: each has a budget of its own, so that a flood of one leaves the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrangerWork {
    /// The answer to a Binding request.
    Binding,
    /// A challenge, or another answer to a request that did not authenticate.
    Rejection,
    /// Checking the integrity of a request whose nonce nobody has looked at.
    Login,
}

/// How much one worker does for strangers, whatever their sources are.
#[derive(Default)]
pub(crate) struct StrangerBudget {
    /// One bucket for each kind of work.
    words: [AtomicU64; 3],
    /// The same for the time in which the worker can't keep up.
    words_behind: [AtomicU64; 3],
    /// The worker can't keep up: strangers get less.
    is_behind: bool,
    /// Challenges that led to an allocation and may be given to others beyond the budget.
    returned: AtomicU32,
}

impl StrangerBudget {
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    pub(crate) fn set_behind(&mut self, is_behind: bool) {
        self.is_behind = is_behind;
    }

    /// For a snapshot. Whether the worker keeps up is not in it: who drives the next one finds out itself.
    pub(crate) fn image(&self) -> StrangersImage {
        let all = |words: &[AtomicU64; 3]| words.each_ref().map(|word| word.load(Relaxed));
        let returned = self.returned.load(Relaxed);
        StrangersImage { words: all(&self.words), words_behind: all(&self.words_behind), returned }
    }

    /// Takes what a snapshot says.
    pub(crate) fn adopt(&mut self, image: &StrangersImage) {
        self.words = image.words.map(AtomicU64::new);
        self.words_behind = image.words_behind.map(AtomicU64::new);
        self.returned = image.returned.min(MAX_RETURNED_CHALLENGES).into();
    }

    /// Whether there is enough left for this; if so, it is spent.
    pub(crate) fn admits(&self, now: Now, work: StrangerWork) -> bool {
        let (words, rate) = match self.is_behind {
            true => {
                (&self.words_behind, const { answers(STRANGERS_PER_SEC_BEHIND, STRANGERS_BURST_MS_BEHIND) })
            }
            false => (&self.words, const { answers(STRANGERS_PER_SEC, STRANGERS_BURST_MS) }),
        };
        charge(&words[work as usize], &rate, now.mono_ns, ANSWER_BYTES)
            || work == StrangerWork::Rejection
                && self.returned.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// A challenge led to an allocation: its client was no stranger. A crowd that comes back after an outage pays for
    /// itself by that, as fast as it is served; a flood never does.
    pub(crate) fn give_back_challenge(&self) {
        let more = |left| (left < MAX_RETURNED_CHALLENGES).then_some(left + 1);
        // An error only says that it was full.
        let _ = self.returned.fetch_update(Relaxed, Relaxed, more);
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

    /// Buckets that are not full again, by place.
    fn image(&self, now: Now) -> Vec<(u32, u64)> {
        let words = (0..).zip(self.words.iter().map(|word| word.load(Relaxed)));
        words.filter(|(_, word)| !is_full(*word, now)).collect()
    }

    fn take(&self, now: Now, whose: impl Hash, rate: &Rate) -> bool {
        let mut hasher = self.keyed.clone();
        whose.hash(&mut hasher);
        let index = hasher.finish() % self.words.len() as u64;
        charge(&self.words[index as usize], rate, now.mono_ns, ANSWER_BYTES)
    }
}

/// Whether nothing is spent of a bucket: it takes a charge as one does that was never used.
fn is_full(word: u64, now: Now) -> bool {
    let rate = const { answers(FAILED_LOGINS_PER_SEC, FAILED_LOGINS_BURST_MS) };
    let [charged, unused] = [word, 0].map(|word| {
        let bucket = Cell::new(word);
        charge(&bucket, &rate, now.mono_ns, ANSWER_BYTES);
        bucket.get()
    });
    charged == unused
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
mod tests {
    use super::*;
    use crate::limits::{SECOND_NS, UNAUTHENTICATED_PER_SEC};

    /// A draw that never wins.
    const UNLUCKY: u32 = 1;
    const ALICE: &[u8] = b"alice";

    fn limiter() -> Limiter {
        Limiter::new(Zeroizing::new([9; 32]), UNAUTHENTICATED_PER_SEC)
    }

    fn at(millis: u64) -> Now {
        Now { mono_ns: 1000 * SECOND_NS + millis * 1_000_000, unix_secs: 0 }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// How many of `times` are admitted.
    fn admitted(times: u32, mut admits: impl FnMut() -> bool) -> u32 {
        (0..times).map(|_| u32::from(admits())).sum()
    }

    // Conformance Q4
    #[test]
    fn q4_a_source_gets_its_burst_then_its_rate() {
        let limiter = limiter();
        let ask = |now| admitted(3000, || limiter.admits_unauthenticated(now, ip("203.0.113.5"), UNLUCKY));
        assert_eq!(ask(at(0)), 1000);
        assert_eq!(ask(at(1000)), 100);
        assert_eq!(ask(at(1500)), 50);
        assert_eq!(ask(at(3_600_000)), 1000, "a pause saves up one burst, no more");
    }

    #[test]
    fn q4_above_the_rate_one_in_eight_is_answered_by_chance() {
        let limiter = limiter();
        let source = ip("203.0.113.5");
        admitted(1000, || limiter.admits_unauthenticated(at(0), source, UNLUCKY));
        let mut draws = 0..8000;
        let drawn = admitted(8000, || {
            limiter.admits_unauthenticated(at(0), source, draws.next().expect("there are enough"))
        });
        assert_eq!(drawn, 1000);
    }

    #[test]
    fn q4_addresses_are_sources_of_their_own_and_so_are_ipv6_networks() {
        let limiter = limiter();
        let ask = |text| admitted(2000, || limiter.admits_unauthenticated(at(0), ip(text), UNLUCKY));
        assert_eq!(ask("203.0.113.5"), 1000);
        assert_eq!(ask("203.0.113.6"), 1000);
        assert_eq!(ask("::ffff:203.0.113.6"), 0, "the same source in its other form");
        assert_eq!(ask("2001:db8::1"), 1000);
        assert_eq!(ask("2001:db8::ffff:1"), 0, "the same /64");
        assert_eq!(ask("2001:db8:0:1::1"), 1000);
    }

    #[test]
    fn the_rate_can_be_changed_and_lifted() {
        let limiter = limiter();
        let source = ip("203.0.113.5");
        limiter.set_unauthenticated_rate(10);
        assert_eq!(admitted(2000, || limiter.admits_unauthenticated(at(0), source, UNLUCKY)), 100);
        limiter.set_unauthenticated_rate(0);
        assert_eq!(admitted(2000, || limiter.admits_unauthenticated(at(0), source, UNLUCKY)), 2000);
        assert_eq!(admitted(50_000, || limiter.admits_binding(at(0), source, UNLUCKY)), 50_000);
    }

    #[test]
    fn binding_has_its_own_far_higher_limit() {
        let limiter = limiter();
        let source = ip("203.0.113.5");
        admitted(2000, || limiter.admits_unauthenticated(at(0), source, UNLUCKY));
        assert_eq!(admitted(50_000, || limiter.admits_binding(at(0), source, UNLUCKY)), 20_000);
        assert_eq!(admitted(50_000, || limiter.admits_binding(at(1000), source, UNLUCKY)), 10_000);
    }

    // Conformance Q7
    #[test]
    fn q7_failed_logins_are_answered_less_and_less() {
        let limiter = limiter();
        let all_draws = |source: &str, name: &[u8]| {
            (0..6400).filter(|&draw| limiter.admits_failed_login(at(0), ip(source), name, draw)).count()
        };
        let first = all_draws("203.0.113.5", ALICE);
        // 50 at once, then one in 64: both the source and the name have failed too often.
        assert!((140..=150).contains(&first), "{first}");
        assert_eq!(all_draws("203.0.113.5", ALICE), 100);
        let other_name = all_draws("203.0.113.5", b"bob");
        assert!((100..=150).contains(&other_name), "{other_name}");
        let other_source = all_draws("203.0.113.77", b"carol");
        assert!((140..=150).contains(&other_source), "neither has failed before: {other_source}");
    }

    // A flood from everywhere at once: the memory is what it was, and an honest source keeps its answers.
    #[test]
    fn a_spoofed_flood_leaves_other_sources_their_answers() {
        let limiter = limiter();
        let mut flooder = 1u32;
        let mut honest = 0;
        for round in 0..1000 {
            for _ in 0..1000 {
                flooder = flooder.wrapping_mul(2_654_435_761).wrapping_add(12345);
                limiter.admits_unauthenticated(at(round), IpAddr::V4(flooder.into()), UNLUCKY);
            }
            honest += u32::from(limiter.admits_unauthenticated(at(round), ip("203.0.113.5"), UNLUCKY));
        }
        assert_eq!(honest, 1000, "a million requests in a second, and none of ours was dropped");
        assert_eq!(limiter.unauthenticated.words.len(), SOURCE_BUCKETS);
    }

    // Nobody outside can tell which sources share a bucket: with another key others do.
    #[test]
    fn which_sources_share_a_bucket_depends_on_the_key() {
        let sharing = |key| {
            let buckets = Buckets::new(&[key; 32], 1, 64);
            let rate = answers(1, 1000);
            let first = (0..64u64).filter(|source| buckets.take(at(0), source, &rate)).collect::<Vec<_>>();
            assert!((30..60).contains(&first.len()), "{}", first.len());
            first
        };
        assert_eq!(sharing(1), sharing(1));
        assert_ne!(sharing(1), sharing(2));
    }

    #[test]
    fn a_worker_has_a_budget_for_each_kind_of_work_and_less_when_it_is_behind() {
        let mut budget = StrangerBudget::default();
        let ask = |budget: &StrangerBudget, now, work| admitted(100_000, || budget.admits(now, work));
        assert_eq!(ask(&budget, at(0), StrangerWork::Binding), 4000);
        assert_eq!(ask(&budget, at(0), StrangerWork::Rejection), 4000, "another kind");
        assert_eq!(ask(&budget, at(100), StrangerWork::Binding), 2000);
        budget.set_behind(true);
        assert_eq!(ask(&budget, at(100), StrangerWork::Binding), 4000, "a crowd that has just come back");
        assert_eq!(ask(&budget, at(200), StrangerWork::Binding), 200);
        budget.set_behind(false);
        assert_eq!(ask(&budget, at(20_000), StrangerWork::Login), 4000);
    }

    #[test]
    fn what_led_to_an_allocation_is_given_to_others() {
        let budget = StrangerBudget { is_behind: true, ..Default::default() };
        let ask = |work| admitted(10_000, || budget.admits(at(0), work));
        assert_eq!(ask(StrangerWork::Rejection), 4000);
        for _ in 0..3 {
            budget.give_back_challenge();
        }
        assert_eq!(ask(StrangerWork::Login), 4000, "for challenges only");
        assert_eq!(ask(StrangerWork::Rejection), 3);
        for _ in 0..10_000 {
            budget.give_back_challenge();
        }
        assert_eq!(
            ask(StrangerWork::Rejection),
            MAX_RETURNED_CHALLENGES,
            "years of service give no flood more"
        );
    }

    // Threads are what is tested.
    #[allow(clippy::disallowed_methods)]
    #[test]
    fn workers_share_one_limit_without_a_lock() {
        let limiter = limiter();
        let total = std::thread::scope(|scope| {
            let ask = || admitted(1000, || limiter.admits_unauthenticated(at(0), ip("203.0.113.5"), UNLUCKY));
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<u32>()
        });
        // A lost race costs an answer, it never gives one away.
        assert!((950..=1000).contains(&total), "{total}");
    }
}
