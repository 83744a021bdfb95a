//! What others may know about the kernel data path: written by the mirror, read on demand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use turnpike_abi::Verdict;

use super::losses::Sent;
use super::maps::Counters;
use super::xdp::Mode;

/// The kernel data path as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffloadStatus {
    /// Whether packets are forwarded in the kernel, on at least one interface.
    pub active: bool,
    /// How the program gets its frames; `None` while it is nowhere attached.
    pub mode: Option<Mode>,
    /// Why it is active or not, one line for the operator.
    pub why: String,
    /// Whether it is not active only because nothing comes of it: any client can bring that about, on a relay without
    /// others.
    pub is_idle: bool,
    /// The interfaces that were chosen.
    pub interfaces: Vec<InterfaceStatus>,
    /// Entries of the route map: two for each binding in the kernel.
    pub routes: u64,
    /// Channel bindings that the kernel forwards for.
    pub bindings: u64,
    /// Channel bindings that wait in userspace until something changes, a next hop for instance.
    pub waiting: u64,
    /// Routes that were not as they should be when they were compared; 0 is expected.
    pub resync_differences: u64,
    /// Commands of the workers that wait for the mirror.
    pub queue_length: u64,
    /// How long ago the mirror's last turn began; `None` while there is no mirror. It turns at least once a second.
    pub heartbeat_age: Option<Duration>,
    /// Datagrams of channels that came to userspace although their allocations are the kernel's to forward for.
    pub missed: u64,
    /// What the program did with frames, by [`Verdict`], over all CPUs; only those that happened.
    pub verdicts: Vec<(Verdict, u64)>,
}

/// An interface that was chosen for the kernel data path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// The interface's name.
    pub name: String,
    /// The kernel's index; 0 while there is no such interface.
    pub ifindex: u32,
    /// Whether the program is there.
    pub attached: bool,
    /// Why it is, or isn't.
    pub why: String,
    /// Whether what is sent by it goes through the kernel: it is attached, and does not lose what it is given.
    pub forwards: bool,
    /// Its place in the program's configuration, and what had been sent by that place before.
    pub(super) place: Option<(usize, Sent)>,
    /// What the program sent by it, and what of that was lost.
    pub sent: Sent,
}

/// What times are counted from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where the mirror writes and everybody else reads.
#[derive(Default)]
pub struct StatusCell {
    state: Mutex<OffloadStatus>,
    routes: AtomicU64,
    bindings: AtomicU64,
    waiting: AtomicU64,
    differences: AtomicU64,
    queue: AtomicU64,
    stale: AtomicBool,
    /// Why nothing is forwarded, although it could be.
    idle: Mutex<Option<String>>,
    /// Datagrams that workers forwarded for the kernel.
    missed: AtomicU64,
    /// Turns of the mirror, and when the last one began, in nanoseconds since [`ORIGIN`]; 0 without a mirror.
    turns: AtomicU64,
    turned_ns: AtomicU64,
    counters: Option<Arc<Counters>>,
}

impl StatusCell {
    /// A relay without a kernel data path, and why.
    pub fn off(why: impl Into<String>) -> StatusCell {
        let cell = StatusCell::default();
        cell.set_state(OffloadStatus { why: why.into(), ..OffloadStatus::default() });
        cell
    }

    /// One whose program counts there.
    pub fn with_counters(counters: Arc<Counters>) -> StatusCell {
        StatusCell { counters: Some(counters), ..StatusCell::default() }
    }

    /// Everything as of now. Reads the counters of each CPU: for people and scrapes, not for packets.
    pub fn read(&self) -> OffloadStatus {
        let mut state = self.state();
        let mut interfaces = std::mem::take(&mut state.interfaces);
        if let Some(sent) = self.counters.as_ref().and_then(|counters| counters.sent().ok()) {
            for interface in &mut interfaces {
                interface.sent =
                    interface.place.map_or(interface.sent, |(place, before)| sent[place].since(before));
            }
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(why) = idle.filter(|_| state.active) {
            (state.active, state.why, state.is_idle) = (false, why, true);
        }
        OffloadStatus {
            missed: self.missed.load(Relaxed),
            routes: self.routes.load(Relaxed),
            bindings: self.bindings.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            resync_differences: self.differences.load(Relaxed),
            queue_length: self.queue.load(Relaxed),
            heartbeat_age: self.heartbeat_age(),
            verdicts: self.counters.as_ref().map_or_else(Vec::new, |counters| nonzero(counters)),
            interfaces,
            ..state
        }
    }

    /// What was set last by `set_state`.
    pub fn state(&self) -> OffloadStatus {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What seldom changes: activity, mode, interfaces.
    pub fn set_state(&self, state: OffloadStatus) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Nothing is forwarded although it could be, and why; `None`: something is.
    pub fn set_idle(&self, why: Option<String>) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// So many datagrams more came to userspace although they were the kernel's to forward.
    pub fn add_missed(&self, datagrams: u64) {
        self.missed.fetch_add(datagrams, Relaxed);
    }

    /// How many did so far.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// What every round may change.
    pub fn set_counts(&self, counts: Counts) {
        self.stale.store(false, Relaxed);
        self.routes.store(counts.routes, Relaxed);
        self.bindings.store(counts.bindings, Relaxed);
        self.waiting.store(counts.waiting, Relaxed);
        self.differences.store(counts.differences, Relaxed);
    }

    /// The counts are not what they were.
    pub fn set_stale(&self) {
        self.stale.store(true, Relaxed);
    }

    /// Whether the counts have to be set again.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Relaxed)
    }

    /// A turn of the mirror begins.
    pub fn begin_turn(&self) {
        // Stores alone: whoever reads waits for nobody, and a mirror that stands still holds nobody up.
        self.turned_ns.store((ORIGIN.elapsed().as_nanos() as u64).max(1), Relaxed);
        self.turns.fetch_add(1, Relaxed);
    }

    /// There will be no other turn.
    pub fn end_turns(&self) {
        self.turned_ns.store(0, Relaxed);
    }

    /// Turns of the mirror so far; `None` without a mirror.
    pub fn turns(&self) -> Option<u64> {
        (self.turned_ns.load(Relaxed) != 0).then(|| self.turns.load(Relaxed))
    }

    fn heartbeat_age(&self) -> Option<Duration> {
        let turned_ns = self.turned_ns.load(Relaxed);
        (turned_ns != 0).then(|| ORIGIN.elapsed().saturating_sub(Duration::from_nanos(turned_ns)))
    }

    /// How many commands wait.
    pub fn set_queue(&self, length: usize) {
        self.queue.store(length as u64, Relaxed);
    }
}

/// Numbers that every round may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries of the route map.
    pub routes: u64,
    /// Channel bindings in the kernel.
    pub bindings: u64,
    /// Channel bindings that wait.
    pub waiting: u64,
    /// Differences that were found so far.
    pub differences: u64,
}

fn nonzero(counters: &Counters) -> Vec<(Verdict, u64)> {
    let Ok(counts) = counters.verdicts() else { return Vec::new() };
    Verdict::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_without_a_kernel_data_path_says_why() {
        let status = StatusCell::off("offload is off").read();
        assert!(!status.active && status.mode.is_none() && status.verdicts.is_empty());
        assert_eq!(status.why, "offload is off");
    }

    #[test]
    fn counts_and_state_are_read_together() {
        let cell = StatusCell::default();
        cell.set_state(OffloadStatus { active: true, mode: Some(Mode::Native), ..OffloadStatus::default() });
        cell.set_counts(Counts { routes: 4, bindings: 2, waiting: 1, differences: 0 });
        cell.set_queue(3);
        let status = cell.read();
        assert!(status.active);
        assert_eq!((status.routes, status.bindings, status.waiting), (4, 2, 1));
        assert_eq!((status.queue_length, status.resync_differences), (3, 0));
    }

    #[test]
    fn what_forwards_nothing_is_not_active() {
        let cell = StatusCell::default();
        cell.set_state(OffloadStatus {
            active: true,
            why: "native XDP".to_owned(),
            ..OffloadStatus::default()
        });
        cell.set_idle(Some("nothing comes of it".to_owned()));
        cell.add_missed(3);
        let status = cell.read();
        assert_eq!((status.active, status.why.as_str(), status.missed), (false, "nothing comes of it", 3));
        assert!(status.is_idle);
        // What is not even attached has another reason.
        cell.set_state(OffloadStatus { why: "no driver".to_owned(), ..OffloadStatus::default() });
        assert_eq!((cell.read().why.as_str(), cell.read().is_idle), ("no driver", false));
        cell.set_idle(None);
        cell.set_state(OffloadStatus { active: true, ..OffloadStatus::default() });
        assert!(cell.read().active);
    }

    #[test]
    fn a_mirror_has_a_heartbeat_as_long_as_it_turns() {
        let cell = StatusCell::default();
        assert_eq!((cell.turns(), cell.read().heartbeat_age), (None, None));
        cell.begin_turn();
        cell.begin_turn();
        assert_eq!(cell.turns(), Some(2));
        let ages = [cell.read().heartbeat_age, cell.read().heartbeat_age].map(|age| age.expect("it turns"));
        assert!(ages[0] <= ages[1], "{ages:?}");
        cell.end_turns();
        assert_eq!((cell.turns(), cell.read().heartbeat_age), (None, None));
    }
}
