//! What the kernel program knows about this host and this configuration.

/// Ports on which listeners may be; their addresses don't matter, routes have the exact ones.
pub const MAX_LISTENER_PORTS: usize = 8;
/// Interfaces the program may be on: a bit each in [`crate::Route`].
pub const MAX_INTERFACES: usize = 16;

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
    /// The interfaces that the program is on; a route names them by their place here.
    pub interfaces: [Interface; MAX_INTERFACES],
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
        interfaces: [Interface { ifindex: 0, mac: [0; 3], flags: 0 }; MAX_INTERFACES],
    };
}

/// An interface that the program is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// The kernel's index; 0 if there is none at this place.
    pub ifindex: u32,
    /// Its MAC address, network order.
    pub mac: [u16; 3],
    /// [`Interface::SENDS_BACK`] or 0.
    pub flags: u16,
}

impl Interface {
    /// What came in on it may be sent by it with `XDP_TX`, past the queues of redirected frames.
    pub const SENDS_BACK: u16 = 1;
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
    /// The device's place in [`Config::interfaces`].
    pub place: u32,
}

impl NextHop {
    /// A known next hop.
    pub const fn new(ifindex: u32, mtu: u32, to: [u8; 6], from: [u8; 6]) -> NextHop {
        let macs = [
            u32::from_ne_bytes([to[0], to[1], to[2], to[3]]),
            u32::from_ne_bytes([to[4], to[5], from[0], from[1]]),
            u32::from_ne_bytes([from[2], from[3], from[4], from[5]]),
        ];
        NextHop { ifindex, mtu, macs, place: 0 }
    }

    /// The same by the interface at that place.
    pub const fn at(self, place: u32) -> NextHop {
        NextHop { place, ..self }
    }
}

const _: () = {
    assert!(size_of::<Config>() == 32 + 12 * MAX_INTERFACES);
    assert!(size_of::<Interface>() == 12);
    assert!(size_of::<NextHop>() == 24);
};
