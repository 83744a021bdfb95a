//! When to wait a little for more: at moderate load the wake-ups cost more than the packets.
//!
//! A pause before the next wait lets datagrams gather, which then share one wake-up and perhaps one
//! message. It pays only if at least one is expected within it; below that it would add wake-ups.

use std::time::Duration;

/// Without a wake-up in this time there is nothing worth gathering.
const SLOWEST_WAKES_NS: u64 = 1_000_000;
/// With that many datagrams in a turn the wake-ups are spread thin already.
const SATURATED: u64 = 48;
/// Each turn counts for one part in so many of the averages.
const WEIGHT: u64 = 8;
/// The averages keep fractions of a datagram.
const SCALE: u64 = 256;

/// Decides on pauses, from what the turns brought so far.
#[derive(Debug)]
pub struct Coalescer {
    window_ns: u64,
    last_ns: u64,
    /// Average time between turns that brought something.
    gap_ns: u64,
    /// Average datagrams of such a turn, times [`SCALE`].
    datagrams: u64,
}

impl Coalescer {
    /// Waits up to `window` for more; zero never waits.
    pub fn new(window: Duration) -> Coalescer {
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Coalescer { window_ns, last_ns: 0, gap_ns: SLOWEST_WAKES_NS, datagrams: 0 }
    }

    /// A turn brought so many datagrams; without any it doesn't count.
    pub fn observe(&mut self, now_ns: u64, datagrams: usize) {
        if datagrams == 0 || self.window_ns == 0 {
            return;
        }
        // A pause in the traffic must not linger in the averages: what follows it is judged anew.
        let gap_ns = now_ns.saturating_sub(self.last_ns).min(2 * SLOWEST_WAKES_NS);
        self.last_ns = now_ns;
        self.gap_ns = average(self.gap_ns, gap_ns);
        self.datagrams = average(self.datagrams, datagrams as u64 * SCALE);
    }

    /// How long to wait before the next turn, if at all.
    pub fn pause(&self, now_ns: u64) -> Option<Duration> {
        let is_idle =
            now_ns.saturating_sub(self.last_ns) > SLOWEST_WAKES_NS || self.gap_ns > SLOWEST_WAKES_NS;
        if self.window_ns == 0 || is_idle || self.datagrams >= SATURATED * SCALE {
            return None;
        }
        let expected = self.window_ns.saturating_mul(self.datagrams) / self.gap_ns.max(1);
        (expected >= SCALE).then(|| Duration::from_nanos(self.window_ns))
    }
}

fn average(old: u64, new: u64) -> u64 {
    (old * (WEIGHT - 1) + new) / WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(150);

    /// After two hundred turns, so many nanoseconds apart and with so many datagrams each.
    fn after(gap_ns: u64, datagrams: usize) -> (Coalescer, u64) {
        let mut coalescer = Coalescer::new(WINDOW);
        let mut now_ns = 1_000_000_000;
        for _ in 0..200 {
            now_ns += gap_ns;
            coalescer.observe(now_ns, datagrams);
        }
        (coalescer, now_ns)
    }

    #[test]
    fn it_waits_when_more_is_expected_within_the_window() {
        for (gap_ns, datagrams) in [(100_000, 1), (20_000, 1), (150_000, 3), (900_000, 10)] {
            let (coalescer, now_ns) = after(gap_ns, datagrams);
            assert_eq!(coalescer.pause(now_ns), Some(WINDOW), "{datagrams} each {gap_ns} ns");
        }
    }

    #[test]
    fn it_does_not_wait_at_low_or_full_load() {
        for (gap_ns, datagrams) in [(500_000, 1), (1_500_000, 40), (20_000_000, 1), (100_000, 64)] {
            let (coalescer, now_ns) = after(gap_ns, datagrams);
            assert_eq!(coalescer.pause(now_ns), None, "{datagrams} each {gap_ns} ns");
        }
    }

    #[test]
    fn it_stops_when_the_traffic_does() {
        let (mut coalescer, now_ns) = after(50_000, 2);
        coalescer.observe(now_ns + 1_000, 0);
        assert_eq!(coalescer.pause(now_ns + SLOWEST_WAKES_NS + 1), None);
    }

    #[test]
    fn zero_switches_it_off() {
        let mut coalescer = Coalescer::new(Duration::ZERO);
        (1..100).for_each(|turn| coalescer.observe(turn * 10_000, 5));
        assert_eq!(coalescer.pause(1_000_000), None);
    }
}
