//! Decides about a frame: every check first, then the bucket, then the rewriting.

use turnpike_abi::{
    Charge, Config, Direction, Entry, Lead, NextHop, Route, RouteFlags, RouteKey, Switch, Verdict, Word,
    charge,
};

use crate::frame::Frame;
use crate::maps::Maps;
use crate::packet::{self, Packet};
use crate::rewrite::{self, Headers};

/// What the kernel shall do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give it to the network stack.
    Pass,
    /// Forget it.
    Drop,
    /// Send it on this device, which has this place in the configuration.
    Redirect(u32, u32),
    /// Send it on the interface it came in on.
    SendBack,
}

/// Forwards a frame, or leaves it alone. What happened has been counted.
#[inline(always)]
pub fn handle<F: Frame, M: Maps>(frame: &mut F, maps: &M) -> Action {
    match forward(frame, maps) {
        Ok(action) => action,
        Err(verdict) => {
            maps.count(verdict);
            if verdict.is_pass() { Action::Pass } else { Action::Drop }
        }
    }
}

/// What a datagram is counted as when it is sent, and when the limit drops it.
const TO_PEER: [Verdict; 2] = [Verdict::ChannelToPeer, Verdict::DropRateToPeer];
const TO_CLIENT: [Verdict; 2] = [Verdict::ChannelToClient, Verdict::DropRateToClient];

/// Largest IP packet, bytes: lengths have sixteen bits, whatever a device's MTU is.
const MAX_PACKET: u32 = 65_535;

// Parts are handed on one by one: what is gathered in an aggregate ends up in pieces on the stack,
// where the verifier loses track of pointers.
#[inline(always)]
fn forward<F: Frame, M: Maps>(frame: &mut F, maps: &M) -> Result<Action, Verdict> {
    let switch = maps.switch().ok_or(Verdict::PassNotOurs)?;
    let config = maps.config(switch.config.load() as u32).filter(|config| config.enabled != 0);
    let config = config.ok_or(Verdict::PassNotOurs)?;
    let packet = packet::read(frame, config)?;
    let data = match packet::classify(frame, &packet, config) {
        Err(Verdict::PassNotChannel) => return Err(not_channel(frame, &packet, config, maps, switch)),
        data => data?,
    };
    let key = packet.key(data.channel);
    let lead = find(maps, switch, &key);
    let entry = maps.entry(lead.entry()).ok_or(Verdict::PassNoRoute)?;
    let first = entry.read(&key).ok_or(Verdict::PassNoRoute)?;
    check_ingress(&first, &packet)?;
    let now_ns = maps.now_ns();
    if switch.lease_ns.load() <= now_ns {
        return Err(Verdict::PassUnattended);
    }
    let payer = leased(maps, lead, entry, &first, data.channel != 0, now_ns)?;
    // A datagram from one relayed address of ours to another: what does the other allocation do with it?
    let is_hairpin = first.flags.has(RouteFlags::HAIRPIN);
    let (mut last, mut last_payer) = (first, payer);
    if is_hairpin {
        let key = arriving(&first);
        let lead = find(maps, switch, &key);
        let entry = maps.entry(lead.entry()).ok_or(Verdict::PassNoRoute)?;
        last = entry.read(&key).ok_or(Verdict::PassNoRoute)?;
        last_payer = leased(maps, lead, entry, &last, false, now_ns)?;
    }
    let headers = Headers::new(&packet, &data, &first, &last, is_hairpin);
    check_packet(&packet, &last)?;
    let next_hop = way_out(maps, &last, &headers)?;
    // The last thing that can fail without having changed anything.
    if !frame.move_start(headers.shift(&packet, &data, next_hop)) {
        return Err(Verdict::PassHeadroom);
    }
    let direction = if data.channel == 0 { TO_CLIENT } else { TO_PEER };
    police(maps, payer, direction, now_ns, data.len)?;
    if is_hairpin {
        police(maps, last_payer, TO_CLIENT, now_ns, data.len)?;
    }
    rewrite::write(frame, &last, next_hop, &headers, identification(&last, last_payer))?;
    let first_charge = Charge::new(first.allocation, data.channel == 0, data.len);
    let last_charge = if is_hairpin { Charge::new(last.allocation, true, data.len) } else { Charge::NONE };
    if packet.sends_back && next_hop.ifindex == frame.ingress() {
        maps.send_back(next_hop.place, first_charge, last_charge);
        return Ok(Action::SendBack);
    }
    maps.queue(next_hop.place, first_charge, last_charge);
    Ok(Action::Redirect(next_hop.ifindex, next_hop.place))
}

/// What becomes of a datagram to a listener that is no ChannelData: userspace answers what may be STUN, and would drop
/// what is neither, which need not trouble anybody.
#[inline(always)]
fn not_channel<F: Frame, M: Maps>(
    frame: &F,
    packet: &Packet,
    config: &Config,
    maps: &M,
    switch: &Switch<M::Word>,
) -> Verdict {
    if !packet::is_garbage(frame, packet, config) {
        return Verdict::PassNotChannel;
    }
    if switch.lease_ns.load() <= maps.now_ns() { Verdict::PassUnattended } else { Verdict::DropNotTurn }
}

/// Where a key leads; perhaps to another one's entry.
#[inline(always)]
fn find<M: Maps>(maps: &M, switch: &Switch<M::Word>, key: &RouteKey) -> Lead {
    let place = switch.place(key);
    let Some(bucket) = maps.bucket(place.bucket) else { return Lead::NONE };
    let lead = bucket.find(place.fingerprint);
    if lead != Lead::NONE {
        return lead;
    }
    // Few routes had to go beside: only where a bucket is full.
    let Some(bucket) = maps.bucket(place.other().bucket) else { return Lead::NONE };
    bucket.find(place.fingerprint)
}

/// Whether a route may be used by what came in on this interface.
#[inline(always)]
fn check_ingress(route: &Route, packet: &Packet) -> Result<(), Verdict> {
    if route.flags.has(RouteFlags::INTERNAL) {
        return Err(Verdict::PassInternal);
    }
    if route.ingress & packet.ingress == 0 {
        return Err(Verdict::PassInterface);
    }
    Ok(())
}

/// How a datagram that `route` sends looks where it arrives.
#[inline(always)]
fn arriving(route: &Route) -> RouteKey {
    RouteKey::from_wire(route.source, route.destination, route.ports, 0)
}

/// The direction of the allocation that pays for a route, if the route may be used at this time.
#[inline(always)]
fn leased<'m, M: Maps>(
    maps: &'m M,
    lead: Lead,
    entry: &Entry<M::Word>,
    route: &Route,
    to_peer: bool,
    now_ns: u64,
) -> Result<&'m Direction<M::Word>, Verdict> {
    // After the route was read: else it may be half of another one.
    if !entry.is_of(route.binding_generation) {
        return Err(Verdict::PassGeneration);
    }
    if !entry.is_leased(now_ns) {
        return Err(Verdict::PassLease);
    }
    let allocation = maps.allocation(lead.allocation()).ok_or(Verdict::PassGeneration)?;
    if lead.allocation() != route.allocation {
        return Err(Verdict::PassGeneration);
    }
    let direction = if to_peer { &allocation.to_peer } else { &allocation.to_client };
    if !direction.is_of(route.allocation_generation) {
        return Err(Verdict::PassGeneration);
    }
    if !direction.is_leased(now_ns) {
        return Err(Verdict::PassLease);
    }
    Ok(direction)
}

/// What about a packet forbids sending it on.
#[inline(always)]
fn check_packet(packet: &Packet, last: &Route) -> Result<(), Verdict> {
    if packet.ttl <= 1 {
        return Err(Verdict::PassTtl);
    }
    // RFC 8200 s. 8.1: IPv6 has no UDP without a checksum, and there is nothing to update here.
    if packet.checksum == 0 && (packet.is_v6 || last.flags.has(RouteFlags::TO_V6)) {
        return Err(Verdict::PassNoChecksum);
    }
    Ok(())
}

/// The next hop, if it is known and takes packets of this size.
#[inline(always)]
fn way_out<'m, M: Maps>(maps: &'m M, last: &Route, headers: &Headers) -> Result<&'m NextHop, Verdict> {
    let next_hop = maps.next_hop(last.next_hop as u32).ok_or(Verdict::PassNextHop)?;
    if next_hop.ifindex == 0 {
        return Err(Verdict::PassNextHop);
    }
    let size = headers.packet_size(last.flags.has(RouteFlags::TO_V6));
    if size > next_hop.mtu || size > MAX_PACKET {
        return Err(Verdict::PassMtu);
    }
    Ok(next_hop)
}

/// Charges an allocation and counts the datagram.
#[inline(always)]
fn police<M: Maps>(
    maps: &M,
    direction: &Direction<M::Word>,
    [sent, over]: [Verdict; 2],
    now_ns: u64,
    payload: u16,
) -> Result<(), Verdict> {
    if !charge(&direction.bucket, &direction.rate(), now_ns, payload as u64) {
        direction.rate_drops.fetch_add(1);
        return Err(over);
    }
    direction.packets.fetch_add(1);
    direction.bytes.fetch_add(payload as u64);
    maps.count(sent);
    Ok(())
}

/// An IPv4 identification: DF is 0, so a later router may fragment, and the datagrams of a pair of
/// addresses should differ (RFC 6864 s. 4.3). Counts within an allocation, spreads the allocations.
#[inline(always)]
fn identification<W: Word>(route: &Route, payer: &Direction<W>) -> u16 {
    (payer.packets.load() as u16).wrapping_add((route.allocation as u16).wrapping_mul(0x9e37))
}
