//! The search for the highest rate: pure, so that it can be tested without a network.

/// Share of the rate below which the search's interval is narrow enough.
const RESOLUTION: f64 = 0.05;
/// Loss that the PDR allows, percent.
const PARTIAL_LOSS_PERCENT: f64 = 0.1;
/// Times that a rate may fail: on a shared machine a single pause of the host loses packets.
const ATTEMPTS: u32 = 2;
/// Trials at most.
const MAX_TRIALS: u32 = 40;
/// A generator that sends less than this share of its schedule is the bottleneck.
const KEPT_UP: f64 = 0.98;

/// What one trial showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Packets lost elsewhere than in the generator, percent of those sent.
    pub loss_percent: f64,
    /// The generator could send what it was asked for.
    pub kept_up: bool,
}

/// Whether a generator could send what it was asked for.
pub fn kept_up(sent: u64, scheduled: u64) -> bool {
    sent as f64 >= KEPT_UP * scheduled as f64
}

/// What the search found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// The highest rate tried without any loss.
    pub ndr: Option<f64>,
    /// The highest rate tried with at most 0.1 % loss.
    pub pdr: Option<f64>,
    /// The generator, or the upper end of the search, ended it: the server may do more.
    pub is_lower_bound: bool,
}

/// Halves the interval from `lowest` to `highest` (packets per second, on a logarithmic scale) until it is
/// narrow. `trial` measures one rate; `None` from it ends the search.
pub fn highest_rate(lowest: f64, highest: f64, mut trial: impl FnMut(f64) -> Option<Outcome>) -> Found {
    let mut found = Found::default();
    let (mut low, mut high) = (lowest, highest);
    let mut trials = 0;
    while high / low > 1.0 + RESOLUTION && trials < MAX_TRIALS {
        let rate = (low * high).sqrt();
        let mut passed = false;
        let mut limited_by_generator = false;
        for _ in 0..ATTEMPTS {
            let Some(outcome) = trial(rate) else { return found };
            trials += 1;
            limited_by_generator = !outcome.kept_up;
            if outcome.kept_up && outcome.loss_percent <= PARTIAL_LOSS_PERCENT {
                found.pdr = Some(found.pdr.unwrap_or(0.0).max(rate));
            }
            passed = outcome.kept_up && outcome.loss_percent <= 0.0;
            if passed || outcome.loss_percent > 10.0 * PARTIAL_LOSS_PERCENT {
                break;
            }
        }
        if passed {
            found.ndr = Some(rate);
            low = rate;
        } else {
            found.is_lower_bound = limited_by_generator;
            high = rate;
        }
    }
    found.is_lower_bound |= high >= highest;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(limit: f64) -> impl Fn(f64) -> Option<Outcome> {
        move |rate| Some(Outcome { loss_percent: ((rate - limit) / rate * 100.0).max(0.0), kept_up: true })
    }

    #[test]
    fn the_limit_is_found_within_the_resolution() {
        for limit in [6_000.0, 50_000.0, 333_333.0] {
            let found = highest_rate(5_000.0, 400_000.0, server(limit));
            let ndr = found.ndr.expect("there is one");
            assert!(ndr <= limit && ndr > limit * 0.95, "{ndr} for {limit}");
            assert!(!found.is_lower_bound);
        }
    }

    #[test]
    fn a_server_above_the_range_is_said_to_do_more() {
        let found = highest_rate(5_000.0, 400_000.0, server(1e9));
        assert!(found.is_lower_bound && found.ndr.is_some_and(|ndr| ndr > 380_000.0));
    }

    #[test]
    fn a_server_below_the_range_has_no_rate() {
        assert_eq!(highest_rate(5_000.0, 400_000.0, server(100.0)), Found::default());
    }

    #[test]
    fn one_pause_of_the_host_does_not_fail_a_rate() {
        let mut calls = 0;
        let found = highest_rate(5_000.0, 400_000.0, |rate| {
            calls += 1;
            let pause = if calls == 1 { 0.5 } else { 0.0 };
            server(100_000.0)(rate).map(|o| Outcome { loss_percent: o.loss_percent.max(pause), ..o })
        });
        assert!(found.ndr.is_some_and(|ndr| ndr > 95_000.0), "{found:?}");
    }

    #[test]
    fn a_generator_at_its_end_is_not_the_servers_limit() {
        let found = highest_rate(5_000.0, 400_000.0, |rate| {
            Some(Outcome { loss_percent: 0.0, kept_up: rate < 60_000.0 })
        });
        assert!(found.is_lower_bound && found.ndr.is_some_and(|ndr| ndr < 60_000.0));
    }

    #[test]
    fn an_interrupted_search_keeps_what_it_has() {
        let mut left = 3;
        let found = highest_rate(1_000.0, 400_000.0, |rate| {
            left -= 1;
            (left > 0).then(|| server(1e9)(rate)).flatten()
        });
        assert!(found.ndr.is_some());
    }
}
