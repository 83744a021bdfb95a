//! What ends when: an ordered set of deadlines, one entry for each thing that can expire.
//!
//! A refresh doesn't move its entry: the entry fires at the old deadline, sees the new one and
//! goes back. A removal takes its entry along, so the set never holds more than what lives.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{AllocationId, Released, Table};
use crate::addr::Family;
use crate::io::{ConnectionId, Reason, RelaySocket};

/// When something ends, and where its deadline stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    pub(super) ends_ns: u64,
    pub(super) timer_ns: u64,
}

/// What a deadline belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timed {
    /// A relayed transport address of an allocation (a dual allocation has two).
    Half(AllocationId, Family),
    /// A permission.
    Permission(AllocationId, IpAddr),
    /// A channel binding.
    Channel(AllocationId, u16),
    /// A connection with a peer that has to come further.
    Connection(ConnectionId),
    /// A port reserved on behalf of one of this worker's clients.
    Reservation([u8; 8]),
    /// A relay socket whose half has ended, and which the kernel plane has not forgotten.
    Port(RelaySocket),
    /// An allocation that has ended, and which the kernel plane has not forgotten.
    Ending(AllocationId),
}

impl Timed {
    fn reason(self) -> Reason {
        match self {
            Timed::Half(..) => Reason::Allocation,
            Timed::Permission(..) => Reason::Permission,
            Timed::Channel(..) => Reason::Channel,
            Timed::Connection(..) => Reason::Connection,
            Timed::Reservation(..) => Reason::Reservation,
            Timed::Port(..) | Timed::Ending(..) => Reason::Forgetting,
        }
    }
}

/// The deadlines of one worker.
#[derive(Debug, Default)]
pub(super) struct Timers {
    entries: BTreeSet<(u64, Timed)>,
}

/// What has come to its end.
pub(crate) enum Due {
    /// A relayed transport address of an allocation: still there, to be taken away.
    Half(AllocationId, Family),
    /// A connection with a peer has not come further in time: still there, to be taken away.
    Connection(ConnectionId),
    /// A reservation: its port is to be given back.
    Reservation([u8; 8]),
    /// The kernel plane is not waited for any longer.
    Forgotten(Released),
    /// Nothing is left to be done: a permission or channel has gone, or something lives longer by now.
    Settled,
}

impl Expiry {
    /// Of what has not begun to live.
    pub(super) const NEVER: Self = Self::at(u64::MAX);

    pub(super) const fn at(ends_ns: u64) -> Self {
        Self { ends_ns, timer_ns: ends_ns }
    }

    #[inline]
    pub(super) fn lives(&self, now_ns: u64) -> bool {
        self.ends_ns > now_ns
    }

    /// Another end. Only if it is earlier than the deadline is the latter moved.
    pub(super) fn move_to(&mut self, ends_ns: u64, what: Timed, timers: &mut Timers) {
        self.ends_ns = ends_ns;
        if ends_ns < self.timer_ns {
            timers.remove(self.timer_ns, what);
            self.rearm(what, timers);
        }
    }

    /// Called when its deadline has been taken out: `true` if the end has come, else the deadline goes back to
    /// where the end is now.
    pub(super) fn is_due(&mut self, now_ns: u64, what: Timed, timers: &mut Timers) -> bool {
        let is_due = !self.lives(now_ns);
        if !is_due {
            self.rearm(what, timers);
        }
        is_due
    }

    fn rearm(&mut self, what: Timed, timers: &mut Timers) {
        self.timer_ns = self.ends_ns;
        timers.add(self.timer_ns, what);
    }
}

impl Timers {
    pub(super) fn add(&mut self, deadline_ns: u64, what: Timed) {
        self.entries.insert((deadline_ns, what));
    }

    pub(super) fn remove(&mut self, deadline_ns: u64, what: Timed) {
        self.entries.remove(&(deadline_ns, what));
    }

    /// The next deadline and what it is about.
    pub(super) fn next(&self) -> Option<(u64, Reason)> {
        self.entries.first().map(|&(deadline_ns, what)| (deadline_ns, what.reason()))
    }

    /// Those of a kind up to a time.
    pub(super) fn until(&self, last_ns: u64, kind: impl Fn(&Timed) -> bool) -> Vec<(u64, Timed)> {
        let due = self.entries.iter().take_while(|(deadline_ns, _)| *deadline_ns <= last_ns);
        due.filter(|(_, what)| kind(what)).copied().collect()
    }

    /// Takes one entry that is due.
    /// Takes one entry that is due.
    fn pop_due(&mut self, now_ns: u64) -> Option<Timed> {
        match self.entries.first() {
            Some(&(deadline_ns, _)) if deadline_ns <= now_ns => {
                self.entries.pop_first().map(|(_, what)| what)
            }
            _ => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Table {
    /// The next deadline and what it is about.
    pub(crate) fn next_deadline(&self) -> Option<(u64, Reason)> {
        self.timers.next()
    }

    /// Takes one deadline that has come. What of it concerns the table alone is done.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Due> {
        Some(match self.timers.pop_due(now_ns)? {
            Timed::Half(id, family) if self.half_due(id, family, now_ns) => Due::Half(id, family),
            Timed::Half(..) => Due::Settled,
            Timed::Permission(id, ip) => {
                self.permission_due(id, ip, now_ns);
                Due::Settled
            }
            Timed::Channel(id, number) => {
                self.channel_due(id, number, now_ns);
                Due::Settled
            }
            Timed::Connection(id) if self.connection_due(id, now_ns) => Due::Connection(id),
            Timed::Connection(_) => Due::Settled,
            Timed::Reservation(token) => Due::Reservation(token),
            Timed::Port(socket) => Due::Forgotten(self.port_due(socket)),
            Timed::Ending(id) => Due::Forgotten(self.ending_due(id)),
        })
    }

    /// One of this worker's clients has reserved a port until then.
    pub(crate) fn watch_reservation(&mut self, token: [u8; 8], ends_ns: u64) {
        self.timers.add(ends_ns, Timed::Reservation(token));
    }

    /// A reservation that was to be watched until then has ended before.
    pub(crate) fn forget_reservation(&mut self, token: [u8; 8], ends_ns: u64) {
        self.timers.remove(ends_ns, Timed::Reservation(token));
    }
}
