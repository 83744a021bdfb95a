//! The truth of one worker: its allocations, permissions, channels and relay sockets.
//!
//! State changes here and nowhere else; each change keeps indexes and timers in step. It decides
//! nothing: whether something is allowed was asked before.
//!
//! ```text
//!   five_tuples ─► allocation ─► halves (IPv4, IPv6) ─► relay slots ─► back to the allocation
//!                      │
//!                      ├─ permissions (allocation, IP)
//!                      └─ channels    (allocation, number) and (allocation, peer)
//! ```
//!
//! Invariant: a port's lease lives in its relay slot from the moment it is taken until the driver
//! has closed the socket, so a port is never given out while a socket still has it; and the socket is
//! closed only when the kernel plane has forgotten every channel binding of it (`offload`).

mod id;
mod offload;
mod timer;

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::FixedState;
use turnpike_abi::{Rate, charge};

use crate::addr::{Family, FiveTuple, PeerAddr, RelayedAddr};
use crate::auth::Identity;
use crate::error::ErrorCode;
use crate::io::{ClientPath, RelaySocket};
use crate::limits::{CHANNEL_LIFETIME_SECS, PERMISSION_LIFETIME_SECS, SECOND_NS};
use crate::shared::plane::{AllocationSlot, SlotName};
use crate::shared::ports::PortLease;
use crate::shared::quota::QuotaGuard;
use crate::stats::Traffic;
use crate::wire::ReplyTo;

pub(crate) use self::id::AllocationId;
pub(crate) use self::offload::Bound;
use self::offload::{Binding, Ending};
pub(crate) use self::timer::Timed;
use self::timer::Timers;

/// When something ends, and where its timer entry stands.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    ends_ns: u64,
    timer_ns: u64,
}

/// One direction's bandwidth limit and count.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    pub(crate) traffic: Traffic,
    /// The bucket of an allocation that shares none with the kernel.
    bucket: Cell<u64>,
}

impl Direction {
    /// Counts a datagram that the bandwidth limit lets pass, or not.
    #[inline]
    fn count(&mut self, is_admitted: bool, payload_len: usize) -> bool {
        if !is_admitted {
            self.traffic.rate_drops += 1;
            return false;
        }
        self.traffic.packets += 1;
        self.traffic.bytes += payload_len as u64;
        true
    }
}

/// One relayed transport address of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    pub(crate) socket: RelaySocket,
    pub(crate) relayed: RelayedAddr,
    /// The driver has opened its socket.
    pub(crate) open: bool,
    expiry: Expiry,
}

impl Half {
    pub(crate) fn ends_ns(&self) -> u64 {
        self.expiry.ends_ns
    }

    /// Its end has not come, whether or not its timer has fired yet.
    pub(crate) fn lives(&self, now_ns: u64) -> bool {
        self.expiry.ends_ns > now_ns
    }
}

/// A channel binding (RFC 8656 s. 12).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) number: u16,
    pub(crate) peer: PeerAddr,
    /// The peer is within the relayed addresses of this very server, where other programs may have ports, too.
    pub(crate) internal: bool,
    pub(crate) relay: RelaySocket,
    expiry: Expiry,
}

impl Channel {
    pub(crate) fn ends_ns(&self) -> u64 {
        self.expiry.ends_ns
    }
}

/// What an Allocate asked for, kept while its ports are being opened and for repeating its answer.
#[derive(Clone, Debug)]
pub(crate) struct AllocateState {
    pub(crate) reply_to: ReplyTo,
    pub(crate) lifetime_secs: u32,
    pub(crate) token: Option<[u8; 8]>,
    /// The half of a dual allocation that could not be had (RFC 8656 s. 7.2, ADDRESS-ERROR-CODE).
    pub(crate) refused_family: Option<(Family, ErrorCode)>,
    /// Ports tried so far.
    pub(crate) attempts: u32,
    /// Ask for even ports.
    pub(crate) even: bool,
}

/// An allocation (RFC 8656 s. 3).
pub(crate) struct Allocation {
    pub(crate) number: u64,
    pub(crate) path: ClientPath,
    pub(crate) identity: Arc<Identity>,
    pub(crate) request: AllocateState,
    /// When it was answered; `None` while its ports are being opened.
    pub(crate) live_since_ns: Option<u64>,
    pub(crate) halves: [Option<Half>; 2],
    /// What its client was told, also after one half of it has ended; empty until it is live.
    pub(crate) relayed: Vec<RelayedAddr>,
    pub(crate) rate: Rate,
    /// What `rate` was made from; 0 is no limit.
    pub(crate) bitrate_bits: u64,
    pub(crate) to_peer: Direction,
    pub(crate) to_client: Direction,
    /// Given back when the allocation goes.
    _quota: QuotaGuard,
    permitted: Vec<IpAddr>,
    bound: Vec<Bound>,
    /// Its slot in the kernel plane.
    slot: Option<AllocationSlot>,
    /// Slots of channel bindings that are its, those being withdrawn included.
    bindings: u32,
}

const fn slot_of(family: Family) -> usize {
    family as usize - 1
}

impl Allocation {
    pub(crate) fn half(&self, family: Family) -> Option<&Half> {
        self.halves[slot_of(family)].as_ref()
    }

    pub(crate) fn halves(&self) -> impl Iterator<Item = &Half> {
        self.halves.iter().flatten()
    }

    /// Every socket it asked for is open.
    pub(crate) fn all_open(&self) -> bool {
        self.halves().all(|half| half.open)
    }

    pub(crate) fn channels(&self) -> &[Bound] {
        &self.bound
    }

    pub(crate) fn permitted(&self) -> &[IpAddr] {
        &self.permitted
    }

    /// Permissions and channels: what its end, or a look at all of it, costs beside itself.
    pub(crate) fn entries(&self) -> usize {
        self.permitted.len() + self.bound.len()
    }

    /// When its last half ends; 0 if there is none.
    pub(crate) fn ends_ns(&self) -> u64 {
        self.halves().map(Half::ends_ns).max().unwrap_or(0)
    }

    /// Counts a datagram to a peer; `false` if the bandwidth limit is used up.
    #[inline]
    pub(crate) fn admit_to_peer(&mut self, now_ns: u64, payload_len: usize) -> bool {
        let is_admitted = self.rate.is_unlimited() || self.charge_to_peer(now_ns, payload_len as u64);
        self.to_peer.count(is_admitted, payload_len)
    }

    /// Counts a datagram to the client; `false` if the bandwidth limit is used up.
    #[inline]
    pub(crate) fn admit_to_client(&mut self, now_ns: u64, payload_len: usize) -> bool {
        let is_admitted = self.rate.is_unlimited() || self.charge_to_client(now_ns, payload_len as u64);
        self.to_client.count(is_admitted, payload_len)
    }

    // One bucket for both planes, where there are two.

    fn charge_to_peer(&self, now_ns: u64, bytes: u64) -> bool {
        match &self.slot {
            Some(slot) => charge(&slot.words().to_peer.bucket, &self.rate, now_ns, bytes),
            None => charge(&self.to_peer.bucket, &self.rate, now_ns, bytes),
        }
    }

    fn charge_to_client(&self, now_ns: u64, bytes: u64) -> bool {
        match &self.slot {
            Some(slot) => charge(&slot.words().to_client.bucket, &self.rate, now_ns, bytes),
            None => charge(&self.to_client.bucket, &self.rate, now_ns, bytes),
        }
    }
}

/// What a new allocation starts with.
pub(crate) struct NewAllocation {
    pub(crate) path: ClientPath,
    pub(crate) identity: Arc<Identity>,
    pub(crate) quota: QuotaGuard,
    pub(crate) request: AllocateState,
    pub(crate) rate: Rate,
    pub(crate) bitrate_bits: u64,
}

/// A half that was taken away.
pub(crate) struct RemovedHalf {
    pub(crate) socket: RelaySocket,
    /// The kernel plane knows nothing of it; else its socket is closed by [`Table::withdrawn`].
    pub(crate) may_close: bool,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    allocation: Option<Box<Allocation>>,
}

#[derive(Default)]
struct RelaySlot {
    generation: u32,
    owner: Option<(AllocationId, Family)>,
    lease: Option<PortLease>,
    /// Slots of channel bindings through it that the kernel plane has not forgotten yet.
    bindings: u32,
}

/// How many of each there are: all zero when every client is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Allocations, those still being opened included.
    pub allocations: usize,
    /// Permissions.
    pub permissions: usize,
    /// Channel bindings.
    pub channels: usize,
    /// Relay sockets open, being opened or being closed.
    pub relay_sockets: usize,
    /// Slots of channel bindings in the kernel plane, those being withdrawn included.
    pub offloaded: usize,
    /// Allocations that have ended and wait for the kernel plane to forget their channels.
    pub ending: usize,
    /// Deadlines waiting.
    pub timers: usize,
}

type Map<K, V> = HashMap<K, V, FixedState>;

/// All state of one worker.
pub(crate) struct Table {
    next_number: u64,
    /// Generation of new slots: above that of every name that was ever given, also when the slots are gone.
    first_generation: u32,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    relays: Vec<RelaySlot>,
    free_relays: Vec<u32>,
    five_tuples: Map<FiveTuple, AllocationId>,
    numbers: Map<u64, AllocationId>,
    permissions: Map<(u32, IpAddr), Expiry>,
    channels: Map<(u32, u16), Channel>,
    channel_peers: Map<(u32, PeerAddr), Channel>,
    /// By slot in the kernel plane.
    bindings: Map<u32, Binding>,
    endings: Map<AllocationId, Ending>,
    /// Bindings whose channel has gone, to be taken out of the kernel.
    withdrawals: Vec<SlotName>,
    pub(crate) timers: Timers,
}

impl Table {
    /// `first_number` is the number of the first allocation; `seed` keys the hashes, so that nobody
    /// outside can make addresses collide.
    pub(crate) fn new(first_number: u64, seed: u64) -> Self {
        let hasher = || FixedState::with_seed(seed);
        Self {
            next_number: first_number,
            first_generation: 0,
            slots: Vec::new(),
            free_slots: Vec::new(),
            relays: Vec::new(),
            free_relays: Vec::new(),
            five_tuples: Map::with_hasher(hasher()),
            numbers: Map::with_hasher(hasher()),
            permissions: Map::with_hasher(hasher()),
            channels: Map::with_hasher(hasher()),
            channel_peers: Map::with_hasher(hasher()),
            bindings: Map::with_hasher(hasher()),
            endings: Map::with_hasher(hasher()),
            withdrawals: Vec::new(),
            timers: Timers::default(),
        }
    }

    pub(crate) fn counts(&self) -> TableCounts {
        debug_assert_eq!(self.channels.len(), self.channel_peers.len());
        TableCounts {
            allocations: self.five_tuples.len(),
            permissions: self.permissions.len(),
            channels: self.channels.len(),
            relay_sockets: self.relays.len() - self.free_relays.len(),
            offloaded: self.bindings.len(),
            ending: self.endings.len(),
            timers: self.timers.len(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.five_tuples.len()
    }

    pub(crate) fn find(&self, five_tuple: &FiveTuple) -> Option<AllocationId> {
        self.five_tuples.get(five_tuple).copied()
    }

    pub(crate) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        let slot = self.slots.get(id.index as usize)?;
        slot.allocation.as_deref().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.allocation.as_deref_mut().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn find_number(&self, number: u64) -> Option<AllocationId> {
        self.numbers.get(&number).copied()
    }

    /// Allocations at places from `start` on, at most `places` of them, and where to go on. None moves
    /// while it lives, so a walk meets each at most once.
    pub(crate) fn walk(
        &self,
        start: u32,
        places: usize,
    ) -> (impl Iterator<Item = (AllocationId, &Allocation)>, Option<u32>) {
        let start = (start as usize).min(self.slots.len());
        let end = (start + places).min(self.slots.len());
        let found = self.slots[start..end].iter().zip(start as u32..).filter_map(|(slot, index)| {
            let id = AllocationId { index, generation: slot.generation };
            slot.allocation.as_deref().map(|allocation| (id, allocation))
        });
        (found, Some(end as u32).filter(|_| end < self.slots.len()))
    }

    /// The number that the next allocation gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// An allocation's permissions with their ends.
    pub(crate) fn permissions(&self, id: AllocationId) -> impl Iterator<Item = (IpAddr, u64)> {
        let ips = self.get(id).map_or(&[][..], |allocation| &allocation.permitted);
        ips.iter().filter_map(move |ip| Some((*ip, self.permissions.get(&(id.index, *ip))?.ends_ns)))
    }

    /// The allocation behind a relay socket, with the socket's family.
    pub(crate) fn owner(&self, relay: RelaySocket) -> Option<(AllocationId, Family)> {
        let slot = self.relays.get(relay.index as usize)?;
        slot.owner.filter(|_| slot.generation == relay.generation)
    }

    /// [`Table::owner`], unless the relayed address has come to its end: data must not outlive it by the
    /// time a tick is late (RFC 8656 s. 6).
    pub(crate) fn live_owner(&self, relay: RelaySocket, now_ns: u64) -> Option<(AllocationId, Family)> {
        let (id, family) = self.owner(relay)?;
        self.get(id)?.half(family).filter(|half| half.lives(now_ns)).map(|_| (id, family))
    }

    // Allocations

    /// Adds an allocation that is not answered yet; its 5-tuple is taken from now on.
    pub(crate) fn insert(&mut self, new: NewAllocation) -> AllocationId {
        let index = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: self.first_generation, allocation: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let id = AllocationId { index, generation: slot.generation };
        let previous = self.five_tuples.insert(new.path.five_tuple, id);
        debug_assert!(previous.is_none(), "one allocation per 5-tuple");
        slot.allocation = Some(Box::new(Allocation {
            number: self.next_number,
            path: new.path,
            identity: new.identity,
            request: new.request,
            live_since_ns: None,
            halves: [None, None],
            relayed: Vec::new(),
            rate: new.rate,
            bitrate_bits: new.bitrate_bits,
            to_peer: Direction::default(),
            to_client: Direction::default(),
            _quota: new.quota,
            permitted: Vec::new(),
            bound: Vec::new(),
            slot: None,
            bindings: 0,
        }));
        self.numbers.insert(self.next_number, id);
        self.next_number += 1;
        id
    }

    /// Gives a half its port; its socket has to be opened.
    pub(crate) fn add_half(&mut self, id: AllocationId, local: IpAddr, lease: PortLease) -> Option<Half> {
        let family = Family::of(&local);
        let relayed = RelayedAddr(SocketAddr::new(local, lease.port()));
        let index = self.free_relays.pop().unwrap_or_else(|| {
            self.relays.push(RelaySlot { generation: self.first_generation, ..RelaySlot::default() });
            (self.relays.len() - 1) as u32
        });
        let slot = &mut self.relays[index as usize];
        slot.owner = Some((id, family));
        slot.lease = Some(lease);
        let socket = RelaySocket { index, generation: slot.generation };
        let half =
            Half { socket, relayed, open: false, expiry: Expiry { ends_ns: u64::MAX, timer_ns: u64::MAX } };
        self.get_mut(id)?.halves[slot_of(family)] = Some(half);
        Some(half)
    }

    /// Its user has another password now.
    pub(crate) fn set_identity(&mut self, id: AllocationId, identity: Arc<Identity>) {
        if let Some(allocation) = self.get_mut(id) {
            allocation.identity = identity;
        }
    }

    /// The driver has opened a half's socket.
    pub(crate) fn half_opened(&mut self, relay: RelaySocket) -> Option<AllocationId> {
        let (id, family) = self.owner(relay)?;
        self.get_mut(id)?.halves[slot_of(family)].as_mut()?.open = true;
        Some(id)
    }

    /// The driver could not open a half's socket: the half is gone, and its port is of no use to it.
    pub(crate) fn half_failed(
        &mut self,
        relay: RelaySocket,
    ) -> Option<(AllocationId, Family, Option<PortLease>)> {
        let (id, family) = self.owner(relay)?;
        let lease = self.free_relay(relay);
        self.get_mut(id)?.halves[slot_of(family)] = None;
        Some((id, family, lease))
    }

    /// The allocation is answered: its lifetime begins.
    pub(crate) fn go_live(&mut self, id: AllocationId, now_ns: u64) {
        let Some(allocation) = self.get_mut(id) else { return };
        allocation.live_since_ns = Some(now_ns);
        allocation.relayed = allocation.halves().map(|half| half.relayed).collect();
        let ends_ns = now_ns + u64::from(allocation.request.lifetime_secs) * SECOND_NS;
        let halves: Vec<_> =
            allocation.halves().map(|half| (half.socket, Family::of(&half.relayed.ip()))).collect();
        for half in allocation.halves.iter_mut().flatten() {
            half.expiry = Expiry { ends_ns, timer_ns: ends_ns };
        }
        for (socket, family) in halves {
            self.timers.add(ends_ns, Timed::Relay(id, family));
            self.set_open(socket, true);
        }
    }

    /// Gives one half, or both, a new end (RFC 8656 s. 8.2).
    pub(crate) fn refresh(&mut self, id: AllocationId, only: Option<Family>, ends_ns: u64) {
        let Some(allocation) = self.get_mut(id) else { return };
        let mut moved = Vec::new();
        for half in allocation.halves.iter_mut().flatten() {
            let family = Family::of(&half.relayed.ip());
            if only.is_some_and(|only| only != family) {
                continue;
            }
            half.expiry.ends_ns = ends_ns;
            if ends_ns < half.expiry.timer_ns {
                moved.push((half.expiry.timer_ns, family));
                half.expiry.timer_ns = ends_ns;
            }
        }
        // A shorter lifetime than before: the timer must not wait for the old end.
        for (old_ns, family) in moved {
            self.timers.remove(old_ns, Timed::Relay(id, family));
            self.timers.add(ends_ns, Timed::Relay(id, family));
        }
        self.renew_leases(id);
    }

    /// A half's timer fired: `true` if its end has come, else the timer is set again.
    pub(crate) fn half_due(&mut self, id: AllocationId, family: Family, now_ns: u64) -> bool {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        let half = slot.and_then(|slot| slot.allocation.as_mut()?.halves[slot_of(family)].as_mut());
        let Some(half) = half else { return false };
        rearm(&mut half.expiry, now_ns, Timed::Relay(id, family), &mut self.timers)
    }

    /// Takes a half away with the permissions and channels of its family; its port stays leased until
    /// [`Table::relay_closed`].
    pub(crate) fn remove_half(&mut self, id: AllocationId, family: Family) -> Option<RemovedHalf> {
        let half = self.get_mut(id)?.halves[slot_of(family)].take()?;
        self.timers.remove(half.expiry.timer_ns, Timed::Relay(id, family));
        self.retain_permissions(id, |ip, _| Family::of(&ip) != family);
        self.retain_channels(id, |channel| Family::of(&channel.peer.ip()) != family);
        self.renew_leases(id);
        self.set_open(half.socket, false);
        let relay = &mut self.relays[half.socket.index as usize];
        relay.owner = None;
        Some(RemovedHalf { socket: half.socket, may_close: relay.bindings == 0 })
    }

    /// Takes away an allocation that has no half left.
    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let allocation = slot.allocation.take()?;
        debug_assert!(allocation.halves().next().is_none(), "halves are removed first");
        slot.generation = slot.generation.wrapping_add(1);
        self.free_slots.push(id.index);
        self.five_tuples.remove(&allocation.path.five_tuple);
        self.numbers.remove(&allocation.number);
        self.shrink();
        Some(allocation)
    }

    /// The driver has closed a relay socket: its port may be taken again.
    pub(crate) fn relay_closed(&mut self, relay: RelaySocket) {
        drop(self.free_relay(relay));
        self.shrink();
    }

    /// Gives memory back when most of what it was for is gone: a crowd that left must not cost for ever.
    fn shrink(&mut self) {
        shrink_map(&mut self.five_tuples);
        shrink_map(&mut self.numbers);
        shrink_map(&mut self.permissions);
        shrink_map(&mut self.channels);
        shrink_map(&mut self.channel_peers);
        shrink_map(&mut self.bindings);
        shrink_map(&mut self.endings);
        let is_empty = self.five_tuples.is_empty() && self.relays.len() == self.free_relays.len();
        if is_empty && self.slots.len().max(self.relays.len()) > SMALL {
            let allocations = self.slots.iter().map(|slot| slot.generation);
            let relays = self.relays.iter().map(|slot| slot.generation);
            let highest = allocations.chain(relays).max().unwrap_or(self.first_generation);
            self.first_generation = highest.wrapping_add(1);
            (self.slots, self.free_slots) = (Vec::new(), Vec::new());
            (self.relays, self.free_relays) = (Vec::new(), Vec::new());
        }
    }

    /// Whether the socket's port is a peer's address that somebody reads from.
    fn set_open(&self, relay: RelaySocket, open: bool) {
        if let Some(lease) = self.relays.get(relay.index as usize).and_then(|slot| slot.lease.as_ref()) {
            lease.set_open(open);
        }
    }

    fn free_relay(&mut self, relay: RelaySocket) -> Option<PortLease> {
        let slot =
            self.relays.get_mut(relay.index as usize).filter(|slot| slot.generation == relay.generation)?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.owner = None;
        self.free_relays.push(relay.index);
        slot.lease.take()
    }

    /// Takes back an allocation's permissions and channels whose time has come, before their timers fire.
    pub(crate) fn drop_ended(&mut self, id: AllocationId, now_ns: u64) {
        self.retain_permissions(id, |_, ends_ns| ends_ns > now_ns);
        self.retain_channels(id, |channel| channel.ends_ns() > now_ns);
    }

    // Permissions

    /// Creates or refreshes a permission (RFC 8656 s. 9: 300 s, whatever it had).
    pub(crate) fn permit(&mut self, id: AllocationId, ip: IpAddr, now_ns: u64) {
        let ends_ns = now_ns + u64::from(PERMISSION_LIFETIME_SECS) * SECOND_NS;
        if let Some(expiry) = self.permissions.get_mut(&(id.index, ip)) {
            expiry.ends_ns = ends_ns;
            return;
        }
        let Some(allocation) = self.get_mut(id) else { return };
        allocation.permitted.push(ip);
        self.permissions.insert((id.index, ip), Expiry { ends_ns, timer_ns: ends_ns });
        self.timers.add(ends_ns, Timed::Permission(id, ip));
    }

    /// Whether there is room for permissions to these addresses besides those that exist, with `max` in all.
    pub(crate) fn has_room(&self, id: AllocationId, peers: &[IpAddr], max: usize) -> bool {
        let Some(allocation) = self.get(id) else { return false };
        let is_new = |ip: &IpAddr| !self.permissions.contains_key(&(id.index, *ip));
        let new = peers.iter().enumerate().filter(|(i, ip)| is_new(ip) && !peers[..*i].contains(ip)).count();
        allocation.permitted.len() + new <= max
    }

    pub(crate) fn has_permission(&self, id: AllocationId, ip: IpAddr, now_ns: u64) -> bool {
        self.permissions.get(&(id.index, ip)).is_some_and(|expiry| expiry.ends_ns > now_ns)
    }

    /// A permission, or a live channel to exactly this peer. RFC 8656 s. 12 lets a channel outlive its
    /// permission by 300 s; clients that refresh only their channels would lose their media then.
    pub(crate) fn admits(&self, id: AllocationId, peer: PeerAddr, now_ns: u64) -> bool {
        self.has_permission(id, peer.ip(), now_ns) || self.channel_of(id, peer, now_ns).is_some()
    }

    pub(crate) fn permission_due(&mut self, id: AllocationId, ip: IpAddr, now_ns: u64) -> bool {
        let Some(expiry) = self.permissions.get_mut(&(id.index, ip)) else { return false };
        rearm(expiry, now_ns, Timed::Permission(id, ip), &mut self.timers)
    }

    pub(crate) fn revoke(&mut self, id: AllocationId, ip: IpAddr) {
        if let Some(expiry) = self.permissions.remove(&(id.index, ip)) {
            self.timers.remove(expiry.timer_ns, Timed::Permission(id, ip));
        }
        if let Some(allocation) = self.get_mut(id) {
            allocation.permitted.retain(|permitted| *permitted != ip);
        }
    }

    /// Takes back the permissions that `keep`, which is told their ends, doesn't name, in one pass over them.
    pub(crate) fn retain_permissions(&mut self, id: AllocationId, keep: impl Fn(IpAddr, u64) -> bool) {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        let Some(allocation) = slot.and_then(|slot| slot.allocation.as_mut()) else { return };
        allocation.permitted.retain(|&ip| {
            let Some(expiry) = self.permissions.get(&(id.index, ip)).copied() else { return false };
            let stays = keep(ip, expiry.ends_ns);
            if !stays {
                self.permissions.remove(&(id.index, ip));
                self.timers.remove(expiry.timer_ns, Timed::Permission(id, ip));
            }
            stays
        });
    }

    // Channels

    /// Creates or refreshes a channel binding (RFC 8656 s. 12.2: 600 s) to a peer, which may be internal.
    pub(crate) fn bind(
        &mut self,
        id: AllocationId,
        number: u16,
        (peer, internal): (PeerAddr, bool),
        relay: RelaySocket,
        now_ns: u64,
    ) {
        let ends_ns = now_ns + u64::from(CHANNEL_LIFETIME_SECS) * SECOND_NS;
        if let Some(channel) = self.channels.get_mut(&(id.index, number)) {
            debug_assert_eq!(channel.peer, peer, "a live channel is never bound to another peer");
            channel.expiry.ends_ns = ends_ns;
            self.channel_peers.insert((id.index, peer), *channel);
            return self.renew_lease(id, number);
        }
        let Some(allocation) = self.get_mut(id) else { return };
        allocation.bound.push(Bound::new(number));
        let channel =
            Channel { number, peer, internal, relay, expiry: Expiry { ends_ns, timer_ns: ends_ns } };
        self.channels.insert((id.index, number), channel);
        self.channel_peers.insert((id.index, peer), channel);
        self.timers.add(ends_ns, Timed::Channel(id, number));
    }

    pub(crate) fn channel(&self, id: AllocationId, number: u16, now_ns: u64) -> Option<&Channel> {
        self.channels.get(&(id.index, number)).filter(|channel| channel.expiry.ends_ns > now_ns)
    }

    pub(crate) fn channel_of(&self, id: AllocationId, peer: PeerAddr, now_ns: u64) -> Option<&Channel> {
        self.channel_peers.get(&(id.index, peer)).filter(|channel| channel.expiry.ends_ns > now_ns)
    }

    pub(crate) fn channel_due(&mut self, id: AllocationId, number: u16, now_ns: u64) -> bool {
        let Some(channel) = self.channels.get_mut(&(id.index, number)) else { return false };
        let due = rearm(&mut channel.expiry, now_ns, Timed::Channel(id, number), &mut self.timers);
        self.channel_peers.insert((id.index, channel.peer), *channel);
        due
    }

    pub(crate) fn unbind(&mut self, id: AllocationId, number: u16) {
        if let Some(channel) = self.channels.get(&(id.index, number)) {
            let peer = channel.peer;
            self.retain_channels(id, |other| other.peer != peer);
        }
    }

    /// Takes back the channels that `keep` doesn't name, in one pass over them.
    pub(crate) fn retain_channels(&mut self, id: AllocationId, keep: impl Fn(&Channel) -> bool) {
        // Straight into the fields: the list is walked while the maps change.
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        let Some(allocation) = slot.and_then(|slot| slot.allocation.as_mut()) else { return };
        allocation.bound.retain(|bound| {
            let Some(channel) = self.channels.get(&(id.index, bound.number)).copied() else { return false };
            let stays = keep(&channel);
            if !stays {
                self.channels.remove(&(id.index, bound.number));
                self.channel_peers.remove(&(id.index, channel.peer));
                self.timers.remove(channel.expiry.timer_ns, Timed::Channel(id, bound.number));
                self.withdrawals.extend(bound.withdraw(&mut self.bindings));
            }
            stays
        });
    }
}

/// Tables up to this size are kept whatever they hold.
const SMALL: usize = 64;

/// Each shrinking pays for itself: the map has to lose seven of eight entries before the next one.
fn shrink_map<K: Eq + Hash, V>(map: &mut Map<K, V>) {
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(map.capacity() / 4);
    }
}

/// Called when a timer entry has been taken out: `true` if the thing has ended, else the entry goes back
/// to where the thing ends now.
fn rearm(expiry: &mut Expiry, now_ns: u64, what: Timed, timers: &mut Timers) -> bool {
    if expiry.ends_ns <= now_ns {
        return true;
    }
    expiry.timer_ns = expiry.ends_ns;
    timers.add(expiry.ends_ns, what);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_gives_memory_back_when_most_of_it_is_gone() {
        let mut map: Map<u32, u32> = Map::with_hasher(FixedState::with_seed(1));
        (0..100_000).for_each(|key| {
            map.insert(key, key);
        });
        let full = map.capacity();
        for key in 0..99_990 {
            map.remove(&key);
            shrink_map(&mut map);
        }
        assert!(map.capacity() <= 8 * SMALL, "{} of {full}", map.capacity());
        assert_eq!(map.len(), 10);
        assert!((99_990..100_000).all(|key| map.get(&key) == Some(&key)));
    }
}
