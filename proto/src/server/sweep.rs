//! What concerns many allocations at once: done a part at a time, by one tick after the other.
//!
//! A [`Budget`] bounds each tick, so that no datagram waits for the whole. What waits for its turn is in order
//! meanwhile: what has come to its end is dead by the clock, and while a stricter policy is on its way through
//! the table, channels ask it as everything else does.

use std::sync::Arc;

use super::Server;
use crate::addr::Family;
use crate::io::{Now, Output};
use crate::limits::{MAX_DISCONNECTING, MAX_ENDED, MAX_ENTRIES_ENDED, MAX_PLACES_WALKED};
use crate::migrate::SnapshotError;
use crate::migrate::images::{SweepImage, plausible};
use crate::stats::EndReason;
use crate::table::{Allocation, AllocationId};

/// What one tick may still do.
pub(super) struct Budget {
    allocations: usize,
    entries: usize,
}

impl Budget {
    pub(super) fn of_a_tick() -> Self {
        Self { allocations: MAX_ENDED, entries: MAX_ENTRIES_ENDED }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.allocations == 0 || self.entries == 0
    }

    /// An allocation was ended, or looked at with everything that it has.
    pub(super) fn spend_allocation(&mut self, entries: usize) {
        self.allocations = self.allocations.saturating_sub(1);
        self.spend_entries(entries);
    }

    /// So many permissions, channels or deadlines.
    pub(super) fn spend_entries(&mut self, entries: usize) {
        self.entries = self.entries.saturating_sub(entries);
    }
}

/// What is done to each allocation.
enum Task {
    /// End it.
    EndAll,
    /// End it if its client talks UDP: another process goes on with it.
    EndMoved,
    /// End it if its user is no longer known; take back what the policy in force would not give.
    Recheck,
    /// End it if it is this user's.
    EndUser { user: Arc<str>, ended: u64 },
}

/// A task on its way through the table.
struct Sweep {
    task: Task,
    /// Where it goes on.
    place: u32,
    /// It concerns allocations with lower numbers only: those that existed when it was wanted.
    below: u64,
}

/// Tasks in the order in which they were wanted.
#[derive(Default)]
pub(super) struct Sweeps {
    waiting: std::collections::VecDeque<Sweep>,
    /// One of them is [`Task::Recheck`].
    rechecking: bool,
}

impl Sweeps {
    /// For a snapshot.
    pub(super) fn image(&self) -> Vec<SweepImage> {
        let image = |sweep: &Sweep| match &sweep.task {
            Task::EndAll => SweepImage::EndAll,
            // Whoever leaves is not exported again; a check does no harm.
            Task::Recheck | Task::EndMoved => SweepImage::Recheck,
            Task::EndUser { user, ended } => {
                SweepImage::EndUser { user: Arc::clone(user), ended: *ended, below: sweep.below }
            }
        };
        self.waiting.iter().map(image).collect()
    }

    /// Takes what a snapshot says; each begins again, which changes nothing where it has been. `below` says up to which
    /// number one goes.
    pub(super) fn adopt(
        &mut self,
        image: &[SweepImage],
        below: impl Fn(u64) -> u64,
    ) -> Result<(), SnapshotError> {
        for sweep in image.iter().take(2 + MAX_DISCONNECTING) {
            match sweep {
                SweepImage::EndAll => self.push(Task::EndAll, u64::MAX),
                SweepImage::Recheck => self.push(Task::Recheck, u64::MAX),
                SweepImage::EndUser { user, ended, below: old } => {
                    let (user, ended) = (Arc::clone(user), plausible(*ended)?);
                    self.push(Task::EndUser { user, ended }, below(*old));
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Some channel may still be bound to a peer that the policy in force refuses.
    #[inline]
    pub(super) fn is_rechecking(&self) -> bool {
        self.rechecking
    }

    pub(super) fn is_ending_all(&self) -> bool {
        self.waiting.iter().any(|sweep| matches!(sweep.task, Task::EndAll))
    }

    /// Whether a sweep that does this is still at its beginning.
    fn has_fresh(&self, is_it: impl Fn(&Task) -> bool) -> bool {
        self.waiting.iter().any(|sweep| sweep.place == 0 && is_it(&sweep.task))
    }

    fn push(&mut self, task: Task, below: u64) {
        self.rechecking |= matches!(task, Task::Recheck);
        self.waiting.push_back(Sweep { task, place: 0, below });
    }

    fn finish_first(&mut self) -> Option<Task> {
        let sweep = self.waiting.pop_front()?;
        self.rechecking = self.waiting.iter().any(|sweep| matches!(sweep.task, Task::Recheck));
        Some(sweep.task)
    }
}

impl Server {
    /// Every allocation ends, with the ticks that follow.
    pub(super) fn end_all(&mut self) {
        if !self.sweeps.has_fresh(|task| matches!(task, Task::EndAll)) {
            self.sweeps.push(Task::EndAll, u64::MAX);
        }
    }

    /// What another process goes on with ends, with the ticks that follow.
    pub(super) fn end_moved(&mut self) {
        self.sweeps.push(Task::EndMoved, u64::MAX);
    }

    /// Every allocation is checked against policy and users in force, with the ticks that follow. New ones are
    /// checked when they are made.
    pub(super) fn recheck_all(&mut self) {
        self.checked_credentials = self.shared.auth.version();
        if !self.sweeps.has_fresh(|task| matches!(task, Task::Recheck)) {
            self.sweeps.push(Task::Recheck, u64::MAX);
        }
    }

    /// Ends what a user has now, with the ticks that follow; the count comes with the last of them.
    pub(super) fn disconnect_user(&mut self, user: Arc<str>) {
        let is_theirs = |sweep: &&Sweep| matches!(sweep.task, Task::EndUser { .. });
        if self.sweeps.waiting.iter().filter(is_theirs).count() >= MAX_DISCONNECTING {
            return self.outputs.push_back(Output::UserDisconnected { user, allocations: None });
        }
        let below = self.table.next_number();
        self.sweeps.push(Task::EndUser { user, ended: 0 }, below);
    }

    /// Goes on with what waits.
    pub(super) fn sweep(&mut self, now: Now, budget: &mut Budget) {
        while !budget.is_spent()
            && let Some(first) = self.sweeps.waiting.front()
        {
            let (part, mut next) = self.part_of(first, budget.allocations);
            for (id, entries) in part {
                if budget.is_spent() {
                    next = Some(id.place());
                    break;
                }
                budget.spend_allocation(entries);
                self.sweep_one(now, id);
            }
            let Some(place) = next else {
                self.finish_sweep();
                continue;
            };
            self.sweeps.waiting[0].place = place;
            // As many places are enough for one tick, however few allocations were there.
            return;
        }
    }

    /// The next allocations that a sweep concerns, with how much they have, and where it goes on.
    fn part_of(&self, sweep: &Sweep, max: usize) -> (Vec<(AllocationId, usize)>, Option<u32>) {
        let (found, next) = self.table.walk(sweep.place, MAX_PLACES_WALKED);
        let mut found = found.filter(|(_, allocation)| allocation.number() < sweep.below);
        let part = found.by_ref().take(max).map(|(id, allocation)| (id, allocation.entries())).collect();
        (part, found.next().map(|(id, _)| id.place()).or(next))
    }

    fn sweep_one(&mut self, now: Now, id: AllocationId) {
        let Some(Sweep { task, .. }) = self.sweeps.waiting.front() else { return };
        let Some(allocation) = self.table.get(id) else { return };
        match task {
            Task::EndAll => self.end_allocation(now, id, EndReason::Shutdown),
            Task::EndMoved if !allocation.path().five_tuple.transport.is_stream() => {
                self.end_allocation(now, id, EndReason::Shutdown);
            }
            Task::EndMoved => {}
            Task::Recheck if !self.shared.auth.knows(allocation.identity()) => {
                self.end_allocation(now, id, EndReason::UserRemoved);
            }
            Task::Recheck => {
                let policy = self.shared.policy();
                self.table.retain_permissions(id, |ip, _| policy.check_ip(ip).is_ok());
                self.table.retain_channels(id, |channel| {
                    channel.is_internal() == self.shared.is_relayed(channel.peer())
                        && self.shared.may_be_peer(channel.peer())
                });
                self.recheck_connections(id);
            }
            Task::EndUser { user, .. } if is_of(allocation, user) => {
                let before = self.counts.allocations_ended;
                self.end_allocation(now, id, EndReason::Disconnected);
                let more = self.counts.allocations_ended - before;
                if let Some(Sweep { task: Task::EndUser { ended, .. }, .. }) = self.sweeps.waiting.front_mut()
                {
                    *ended += more;
                }
            }
            Task::EndUser { .. } => {}
        }
    }

    fn finish_sweep(&mut self) {
        if let Some(Task::EndUser { user, ended }) = self.sweeps.finish_first() {
            self.outputs.push_back(Output::UserDisconnected { user, allocations: Some(ended) });
        }
    }

    pub(super) fn end_allocation(&mut self, now: Now, id: AllocationId, reason: EndReason) {
        for family in [Family::V4, Family::V6] {
            self.end_half(now, id, family, reason);
        }
    }
}

/// By the full name, or the part that quotas go by.
fn is_of(allocation: &Allocation, user: &str) -> bool {
    *allocation.identity().user == *user || *allocation.identity().quota_user == *user
}
