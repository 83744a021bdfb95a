//! The server against a naive model of itself: maps with the time at which each entry ends, nothing else.
//!
//! Random operations of four clients on two workers, with time passing in between; after each of them every
//! client is asked whom it reaches, every peer whom it reaches and how, and all counts are compared. The kernel
//! plane (`lab` answers for it) must hold exactly the channels that live, each with the lease that it may have.
//! A failure prints its operations, shrunk; `model.proptest-regressions` keeps its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use turnpike_testkit::rig as lab;

use lab::*;
use proptest::prelude::*;
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{Egress, Input, PlaneMemory};

const SECOND: u64 = 1_000_000_000;
/// A lease ends two ticks of the slowest coarse clock early.
const MARGIN: u64 = 20_000_000;
/// Slots for all channels that there can be.
const MANY: usize = 64;
const FIRST_PORT: u16 = 50_000;
const NUMBERS: [u16; 4] = [0x4000, 0x4001, 0x4fff, 0x5000];
/// Two IPs with two ports each, two of the other family, one that is denied.
const PEERS: [&str; 7] = [
    "198.51.100.7:4000",
    "198.51.100.7:4001",
    "198.51.100.8:4000",
    "198.51.100.8:4001",
    "[2001:db8:ffff::7]:4000",
    "[2001:db8:ffff::7]:4001",
    "10.0.0.1:4000",
];

#[derive(Clone, Copy, Debug)]
enum Wish {
    V4,
    V6,
    Dual,
    Pair,
    Redeem,
}

#[derive(Clone, Debug)]
enum Op {
    Allocate {
        client: usize,
        wish: Wish,
        lifetime: u32,
    },
    Refresh {
        client: usize,
        lifetime: u32,
        family: Option<usize>,
    },
    Permit {
        client: usize,
        peers: Vec<usize>,
    },
    Bind {
        client: usize,
        number: usize,
        peer: usize,
    },
    Sleep {
        nanos: u64,
    },
    /// Time passes without a tick.
    Oversleep {
        secs: u64,
    },
    /// Another process takes over.
    Migrate {
        /// With the kernel's memory, or with other.
        plane: bool,
    },
}

/// One client has most to do, so that its allocation gets to see rare histories.
fn client() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0usize), 2 => 1..4usize]
}

fn operation() -> impl Strategy<Value = Op> {
    let lifetime = prop_oneof![Just(0u32), Just(600), 1..4000u32];
    let wish = prop_oneof![
        2 => Just(Wish::V4),
        1 => Just(Wish::V6),
        4 => Just(Wish::Dual),
        2 => Just(Wish::Pair),
        1 => Just(Wish::Redeem),
    ];
    let nanos = prop_oneof![
        0..10 * SECOND,
        Just(30 * SECOND),
        Just(300 * SECOND),
        Just(300 * SECOND - 1),
        Just(600 * SECOND),
        0..1000 * SECOND,
    ];
    prop_oneof![
        4 => (client(), wish, lifetime.clone()).prop_map(|(client, wish, lifetime)| Op::Allocate { client, wish, lifetime }),
        2 => (client(), lifetime, proptest::option::of(0..2usize))
            .prop_map(|(client, lifetime, family)| Op::Refresh { client, lifetime, family }),
        4 => (client(), proptest::collection::vec(0..PEERS.len(), 0..3)).prop_map(|(client, peers)| Op::Permit { client, peers }),
        6 => (client(), 0..NUMBERS.len(), 0..PEERS.len()).prop_map(|(client, number, peer)| Op::Bind { client, number, peer }),
        3 => nanos.prop_map(|nanos| Op::Sleep { nanos }),
        1 => (0..700u64).prop_map(|secs| Op::Oversleep { secs }),
        1 => any::<bool>().prop_map(|plane| Op::Migrate { plane }),
    ]
}

/// Index of a family's half.
fn half_of(ip: IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

fn is_denied(peer: SocketAddr) -> bool {
    peer == addr(PEERS[6])
}

/// An allocation: a relayed address and an end for each family, and what was permitted and bound.
#[derive(Debug, Default)]
struct Allocation {
    halves: [Option<(SocketAddr, u64)>; 2],
    permissions: BTreeMap<IpAddr, u64>,
    channels: BTreeMap<u16, (SocketAddr, u64)>,
}

impl Allocation {
    fn relayed(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.halves[half_of(peer.ip())].map(|(relayed, _)| relayed)
    }

    fn channel_to(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.iter().find(|(_, (bound, _))| *bound == peer).map(|(number, _)| *number)
    }

    fn drop_half(&mut self, half: usize) {
        self.halves[half] = None;
        self.permissions.retain(|ip, _| half_of(*ip) != half);
        self.channels.retain(|_, (peer, _)| half_of(peer.ip()) != half);
    }
}

#[derive(Debug)]
struct Reserved {
    token: [u8; 8],
    user: usize,
    port: u16,
    ends_ns: u64,
}

#[derive(Debug)]
struct Model {
    now_ns: u64,
    ports: u16,
    user_quota: usize,
    allocations: BTreeMap<usize, Allocation>,
    reservations: Vec<Reserved>,
    /// Deadlines of reservations, redeemed or not, by worker: their timers stay until then.
    reservation_timers: Vec<(usize, u64)>,
}

fn user_of(client: usize) -> usize {
    client % 2
}

fn worker_of(client: usize) -> usize {
    client / 2
}

impl Model {
    fn advance(&mut self, nanos: u64) {
        self.now_ns += nanos;
        let now_ns = self.now_ns;
        for allocation in self.allocations.values_mut() {
            allocation.permissions.retain(|_, ends_ns| *ends_ns > now_ns);
            allocation.channels.retain(|_, (_, ends_ns)| *ends_ns > now_ns);
            for half in 0..2 {
                if allocation.halves[half].is_some_and(|(_, ends_ns)| ends_ns <= now_ns) {
                    allocation.drop_half(half);
                }
            }
        }
        self.forget_empty();
        self.reservations.retain(|reserved| reserved.ends_ns > now_ns);
        self.reservation_timers.retain(|(_, ends_ns)| *ends_ns > now_ns);
    }

    fn forget_empty(&mut self) {
        self.allocations.retain(|_, allocation| allocation.halves.iter().any(Option::is_some));
    }

    fn taken_ports(&self, half: usize) -> BTreeSet<u16> {
        let relayed =
            self.allocations.values().filter_map(|a| a.halves[half]).map(|(relayed, _)| relayed.port());
        let reserved = self.reservations.iter().filter(|_| half == 0).map(|reserved| reserved.port);
        relayed.chain(reserved).collect()
    }

    fn has_free_port(&self, half: usize) -> bool {
        self.taken_ports(half).len() < usize::from(self.ports)
    }

    fn has_free_pair(&self) -> bool {
        let taken = self.taken_ports(0);
        let free = |port: &u16| !taken.contains(port) && !taken.contains(&(port + 1));
        (FIRST_PORT..FIRST_PORT + self.ports - 1).step_by(2).any(|port| free(&port))
    }

    /// The error an Allocate gets, or which halves it gives.
    fn expect_allocate(&self, client: usize, wish: Wish, token: [u8; 8]) -> Result<[bool; 2], u16> {
        if self.allocations.contains_key(&client) {
            return Err(437);
        }
        let user = user_of(client);
        let held = self.allocations.keys().filter(|other| user_of(**other) == user).count();
        if self.user_quota != 0 && held >= self.user_quota {
            return Err(486);
        }
        let halves = match wish {
            Wish::V4 => [self.has_free_port(0), false],
            Wish::V6 => [false, self.has_free_port(1)],
            Wish::Dual => [self.has_free_port(0), self.has_free_port(1)],
            Wish::Pair => [self.has_free_pair(), false],
            Wish::Redeem => [self.reservations.iter().any(|r| r.token == token && r.user == user), false],
        };
        if halves == [false, false] { Err(508) } else { Ok(halves) }
    }

    fn expect_bind(&self, client: usize, number: u16, peer: SocketAddr) -> u16 {
        let Some(allocation) = self.allocations.get(&client) else { return 437 };
        let by_number = allocation.channels.get(&number).map(|(peer, _)| *peer);
        let by_peer = allocation.channel_to(peer);
        let known = by_number == Some(peer) && by_peer == Some(number);
        if number >= 0x5000 || !known && (by_number.is_some() || by_peer.is_some()) {
            400
        } else if allocation.relayed(peer).is_none() {
            443
        } else if is_denied(peer) {
            403
        } else {
            0
        }
    }

    fn expect_permit(&self, client: usize, peers: &[SocketAddr]) -> u16 {
        let Some(allocation) = self.allocations.get(&client) else { return 437 };
        if peers.is_empty() {
            400
        } else if peers.iter().any(|peer| allocation.relayed(*peer).is_none()) {
            443
        } else if peers.iter().any(|peer| is_denied(*peer)) {
            403
        } else {
            0
        }
    }
}

/// The server, its clients, and the model beside them.
struct World {
    lab: Lab,
    clients: Vec<Client>,
    model: Model,
    last_token: [u8; 8],
    slots: (usize, usize),
}

fn setup(ports: u16, user_quota: u32, slots: (usize, usize)) -> Setup {
    let range = (FIRST_PORT, FIRST_PORT + ports - 1);
    Setup { ports: range, user_quota, slots: Some(slots), ..Setup::default() }
}

impl World {
    fn new(ports: u16, user_quota: u32, slots: (usize, usize)) -> Self {
        let lab = Lab::with(setup(ports, user_quota, slots));
        let clients = (0..4)
            .map(|i| {
                let (user, password) = [("alice", "wonder"), ("bob", "builder")][user_of(i)];
                Client::named(&format!("203.0.113.5:{}", 1000 + i), user, password).on_worker(worker_of(i))
            })
            .collect();
        let model = Model {
            now_ns: lab.now.mono_ns,
            ports,
            user_quota: user_quota as usize,
            allocations: BTreeMap::new(),
            reservations: Vec::new(),
            reservation_timers: Vec::new(),
        };
        Self { lab, clients, model, last_token: [0; 8], slots }
    }

    fn request(
        &mut self,
        client: usize,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Answer {
        self.clients[client].request(&mut self.lab, method, build)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Allocate { client, wish, lifetime } => self.allocate(*client, *wish, *lifetime),
            Op::Refresh { client, lifetime, family } => self.refresh(*client, *lifetime, *family),
            Op::Permit { client, peers } => self.permit(*client, peers),
            Op::Bind { client, number, peer } => self.bind(*client, NUMBERS[*number], addr(PEERS[*peer])),
            Op::Sleep { nanos } => {
                self.lab.sleep_ns(*nanos);
                self.model.advance(*nanos);
            }
            Op::Oversleep { secs } => {
                self.lab.oversleep(*secs);
                self.model.advance(secs * SECOND);
                self.compare_data();
                self.lab.input_all(|| Input::Tick);
                // Nonces are the calendar's business, not the model's.
                self.clients.iter_mut().for_each(|client| client.nonce.clear());
            }
            Op::Migrate { plane } => self.migrate(*plane),
        }
    }

    /// Another process goes on with the state, and nobody notices.
    fn migrate(&mut self, plane: bool) {
        let bytes = self.lab.snapshot();
        let luggage = Luggage { plane, ..Luggage::default() };
        let setup = setup(self.model.ports, self.model.user_quota as u32, self.slots);
        let (lab, adopted) = self.lab.adopt(setup, &bytes, &luggage).expect("a good snapshot");
        assert_eq!(adopted.iter().map(|it| it.kept).sum::<u64>(), self.model.allocations.len() as u64);
        self.lab = lab;
    }

    fn allocate(&mut self, client: usize, wish: Wish, lifetime: u32) {
        let expected = self.model.expect_allocate(client, wish, self.last_token);
        let token = self.last_token;
        let answer = self.request(client, method::ALLOCATE, |b| {
            let b = b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).lifetime(lifetime);
            match wish {
                Wish::V4 => b,
                Wish::V6 => b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                Wish::Dual => b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                Wish::Pair => b.attribute(attr::EVEN_PORT, &[0x80]),
                Wish::Redeem => b.attribute(attr::RESERVATION_TOKEN, &token),
            }
        });
        assert_eq!(answer.code, expected.err(), "Allocate {wish:?}");
        let Ok(halves) = expected else { return };
        assert_eq!(answer.lifetime(), lifetime.clamp(600, 3600));
        let ends_ns = self.model.now_ns + u64::from(answer.lifetime()) * SECOND;
        let mut allocation = Allocation::default();
        for relayed in answer.all_relayed() {
            let half = half_of(relayed.ip());
            assert!(!self.model.taken_ports(half).contains(&relayed.port()) || matches!(wish, Wish::Redeem));
            allocation.halves[half] = Some((relayed, ends_ns));
        }
        assert_eq!(allocation.halves.map(|half| half.is_some()), halves, "Allocate {wish:?}");
        let port = answer.relayed().port();
        match wish {
            Wish::Pair => {
                self.last_token = answer.token();
                let ends_ns = self.model.now_ns + 30 * SECOND;
                let reserved =
                    Reserved { token: answer.token(), user: user_of(client), port: port + 1, ends_ns };
                self.model.reservations.push(reserved);
                self.model.reservation_timers.push((worker_of(client), ends_ns));
            }
            Wish::Redeem => {
                let at = self.model.reservations.iter().position(|r| r.token == token).expect("expected");
                assert_eq!(self.model.reservations.remove(at).port, port);
            }
            _ => {}
        }
        self.model.allocations.insert(client, allocation);
    }

    fn refresh(&mut self, client: usize, lifetime: u32, family: Option<usize>) {
        let answer = self.request(client, method::REFRESH, |b| match family {
            Some(half) => {
                b.lifetime(lifetime).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[half as u8 + 1, 0, 0, 0])
            }
            None => b.lifetime(lifetime),
        });
        let now_ns = self.model.now_ns;
        let Some(allocation) = self.model.allocations.get_mut(&client) else {
            answer.expect_error(437);
            return;
        };
        if family.is_some_and(|half| allocation.halves[half].is_none()) {
            answer.expect_error(443);
            return;
        }
        let granted = if lifetime == 0 { 0 } else { lifetime.clamp(600, 3600) };
        assert_eq!(answer.expect_success().lifetime(), granted);
        for half in (0..2).filter(|half| family.is_none_or(|family| family == *half)) {
            match &mut allocation.halves[half] {
                Some(_) if granted == 0 => allocation.drop_half(half),
                Some((_, ends_ns)) => *ends_ns = now_ns + u64::from(granted) * SECOND,
                None => {}
            }
        }
        self.model.forget_empty();
    }

    fn permit(&mut self, client: usize, peers: &[usize]) {
        let peers: Vec<SocketAddr> = peers.iter().map(|peer| addr(PEERS[*peer])).collect();
        let expected = self.model.expect_permit(client, &peers);
        let answer = self.request(client, method::CREATE_PERMISSION, |b| {
            peers.iter().fold(b, |b, peer| b.xor_address(attr::XOR_PEER_ADDRESS, *peer))
        });
        assert_eq!(answer.code.unwrap_or(0), expected, "CreatePermission {peers:?}");
        if let (0, Some(allocation)) = (expected, self.model.allocations.get_mut(&client)) {
            let ends_ns = self.model.now_ns + 300 * SECOND;
            allocation.permissions.extend(peers.iter().map(|peer| (peer.ip(), ends_ns)));
        }
    }

    fn bind(&mut self, client: usize, number: u16, peer: SocketAddr) {
        let expected = self.model.expect_bind(client, number, peer);
        let answer = self.clients[client].bind(&mut self.lab, number, &peer.to_string());
        assert_eq!(answer.code.unwrap_or(0), expected, "ChannelBind {number:#x} {peer}");
        if let (0, Some(allocation)) = (expected, self.model.allocations.get_mut(&client)) {
            let now_ns = self.model.now_ns;
            allocation.permissions.insert(peer.ip(), now_ns + 300 * SECOND);
            allocation.channels.insert(number, (peer, now_ns + 600 * SECOND));
        }
    }

    /// Where a client's datagram goes to and comes from, if anywhere.
    fn leaves(&self, client: usize, sent: Vec<Sent>) -> Option<(SocketAddr, SocketAddr)> {
        assert!(sent.len() <= 1);
        let sent = sent.into_iter().next()?;
        let Egress::Relay(socket) = sent.egress else { panic!("not to a peer: {sent:?}") };
        assert_eq!(sent.payload, b"probe");
        Some((self.lab.open[&(worker_of(client), socket)], sent.to))
    }

    /// Who may send to whom, and how it arrives.
    fn compare_data(&mut self) {
        let nobody = Allocation::default();
        for client in 0..self.clients.len() {
            for peer in PEERS.map(addr) {
                let sent = self.clients[client].send_indication(&mut self.lab, &peer.to_string(), b"probe");
                let sent = self.leaves(client, sent);
                let allocation = self.model.allocations.get(&client).unwrap_or(&nobody);
                let channel = allocation.channel_to(peer);
                let permitted = allocation.permissions.contains_key(&peer.ip());
                let admitted = channel.is_some() || permitted && !is_denied(peer);
                let expected = allocation.relayed(peer).filter(|_| admitted).map(|relayed| (relayed, peer));
                assert_eq!(sent, expected, "Send of client {client}");
                let Some(relayed) = allocation.relayed(peer) else { continue };
                let received = self.lab.peer_data(&peer.to_string(), relayed, b"probe");
                assert_eq!(received.len(), usize::from(admitted), "{peer} to client {client}");
                match (received.first(), channel) {
                    (Some(sent), Some(number)) => {
                        assert_eq!(sent.channel_data(), (number, b"probe".to_vec()))
                    }
                    (Some(sent), None) => assert_eq!(sent.data_indication(), (peer, b"probe".to_vec())),
                    (None, _) => {}
                }
            }
            for number in NUMBERS {
                let sent = self.clients[client].channel_data(&mut self.lab, number, b"probe");
                let sent = self.leaves(client, sent);
                let allocation = self.model.allocations.get(&client).unwrap_or(&nobody);
                let bound = allocation.channels.get(&number).map(|(peer, _)| *peer);
                let expected = bound.and_then(|peer| Some((allocation.relayed(peer)?, peer)));
                assert_eq!(sent, expected, "channel {number:#x} of client {client}");
            }
        }
    }

    fn compare_counts(&self) {
        let model = &self.model;
        for worker in 0..2 {
            let mine: Vec<&Allocation> = model
                .allocations
                .iter()
                .filter(|(client, _)| worker_of(**client) == worker)
                .map(|(_, a)| a)
                .collect();
            let counts = self.lab.workers[worker].table_counts();
            let halves: usize = mine.iter().map(|a| a.halves.iter().flatten().count()).sum();
            let permissions: usize = mine.iter().map(|a| a.permissions.len()).sum();
            let channels: usize = mine.iter().map(|a| a.channels.len()).sum();
            let reserved = model.reservation_timers.iter().filter(|(owner, _)| *owner == worker).count();
            assert_eq!(counts.allocations, mine.len());
            assert_eq!((counts.permissions, counts.channels), (permissions, channels));
            assert_eq!(counts.relay_sockets, halves);
            let offloaded = self.lab.offloaded.iter().filter(|(owner, _)| *owner == worker).count();
            assert_eq!((counts.offloaded, counts.ending), (offloaded, 0));
            assert_eq!(counts.timers, halves + permissions + channels + reserved);
        }
        let ports: usize = (0..2).map(|half| model.taken_ports(half).len()).sum();
        assert_eq!(self.lab.shared.ports_taken(), ports);
        assert_eq!(self.lab.shared.reservations(), model.reservations.len());
        assert_eq!(self.lab.shared.directory_len(), model.allocations.len());
        let users: BTreeSet<usize> = model.allocations.keys().map(|client| user_of(*client)).collect();
        let quotas = &self.lab.shared.quotas;
        assert_eq!((quotas.used() as usize, quotas.users()), (model.allocations.len(), users.len()));
    }
}

impl World {
    /// What the kernel was told is alive, and its leases end as early as they must.
    fn compare_kernel(&self) {
        let memory = &self.lab.memory;
        for (worker, binding) in &self.lab.offloaded {
            let client = self.clients.iter().position(|client| client.address == binding.client);
            let client = client.expect("a client's");
            assert_eq!(*worker, worker_of(client));
            let allocation = self.model.allocations.get(&client).expect("it lives");
            let (peer, channel_ends_ns) = allocation.channels[&binding.channel];
            let (relayed, half_ends_ns) = allocation.halves[half_of(peer.ip())].expect("it lives");
            assert_eq!((binding.peer, binding.relayed), (peer, relayed));
            let lease = memory.bindings()[binding.binding.slot as usize].to_peer.lease_ns.load(Relaxed);
            assert_eq!(lease, channel_ends_ns.min(half_ends_ns) - MARGIN);
            let last_ns = allocation.halves.iter().flatten().map(|(_, ends_ns)| *ends_ns).max();
            let lease =
                memory.allocations()[binding.allocation.slot as usize].to_client.lease_ns.load(Relaxed);
            assert_eq!(Some(lease), last_ns.map(|ends_ns| ends_ns - MARGIN));
        }
        let taken = self.lab.shared.plane().expect("there is one").taken();
        assert_eq!(taken.bindings, self.lab.offloaded.len());
        let channels: usize = self.model.allocations.values().map(|a| a.channels.len()).sum();
        if memory.bindings().len() >= MANY {
            assert_eq!(taken.bindings, channels, "where there is room each channel is in the kernel");
        }
    }
}

proptest! {
    #[test]
    fn the_server_does_what_its_model_does(
        ports in 1..8u16,
        user_quota in 0..2u32,
        slots in prop_oneof![Just((4, MANY)), (0..4usize, 0..5usize)],
        operations in proptest::collection::vec(operation(), 1..80),
    ) {
        let mut world = World::new(ports, user_quota, slots);
        for op in &operations {
            world.apply(op);
            world.compare_data();
            world.compare_counts();
            world.compare_kernel();
        }
        world.lab.sleep(4000);
        world.lab.assert_empty();
    }
}
