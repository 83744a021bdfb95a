//! This server, in a laboratory with one worker.

use std::net::SocketAddr;

use turnpike_proto::addr::{ClientAddr, FiveTuple, Transport};
use turnpike_proto::{ClientPath, ClientSocket, Egress};
use turnpike_testkit::rig::{Lab, Setup};

use super::{SERVER, USERS, addr};

/// What left: whether to a peer, and to whom; the payload.
pub type Sent = (bool, SocketAddr, Vec<u8>);

/// One worker in virtual time.
pub struct Ours(Lab);

impl Ours {
    pub fn new() -> Self {
        Self(Lab::with(Setup { users: USERS.to_vec(), workers: 1, ..Setup::default() }))
    }

    pub fn sleep(&mut self, secs: u64) {
        self.0.sleep(secs);
        assert!(self.0.sent.is_empty(), "time alone sends nothing");
    }

    /// A datagram arrives from a client.
    pub fn client_sends(&mut self, client: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        let five_tuple =
            FiveTuple { client: ClientAddr(client), server: addr(SERVER), transport: Transport::Udp };
        self.0.client_sends(0, ClientPath::new(five_tuple, ClientSocket::listener(0)), bytes, 0);
        self.sent()
    }

    /// A datagram arrives from a peer at a relayed address.
    pub fn peer_sends(&mut self, peer: SocketAddr, relayed: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        self.0.peer_sends(peer, relayed, bytes, 0);
        self.sent()
    }

    fn sent(&mut self) -> Vec<Sent> {
        let sent = self.0.take_sent().into_iter();
        sent.map(|sent| (matches!(sent.egress, Egress::Relay(_)), sent.to, sent.payload)).collect()
    }
}
