//! What ends when: an ordered set of deadlines, one entry for each thing that can expire.
//!
//! A refresh doesn't move its entry: the entry fires at the old deadline, sees the new one and
//! goes back. A removal takes its entry along, so the set never holds more than what lives.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::id::AllocationId;
use crate::addr::Family;
use crate::io::Reason;

/// What a deadline belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timed {
    /// A relayed transport address of an allocation (a dual allocation has two).
    Relay(AllocationId, Family),
    /// A permission.
    Permission(AllocationId, IpAddr),
    /// A channel binding.
    Channel(AllocationId, u16),
    /// A port reserved on behalf of one of this worker's clients.
    Reservation([u8; 8]),
}

impl Timed {
    fn reason(self) -> Reason {
        match self {
            Timed::Relay(..) => Reason::Allocation,
            Timed::Permission(..) => Reason::Permission,
            Timed::Channel(..) => Reason::Channel,
            Timed::Reservation(..) => Reason::Reservation,
        }
    }
}

/// The deadlines of one worker.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    entries: BTreeSet<(u64, Timed)>,
}

impl Timers {
    pub(crate) fn add(&mut self, deadline_ns: u64, what: Timed) {
        self.entries.insert((deadline_ns, what));
    }

    pub(crate) fn remove(&mut self, deadline_ns: u64, what: Timed) {
        self.entries.remove(&(deadline_ns, what));
    }

    /// The next deadline and what it is about.
    pub(crate) fn next(&self) -> Option<(u64, Reason)> {
        self.entries.first().map(|&(deadline_ns, what)| (deadline_ns, what.reason()))
    }

    /// Takes one entry that is due.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Timed> {
        match self.entries.first() {
            Some(&(deadline_ns, _)) if deadline_ns <= now_ns => {
                self.entries.pop_first().map(|(_, what)| what)
            }
            _ => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
