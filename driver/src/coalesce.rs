//! When to wait a little for more: at moderate load the wake-ups cost more than the packets.
//!
//! With nothing there, a pause before the next wait lets datagrams gather, which then share one wake-up and
//! perhaps one message. It pays only where several arrive within it, one by one. The rate of the traffic
//! says whether that is possible; whether it happens is learnt from the pauses themselves: traffic in
//! bursts, and a sender that waits for each answer, bring nothing during a pause.
//!
//! ```text
//!   nothing ready ─► pause()? ─► begin() ─► asleep ─► observe(): what did it bring?
//! ```

use std::time::Duration;

/// Without a wake-up in this time there is nothing worth gathering.
const SLOWEST_WAKES_NS: u64 = 1_000_000;
/// With that many datagrams in a turn the wake-ups are spread thin already.
const SATURATED: u64 = 48;
/// Each turn counts for one part in so many of the averages.
const WEIGHT: u64 = 8;
/// The averages keep fractions of a datagram.
const SCALE: u64 = 256;
/// Datagrams that a pause has to bring on average, times [`SCALE`]: with one it has only delayed it.
const WORTH_IT: u64 = SCALE * 5 / 4;
/// While pauses are not worth it, one in so many is tried all the same, to notice when they become so.
const PROBE_EVERY: u32 = 64;
/// A wait that lasted longer than its pause by that much was ended by what came after it.
const LATE_NS: u64 = 100_000;

/// Decides on pauses, from what the turns brought so far.
#[derive(Debug)]
pub struct Coalescer {
    window_ns: u64,
    last_ns: u64,
    /// Average time between turns that brought something.
    gap_ns: u64,
    /// Average datagrams of such a turn, times [`SCALE`].
    datagrams: u64,
    /// Average datagrams that a pause brought, times [`SCALE`].
    gain: u64,
    /// Pauses not made since one was tried.
    foregone: u32,
    /// The pause under way.
    began_ns: Option<u64>,
}

impl Coalescer {
    /// Waits up to `window` for more; zero never waits.
    pub fn new(window: Duration) -> Coalescer {
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Coalescer {
            window_ns,
            last_ns: 0,
            gap_ns: SLOWEST_WAKES_NS,
            datagrams: 0,
            gain: WORTH_IT,
            foregone: 0,
            began_ns: None,
        }
    }

    /// A wait ended with so many datagrams; without any it doesn't count.
    pub fn observe(&mut self, now_ns: u64, datagrams: usize) {
        let began_ns = self.began_ns.take();
        if datagrams == 0 || self.window_ns == 0 {
            return;
        }
        if let Some(began_ns) = began_ns {
            let in_time = now_ns.saturating_sub(began_ns) <= self.window_ns.saturating_add(LATE_NS);
            let brought = if in_time { datagrams as u64 } else { 0 };
            self.gain = average(self.gain, brought * SCALE);
        }
        // A pause in the traffic must not linger in the averages: what follows it is judged anew.
        let gap_ns = now_ns.saturating_sub(self.last_ns).min(2 * SLOWEST_WAKES_NS);
        self.last_ns = now_ns;
        self.gap_ns = average(self.gap_ns, gap_ns);
        self.datagrams = average(self.datagrams, datagrams as u64 * SCALE);
    }

    /// How long to pause if nothing is there now, if at all.
    pub fn pause(&mut self, now_ns: u64) -> Option<Duration> {
        if !self.is_busy_enough(now_ns) {
            return None;
        }
        if self.gain < WORTH_IT {
            self.foregone += 1;
            if self.foregone < PROBE_EVERY {
                return None;
            }
        }
        self.foregone = 0;
        Some(Duration::from_nanos(self.window_ns))
    }

    /// Nothing was there: the pause is made.
    pub fn begin(&mut self, now_ns: u64) {
        self.began_ns = Some(now_ns);
    }

    /// Whether the traffic's rate lets one expect at least one datagram within a pause.
    fn is_busy_enough(&self, now_ns: u64) -> bool {
        let is_idle =
            now_ns.saturating_sub(self.last_ns) > SLOWEST_WAKES_NS || self.gap_ns > SLOWEST_WAKES_NS;
        if self.window_ns == 0 || is_idle || self.datagrams >= SATURATED * SCALE {
            return false;
        }
        self.window_ns.saturating_mul(self.datagrams) / self.gap_ns.max(1) >= SCALE
    }
}

fn average(old: u64, new: u64) -> u64 {
    (old * (WEIGHT - 1) + new) / WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(150);

    /// Turns so many nanoseconds apart with so many datagrams each; each pause brings `gathered`.
    struct Traffic {
        coalescer: Coalescer,
        now_ns: u64,
    }

    impl Traffic {
        fn new() -> Traffic {
            Traffic { coalescer: Coalescer::new(WINDOW), now_ns: 1_000_000_000 }
        }

        /// How many of the turns began with a pause.
        fn run(&mut self, turns: u32, gap_ns: u64, datagrams: usize, gathered: usize) -> u32 {
            let mut pauses = 0;
            for _ in 0..turns {
                let window_ns = WINDOW.as_nanos() as u64;
                match self.coalescer.pause(self.now_ns) {
                    None => {
                        self.now_ns += gap_ns;
                        self.coalescer.observe(self.now_ns, datagrams);
                    }
                    Some(pause) => {
                        assert_eq!(pause, WINDOW);
                        pauses += 1;
                        self.coalescer.begin(self.now_ns);
                        // With nothing gathered the wait goes on until the next arrival.
                        let waited = if gathered > 0 { window_ns } else { window_ns + 2 * gap_ns };
                        self.now_ns += waited;
                        self.coalescer.observe(self.now_ns, gathered.max(1));
                    }
                }
            }
            pauses
        }
    }

    #[test]
    fn it_waits_when_several_come_within_the_window() {
        for (gap_ns, datagrams) in [(100_000, 1), (20_000, 1), (150_000, 3), (900_000, 10)] {
            let mut traffic = Traffic::new();
            traffic.run(200, gap_ns, datagrams, 3);
            assert_eq!(traffic.run(200, gap_ns, datagrams, 3), 200, "{datagrams} each {gap_ns} ns");
        }
    }

    #[test]
    fn it_does_not_wait_at_low_or_full_load() {
        for (gap_ns, datagrams) in [(500_000, 1), (1_500_000, 40), (20_000_000, 1), (100_000, 64)] {
            let mut traffic = Traffic::new();
            traffic.run(200, gap_ns, datagrams, datagrams);
            assert_eq!(traffic.run(200, gap_ns, datagrams, datagrams), 0, "{datagrams} each {gap_ns} ns");
        }
    }

    #[test]
    fn it_stops_waiting_where_that_gathers_nothing() {
        // Bursts that are over when the pause begins, and a sender that waits for each answer.
        for gathered in [0, 1] {
            let mut traffic = Traffic::new();
            traffic.run(200, 100_000, 8, gathered);
            let pauses = traffic.run(1_000, 100_000, 8, gathered);
            assert!((1..=20).contains(&pauses), "{pauses} pauses that bring {gathered}");
        }
    }

    #[test]
    fn it_notices_when_waiting_becomes_worth_it_again() {
        let mut traffic = Traffic::new();
        traffic.run(1_000, 100_000, 2, 0);
        traffic.run(64 * 16, 100_000, 2, 4);
        assert_eq!(traffic.run(100, 100_000, 2, 4), 100);
    }

    #[test]
    fn it_stops_when_the_traffic_does() {
        let mut traffic = Traffic::new();
        traffic.run(200, 50_000, 2, 3);
        assert_eq!(traffic.coalescer.pause(traffic.now_ns + SLOWEST_WAKES_NS + 1), None);
    }

    #[test]
    fn zero_switches_it_off() {
        let mut coalescer = Coalescer::new(Duration::ZERO);
        (1..100).for_each(|turn| coalescer.observe(turn * 10_000, 5));
        assert_eq!(coalescer.pause(1_000_000), None);
    }
}
