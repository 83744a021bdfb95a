//! What the operator does to allocations: limits, and their end.

use turnpike_abi::Rate;

use super::Server;
use crate::io::Now;
use crate::stats::EndReason;

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
}
