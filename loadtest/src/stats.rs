//! What is counted about received packets: each by its sequence number, so that a duplicate can't
//! hide a loss, and each with its delay.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::limits::{MAX_WINDOW, MIN_WINDOW};

/// Longest delay that a histogram can hold, ns.
const MAX_DELAY_NS: u64 = 60_000_000_000;
/// Resolution of the histograms' lowest values, ns.
const MIN_DELAY_NS: u64 = 100;

/// What a packet's sequence number told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The highest number so far, directly after the one before it.
    InOrder,
    /// The highest so far, with a gap before it.
    Ahead,
    /// First arrival of a number lower than one already seen (RFC 4737 section 3.3: reordered).
    Reordered,
    /// A number that has arrived before.
    Duplicate,
    /// So far behind that it can't be told from a duplicate; counted as one.
    TooOld,
}

/// One flow's sequence numbers and RFC 3550 jitter.
#[derive(Debug)]
pub struct Tracker {
    bits: Vec<u64>,
    next: u64,
    last_transit_ns: Option<i64>,
    last_arrival_ns: Option<u64>,
    /// RFC 3550 section 6.4.1 interarrival jitter, ns.
    pub jitter_ns: f64,
    /// Distinct packets received.
    pub received: u64,
}

impl Tracker {
    /// A tracker that recognises duplicates up to `window` packets behind the newest (bounded).
    pub fn new(window: u64) -> Self {
        let window = window.clamp(MIN_WINDOW, MAX_WINDOW).next_power_of_two();
        Self {
            bits: vec![0; (window / 64) as usize],
            next: 0,
            last_transit_ns: None,
            last_arrival_ns: None,
            jitter_ns: 0.0,
            received: 0,
        }
    }

    /// Notes a packet by the low 32 bits of its number.
    pub fn arrive(&mut self, low: u32) -> Arrival {
        let ahead = low.wrapping_sub(self.next as u32) as i32;
        let Some(sequence) = self.next.checked_add_signed(i64::from(ahead)) else { return Arrival::TooOld };
        let window = self.bits.len() as u64 * 64;
        if sequence >= self.next {
            self.clear_range(self.next, sequence, window);
            self.set(sequence);
            self.next = sequence + 1;
            self.received += 1;
            return if ahead == 0 { Arrival::InOrder } else { Arrival::Ahead };
        }
        if self.next - sequence > window {
            return Arrival::TooOld;
        }
        if self.is_set(sequence) {
            return Arrival::Duplicate;
        }
        self.set(sequence);
        self.received += 1;
        Arrival::Reordered
    }

    /// Updates the jitter with a packet's transit time and returns the deviation of its arrival from
    /// the one before, ns (`None` for the first).
    pub fn time(&mut self, sent_ns: u64, arrived_ns: u64) -> Option<u64> {
        let transit = arrived_ns.wrapping_sub(sent_ns) as i64;
        if let Some(last) = self.last_transit_ns.replace(transit) {
            // RFC 3550 section 6.4.1: J += (|D| - J) / 16.
            let difference = transit.abs_diff(last) as f64;
            self.jitter_ns += (difference - self.jitter_ns) / 16.0;
        }
        self.last_arrival_ns.replace(arrived_ns).map(|last| arrived_ns.saturating_sub(last))
    }

    fn clear_range(&mut self, from: u64, to: u64, window: u64) {
        if to - from >= window {
            self.bits.fill(0);
            return;
        }
        for sequence in from..=to {
            let (word, bit) = self.slot(sequence);
            self.bits[word] &= !bit;
        }
    }

    fn slot(&self, sequence: u64) -> (usize, u64) {
        let index = sequence & (self.bits.len() as u64 * 64 - 1);
        ((index / 64) as usize, 1 << (index % 64))
    }

    fn set(&mut self, sequence: u64) {
        let (word, bit) = self.slot(sequence);
        self.bits[word] |= bit;
    }

    fn is_set(&self, sequence: u64) -> bool {
        let (word, bit) = self.slot(sequence);
        self.bits[word] & bit != 0
    }
}

/// A delay histogram of three significant digits, in ns.
#[derive(Debug, Clone)]
pub struct Delays(Histogram<u64>);

impl Default for Delays {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(MIN_DELAY_NS, MAX_DELAY_NS, 3);
        Self(histogram.expect("the bounds are constants that the histogram accepts"))
    }
}

impl Delays {
    /// Adds one delay; longer than a minute counts as a minute.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds another histogram's values.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Number of values.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The usual percentiles, `None` without values.
    pub fn summary(&self) -> Option<DelaySummary> {
        if self.0.is_empty() {
            return None;
        }
        let us = |ns: u64| ns as f64 / 1000.0;
        Some(DelaySummary {
            count: self.0.len(),
            min_us: us(self.0.min()),
            mean_us: self.0.mean() / 1000.0,
            p50_us: us(self.0.value_at_quantile(0.5)),
            p90_us: us(self.0.value_at_quantile(0.9)),
            p99_us: us(self.0.value_at_quantile(0.99)),
            p999_us: us(self.0.value_at_quantile(0.999)),
            max_us: us(self.0.max()),
        })
    }

    /// Points (quantile, µs) of the whole distribution for a plot, closer together near 1.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        const QUANTILES: [f64; 17] = [
            0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999,
            1.0,
        ];
        if self.0.is_empty() {
            return Vec::new();
        }
        QUANTILES.iter().map(|&q| (q, self.0.value_at_quantile(q) as f64 / 1000.0)).collect()
    }
}

/// Percentiles of a delay, µs.
#[derive(Debug, Clone, Copy, Serialize, PartialEq)]
pub struct DelaySummary {
    /// Packets, or steps, that were timed.
    pub count: u64,
    /// Smallest value, microseconds.
    pub min_us: f64,
    /// Arithmetic mean, microseconds.
    pub mean_us: f64,
    /// Median, microseconds.
    pub p50_us: f64,
    /// 90th percentile, microseconds.
    pub p90_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// 99.9th percentile, microseconds.
    pub p999_us: f64,
    /// Largest value, microseconds.
    pub max_us: f64,
}

/// Deviation of inter-arrival times from the nominal interval: turnutils_uclient's "jitter".
#[derive(Debug, Clone, Copy, Default)]
pub struct Deviation {
    /// All deviations added up, ns.
    pub sum_ns: u64,
    /// Packets that had one before them.
    pub count: u64,
    /// The smallest deviation, ns; `None` before there is one.
    pub min_ns: Option<u64>,
    /// The largest deviation, ns.
    pub max_ns: u64,
}

impl Deviation {
    /// Counts one packet's deviation, ns.
    pub fn record(&mut self, ns: u64) {
        self.sum_ns += ns;
        self.count += 1;
        self.min_ns = Some(self.min_ns.map_or(ns, |min| min.min(ns)));
        self.max_ns = self.max_ns.max(ns);
    }

    fn merge(&mut self, other: &Self) {
        self.sum_ns += other.sum_ns;
        self.count += other.count;
        self.min_ns = self.min_ns.into_iter().chain(other.min_ns).min();
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// Counters of one group of flows during one trial.
#[derive(Debug, Clone, Default)]
pub struct GroupStats {
    /// Packets that the schedule asked for.
    pub scheduled: u64,
    /// Packets handed to the kernel.
    pub sent: u64,
    /// Not sent because the generator was too late for them.
    pub skipped: u64,
    /// Refused by the generator's own socket (full send buffer, ICMP error).
    pub send_dropped: u64,
    /// Of those sent, never handed to the kernel: the client's connection was full, since the server or the
    /// way took too little, or it had ended.
    pub stalled: u64,
    /// Distinct packets received.
    pub received: u64,
    /// Packets that had arrived before.
    pub duplicated: u64,
    /// Received after a later one (RFC 4737).
    pub reordered: u64,
    /// Received, but after the lateness limit.
    pub late: u64,
    /// Right flow, wrong length or content.
    pub corrupted: u64,
    /// Data on a wrong channel, of another flow or of nobody.
    pub stray: u64,
    /// Lost in the generator's own receive queues (SO_MEMINFO), where a merged run counts once.
    pub own_drops: u64,
    /// Distinct packets that the built-in peer received.
    pub peer_received: u64,
    /// Round trip (echo), ns.
    pub round_trip: Delays,
    /// Client to peer (built-in peer), or client to client, one way, ns.
    pub one_way: Delays,
    /// Peer to client (built-in peer), one way, ns.
    pub return_way: Delays,
    /// How long after its due time a packet was sent, ns.
    pub send_lag: Delays,
    /// Sum of the flows' RFC 3550 jitter, ns, and the number of flows that had any.
    pub jitter_sum_ns: f64,
    /// See `jitter_sum_ns`.
    pub jitter_flows: u64,
    /// The largest of the flows' jitter, ns.
    pub jitter_max_ns: f64,
    /// turnutils_uclient's jitter.
    pub deviation: Deviation,
}

impl GroupStats {
    /// Adds another worker's counters.
    pub fn merge(&mut self, other: &Self) {
        self.scheduled += other.scheduled;
        self.sent += other.sent;
        self.skipped += other.skipped;
        self.send_dropped += other.send_dropped;
        self.stalled += other.stalled;
        self.received += other.received;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.late += other.late;
        self.corrupted += other.corrupted;
        self.stray += other.stray;
        self.own_drops += other.own_drops;
        self.peer_received += other.peer_received;
        self.round_trip.merge(&other.round_trip);
        self.one_way.merge(&other.one_way);
        self.return_way.merge(&other.return_way);
        self.send_lag.merge(&other.send_lag);
        self.jitter_sum_ns += other.jitter_sum_ns;
        self.jitter_flows += other.jitter_flows;
        self.jitter_max_ns = self.jitter_max_ns.max(other.jitter_max_ns);
        self.deviation.merge(&other.deviation);
    }

    /// Adds a flow's jitter at the end of a trial.
    pub fn add_jitter(&mut self, jitter_ns: f64) {
        self.jitter_sum_ns += jitter_ns;
        self.jitter_flows += 1;
        self.jitter_max_ns = self.jitter_max_ns.max(jitter_ns);
    }

    /// Sent and never received.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Lost somewhere else than in the generator's own sockets.
    pub fn lost_elsewhere(&self) -> u64 {
        self.lost().saturating_sub(self.own_drops)
    }

    /// `lost` in percent of `sent`.
    pub fn loss_percent(&self) -> f64 {
        percent(self.lost(), self.sent)
    }

    /// Whether the generator failed to offer the load: it left out more than 1 % of the packets.
    pub fn is_generator_bottleneck(&self) -> bool {
        (self.skipped + self.send_dropped) * 100 > self.scheduled
    }

    /// What the generator itself did wrong. One line per reason.
    pub fn generator_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.skipped > 0 {
            faults.push(format!(
                "the generator could not keep its schedule: {} of {} packets ({:.3} %) were not sent; lower the rate or give it more --threads",
                self.skipped, self.scheduled, percent(self.skipped, self.scheduled)
            ));
        }
        if self.send_dropped > 0 {
            faults.push(format!(
                "the generator's own sockets refused {} packets ({:.3} %): send buffer full or an ICMP error",
                self.send_dropped,
                percent(self.send_dropped, self.scheduled)
            ));
        }
        if self.own_drops > 0 {
            faults.push(format!(
                "the generator's own receive queues overflowed: {} of {} lost packets were lost there",
                self.own_drops.min(self.lost()),
                self.lost()
            ));
        }
        faults
    }
}

/// `part` in percent of `whole`, 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_counts_once_whatever_the_order() {
        let mut tracker = Tracker::new(1024);
        let seen: Vec<_> = [0, 1, 3, 2, 2, 3, 4].into_iter().map(|n| tracker.arrive(n)).collect();
        use Arrival::*;
        assert_eq!(seen, [InOrder, InOrder, Ahead, Reordered, Duplicate, Duplicate, InOrder]);
        assert_eq!(tracker.received, 5);
    }

    #[test]
    fn a_window_later_old_bits_are_forgotten_and_older_numbers_are_refused() {
        let mut tracker = Tracker::new(1024);
        (0..1024).for_each(|n| assert_eq!(tracker.arrive(n), Arrival::InOrder));
        assert_eq!(tracker.arrive(2000), Arrival::Ahead);
        assert_eq!(tracker.arrive(1999), Arrival::Reordered, "slot of 975, which was seen");
        assert_eq!(tracker.arrive(977), Arrival::Duplicate);
        assert_eq!(tracker.arrive(976), Arrival::TooOld);
        assert_eq!(tracker.arrive(100_000), Arrival::Ahead);
        assert_eq!(tracker.arrive(99_000), Arrival::Reordered);
    }

    #[test]
    fn numbers_go_on_past_32_bits() {
        let mut tracker = Tracker::new(1024);
        tracker.next = (1 << 32) - 2;
        assert_eq!(tracker.arrive(u32::MAX - 1), Arrival::InOrder);
        assert_eq!(tracker.arrive(u32::MAX), Arrival::InOrder);
        assert_eq!(tracker.arrive(0), Arrival::InOrder);
        assert_eq!(tracker.arrive(u32::MAX), Arrival::Duplicate);
        assert_eq!(tracker.next, (1 << 32) + 1);
    }

    #[test]
    fn a_number_before_the_first_is_refused() {
        assert_eq!(Tracker::new(1).arrive(u32::MAX), Arrival::TooOld);
    }

    #[test]
    fn jitter_is_rfc_3550s() {
        let mut tracker = Tracker::new(1);
        tracker.time(0, 1_000);
        assert_eq!(tracker.jitter_ns, 0.0);
        tracker.time(20_000, 22_600);
        assert_eq!(tracker.jitter_ns, 100.0, "|2600 - 1000| / 16");
        tracker.time(40_000, 41_000);
        assert_eq!(tracker.jitter_ns, 100.0 + (1_600.0 - 100.0) / 16.0);
    }

    #[test]
    fn loss_in_the_generators_own_queue_is_not_the_servers() {
        let stats = GroupStats { sent: 100, received: 90, own_drops: 7, ..GroupStats::default() };
        assert_eq!((stats.lost(), stats.lost_elsewhere()), (10, 3));
        assert_eq!(stats.generator_faults().len(), 1);
    }

    #[test]
    fn a_generator_that_leaves_out_more_than_a_percent_is_the_bottleneck() {
        let left_out = |skipped| GroupStats { scheduled: 1000, skipped, ..GroupStats::default() };
        assert!(!left_out(10).is_generator_bottleneck());
        assert!(left_out(11).is_generator_bottleneck());
        assert_eq!(left_out(10).generator_faults().len(), 1, "but it is said");
    }
}
