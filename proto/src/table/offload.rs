//! The table's part in the kernel plane: which slot belongs to what, and what its lease is.
//!
//! ```text
//!   channel ─► bound ─► binding slot ──┐ lease = the earlier end of half and channel
//!   allocation ───────► allocation slot ┘ lease = the later end of its halves
//!
//!   channel gone ─► lease 0 ─► withdrawals ─┬─► (kernel forgets) ─► slot, port and record are released
//!                                           └─► (a moment passes) ─► port and record are released
//! ```
//!
//! Invariant: a binding's slot and its allocation's slot are kept from the command that tells the kernel of it until
//! the answer that the kernel has forgotten it: no other owner of them is ever meant by a route that is left over.
//! The port need not wait for that, so that a mirror that stands still costs slots and nothing else. It waits for a
//! moment, within which every run of the program that had seen the lease has ended, so that the record is whole.

use std::sync::Arc;

use foldhash::fast::FixedState;
use turnpike_abi::Rate;

use super::allocation::kernel_traffic;
use super::timer::Timed;
use super::{Allocation, AllocationId, Map, Table, shrink_map};
use crate::addr::Family;
use crate::inspect::WhyNot;
use crate::io::{OffloadBinding, RelaySocket};
use crate::limits::FORGETTING_NS;
use crate::shared::plane::{AllocationSlot, BindingSlot, Plane, SlotName};
use crate::stats::{AllocationRecord, Traffic};

/// A channel number of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    number: u16,
    pub(super) offload: Offload,
}

/// What a channel is to the kernel plane.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offload {
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
    pub(super) bindings: Map<u32, Binding>,
    pub(super) endings: Map<AllocationId, Ending>,
    /// Bindings whose channel has gone, to be taken out of the kernel.
    pub(super) withdrawals: Vec<SlotName>,
}

/// A channel binding in the kernel plane.
pub(super) struct Binding {
    pub(super) slot: BindingSlot,
    pub(super) owner: AllocationId,
    pub(super) relay: RelaySocket,
    /// Why the kernel does not forward it; `None` when it does.
    pub(super) why_not: Option<WhyNot>,
    /// Its channel is gone.
    pub(super) is_withdrawn: bool,
}

/// An allocation that has ended, but that the kernel plane has not forgotten.
pub(super) struct Ending {
    /// `None` when it has been given out.
    pub(super) record: Option<Box<AllocationRecord>>,
    /// Until when the record waits for the kernel plane, on the monotonic clock, nanoseconds.
    pub(super) waits_until_ns: u64,
    pub(super) earlier: [Traffic; 2],
    pub(super) slot: Option<AllocationSlot>,
    pub(super) bindings: u32,
}

/// What is free when the kernel plane has forgotten a binding, or has been waited for long enough.
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
    fn forget_binding(&mut self, owner: AllocationId) -> Option<Ending> {
        let ending = self.endings.get_mut(&owner)?;
        ending.bindings -= 1;
        if ending.bindings > 0 {
            return None;
        }
        let ended = self.endings.remove(&owner);
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

    /// Gives a channel a slot, if one is free; gives what the kernel has to be told then, else why there is none. That
    /// means nothing if it has one.
    pub(crate) fn offload(
        &mut self,
        id: AllocationId,
        number: u16,
        plane: &Arc<Plane>,
    ) -> Result<OffloadBinding, WhyNot> {
        const NONE: WhyNot = WhyNot::NoSlot;
        let channel = *self.channels.find(id, number).ok_or(NONE)?;
        let allocation = self.allocations.get_mut(id).ok_or(NONE)?;
        allocation.half(Family::of(&channel.peer().ip())).ok_or(NONE)?;
        allocation.slot.as_ref().ok_or(NONE)?;
        let user = Arc::clone(&allocation.identity().quota_user);
        let bound = allocation.bound.iter_mut().find(|bound| bound.number == number).ok_or(NONE)?;
        if matches!(bound.offload, Offload::Slot(_)) {
            return Err(NONE);
        }
        let taken = plane.take_binding(&user)?;
        let binding = taken.name();
        bound.offload = Offload::Slot(binding.slot);
        allocation.bindings += 1;
        self.sockets.add_binding(channel.relay());
        let why_not = Some(WhyNot::Pending);
        let entry = Binding { slot: taken, owner: id, relay: channel.relay(), why_not, is_withdrawn: false };
        self.kernel.bindings.insert(binding.slot, entry);
        self.renew_lease(id, number);
        self.offloaded(id, number).ok_or(NONE)
    }

    /// What the kernel is told of a channel that has a slot.
    pub(crate) fn offloaded(&self, id: AllocationId, number: u16) -> Option<OffloadBinding> {
        let (allocation, channel) = (self.get(id)?, self.channels.find(id, number)?);
        let bound = allocation.bound.iter().find(|bound| bound.number == number)?;
        let Offload::Slot(slot) = bound.offload else { return None };
        let five_tuple = allocation.path.five_tuple;
        let taken = &self.kernel.bindings.get(&slot)?.slot;
        Some(OffloadBinding {
            binding: taken.name(),
            allocation: allocation.slot.as_ref()?.name(),
            client: five_tuple.client.0,
            server: five_tuple.server,
            relayed: allocation.half(Family::of(&channel.peer().ip()))?.relayed().0,
            peer: channel.peer().0,
            channel: number,
            internal: false,
            user: taken.user(),
        })
    }

    /// Notes why a channel without a slot has none; gives whose it is, if that was not known.
    pub(crate) fn note_why_not(
        &mut self,
        id: AllocationId,
        number: u16,
        why_not: WhyNot,
    ) -> Option<AllocationId> {
        let bound = &mut self.allocations.get_mut(id)?.bound;
        let bound = bound.iter_mut().find(|bound| bound.number == number)?;
        match bound.offload {
            Offload::Not(before) => {
                bound.offload = Offload::Not(why_not);
                (before != why_not).then_some(id)
            }
            Offload::Slot(_) => None,
        }
    }

    /// The kernel forwards a binding now, or doesn't, and why; gives whose it is, if that was not known. Ignored for one
    /// that is gone.
    pub(crate) fn note_offload(&mut self, name: SlotName, why_not: Option<WhyNot>) -> Option<AllocationId> {
        let binding = self.kernel.bindings.get_mut(&name.slot)?;
        if binding.slot.name() != name {
            return None;
        }
        let before = std::mem::replace(&mut binding.why_not, why_not);
        (before != why_not).then_some(binding.owner)
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

    /// Keeps an ended allocation's record until the kernel plane has forgotten all of its channels, or for a moment;
    /// gives it back if there are none.
    pub(crate) fn finish(
        &mut self,
        id: AllocationId,
        allocation: Box<Allocation>,
        record: Box<AllocationRecord>,
        now_ns: u64,
    ) -> Option<Box<AllocationRecord>> {
        let Allocation { slot, earlier, bindings, .. } = *allocation;
        if let Some(slot) = &slot {
            slot.lease(0);
        }
        let waits_until_ns = now_ns + FORGETTING_NS;
        let mut ending = Ending { record: Some(record), waits_until_ns, earlier, slot, bindings };
        if bindings == 0 {
            return ending.take_record();
        }
        self.timers.add(waits_until_ns, Timed::Ending(id));
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
        let waited = self.sockets.drop_binding(relay);
        if let Some(waits_until_ns) = waited {
            self.timers.remove(waits_until_ns, Timed::Port(relay));
        }
        let record = match self.allocations.get_mut(owner) {
            Some(allocation) => {
                allocation.bindings -= 1;
                None
            }
            None => self.kernel.forget_binding(owner).and_then(|mut ending| {
                self.timers.remove(ending.waits_until_ns, Timed::Ending(owner));
                ending.take_record()
            }),
        };
        Released { socket: waited.map(|_| relay), record }
    }

    /// A relay socket has waited for the kernel plane for long enough.
    pub(super) fn port_due(&mut self, socket: RelaySocket) -> Released {
        Released { socket: Some(socket).filter(|socket| self.sockets.end_wait(*socket)), record: None }
    }

    /// An allocation that has ended has waited for the kernel plane for long enough: its slots are kept.
    pub(super) fn ending_due(&mut self, id: AllocationId) -> Released {
        let record = self.kernel.endings.get_mut(&id).and_then(Ending::take_record);
        Released { socket: None, record }
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
    /// The record, with what the kernel has forwarded to the last; given out once.
    pub(super) fn take_record(&mut self) -> Option<Box<AllocationRecord>> {
        let mut record = self.record.take()?;
        let [to_peer, to_client] = kernel_traffic(self.slot.as_ref(), self.earlier);
        record.to_peer.kernel = to_peer;
        record.to_client.kernel = to_client;
        Some(record)
    }
}
