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
