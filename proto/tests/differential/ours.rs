//! This server, with the little driver it needs.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnpike_proto::addr::{ClientAddr, FiveTuple, PeerAddr, Transport};
use turnpike_proto::auth::Credentials;
use turnpike_proto::policy::PeerRules;
use turnpike_proto::settings::{RelayIps, Settings};
use turnpike_proto::shared::Shared;
use turnpike_proto::{
    ClientPath, ClientSocket, Egress, Input, Now, Origin, Output, Received, RelaySocket, Server, WorkerId,
};

use super::{REALM, SERVER, USERS, addr};

/// What left: whether to a peer, and to whom; the payload.
pub type Sent = (bool, SocketAddr, Vec<u8>);

/// One worker in virtual time.
pub struct Ours {
    server: Server,
    now: Now,
    open: HashMap<RelaySocket, SocketAddr>,
    sent: Vec<Sent>,
}

impl Ours {
    pub fn new() -> Self {
        let mut credentials = Credentials::new(REALM);
        for (user, password) in USERS {
            credentials.add_user(user, password).expect("good credentials");
        }
        let relay_ips: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().expect("an IP")).into();
        let relays = relay_ips.into_iter().map(Into::into).collect();
        let shared = Shared::new(Settings {
            relays: RelayIps { general: relays, ..RelayIps::default() },
            peers: PeerRules { listeners: vec![addr(SERVER)], ..PeerRules::default() },
            ..Settings::new(credentials, [7; 32])
        });
        Self {
            server: Server::new(Arc::clone(&shared), WorkerId(0), [1; 32]),
            now: Now { mono_ns: 0, unix_secs: 1_700_000_000 },
            open: HashMap::new(),
            sent: Vec::new(),
        }
    }

    pub fn sleep(&mut self, secs: u64) {
        self.now.mono_ns += secs * 1_000_000_000;
        self.now.unix_secs += secs;
        self.input(Input::Tick);
        assert!(self.sent.is_empty(), "time alone sends nothing");
    }

    /// A datagram arrives from a client.
    pub fn client_sends(&mut self, client: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        let five_tuple =
            FiveTuple { client: ClientAddr(client), server: addr(SERVER), transport: Transport::Udp };
        let path = ClientPath { five_tuple, socket: ClientSocket::listener(0) };
        self.input(Input::Received(Received { origin: Origin::Client(path), bytes, tos: 0 }));
        std::mem::take(&mut self.sent)
    }

    /// A datagram arrives from a peer at a relayed address.
    pub fn peer_sends(&mut self, peer: SocketAddr, relayed: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        let open = self.open.iter().find(|(_, address)| **address == relayed);
        let Some((&relay, _)) = open else { return Vec::new() };
        let origin = Origin::Peer { relay, peer: PeerAddr(peer) };
        self.input(Input::Received(Received { origin, bytes, tos: 0 }));
        std::mem::take(&mut self.sent)
    }

    fn input(&mut self, input: Input<'_>) {
        self.server.handle_input(self.now, input);
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Transmit { egress, to, payload, .. } => {
                    self.sent.push((matches!(egress, Egress::Relay(_)), to, payload));
                }
                Output::OpenPort { relay, address, .. } => {
                    self.open.insert(relay, address.0);
                    self.server.handle_input(self.now, Input::PortOpened(relay));
                }
                Output::ClosePort(relay) => {
                    self.open.remove(&relay);
                    self.server.handle_input(self.now, Input::PortClosed(relay));
                }
                // The rest is for logs.
                _ => {}
            }
        }
    }
}
