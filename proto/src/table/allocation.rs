//! Allocations and their halves: how they begin, go on and end.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use turnpike_abi::{Rate, charge};

use super::arena::Name;
use super::offload::Bound;
use super::timer::{Expiry, Timed};
use super::{Table, shrink_map};
use crate::addr::{ClientAddr, Family, PeerAddr, RelayedAddr, RelayedTransport};
use crate::auth::Identity;
use crate::error::ErrorCode;
use crate::io::{ClientPath, ConnectionId, RelaySocket, Sender, Way};
use crate::limits::{FORGETTING_NS, SECOND_NS};
use crate::shared::plane::AllocationSlot;
use crate::shared::ports::PortLease;
use crate::shared::quota::QuotaGuard;
use crate::stats::{Traffic, TrafficByPath, UserspaceDrop, UserspaceDropCounts};
use crate::wire::ReplyTo;

/// After so long without traffic every bucket is full: a burst is 10 s by configuration, 24 s at the lowest rate.
const LONGEST_WAIT_NS: u64 = 60 * SECOND_NS;
/// How exactly it is said when a datagram will pass.
const WAIT_STEP_NS: u64 = 1_000_000;

/// Names an allocation within its worker; an old name never means a new allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AllocationId {
    pub(super) index: u32,
    generation: u32,
}

impl AllocationId {
    /// Its place in the table, for a walk.
    pub(crate) fn place(self) -> u32 {
        self.index
    }
}

impl Name for AllocationId {
    fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    fn index(self) -> u32 {
        self.index
    }

    fn generation(self) -> u32 {
        self.generation
    }
}

/// What the bandwidth limit says of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It passes, and is counted.
    Passes,
    /// It will pass then, and its client can wait. Nothing is counted.
    PassesAt(u64),
    /// It is dropped, and counted.
    Dropped,
}

/// What an Allocate asked for, kept while its ports are being opened and for repeating its answer.
#[derive(Clone, Debug)]
pub(crate) struct AllocateState {
    pub(crate) reply_to: ReplyTo,
    pub(crate) lifetime_secs: u32,
    /// What is to be relayed.
    pub(crate) relayed: RelayedTransport,
    pub(crate) token: Option<[u8; 8]>,
    /// The half of a dual allocation that could not be had (RFC 8656 s. 7.2, ADDRESS-ERROR-CODE).
    pub(crate) refused_family: Option<(Family, ErrorCode)>,
    /// Ports tried so far.
    pub(crate) attempts: u32,
    /// Ask for even ports.
    pub(crate) even: bool,
}

/// What a new allocation starts with.
pub(crate) struct NewAllocation {
    pub(crate) sender: Sender,
    pub(crate) identity: Arc<Identity>,
    pub(crate) quota: QuotaGuard,
    pub(crate) request: AllocateState,
    pub(crate) rate: Rate,
    pub(crate) bitrate_bits: u64,
}

/// One relayed transport address of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    pub(super) socket: RelaySocket,
    pub(super) relayed: RelayedAddr,
    /// The driver has opened its socket.
    pub(super) open: bool,
    pub(super) expiry: Expiry,
}

/// A half that was taken away.
pub(crate) struct RemovedHalf {
    pub(crate) socket: RelaySocket,
    /// The kernel plane knows nothing of it; else its socket is closed by [`Table::withdrawn`], or a little later.
    pub(crate) may_close: bool,
}

/// One direction's bandwidth limit and count.
#[derive(Debug, Default)]
pub(super) struct Direction {
    pub(super) traffic: Traffic,
    /// The bucket of an allocation that shares none with the kernel.
    pub(super) bucket: Cell<u64>,
}

/// An allocation (RFC 8656 s. 3).
pub(crate) struct Allocation {
    number: u64,
    pub(super) path: ClientPath,
    /// The client's own address, if that is another one: it is behind a proxy.
    proxied: Option<Box<ClientAddr>>,
    pub(super) identity: Arc<Identity>,
    request: AllocateState,
    pub(super) live_since_ns: Option<u64>,
    pub(super) halves: [Option<Half>; 2],
    pub(super) relayed: Vec<RelayedAddr>,
    pub(super) rate: Rate,
    pub(super) bitrate_bits: u64,
    pub(super) to_peer: Direction,
    pub(super) to_client: Direction,
    /// What did not reach a client over TCP or TLS, if there was any.
    pub(super) stream_drops: Option<Box<UserspaceDropCounts>>,
    /// Given back when the allocation goes.
    _quota: QuotaGuard,
    pub(super) permitted: Vec<IpAddr>,
    pub(super) bound: Vec<Bound>,
    pub(super) connections: Vec<ConnectionId>,
    /// What the kernel plane has forwarded to peers, and to the client, with a slot that it had in another process.
    pub(super) earlier: [Traffic; 2],
    /// Its slot in the kernel plane.
    pub(super) slot: Option<AllocationSlot>,
    /// Slots of channel bindings that are its, those being withdrawn included.
    pub(super) bindings: u32,
}

impl Half {
    /// The driver's socket for it.
    pub(crate) fn socket(&self) -> RelaySocket {
        self.socket
    }

    /// The address that the socket is bound to.
    pub(crate) fn relayed(&self) -> RelayedAddr {
        self.relayed
    }

    pub(crate) fn ends_ns(&self) -> u64 {
        self.expiry.ends_ns
    }

    /// Its end has not come, whether or not its timer has fired yet.
    #[inline]
    pub(crate) fn lives(&self, now_ns: u64) -> bool {
        self.expiry.lives(now_ns)
    }

    pub(super) fn family(&self) -> Family {
        Family::of(&self.relayed.ip())
    }
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

/// Bytes of a stream below which reading waits for the bandwidth limit: any burst has room for as much.
const SMALLEST_PIECE: usize = 1024;

/// What the kernel plane has forwarded: with the slot, and earlier.
pub(super) fn kernel_traffic(slot: Option<&AllocationSlot>, earlier: [Traffic; 2]) -> [Traffic; 2] {
    let [to_peer, to_client] = slot.map(AllocationSlot::traffic).unwrap_or_default();
    [to_peer + earlier[0], to_client + earlier[1]]
}

/// The place of a family's half.
pub(super) const fn half_of(family: Family) -> usize {
    family as usize - 1
}

impl Allocation {
    pub(super) fn new(number: u64, new: NewAllocation) -> Self {
        let Sender { path, client } = new.sender;
        Self {
            number,
            path,
            proxied: (client != path.five_tuple.client).then(|| Box::new(client)),
            identity: new.identity,
            request: new.request,
            live_since_ns: None,
            halves: [None, None],
            relayed: Vec::new(),
            rate: new.rate,
            bitrate_bits: new.bitrate_bits,
            to_peer: Direction::default(),
            to_client: Direction::default(),
            stream_drops: None,
            _quota: new.quota,
            permitted: Vec::new(),
            bound: Vec::new(),
            connections: Vec::new(),
            earlier: Default::default(),
            slot: None,
            bindings: 0,
        }
    }

    /// The number that operators know it by.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn path(&self) -> &ClientPath {
        &self.path
    }

    /// The client's own address.
    pub(crate) fn client(&self) -> ClientAddr {
        self.proxied.as_deref().copied().unwrap_or(self.path.five_tuple.client)
    }

    /// Who asked for it.
    pub(crate) fn sender(&self) -> Sender {
        Sender { path: self.path, client: self.client() }
    }

    /// Whether its client is behind a proxy.
    pub(crate) fn is_proxied(&self) -> bool {
        self.proxied.is_some()
    }

    /// Whose it is, with the keys in force.
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The Allocate that began it, as far as its answer needs it.
    pub(crate) fn request(&self) -> &AllocateState {
        &self.request
    }

    /// When it was answered; `None` while its ports are being opened.
    pub(crate) fn live_since_ns(&self) -> Option<u64> {
        self.live_since_ns
    }

    /// What its client was told, also after one half of it has ended; empty until it is live.
    pub(crate) fn relayed(&self) -> &[RelayedAddr] {
        &self.relayed
    }

    /// Its bandwidth limit, bits of payload per second; 0 is none.
    pub(crate) fn bitrate_bits(&self) -> u64 {
        self.bitrate_bits
    }

    #[inline]
    pub(crate) fn half(&self, family: Family) -> Option<&Half> {
        self.halves[half_of(family)].as_ref()
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

    /// Its connections with peers.
    pub(crate) fn connections(&self) -> &[ConnectionId] {
        &self.connections
    }

    /// What it relays.
    pub(crate) fn relayed_transport(&self) -> RelayedTransport {
        self.request.relayed
    }

    /// Permissions, channels and connections: what its end, or a look at all of it, costs beside itself.
    pub(crate) fn entries(&self) -> usize {
        self.permitted.len() + self.bound.len() + self.connections.len()
    }

    /// When its last half ends; 0 if there is none.
    pub(crate) fn ends_ns(&self) -> u64 {
        self.halves().map(Half::ends_ns).max().unwrap_or(0)
    }

    /// What was forwarded: to peers, and to the client.
    pub(crate) fn traffic(&self) -> [TrafficByPath; 2] {
        let [to_peer, to_client] = kernel_traffic(self.slot.as_ref(), self.earlier);
        [
            TrafficByPath { userspace: self.to_peer.traffic, kernel: to_peer },
            TrafficByPath { userspace: self.to_client.traffic, kernel: to_client },
        ]
    }

    /// What did not reach a client over TCP or TLS.
    pub(crate) fn stream_drops(&self) -> UserspaceDropCounts {
        self.stream_drops.as_deref().copied().unwrap_or_default()
    }

    /// Counts datagrams that did not reach their client over TCP or TLS.
    pub(crate) fn count_stream_drops(&mut self, drop: UserspaceDrop, times: u64) {
        self.stream_drops.get_or_insert_default().add(drop, times);
    }

    /// Counts a datagram to a peer, if the bandwidth limit lets it pass, or drops it; a stream's client can wait.
    #[inline]
    pub(crate) fn admit_to_peer(&mut self, now_ns: u64, payload_len: usize) -> Admission {
        if self.rate.is_unlimited() || self.charge_to_peer(now_ns, payload_len as u64) {
            self.to_peer.count(true, payload_len);
            return Admission::Passes;
        }
        if self.path.five_tuple.transport.is_stream()
            && let Some(at_ns) = self.passes_to_peer_at(now_ns, payload_len as u64)
        {
            return Admission::PassesAt(at_ns);
        }
        self.count_rate_drop_to_peer();
        Admission::Dropped
    }

    /// Counts a datagram to a peer that the bandwidth limit has dropped.
    pub(crate) fn count_rate_drop_to_peer(&mut self) {
        self.to_peer.count(false, 0);
    }

    /// Counts a datagram to the client; `false` if the bandwidth limit is used up.
    #[inline]
    pub(crate) fn admit_to_client(&mut self, now_ns: u64, payload_len: usize) -> bool {
        let is_admitted = self.rate.is_unlimited() || self.charge_to_client(now_ns, payload_len as u64);
        self.to_client.count(is_admitted, payload_len)
    }

    /// When what the limit does not let pass now will have passed, if nothing else does before; `None` for what is
    /// larger than any burst.
    fn passes_to_peer_at(&self, now_ns: u64, bytes: u64) -> Option<u64> {
        let word = match &self.slot {
            Some(slot) => slot.words().to_peer.bucket.load(Ordering::Relaxed),
            None => self.to_peer.bucket.get(),
        };
        // A copy of the bucket is asked: nobody else knows how it counts.
        let passes_at = |at_ns| charge(&Cell::new(word), &self.rate, at_ns, bytes);
        let (mut early_ns, mut late_ns) = (now_ns, now_ns + LONGEST_WAIT_NS);
        if !passes_at(late_ns) {
            return None;
        }
        while late_ns - early_ns > WAIT_STEP_NS {
            let middle_ns = early_ns + (late_ns - early_ns) / 2;
            match passes_at(middle_ns) {
                true => late_ns = middle_ns,
                false => early_ns = middle_ns,
            }
        }
        Some(late_ns)
    }

    /// How many of `wanted` bytes of a stream the bandwidth limit lets pass now: nothing, or a piece that is worth
    /// reading. Charges nothing.
    pub(crate) fn allowance(&self, now_ns: u64, way: Way, wanted: usize) -> usize {
        if self.rate.is_unlimited() {
            return wanted;
        }
        let bucket = match way {
            Way::ToPeer => &self.to_peer.bucket,
            Way::ToClient => &self.to_client.bucket,
        };
        let fits = |bytes: &usize| {
            let copy = Cell::new(bucket.get());
            charge(&copy, &self.rate, now_ns, *bytes as u64)
        };
        let mut bytes = wanted;
        while !fits(&bytes) {
            bytes /= 2;
            if bytes < SMALLEST_PIECE {
                return 0;
            }
        }
        bytes
    }

    /// What the bandwidth limit lets pass at once, nanoseconds at its rate.
    pub(crate) fn burst_ns(&self) -> u64 {
        self.rate.burst_ns()
    }

    /// Counts bytes of a stream, within its allowance.
    pub(crate) fn count_stream(&mut self, now_ns: u64, way: Way, bytes: u64) {
        let direction = match way {
            Way::ToPeer => &mut self.to_peer,
            Way::ToClient => &mut self.to_client,
        };
        direction.traffic.bytes += bytes;
        charge(&direction.bucket, &self.rate, now_ns, bytes);
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

impl Table {
    /// Adds an allocation that is not answered yet; its 5-tuple is taken from now on.
    pub(crate) fn insert(&mut self, new: NewAllocation) -> AllocationId {
        let (number, five_tuple) = (self.next_number, new.sender.path.five_tuple);
        let id = self.allocations.insert(Box::new(Allocation::new(number, new)));
        let previous = self.five_tuples.insert(five_tuple, id);
        debug_assert!(previous.is_none(), "one allocation per 5-tuple");
        self.numbers.insert(number, id);
        self.next_number += 1;
        id
    }

    /// Gives a half its port; its socket has to be opened.
    pub(crate) fn add_half(&mut self, id: AllocationId, local: IpAddr, lease: PortLease) -> Option<Half> {
        let family = Family::of(&local);
        let relayed = RelayedAddr(SocketAddr::new(local, lease.port()));
        let allocation = self.allocations.get_mut(id)?;
        let socket = self.sockets.hold(id, family, lease);
        let half = Half { socket, relayed, open: false, expiry: Expiry::NEVER };
        allocation.halves[half_of(family)] = Some(half);
        Some(half)
    }

    /// The driver has opened a half's socket.
    pub(crate) fn half_opened(&mut self, socket: RelaySocket) -> Option<AllocationId> {
        let (id, family) = self.owner(socket)?;
        self.allocations.get_mut(id)?.halves[half_of(family)].as_mut()?.open = true;
        Some(id)
    }

    /// The driver could not open a half's socket: the half is gone, and its port is of no use to it.
    pub(crate) fn half_failed(&mut self, socket: RelaySocket) -> Option<(AllocationId, Family, PortLease)> {
        let (id, family) = self.owner(socket)?;
        let lease = self.sockets.release(socket)?;
        self.allocations.get_mut(id)?.halves[half_of(family)] = None;
        Some((id, family, lease))
    }

    /// Another port is to be tried for a half: says how many were before it, and takes the token for the port
    /// that was reserved with it.
    pub(crate) fn try_again(&mut self, id: AllocationId) -> Option<(u32, Option<[u8; 8]>)> {
        let request = &mut self.allocations.get_mut(id)?.request;
        let tried = request.attempts;
        request.attempts += 1;
        Some((tried, request.token.take()))
    }

    /// The port above its own is reserved for whoever shows this token.
    pub(crate) fn set_token(&mut self, id: AllocationId, token: [u8; 8]) {
        if let Some(allocation) = self.allocations.get_mut(id) {
            allocation.request.token = Some(token);
        }
    }

    /// One half of a dual allocation can't be had; the other one will be answered alone.
    pub(crate) fn refuse_half(&mut self, id: AllocationId, family: Family, code: ErrorCode) {
        if let Some(allocation) = self.allocations.get_mut(id) {
            allocation.request.refused_family = Some((family, code));
        }
    }

    /// The allocation is answered: its lifetime begins.
    pub(crate) fn go_live(&mut self, id: AllocationId, now_ns: u64) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        allocation.live_since_ns = Some(now_ns);
        allocation.relayed = allocation.halves().map(|half| half.relayed).collect();
        let ends_ns = now_ns + u64::from(allocation.request.lifetime_secs) * SECOND_NS;
        for half in allocation.halves.iter_mut().flatten() {
            half.expiry = Expiry::at(ends_ns);
            self.timers.add(ends_ns, Timed::Half(id, half.family()));
            self.sockets.set_open(half.socket, Some(allocation.request.relayed));
        }
    }

    /// Its user has another password now.
    pub(crate) fn set_identity(&mut self, id: AllocationId, identity: Arc<Identity>) {
        if let Some(allocation) = self.allocations.get_mut(id) {
            allocation.identity = identity;
        }
    }

    /// Gives one half, or both, a new end (RFC 8656 s. 8.2).
    pub(crate) fn refresh(&mut self, id: AllocationId, only: Option<Family>, ends_ns: u64) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        for half in allocation.halves.iter_mut().flatten() {
            let family = half.family();
            if only.is_none_or(|only| only == family) {
                half.expiry.move_to(ends_ns, Timed::Half(id, family), &mut self.timers);
            }
        }
        self.renew_leases(id);
    }

    /// A half's timer fired: `true` if its end has come, else the timer is set again.
    pub(super) fn half_due(&mut self, id: AllocationId, family: Family, now_ns: u64) -> bool {
        let half = self.allocations.get_mut(id).and_then(|it| it.halves[half_of(family)].as_mut());
        half.is_some_and(|half| half.expiry.is_due(now_ns, Timed::Half(id, family), &mut self.timers))
    }

    /// Takes a half away with the permissions and channels of its family; its port stays leased until
    /// [`Table::relay_closed`].
    pub(crate) fn remove_half(
        &mut self,
        id: AllocationId,
        family: Family,
        now_ns: u64,
    ) -> Option<RemovedHalf> {
        let half = self.allocations.get_mut(id)?.halves[half_of(family)].take()?;
        self.timers.remove(half.expiry.timer_ns, Timed::Half(id, family));
        self.retain_permissions(id, |ip, _| Family::of(&ip) != family);
        self.retain_channels(id, |channel| Family::of(&channel.peer().ip()) != family);
        self.renew_leases(id);
        let waits_until_ns = now_ns + FORGETTING_NS;
        let may_close = self.sockets.disown(half.socket, waits_until_ns);
        if !may_close {
            self.timers.add(waits_until_ns, Timed::Port(half.socket));
        }
        Some(RemovedHalf { socket: half.socket, may_close })
    }

    /// Takes away an allocation that has no half left.
    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        let allocation = self.allocations.remove(id)?;
        debug_assert!(allocation.halves().next().is_none(), "halves are removed first");
        self.five_tuples.remove(&allocation.path.five_tuple);
        self.numbers.remove(&allocation.number);
        shrink_map(&mut self.five_tuples);
        shrink_map(&mut self.numbers);
        Some(allocation)
    }

    /// A permission, or a live channel to exactly this peer. RFC 8656 s. 12 lets a channel outlive its
    /// permission by 300 s; clients that refresh only their channels would lose their media then.
    pub(crate) fn admits(&self, id: AllocationId, peer: PeerAddr, now_ns: u64) -> bool {
        self.has_permission(id, peer.ip(), now_ns) || self.channel_of(id, peer, now_ns).is_some()
    }
}
