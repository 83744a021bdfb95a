//! Datagrams with any source address, written into a raw socket of the client's namespace.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::lab::Namespace;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// `IPPROTO_RAW`: the IP header is ours, the kernel adds its checksum.
const IPPROTO_RAW: i32 = 255;

/// Sends datagrams with forged sources to one server.
pub struct Spoofer {
    socket: Socket,
    to: SocketAddrV4,
    packet: Vec<u8>,
    random: u64,
}

impl Spoofer {
    /// From inside `namespace` to `server`, each with `payload`.
    pub fn new(namespace: &Namespace, server: SocketAddr, payload: &[u8]) -> Spoofer {
        let SocketAddr::V4(to) = server else { panic!("forged sources are IPv4 here") };
        let socket = namespace
            .enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW))))
            .expect("root may open raw sockets");
        socket.set_send_buffer_size(4 << 20).expect("any size is rounded to what is allowed");
        let mut packet = vec![0; IP_HEADER + UDP_HEADER];
        packet[0] = 0x45;
        packet[8] = 64;
        packet[9] = 17;
        packet[16..20].copy_from_slice(&to.ip().octets());
        packet[22..24].copy_from_slice(&to.port().to_be_bytes());
        let udp_len = u16::try_from(UDP_HEADER + payload.len()).expect("a short payload");
        packet[24..26].copy_from_slice(&udp_len.to_be_bytes());
        // A UDP checksum of zero says that there is none (RFC 768).
        packet.extend_from_slice(payload);
        Spoofer { socket, to, packet, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Sends one datagram as if from `source`, whose answer goes wherever that is.
    pub fn send_from(&mut self, source: SocketAddrV4) {
        self.packet[12..16].copy_from_slice(&source.ip().octets());
        self.packet[20..22].copy_from_slice(&source.port().to_be_bytes());
        // A full queue of the interface loses a datagram, as any network would.
        let _ = self.socket.send_to(&self.packet, &SockAddr::from(self.to));
    }

    /// Sends one datagram from anywhere in `network`/8, from any port.
    pub fn send_from_anywhere(&mut self, network: u8) {
        // xorshift64: any spread will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [_, b, c, d, port0, port1, ..] = self.random.to_be_bytes();
        let port = u16::from_be_bytes([port0, port1]).max(1);
        self.send_from(SocketAddrV4::new(Ipv4Addr::new(network, b, c, d), port));
    }
}
