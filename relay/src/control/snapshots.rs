//! All allocations at one time: what whoever asks gets began at most a second before, and a worker is walked
//! through about once a second, however many ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use turnpike_admin::RelayError;
use turnpike_admin::model;
use turnpike_proto::AllocationView;

use super::ask::ask_all;
use super::convert::{self, Moment, Rates};
use super::lock::lock;
use crate::limits::MAX_RATE_SAMPLES;
use crate::worker::{Question, WorkerHandle};

/// A snapshot that is younger is not taken again, nanoseconds: a little less than the ticks that renew it.
const FRESH_NS: u64 = 900_000_000;
/// A snapshot that is not older is good enough for whoever asks, nanoseconds: what the API promises.
const USABLE_NS: u64 = 1_000_000_000;
/// For so long after somebody asked, ticks go on renewing it, so that the next one does not have to wait.
const WANTED_NS: u64 = 5_000_000_000;
/// Rates over less time than this say nothing, nanoseconds.
const MIN_SAMPLE_NS: u64 = 200_000_000;

/// A walk over the tables of all workers that is under way.
trait Walk: Future<Output = Result<Vec<Vec<AllocationView>>, RelayError>> {}

impl<T: Future<Output = Result<Vec<Vec<AllocationView>>, RelayError>>> Walk for T {}

/// The last snapshot, and what the next one is compared with.
#[derive(Default)]
pub(super) struct Snapshots {
    last: ArcSwap<Taken>,
    taking: tokio::sync::Mutex<()>,
    wanted_ns: AtomicU64,
    /// Rate drops of each allocation at the last look for limited ones; only those that have any.
    limited: std::sync::Mutex<HashMap<u64, u64>>,
    samples: std::sync::Mutex<HashMap<u64, Sample>>,
}

#[derive(Default)]
struct Taken {
    snapshot: Arc<model::Snapshot>,
    mono_ns: u64,
    bytes: HashMap<u64, [u64; 2]>,
}

/// What an allocation had forwarded when somebody looked at it.
#[derive(Clone, Copy, Default)]
struct Sample {
    mono_ns: u64,
    bytes: [u64; 2],
    rates: Rates,
}

impl Snapshots {
    /// The last snapshot if it is young enough, else a new one.
    pub(super) async fn recent(&self, workers: &[WorkerHandle]) -> Result<Arc<model::Snapshot>, RelayError> {
        self.recent_at(Moment::now, || ask_all(workers, Question::Snapshot)).await
    }

    /// Whether somebody asked for a snapshot lately.
    pub(super) fn are_wanted(&self) -> bool {
        self.are_wanted_at(Moment::now())
    }

    /// A new snapshot, unless there is a fresh one.
    pub(super) async fn renewed(&self, workers: &[WorkerHandle]) -> Result<Arc<model::Snapshot>, RelayError> {
        self.renewed_at(Moment::now, || ask_all(workers, Question::Snapshot)).await
    }

    /// One allocation's rates since it was looked at before.
    pub(super) fn rates_of(&self, view: &AllocationView, at: Moment) -> Rates {
        let last = self.last.load();
        let from_snapshot = last.bytes.get(&view.id).map(|bytes| (last.mono_ns, *bytes));
        self.sample(view, at, from_snapshot)
    }

    /// Allocations whose limit has dropped something since the last call.
    pub(super) fn newly_limited(&self, snapshot: &model::Snapshot) -> Vec<model::Limited> {
        let mut before = lock(&self.limited);
        let drops = |allocation: &model::Allocation| {
            allocation.to_peer.total().rate_drops + allocation.to_client.total().rate_drops
        };
        let now: HashMap<u64, u64> = snapshot
            .allocations
            .iter()
            .map(|allocation| (allocation.id.0, drops(allocation)))
            .filter(|(_, drops)| *drops > 0)
            .collect();
        let has_grown = |allocation: &&model::Allocation| {
            let drops = now.get(&allocation.id.0).copied().unwrap_or(0);
            drops > before.get(&allocation.id.0).copied().unwrap_or(0)
        };
        let limited = snapshot.allocations.iter().filter(has_grown).map(|allocation| model::Limited {
            id: allocation.id,
            user: allocation.user.to_string(),
            why: model::LimitedWhy::Reached,
            max_bits_per_sec: allocation.max_bits_per_sec,
            rate_drops: drops(allocation),
        });
        let limited = limited.collect();
        *before = now;
        limited
    }

    async fn recent_at<W: Walk>(
        &self,
        clock: impl Fn() -> Moment,
        walk: impl FnOnce() -> W,
    ) -> Result<Arc<model::Snapshot>, RelayError> {
        let asked = clock();
        self.wanted_ns.store(asked.mono_ns, Relaxed);
        match self.not_older_than(USABLE_NS, asked) {
            Some(usable) => Ok(usable),
            None => self.renewed_at(clock, walk).await,
        }
    }

    async fn renewed_at<W: Walk>(
        &self,
        clock: impl Fn() -> Moment,
        walk: impl FnOnce() -> W,
    ) -> Result<Arc<model::Snapshot>, RelayError> {
        let _taking = self.taking.lock().await;
        // What the walk finds is from its time or later: it is never older than it says.
        let began = clock();
        if let Some(fresh) = self.not_older_than(FRESH_NS, began) {
            return Ok(fresh);
        }
        let views = walk().await?;
        Ok(self.store(began, clock(), views.into_iter().flatten()))
    }

    fn are_wanted_at(&self, now: Moment) -> bool {
        let wanted_ns = self.wanted_ns.load(Relaxed);
        wanted_ns > 0 && now.mono_ns.saturating_sub(wanted_ns) < WANTED_NS
    }

    fn not_older_than(&self, limit_ns: u64, now: Moment) -> Option<Arc<model::Snapshot>> {
        let last = self.last.load();
        let age_ns = now.mono_ns.saturating_sub(last.mono_ns);
        (last.mono_ns > 0 && age_ns <= limit_ns).then(|| Arc::clone(&last.snapshot))
    }

    /// Keeps what a walk between these moments has found.
    fn store(
        &self,
        at: Moment,
        ended: Moment,
        views: impl Iterator<Item = AllocationView>,
    ) -> Arc<model::Snapshot> {
        let last = self.last.load_full();
        let mut bytes = HashMap::with_capacity(last.bytes.len());
        let mut allocations = Vec::with_capacity(last.bytes.len());
        for view in views {
            let now = payload_bytes(&view);
            bytes.insert(view.id, now);
            // Those that are new may have come during the walk.
            let (elapsed_ns, before) = match last.bytes.get(&view.id) {
                Some(bytes) => (at.mono_ns.saturating_sub(last.mono_ns), *bytes),
                None => (ended.mono_ns.saturating_sub(view.created_ns), [0; 2]),
            };
            let rates = rates(before, now, elapsed_ns);
            allocations.push(convert::allocation(view, at, rates));
        }
        let snapshot = Arc::new(model::Snapshot {
            as_of_unix_millis: at.unix_millis(),
            serial: last.snapshot.serial + 1,
            allocations,
        });
        let taken = Taken { snapshot: Arc::clone(&snapshot), mono_ns: at.mono_ns, bytes };
        self.last.store(Arc::new(taken));
        snapshot
    }

    fn sample(&self, view: &AllocationView, at: Moment, from_snapshot: Option<(u64, [u64; 2])>) -> Rates {
        let mut samples = lock(&self.samples);
        let now = payload_bytes(view);
        let before = samples.get(&view.id).copied();
        if let Some(sample) = before
            && at.mono_ns.saturating_sub(sample.mono_ns) < MIN_SAMPLE_NS
        {
            return sample.rates;
        }
        // The younger of the two, since it tells the current rate.
        let own = before.map(|sample| (sample.mono_ns, sample.bytes));
        let usable = |(mono_ns, _): &(u64, [u64; 2])| at.mono_ns.saturating_sub(*mono_ns) >= MIN_SAMPLE_NS;
        let since = own.into_iter().chain(from_snapshot).filter(usable).max_by_key(|(mono_ns, _)| *mono_ns);
        let (since_ns, then) = since.unwrap_or((view.created_ns, [0; 2]));
        let rates = rates(then, now, at.mono_ns.saturating_sub(since_ns));
        if samples.len() >= MAX_RATE_SAMPLES && !samples.contains_key(&view.id) {
            samples.clear();
        }
        samples.insert(view.id, Sample { mono_ns: at.mono_ns, bytes: now, rates });
        rates
    }
}

fn payload_bytes(view: &AllocationView) -> [u64; 2] {
    [view.to_peer.total().bytes, view.to_client.total().bytes]
}

fn rates(before: [u64; 2], now: [u64; 2], elapsed_ns: u64) -> Rates {
    let rate = |direction: usize| {
        let bits = u128::from(now[direction].saturating_sub(before[direction])) * 8;
        let per_sec = bits * 1_000_000_000 / u128::from(elapsed_ns.max(1_000_000));
        u64::try_from(per_sec).unwrap_or(u64::MAX)
    };
    [rate(0), rate(1)]
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const MS: u64 = 1_000_000;

    /// A relay without allocations whose walks take a while, on a clock of its own.
    #[derive(Default)]
    struct Walked {
        snapshots: Snapshots,
        now_ms: Cell<u64>,
        walk_takes_ms: Cell<u64>,
        walks: Cell<u32>,
    }

    impl Walked {
        fn now(&self) -> Moment {
            Moment::at_ns(self.now_ms.get() * MS)
        }

        async fn walk(&self) -> Result<Vec<Vec<AllocationView>>, RelayError> {
            self.walks.set(self.walks.get() + 1);
            self.now_ms.set(self.now_ms.get() + self.walk_takes_ms.get());
            Ok(Vec::new())
        }

        /// Somebody asks at this time; answers when what he gets is from, milliseconds.
        async fn ask(&self, at_ms: u64) -> u64 {
            self.now_ms.set(at_ms);
            let snapshot = self.snapshots.recent_at(|| self.now(), || self.walk()).await;
            snapshot.expect("a walk").as_of_unix_millis
        }

        /// What is done each second.
        async fn tick(&self, at_ms: u64) -> u64 {
            self.now_ms.set(at_ms);
            let snapshot = self.snapshots.renewed_at(|| self.now(), || self.walk()).await;
            snapshot.expect("a walk").as_of_unix_millis
        }
    }

    #[tokio::test]
    async fn a_snapshot_is_from_a_second_ago_at_the_most() {
        let relay = Walked::default();
        relay.walk_takes_ms.set(40);
        for at_ms in (10_000..20_000).step_by(130) {
            let as_of_ms = relay.ask(at_ms).await;
            assert!(at_ms - as_of_ms <= 1_000, "asked at {at_ms}, from {as_of_ms}");
        }
        assert!(relay.walks.get() <= 10, "{} walks in ten seconds", relay.walks.get());
    }

    #[tokio::test]
    async fn a_snapshot_says_when_its_walk_began() {
        let relay = Walked::default();
        relay.walk_takes_ms.set(700);
        assert_eq!(relay.ask(10_000).await, 10_000);
        assert_eq!(relay.ask(11_000).await, 10_000, "a second old");
        assert_eq!(relay.ask(11_001).await, 11_001, "older");
    }

    #[tokio::test]
    async fn a_tick_renews_it_for_whoever_asks_between() {
        let relay = Walked::default();
        relay.walk_takes_ms.set(5);
        for second in 10..20 {
            // Ticks are some milliseconds late, or less late than the one before.
            assert_eq!(relay.tick(second * 1_000 + second % 3).await, second * 1_000 + second % 3);
            relay.ask(second * 1_000 + 950).await;
        }
        assert_eq!(relay.walks.get(), 10, "nobody who asked had to wait for a walk");
    }

    #[tokio::test]
    async fn it_is_wanted_for_a_while_after_somebody_asked() {
        let relay = Walked::default();
        assert!(!relay.snapshots.are_wanted_at(Moment::at_ns(10_000 * MS)));
        relay.ask(10_000).await;
        assert!(relay.snapshots.are_wanted_at(Moment::at_ns(14_999 * MS)));
        assert!(!relay.snapshots.are_wanted_at(Moment::at_ns(15_000 * MS)));
    }

    #[test]
    fn rates_are_bits_of_payload_per_second() {
        assert_eq!(rates([1_000, 0], [126_000, 250], 1_000_000_000), [1_000_000, 2_000]);
        assert_eq!(rates([0, 5], [1_000, 0], 500_000_000), [16_000, 0], "never negative");
        assert_eq!(rates([0, 0], [1_000, 0], 0), [8_000_000, 0], "a moment is a millisecond");
    }
}
