//! When to wait a little for more: on a busy worker wake-ups cost more than the packets.
//!
//! With nothing there, a pause before the next wait lets datagrams gather, which then share one wake-up and
//! perhaps one message. Each of them pays for it with delay, so it is made where processor time is short
//! only: below half load nothing waits, and from there on the wait grows with the load ([`Busy`]).
//!
//! It pays only where several arrive within it, one by one. The rate of the traffic says whether that is
//! possible; whether it happens is learnt from the pauses themselves: traffic in bursts, and a sender that
//! waits for each answer, bring nothing during a pause.
//!
//! ```text
//!   nothing ready ─► pause()? ─► begin() ─► asleep ─► observe(): what did it bring?
//!                      ▲
//!   sample(): processor time of the thread ─► how busy it is ─► how long a pause is
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

/// Decides on pauses, from the thread's load and from what the turns brought so far.
#[derive(Debug)]
pub struct Coalescer {
    busy: Busy,
    last_ns: u64,
    /// Average time between turns that brought something.
    gap_ns: u64,
    /// Average datagrams of such a turn, times [`SCALE`].
    datagrams: u64,
    /// Average datagrams that a pause brought, times [`SCALE`].
    gain: u64,
    /// Pauses not made since one was tried.
    foregone: u32,
    /// When the pause under way began, and how long it is.
    begun: Option<(u64, u64)>,
}

impl Coalescer {
    /// Waits up to `window` for more; zero never waits.
    pub fn new(window: Duration) -> Coalescer {
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Coalescer {
            busy: Busy::new(window_ns),
            last_ns: 0,
            gap_ns: SLOWEST_WAKES_NS,
            datagrams: 0,
            gain: WORTH_IT,
            foregone: 0,
            begun: None,
        }
    }

    /// Whether the thread's processor time is to be looked at again: for [`Coalescer::sample`].
    pub fn wants_sample(&self, now_ns: u64) -> bool {
        self.busy.window_ns > 0 && now_ns.saturating_sub(self.busy.sampled_ns) >= SAMPLE_NS
    }

    /// The thread has used so much processor time until now, its system calls' included.
    pub fn sample(&mut self, now_ns: u64, cpu_ns: u64) {
        self.busy.sample(now_ns, cpu_ns);
    }

    /// How long a pause is at the present load, nanoseconds.
    pub fn wait_ns(&self) -> u64 {
        self.busy.wait_ns
    }

    /// A wait ended with so many datagrams; without any it doesn't count.
    pub fn observe(&mut self, now_ns: u64, datagrams: usize) {
        let begun = self.begun.take();
        if datagrams == 0 || self.busy.window_ns == 0 {
            return;
        }
        if let Some((began_ns, wait_ns)) = begun {
            let in_time = now_ns.saturating_sub(began_ns) <= wait_ns.saturating_add(LATE_NS);
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
        if !self.may_bring_something(now_ns) {
            return None;
        }
        if self.gain < WORTH_IT {
            self.foregone += 1;
            if self.foregone < PROBE_EVERY {
                return None;
            }
        }
        self.foregone = 0;
        Some(Duration::from_nanos(self.busy.wait_ns))
    }

    /// Nothing was there: the pause is made.
    pub fn begin(&mut self, now_ns: u64) {
        self.begun = Some((now_ns, self.busy.wait_ns));
    }

    /// Whether the traffic's rate lets one expect at least one datagram within a pause.
    fn may_bring_something(&self, now_ns: u64) -> bool {
        let is_idle =
            now_ns.saturating_sub(self.last_ns) > SLOWEST_WAKES_NS || self.gap_ns > SLOWEST_WAKES_NS;
        if self.busy.wait_ns == 0 || is_idle || self.datagrams >= SATURATED * SCALE {
            return false;
        }
        self.busy.wait_ns.saturating_mul(self.datagrams) / self.gap_ns.max(1) >= SCALE
    }
}

fn average(old: u64, new: u64) -> u64 {
    (old * (WEIGHT - 1) + new) / WEIGHT
}

/// How often the thread's processor time is looked at: the clock of it is a system call.
const SAMPLE_NS: u64 = 5_000_000;
/// Each sample counts for one part in so many of the load.
const SAMPLE_WEIGHT: u64 = 4;
/// A sample over so long is the load by itself: what was before it says nothing.
const LONG_SAMPLE_NS: u64 = 8 * SAMPLE_NS;
/// All of a processor's time.
const WHOLE: u64 = 1000;
/// Below this share of a processor nothing waits.
const WAITS_FROM: u64 = 500;
/// From this share on the wait is as long as it may be: soon there is no time left for wake-ups.
const WAITS_LONGEST_FROM: u64 = 750;
/// The load may fall by so much before the wait gets shorter. Longer waits lower the load: without this the one
/// would chase the other.
const SLACK: u64 = 50;

/// How busy a thread is, and how long it may wait for more because of that.
#[derive(Debug)]
struct Busy {
    /// The longest wait.
    window_ns: u64,
    wait_ns: u64,
    /// Share of a processor, of [`WHOLE`].
    share: u64,
    sampled_ns: u64,
    sampled_cpu_ns: u64,
}

impl Busy {
    fn new(window_ns: u64) -> Busy {
        Busy { window_ns, wait_ns: 0, share: 0, sampled_ns: 0, sampled_cpu_ns: 0 }
    }

    fn sample(&mut self, now_ns: u64, cpu_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.sampled_ns).max(1);
        let used_ns = cpu_ns.saturating_sub(self.sampled_cpu_ns).min(elapsed_ns);
        let is_first = self.sampled_ns == 0;
        (self.sampled_ns, self.sampled_cpu_ns) = (now_ns, cpu_ns);
        if is_first {
            return;
        }
        let share = (u128::from(used_ns) * u128::from(WHOLE) / u128::from(elapsed_ns)) as u64;
        self.share = match elapsed_ns >= LONG_SAMPLE_NS {
            true => share,
            false => (self.share * (SAMPLE_WEIGHT - 1) + share) / SAMPLE_WEIGHT,
        };
        self.wait_ns = next_wait_ns(self.window_ns, self.wait_ns, self.share);
    }
}

/// The wait at this load after one of `wait_ns`: longer as the load rises, shorter when it has fallen for good.
fn next_wait_ns(window_ns: u64, wait_ns: u64, share: u64) -> u64 {
    wait_ns.clamp(wait_at_ns(window_ns, share), wait_at_ns(window_ns, share + SLACK))
}

fn wait_at_ns(window_ns: u64, share: u64) -> u64 {
    let above = share.clamp(WAITS_FROM, WAITS_LONGEST_FROM) - WAITS_FROM;
    window_ns.saturating_mul(above) / (WAITS_LONGEST_FROM - WAITS_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(150);
    const WINDOW_NS: u64 = WINDOW.as_nanos() as u64;

    /// Turns so many nanoseconds apart with so many datagrams each; each pause brings `gathered`.
    struct Traffic {
        coalescer: Coalescer,
        now_ns: u64,
    }

    impl Traffic {
        /// Of a worker that is so busy, of [`WHOLE`].
        fn new(share: u64) -> Traffic {
            let mut coalescer = Coalescer::new(WINDOW);
            work(&mut coalescer, 1, share);
            Traffic { coalescer, now_ns: 1_000_000_000 }
        }

        /// How many of the turns began with a pause.
        fn run(&mut self, turns: u32, gap_ns: u64, datagrams: usize, gathered: usize) -> u32 {
            let mut pauses = 0;
            for _ in 0..turns {
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
                        let waited = if gathered > 0 { WINDOW_NS } else { WINDOW_NS + 2 * gap_ns };
                        self.now_ns += waited;
                        self.coalescer.observe(self.now_ns, gathered.max(1));
                    }
                }
            }
            pauses
        }
    }

    /// Half a second at such a load, from `now_ns` on.
    fn work(coalescer: &mut Coalescer, now_ns: u64, share: u64) {
        for sample in 0..=100 {
            let elapsed_ns = sample * SAMPLE_NS;
            coalescer.sample(now_ns + elapsed_ns, elapsed_ns * share / WHOLE);
        }
    }

    #[test]
    fn a_busy_worker_waits_when_several_come_within_the_window() {
        for (gap_ns, datagrams) in [(100_000, 1), (20_000, 1), (150_000, 3), (900_000, 10)] {
            let mut traffic = Traffic::new(900);
            traffic.run(200, gap_ns, datagrams, 3);
            assert_eq!(traffic.run(200, gap_ns, datagrams, 3), 200, "{datagrams} each {gap_ns} ns");
        }
    }

    #[test]
    fn it_does_not_wait_where_little_comes_or_much_at_once() {
        for (gap_ns, datagrams) in [(500_000, 1), (1_500_000, 40), (20_000_000, 1), (100_000, 64)] {
            let mut traffic = Traffic::new(900);
            traffic.run(200, gap_ns, datagrams, datagrams);
            assert_eq!(traffic.run(200, gap_ns, datagrams, datagrams), 0, "{datagrams} each {gap_ns} ns");
        }
    }

    #[test]
    fn it_stops_waiting_where_that_gathers_nothing() {
        // Bursts that are over when the pause begins, and a sender that waits for each answer.
        for gathered in [0, 1] {
            let mut traffic = Traffic::new(900);
            traffic.run(200, 100_000, 8, gathered);
            let pauses = traffic.run(1_000, 100_000, 8, gathered);
            assert!((1..=20).contains(&pauses), "{pauses} pauses that bring {gathered}");
        }
    }

    #[test]
    fn it_notices_when_waiting_becomes_worth_it_again() {
        let mut traffic = Traffic::new(900);
        traffic.run(1_000, 100_000, 2, 0);
        traffic.run(64 * 16, 100_000, 2, 4);
        assert_eq!(traffic.run(100, 100_000, 2, 4), 100);
    }

    #[test]
    fn it_stops_when_the_traffic_does() {
        let mut traffic = Traffic::new(900);
        traffic.run(200, 50_000, 2, 3);
        assert_eq!(traffic.coalescer.pause(traffic.now_ns + SLOWEST_WAKES_NS + 1), None);
    }

    #[test]
    fn below_half_load_nothing_waits() {
        for share in [0, 100, 400, 499] {
            let mut traffic = Traffic::new(share);
            assert_eq!(traffic.run(1_000, 20_000, 1, 3), 0, "at {share}");
        }
    }

    #[test]
    fn the_wait_grows_with_the_load_up_to_what_it_may_be() {
        let wait_at = |share| {
            let mut coalescer = Coalescer::new(WINDOW);
            work(&mut coalescer, 1, share);
            coalescer.wait_ns()
        };
        let waits = [500, 560, 625, 700, 750, 1000].map(wait_at);
        assert!(waits.is_sorted(), "{waits:?}");
        assert!(waits[0] == 0 && waits[1] > 0 && waits[3] < WINDOW_NS, "{waits:?}");
        assert!((waits[4] > WINDOW_NS * 95 / 100) && waits[5] == WINDOW_NS, "{waits:?}");
    }

    #[test]
    fn a_load_that_only_shakes_changes_no_wait() {
        let wait_ns = next_wait_ns(WINDOW_NS, 0, 600);
        for share in [595, 560, 600, 551, 590] {
            assert_eq!(next_wait_ns(WINDOW_NS, wait_ns, share), wait_ns, "at {share}");
        }
        assert!(next_wait_ns(WINDOW_NS, wait_ns, 601) > wait_ns);
        assert!(next_wait_ns(WINDOW_NS, wait_ns, 549) < wait_ns);
        assert_eq!(next_wait_ns(WINDOW_NS, wait_ns, WAITS_FROM - SLACK), 0);
    }

    // Waiting lowers the load that it was begun for.
    #[test]
    fn load_and_wait_settle() {
        for without_waits in [550, 650, 800, 1000] {
            let mut coalescer = Coalescer::new(WINDOW);
            let (mut now_ns, mut cpu_ns) = (1, 0);
            let mut settled = Vec::new();
            for sample in 0..400 {
                let saved = without_waits * 2 / 5 * coalescer.wait_ns() / WINDOW_NS;
                now_ns += SAMPLE_NS;
                cpu_ns += SAMPLE_NS * (without_waits - saved) / WHOLE;
                coalescer.sample(now_ns, cpu_ns);
                if sample >= 200 {
                    settled.push(coalescer.wait_ns());
                }
            }
            let (least, most) = (settled.iter().min(), settled.iter().max());
            assert_eq!(least, most, "at {without_waits}");
            assert!(least > Some(&0), "at {without_waits}");
        }
    }

    #[test]
    fn after_a_long_rest_the_load_of_before_is_forgotten() {
        let mut coalescer = Coalescer::new(WINDOW);
        work(&mut coalescer, 1, 1000);
        assert_eq!(coalescer.wait_ns(), WINDOW_NS);
        let (now_ns, cpu_ns) = (1 + 100 * SAMPLE_NS, 100 * SAMPLE_NS);
        assert!(
            coalescer.wants_sample(now_ns + SAMPLE_NS) && !coalescer.wants_sample(now_ns + SAMPLE_NS - 1)
        );
        coalescer.sample(now_ns + LONG_SAMPLE_NS, cpu_ns);
        assert_eq!(coalescer.wait_ns(), 0);
    }

    #[test]
    fn zero_switches_it_off() {
        let mut coalescer = Coalescer::new(Duration::ZERO);
        work(&mut coalescer, 1, 1000);
        (1..100).for_each(|turn| coalescer.observe(turn * 10_000, 5));
        assert_eq!(coalescer.pause(1_000_000), None);
        assert!(!coalescer.wants_sample(u64::MAX));
    }
}
