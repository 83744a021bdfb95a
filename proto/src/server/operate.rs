//! What the operator does to allocations: limits, and their end.

use turnpike_abi::Rate;

use super::Server;
use crate::addr::Family;
use crate::io::Now;
use crate::stats::EndReason;
use crate::table::AllocationId;

impl Server {
    /// In force at once, in both planes.
    pub(super) fn set_rate(&mut self, number: u64, bits_per_sec: u64) {
        let rate = Rate::new(bits_per_sec, self.shared.config.burst_ms);
        if let Some(id) = self.table.find_number(number) {
            self.table.set_rate(id, rate, bits_per_sec);
        }
    }

    pub(super) fn disconnect(&mut self, now: Now, number: u64) {
        if let Some(id) = self.table.find_number(number) {
            self.end_allocation(now, id, EndReason::Disconnected);
        }
    }

    pub(super) fn disconnect_user(&mut self, now: Now, user: &str) {
        let is_theirs = |id: &AllocationId| {
            let identity = self.table.get(*id).map(|allocation| &allocation.identity);
            identity.is_some_and(|identity| *identity.user == *user || *identity.quota_user == *user)
        };
        let theirs: Vec<AllocationId> = self.table.ids().into_iter().filter(is_theirs).collect();
        for id in theirs {
            self.end_allocation(now, id, EndReason::Disconnected);
        }
    }

    fn end_allocation(&mut self, now: Now, id: AllocationId, reason: EndReason) {
        for family in [Family::V4, Family::V6] {
            self.end_half(now, id, family, reason);
        }
    }
}
