//! An allocation with a channel to a peer: the two ends of what the kernel forwards.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use turnpike_proto::wire::{attr, channel, method};

use crate::lab::{Lab, PEER_V4, PEER_V6};
use crate::talker::{Answer, Talker, UDP, peer_socket};

/// REQUESTED-ADDRESS-FAMILY (RFC 8656 s. 18.8).
const FAMILY_V4: [u8; 4] = [1, 0, 0, 0];
const FAMILY_V6: [u8; 4] = [2, 0, 0, 0];

/// A client, its relayed address, and a peer.
pub struct Call {
    /// The client.
    pub talker: Talker,
    /// Its relayed address.
    pub relayed: SocketAddr,
    /// The peer.
    pub peer: UdpSocket,
}

impl Call {
    /// Allocates at `server`, in the family of the peer, and binds channel 0x4000.
    pub fn new(lab: &Lab, server: SocketAddr, peer_v6: bool) -> Call {
        Call::with_peer(lab, server, if peer_v6 { PEER_V6 } else { PEER_V4 })
    }

    /// The same to another address of the peer's namespace.
    pub fn with_peer(lab: &Lab, server: SocketAddr, peer: IpAddr) -> Call {
        Call::with_socket(lab, server, peer_socket(&lab.peer, peer))
    }

    /// The same to any socket.
    pub fn with_socket(lab: &Lab, server: SocketAddr, peer: UdpSocket) -> Call {
        let peer_v6 = peer.local_addr().expect("it is bound").is_ipv6();
        let mut talker = Talker::new(&lab.client, server);
        let relayed = allocate(&mut talker, peer_v6);
        let address = peer.local_addr().expect("it is bound");
        assert_eq!(talker.bind(address).code, None, "the channel is bound");
        Call { talker, relayed, peer }
    }

    /// The client says `data`; gives what the peer hears.
    pub fn to_peer(&self, data: &[u8]) -> Option<Vec<u8>> {
        self.talker.channel_data(data);
        self.peer_hears()
    }

    /// The peer says `data`; gives what the client hears, its header taken off.
    pub fn to_client(&self, data: &[u8]) -> Option<Vec<u8>> {
        self.peer.send_to(data, self.relayed).expect("there is a route");
        let heard = self.client_hears()?;
        let header = channel::header(0x4000, data.len() as u16);
        assert_eq!(&heard[..4], header, "on its channel");
        // RFC 8656 s. 12.5: over UDP nothing needs to follow.
        assert_eq!(heard.len(), 4 + data.len());
        Some(heard[4..].to_vec())
    }

    /// The peer waits this long for what it hears next.
    pub fn peer_is_patient_for(&self, time: Duration) {
        self.peer.set_read_timeout(Some(time)).expect("a timeout that is not zero");
    }

    /// Both directions carry this payload unharmed.
    #[track_caller]
    pub fn assert_carries(&self, data: &[u8]) {
        assert!(self.to_peer(data).as_deref() == Some(data), "{} bytes to the peer", data.len());
        assert!(self.to_client(data).as_deref() == Some(data), "{} bytes to the client", data.len());
    }

    /// What the client hears next.
    pub fn client_hears(&self) -> Option<Vec<u8>> {
        hear(&self.talker.socket)
    }

    /// What the peer hears next.
    pub fn peer_hears(&self) -> Option<Vec<u8>> {
        hear(&self.peer)
    }
}

/// Asks for a relayed address of a family; gives the answer, whatever it is.
#[track_caller]
pub fn try_allocate(talker: &mut Talker, v6: bool) -> Answer {
    let family = if v6 { FAMILY_V6 } else { FAMILY_V4 };
    talker.request(method::ALLOCATE, |builder| {
        builder.attribute(attr::REQUESTED_TRANSPORT, &UDP).attribute(attr::REQUESTED_ADDRESS_FAMILY, &family)
    })
}

/// Allocates a relayed address of a family.
#[track_caller]
pub fn allocate(talker: &mut Talker, v6: bool) -> SocketAddr {
    try_allocate(talker, v6).relayed()
}

/// Bytes that are not all the same.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + len) as u8).collect()
}

fn hear(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}
