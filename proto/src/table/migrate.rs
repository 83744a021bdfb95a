//! What a worker's table holds, as images for a snapshot, and back from them.
//!
//! Names of relay sockets are new ones after that, since they are places of the table; numbers of allocations stay,
//! unless another worker adopts them. Deadlines are set where things end now, which nobody outside can tell from where
//! they stood.

use std::net::SocketAddr;
use std::sync::Arc;

use turnpike_abi::Rate;

use super::allocation::{Direction, half_of};
use super::channels::Channel;
use super::connections::{Connection, ConnectionState};
use super::offload::{Binding, Bound, Ending, Offload};
use super::timer::{Expiry, Timed};
use super::{AllocateState, Allocation, AllocationId, Half, NewAllocation, Table};
use crate::addr::{ClientAddr, Family, PeerAddr, RelayedAddr, RelayedTransport};
use crate::auth::Identity;
use crate::error::ErrorCode;
use crate::inspect::WhyNot;
use crate::io::{ClientPath, ConnectionId, RelaySocket, Sender};
use crate::limits::{FORGETTING_NS, MAX_PORT_ATTEMPTS, RESERVATION_LIFETIME_SECS, SECOND_NS};
use crate::migrate::images::{
    AllocationImage, ChannelImage, ConnectionImage, ConnectionStateImage, DirectionImage, HalfImage,
    PathImage, ReplyToImage, RequestImage, Slot, WithdrawnImage, plausible, protocol_of, traffic_image,
    traffic_of,
};
use crate::migrate::{AdoptedRelay, SnapshotError};
use crate::shared::plane::{AllocationSlot, Plane};
use crate::shared::ports::PortLease;
use crate::shared::quota::QuotaGuard;
use crate::table::Released;
use crate::wire::{ReplyTo, TransactionId};

/// What an allocation of a snapshot has here.
pub(crate) struct Place<'a> {
    /// Its number.
    pub(crate) number: u64,
    /// Its path, by the socket that reaches its client now.
    pub(crate) path: ClientPath,
    pub(crate) identity: Arc<Identity>,
    pub(crate) quota: QuotaGuard,
    pub(crate) rate: Rate,
    /// One for each half.
    pub(crate) leases: Vec<PortLease>,
    /// The memory that the kernel program had before, if it still has.
    pub(crate) plane: Option<&'a Arc<Plane>>,
}

const fn contradiction<T>(what: &'static str) -> Result<T, SnapshotError> {
    Err(SnapshotError::Contradiction(what))
}

impl Table {
    /// What waits for the kernel plane to forget waits no longer: only slots are left to be given back.
    pub(crate) fn settle(&mut self, now_ns: u64) -> Vec<Released> {
        let is_waiting = |what: &Timed| matches!(what, Timed::Port(_) | Timed::Ending(_));
        let mut released = Vec::new();
        for (deadline_ns, what) in self.timers.until(now_ns + FORGETTING_NS, is_waiting) {
            self.timers.remove(deadline_ns, what);
            match what {
                Timed::Port(socket) => released.push(self.port_due(socket)),
                Timed::Ending(id) => released.push(self.ending_due(id)),
                _ => {}
            }
        }
        released
    }

    /// Deadlines of reservations.
    pub(crate) fn watched_reservations(&self, now_ns: u64) -> Vec<([u8; 8], u64)> {
        let last_ns = now_ns + u64::from(RESERVATION_LIFETIME_SECS) * SECOND_NS;
        let entries = self.timers.until(last_ns, |what| matches!(what, Timed::Reservation(_)));
        let token = |(deadline_ns, what)| match what {
            Timed::Reservation(token) => Some((token, deadline_ns)),
            _ => None,
        };
        entries.into_iter().filter_map(token).collect()
    }

    /// Names of connections that have ended.
    pub(crate) fn ended_connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.ended.iter().copied()
    }

    /// They are not given again yet.
    pub(crate) fn adopt_ended_connections(&mut self, ended: impl Iterator<Item = ConnectionId>) {
        self.connections.ended.extend(ended);
    }

    /// The numbers of new allocations go on from there.
    pub(crate) fn go_on_from(&mut self, next_number: u64) {
        self.next_number = self.next_number.max(next_number);
    }

    /// A number for an allocation that had one of another worker's.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    pub(crate) fn image(&self, id: AllocationId) -> Option<AllocationImage> {
        let allocation = self.get(id)?;
        let kernel = allocation.slot.as_ref().map(AllocationSlot::traffic).unwrap_or_default();
        let words = allocation.slot.as_ref().map(AllocationSlot::buckets);
        let direction = |direction: &Direction, place: usize| DirectionImage {
            userspace: traffic_image(direction.traffic),
            earlier: traffic_image(allocation.earlier[place]),
            kernel: traffic_image(kernel[place]),
            bucket: words.map_or(direction.bucket.get(), |words| words[place]),
        };
        Some(AllocationImage {
            number: allocation.number(),
            path: PathImage::from(&allocation.path),
            client: allocation.is_proxied().then(|| allocation.client().0.into()),
            identity: allocation.identity.image(),
            request: request_image(allocation.request()),
            live_since_ns: allocation.live_since_ns,
            halves: allocation.halves().map(half_image).collect(),
            relayed: allocation.relayed.iter().map(|relayed| relayed.0.into()).collect(),
            bitrate_bits: allocation.bitrate_bits,
            to_peer: direction(&allocation.to_peer, 0),
            to_client: direction(&allocation.to_client, 1),
            stream_drops: allocation.stream_drops().image(),
            permissions: self.permissions(id).collect(),
            channels: allocation.bound.iter().filter_map(|bound| self.channel_image(id, bound)).collect(),
            connections: allocation.connections.iter().filter_map(|id| self.connection_image(*id)).collect(),
            slot: allocation.slot.as_ref().map(|slot| slot.name().into()),
        })
    }

    fn channel_image(&self, id: AllocationId, bound: &Bound) -> Option<ChannelImage> {
        let channel = self.channels.find(id, bound.number())?;
        let slot = match bound.offload {
            Offload::Slot(slot) => self.kernel.bindings.get(&slot).map(|binding| binding.slot.name()),
            Offload::Not(_) => None,
        };
        Some(ChannelImage {
            number: channel.number,
            peer: channel.peer.0.into(),
            internal: channel.internal,
            ends_ns: channel.expiry.ends_ns,
            slot: slot.map(Slot::from),
            why_not: self.why_not(bound).map(|why_not| why_not.name().into()),
        })
    }

    fn connection_image(&self, id: ConnectionId) -> Option<ConnectionImage> {
        let connection = self.connection(id)?;
        let state = match connection.state {
            ConnectionState::Connecting(reply_to) => {
                ConnectionStateImage::Connecting(reply_to_image(&reply_to))
            }
            ConnectionState::Unbound => ConnectionStateImage::Unbound,
            ConnectionState::Bound => ConnectionStateImage::Bound,
        };
        let (peer, ends_ns) = (connection.peer.0.into(), connection.expiry.ends_ns);
        Some(ConnectionImage { id: id.0, peer, state, ends_ns })
    }

    /// Slots of bindings that the kernel has not forgotten, though their channels have gone.
    pub(crate) fn withdrawn_images(&self) -> Vec<WithdrawnImage> {
        let withdrawn = self.kernel.bindings.values().filter(|binding| binding.is_withdrawn);
        let image = |binding: &Binding| WithdrawnImage {
            binding: binding.slot.name().into(),
            user: Arc::clone(binding.slot.user_name()),
            relay: (binding.relay.index, binding.relay.generation),
            owner: self.get(binding.owner).map(Allocation::number),
            ended: (self.kernel.endings.get(&binding.owner))
                .and_then(|ending| Some(ending.slot.as_ref()?.name().into())),
        };
        withdrawn.map(image).collect()
    }

    /// Adds an allocation of a snapshot. Nothing is changed if that can't be.
    pub(crate) fn adopt(
        &mut self,
        image: &AllocationImage,
        place: Place<'_>,
    ) -> Result<(AllocationId, Vec<AdoptedRelay>), SnapshotError> {
        let Place { number, path, identity, quota, rate, leases, plane } = place;
        self.check(image, &path, number)?;
        let request = request_of(&image.request)?;
        let transport = request.relayed;
        let client = image.client.map_or(path.five_tuple.client, |client| ClientAddr(client.into()));
        let bitrate_bits = plausible(image.bitrate_bits)?;
        let sender = Sender { path, client };
        let new = NewAllocation { sender, identity, quota, request, rate, bitrate_bits };
        let mut allocation = Allocation::new(number, new);
        allocation.live_since_ns = image.live_since_ns.map(plausible).transpose()?;
        allocation.relayed = image.relayed.iter().map(|relayed| RelayedAddr((*relayed).into())).collect();
        if !image.stream_drops.is_empty() {
            allocation.stream_drops.get_or_insert_default().adopt(&image.stream_drops)?;
        }
        adopt_traffic(&mut allocation, image, plane)?;
        let id = self.allocations.insert(Box::new(allocation));
        self.five_tuples.insert(path.five_tuple, id);
        self.numbers.insert(number, id);
        let halves = image.halves.iter().zip(leases);
        let relays = halves.map(|(half, lease)| self.adopt_half(id, half, lease, transport)).collect();
        self.adopt_permissions(id, image);
        image.channels.iter().for_each(|channel| self.adopt_channel(id, channel, plane));
        self.renew_leases(id);
        Ok((id, relays))
    }

    /// Whether an allocation can have been as its image says.
    fn check(&self, image: &AllocationImage, path: &ClientPath, number: u64) -> Result<(), SnapshotError> {
        if self.five_tuples.contains_key(&path.five_tuple) || self.numbers.contains_key(&number) {
            return contradiction("an allocation comes twice");
        }
        let families: Vec<Family> = image.halves.iter().map(half_family).collect();
        if !matches!(families[..], [_] | [Family::V4, Family::V6]) {
            return contradiction("an allocation has no relayed address, or too many");
        }
        let is_live = image.live_since_ns.is_some();
        if is_live && (image.relayed.is_empty() || image.halves.iter().any(|half| !half.open)) {
            return contradiction("an allocation was answered without its ports");
        }
        let entries = image.permissions.len() + image.channels.len() + image.connections.len();
        if !is_live && entries > 0 {
            return contradiction("an allocation was used before it was answered");
        }
        let is_dated = |ends_ns: u64| plausible(ends_ns).map(drop);
        image.halves.iter().filter(|_| is_live).try_for_each(|half| is_dated(half.ends_ns))?;
        image.permissions.iter().try_for_each(|(_, ends_ns)| is_dated(*ends_ns))?;
        image.channels.iter().try_for_each(|channel| is_dated(channel.ends_ns))?;
        let has_half = |peer: SocketAddr| families.contains(&Family::of(&peer.ip()));
        if image.channels.iter().any(|channel| !has_half(channel.peer.into())) {
            return contradiction("a channel has no relayed address");
        }
        Ok(())
    }

    fn adopt_half(
        &mut self,
        id: AllocationId,
        image: &HalfImage,
        lease: PortLease,
        transport: RelayedTransport,
    ) -> AdoptedRelay {
        let relayed = RelayedAddr(image.relayed.into());
        let family = Family::of(&relayed.ip());
        let socket = self.sockets.hold(id, family, lease);
        let mut half = Half { socket, relayed, open: image.open, expiry: Expiry::NEVER };
        let allocation = self.allocations.get_mut(id).expect("it was inserted just now");
        if allocation.live_since_ns.is_some() {
            half.expiry = Expiry::at(image.ends_ns);
            self.timers.add(image.ends_ns, Timed::Half(id, family));
            self.sockets.set_open(socket, Some(transport));
        }
        allocation.halves[half_of(family)] = Some(half);
        let (index, generation) = image.socket;
        AdoptedRelay { was: RelaySocket { index, generation }, relay: socket, address: relayed, transport }
    }

    fn adopt_permissions(&mut self, id: AllocationId, image: &AllocationImage) {
        for (ip, ends_ns) in &image.permissions {
            if self.permissions.contains_key(&(id.index, *ip)) {
                continue;
            }
            let Some(allocation) = self.allocations.get_mut(id) else { return };
            allocation.permitted.push(*ip);
            self.permissions.insert((id.index, *ip), Expiry::at(*ends_ns));
            self.timers.add(*ends_ns, Timed::Permission(id, *ip));
        }
    }

    fn adopt_channel(&mut self, id: AllocationId, image: &ChannelImage, plane: Option<&Arc<Plane>>) {
        let (number, peer) = (image.number, PeerAddr(image.peer.into()));
        if self.channels.find(id, number).is_some() || self.channels.find_peer(id, peer).is_some() {
            return;
        }
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        let Some(relay) = allocation.half(Family::of(&peer.ip())).map(Half::socket) else { return };
        let why_not = image.why_not.as_ref();
        let why_not = why_not.and_then(|name| WhyNot::ALL.iter().copied().find(|known| known.name() == name));
        let mut bound = Bound::new(number);
        bound.offload = Offload::Not(why_not.unwrap_or(WhyNot::Pending));
        let slot = plane.zip(image.slot).filter(|_| allocation.slot.is_some());
        let slot =
            slot.and_then(|(plane, slot)| plane.claim_binding(slot.into(), &allocation.identity.quota_user));
        if let Some(slot) = slot {
            bound.offload = Offload::Slot(slot.name().slot);
            allocation.bindings += 1;
            self.sockets.add_binding(relay);
            let binding = Binding { slot, owner: id, relay, why_not, is_withdrawn: false };
            self.kernel.bindings.insert(binding.slot.name().slot, binding);
        }
        allocation.bound.push(bound);
        let expiry = Expiry::at(image.ends_ns);
        self.channels.insert(id, Channel { number, peer, internal: image.internal, relay, expiry });
        self.timers.add(image.ends_ns, Timed::Channel(id, number));
    }

    /// Adds a connection of an adopted allocation under a name that is free.
    pub(crate) fn adopt_connection(
        &mut self,
        allocation: AllocationId,
        id: ConnectionId,
        image: &ConnectionImage,
    ) -> Result<(), SnapshotError> {
        let peer = PeerAddr(image.peer.into());
        if self.is_connection_known(id) || self.is_connected(allocation, peer) {
            return contradiction("a connection comes twice");
        }
        let Some(owner) = self.allocations.get_mut(allocation) else { return Ok(()) };
        let (state, expiry) = match image.state {
            ConnectionStateImage::Connecting(reply_to) => {
                (ConnectionState::Connecting(reply_to_of(&reply_to)), Expiry::at(plausible(image.ends_ns)?))
            }
            ConnectionStateImage::Unbound => {
                (ConnectionState::Unbound, Expiry::at(plausible(image.ends_ns)?))
            }
            ConnectionStateImage::Bound => (ConnectionState::Bound, Expiry::NEVER),
        };
        owner.connections.push(id);
        match matches!(state, ConnectionState::Bound) {
            true => self.connections.bound += 1,
            false => self.timers.add(expiry.timer_ns, Timed::Connection(id)),
        }
        self.connections.by_peer.insert((allocation, peer), id);
        self.connections.by_id.insert(id, Connection { allocation, peer, state, expiry });
        Ok(())
    }

    /// A binding that the kernel still has to forget: its slot is kept until then, and that of its allocation. `relay` is
    /// the socket that its data left by, if that is still open.
    pub(crate) fn adopt_withdrawn(
        &mut self,
        image: &WithdrawnImage,
        owner: Option<AllocationId>,
        relay: Option<RelaySocket>,
        plane: &Arc<Plane>,
    ) {
        let Some(slot) = plane.claim_binding(image.binding.into(), &image.user) else { return };
        slot.lease(0);
        let owner = owner.unwrap_or_else(|| self.ending_of(image.ended, plane));
        match self.allocations.get_mut(owner) {
            Some(allocation) => allocation.bindings += 1,
            None => {
                if let Some(ending) = self.kernel.endings.get_mut(&owner) {
                    ending.bindings += 1;
                }
            }
        }
        let name = slot.name();
        let relay = relay.unwrap_or(RelaySocket { index: u32::MAX, generation: u32::MAX });
        self.sockets.add_binding(relay);
        let binding = Binding { slot, owner, relay, why_not: Some(WhyNot::Pending), is_withdrawn: true };
        self.kernel.bindings.insert(name.slot, binding);
        self.kernel.withdrawals.push(name);
    }

    /// The allocation that has ended and had this slot.
    fn ending_of(&mut self, slot: Option<Slot>, plane: &Arc<Plane>) -> AllocationId {
        let has_slot = |ending: &Ending| ending.slot.as_ref().map(|slot| Slot::from(slot.name())) == slot;
        if let Some((id, _)) = self.kernel.endings.iter().find(|(_, ending)| has_slot(ending)) {
            return *id;
        }
        let id = self.allocations.unused_name();
        let slot = slot.and_then(|slot| plane.claim_allocation(slot.into()));
        if let Some(slot) = &slot {
            slot.lease(0);
        }
        let earlier = Default::default();
        let ending = Ending { record: None, waits_until_ns: 0, earlier, slot, bindings: 0 };
        self.kernel.endings.insert(id, ending);
        id
    }
}

/// Counters and buckets: those that the kernel program still has are claimed with their slot, else they are what it
/// had come to.
fn adopt_traffic(
    allocation: &mut Allocation,
    image: &AllocationImage,
    plane: Option<&Arc<Plane>>,
) -> Result<(), SnapshotError> {
    allocation.slot = plane.zip(image.slot).and_then(|(plane, slot)| plane.claim_allocation(slot.into()));
    let kept = allocation.slot.is_some();
    for (place, image) in [&image.to_peer, &image.to_client].into_iter().enumerate() {
        let direction = if place == 0 { &mut allocation.to_peer } else { &mut allocation.to_client };
        direction.traffic = traffic_of(image.userspace)?;
        direction.bucket.set(image.bucket);
        allocation.earlier[place] = traffic_of(image.earlier)?;
        if !kept {
            allocation.earlier[place] = allocation.earlier[place] + traffic_of(image.kernel)?;
        }
    }
    if let Some(slot) = &allocation.slot {
        slot.set_rate(allocation.rate);
    }
    Ok(())
}

fn half_family(half: &HalfImage) -> Family {
    Family::of(&SocketAddr::from(half.relayed).ip())
}

fn half_image(half: &Half) -> HalfImage {
    let RelaySocket { index, generation } = half.socket;
    HalfImage {
        socket: (index, generation),
        relayed: half.relayed.0.into(),
        open: half.open,
        ends_ns: half.expiry.ends_ns,
    }
}

fn reply_to_image(reply_to: &ReplyTo) -> ReplyToImage {
    ReplyToImage {
        method: reply_to.method(),
        transaction: reply_to.transaction().0,
        fingerprint: reply_to.has_fingerprint(),
    }
}

fn reply_to_of(image: &ReplyToImage) -> ReplyTo {
    // Methods have twelve bits (RFC 8489 s. 5).
    ReplyTo::new(image.method & 0xfff, TransactionId(image.transaction), image.fingerprint)
}

fn request_image(request: &AllocateState) -> RequestImage {
    RequestImage {
        reply_to: reply_to_image(&request.reply_to),
        lifetime_secs: request.lifetime_secs,
        relayed: protocol_of(request.relayed),
        token: request.token,
        refused_family: request.refused_family.map(|(family, code)| (family as u8, code.code())),
        attempts: request.attempts,
        even: request.even,
    }
}

fn request_of(image: &RequestImage) -> Result<AllocateState, SnapshotError> {
    let unknown = SnapshotError::Contradiction("a request asked for what there is not");
    let refused = |(family, code): (u8, u16)| {
        let code = ErrorCode::ALL.iter().copied().find(|known| known.code() == code);
        Family::from_wire(family).zip(code).ok_or(unknown)
    };
    Ok(AllocateState {
        reply_to: reply_to_of(&image.reply_to),
        lifetime_secs: image.lifetime_secs,
        relayed: RelayedTransport::from_protocol(image.relayed).ok_or(unknown)?,
        token: image.token,
        refused_family: image.refused_family.map(refused).transpose()?,
        attempts: image.attempts.min(MAX_PORT_ATTEMPTS),
        even: image.even,
    })
}
