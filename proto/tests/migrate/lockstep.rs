//! For any history, a server that was exported and adopted answers every further input as the original does.
//!
//! After a first part of the history both exist, and get the same inputs; everything that they do to the world, and
//! what operators see of them, is compared after each. A failure prints its operations, shrunk.

use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;
use turnpike_proto::addr::Transport;
use turnpike_proto::settings::ServerConfig;
use turnpike_proto::stats::ServerCounts;
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{ClientSocket, ConnectionId, Egress, Input, OffloadState, PlaneMemory, WhyNot};

use crate::lab::{Client, Lab, Luggage, Sent, Setup, addr};

const PEERS: [&str; 4] =
    ["198.51.100.7:4000", "198.51.100.8:4000", "[2001:db8:ffff::7]:4000", "10.0.0.1:4000"];
const NUMBERS: [u16; 3] = [0x4000, 0x4001, 0x4fff];
const UDP: [u8; 4] = [17, 0, 0, 0];
const TCP: [u8; 4] = [6, 0, 0, 0];
const CLIENTS: usize = 5;

#[derive(Clone, Debug)]
enum Op {
    Allocate { client: usize, wish: u8, lifetime: u32 },
    Refresh { client: usize, lifetime: u32 },
    Permit { client: usize, peer: usize },
    Bind { client: usize, number: usize, peer: usize },
    Data { client: usize, number: usize },
    Send { client: usize, peer: usize },
    PeerData { client: usize, peer: usize },
    Mistype { client: usize },
    Stranger { client: usize },
    Repeat { client: usize },
    Connect { client: usize, peer: usize },
    PeerTakes { connection: usize, takes: bool },
    PeerConnects { client: usize, peer: usize },
    BindConnection { connection: usize, data: u16 },
    CloseConnection { connection: usize },
    Sleep { millis: u64 },
    Rate { client: usize, bits: u64 },
    Disconnect { client: usize },
    DisconnectUser { alice: bool },
    HangUp { client: usize },
    Drain { on: bool },
    Policy { strict: bool },
    Hold { kernel: bool, ports: bool },
    OpenPorts,
}

fn operation() -> impl Strategy<Value = Op> {
    let client = || prop_oneof![2 => Just(0usize), 1 => Just(2usize), 3 => 0..CLIENTS];
    let peer = || 0..PEERS.len();
    let lifetime = || prop_oneof![Just(0u32), Just(600), 1..4000u32];
    let millis = prop_oneof![0..2000u64, Just(30_000), Just(300_000), 0..1_000_000u64];
    let connection = || 0..4usize;
    prop_oneof![
        8 => (client(), 0..8u8, lifetime())
            .prop_map(|(client, wish, lifetime)| Op::Allocate { client, wish, lifetime }),
        3 => (client(), lifetime()).prop_map(|(client, lifetime)| Op::Refresh { client, lifetime }),
        4 => (client(), peer()).prop_map(|(client, peer)| Op::Permit { client, peer }),
        6 => (client(), 0..NUMBERS.len(), peer())
            .prop_map(|(client, number, peer)| Op::Bind { client, number, peer }),
        4 => (client(), 0..NUMBERS.len()).prop_map(|(client, number)| Op::Data { client, number }),
        2 => (client(), peer()).prop_map(|(client, peer)| Op::Send { client, peer }),
        4 => (client(), peer()).prop_map(|(client, peer)| Op::PeerData { client, peer }),
        1 => client().prop_map(|client| Op::Mistype { client }),
        1 => client().prop_map(|client| Op::Stranger { client }),
        3 => client().prop_map(|client| Op::Repeat { client }),
        2 => (client(), peer()).prop_map(|(client, peer)| Op::Connect { client, peer }),
        2 => (connection(), any::<bool>()).prop_map(|(connection, takes)| Op::PeerTakes { connection, takes }),
        1 => (client(), peer()).prop_map(|(client, peer)| Op::PeerConnects { client, peer }),
        2 => (connection(), 0..4u16).prop_map(|(connection, data)| Op::BindConnection { connection, data }),
        1 => connection().prop_map(|connection| Op::CloseConnection { connection }),
        4 => millis.prop_map(|millis| Op::Sleep { millis }),
        1 => (client(), 0..3u64).prop_map(|(client, n)| Op::Rate { client, bits: n * 20_000 }),
        1 => client().prop_map(|client| Op::Disconnect { client }),
        1 => any::<bool>().prop_map(|alice| Op::DisconnectUser { alice }),
        1 => client().prop_map(|client| Op::HangUp { client }),
        1 => any::<bool>().prop_map(|on| Op::Drain { on }),
        1 => any::<bool>().prop_map(|strict| Op::Policy { strict }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(kernel, ports)| Op::Hold { kernel, ports }),
        1 => Just(Op::OpenPorts),
    ]
}

/// What the operator has chosen.
#[derive(Clone, Copy, Debug)]
struct Choice {
    slots: (usize, usize),
    ports: u16,
    bitrate: u64,
    strict: bool,
}

fn setup(choice: Choice) -> Setup {
    let config = ServerConfig {
        tcp_relay: true,
        max_bitrate_bits: choice.bitrate,
        unauthenticated_per_sec: 1,
        ..ServerConfig::default()
    };
    Setup {
        config,
        slots: Some(choice.slots),
        ports: (50_000, 50_000 + choice.ports),
        user_quota: 3,
        deny: if choice.strict { vec!["198.51.100.8/32"] } else { vec![] },
        ..Setup::default()
    }
}

fn clients() -> Vec<Client> {
    let connection = |index| ClientSocket { index, generation: 1 };
    vec![
        Client::new("203.0.113.5:1000"),
        Client::named("203.0.113.5:1001", "bob", "builder").on_worker(1),
        Client::new("203.0.113.5:1002").over_stream(Transport::Tcp, connection(0)),
        Client::named("[2001:db8:aaaa::5]:1003", "bob", "builder"),
        Client::named("203.0.113.6:1004", "bob", "builder")
            .over_stream(Transport::Tls, connection(1))
            .on_worker(1),
    ]
}

/// The original, and then its successor beside it.
struct Pair {
    labs: Vec<Lab>,
    clients: Vec<Client>,
    choice: Choice,
    last: Vec<Vec<u8>>,
    connections: Vec<(usize, ConnectionId)>,
}

impl Pair {
    fn new(choice: Choice) -> Self {
        let mut pair = Self {
            labs: vec![Lab::with(setup(choice))],
            clients: clients(),
            choice,
            last: vec![Vec::new(); CLIENTS],
            connections: Vec::new(),
        };
        for client in 0..CLIENTS {
            pair.stranger(client);
        }
        pair
    }

    /// Another process adopts a snapshot, while the original goes on.
    fn fork(&mut self) {
        let bytes = self.labs[0].snapshot();
        let luggage = Luggage::default();
        let (mut lab, _) = self.labs[0].adopt(setup(self.choice), &bytes, &luggage).expect("a good snapshot");
        self.labs[0].input_all(|| Input::Tick);
        for seen in [&mut self.labs[0], &mut lab] {
            // What the end of the first part did to the world is no part of the second.
            observe(seen, 0);
        }
        self.labs.push(lab);
        self.compare(0);
    }

    fn each(&mut self, worker: usize, act: impl Fn(&mut Lab)) {
        self.labs.iter_mut().for_each(act);
        self.compare(worker);
    }

    fn compare(&mut self, worker: usize) {
        let seen: Vec<_> = self.labs.iter_mut().map(|lab| observe(lab, worker)).collect();
        if let [original, successor] = &seen[..] {
            let differs = original.iter().zip(successor).find(|(left, right)| left != right);
            assert!(differs.is_none() && original.len() == successor.len(), "{differs:?}");
        }
    }

    /// A client's datagram; its answer's nonce is kept.
    fn sends(&mut self, client: usize, bytes: &[u8]) {
        self.last[client] = bytes.to_vec();
        let (worker, path) = (self.clients[client].worker, self.clients[client].path());
        let before = self.labs[0].sent.len();
        for lab in &mut self.labs {
            lab.client_sends(worker, path, bytes, 0);
        }
        let answers = self.labs[0].sent[before..].iter().map(|sent| sent.payload.clone());
        let mut nonces = answers.filter_map(|bytes| {
            let message = turnpike_proto::wire::Message::parse(&bytes).ok()?;
            message.attribute(attr::NONCE).map(<[u8]>::to_vec)
        });
        if let Some(nonce) = nonces.next_back() {
            self.clients[client].nonce = nonce;
        }
        self.compare(worker);
    }

    fn request(&mut self, client: usize, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) {
        let bytes = self.clients[client].signed(method, build);
        self.sends(client, &bytes);
    }

    fn stranger(&mut self, client: usize) {
        let id = self.clients[client].transaction();
        let bare = MessageBuilder::request(method::ALLOCATE, id).attribute(attr::REQUESTED_TRANSPORT, &UDP);
        self.sends(client, &bare.finish());
    }

    fn allocate(&mut self, client: usize, wish: u8, lifetime: u32) {
        self.request(client, method::ALLOCATE, |b| {
            let transport = if wish == 7 { &TCP } else { &UDP };
            let b = b.attribute(attr::REQUESTED_TRANSPORT, transport).lifetime(lifetime);
            match wish {
                0 => b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                1 | 2 => b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                3 => b.attribute(attr::EVEN_PORT, &[0x80]),
                4 => b.attribute(attr::EVEN_PORT, &[0]),
                _ => b,
            }
        });
    }

    /// One of a client's relayed addresses that reaches a peer.
    fn relayed(&self, client: usize, peer: &str) -> Option<std::net::SocketAddr> {
        let (worker, path) = (self.clients[client].worker, self.clients[client].path());
        let (views, _) = self.labs[0].workers[worker].inspect(None, 256);
        let view = views.into_iter().find(|view| view.five_tuple == path.five_tuple)?;
        view.relayed.into_iter().find(|relayed| relayed.is_ipv4() == addr(peer).is_ipv4())
    }

    fn number_of(&self, client: usize) -> Option<u64> {
        let (worker, path) = (self.clients[client].worker, self.clients[client].path());
        let (views, _) = self.labs[0].workers[worker].inspect(None, 256);
        views.into_iter().find(|view| view.five_tuple == path.five_tuple).map(|view| view.id)
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Allocate { client, wish, lifetime } => self.allocate(client, wish, lifetime),
            Op::Refresh { client, lifetime } => {
                self.request(client, method::REFRESH, |b| b.lifetime(lifetime));
            }
            Op::Permit { client, peer } => self.request(client, method::CREATE_PERMISSION, |b| {
                b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEERS[peer]))
            }),
            Op::Bind { client, number, peer } => {
                let [high, low] = NUMBERS[number].to_be_bytes();
                self.request(client, method::CHANNEL_BIND, |b| {
                    b.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
                        .xor_address(attr::XOR_PEER_ADDRESS, addr(PEERS[peer]))
                });
            }
            Op::Data { client, number } => {
                let [high, low] = NUMBERS[number].to_be_bytes();
                self.sends(client, &[&[high, low, 2, 0][..], &[7; 512]].concat());
            }
            Op::Send { client, peer } => {
                let id = self.clients[client].transaction();
                let indication = MessageBuilder::indication(method::SEND, id)
                    .xor_address(attr::XOR_PEER_ADDRESS, addr(PEERS[peer]))
                    .attribute(attr::DATA, b"data");
                self.sends(client, &indication.finish());
            }
            Op::PeerData { client, peer } => {
                let Some(relayed) = self.relayed(client, PEERS[peer]) else { return };
                let worker = self.clients[client].worker;
                self.each(worker, |lab| lab.peer_sends(addr(PEERS[peer]), relayed, &[8; 500], 0));
            }
            Op::Mistype { client } => {
                let right = std::mem::replace(&mut self.clients[client].password, "wrong".to_owned());
                self.request(client, method::REFRESH, |b| b);
                self.clients[client].password = right;
            }
            Op::Stranger { client } => self.stranger(client),
            Op::Repeat { client } => {
                let bytes = self.last[client].clone();
                self.sends(client, &bytes);
            }
            Op::Sleep { millis } => {
                let nanos = millis * 1_000_000;
                self.each(0, |lab| lab.sleep_ns(nanos));
            }
            _ => self.operate(op),
        }
    }

    fn operate(&mut self, op: &Op) {
        match *op {
            Op::Rate { client, bits } => {
                let Some(allocation) = self.number_of(client) else { return };
                let worker = self.clients[client].worker;
                self.each(worker, |lab| {
                    lab.input(worker, Input::SetRate { allocation, bits_per_sec: bits });
                });
            }
            Op::Disconnect { client } => {
                let Some(allocation) = self.number_of(client) else { return };
                let worker = self.clients[client].worker;
                self.each(worker, |lab| lab.input(worker, Input::Disconnect { allocation }));
            }
            Op::DisconnectUser { alice } => {
                let user = if alice { "alice" } else { "bob" };
                self.each(0, |lab| lab.input_all(|| Input::DisconnectUser { user: user.into() }));
            }
            Op::HangUp { client } => {
                let (worker, path) = (self.clients[client].worker, self.clients[client].path());
                self.each(worker, |lab| lab.input(worker, Input::ClientGone(path)));
            }
            Op::Drain { on } => self.each(0, |lab| lab.input_all(|| Input::Drain(on))),
            Op::Policy { strict } => {
                self.choice.strict = strict;
                let setup = setup(self.choice);
                self.each(0, |lab| {
                    setup.enforce(&lab.shared);
                    lab.input_all(|| Input::PolicyChanged);
                });
            }
            Op::Hold { kernel, ports } => self.each(0, |lab| {
                (lab.hold_kernel, lab.hold_ports) = (kernel, ports);
                if !kernel {
                    lab.forget_withdrawn();
                }
                if !ports {
                    lab.open_pending();
                }
            }),
            Op::OpenPorts => self.each(0, Lab::open_pending),
            _ => self.connect(op),
        }
    }

    /// RFC 6062.
    fn connect(&mut self, op: &Op) {
        match *op {
            Op::Connect { client, peer } => {
                let before = self.labs[0].connecting.len();
                self.request(client, method::CONNECT, |b| {
                    b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEERS[peer]))
                });
                let new = self.labs[0].connecting[before..].iter();
                self.connections.extend(new.map(|(worker, id, _)| (*worker, *id)));
            }
            Op::PeerConnects { client, peer } => {
                let Some(relayed) = self.relayed(client, PEERS[peer]) else { return };
                let is_open = |lab: &Lab| lab.open.values().any(|open| *open == relayed);
                if !is_open(&self.labs[0]) {
                    return;
                }
                let admitted: Vec<_> =
                    self.labs.iter_mut().map(|lab| lab.peer_connects(PEERS[peer], relayed)).collect();
                assert!(admitted.iter().all(|id| *id == admitted[0]));
                let worker = self.clients[client].worker;
                self.connections.extend(admitted[0].map(|id| (worker, id)));
                self.compare(worker);
            }
            Op::PeerTakes { connection, takes } => {
                let Some((worker, id)) = self.connections.get(connection).copied() else { return };
                self.each(worker, |lab| {
                    lab.input(
                        worker,
                        if takes { Input::PeerConnected(id) } else { Input::PeerConnectFailed(id) },
                    );
                });
            }
            Op::CloseConnection { connection } => {
                let Some((worker, id)) = self.connections.get(connection).copied() else { return };
                self.each(worker, |lab| lab.input(worker, Input::ConnectionClosed(id)));
            }
            Op::BindConnection { connection, data } => {
                let Some((worker, id)) = self.connections.get(connection).copied() else { return };
                let socket = ClientSocket { index: 10 + u32::from(data), generation: 1 };
                let address = format!("203.0.113.5:{}", 2000 + data);
                let mut client = Client::new(&address).over_stream(Transport::Tcp, socket);
                client.nonce = self.clients[2].nonce.clone();
                client.password = "wonder".to_owned();
                let bytes = client.signed(method::CONNECTION_BIND, |b| {
                    b.attribute(attr::CONNECTION_ID, &id.0.to_be_bytes())
                });
                let path = client.path();
                self.each(worker, |lab| lab.client_sends(worker, path, &bytes, 0));
            }
            _ => {}
        }
    }
}

/// What a server has done to the world since the last look, and what it is like.
fn observe(lab: &mut Lab, worker: usize) -> Vec<String> {
    let sent: Vec<Sent> = lab.take_sent();
    let mut seen: Vec<String> = sent.iter().map(|sent| describe(lab, worker, sent)).collect();
    seen.extend(std::mem::take(&mut lab.ended).iter().map(|it| format!("ended {it:?}")));
    seen.extend(std::mem::take(&mut lab.created).iter().map(|it| format!("created {:?}", it.relayed)));
    seen.extend(std::mem::take(&mut lab.refused).iter().map(|it| format!("refused {it:?}")));
    seen.extend(std::mem::take(&mut lab.disconnected).iter().map(|it| format!("disconnected {it:?}")));
    seen.extend(std::mem::take(&mut lab.closed_streams).iter().map(|it| format!("close stream {it:?}")));
    seen.extend(std::mem::take(&mut lab.bound).iter().map(|it| format!("bound {it:?}")));
    seen.extend(std::mem::take(&mut lab.closed).iter().map(|it| format!("closed {it:?}")));
    seen.extend(lab.waits_until_ns.take().map(|until_ns| format!("waits until {until_ns}")));
    seen.sort_unstable();
    for server in &lab.workers {
        // What the kernel left to userspace is counted for each process: its program may be another one.
        let counts = server.counts().clone();
        let counts = ServerCounts { kernel_missed: 0, not_offloaded: Default::default(), ..counts };
        seen.push(format!("{:?} {counts:?}", server.table_counts()));
        let (mut views, _) = server.inspect(None, 256);
        // Whether the kernel has answered yet is not the server's doing.
        views.iter_mut().for_each(|view| view.offload = OffloadState::Not(WhyNot::Off));
        views.sort_unstable_by_key(|view| view.id);
        seen.extend(views.iter().map(|view| format!("{view:?}")));
    }
    seen.extend(memory(lab));
    let mut ports = lab.shared.ports_used();
    ports.sort_unstable();
    let quotas = &lab.shared.quotas;
    seen.push(format!("{ports:?} {} {} {}", lab.shared.reservations(), quotas.used(), quotas.users()));
    seen.push(format!("{} {:?}", lab.shared.directory_len(), lab.shared.plane().map(|plane| plane.taken())));
    seen
}

fn describe(lab: &Lab, worker: usize, sent: &Sent) -> String {
    let from = match sent.egress {
        Egress::Client { socket, source } => format!("{socket:?} {source}"),
        Egress::Relay(relay) => format!("{:?}", lab.open.get(&(worker, relay))),
    };
    format!("sent from {from} to {} {} {:?}", sent.to, sent.dont_fragment, sent.payload)
}

/// What the kernel sees: the slots with a lease. Which of those that are free is taken next, nobody can tell.
fn memory(lab: &Lab) -> Vec<String> {
    let leases = lab.memory.bindings().iter().map(|it| it.to_peer.lease_ns.load(Relaxed));
    let mut seen: Vec<_> = leases.filter(|lease| *lease > 0).map(|lease| lease.to_string()).collect();
    let allocations = lab.memory.allocations().iter().flat_map(|it| [&it.to_peer, &it.to_client]);
    for direction in allocations.filter(|it| it.lease_ns.load(Relaxed) > 0) {
        let words = [&direction.bucket, &direction.price, &direction.burst, &direction.lease_ns];
        seen.push(format!("{:?}", words.map(|word| word.load(Relaxed))));
    }
    seen.sort_unstable();
    seen
}

fn choice() -> impl Strategy<Value = Choice> {
    let slots = prop_oneof![Just((8, 16)), (0..3usize, 0..4usize)];
    (slots, prop_oneof![Just(40u16), 1..6u16], 0..2u64, any::<bool>()).prop_map(
        |(slots, ports, limited, strict)| Choice { slots, ports, bitrate: limited * 40_000, strict },
    )
}

proptest! {
    #[test]
    fn a_server_in_another_process_goes_on_as_the_original(
        choice in choice(),
        before in proptest::collection::vec(operation(), 1..60),
        after in proptest::collection::vec(operation(), 1..60),
    ) {
        let mut pair = Pair::new(choice);
        before.iter().for_each(|op| pair.apply(op));
        pair.fork();
        after.iter().for_each(|op| pair.apply(op));
        pair.apply(&Op::Hold { kernel: false, ports: false });
        pair.apply(&Op::Sleep { millis: 4_000_000 });
    }
}
