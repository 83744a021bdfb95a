//! The core's hot paths by themselves: no socket, no kernel, one thread. For criterion (nanoseconds) and
//! callgrind (instructions).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::ValueEnum;
use turnpike_proto::addr::{ClientAddr, FiveTuple, PeerAddr, Transport};
use turnpike_proto::auth::{Credentials, Key};
use turnpike_proto::policy::PeerRules;
use turnpike_proto::settings::{RelayIps, ServerConfig, Settings};
use turnpike_proto::shared::Shared;
use turnpike_proto::wire::{Message, MessageBuilder, TransactionId, attr, channel, method};
use turnpike_proto::{
    ClientPath, ClientSocket, Forward, Input, Now, Origin, Output, Received, RelaySocket, Server, WorkerId,
};

const REALM: &str = "bench.example";
const USER: &str = "bench";
const PASSWORD: &str = "correct horse";
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 3478);
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 4000);
/// The first channel of RFC 8656 section 12; every client binds it.
const CHANNEL: u16 = 0x4000;
/// Bytes of payload: an audio packet.
const PAYLOAD: usize = 170;
/// A new nonce lasts for an hour; time stands still here.
const NOW: Now = Now { mono_ns: 5_000_000_000, unix_secs: 1_700_000_000 };

/// What can be run many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HotPath {
    /// ChannelData from a client to its peer.
    ClientToPeer,
    /// A peer's datagram to the client as ChannelData.
    PeerToClient,
    /// A Send indication to its peer.
    SendToPeer,
    /// Parse a signed request and check all that RFC 8489 section 9.2.4 asks for.
    Authenticate,
    /// Make a nonce and the 401 around it.
    Challenge,
    /// Answer a Binding request.
    Binding,
    /// An allocation from the Allocate to its deletion; the port is opened and closed at once.
    Lifecycle,
}

/// Requests of allocations that come and go: more than a server remembers to recognise repetitions.
const LIFECYCLES: usize = 5000;

/// A server with allocations, each with a channel to one peer.
pub struct Core {
    shared: Arc<Shared>,
    server: Server,
    clients: Vec<FiveTuple>,
    relays: Vec<RelaySocket>,
    channel_data: Vec<u8>,
    send_indication: Vec<u8>,
    signed_request: Vec<u8>,
    unsigned_request: Vec<u8>,
    binding_request: Vec<u8>,
    payload: Vec<u8>,
    transactions: u64,
    /// An Allocate and the Refresh that deletes, signed, of one client.
    lifecycles: Vec<[Vec<u8>; 2]>,
}

impl Core {
    /// A server with `allocations` live allocations (at most about 120,000: two addresses' ports).
    pub fn new(allocations: u32) -> Core {
        let shared = shared();
        let payload = vec![0x55; PAYLOAD];
        let mut channel_data = channel::header(CHANNEL, PAYLOAD as u16).to_vec();
        channel_data.extend_from_slice(&payload);
        let mut core = Core {
            server: Server::new(Arc::clone(&shared), WorkerId(0), [7; 32]),
            shared,
            clients: Vec::new(),
            relays: Vec::new(),
            channel_data,
            send_indication: send_indication(&payload),
            signed_request: Vec::new(),
            unsigned_request: MessageBuilder::request(method::ALLOCATE, TransactionId([3; 12]))
                .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                .finish(),
            binding_request: MessageBuilder::request(method::BINDING, TransactionId([4; 12])).finish(),
            payload,
            transactions: 0,
            lifecycles: Vec::new(),
        };
        for number in 0..allocations {
            core.add_client(number);
        }
        core
    }

    /// How many allocations there are.
    pub fn allocations(&self) -> usize {
        self.clients.len()
    }

    /// Runs a path once for client number `index` (modulo the number of clients). Returns whether it did
    /// what it should, so that nothing is optimised away and nothing else is measured.
    #[inline]
    pub fn run(&mut self, path: HotPath, index: usize) -> bool {
        let client = index % self.clients.len();
        let five_tuple = self.clients[client];
        match path {
            HotPath::ClientToPeer => {
                let forward = self.server.forward(NOW, &from_client(five_tuple, &self.channel_data));
                matches!(forward, Forward::Transmit(_))
            }
            HotPath::SendToPeer => {
                let forward = self.server.forward(NOW, &from_client(five_tuple, &self.send_indication));
                matches!(forward, Forward::Transmit(_))
            }
            HotPath::PeerToClient => {
                let relay = self.relays[client];
                let origin = Origin::Peer { relay, peer: PeerAddr(PEER) };
                let received = Received { origin, bytes: &self.payload, tos: 0 };
                let forward = self.server.forward(NOW, &received);
                matches!(forward, Forward::Transmit(_))
            }
            HotPath::Authenticate => {
                // Signed by the first client: a nonce is good for one 5-tuple only.
                let Ok(message) = Message::parse(&self.signed_request) else { return false };
                self.shared.auth.authenticate(NOW, &self.clients[0], &message, None).is_ok()
            }
            HotPath::Challenge => self.exchange_unsigned(),
            HotPath::Binding => {
                let request = from_client(five_tuple, &self.binding_request);
                self.server.handle_input(NOW, Input::Received(request));
                matches!(self.server.poll_output(), Some(Output::Transmit { .. }))
            }
            HotPath::Lifecycle => self.live_and_die(index),
        }
    }

    fn live_and_die(&mut self, index: usize) -> bool {
        if self.lifecycles.is_empty() {
            self.sign_lifecycles();
        }
        let client = five_tuple(u32::MAX - 1);
        let requests = std::mem::take(&mut self.lifecycles);
        let mut closed = 0;
        for bytes in &requests[index % LIFECYCLES] {
            self.server.handle_input(NOW, Input::Received(from_client(client, bytes)));
            while let Some(output) = self.server.poll_output() {
                match output {
                    Output::OpenPort { relay, .. } => self.server.handle_input(NOW, Input::PortOpened(relay)),
                    Output::ClosePort(relay) => {
                        self.server.handle_input(NOW, Input::PortClosed(relay));
                        closed += 1;
                    }
                    _ => {}
                }
            }
        }
        self.lifecycles = requests;
        closed == 1
    }

    fn sign_lifecycles(&mut self) {
        let nonce = self.challenge(five_tuple(u32::MAX - 1));
        for _ in 0..LIFECYCLES {
            let allocate = self.signed(method::ALLOCATE, &nonce, |request| {
                request.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            });
            let delete = self.signed(method::REFRESH, &nonce, |request| request.lifetime(0));
            self.lifecycles.push([allocate, delete]);
        }
    }

    /// A fresh nonce.
    fn challenge(&mut self, client: FiveTuple) -> Vec<u8> {
        let opening = MessageBuilder::request(method::ALLOCATE, self.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .finish();
        let challenge = self.exchange(client, &opening);
        let challenge = Message::parse(&challenge).expect("the server's answers are well-formed");
        challenge.attribute(attr::NONCE).expect("a challenge has a nonce").to_vec()
    }

    fn exchange_unsigned(&mut self) -> bool {
        // A 5-tuple without an allocation.
        let request = from_client(five_tuple(u32::MAX), &self.unsigned_request);
        self.server.handle_input(NOW, Input::Received(request));
        matches!(self.server.poll_output(), Some(Output::Transmit { .. }))
    }

    fn add_client(&mut self, number: u32) {
        let client = five_tuple(number);
        let nonce = self.challenge(client);
        let allocate = self.signed(method::ALLOCATE, &nonce, |request| {
            request.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        });
        self.exchange(client, &allocate);
        let bind = self.signed(method::CHANNEL_BIND, &nonce, |request| {
            let [high, low] = CHANNEL.to_be_bytes();
            request
                .attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, PEER)
        });
        self.exchange(client, &bind);
        if number == 0 {
            self.signed_request = self.signed(method::REFRESH, &nonce, |request| request.lifetime(600));
        }
        self.clients.push(client);
        assert_eq!(self.relays.len(), self.clients.len(), "each Allocate opened one port");
    }

    /// One request and its answer; ports are opened as soon as they are asked for.
    fn exchange(&mut self, client: FiveTuple, bytes: &[u8]) -> Vec<u8> {
        self.server.handle_input(NOW, Input::Received(from_client(client, bytes)));
        loop {
            match self.server.poll_output() {
                Some(Output::OpenPort { relay, .. }) => {
                    self.relays.push(relay);
                    self.server.handle_input(NOW, Input::PortOpened(relay));
                }
                Some(Output::Transmit { payload, .. }) => return payload,
                Some(_) => {}
                None => panic!("every request is answered"),
            }
        }
    }

    fn signed(
        &mut self,
        method: u16,
        nonce: &[u8],
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Vec<u8> {
        let key = Key::md5(USER, REALM, PASSWORD).expect("the credentials are constants");
        build(MessageBuilder::request(method, self.transaction()))
            .attribute(attr::USERNAME, USER.as_bytes())
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, nonce)
            .finish_signed(&key)
    }

    fn transaction(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut id = [0xc0; 12];
        id[4..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }
}

/// Runs a path `times` times on a server with 1000 allocations, over all of them in turn; returns how often
/// it did what it should.
pub fn run(path: HotPath, times: u64) -> u64 {
    let mut core = Core::new(1000);
    (0..times).map(|n| u64::from(core.run(path, n as usize))).sum()
}

fn shared() -> Arc<Shared> {
    let mut credentials = Credentials::new(REALM);
    credentials.add_user(USER, PASSWORD).expect("the credentials are constants");
    let relays = vec![SERVER.ip().into(), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)).into()];
    Shared::new(Settings {
        // The challenge is measured, not the limit on challenges.
        config: ServerConfig { unauthenticated_per_sec: 0, ..ServerConfig::default() },
        relays: RelayIps { general: relays, ..RelayIps::default() },
        relay_ports: 1024..=65_535,
        peers: PeerRules { listeners: vec![SERVER], ..PeerRules::default() },
        ..Settings::new(credentials, [5; 32])
    })
}

fn five_tuple(number: u32) -> FiveTuple {
    let [a, b, c, d] = number.to_be_bytes();
    // Many addresses, few ports: as behind many NATs.
    let ip = IpAddr::V4(Ipv4Addr::new(100 + (a & 7), b, c, d));
    let client = ClientAddr(SocketAddr::new(ip, 40_000 + (number % 16) as u16));
    FiveTuple { client, server: SERVER, transport: Transport::Udp }
}

fn from_client(five_tuple: FiveTuple, bytes: &[u8]) -> Received<'_> {
    let path = ClientPath::new(five_tuple, ClientSocket::listener(0));
    Received { origin: Origin::Client(path), bytes, tos: 0 }
}

fn send_indication(payload: &[u8]) -> Vec<u8> {
    MessageBuilder::indication(method::SEND, TransactionId([2; 12]))
        .xor_address(attr::XOR_PEER_ADDRESS, PEER)
        .attribute(attr::DATA, payload)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_does_what_it_should_each_time() {
        for path in HotPath::value_variants() {
            assert_eq!(run(*path, 3000), 3000, "{path:?}");
        }
    }

    #[test]
    fn a_client_without_an_allocation_is_not_forwarded() {
        let mut core = Core::new(2);
        core.clients[1] = five_tuple(77);
        assert!(core.run(HotPath::ClientToPeer, 0));
        assert!(!core.run(HotPath::ClientToPeer, 1));
    }
}
