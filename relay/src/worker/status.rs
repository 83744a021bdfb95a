//! What a worker lets others see.
//!
//! A few gauges are stored at each turn. All counters together, a [`Report`], are copied at most every
//! [`REPORT_INTERVAL_NS`] while things happen and once after they have stopped happening: what others read
//! is never older than that, and an idle worker is woken about once a second only, to show that it is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use turnpike_driver::clock;
use turnpike_driver::streams::StreamCounters;
use turnpike_proto::stats::{AllocationRecord, EndReason, ServerCounts, Traffic};
use turnpike_proto::{Now, RefusedRequest, Server};

use super::refusals::{RecentRefusal, RecentRefusals};

/// Time between two reports of a worker that has something to say, nanoseconds.
const REPORT_INTERVAL_NS: u64 = 250_000_000;

/// Upper bounds of the buckets that turns are counted in by their duration, nanoseconds.
pub const TURN_BOUNDS_NS: [u64; 12] = [
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

/// How busy a worker was since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Turns of its loop.
    pub turns: u64,
    /// CPU time of its thread, nanoseconds: its own work and that of its system calls.
    pub cpu_ns: u64,
    /// Turns by duration, in the buckets of [`TURN_BOUNDS_NS`] and one above. A datagram that arrives in a
    /// turn waits until its end.
    pub turn_counts: [u64; TURN_BOUNDS_NS.len() + 1],
    /// All turns together, nanoseconds.
    pub turn_sum_ns: u64,
    /// How long it waits for more datagrams at its present load, nanoseconds.
    pub coalesce_ns: u64,
}

/// Everything that a worker counted since its start.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What its server counted.
    pub counts: ServerCounts,
    /// Allocations that have ended, by the name of the reason.
    pub ended: BTreeMap<&'static str, u64>,
    /// What the kernel forwarded for its allocations, to peers and to clients: as of the last walk, and exact
    /// for those that have ended.
    pub kernel: [Traffic; 2],
    /// Allocations that the kernel forwarded for at the last walk.
    pub offloaded: u64,
    /// Its clients' connections over TCP and TLS.
    pub streams: StreamCounters,
    /// How busy it was.
    pub load: Load,
}

/// What a worker lets others see.
#[derive(Debug, Default)]
pub struct Status {
    allocations: AtomicUsize,
    relay_sockets: AtomicUsize,
    turned_ns: AtomicU64,
    report: ArcSwap<Report>,
    refusals: ArcSwap<Vec<RecentRefusal>>,
}

impl Status {
    /// Allocations of this worker.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Its sockets towards peers.
    pub fn relay_sockets(&self) -> usize {
        self.relay_sockets.load(Ordering::Relaxed)
    }

    /// When its last turn began, CLOCK_MONOTONIC in nanoseconds; 0 before the first.
    pub fn turned_ns(&self) -> u64 {
        self.turned_ns.load(Ordering::Relaxed)
    }

    /// Its latest refusals, in no particular order.
    pub fn refusals(&self) -> Arc<Vec<RecentRefusal>> {
        self.refusals.load_full()
    }

    /// All its counters, less than a second old; exact once the worker has stopped.
    pub fn report(&self) -> Arc<Report> {
        self.report.load_full()
    }
}

/// The worker's side of [`Status`]: what it gathers until the next report, and when that is due.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    ended: BTreeMap<&'static str, u64>,
    kernel: [Traffic; 2],
    /// How much of each living allocation's kernel traffic is in `kernel`; only those that have any.
    kernel_seen: HashMap<u64, [Traffic; 2]>,
    offloaded: u64,
    load: Load,
    streams: StreamCounters,
    refusals: RecentRefusals,
    turn_began_ns: Option<u64>,
    reported_ns: u64,
    due_ns: Option<u64>,
}

impl Reporter {
    /// A turn begins.
    pub(crate) fn begin_turn(&mut self, now: Now) {
        self.load.turns += 1;
        self.turn_began_ns = Some(now.mono_ns);
    }

    /// The turn that had begun, if any, has ended.
    pub(crate) fn end_turn(&mut self, now: Now) {
        let Some(began_ns) = self.turn_began_ns.take() else { return };
        let duration_ns = now.mono_ns.saturating_sub(began_ns);
        let bucket = TURN_BOUNDS_NS.partition_point(|bound| *bound < duration_ns);
        self.load.turn_counts[bucket] += 1;
        self.load.turn_sum_ns += duration_ns;
    }

    /// How long the driver waits for more datagrams now, nanoseconds.
    pub(crate) fn note_coalescing(&mut self, coalesce_ns: u64) {
        self.load.coalesce_ns = coalesce_ns;
    }

    /// What there is of streams.
    pub(crate) fn note_streams(&mut self, counters: &StreamCounters) {
        self.streams = *counters;
    }

    /// An allocation has ended.
    pub(crate) fn count_end(&mut self, record: &AllocationRecord) {
        *self.ended.entry(record.reason.name()).or_default() += 1;
        self.see_kernel_traffic(record.id, [record.to_peer.kernel, record.to_client.kernel]);
        self.kernel_seen.remove(&record.id);
    }

    /// Allocations that had ended in the process before this one, by reason.
    pub(crate) fn add_ended(&mut self, ended: &[(String, u64)]) {
        for (name, count) in ended {
            if let Some(reason) = EndReason::ALL.iter().find(|reason| reason.name() == name) {
                *self.ended.entry(reason.name()).or_default() += count;
            }
        }
    }

    /// Allocations that have ended, by reason.
    pub(crate) fn ended(&self) -> &BTreeMap<&'static str, u64> {
        &self.ended
    }

    /// A request was refused.
    pub(crate) fn count_refusal(&mut self, now: Now, request: &RefusedRequest) {
        self.refusals.add(now, request);
    }

    /// Adds what the kernel forwarded for an allocation since it was seen last: so the sum never shrinks,
    /// and keeps what has ended.
    pub(crate) fn see_kernel_traffic(&mut self, allocation: u64, traffic: [Traffic; 2]) {
        if traffic == [Traffic::default(); 2] {
            return;
        }
        let seen = self.kernel_seen.entry(allocation).or_default();
        for ((sum, seen), now) in self.kernel.iter_mut().zip(seen).zip(traffic) {
            // What a device did not send is taken back from the kernel's counts: until others have come, nothing is new.
            let news = |now: u64, seen: &mut u64| {
                let news = now.saturating_sub(*seen);
                *seen = now.max(*seen);
                news
            };
            sum.packets += news(now.packets, &mut seen.packets);
            sum.bytes += news(now.bytes, &mut seen.bytes);
            sum.rate_drops += news(now.rate_drops, &mut seen.rate_drops);
        }
    }

    /// A walk has counted the allocations that the kernel forwards for.
    pub(crate) fn set_offloaded(&mut self, allocations: u64) {
        self.offloaded = allocations;
    }

    /// When the worker has to come back for a report at the latest.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// Stores the gauges; whether a report is due. `eventful`: something happened in this turn.
    pub(crate) fn publish(&mut self, now: Now, server: &Server, status: &Status, eventful: bool) -> bool {
        let counts = server.table_counts();
        status.allocations.store(counts.allocations, Ordering::Relaxed);
        status.relay_sockets.store(counts.relay_sockets, Ordering::Relaxed);
        status.turned_ns.store(now.mono_ns, Ordering::Relaxed);
        if eventful && self.due_ns.is_none() {
            self.due_ns = Some(self.reported_ns.saturating_add(REPORT_INTERVAL_NS).max(now.mono_ns));
        }
        self.due_ns.is_some_and(|due_ns| due_ns <= now.mono_ns)
    }

    /// Copies everything now.
    pub(crate) fn report(&mut self, now: Now, server: &Server, status: &Status) {
        (self.reported_ns, self.due_ns) = (now.mono_ns, None);
        self.load.cpu_ns = clock::thread_cpu_ns();
        if let Some(refusals) = self.refusals.take_changed() {
            status.refusals.store(Arc::new(refusals));
        }
        let report = Report {
            counts: ServerCounts { tcp_relay: server.tcp_relay_counts(), ..server.counts().clone() },
            ended: self.ended.clone(),
            kernel: self.kernel,
            offloaded: self.offloaded,
            streams: self.streams,
            load: self.load.clone(),
        };
        // Whoever reads the last one keeps it: nobody waits for a reader.
        status.report.store(Arc::new(report));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ns: u64) -> Now {
        Now { mono_ns, unix_secs: 0 }
    }

    #[test]
    fn kernel_traffic_is_summed_over_living_and_ended_allocations() {
        let traffic = |packets| Traffic { packets, bytes: packets * 100, rate_drops: 1 };
        let mut reporter = Reporter::default();
        reporter.see_kernel_traffic(1, [traffic(10), traffic(1)]);
        reporter.see_kernel_traffic(2, [traffic(5), Traffic::default()]);
        reporter.see_kernel_traffic(1, [traffic(12), traffic(1)]);
        assert_eq!(reporter.kernel, [Traffic { packets: 17, bytes: 1700, rate_drops: 2 }, traffic(1)]);
        let before = reporter.kernel;
        reporter.see_kernel_traffic(1, [traffic(9), traffic(1)]);
        assert_eq!(reporter.kernel, before, "three were lost after they had been seen");
        reporter.see_kernel_traffic(1, [traffic(13), traffic(1)]);
        assert_eq!(reporter.kernel[0].packets, 18);
        reporter.see_kernel_traffic(3, [Traffic::default(); 2]);
        assert_eq!(reporter.kernel_seen.len(), 2, "nothing is kept for what has no such traffic");
    }

    #[test]
    fn turns_fall_into_the_bucket_that_bounds_them() {
        let mut reporter = Reporter::default();
        for (began, ended) in [(0, 20_000), (0, 20_001), (5, 5), (0, 100_000_001)] {
            reporter.begin_turn(at(began));
            reporter.end_turn(at(ended));
        }
        reporter.end_turn(at(1_000_000_000));
        assert_eq!(reporter.load.turn_counts[0], 2);
        assert_eq!(reporter.load.turn_counts[1], 1);
        assert_eq!(reporter.load.turn_counts[TURN_BOUNDS_NS.len()], 1);
        assert_eq!(reporter.load.turns, 4, "what has not begun does not end");
    }
}
