//! Routes: where a datagram goes.

use core::net::SocketAddr;

use crate::Address;
use crate::address;

/// What a datagram is looked up by.
// A look-up key. tidy: no secret
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RouteKey {
    /// Where it comes from.
    pub remote: Address,
    /// Which of our addresses it was sent to.
    pub local: Address,
    /// In memory: source and destination port, channel number or 0 for a peer's datagram, zero. One word, which is
    /// compared and hashed as such.
    flow: u64,
}

impl RouteKey {
    /// ChannelData on `channel`, or a peer's datagram if that is 0.
    pub fn new(remote: SocketAddr, local: SocketAddr, channel: u16) -> RouteKey {
        let ports = ports(remote.port(), local.port());
        RouteKey::from_wire(remote.ip().into(), local.ip().into(), ports, channel.to_be())
    }

    /// From what lies in a frame: the ports of the UDP header, the channel number or 0.
    #[inline(always)]
    pub const fn from_wire(remote: Address, local: Address, ports: u32, channel: u16) -> RouteKey {
        let flow = match cfg!(target_endian = "little") {
            true => ports as u64 | (channel as u64) << 32,
            false => (ports as u64) << 32 | (channel as u64) << 16,
        };
        RouteKey { remote, local, flow }
    }

    /// As words, in the order in which they are compared.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u64; 5] {
        let ([a, b], [c, d]) = (self.remote.v6_words(), self.local.v6_words());
        [a, b, c, d, self.flow]
    }
}

#[cfg(not(target_arch = "bpf"))]
impl RouteKey {
    pub(crate) const fn from_words(remote: Address, local: Address, flow: u64) -> RouteKey {
        RouteKey { remote, local, flow }
    }
}

/// Properties of a [`Route`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct RouteFlags(pub u16);

impl RouteFlags {
    /// What is sent is IPv6.
    pub const TO_V6: RouteFlags = RouteFlags(1);
    /// The destination is a relayed address of this relay: look up what it does there, in the same pass.
    pub const HAIRPIN: RouteFlags = RouteFlags(2);
    /// The remote end is a relayed address of this relay: only the hairpin step may use this route.
    pub const INTERNAL: RouteFlags = RouteFlags(4);

    /// Whether all of `other` is in here.
    #[inline(always)]
    pub const fn has(self, other: RouteFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    pub const fn with(self, other: RouteFlags) -> RouteFlags {
        RouteFlags(self.0 | other.0)
    }
}

/// What becomes of a datagram: in memory a part of an [`crate::Entry`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// New source address.
    pub source: Address,
    /// New destination address.
    pub destination: Address,
    /// New source and destination port, as they lie in a UDP header.
    pub ports: u32,
    /// Channel number of the ChannelData header to write, network order; 0 for none.
    pub channel: u16,
    /// Properties.
    pub flags: RouteFlags,
    /// Slot in `ALLOCATIONS`.
    pub allocation: u32,
    /// Generation that slot must have.
    pub allocation_generation: u32,
    /// The binding's slot: where the route is.
    pub binding: u32,
    /// Generation that slot must have; never 0.
    pub binding_generation: u32,
    /// Slot in `NEXT_HOPS`; not used by a hairpin's first half.
    pub next_hop: u16,
    /// What the UDP checksum changes by, lengths left out.
    pub checksum: u16,
    /// The interfaces it holds for: the bit of each, see [`crate::Interface::place`].
    pub ingress: u16,
}

/// Where a datagram is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTarget {
    /// New source.
    pub source: SocketAddr,
    /// New destination, of the same family.
    pub destination: SocketAddr,
    /// Channel to write, or 0 for none.
    pub channel: u16,
    /// [`RouteFlags::HAIRPIN`] and [`RouteFlags::INTERNAL`]; the family is added.
    pub flags: RouteFlags,
}

/// The slots that a route depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Slot in `ALLOCATIONS`.
    pub allocation: u32,
    /// Its generation.
    pub allocation_generation: u32,
    /// The binding's slot.
    pub binding: u32,
    /// Its generation.
    pub binding_generation: u32,
    /// Slot in `NEXT_HOPS`.
    pub next_hop: u16,
    /// Interfaces, a bit each.
    pub ingress: u16,
}

impl Route {
    /// A route for what `key` finds.
    pub fn new(key: &RouteKey, target: &RouteTarget, slots: Slots) -> Route {
        let family = if target.destination.is_ipv6() { RouteFlags::TO_V6 } else { RouteFlags(0) };
        let mut route = Route {
            source: target.source.ip().into(),
            destination: target.destination.ip().into(),
            ports: ports(target.source.port(), target.destination.port()),
            channel: target.channel.to_be(),
            flags: target.flags.with(family),
            allocation: slots.allocation,
            allocation_generation: slots.allocation_generation,
            binding: slots.binding,
            binding_generation: slots.binding_generation,
            next_hop: slots.next_hop,
            checksum: 0,
            ingress: slots.ingress,
        };
        route.checksum = difference(key, &route);
        route
    }
}

/// New sum less old sum of everything that a route replaces (RFC 1624 s. 3): addresses of the pseudo
/// header, ports, channel number. Not the lengths, which differ from packet to packet.
fn difference(key: &RouteKey, route: &Route) -> u16 {
    let old = key.remote.sum() + key.local.sum() + address::sum_words(key.flow);
    let new =
        route.source.sum() + route.destination.sum() + sum_halves(route.ports) + u64::from(route.channel);
    fold(new + u64::from(!fold(old)))
}

fn sum_halves(word: u32) -> u64 {
    u64::from(word & 0xffff) + u64::from(word >> 16)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Two ports as they lie in a UDP header.
fn ports(source: u16, destination: u16) -> u32 {
    let [a, b] = source.to_be_bytes();
    let [c, d] = destination.to_be_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lies_in_memory_as_on_the_wire() {
        let remote = "192.0.2.1:4660".parse().unwrap();
        let key = RouteKey::new(remote, "192.0.2.2:3478".parse().unwrap(), 0x4001);
        assert_eq!(key.flow.to_ne_bytes(), [0x12, 0x34, 0x0d, 0x96, 0x40, 0x01, 0, 0]);
    }

    #[test]
    fn a_route_that_changes_nothing_changes_no_checksum() {
        let (from, to) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        let target =
            RouteTarget { source: from, destination: to, channel: 0x4000, flags: RouteFlags::default() };
        let route = Route::new(&RouteKey::new(from, to, 0x4000), &target, Slots::default());
        assert_eq!(route.checksum, 0xffff, "nothing, in ones' complement");
        assert!(!route.flags.has(RouteFlags::TO_V6));
    }
}
