//! What a frame says to whoever receives it. Written for these tests, without a line of the program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A UDP datagram that a host would accept, the checksum apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub to_mac: [u8; 6],
    /// The VLAN that it is in; 0 for none (IEEE 802.1Q s. 9.6: nor with a priority alone).
    pub vlan: u16,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub tos: u8,
    pub ttl: u8,
    pub payload: Vec<u8>,
    pub checksum: Checksum,
    /// Behind the IP packet.
    pub trailer: Vec<u8>,
}

/// What the UDP checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    None,
    Right,
    Wrong,
}

/// Reads a frame; `None` for what is no whole, plain UDP datagram.
pub fn parse(frame: &[u8]) -> Option<Parsed> {
    let (vlan, rest) = match frame.get(12..14)? {
        [0x81, 0x00] => (word(frame.get(..16)?, 14) & 0xfff, frame.get(16..)?),
        _ => (0, frame.get(12..)?),
    };
    let packet = rest.get(2..)?;
    let (header, source, destination, tos, ttl, total) = match rest.get(..2)? {
        [0x08, 0x00] => {
            let header = packet.get(..20)?;
            let is_plain = header[0] == 0x45 && header[6] & 0x3f == 0 && header[7] == 0 && header[9] == 17;
            if !is_plain || sum(header) != 0xffff {
                return None;
            }
            let ip =
                |at: usize| IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap()));
            let total = usize::from(word(header, 2));
            (20, ip(12), ip(16), header[1], header[8], total)
        }
        [0x86, 0xdd] => {
            let header = packet.get(..40)?;
            if header[0] >> 4 != 6 || header[6] != 17 {
                return None;
            }
            let ip =
                |at: usize| IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap()));
            let tos = (word(header, 0) >> 4) as u8;
            (40, ip(8), ip(24), tos, header[7], 40 + usize::from(word(header, 4)))
        }
        _ => return None,
    };
    let udp = packet.get(header..total)?;
    if udp.len() < 8 || usize::from(word(udp, 4)) != udp.len() {
        return None;
    }
    let checksum = match word(udp, 6) {
        0 => Checksum::None,
        _ if sum(&[&pseudo_header(source, destination, udp.len())[..], udp].concat()) == 0xffff => {
            Checksum::Right
        }
        _ => Checksum::Wrong,
    };
    Some(Parsed {
        to_mac: frame[..6].try_into().ok()?,
        vlan,
        source: SocketAddr::new(source, word(udp, 0)),
        destination: SocketAddr::new(destination, word(udp, 2)),
        tos,
        ttl,
        payload: udp[8..].to_vec(),
        checksum,
        trailer: packet[total..].to_vec(),
    })
}

fn pseudo_header(source: IpAddr, destination: IpAddr, len: usize) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    [octets(source), octets(destination), vec![0, 17], (len as u16).to_be_bytes().to_vec()].concat()
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The ones' complement sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
