//! Address types: who is a client, who is a peer, what is relayed.
//!
//! The three never mix by accident: a peer's address is only a [`PeerAddr`] after
//! it was translated from its public form and its policy was asked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The transport between a client and the server: part of the 5-tuple (RFC 8656 s. 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    /// One datagram, one message.
    Udp,
    /// A stream, cut into messages by [`framer`](crate::wire::framer).
    Tcp,
    /// A stream as TCP's, within TLS.
    Tls,
}

impl Transport {
    /// All of them.
    pub const ALL: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

    /// The name in logs and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }

    /// Bytes without borders between messages: framed, reliable, and over with their connection.
    #[inline]
    pub const fn is_stream(self) -> bool {
        !matches!(self, Transport::Udp)
    }
}

/// A version of TLS that clients may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TlsVersion {
    /// RFC 5246.
    V12,
    /// RFC 8446.
    V13,
}

impl TlsVersion {
    /// All of them, the oldest first.
    pub const ALL: [TlsVersion; 2] = [TlsVersion::V12, TlsVersion::V13];

    /// The name in logs and the API.
    pub const fn name(self) -> &'static str {
        match self {
            TlsVersion::V12 => "1.2",
            TlsVersion::V13 => "1.3",
        }
    }
}

/// The transport between the server and peers: what an allocation relays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RelayedTransport {
    /// Datagrams (RFC 8656).
    #[default]
    Udp,
    /// Connections (RFC 6062).
    Tcp,
}

impl RelayedTransport {
    /// The name in logs and the API.
    pub const fn name(self) -> &'static str {
        match self {
            RelayedTransport::Udp => "udp",
            RelayedTransport::Tcp => "tcp",
        }
    }

    /// From the protocol number in REQUESTED-TRANSPORT (RFC 8656 s. 18.8).
    pub const fn from_protocol(number: u8) -> Option<RelayedTransport> {
        match number {
            17 => Some(RelayedTransport::Udp),
            6 => Some(RelayedTransport::Tcp),
            _ => None,
        }
    }
}

/// A protocol that clients may ask for by ALPN (RFC 7443 s. 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Alpn {
    /// TURN, or STUN with another usage.
    Turn,
    /// NAT behaviour discovery.
    NatDiscovery,
}

impl Alpn {
    /// All of them.
    pub const ALL: [Alpn; 2] = [Alpn::Turn, Alpn::NatDiscovery];

    /// The identification sequence: what handshakes, logs and the API say.
    pub const fn name(self) -> &'static str {
        match self {
            Alpn::Turn => "stun.turn",
            Alpn::NatDiscovery => "stun.nat-discovery",
        }
    }
}

/// What a client's TLS has agreed on: for operators, the core decides nothing by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// The number of the cipher suite in IANA's registry.
    pub cipher_suite: u16,
    /// The protocol, if the client named any.
    pub alpn: Option<Alpn>,
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl $name {
            /// The IP address.
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }

            /// The UDP (or TCP) port.
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// A client's address as the server sees it (after any NAT): its server-reflexive transport address.
    ClientAddr
}
address! {
    /// A peer's transport address, as our own sockets see it (public relayed addresses already mapped to local).
    PeerAddr
}
address! {
    /// A relayed transport address in its local form: what the relay socket is bound to.
    RelayedAddr
}

/// The driver's handle for where a client's bytes come from: a listener, or a stream's connection. The generation
/// makes sure that what is meant for a connection that is closed never reaches the one that has its index now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientSocket {
    /// Dense index: usable as an index into the driver's table of listeners, or into that of connections.
    pub index: u32,
    /// 0 for listeners. Connections begin with 1, and have another one each time an index is used again.
    pub generation: u32,
}

impl ClientSocket {
    /// A listener of datagrams, which stays.
    pub const fn listener(index: u32) -> Self {
        Self { index, generation: 0 }
    }

    /// Whether it is a listener of datagrams, not a stream's connection.
    #[inline]
    pub const fn is_listener(self) -> bool {
        self.generation == 0
    }
}

/// What identifies an allocation: client address and port, server address and port, transport (RFC 8656 s. 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// The client's side.
    pub client: ClientAddr,
    /// Our side: the address that the client sent to, never a wildcard.
    pub server: SocketAddr,
    /// The transport between them.
    pub transport: Transport,
}

impl FiveTuple {
    /// Of a client that talks UDP to a server's address.
    pub const fn udp(client: SocketAddr, server: SocketAddr) -> Self {
        Self { client: ClientAddr(client), server, transport: Transport::Udp }
    }
}

/// An IP address family, as REQUESTED-ADDRESS-FAMILY names it (RFC 8656 s. 18.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// IPv4, value 0x01.
    V4 = 1,
    /// IPv6, value 0x02.
    V6 = 2,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: &IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// From the number on the wire.
    pub const fn from_wire(value: u8) -> Option<Family> {
        match value {
            1 => Some(Family::V4),
            2 => Some(Family::V6),
            _ => None,
        }
    }

    /// The other one.
    pub const fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}
