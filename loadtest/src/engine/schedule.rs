//! When each packet of a flow is due: an open loop, fixed before the first packet leaves and never
//! moved by what the server does.

/// One flow's timetable. Packets go in runs of `run`; run `k` is due at `start + k * interval`.
#[derive(Debug, Clone)]
pub struct Pace {
    start_ns: u64,
    interval_ns: f64,
    run: u64,
    /// Packets of the whole trial, `u64::MAX` = no end.
    total: u64,
    next: u64,
}

impl Pace {
    /// A flow that sends runs of `run` packets at `packets_per_sec` on average from `start_ns` on, until
    /// `total` packets are gone. An infinite rate means as fast as possible.
    pub fn new(start_ns: u64, packets_per_sec: f64, run: u64, total: u64) -> Self {
        let run = run.max(1);
        let interval_ns =
            if packets_per_sec > 0.0 { run as f64 * 1e9 / packets_per_sec } else { f64::INFINITY };
        Self { start_ns, interval_ns, run, total, next: 0 }
    }

    /// Packets of a trial of `duration_ns` whose run is due before the end.
    pub fn packets_within(packets_per_sec: f64, run: u64, duration_ns: u64) -> u64 {
        let run = run.max(1);
        if packets_per_sec.is_infinite() {
            return u64::MAX;
        }
        (duration_ns as f64 * packets_per_sec / run as f64 / 1e9).round() as u64 * run
    }

    /// When the next packet is due, ns; `None` when all are gone.
    pub fn due_ns(&self) -> Option<u64> {
        (self.next < self.total).then(|| self.due_of(self.next))
    }

    /// When packet `number` is due.
    pub fn due_of(&self, number: u64) -> u64 {
        self.start_ns.saturating_add(((number / self.run) as f64 * self.interval_ns) as u64)
    }

    /// Takes the packets that are due, at most `most`: the number of the first, and how many.
    pub fn take_due(&mut self, now_ns: u64, most: u64) -> (u64, u64) {
        let first = self.next;
        let due = self.due_before(now_ns.saturating_add(1));
        let count = due.saturating_sub(first).min(most);
        self.next += count;
        (first, count)
    }

    /// Gives up the packets due before `limit_ns`; returns how many.
    pub fn skip_before(&mut self, limit_ns: u64) -> u64 {
        let due = self.due_before(limit_ns);
        let skipped = due.saturating_sub(self.next);
        self.next += skipped;
        skipped
    }

    /// Whether the pace has no clock (as fast as possible).
    pub fn is_flood(&self) -> bool {
        self.interval_ns == 0.0
    }

    /// Number of packets due before `limit_ns`, of all since the start.
    fn due_before(&self, limit_ns: u64) -> u64 {
        let Some(elapsed) = limit_ns.checked_sub(self.start_ns).filter(|&ns| ns > 0) else { return 0 };
        if self.is_flood() {
            return self.total;
        }
        let runs = (elapsed as f64 / self.interval_ns).ceil() as u64;
        runs.saturating_mul(self.run).min(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_at_their_interval() {
        let mut pace = Pace::new(1_000, 50.0, 1, 3);
        assert_eq!(pace.due_ns(), Some(1_000));
        assert_eq!(pace.take_due(999, 64), (0, 0));
        assert_eq!(pace.take_due(1_000, 64), (0, 1));
        assert_eq!(pace.due_ns(), Some(20_001_000));
        assert_eq!(pace.take_due(90_000_000, 64), (1, 2), "late ones are made up for, to the total");
        assert_eq!(pace.due_ns(), None);
    }

    #[test]
    fn a_run_is_due_at_once() {
        let mut pace = Pace::new(0, 240.0, 8, u64::MAX);
        assert_eq!(pace.take_due(0, 64), (0, 8));
        assert_eq!(pace.take_due(33_000_000, 64), (8, 0));
        assert_eq!(pace.take_due(33_333_334, 64), (8, 8));
    }

    #[test]
    fn what_is_too_late_is_skipped_not_sent() {
        let mut pace = Pace::new(0, 1_000.0, 1, u64::MAX);
        assert_eq!(pace.skip_before(50_000_000), 50);
        assert_eq!(pace.take_due(50_000_000, 64), (50, 1));
    }

    #[test]
    fn a_flood_has_no_clock() {
        let mut pace = Pace::new(10, f64::INFINITY, 1, 100);
        assert_eq!(pace.take_due(9, 64), (0, 0));
        assert_eq!(pace.take_due(10, 64), (0, 64));
        assert_eq!(pace.take_due(10, 64), (64, 36));
    }

    #[test]
    fn trial_length_sets_the_number_of_packets() {
        assert_eq!(Pace::packets_within(50.0, 1, 10_000_000_000), 500);
        assert_eq!(Pace::packets_within(240.0, 8, 1_000_000_000), 240);
    }
}
