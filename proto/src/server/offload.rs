//! What is told to the kernel plane: which channels to forward, and which no more.
//!
//! Only here are commands for it emitted. A channel's lease is over before its withdrawal is, so the kernel
//! stops at once; its slots are kept until the answer comes, its port for a moment at most.

use std::sync::Arc;

use super::Server;
use crate::addr::PeerAddr;
use crate::inspect::WhyNot;
use crate::io::{OffloadBinding, Output};
use crate::shared::plane::SlotName;
use crate::table::{Allocation, AllocationId, Bound, Released};

impl Server {
    /// An allocation goes live: if it may ever be forwarded by the kernel, it takes a slot.
    pub(super) fn take_slot(&mut self, id: AllocationId) {
        let Some(plane) = self.shared.plane() else { return };
        if self.table.get(id).is_some_and(|allocation| why_never(allocation).is_none()) {
            self.table.take_slot(id, plane);
        }
    }

    /// A channel was bound, or bound again: the kernel is told, if it has not been and there is room.
    pub(super) fn offload_channel(&mut self, id: AllocationId, number: u16) {
        let Some(plane) = self.shared.plane().cloned() else { return };
        let Some(allocation) = self.table.get(id) else { return };
        if !allocation.has_slot() && why_never(allocation).is_none() {
            // None was free when it went live; perhaps one is now.
            self.table.take_slot(id, &plane);
        }
        // What used the same addresses before goes first.
        self.emit_withdrawals();
        match self.table.offload(id, number, &plane) {
            Ok(binding) => self.emit_offload(binding),
            Err(why) => {
                let why_not = self.table.get(id).and_then(|allocation| self.why_not_allocation(allocation));
                let why = why_not.unwrap_or(why);
                let owner = self.table.note_why_not(id, number, why);
                self.count_why_not(owner, why);
            }
        }
    }

    /// A channel stays in userspace; `owner` if that is news.
    fn count_why_not(&mut self, owner: Option<AllocationId>, why: WhyNot) {
        let Some(owner) = owner else { return };
        self.counts.not_offloaded.count(why);
        if matches!(why, WhyNot::UserShare | WhyNot::NextHopShare)
            && let Some(allocation) = self.table.get(owner)
        {
            let user = Arc::clone(&allocation.identity().quota_user);
            self.outputs.push_back(Output::OverShare { user, why });
        }
    }

    /// An allocation has come from another process: the kernel is told once more of the channels that it forwards, if it
    /// is the same one; else of all that there is room for.
    pub(super) fn offload_adopted(&mut self, id: AllocationId, knows: bool) {
        if !knows {
            self.take_slot(id);
        }
        let Some(allocation) = self.table.get(id) else { return };
        let numbers: Vec<u16> = allocation.channels().iter().map(Bound::number).collect();
        for number in numbers {
            match self.table.offloaded(id, number) {
                Some(binding) => self.emit_offload(binding),
                None if knows => {}
                None => self.offload_channel(id, number),
            }
        }
    }

    fn emit_offload(&mut self, binding: OffloadBinding) {
        let internal = self.shared.is_relayed(PeerAddr(binding.peer));
        self.outputs.push_back(Output::Offload(Box::new(OffloadBinding { internal, ..binding })));
    }

    /// Why none of an allocation's channels can be forwarded by the kernel.
    pub(super) fn why_not_allocation(&self, allocation: &Allocation) -> Option<WhyNot> {
        match (self.shared.plane(), why_never(allocation)) {
            (None, _) => Some(WhyNot::Off),
            (Some(_), Some(never)) => Some(never),
            (Some(_), None) => (!allocation.has_slot()).then_some(WhyNot::NoSlot),
        }
    }

    /// Channels that have gone since the last call are taken out of the kernel.
    #[inline]
    pub(super) fn emit_withdrawals(&mut self) {
        // Asked after each input, and nearly always none.
        if self.table.has_withdrawals() {
            self.emit_all_withdrawals();
        }
    }

    #[cold]
    fn emit_all_withdrawals(&mut self) {
        self.outputs.extend(self.table.take_withdrawals().into_iter().map(Output::Withdraw));
    }

    pub(super) fn handle_offloaded(&mut self, binding: SlotName) {
        self.table.note_offload(binding, None);
    }

    pub(super) fn handle_not_offloaded(&mut self, binding: SlotName, why_not: WhyNot) {
        let owner = self.table.note_offload(binding, Some(why_not));
        self.count_why_not(owner, why_not);
    }

    /// The kernel has forgotten a binding: what waited for it goes on.
    pub(super) fn handle_withdrawn(&mut self, binding: SlotName) {
        let released = self.table.withdrawn(binding);
        self.emit_released(released);
    }

    pub(super) fn emit_released(&mut self, released: Released) {
        self.outputs.extend(released.socket.map(Output::ClosePort));
        self.outputs.extend(released.record.map(Output::Ended));
    }
}

/// Why the kernel can't forward anything of an allocation, whatever room there is.
fn why_never(allocation: &Allocation) -> Option<WhyNot> {
    match allocation.path().five_tuple.transport.is_stream() {
        true => Some(WhyNot::Stream),
        false => allocation.is_proxied().then_some(WhyNot::Proxied),
    }
}
