//! What the kernel program knows about this host and this configuration.

use crate::Address;

/// Ports on which listeners may be; their addresses don't matter, routes have the exact ones.
pub const MAX_LISTENER_PORTS: usize = 8;
/// Interfaces that frames come in by: a bit each in [`crate::Route`]. A VLAN is one of its own. And the devices that they
/// leave by at most.
pub const MAX_INTERFACES: usize = 16;
/// Ways in to them: an interface that is a bond has one for each port.
pub const MAX_WAYS_IN: usize = 32;

/// Listeners' addresses that the program knows to be ours alone.
pub const MAX_SHIELDED: usize = 16;

/// An entry of the map `CONFIG`. All zeros means: pass everything.
///
/// Own addresses are not among it: a route names both of its ends, and there is none to or from an address that would
/// not be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// 0 switches the program off: every packet goes to userspace.
    pub enabled: u32,
    /// Last channel number (RFC 8656 s. 12: 0x4FFF; RFC 5766 s. 11: 0x7FFF); native order.
    pub last_channel: u16,
    /// First port of the relay range; native order.
    pub first_relay_port: u16,
    /// Last port of the relay range; native order.
    pub last_relay_port: u16,
    /// How many of `listener_ports` are used.
    pub listener_port_count: u16,
    /// Ports of the listeners; native order.
    pub listener_ports: [u16; MAX_LISTENER_PORTS],
    /// How many of `interfaces` are looked at.
    pub interface_count: u32,
    /// What the interfaces' frames are known by.
    pub interfaces: [Interface; MAX_WAYS_IN],
    /// The kernel's indices of the devices that frames are sent by, by place; 0 if there is none.
    pub devices: [u32; MAX_INTERFACES],
    /// Listeners that nothing but TURN is for: what else comes there is dropped. Unset places are behind the others.
    pub shielded: [Listener; MAX_SHIELDED],
}

/// The address of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    /// The IP address.
    pub address: Address,
    /// The port; native order.
    pub port: u64,
}

impl Config {
    /// Passes everything.
    pub const OFF: Config = Config {
        enabled: 0,
        last_channel: 0,
        first_relay_port: 0,
        last_relay_port: 0,
        listener_port_count: 0,
        listener_ports: [0; MAX_LISTENER_PORTS],
        interface_count: 0,
        interfaces: [Interface { ifindex: 0, place: 0, flags: 0, key: 0 }; MAX_WAYS_IN],
        devices: [0; MAX_INTERFACES],
        shielded: [Listener { address: Address::UNSET, port: 0 }; MAX_SHIELDED],
    };
}

/// What the frames of an interface are known by: the network stack would give to this interface, and to no other, what
/// comes in so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// The kernel's index of the device that the frame comes in on, of a bond the port's; 0 if there is none.
    pub ifindex: u32,
    /// The interface's bit in [`crate::Route::ingress`]: its number.
    pub place: u16,
    /// [`Interface::SENDS_BACK`] or 0.
    pub flags: u16,
    /// [`Interface::key`] of its MAC address and VLAN.
    pub key: u64,
}

impl Interface {
    /// What came in on it may be sent by it with `XDP_TX`, past the queues of redirected frames.
    pub const SENDS_BACK: u16 = 1;

    /// A MAC address, and the number of a VLAN or 0, in one word.
    pub const fn key(mac: [u8; 6], vlan: u16) -> u64 {
        let [a, b, c, d, e, f] = mac;
        let [high, low] = vlan.to_be_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, high, low])
    }

    /// The same from what lies in a frame: its first eight bytes, and a VLAN's number in network order or 0.
    #[inline(always)]
    pub const fn key_from_wire(start: u64, vlan: u16) -> u64 {
        match cfg!(target_endian = "little") {
            true => start & 0xffff_ffff_ffff | (vlan as u64) << 48,
            false => start & 0xffff_ffff_ffff_0000 | vlan as u64,
        }
    }

    /// Whether a key is of the same VLAN, whatever the MAC address.
    #[inline(always)]
    pub const fn is_of_vlan(&self, key: u64) -> bool {
        match cfg!(target_endian = "little") {
            true => (self.key ^ key) >> 48 == 0,
            false => (self.key ^ key) as u16 == 0,
        }
    }
}

/// An entry of the map `NEXT_HOPS`: everything in front of the IP header.
///
/// To change one: make `ifindex` 0, wait for a grace period, change the rest, wait again, set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// Device to send on; 0 means that the next hop is not known.
    pub ifindex: u32,
    /// Largest IP packet on the way, bytes.
    pub mtu: u32,
    /// Destination and source MAC address, as they lie at the start of a frame.
    pub macs: [u32; 3],
    /// The device's place in [`Config::devices`].
    pub place: u32,
    /// The VLAN tag to write, as it lies in a frame (IEEE 802.1Q s. 9.3); 0 for none.
    pub tag: u32,
}

impl NextHop {
    /// A known next hop.
    pub const fn new(ifindex: u32, mtu: u32, to: [u8; 6], from: [u8; 6]) -> NextHop {
        let macs = [
            u32::from_ne_bytes([to[0], to[1], to[2], to[3]]),
            u32::from_ne_bytes([to[4], to[5], from[0], from[1]]),
            u32::from_ne_bytes([from[2], from[3], from[4], from[5]]),
        ];
        NextHop { ifindex, mtu, macs, place: 0, tag: 0 }
    }

    /// The same by the device at that place.
    pub const fn at(self, place: u32) -> NextHop {
        NextHop { place, ..self }
    }

    /// The same in a VLAN, with priority 0; 0 is none.
    pub const fn in_vlan(self, vlan: u16) -> NextHop {
        let [high, low] = vlan.to_be_bytes();
        let tag = if vlan == 0 { 0 } else { u32::from_ne_bytes([0x81, 0, high, low]) };
        NextHop { tag, ..self }
    }
}

const _: () = {
    assert!(size_of::<Config>() == 32 + 16 * MAX_WAYS_IN + 4 * MAX_INTERFACES + 24 * MAX_SHIELDED);
    assert!(size_of::<Interface>() == 16);
    assert!(size_of::<NextHop>() == 28);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_from_a_frame() {
        let mac = [2, 1, 2, 3, 4, 5];
        let start = u64::from_ne_bytes([2, 1, 2, 3, 4, 5, 0xaa, 0xbb]);
        let interface = Interface { key: Interface::key(mac, 0x123), ..Interface::default() };
        assert_eq!(interface.key, Interface::key_from_wire(start, 0x123_u16.to_be()));
        assert!(interface.is_of_vlan(Interface::key([0; 6], 0x123)));
        assert!(!interface.is_of_vlan(Interface::key(mac, 0x124)));
    }

    #[test]
    fn a_tag_lies_in_memory_as_on_the_wire() {
        let hop = NextHop::new(1, 1500, [1; 6], [2; 6]);
        assert_eq!(hop.in_vlan(0x123).tag.to_ne_bytes(), [0x81, 0x00, 0x01, 0x23]);
        assert_eq!(hop.in_vlan(0), hop);
    }
}
