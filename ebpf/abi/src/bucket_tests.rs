//! The bucket against the arithmetic it stands for: rate times time plus burst.

extern crate std;

use core::cell::Cell;
use core::sync::atomic::AtomicU64;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;
/// 100 kbit/s to 10 Gbit/s: what operators configure.
const RATES: std::ops::RangeInclusive<u64> = 100_000..=10_000_000_000;

/// Bytes that the bucket admits of `packets`, each (pause before it in ns, size in bytes).
fn admitted(word: &impl Word, rate: &Rate, start_ns: u64, packets: &[(u64, u64)]) -> (u64, u64) {
    let mut now = start_ns;
    let mut bytes = 0;
    for &(pause, size) in packets {
        now += pause;
        if charge(word, rate, now, size) {
            bytes += size;
        }
    }
    (bytes, now - start_ns)
}

/// Bytes that a rate is worth in a time.
fn worth(bits_per_sec: u64, ns: u64) -> f64 {
    bits_per_sec as f64 / 8.0 * ns as f64 / SECOND_NS as f64
}

proptest! {
    #[test]
    fn never_more_than_rate_times_time_plus_burst(
        bits in RATES,
        burst_ms in 0..500u32,
        start in 0..(1u64 << 50),
        packets in prop::collection::vec((0..20_000_000u64, 1..1500u64), 1..400),
    ) {
        let rate = Rate::new(bits, burst_ms);
        let (bytes, ns) = admitted(&Cell::new(0), &rate, start, &packets);
        let bound = worth(bits, ns + rate.burst_ns()) * 1.03;
        prop_assert!(bytes as f64 <= bound, "{bytes} of {bound}");
    }

    #[test]
    fn a_saturated_bucket_gives_its_whole_rate(bits in RATES, size in 3..1500u64) {
        let rate = Rate::new(bits, 100);
        let word = Cell::new(0);
        // Twice the rate, for about as long as 4000 packets take.
        let pause = (size as f64 * 8e9 / bits as f64 / 2.0) as u64;
        let packets: Vec<_> = (0..4000).map(|_| (pause.max(1), size)).collect();
        let (bytes, ns) = admitted(&word, &rate, SECOND_NS, &packets);
        let offered = 4000 * size;
        let due = worth(bits, ns + rate.burst_ns()).min(offered as f64);
        prop_assert!(bytes as f64 >= due * 0.97 - size as f64, "{bytes} of {due}");
    }

    #[test]
    fn an_idle_bucket_never_exceeds_its_burst(bits in RATES, burst_ms in 0..500u32, idle in 0..(1u64 << 58)) {
        let rate = Rate::new(bits, burst_ms);
        let word = Cell::new(0);
        charge(&word, &rate, 1, 1000);
        let now = 1 + idle;
        let mut bytes = 0;
        // One nanosecond: what comes out of it was saved up.
        for _ in 0..2_000_000 {
            if !charge(&word, &rate, now, 1000) {
                break;
            }
            bytes += 1000;
        }
        prop_assert!(bytes as f64 <= worth(bits, rate.burst_ns()) * 1.01 + 1.0, "{bytes}");
        prop_assert!(!charge(&word, &rate, now, 131_071), "it ended within the loop");
    }

    #[test]
    fn nothing_overflows(
        word in any::<u64>(), bits in any::<u64>(), burst in any::<u32>(), now in any::<u64>(), bytes in any::<u64>()
    ) {
        let rate = Rate::new(bits, burst);
        let cell = Cell::new(word);
        charge(&cell, &rate, now, bytes);
        let shared = AtomicU64::new(word);
        charge(&shared, &rate, now, bytes);
        prop_assert_eq!(Word::load(&shared), cell.get());
    }

    #[test]
    fn a_clock_set_back_stops_nobody_for_long(bits in RATES, back in 0..(1u64 << 57)) {
        let rate = Rate::new(bits, 100);
        let word = Cell::new(0);
        prop_assert!(charge(&word, &rate, 1 << 58, 1000));
        let mut now = (1 << 58) - back;
        let mut waited = 0;
        while !charge(&word, &rate, now, 1000) {
            now += 10_000_000;
            waited += 10_000_000;
            prop_assert!(waited < 3 * SECOND_NS, "still refused after {waited} ns");
        }
    }

    #[test]
    fn callers_whose_clocks_differ_share_one_limit(
        bits in RATES,
        lags in prop::collection::vec(0..8_000_000u64, 400),
    ) {
        let rate = Rate::new(bits, 100);
        let word = Cell::new(0);
        let mut bytes = 0;
        for (step, lag) in lags.iter().enumerate() {
            let now = SECOND_NS + step as u64 * 1_000_000 - lag;
            for _ in 0..64 {
                bytes += if charge(&word, &rate, now, 1000) { 1000 } else { 0 };
            }
        }
        let bound = worth(bits, 400 * 1_000_000 + 8_000_000 + rate.burst_ns()) * 1.03;
        prop_assert!(bytes as f64 <= bound, "{bytes} of {bound}");
    }
}

#[test]
fn no_limit_admits_everything_and_leaves_the_word_alone() {
    let word = Cell::new(7);
    assert!(charge(&word, &Rate::new(0, 100), 0, u64::MAX));
    assert_eq!(word.get(), 7);
}

#[test]
fn the_burst_is_never_below_two_packets_or_two_ticks() {
    assert_eq!(Rate::new(1_000_000_000, 0).burst_ns(), 2 * COARSE_TICK_NS);
    assert_eq!(Rate::new(100_000, 0).burst_ns(), 3000 * 80_000);
    assert_eq!(Rate::new(10_000_000, 100).burst_ns(), 100_000_000);
    let slowest = Rate::new(1, 0);
    assert_eq!(slowest, Rate::new(MIN_BITS_PER_SEC, 0));
    assert!(charge(&Cell::new(0), &slowest, SECOND_NS, 1500));
}

#[test]
fn a_rate_survives_its_way_through_a_map() {
    let rate = Rate::new(2_000_000, 100);
    assert_eq!(Rate::from_words(rate.to_words()), rate);
    assert_eq!(Rate::UNLIMITED.to_words(), [0, 0], "a map is all zeros at first");
}

#[test]
fn a_refused_packet_costs_nothing() {
    let rate = Rate::new(100_000, 100);
    let word = Cell::new(0);
    while charge(&word, &rate, SECOND_NS, 1000) {}
    let spent = word.get();
    for _ in 0..1000 {
        assert!(!charge(&word, &rate, SECOND_NS, 1000));
    }
    assert_eq!(word.get(), spent);
}

/// Loses every race: somebody else always charges the word first.
struct Contended {
    word: Cell<u64>,
    /// What the others charge in each race.
    per_race: u64,
    /// What they charge just before the forced charge.
    at_last: u64,
}

impl Word for Contended {
    fn load(&self) -> u64 {
        self.word.get()
    }

    fn compare_exchange(&self, current: u64, _new: u64) -> Result<u64, u64> {
        self.word.set(current + self.per_race);
        Err(self.word.get())
    }

    fn fetch_add(&self, value: u64) -> u64 {
        let before = self.word.get() + self.at_last;
        self.word.replace(before + value);
        before
    }
}

#[test]
fn after_four_lost_races_the_charge_is_forced() {
    let rate = Rate::new(1_000_000, 100);
    let now = SECOND_NS * TICKS_PER_NS;
    let word = Contended { word: Cell::new(now), per_race: 1, at_last: 0 };
    assert!(charge(&word, &rate, SECOND_NS, 1000));
    assert_eq!(word.word.get(), now + u64::from(MAX_TRIES) + rate.cost(1000));
}

#[test]
fn who_sees_the_bucket_empty_while_losing_races_charges_nothing() {
    let rate = Rate::new(1_000_000, 100);
    let now = SECOND_NS * TICKS_PER_NS;
    let per_race = (rate.burst - rate.cost(1000)) / 4 + 1;
    let word = Contended { word: Cell::new(now), per_race, at_last: 0 };
    assert!(!charge(&word, &rate, SECOND_NS, 1000));
    assert_eq!(word.word.get(), now + 4 * per_race);
}

#[test]
fn a_forced_charge_beyond_the_burst_is_kept_and_the_packet_refused() {
    let rate = Rate::new(1_000_000, 100);
    let now = SECOND_NS * TICKS_PER_NS;
    let word = Contended { word: Cell::new(now), per_race: 0, at_last: rate.burst };
    assert!(!charge(&word, &rate, SECOND_NS, 1000));
    assert_eq!(word.word.get(), now + rate.burst + rate.cost(1000));
}

#[test]
fn two_threads_share_one_limit() {
    let rate = Rate::new(1_000_000_000, 100);
    let word = AtomicU64::new(0);
    // Each thread alone could use up the whole limit: 20,000 packets in 100 ms of virtual time.
    let run = || {
        (0..20_000u64).filter(|step| charge(&word, &rate, SECOND_NS + step * 5_000, 1250)).count() as u64
            * 1250
    };
    let bytes: u64 = std::thread::scope(|scope| {
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let limit = worth(1_000_000_000, 100_000_000 + rate.burst_ns());
    assert!(bytes as f64 <= limit * 1.01, "{bytes} of {limit}");
    assert!(bytes as f64 >= limit * 0.5, "{bytes} of {limit}");
}
