//! All allocations at one time, taken at most once a second however many ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use turnpike_admin::RelayError;
use turnpike_admin::model;
use turnpike_proto::AllocationView;

use super::ask::ask_all;
use super::command::{Question, WorkerHandle};
use super::convert::{self, Moment, Rates};
use super::lock::lock;

/// A snapshot that is younger is not taken again, nanoseconds: a little less than the ticks that renew it.
const FRESH_NS: u64 = 900_000_000;
/// A snapshot that is younger is good enough for whoever asks; meanwhile the next tick renews it.
const USABLE_NS: u64 = 2_000_000_000;
/// For so long after somebody asked, ticks go on renewing it, so that the next one does not have to wait.
const WANTED_NS: u64 = 5_000_000_000;
/// Allocations for which the last detail is remembered, to tell a rate at the next.
const MAX_SAMPLES: usize = 1024;
/// Rates over less time than this say nothing, nanoseconds.
const MIN_SAMPLE_NS: u64 = 200_000_000;

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
        self.wanted_ns.store(Moment::now().mono_ns, Relaxed);
        match self.younger_than(USABLE_NS) {
            Some(usable) => Ok(usable),
            None => self.renewed(workers).await,
        }
    }

    /// Whether somebody asked for a snapshot lately.
    pub(super) fn are_wanted(&self) -> bool {
        let wanted_ns = self.wanted_ns.load(Relaxed);
        wanted_ns > 0 && Moment::now().mono_ns.saturating_sub(wanted_ns) < WANTED_NS
    }

    /// A new snapshot, unless there is a fresh one.
    pub(super) async fn renewed(&self, workers: &[WorkerHandle]) -> Result<Arc<model::Snapshot>, RelayError> {
        let _taking = self.taking.lock().await;
        // Somebody else may have taken one meanwhile.
        if let Some(fresh) = self.younger_than(FRESH_NS) {
            return Ok(fresh);
        }
        let views = ask_all(workers, Question::Snapshot).await?;
        Ok(self.store(views.into_iter().flatten()))
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

    fn younger_than(&self, limit_ns: u64) -> Option<Arc<model::Snapshot>> {
        let last = self.last.load();
        let age_ns = Moment::now().mono_ns.saturating_sub(last.mono_ns);
        (last.mono_ns > 0 && age_ns < limit_ns).then(|| Arc::clone(&last.snapshot))
    }

    fn store(&self, views: impl Iterator<Item = AllocationView>) -> Arc<model::Snapshot> {
        let (at, last) = (Moment::now(), self.last.load_full());
        let mut bytes = HashMap::with_capacity(last.bytes.len());
        let mut allocations = Vec::with_capacity(last.bytes.len());
        for view in views {
            let now = payload_bytes(&view);
            bytes.insert(view.id, now);
            let before = last.bytes.get(&view.id).map(|bytes| (last.mono_ns, *bytes));
            let (since_ns, before) = before.unwrap_or((view.created_ns, [0; 2]));
            let rates = rates(before, now, at.mono_ns.saturating_sub(since_ns));
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
        if samples.len() >= MAX_SAMPLES && !samples.contains_key(&view.id) {
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
    use super::*;

    #[test]
    fn rates_are_bits_of_payload_per_second() {
        assert_eq!(rates([1_000, 0], [126_000, 250], 1_000_000_000), [1_000_000, 2_000]);
        assert_eq!(rates([0, 5], [1_000, 0], 500_000_000), [16_000, 0], "never negative");
        assert_eq!(rates([0, 0], [1_000, 0], 0), [8_000_000, 0], "a moment is a millisecond");
    }
}
