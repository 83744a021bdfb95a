//! What data has to go where, by the [`Shadow`](super::shadow::Shadow)'s word: no more, and no less.

use std::net::{IpAddr, SocketAddr};

use turnpike_proto::addr::{Family, FiveTuple, PeerAddr};
use turnpike_proto::settings::RelayIp;
use turnpike_proto::shared::Shared;
use turnpike_proto::wire::{Class, attr, method};

use super::choices::PORTS;
use super::reference::{self, Stun};
use super::shadow::Allocation;

/// A datagram due to a peer.
#[derive(Debug)]
pub struct ToPeer<'a> {
    /// The relayed address, local form.
    pub from: SocketAddr,
    /// The peer, local form.
    pub to: SocketAddr,
    /// The payload.
    pub data: &'a [u8],
    /// DSCP and ECN.
    pub tos: u8,
    /// DF.
    pub dont_fragment: bool,
}

/// A message due to a client.
#[derive(Debug)]
pub enum ToClient<'a> {
    /// ChannelData with number, payload and bytes of padding.
    Channel(u16, &'a [u8], usize, u8),
    /// A Data indication with peer and payload.
    Data(SocketAddr, &'a [u8], u8),
    /// A Data indication with peer and the ICMP attribute's value.
    Icmp(SocketAddr, [u8; 8]),
}

/// What the server understands of what must be understood (below 0x8000).
const KNOWN: &[u16] = &[
    attr::MAPPED_ADDRESS,
    attr::USERNAME,
    attr::MESSAGE_INTEGRITY,
    attr::ERROR_CODE,
    attr::UNKNOWN_ATTRIBUTES,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::XOR_PEER_ADDRESS,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::DONT_FRAGMENT,
    attr::MESSAGE_INTEGRITY_SHA256,
    attr::PASSWORD_ALGORITHM,
    attr::USERHASH,
    attr::CONNECTION_ID,
    attr::XOR_MAPPED_ADDRESS,
    attr::RESERVATION_TOKEN,
];

/// What one client was promised, with what decides how far it holds.
pub struct Promised<'w> {
    /// What the client holds.
    pub allocation: &'w Allocation,
    /// Who talks to whom.
    pub five_tuple: FiveTuple,
    /// Asked for the policy in force.
    pub shared: &'w Shared,
    /// What is relayed from.
    pub relays: &'w [RelayIp],
}

impl Promised<'_> {
    /// What a client's datagram has to cause (RFC 8656 s. 11.2 and 12.6).
    pub fn to_peer<'a>(&self, bytes: &'a [u8], message: Option<&Stun<'a>>, tos: u8) -> Option<ToPeer<'a>> {
        let allocation = self.allocation;
        let (to, data, dont_fragment) = match bytes {
            [0x40..=0x7F, ..] => {
                let [n0, n1, l0, l1] = *bytes.first_chunk()?;
                let len = usize::from(u16::from_be_bytes([l0, l1]));
                let (peer, _) = *allocation.channels.get(&u16::from_be_bytes([n0, n1]))?;
                self.is_channel_open(peer).then_some(())?;
                (peer, bytes.get(4..4 + len)?, false)
            }
            _ => {
                let send = message.filter(|m| (m.class, m.method) == (Class::Indication, method::SEND))?;
                if send.attributes.iter().any(|(kind, _)| *kind < 0x8000 && !KNOWN.contains(kind)) {
                    return None;
                }
                let peer = to_local(self.relays, send.address(send.get(attr::XOR_PEER_ADDRESS)?)?);
                let client_ip = self.five_tuple.client.ip();
                let same_family = client_ip.is_ipv4() == peer.is_ipv4();
                let fragment = send.get(attr::DONT_FRAGMENT).is_some() && same_family;
                (peer, send.get(attr::DATA)?, fragment)
            }
        };
        let half = allocation.half(Family::of(&to.ip()))?;
        let allowed = allocation.admits(to) && self.shared.check_peer(PeerAddr(to)).is_ok();
        let fits = data.len() <= max_payload(to.ip());
        (allowed && fits).then_some(ToPeer { from: half.local, to, data, tos, dont_fragment })
    }

    /// What a peer's datagram has to cause (RFC 8656 s. 11.4 and 12.7).
    pub fn to_client<'a>(&self, peer: SocketAddr, bytes: &'a [u8], tos: u8) -> Option<ToClient<'a>> {
        let (allocation, five_tuple) = (self.allocation, self.five_tuple);
        allocation.half(Family::of(&peer.ip()))?;
        // RFC 8656 s. 16: neither DSCP nor ECN; no datagram that would have to hold it.
        let (tos, room) = match five_tuple.transport.is_stream() {
            true => (0, 20 + 65_532),
            false => (tos, max_payload(five_tuple.client.ip())),
        };
        if let Some(number) = allocation.channel_to(peer) {
            self.is_channel_open(peer).then_some(())?;
            let padding = if five_tuple.transport.is_stream() { bytes.len().wrapping_neg() % 4 } else { 0 };
            return (4 + bytes.len() <= room).then_some(ToClient::Channel(number, bytes, padding, tos));
        }
        let public = self.to_public(peer);
        let len = 20 + 4 + if public.is_ipv4() { 8 } else { 20 } + 4 + bytes.len().next_multiple_of(4);
        let allowed =
            allocation.permissions.contains_key(&peer.ip()) && self.shared.check_peer(PeerAddr(peer)).is_ok();
        (allowed && len <= room).then_some(ToClient::Data(public, bytes, tos))
    }

    /// What an ICMP error has to cause (RFC 8656 s. 11.5).
    pub fn icmp(&self, peer: SocketAddr, [icmp_type, code]: [u8; 2], data: u32) -> Option<ToClient<'static>> {
        let relevant = match Family::of(&peer.ip()) {
            Family::V4 => [3, 11].contains(&icmp_type),
            Family::V6 => [1, 2, 3].contains(&icmp_type),
        };
        let admits = self.allocation.admits(peer);
        // RFC 8656 s. 18.13: 16 bits reserved, 7 bits of type, 9 bits of code, 32 bits of data.
        let mut value = [0; 8];
        value[2..4].copy_from_slice(&(u16::from(icmp_type) * 512 + u16::from(code)).to_be_bytes());
        value[4..].copy_from_slice(&data.to_be_bytes());
        (relevant && admits).then_some(ToClient::Icmp(self.to_public(peer), value))
    }

    /// Whether data may go to a peer or come from it through a channel: not where another program of the host may
    /// have the port that was a relayed address once.
    fn is_channel_open(&self, peer: SocketAddr) -> bool {
        let internal = PORTS.contains(&peer.port()) && self.relays.iter().any(|r| r.local == peer.ip());
        !internal || self.shared.check_peer(PeerAddr(peer)).is_ok()
    }

    /// A peer's address as clients see it.
    fn to_public(&self, peer: SocketAddr) -> SocketAddr {
        translate(self.relays, peer, |relay| Some(relay.local), |relay| relay.external)
    }
}

/// A peer's address as our sockets see it.
pub fn to_local(relays: &[RelayIp], peer: SocketAddr) -> SocketAddr {
    translate(relays, peer, |relay| relay.external, |relay| Some(relay.local))
}

fn translate(
    relays: &[RelayIp],
    address: SocketAddr,
    from: impl Fn(&RelayIp) -> Option<IpAddr>,
    to: impl Fn(&RelayIp) -> Option<IpAddr>,
) -> SocketAddr {
    let relay = relays.iter().find(|relay| from(relay) == Some(address.ip()));
    match relay.and_then(to) {
        Some(ip) => SocketAddr::new(ip, address.port()),
        None => address,
    }
}

impl ToClient<'_> {
    /// DSCP and ECN.
    pub fn tos(&self) -> u8 {
        match *self {
            ToClient::Channel(.., tos) | ToClient::Data(.., tos) => tos,
            ToClient::Icmp(..) => 0,
        }
    }

    /// The datagram says this and nothing else.
    pub fn check(&self, sent: &[u8]) {
        let (peer, content) = match *self {
            ToClient::Channel(number, data, padding, _) => {
                let [n0, n1] = number.to_be_bytes();
                let [l0, l1] = (data.len() as u16).to_be_bytes();
                assert_eq!((&sent[..4], &sent[4..][..data.len()]), (&[n0, n1, l0, l1][..], data));
                assert_eq!(&sent[4 + data.len()..], &[0; 3][..padding]);
                return;
            }
            ToClient::Data(peer, data, _) => (peer, (attr::DATA, data)),
            ToClient::Icmp(peer, ref value) => (peer, (attr::ICMP, &value[..])),
        };
        let data = reference::parse(sent).expect("indications are well-formed");
        assert_eq!((data.class, data.method), (Class::Indication, method::DATA));
        assert_eq!(data.addresses(attr::XOR_PEER_ADDRESS), [peer]);
        assert_eq!(data.attributes[1..], [content]);
        assert!(data.clean_padding && !data.integrity);
    }
}

/// The largest UDP payload towards an address, bytes.
fn max_payload(to: IpAddr) -> usize {
    if to.is_ipv4() { 65_507 } else { 65_527 }
}
