//! Endings: lifetimes that ran out, deletions, a policy that got stricter, the server's stop.

use super::Server;
use crate::addr::Family;
use crate::io::{Now, Output};
use crate::limits::{MAX_OUTPUTS, RETRANSMISSION_SECS, SECOND_NS};
use crate::stats::{AllocationRecord, EndReason, TrafficByPath};
use crate::table::AllocationId;
use crate::timer::Timed;

impl Server {
    /// Ends everything whose time has come, as far as the driver can take it at once.
    pub(super) fn expire(&mut self, now: Now) {
        self.deletions.expire(now);
        self.ended_allocates.expire(now);
        while self.outputs.len() < MAX_OUTPUTS {
            let Some(what) = self.table.timers.pop_due(now.mono_ns) else { return };
            match what {
                Timed::Relay(id, family) => {
                    if self.table.half_due(id, family, now.mono_ns) {
                        self.end_half(now, id, family, EndReason::Expired);
                    }
                }
                Timed::Permission(id, ip) => {
                    if self.table.permission_due(id, ip, now.mono_ns) {
                        self.table.revoke(id, ip);
                    }
                }
                Timed::Channel(id, number) => {
                    if self.table.channel_due(id, number, now.mono_ns) {
                        self.table.unbind(id, number);
                    }
                }
                Timed::Reservation(token) => {
                    self.shared.reservations.release(token);
                }
            }
            self.emit_withdrawals();
        }
    }

    /// Ends one relayed address, and the allocation with its last one.
    pub(super) fn end_half(&mut self, now: Now, id: AllocationId, family: Family, reason: EndReason) {
        let Some(half) = self.table.remove_half(id, family) else { return };
        if half.may_close {
            self.outputs.push_back(Output::ClosePort(half.socket));
        }
        if self.table.get(id).is_some_and(|allocation| allocation.halves().next().is_some()) {
            return;
        }
        let Some(mut allocation) = self.remove_allocation(id) else { return };
        let Some(since_ns) = allocation.live_since_ns else { return };
        if now.mono_ns < since_ns + u64::from(RETRANSMISSION_SECS) * SECOND_NS {
            let (path, request) = (&allocation.path, &allocation.request);
            self.ended_allocates.insert(now, path.five_tuple, request.reply_to.transaction());
        }
        self.counts.allocations_ended += 1;
        let record = Box::new(AllocationRecord {
            id: allocation.number,
            user: allocation.identity.user.clone(),
            quota_user: allocation.identity.quota_user.clone(),
            five_tuple: allocation.path.five_tuple,
            relayed_public: allocation
                .relayed
                .iter()
                .map(|own| self.shared.relayed_to_public(*own))
                .collect(),
            relayed: std::mem::take(&mut allocation.relayed),
            bitrate_bits: allocation.bitrate_bits,
            duration_ns: now.mono_ns.saturating_sub(since_ns),
            to_peer: TrafficByPath { userspace: allocation.to_peer.traffic, ..TrafficByPath::default() },
            to_client: TrafficByPath { userspace: allocation.to_client.traffic, ..TrafficByPath::default() },
            reason,
        });
        let record = self.table.finish(id, &mut allocation, record);
        self.outputs.extend(record.map(Output::Ended));
    }

    pub(super) fn end_all(&mut self, now: Now, reason: EndReason) {
        for id in self.table.ids() {
            for family in [Family::V4, Family::V6] {
                self.end_half(now, id, family, reason);
            }
        }
    }

    /// Takes back permissions and channels that the policy in force would not give any more.
    pub(super) fn revoke_refused(&mut self) {
        let policy = self.shared.policy();
        for id in self.table.ids() {
            self.table.retain_permissions(id, |ip| policy.check_ip(ip).is_ok());
            self.table.retain_channels(id, |channel| {
                channel.internal == self.shared.is_relayed(channel.peer)
                    && self.shared.may_be_peer(channel.peer)
            });
        }
    }
}
