//! Decides about a frame: every check first, then the bucket, then the rewriting.

use turnpike_abi::{Direction, NextHop, Route, RouteFlags, RouteKey, Verdict, Word, charge};

use crate::frame::Frame;
use crate::maps::Maps;
use crate::packet::{self, Data, Packet};
use crate::rewrite::{self, Headers};

/// What the kernel shall do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give it to the network stack.
    Pass,
    /// Forget it.
    Drop,
    /// Send it on this interface.
    Redirect(u32),
}

/// Forwards a frame, or leaves it alone. What happened has been counted.
#[inline(always)]
pub fn handle<F: Frame, M: Maps>(frame: &mut F, maps: &M) -> Action {
    match forward(frame, maps) {
        Ok(ifindex) => Action::Redirect(ifindex),
        Err(verdict) => {
            maps.count(verdict);
            if verdict.is_pass() { Action::Pass } else { Action::Drop }
        }
    }
}

/// A route with the direction of the allocation that pays for it.
struct Leg<'m, W> {
    route: &'m Route,
    direction: &'m Direction<W>,
}

/// All that has to be known before anything is changed.
struct Plan<'m, W> {
    first: Leg<'m, W>,
    /// The way back to a client, if the peer was a relayed address of ours.
    second: Option<Leg<'m, W>>,
    next_hop: &'m NextHop,
    headers: Headers,
    now_ns: u64,
}

/// Largest IP packet, bytes: lengths have sixteen bits, whatever a device's MTU is.
const MAX_PACKET: u32 = 65_535;

#[inline(always)]
fn forward<F: Frame, M: Maps>(frame: &mut F, maps: &M) -> Result<u32, Verdict> {
    let config = maps.config().filter(|config| config.enabled != 0).ok_or(Verdict::PassNotOurs)?;
    let packet = packet::read(frame, config)?;
    let data = packet::classify(frame, &packet, config)?;
    let plan = plan(maps, &packet, &data)?;
    // The last thing that can fail without having changed anything.
    if !frame.move_start(plan.headers.shift(&packet, &data)) {
        return Err(Verdict::PassHeadroom);
    }
    let last = match &plan.second {
        None if data.channel == 0 => police(maps, &plan.first, TO_CLIENT, &plan, data.len)?,
        None => police(maps, &plan.first, TO_PEER, &plan, data.len)?,
        Some(second) => {
            police(maps, &plan.first, TO_PEER, &plan, data.len)?;
            police(maps, second, TO_CLIENT, &plan, data.len)?
        }
    };
    let identification = identification(last);
    rewrite::write(frame, last.route, plan.next_hop, &plan.headers, identification)?;
    Ok(plan.next_hop.ifindex)
}

/// What a datagram is counted as when it is sent, and when the limit drops it.
const TO_PEER: [Verdict; 2] = [Verdict::ChannelToPeer, Verdict::DropRateToPeer];
const TO_CLIENT: [Verdict; 2] = [Verdict::ChannelToClient, Verdict::DropRateToClient];

#[inline(always)]
fn plan<'m, M: Maps>(maps: &'m M, packet: &Packet, data: &Data) -> Result<Plan<'m, M::Word>, Verdict> {
    let first_route = maps.route(&packet.key(data.channel)).ok_or(Verdict::PassNoRoute)?;
    if first_route.flags.has(RouteFlags::INTERNAL) {
        return Err(Verdict::PassInternal);
    }
    if first_route.ingress & packet.ingress == 0 {
        return Err(Verdict::PassInterface);
    }
    let now_ns = maps.now_ns();
    let first = leg(maps, first_route, data.channel != 0, now_ns)?;
    let second = hairpin(maps, first_route, now_ns)?;
    let last = second.as_ref().map_or(first_route, |second| second.route);
    let to_v6 = last.flags.has(RouteFlags::TO_V6);
    if packet.ttl <= 1 {
        return Err(Verdict::PassTtl);
    }
    // RFC 8200 s. 8.1: IPv6 has no UDP without a checksum, and there is nothing to update here.
    if packet.checksum == 0 && (to_v6 || packet.is_v6) {
        return Err(Verdict::PassNoChecksum);
    }
    let headers = Headers::new(packet, data, first_route, second.as_ref().map(|leg| leg.route));
    let next_hop = maps.next_hop(last.next_hop as u32).ok_or(Verdict::PassNextHop)?;
    if next_hop.ifindex == 0 {
        return Err(Verdict::PassNextHop);
    }
    if headers.packet_size(to_v6) > next_hop.mtu || headers.packet_size(to_v6) > MAX_PACKET {
        return Err(Verdict::PassMtu);
    }
    Ok(Plan { first, second, next_hop, headers, now_ns })
}

/// What the other allocation does with a datagram that comes from one relayed address of ours to another.
#[inline(always)]
fn hairpin<'m, M: Maps>(
    maps: &'m M,
    first: &Route,
    now_ns: u64,
) -> Result<Option<Leg<'m, M::Word>>, Verdict> {
    if !first.flags.has(RouteFlags::HAIRPIN) {
        return Ok(None);
    }
    let key = RouteKey {
        remote: first.source,
        local: first.destination,
        ports: first.ports,
        channel: 0,
        reserved: 0,
    };
    let route = maps.route(&key).ok_or(Verdict::PassNoRoute)?;
    leg(maps, route, false, now_ns).map(Some)
}

/// Checks that a route may be used at this time.
#[inline(always)]
fn leg<'m, M: Maps>(
    maps: &'m M,
    route: &'m Route,
    to_peer: bool,
    now_ns: u64,
) -> Result<Leg<'m, M::Word>, Verdict> {
    let binding = maps.binding(route.binding).ok_or(Verdict::PassGeneration)?;
    if !binding.is_of(route.binding_generation) {
        return Err(Verdict::PassGeneration);
    }
    if !binding.is_leased(now_ns) {
        return Err(Verdict::PassLease);
    }
    let allocation = maps.allocation(route.allocation).ok_or(Verdict::PassGeneration)?;
    let direction = if to_peer { &allocation.to_peer } else { &allocation.to_client };
    if !direction.is_of(route.allocation_generation) {
        return Err(Verdict::PassGeneration);
    }
    if !direction.is_leased(now_ns) {
        return Err(Verdict::PassLease);
    }
    Ok(Leg { route, direction })
}

/// Charges a leg's allocation and counts the datagram; gives the leg back.
#[inline(always)]
fn police<'l, 'm, M: Maps>(
    maps: &M,
    leg: &'l Leg<'m, M::Word>,
    [sent, over]: [Verdict; 2],
    plan: &Plan<'m, M::Word>,
    payload: u16,
) -> Result<&'l Leg<'m, M::Word>, Verdict> {
    let direction = leg.direction;
    if !charge(&direction.bucket, &direction.rate(), plan.now_ns, payload as u64) {
        direction.rate_drops.fetch_add(1);
        return Err(over);
    }
    direction.packets.fetch_add(1);
    direction.bytes.fetch_add(payload as u64);
    maps.count(sent);
    Ok(leg)
}

/// An IPv4 identification: DF is 0, so a later router may fragment, and the datagrams of a pair of
/// addresses should differ (RFC 6864 s. 4.3). Counts within an allocation, spreads the allocations.
#[inline(always)]
fn identification<W: Word>(leg: &Leg<'_, W>) -> u16 {
    (leg.direction.packets.load() as u16).wrapping_add((leg.route.allocation as u16).wrapping_mul(0x9e37))
}
