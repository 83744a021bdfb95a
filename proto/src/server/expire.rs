//! Endings: lifetimes that ran out, and what is left to do for an allocation that has ended.

use super::Server;
use super::allocate::relays_tcp;
use super::sweep::Budget;
use crate::addr::Family;
use crate::io::{ClientPath, Now, Output};
use crate::limits::{RETRANSMISSION_SECS, SECOND_NS};
use crate::shared::Reservation;
use crate::stats::{AllocationRecord, EndReason};
use crate::table::{Allocation, AllocationId, Due};

impl Server {
    /// One tick's part of what is due: of what has come to its end, and of what concerns many allocations.
    pub(super) fn tick(&mut self, now: Now) {
        if self.checked_credentials != self.shared.auth.version() {
            self.recheck_all();
        }
        let mut budget = Budget::of_a_tick();
        self.expire(now, &mut budget);
        self.sweep(now, &mut budget);
    }

    fn expire(&mut self, now: Now, budget: &mut Budget) {
        self.deletions.expire(now);
        self.ended_allocates.expire(now);
        while !budget.is_spent() {
            let Some(due) = self.table.pop_due(now.mono_ns) else { return };
            budget.spend_entries(1);
            match due {
                Due::Settled => {}
                Due::Half(id, family) => {
                    budget.spend_allocation(self.table.get(id).map_or(0, Allocation::entries));
                    self.end_half(now, id, family, EndReason::Expired);
                }
                Due::Connection(id) => {
                    budget.spend_allocation(0);
                    self.connection_timed_out(id);
                }
                Due::Reservation(token) => {
                    let port = self.shared.reservations.take(token).map(Reservation::into_port);
                    self.outputs.extend(port.map(Output::ReleasePort));
                }
                Due::Forgotten(released) => {
                    budget.spend_allocation(0);
                    self.emit_released(released);
                }
            }
        }
    }

    /// A connection is closed: what was begun by it ends.
    pub(super) fn handle_client_gone(&mut self, now: Now, path: &ClientPath) {
        let Some(id) = self.table.find(&path.five_tuple) else { return };
        if self.table.get(id).is_some_and(|allocation| *allocation.path() == *path) {
            self.end_allocation(now, id, EndReason::ConnectionClosed);
        }
    }

    /// The 5-tuple's allocation as it is now: what of it has come to its end goes, though its tick is late.
    pub(super) fn find_settled(&mut self, now: Now, path: &ClientPath) -> Option<AllocationId> {
        let id = self.table.find(&path.five_tuple)?;
        if !self.table.get(id)?.path().is_continued_by(path) {
            // There is another connection now, so the one before is closed, though nobody has said so yet.
            self.end_allocation(now, id, EndReason::ConnectionClosed);
            return None;
        }
        if self.table.next_deadline().is_none_or(|(due_ns, _)| due_ns > now.mono_ns) {
            return Some(id);
        }
        for family in [Family::V4, Family::V6] {
            if self.table.get(id)?.half(family).is_some_and(|half| !half.lives(now.mono_ns)) {
                self.end_half(now, id, family, EndReason::Expired);
            }
        }
        self.table.drop_ended(id, now.mono_ns);
        self.table.get(id).map(|_| id)
    }

    /// Ends one relayed address, and the allocation with its last one.
    pub(super) fn end_half(&mut self, now: Now, id: AllocationId, family: Family, reason: EndReason) {
        self.close_connections(id, family);
        let Some(half) = self.table.remove_half(id, family, now.mono_ns) else { return };
        if half.may_close {
            self.outputs.push_back(Output::ClosePort(half.socket));
        }
        if self.table.get(id).is_some_and(|allocation| allocation.halves().next().is_some()) {
            return;
        }
        let Some(allocation) = self.remove_allocation(id) else { return };
        let Some(since_ns) = allocation.live_since_ns() else { return };
        // A new connection from the same port repeats nothing.
        let is_repeatable = reason != EndReason::ConnectionClosed;
        if is_repeatable && now.mono_ns < since_ns + u64::from(RETRANSMISSION_SECS) * SECOND_NS {
            let (path, request) = (allocation.path(), allocation.request());
            self.ended_allocates.insert(now, path.five_tuple, request.reply_to.transaction());
        }
        self.counts.allocations_ended += 1;
        let [to_peer, to_client] = allocation.traffic();
        self.counts.transports.count_ended(allocation.path().five_tuple.transport);
        self.counts.tcp_relay.allocations -= relays_tcp(&allocation);
        let record = Box::new(AllocationRecord {
            id: allocation.number(),
            user: allocation.identity().user.clone(),
            quota_user: allocation.identity().quota_user.clone(),
            five_tuple: allocation.path().five_tuple,
            client: allocation.client(),
            socket: allocation.path().socket,
            tls: allocation.path().tls,
            relayed_public: allocation
                .relayed()
                .iter()
                .map(|own| self.shared.relayed_to_public(*own))
                .collect(),
            relayed: allocation.relayed().to_vec(),
            relayed_transport: allocation.relayed_transport(),
            bitrate_bits: allocation.bitrate_bits(),
            duration_ns: now.mono_ns.saturating_sub(since_ns),
            to_peer,
            to_client,
            stream_drops: allocation.stream_drops(),
            reason,
        });
        let record = self.table.finish(id, allocation, record, now.mono_ns);
        self.outputs.extend(record.map(Output::Ended));
    }
}
