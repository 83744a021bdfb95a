//! Workers, clients and peers on one simulated network, and the loop that moves them through virtual time.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use turnpike::config::ProxyUdp;
use turnpike::worker::handover::Handover;
use turnpike::worker::proxied::Proxies;
use turnpike::worker::{Order, WorkerHandle};
use turnpike_driver::Driver;
use turnpike_driver::sim::{Impairment, SimDriver, SimEndpoint, SimNetwork};
use turnpike_proto::shared::Shared;
use turnpike_proto::{Server, WorkerId};
use turnpike_testkit::message::Login;
pub use turnpike_testkit::rig::{SERVER_V4, SERVER_V6, Setup, addr};

use super::client::{Call, Client, Outcome, Received};
use super::ledger::{Destination, Ledger, Via};

/// Longest time that clients get to finish what they are doing: three rounds of all retransmissions.
const MAX_SETTLE: Duration = Duration::from_secs(150);

/// A way as bad as the project promises to survive: loss 10 %, duplicates 5 %, reordering 20 %.
pub fn rough() -> Impairment {
    let delay = Duration::from_millis(5)..Duration::from_millis(30);
    Impairment { loss: 0.1, duplicate: 0.05, reorder: 0.2, delay }
}

pub struct Worker {
    pub inner: turnpike::worker::Worker<SimDriver>,
    pub handle: WorkerHandle,
}

/// A peer: answers each payload of the ledger with another one.
pub struct Peer {
    pub endpoint: SimEndpoint,
    pub answers: bool,
    /// What arrived that the ledger doesn't know: source, bytes, DSCP and ECN.
    pub inbox: Vec<(SocketAddr, Vec<u8>, u8)>,
}

#[derive(Clone, Copy)]
enum Actor {
    Client(usize),
    Peer(usize),
}

pub struct World {
    pub network: SimNetwork,
    pub shared: Arc<Shared>,
    pub setup: Setup,
    pub workers: Vec<Worker>,
    pub clients: Vec<Client>,
    pub peers: Vec<Peer>,
    pub ledger: Ledger,
    pub random: ChaCha8Rng,
    actors: HashMap<SocketAddr, Actor>,
    /// Clients by when they have something to do next.
    wakes: BTreeSet<(u64, usize)>,
    wake_of: Vec<Option<u64>>,
    busy: BTreeSet<usize>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Setup::default())
    }

    pub fn with(seed: u64, setup: Setup) -> Self {
        Self::over(Impairment::NONE, seed, setup)
    }

    /// A network that treats datagrams like this.
    pub fn over(impairment: Impairment, seed: u64, setup: Setup) -> Self {
        Self::behind(Proxies::new(Vec::new(), ProxyUdp::Off), impairment, seed, setup)
    }

    /// The same behind these proxies.
    pub fn behind(proxies: Proxies, impairment: Impairment, seed: u64, setup: Setup) -> Self {
        let proxies = Arc::new(proxies);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let network = SimNetwork::new(random.random(), impairment);
        let shared = Shared::new(setup.settings(random.random()));
        let handovers = Handover::between(setup.workers.into());
        let workers = (0..setup.workers).zip(handovers).map(|(number, handover)| {
            let driver = network.driver(number.into(), &[addr(SERVER_V4), addr(SERVER_V6)]);
            let server = Server::new(Arc::clone(&shared), WorkerId(number), random.random());
            let (handle, told, status) = WorkerHandle::new(driver.waker());
            let inner = turnpike::worker::Worker::new(driver, server, told, status).with_handover(handover);
            let inner = inner.with_proxies(Arc::clone(&proxies));
            Worker { inner, handle }
        });
        let workers = workers.collect();
        Self {
            network,
            shared,
            setup,
            workers,
            clients: Vec::new(),
            peers: Vec::new(),
            ledger: Ledger::new(random.random()),
            random,
            actors: HashMap::new(),
            wakes: BTreeSet::new(),
            wake_of: Vec::new(),
            busy: BTreeSet::new(),
        }
    }

    /// Adds an IPv4 client of the first user; gives its number.
    pub fn client(&mut self) -> usize {
        self.client_of("alice")
    }

    pub fn client_of(&mut self, user: &str) -> usize {
        let number = self.clients.len();
        let ip = Ipv4Addr::new(198, 51, 100, 1 + (number % 250) as u8);
        let address = SocketAddr::new(ip.into(), 10_000 + (number / 250) as u16);
        self.client_at(address, user)
    }

    pub fn client_at(&mut self, address: SocketAddr, user: &str) -> usize {
        let endpoint = self.network.endpoint(address);
        let server = addr(if address.is_ipv4() { SERVER_V4 } else { SERVER_V6 });
        let seed = self.random.random();
        let number = self.clients.len();
        let password = self.setup.users.iter().find(|(name, _)| *name == user).expect("a user").1;
        self.clients.push(Client::new(endpoint, server, Login::new(user, password), seed));
        self.wake_of.push(None);
        self.actors.insert(address, Actor::Client(number));
        number
    }

    /// Adds peers until there are `count`, IPv4 and then IPv6 in turn; gives their addresses.
    pub fn peers(&mut self, count: u16) -> Vec<SocketAddr> {
        for number in self.peers.len() as u16..count {
            let ip: IpAddr = match number.is_multiple_of(2) {
                true => Ipv4Addr::new(203, 0, 113, 1 + number as u8).into(),
                false => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, number).into(),
            };
            let endpoint = self.network.endpoint(SocketAddr::new(ip, 4000));
            self.actors.insert(endpoint.address(), Actor::Peer(self.peers.len()));
            self.peers.push(Peer { endpoint, answers: true, inbox: Vec::new() });
        }
        self.peers.iter().map(|peer| peer.endpoint.address()).collect()
    }

    pub fn now_ns(&self) -> u64 {
        self.network.now().mono_ns
    }

    /// Lets a client do something, and notes when it wants to be woken.
    pub fn with_client<R>(&mut self, number: usize, action: impl FnOnce(&mut Client, u64) -> R) -> R {
        let now_ns = self.now_ns();
        let client = &mut self.clients[number];
        let result = action(client, now_ns);
        client.advance(now_ns);
        let wake_ns = client.next_wake_ns();
        if client.is_busy() {
            self.busy.insert(number);
        } else {
            self.busy.remove(&number);
        }
        if self.wake_of[number] != wake_ns {
            if let Some(old_ns) = std::mem::replace(&mut self.wake_of[number], wake_ns) {
                self.wakes.remove(&(old_ns, number));
            }
            self.wakes.extend(wake_ns.map(|wake_ns| (wake_ns, number)));
        }
        result
    }

    /// Starts a call; others go on meanwhile.
    pub fn start(&mut self, number: usize, call: Call) {
        self.with_client(number, |client, _| client.call(call));
    }

    /// Makes a call and waits for its end.
    #[track_caller]
    pub fn call(&mut self, number: usize, call: Call) -> Outcome {
        self.start(number, call);
        self.settle();
        self.clients[number].outcome()
    }

    /// Allocates; gives the relayed address.
    #[track_caller]
    pub fn allocate(&mut self, number: usize) -> SocketAddr {
        assert_eq!(self.call(number, Call::allocate()), Outcome::Success);
        self.clients[number].relayed[0]
    }

    /// A client that has an allocation already.
    #[track_caller]
    pub fn allocated(&mut self) -> usize {
        let number = self.client();
        self.allocate(number);
        number
    }

    /// Sends a payload of the ledger from a client to a peer, or to another client's relayed address.
    pub fn send_data(&mut self, number: usize, to: SocketAddr, extra_len: usize) {
        let Some(from) = self.clients[number].relayed_for(to) else { return };
        let destination = match self.actors.get(&to) {
            Some(_) => Some(Destination { receiver: to, from, via: Via::Plain }),
            None => self.owner_of(to).map(|owner| self.destination_at(owner, from)),
        };
        let Some(destination) = destination else { return };
        let payload = self.ledger.payload(destination, extra_len);
        self.with_client(number, |client, _| client.send_data(to, &payload, 0));
    }

    /// Where a peer's payload arrives at a client.
    fn destination_at(&self, number: usize, peer: SocketAddr) -> Destination {
        let client = &self.clients[number];
        let via = client.channel_to(peer).map_or(Via::Data, Via::Channel);
        Destination { receiver: client.endpoint.address(), from: peer, via }
    }

    fn owner_of(&self, relayed: SocketAddr) -> Option<usize> {
        self.clients.iter().position(|client| client.relayed.contains(&relayed))
    }

    /// Runs until that much time has passed.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now_ns() + time.as_nanos() as u64);
    }

    pub fn run_until(&mut self, end_ns: u64) {
        while self.step(end_ns) {}
    }

    /// Runs until no client waits for anything and nothing is under way any more.
    #[track_caller]
    pub fn settle(&mut self) {
        let end_ns = self.now_ns() + MAX_SETTLE.as_nanos() as u64;
        while !self.busy.is_empty() {
            assert!(self.step(end_ns), "clients still wait: {:?}", self.busy);
        }
        while self.network.next_due().is_some_and(|due_ns| due_ns <= end_ns) && self.step(end_ns) {}
    }

    /// Jumps to the next moment at which something happens; `false` if that is after `end_ns`.
    fn step(&mut self, end_ns: u64) -> bool {
        let now = self.network.now();
        let timers = self.workers.iter().filter_map(|worker| worker.inner.timeout(now));
        let timers = timers.map(|timeout| now.mono_ns + timeout.as_nanos() as u64);
        let wakes = self.wakes.first().map(|(wake_ns, _)| *wake_ns);
        let next_ns = timers.chain(wakes).chain(self.network.next_due()).min();
        let Some(next_ns) = next_ns.filter(|next_ns| *next_ns <= end_ns) else {
            self.network.advance_to(end_ns);
            return false;
        };
        self.network.advance_to(next_ns);
        self.turn_workers();
        self.receive();
        self.wake_clients();
        true
    }

    fn turn_workers(&mut self) {
        for number in 0..self.workers.len() {
            self.turn_worker(number);
        }
    }

    /// One turn of one worker.
    pub fn turn_worker(&mut self, number: usize) {
        let now = self.network.now();
        let inner = &mut self.workers[number].inner;
        let events = inner.driver().wait(None).expect("the simulation never fails");
        let due = inner.timeout(now).is_some_and(|timeout| timeout.is_zero());
        if events > 0 || due {
            inner.turn(now, events);
            inner.driver().flush();
        }
    }

    /// Clients and peers take what has arrived.
    fn receive(&mut self) {
        for address in self.network.take_ready() {
            match self.actors.get(&address).copied() {
                Some(Actor::Client(number)) => self.receive_client(number),
                Some(Actor::Peer(number)) => self.receive_peer(number),
                None => {}
            }
        }
    }

    fn receive_client(&mut self, number: usize) {
        while let Some((from, bytes, tos)) = self.clients[number].endpoint.recv() {
            let received =
                self.with_client(number, |client, now_ns| client.receive(from, &bytes, tos, now_ns));
            match received {
                Some(Received::Data { via, from, payload, .. }) if Ledger::knows(&payload) => {
                    let receiver = self.clients[number].endpoint.address();
                    self.ledger.arrived(Destination { receiver, from, via }, &payload);
                }
                Some(other) => self.clients[number].inbox.push(other),
                None => {}
            }
        }
    }

    fn receive_peer(&mut self, number: usize) {
        while let Some((from, bytes, tos)) = self.peers[number].endpoint.recv() {
            if !Ledger::knows(&bytes) {
                self.peers[number].inbox.push((from, bytes, tos));
                continue;
            }
            let receiver = self.peers[number].endpoint.address();
            self.ledger.arrived(Destination { receiver, from, via: Via::Plain }, &bytes);
            if let Some(owner) = self.owner_of(from).filter(|_| self.peers[number].answers) {
                let answer = self.ledger.payload(self.destination_at(owner, receiver), bytes.len() % 97);
                self.peers[number].endpoint.send_to(from, &answer, 0);
            }
        }
    }

    fn wake_clients(&mut self) {
        let now_ns = self.now_ns();
        while let Some((_, number)) = self.wakes.first().copied().filter(|(wake_ns, _)| *wake_ns <= now_ns) {
            self.with_client(number, |_, _| {});
        }
    }

    /// Sends an order to every worker.
    pub fn tell(&self, order: Order) {
        for worker in &self.workers {
            worker.handle.send(order).expect("the worker takes orders");
        }
    }

    /// Every client that has an allocation deletes it.
    pub fn delete_all(&mut self) {
        for number in 0..self.clients.len() {
            if !self.clients[number].relayed.is_empty() {
                // What comes due meanwhile must not be refreshed any more.
                self.clients[number].upkeep = false;
                self.start(number, Call::refresh(0));
            }
        }
        self.settle();
    }

    /// Allocations created, and ended, on all workers.
    pub fn created_and_ended(&self) -> (u64, u64) {
        let counts = self.workers.iter().map(|worker| worker.inner.server().counts());
        counts.fold((0, 0), |(created, ended), counts| {
            (created + counts.allocations_created, ended + counts.allocations_ended)
        })
    }

    /// Calls that did not succeed: client, method, outcome.
    pub fn failures(&self) -> Vec<(usize, u16, Outcome)> {
        let by_client = self.clients.iter().enumerate();
        let failures = by_client.map(|(number, client)| (number, client.failures()));
        failures.flat_map(|(n, list)| list.into_iter().map(move |(method, how)| (n, method, how))).collect()
    }

    /// Allocations alive on each worker.
    pub fn allocations(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.inner.server().table_counts().allocations).collect()
    }

    /// Ports, sockets and quotas agree with that many relayed addresses.
    #[track_caller]
    pub fn assert_holds(&self, allocations: usize) {
        assert_eq!(self.allocations().iter().sum::<usize>(), allocations);
        assert_eq!(self.network.open_ports(), allocations, "sockets");
        assert_eq!(self.shared.ports_taken(), allocations + self.shared.reservations(), "ports");
        assert_eq!(self.shared.quotas.used() as usize, allocations, "quotas");
    }

    /// Nothing is left of anybody, on any worker.
    #[track_caller]
    pub fn assert_nothing_left(&mut self) {
        for worker in &mut self.workers {
            assert_eq!(worker.inner.server().table_counts(), Default::default());
            assert_eq!(worker.inner.driver().open_ports(), 0);
        }
        self.assert_holds(0);
        assert_eq!(self.shared.reservations(), 0, "reservations");
        assert_eq!(self.shared.quotas.users(), 0, "users in the quotas");
        assert_eq!(self.shared.directory_len(), 0, "directory");
    }
}
