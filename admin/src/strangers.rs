//! How many wrong tokens a source may present.
//!
//! The limit comes after the comparison: a right token is never refused, whatever others of the same
//! source did. Sources share buckets by a keyed hash, so no flood of them takes more memory.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::limits::{STRANGER_BUCKETS, WRONG_TOKENS_AT_ONCE};

/// Each this long it may present one more.
const PERIOD: Duration = Duration::from_secs(2);

/// Counts the wrong tokens of each source.
pub struct Strangers(RateLimiter<IpAddr, Buckets, MonotonicClock, NoOpMiddleware<std::time::Instant>>);

impl Strangers {
    /// Nobody has presented anything yet.
    pub fn new() -> Self {
        let quota =
            Quota::with_period(PERIOD).expect("the period is not zero").allow_burst(WRONG_TOKENS_AT_ONCE);
        Self(RateLimiter::new(quota, Buckets::new(), MonotonicClock))
    }

    /// Counts a wrong token.
    ///
    /// # Errors
    /// If there were too many: how long to wait.
    pub fn wrong_token(&self, source: IpAddr) -> Result<(), Duration> {
        self.0
            .check_key(&one_of_its_network(source))
            .map_err(|not_until| not_until.wait_time_from(MonotonicClock.now()))
    }
}

/// An IPv6 host has a whole /64.
pub fn one_of_its_network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip => ip,
    }
}

/// As many states as there will ever be.
struct Buckets {
    states: Box<[InMemoryState]>,
    hasher: RandomState,
}

impl Buckets {
    fn new() -> Self {
        let states = std::iter::repeat_with(InMemoryState::default).take(STRANGER_BUCKETS).collect();
        Self { states, hasher: RandomState::new() }
    }
}

impl StateStore for Buckets {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, key: &IpAddr, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let bucket = self.hasher.hash_one(key) as usize % STRANGER_BUCKETS;
        self.states[bucket].measure_and_replace(&NotKeyed::NonKey, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_to_wait_after_ten_wrong_tokens_and_another_is_not() {
        let strangers = Strangers::new();
        let guesser: IpAddr = "192.0.2.1".parse().expect("an address");
        let refused = (0..20).filter(|_| strangers.wrong_token(guesser).is_err()).count();
        assert!(refused >= 9, "{refused}");
        let wait = strangers.wrong_token(guesser).expect_err("it has to wait");
        assert!(wait <= PERIOD, "{wait:?}");
        // All but one in 4096 runs: the hash is random.
        let others =
            (1..=9).filter(|n| strangers.wrong_token(IpAddr::from([198, 51, 100, *n])).is_ok()).count();
        assert!(others >= 8, "{others}");
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let one = one_of_its_network("2001:db8:1:2::1".parse().expect("an address"));
        assert_eq!(one, one_of_its_network("2001:db8:1:2:ffff::9".parse().expect("an address")));
        assert_ne!(one, one_of_its_network("2001:db8:1:3::1".parse().expect("an address")));
        let mapped = one_of_its_network("::ffff:192.0.2.1".parse().expect("an address"));
        assert_eq!(mapped, IpAddr::from([192, 0, 2, 1]));
    }
}
