//! The table's part in the kernel plane: which slot belongs to what, and what its lease is.
//!
//! ```text
//!   channel ─► bound ─► binding slot ──┐ lease = the earlier end of half and channel
//!   allocation ───────► allocation slot ┘ lease = the later end of its halves
//!
//!   channel gone ─► lease 0 ─► withdrawals ─► (kernel forgets) ─► slot, port and record are released
//! ```
//!
//! Invariant: a binding's slot, its allocation's slot and its port are kept from the command that tells the
//! kernel of it until the answer that the kernel has forgotten it.

use std::sync::Arc;

use foldhash::fast::FixedState;
use turnpike_abi::Rate;

use super::{Allocation, AllocationId, Map, Table, shrink_map};
use crate::addr::Family;
use crate::inspect::WhyNot;
use crate::io::{OffloadBinding, RelaySocket};
use crate::shared::plane::{AllocationSlot, BindingSlot, Plane, SlotName};
use crate::stats::AllocationRecord;

/// A channel number of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    number: u16,
    offload: Offload,
}

/// What a channel is to the kernel plane.
#[derive(Clone, Copy, Debug)]
enum Offload {
    /// It has this slot.
    Slot(u32),
    /// It has none.
    Not(WhyNot),
}

impl Bound {
    pub(super) fn new(number: u16) -> Self {
        Self { number, offload: Offload::Not(WhyNot::Off) }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// What the kernel plane knows, and has to forget.
pub(super) struct Kernel {
    /// By slot.
    bindings: Map<u32, Binding>,
    endings: Map<AllocationId, Ending>,
    /// Bindings whose channel has gone, to be taken out of the kernel.
    withdrawals: Vec<SlotName>,
}

/// A channel binding in the kernel plane.
struct Binding {
    slot: BindingSlot,
    owner: AllocationId,
    relay: RelaySocket,
    /// Why the kernel does not forward it; `None` when it does.
    why_not: Option<WhyNot>,
    /// Its channel is gone.
    is_withdrawn: bool,
}

/// An allocation that has ended, but that the kernel plane has not forgotten.
struct Ending {
    record: Box<AllocationRecord>,
    slot: Option<AllocationSlot>,
    bindings: u32,
}

/// What is free when the kernel plane has forgotten a binding.
#[derive(Default)]
pub(crate) struct Released {
    /// A socket to close.
    pub(crate) socket: Option<RelaySocket>,
    /// The record of an allocation that has come to its very end.
    pub(crate) record: Option<Box<AllocationRecord>>,
}

impl Kernel {
    pub(super) fn new(hasher: &FixedState) -> Self {
        let (bindings, endings) = (Map::with_hasher(hasher.clone()), Map::with_hasher(hasher.clone()));
        Self { bindings, endings, withdrawals: Vec::new() }
    }

    /// Slots of channel bindings, those being withdrawn included.
    pub(super) fn bindings(&self) -> usize {
        self.bindings.len()
    }

    /// Allocations that have ended and wait for the kernel plane to forget their channels.
    pub(super) fn endings(&self) -> usize {
        self.endings.len()
    }

    /// A channel is gone: ends its lease at once, and notes the slot to be withdrawn.
    pub(super) fn withdraw(&mut self, bound: &Bound) {
        let Offload::Slot(slot) = bound.offload else { return };
        let Some(binding) = self.bindings.get_mut(&slot) else { return };
        binding.slot.lease(0);
        binding.is_withdrawn = true;
        self.withdrawals.push(binding.slot.name());
    }

    /// The kernel has forgotten a binding of an allocation that has ended.
    fn forget_binding(&mut self, owner: AllocationId) -> Option<Box<AllocationRecord>> {
        let ending = self.endings.get_mut(&owner)?;
        ending.bindings -= 1;
        if ending.bindings > 0 {
            return None;
        }
        let ended = self.endings.remove(&owner).map(Ending::close);
        shrink_map(&mut self.endings);
        ended
    }
}

impl Allocation {
    pub(crate) fn has_slot(&self) -> bool {
        self.slot.is_some()
    }
}

impl Table {
    /// Gives an allocation a slot, if one is free. What was spent of its limit stays spent.
    pub(crate) fn take_slot(&mut self, id: AllocationId, plane: &Arc<Plane>) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        let spent = [allocation.to_peer.bucket.get(), allocation.to_client.bucket.get()];
        allocation.slot = plane.take_allocation(allocation.rate, spent);
        self.renew_leases(id);
    }

    /// Gives a channel a slot, if one is free; gives what the kernel has to be told then. Nothing if it has
    /// one, or its allocation has none.
    pub(crate) fn offload(
        &mut self,
        id: AllocationId,
        number: u16,
        plane: &Arc<Plane>,
    ) -> Option<OffloadBinding> {
        let channel = *self.channels.find(id, number)?;
        let allocation = self.allocations.get_mut(id)?;
        let relayed = allocation.half(Family::of(&channel.peer().ip()))?.relayed();
        let slot = allocation.slot.as_ref()?.name();
        let five_tuple = allocation.path.five_tuple;
        let bound = allocation.bound.iter_mut().find(|bound| bound.number == number)?;
        if matches!(bound.offload, Offload::Slot(_)) {
            return None;
        }
        let taken = plane.take_binding()?;
        let binding = taken.name();
        bound.offload = Offload::Slot(binding.slot);
        allocation.bindings += 1;
        self.sockets.add_binding(channel.relay());
        let why_not = Some(WhyNot::Pending);
        let entry = Binding { slot: taken, owner: id, relay: channel.relay(), why_not, is_withdrawn: false };
        self.kernel.bindings.insert(binding.slot, entry);
        self.renew_lease(id, number);
        Some(OffloadBinding {
            binding,
            allocation: slot,
            client: five_tuple.client.0,
            server: five_tuple.server,
            relayed: relayed.0,
            peer: channel.peer().0,
            channel: number,
            internal: false,
        })
    }

    /// Notes why a channel without a slot has none.
    pub(crate) fn note_why_not(&mut self, id: AllocationId, number: u16, why_not: WhyNot) {
        let bound = self.allocations.get_mut(id).map(|allocation| &mut allocation.bound);
        if let Some(bound) = bound.and_then(|bound| bound.iter_mut().find(|bound| bound.number == number))
            && matches!(bound.offload, Offload::Not(_))
        {
            bound.offload = Offload::Not(why_not);
        }
    }

    /// The kernel forwards a binding now, or doesn't, and why. Ignored for one that is gone.
    pub(crate) fn note_offload(&mut self, name: SlotName, why_not: Option<WhyNot>) {
        let binding = self.kernel.bindings.get_mut(&name.slot);
        if let Some(binding) = binding.filter(|binding| binding.slot.name() == name) {
            binding.why_not = why_not;
        }
    }

    /// Why the kernel does not forward a channel; `None` when it does.
    pub(crate) fn why_not(&self, bound: &Bound) -> Option<WhyNot> {
        match bound.offload {
            Offload::Slot(slot) => self.kernel.bindings.get(&slot).map_or(Some(WhyNot::Off), |b| b.why_not),
            Offload::Not(why_not) => Some(why_not),
        }
    }

    /// Another limit, in both planes at once.
    pub(crate) fn set_rate(&mut self, id: AllocationId, rate: Rate, bitrate_bits: u64) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        (allocation.rate, allocation.bitrate_bits) = (rate, bitrate_bits);
        if let Some(slot) = &allocation.slot {
            slot.set_rate(rate);
        }
    }

    pub(crate) fn has_withdrawals(&self) -> bool {
        !self.kernel.withdrawals.is_empty()
    }

    /// Bindings to be taken out of the kernel, each once.
    pub(crate) fn take_withdrawals(&mut self) -> Vec<SlotName> {
        std::mem::take(&mut self.kernel.withdrawals)
    }

    /// Keeps an ended allocation's record until the kernel plane has forgotten all of its channels; gives it
    /// back if there are none.
    pub(crate) fn finish(
        &mut self,
        id: AllocationId,
        allocation: Box<Allocation>,
        record: Box<AllocationRecord>,
    ) -> Option<Box<AllocationRecord>> {
        let Allocation { slot, bindings, .. } = *allocation;
        if let Some(slot) = &slot {
            slot.lease(0);
        }
        let ending = Ending { record, slot, bindings };
        if bindings == 0 {
            return Some(ending.close());
        }
        self.kernel.endings.insert(id, ending);
        None
    }

    /// The kernel plane has forgotten a binding: its slot is free, and perhaps more. Ignored for a name that
    /// is not being withdrawn.
    pub(crate) fn withdrawn(&mut self, name: SlotName) -> Released {
        let bindings = &mut self.kernel.bindings;
        let is_meant = |binding: &&Binding| binding.slot.name() == name && binding.is_withdrawn;
        if bindings.get(&name.slot).filter(is_meant).is_none() {
            return Released::default();
        }
        let Some(Binding { owner, relay, .. }) = bindings.remove(&name.slot) else {
            return Released::default();
        };
        shrink_map(bindings);
        let socket = Some(relay).filter(|relay| self.sockets.drop_binding(*relay));
        let record = match self.allocations.get_mut(owner) {
            Some(allocation) => {
                allocation.bindings -= 1;
                None
            }
            None => self.kernel.forget_binding(owner),
        };
        Released { socket, record }
    }

    /// Writes the leases of an allocation and all its channels.
    pub(super) fn renew_leases(&mut self, id: AllocationId) {
        let Some(allocation) = self.get(id) else { return };
        let Some(slot) = &allocation.slot else { return };
        slot.lease(allocation.ends_ns());
        allocation.bound.iter().for_each(|bound| self.write_lease(id, allocation, bound));
    }

    /// Writes the lease of one channel.
    pub(super) fn renew_lease(&mut self, id: AllocationId, number: u16) {
        let Some(allocation) = self.get(id) else { return };
        if let Some(bound) = allocation.bound.iter().find(|bound| bound.number == number) {
            self.write_lease(id, allocation, bound);
        }
    }

    fn write_lease(&self, id: AllocationId, allocation: &Allocation, bound: &Bound) {
        let Offload::Slot(slot) = bound.offload else { return };
        let (Some(binding), Some(channel)) =
            (self.kernel.bindings.get(&slot), self.channels.find(id, bound.number))
        else {
            return;
        };
        let half = allocation.half(Family::of(&channel.peer().ip()));
        binding.slot.lease(half.map_or(0, |half| half.ends_ns().min(channel.ends_ns())));
    }
}

impl Ending {
    /// The record, with what the kernel has forwarded to the last.
    fn close(mut self) -> Box<AllocationRecord> {
        let [to_peer, to_client] = self.slot.as_ref().map(AllocationSlot::traffic).unwrap_or_default();
        self.record.to_peer.kernel = to_peer;
        self.record.to_client.kernel = to_client;
        self.record
    }
}
