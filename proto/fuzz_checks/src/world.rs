//! A driver without sockets, around two workers and a handful of clients, in virtual time.
//!
//! Each thing that goes in is followed by checks of everything that came out: one answer at most,
//! well-formed, small and signed; data exactly where the [`Shadow`] says it may go.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use turnpike_proto::addr::{Family, FiveTuple, PeerAddr, RelayedAddr, Transport};
use turnpike_proto::auth::Key;
use turnpike_proto::limits::{RESERVATION_LIFETIME_SECS, SECOND_NS};
use turnpike_proto::migrate::Scope;
use turnpike_proto::settings::{RelayIp, Settings};
use turnpike_proto::shared::Shared;
use turnpike_proto::shared::plane::PlainMemory;
use turnpike_proto::wire::{Class, MessageBuilder, TransactionId, attr, method};
use turnpike_proto::{
    Egress, Forward, IcmpError, Input, Now, OffloadBinding, Origin, Output, Plane, PortError, Reason,
    Received, RelaySocket, Server, TableCounts, Transmit, WorkerId,
};

use super::choices::{self, PORTS};
use super::expect::{self, Promised, ToClient, ToPeer};
use super::kernel::Kernel;
use super::people::{Client, REALM, STATIC_USERS, User, clients, is_signed, users};
use super::reference::{self, Stun};
use super::shadow::{Half, Shadow};

/// Peers: reachable ones, ours, and ones that no policy allows.
pub const PEERS: [&str; 12] = [
    "198.51.100.7:4000",
    "198.51.100.7:4001",
    "198.51.100.8:5000",
    "[2001:db8:ffff::7]:4000",
    "[2001:db8:ffff::8]:4000",
    "10.0.0.1:80",
    "127.0.0.1:3478",
    "192.0.2.1:3478",
    "198.51.100.7:0",
    "0.0.0.0:9",
    "[::ffff:198.51.100.7]:4000",
    "[64:ff9b::a00:1]:80",
];
/// Slots of allocations and of bindings in the kernel plane: fewer than are wanted.
const SLOTS: (usize, usize) = (3, 6);
/// Outputs that one input may cause: all allocations here end with three each, and all slots are given back.
const MAX_OUTPUTS_PER_INPUT: usize = 32 + SLOTS.1;
/// Largest answer without integrity, bytes (Q4).
const MAX_UNAUTHENTICATED_ANSWER: usize = 160;
/// Largest answer of all, bytes.
const MAX_ANSWER: usize = 400;
const START_UNIX_SECS: u64 = 1_700_000_000;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// MD5 key and MESSAGE-INTEGRITY.
    Md5,
    /// SHA-256 key, PASSWORD-ALGORITHM(S) and MESSAGE-INTEGRITY-SHA256.
    Sha256,
    /// Somebody else's password.
    Wrong,
    /// Another user, who is known, too.
    Other,
}

/// What the machine underneath does when ports are opened and closed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// Ports whose number modulo 8 is in this set belong to somebody else.
    pub occupied: u8,
    /// Out of descriptors.
    pub exhausted: bool,
    /// Leave what is to be opened or closed waiting.
    pub hold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Closing,
    /// To be closed before it was opened.
    Unopened,
}

/// A datagram that left the server.
#[derive(Debug)]
struct Sent {
    egress: Egress,
    to: SocketAddr,
    payload: Vec<u8>,
    tos: u8,
    dont_fragment: bool,
}

/// Everything.
pub struct World {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The machine underneath.
    pub host: Host,
    /// What fills the kernel's maps.
    pub kernel: Kernel,
    /// Datagrams of clients that have an allocation come to the other worker.
    pub astray: bool,
    /// What the clients hold.
    pub shadow: Shadow,
    relays: Vec<RelayIp>,
    workers: Vec<Server>,
    users: Vec<User>,
    clients: Vec<Client>,
    now: Now,
    sockets: HashMap<(usize, RelaySocket), (RelayedAddr, State)>,
    /// Bound for the owners of RESERVATION-TOKENs, and about to be.
    reserved: HashSet<RelayedAddr>,
    reserving: HashMap<(usize, RelaySocket), RelayedAddr>,
    /// The request that is being answered.
    asked: Vec<u8>,
    /// The Allocate of each client whose ports were asked for last: it may be answered late.
    opening: HashMap<usize, Vec<u8>>,
    /// Ports were asked for.
    opens: bool,
    sent: Vec<Sent>,
    /// RESERVATION-TOKENs with user and end, in the order in which they were given.
    tokens: Vec<([u8; 8], Vec<u8>, u64)>,
    limited: bool,
    /// What is opened now was asked for earlier.
    late_opening: bool,
}

impl World {
    /// The operator's choices are the bits of `options`.
    pub fn new(options: u8) -> Self {
        let bit = |n: u8| options >> n & 1 == 1;
        let relays = choices::relays(bit);
        let memory = PlainMemory::new(SLOTS.0, SLOTS.1);
        let shared = Shared::new(Settings {
            relays: choices::relay_ips(&relays),
            plane: Some(Plane::new(Arc::<PlainMemory>::clone(&memory))),
            ..choices::settings(bit)
        });
        let workers =
            (0..2).map(|n| Server::new(Arc::clone(&shared), WorkerId(n), [n as u8 + 1; 32])).collect();
        let mut world = Self {
            shared,
            host: Host::default(),
            kernel: Kernel::new(memory),
            astray: false,
            shadow: Shadow::default(),
            relays,
            workers,
            users: users(),
            clients: clients(bit(4)),
            now: Now { mono_ns: 5 * SECOND_NS, unix_secs: START_UNIX_SECS },
            sockets: HashMap::new(),
            reserved: HashSet::new(),
            reserving: HashMap::new(),
            asked: Vec::new(),
            opening: HashMap::new(),
            opens: false,
            sent: Vec::new(),
            tokens: Vec::new(),
            limited: bit(0),
            late_opening: false,
        };
        (0..world.clients.len()).for_each(|client| world.challenge(client));
        world
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// One of the peers, or of the relayed addresses as clients see them.
    pub fn peer(&self, number: usize) -> SocketAddr {
        let mut relayed: Vec<_> =
            self.shadow.iter().flat_map(|(_, a)| a.halves.iter().flatten().map(|half| half.public)).collect();
        relayed.sort_unstable();
        let fixed = PEERS.map(|text| text.parse().expect("an address"));
        fixed.iter().chain(&relayed).copied().cycle().nth(number).expect("an endless list")
    }

    /// The last RESERVATION-TOKEN that anybody was given.
    pub fn token(&self) -> [u8; 8] {
        self.tokens.last().map_or([0; 8], |(token, ..)| *token)
    }

    /// A new transaction id for a client; `repeat` gives its last one again.
    pub fn transaction(&mut self, client: usize, repeat: bool) -> TransactionId {
        let from = &mut self.clients[client];
        from.transactions = from.transactions.wrapping_add(u8::from(!repeat));
        TransactionId([0xC0, client as u8, from.transactions, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    }

    /// Adds the client's credentials and signs.
    pub fn sign(&self, client: usize, style: Style, builder: MessageBuilder) -> Vec<u8> {
        let from = &self.clients[client];
        let user = match style {
            Style::Other => &self.users[(from.user + 1) % STATIC_USERS.len()],
            _ => &self.users[from.user],
        };
        let signed = builder
            .attribute(attr::USERNAME, user.name.as_bytes())
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &from.nonce);
        match style {
            Style::Sha256 => signed
                .attribute(attr::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
                .attribute(attr::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
                .finish_signed(&user.sha256),
            Style::Wrong => signed.finish_signed(&Key::from_md5_bytes([1; 16])),
            Style::Md5 | Style::Other => signed.finish_signed(&user.md5),
        }
    }

    /// A request without credentials: the answer brings a nonce.
    pub fn challenge(&mut self, client: usize) {
        let id = self.transaction(client, false);
        let transport = [17, 0, 0, 0];
        let request = MessageBuilder::request(method::ALLOCATE, id);
        self.client_sends(client, &request.attribute(attr::REQUESTED_TRANSPORT, &transport).finish(), 0);
        assert!(!self.clients[client].nonce.is_empty(), "401 carries a nonce");
    }

    /// The client's last datagram comes again.
    pub fn repeat(&mut self, client: usize) {
        let bytes = self.clients[client].last.clone();
        self.client_sends(client, &bytes, 0);
    }

    /// A datagram comes from a client.
    pub fn client_sends(&mut self, client: usize, bytes: &[u8], tos: u8) {
        self.shadow.expire(self.now.mono_ns);
        let (path, worker) = (self.clients[client].path, self.clients[client].worker);
        self.clients[client].last = bytes.to_vec();
        let message = reference::parse(bytes).ok();
        self.asked = bytes.to_vec();
        self.opens = false;
        let expected = self.promised(client).and_then(|it| it.to_peer(bytes, message.as_ref(), tos));
        // A stream's connection is one worker's.
        let is_datagram = !path.five_tuple.transport.is_stream();
        let is_astray = self.astray && is_datagram && self.shadow.get(client).is_some();
        let mut at = if is_astray { 1 - worker } else { worker };
        let received = Received { origin: Origin::Client(path), bytes, tos };
        let mut forward = self.workers[at].forward(self.now, &received);
        if let Forward::Elsewhere(owner) = forward {
            assert!(is_astray && owner.index() == worker, "only its own worker has it");
            at = worker;
            forward = self.workers[at].forward(self.now, &received);
        }
        match forward {
            Forward::Transmit(transmit) => self.note_forwarded(&transmit, bytes),
            Forward::Slow => {
                self.workers[at].handle_input(self.now, Input::Received(received));
                self.settle(at);
            }
            Forward::Drop(_) => {}
            // Nobody here waits: the core has to drop it.
            Forward::Wait(_) => self.workers[at].handle_input(self.now, Input::Received(received)),
            Forward::Elsewhere(_) => panic!("its owner knows it"),
        }
        if self.opens {
            self.opening.insert(client, bytes.to_vec());
        }
        let (to_clients, to_peers): (Vec<_>, Vec<_>) =
            self.take_sent().into_iter().partition(|sent| matches!(sent.egress, Egress::Client { .. }));
        self.check_to_peers(worker, &to_peers, expected);
        self.check_answers(client, message.as_ref(), &to_clients);
        self.check_kernel();
    }

    /// A datagram comes from a peer to one of a client's relayed addresses.
    pub fn peer_sends(&mut self, client: usize, peer: SocketAddr, bytes: &[u8], tos: u8) {
        self.shadow.expire(self.now.mono_ns);
        let Some((worker, relay)) = self.open_socket(client, Family::of(&peer.ip())) else { return };
        let expected = self.promised(client).and_then(|it| it.to_client(peer, bytes, tos));
        let origin = Origin::Peer { relay, peer: PeerAddr(peer) };
        let received = Received { origin, bytes, tos };
        match self.workers[worker].forward(self.now, &received) {
            Forward::Transmit(transmit) => self.note_forwarded(&transmit, bytes),
            Forward::Slow => self.input(worker, Input::Received(received)),
            Forward::Drop(_) | Forward::Elsewhere(_) => {}
            Forward::Wait(_) => panic!("peers don't"),
        }
        self.check_to_client(client, expected);
    }

    /// An ICMP error comes back to one of a client's relayed addresses.
    pub fn icmp(&mut self, client: usize, peer: SocketAddr, kind: [u8; 2], data: u32) {
        self.shadow.expire(self.now.mono_ns);
        let Some((worker, relay)) = self.open_socket(client, Family::of(&peer.ip())) else { return };
        let [icmp_type, icmp_code] = kind;
        // The driver gives the MTU of "too big" errors, else 0.
        let too_big = matches!((peer.is_ipv4(), icmp_type, icmp_code), (true, 3, 4) | (false, 2, _));
        let data = if too_big { data } else { 0 };
        let expected = self.promised(client).and_then(|it| it.icmp(peer, kind, data));
        let error = IcmpError { relay, peer: PeerAddr(peer), icmp_type, icmp_code, data };
        self.input(worker, Input::PeerIcmp(error));
        self.check_to_client(client, expected);
    }

    /// Time passes; without `ticks` nobody wakes the workers.
    pub fn sleep(&mut self, nanos: u64, ticks: bool) {
        let end = self.now.mono_ns + nanos;
        while let Some((due, worker)) = self.next_deadline().filter(|(due, _)| ticks && *due <= end) {
            self.set_time(due.max(self.now.mono_ns));
            self.input(worker, Input::Tick);
            let again = self.workers[worker].poll_timeout();
            assert!(again.is_none_or(|(due, _)| due > self.now.mono_ns), "a tick does what is due");
        }
        self.set_time(end);
        assert!(self.take_sent().is_empty(), "time alone sends nothing");
    }

    fn next_deadline(&self) -> Option<(u64, usize)> {
        let of = |worker: usize| Some((self.workers[worker].poll_timeout()?.0, worker));
        (0..self.workers.len()).filter_map(of).min()
    }

    fn set_time(&mut self, mono_ns: u64) {
        self.now = Now { mono_ns, unix_secs: START_UNIX_SECS + mono_ns / SECOND_NS };
    }

    /// The operator changes the policy.
    pub fn change_policy(&mut self, strict: bool) {
        self.shadow.expire(self.now.mono_ns);
        self.shared.set_network(&choices::relay_ips(&self.relays), &choices::peers(strict));
        (0..self.workers.len()).for_each(|worker| self.input(worker, Input::PolicyChanged));
        self.shadow.revoke(&self.shared);
    }

    /// The operator lets no new allocations in, or does again.
    pub fn drain(&mut self, on: bool) {
        (0..self.workers.len()).for_each(|worker| self.input(worker, Input::Drain(on)));
    }

    /// The state of the server at its end, as records, the memory that the kernel shares, and when that was.
    pub fn into_records(mut self) -> (Vec<u8>, Arc<PlainMemory>, Now) {
        let mut records = self.shared.export(self.now).to_vec();
        let parts = self.workers.iter_mut().flat_map(|worker| worker.export_all(self.now, Scope::All));
        parts.for_each(|part| records.extend_from_slice(&part));
        if let Some(plane) = self.shared.plane() {
            plane.give_away();
        }
        (records, Arc::clone(self.kernel.memory()), self.now)
    }

    /// The operator stops the server.
    pub fn shut_down(&mut self) {
        (0..self.workers.len()).for_each(|worker| self.input(worker, Input::Shutdown));
        self.shadow.clear();
    }

    /// The operator ends a client's allocation.
    pub fn disconnect(&mut self, client: usize) {
        self.shadow.expire(self.now.mono_ns);
        let (five_tuple, worker) = (self.five_tuple(client), self.clients[client].worker);
        self.input(worker, Input::Tick);
        let (views, _) = self.workers[worker].inspect(None, usize::MAX);
        let view = views.iter().find(|view| view.five_tuple == five_tuple);
        assert_eq!(view.is_some(), self.shadow.get(client).is_some(), "what is held is shown");
        let Some(view) = view else { return };
        self.input(worker, Input::Disconnect { allocation: view.id });
        self.shadow.remove(client);
        self.check_kernel();
    }

    /// A client over a stream goes away, and comes back by another connection from the same port.
    pub fn hang_up(&mut self, client: usize) {
        let (path, worker) = (self.clients[client].path, self.clients[client].worker);
        if path.five_tuple.transport.is_stream() {
            self.input(worker, Input::ClientGone(path));
            self.shadow.remove(client);
            self.clients[client].path.socket.generation += 1;
            self.check_kernel();
        }
    }

    /// The operator changes a client's bandwidth limit, if there are limits at all.
    pub fn limit(&mut self, client: usize, bits_per_sec: u64) {
        let (five_tuple, worker) = (self.five_tuple(client), self.clients[client].worker);
        let (views, _) = self.workers[worker].inspect(None, usize::MAX);
        let view = views.iter().find(|view| self.limited && view.five_tuple == five_tuple);
        if let Some(allocation) = view.map(|view| view.id) {
            self.input(worker, Input::SetRate { allocation, bits_per_sec });
        }
    }

    /// The kernel side answers all it owes.
    pub fn release_kernel(&mut self) {
        self.kernel.hold = false;
        (0..self.workers.len()).for_each(|worker| self.settle(worker));
        self.check_kernel();
    }

    /// The kernel side answers something that may not be due.
    pub fn odd_kernel(&mut self, pick: usize, why_not: usize) {
        if let Some((worker, answer)) = self.kernel.odd_answer(pick, why_not) {
            self.input(worker, answer);
        }
        self.check_kernel();
    }

    fn check_kernel(&mut self) {
        self.shadow.expire(self.now.mono_ns);
        let ends_ns = |binding: &OffloadBinding| {
            let client = self.clients.iter().position(|client| {
                let five_tuple = client.path.five_tuple;
                five_tuple.client.0 == binding.client && five_tuple.transport == Transport::Udp
            });
            let allocation = self.shadow.get(client.expect("a client's"))?;
            let half = allocation.half(Family::of(&binding.peer.ip()))?;
            let (peer, ends_ns) = allocation.channels.get(&binding.channel)?;
            let is_it = (half.local, *peer) == (binding.relayed, binding.peer);
            is_it.then_some(half.ends_ns.min(*ends_ns))
        };
        let is_open = |worker: usize, relayed: SocketAddr| {
            let mut sockets = self.sockets.iter().filter(|((w, _), _)| *w == worker);
            sockets.any(|(_, (address, state))| (address.0, *state) == (relayed, State::Open))
        };
        self.kernel.check(self.now.mono_ns, ends_ns, is_open);
    }

    /// Opens and closes what was held back.
    pub fn release_held(&mut self) {
        let hold = std::mem::take(&mut self.host.hold);
        self.late_opening = true;
        (0..self.workers.len()).for_each(|worker| self.settle(worker));
        for sent in self.take_sent() {
            let client = self.client_of(&sent);
            self.check_answer(client, &sent.payload);
        }
        self.host.hold = hold;
        self.late_opening = false;
    }

    /// The workers' tables hold exactly what the clients were promised.
    pub fn check_counts(&mut self) {
        self.shadow.expire(self.now.mono_ns);
        (0..self.workers.len()).for_each(|worker| self.input(worker, Input::Tick));
        if self.sockets.values().any(|(_, state)| *state != State::Open) || !self.kernel.is_quiet() {
            return;
        }
        for worker in 0..self.workers.len() {
            let counts = self.workers[worker].table_counts();
            let held: Vec<_> =
                self.shadow.iter().filter(|(client, _)| self.clients[*client].worker == worker).collect();
            let sum =
                |count: fn(&super::shadow::Allocation) -> usize| held.iter().map(|(_, a)| count(a)).sum();
            let expected = TableCounts {
                allocations: held.len(),
                permissions: sum(|a| a.permissions.len()),
                channels: sum(|a| a.channels.len()),
                connections: 0,
                relay_sockets: sum(|a| a.halves.iter().flatten().count()),
                timers: counts.timers,
                offloaded: self.kernel.told().iter().filter(|(w, _)| *w == worker).count(),
                ending: 0,
            };
            assert_eq!(counts, expected, "worker {worker}");
            assert!(counts.timers >= counts.permissions + counts.channels + counts.relay_sockets);
            assert_eq!(self.sockets.keys().filter(|(w, _)| *w == worker).count(), counts.relay_sockets);
        }
        assert_eq!(self.shared.quotas.used() as usize, self.shadow.iter().count());
        assert_eq!(self.shared.ports_taken(), self.sockets.len() + self.shared.reservations());
        let is_datagram = |client: usize| !self.five_tuple(client).transport.is_stream();
        let by_datagrams = self.shadow.iter().filter(|(client, _)| is_datagram(*client)).count();
        assert_eq!(self.shared.directory_len(), by_datagrams);
        let taken = self.shared.plane().expect("there is one").taken();
        assert_eq!(taken.bindings, self.kernel.told().len());
        self.check_kernel();
    }

    /// Everybody goes away: nothing is left of anybody (A14, Q8).
    pub fn finish(mut self) {
        self.host = Host::default();
        self.release_kernel();
        self.release_held();
        self.check_counts();
        self.sleep(2 * 3600 * SECOND_NS, true);
        self.shadow.expire(self.now.mono_ns);
        assert_eq!(self.shadow.iter().count(), 0);
        for worker in &self.workers {
            assert_eq!(worker.table_counts(), TableCounts::default());
            assert_eq!(worker.counts().allocations_created, worker.counts().allocations_ended);
        }
        assert!(self.sockets.is_empty() && self.reserved.is_empty());
        assert_eq!((self.shared.ports_taken(), self.shared.reservations()), (0, 0));
        assert_eq!((self.shared.quotas.used(), self.shared.quotas.users()), (0, 0));
        assert_eq!(self.shared.directory_len(), 0);
        assert_eq!(self.shared.plane().expect("there is one").taken(), Default::default());
    }

    fn five_tuple(&self, client: usize) -> FiveTuple {
        self.clients[client].path.five_tuple
    }

    /// A peer's address as our sockets see it.
    pub(super) fn to_local(&self, peer: SocketAddr) -> SocketAddr {
        expect::to_local(&self.relays, peer)
    }

    /// What a client with an allocation may have.
    fn promised(&self, client: usize) -> Option<Promised<'_>> {
        let (allocation, five_tuple) = (self.shadow.get(client)?, self.five_tuple(client));
        Some(Promised { allocation, five_tuple, shared: &self.shared, relays: &self.relays })
    }

    fn input(&mut self, worker: usize, input: Input<'_>) {
        self.workers[worker].handle_input(self.now, input);
        self.settle(worker);
    }

    /// Does what the worker wants done, as far as the host lets us.
    fn settle(&mut self, worker: usize) {
        loop {
            let mut outputs = 0;
            while let Some(output) = self.workers[worker].poll_output() {
                outputs += 1;
                assert!(outputs <= MAX_OUTPUTS_PER_INPUT, "outputs are bounded");
                self.handle_output(worker, output);
            }
            let waiting = self
                .sockets
                .iter()
                .filter(|((w, _), (_, state))| *w == worker && *state != State::Open && !self.host.hold);
            // In the order of the names: hash maps have none, and a find has to be repeatable.
            let next = waiting.map(|((_, relay), (address, state))| (relay.index, *relay, *address, *state));
            let outcome = match next.min_by_key(|(index, ..)| *index) {
                Some((_, relay, address, state)) => self.host_outcome(worker, relay, address, state),
                None => match self.kernel.answer(worker) {
                    Some(answer) => answer,
                    // What concerns many is done with ticks, at once.
                    None if self.has_more(worker) => Input::Tick,
                    None => return,
                },
            };
            self.workers[worker].handle_input(self.now, outcome);
        }
    }

    fn has_more(&self, worker: usize) -> bool {
        self.workers[worker].poll_timeout().is_some_and(|(_, why)| why == Reason::Sweep)
    }

    fn host_outcome(
        &mut self,
        worker: usize,
        relay: RelaySocket,
        address: RelayedAddr,
        state: State,
    ) -> Input<'static> {
        let name = (worker, relay);
        if state == State::Closing {
            self.sockets.remove(&name);
            return Input::PortClosed(relay);
        }
        let reserve = self.reserving.remove(&name);
        let is_kept = self.reserved.remove(&address);
        let is_others = |address: RelayedAddr| self.host.occupied >> (address.port() % 8) & 1 == 1;
        let failure = match reserve {
            _ if self.host.exhausted => Some(PortError::Exhausted),
            Some(reserve) if is_others(reserve) => Some(PortError::ReserveInUse),
            _ if is_others(address) && !is_kept => Some(PortError::InUse),
            _ => None,
        };
        if let Some(reserve) = reserve
            && matches!(failure, None | Some(PortError::InUse))
        {
            assert!(self.reserved.insert(reserve), "{reserve} is reserved twice");
        }
        match (state, failure) {
            // Nobody waits for it any more; closing it is the next thing to be done, opened or not.
            (State::Unopened, _) => drop(self.sockets.insert(name, (address, State::Closing))),
            (_, None) => drop(self.sockets.insert(name, (address, State::Open))),
            (_, Some(_)) => drop(self.sockets.remove(&name)),
        }
        match failure {
            Some(failure) => Input::PortFailed(relay, failure),
            None => Input::PortOpened(relay),
        }
    }

    fn handle_output(&mut self, worker: usize, output: Output) {
        match output {
            Output::Transmit { egress, to, payload, tos, dont_fragment } => {
                assert!(
                    !payload.is_empty() || matches!(egress, Egress::Relay(_)),
                    "an answer says something"
                );
                self.sent.push(Sent { egress, to, payload, tos, dont_fragment });
            }
            Output::ReleasePort(port) => {
                // Perhaps before its pair was opened: what is wanted is done in order.
                self.reserving.retain(|_, reserve| *reserve != port.address);
                self.reserved.remove(&port.address);
            }
            Output::OpenPort { relay, address, reserve } => {
                self.reserving.extend(reserve.map(|reserve| ((worker, relay), reserve)));
                self.opens = true;
                assert!(PORTS.contains(&address.port()));
                assert!(self.relays.iter().any(|relay| relay.local == address.ip()));
                let twice = self.sockets.values().any(|(other, _)| *other == address);
                assert!(!twice, "{address} is given out while a socket still has it");
                assert!(self.sockets.insert((worker, relay), (address, State::Opening)).is_none());
            }
            Output::ClosePort(relay) => {
                let socket = self.sockets.get_mut(&(worker, relay)).expect("only an open port is closed");
                socket.1 = match socket.1 {
                    State::Opening => State::Unopened,
                    State::Open => State::Closing,
                    State::Closing | State::Unopened => panic!("{relay:?} is closed twice"),
                };
            }
            Output::Offload(binding) => self.kernel.offload(worker, *binding),
            Output::Withdraw(name) => self.kernel.withdraw(worker, name),
            Output::Created(view) => assert!(!view.relayed.is_empty()),
            Output::Ended(record) => assert!(!record.relayed.is_empty()),
            // The rest is for logs.
            _ => {}
        }
    }

    fn note_forwarded(&mut self, transmit: &Transmit, bytes: &[u8]) {
        let payload = transmit.assemble(bytes);
        let Transmit { egress, to, tos, dont_fragment, .. } = *transmit;
        self.sent.push(Sent { egress, to, payload, tos, dont_fragment });
    }

    fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    fn open_socket(&self, client: usize, family: Family) -> Option<(usize, RelaySocket)> {
        let worker = self.clients[client].worker;
        let local = self.shadow.get(client)?.half(family)?.local;
        let found = self.sockets.iter().find(|((w, _), (address, _))| *w == worker && address.0 == local);
        found.map(|(name, _)| *name)
    }

    fn client_of(&self, sent: &Sent) -> usize {
        let Egress::Client { socket, source } = sent.egress else { panic!("to a peer: {sent:?}") };
        let client = socket.index as usize;
        let five_tuple = self.five_tuple(client);
        assert_eq!((sent.to, source), (five_tuple.client.0, five_tuple.server));
        assert_eq!(socket, self.clients[client].path.socket, "its connection, not an earlier one");
        client
    }

    fn check_to_peers(&self, worker: usize, sent: &[Sent], expected: Option<ToPeer<'_>>) {
        let Some(expected) = expected else { return assert!(sent.is_empty(), "nobody may be sent {sent:?}") };
        let [sent] = sent else { return assert!(sent.is_empty() && self.limited, "one datagram was due") };
        let Egress::Relay(relay) = sent.egress else { panic!("not from a relayed address") };
        let (address, state) = self.sockets[&(worker, relay)];
        assert_eq!((address.0, state), (expected.from, State::Open));
        assert_eq!((sent.to, &sent.payload[..]), (expected.to, expected.data));
        assert_eq!((sent.tos, sent.dont_fragment), (expected.tos, expected.dont_fragment));
    }

    fn check_to_client(&mut self, client: usize, expected: Option<ToClient<'_>>) {
        let sent = self.take_sent();
        let Some(expected) = expected else { return assert!(sent.is_empty(), "the client gets {sent:?}") };
        let [sent] = &sent[..] else { return assert!(sent.is_empty() && self.limited, "one was due") };
        assert_eq!(self.client_of(sent), client);
        assert_eq!((sent.tos, sent.dont_fragment), (expected.tos(), false));
        expected.check(&sent.payload);
    }

    /// One request, at most one answer, to its sender; anything else has none (RFC 8489 s. 6.3).
    fn check_answers(&mut self, client: usize, message: Option<&Stun<'_>>, sent: &[Sent]) {
        let Some(request) = message.filter(|message| message.class == Class::Request) else {
            return assert!(sent.is_empty(), "only requests are answered");
        };
        assert!(sent.len() <= 1);
        for sent in sent {
            assert_eq!(self.client_of(sent), client);
            let answer = reference::parse(&sent.payload).expect("answers are well-formed");
            // The same Allocate again gets the first one's answer, whatever else it says by now.
            let first = request.method != method::ALLOCATE || answer.class == Class::Error;
            assert!(!first || answer.fingerprint == request.fingerprint);
            self.check_answer(client, &sent.payload);
        }
    }

    fn check_answer(&mut self, client: usize, bytes: &[u8]) {
        let answer = reference::parse(bytes).expect("answers are well-formed");
        assert!(answer.clean_padding && bytes.len() <= MAX_ANSWER);
        assert!(answer.integrity || bytes.len() <= MAX_UNAUTHENTICATED_ANSWER);
        let request = if self.late_opening { self.opening[&client].clone() } else { self.asked.clone() };
        let request = reference::parse(&request).expect("what is answered is well-formed");
        assert_eq!((answer.method, answer.transaction), (request.method, request.transaction));
        if answer.integrity {
            assert!(self.users.iter().any(|user| is_signed(bytes, user)), "signed with somebody's key");
        }
        match (answer.class, answer.code()) {
            (Class::Success, None) => self.note_success(client, &request, &answer),
            (Class::Error, Some(401 | 438)) => {
                assert!(!answer.integrity);
                assert_eq!(answer.get(attr::REALM), Some(REALM.as_bytes()));
                self.clients[client].nonce = answer.get(attr::NONCE).expect("a fresh nonce").to_vec();
            }
            (Class::Error, Some(400 | 420)) => {}
            (Class::Error, Some(_)) => assert!(answer.integrity),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// What a success promises.
    fn note_success(&mut self, client: usize, request: &Stun<'_>, answer: &Stun<'_>) {
        let now_ns = self.now.mono_ns;
        assert_eq!(answer.integrity, answer.method != method::BINDING);
        let seconds = |value: &[u8]| u32::from_be_bytes(value.try_into().expect("four bytes"));
        let lifetime = answer.get(attr::LIFETIME).map(seconds);
        let ends_ns = now_ns + u64::from(lifetime.unwrap_or(0)) * SECOND_NS;
        let mapped = answer.addresses(attr::XOR_MAPPED_ADDRESS);
        let peers = request.addresses(attr::XOR_PEER_ADDRESS);
        if let Some(allocation) = self.shadow.get(client).filter(|_| answer.integrity) {
            // RFC 8656 s. 5; a retransmitted deletion may meet a younger allocation, and does nothing to it.
            let owner = request.get(attr::USERNAME).is_none_or(|user| user == allocation.owner);
            assert!(owner || self.shadow.was_deletion(client, answer.transaction), "441 for another user");
        }
        match answer.method {
            method::BINDING => assert_eq!(mapped, [self.five_tuple(client).client.0]),
            method::ALLOCATE => {
                assert_eq!(mapped, [self.five_tuple(client).client.0]);
                assert!(lifetime.is_some_and(|lifetime| (600..=3600).contains(&lifetime)));
                self.note_allocation(client, request, answer, ends_ns);
            }
            method::REFRESH => {
                let only = request.get(attr::REQUESTED_ADDRESS_FAMILY);
                let only = only.and_then(|value| Family::from_wire(value[0]));
                match lifetime.expect("Refresh answers LIFETIME") {
                    0 => self.shadow.delete(client, answer.transaction, only, now_ns),
                    600..=3600 => self.shadow.refresh(client, only, ends_ns),
                    other => panic!("LIFETIME {other}"),
                }
            }
            method::CREATE_PERMISSION => {
                assert!(!peers.is_empty(), "400 without a peer");
                for peer in peers {
                    let ip = peer.ip();
                    let own = self.relays.iter().find(|relay| relay.external == Some(ip));
                    self.shadow.permit(client, own.map_or(ip, |relay| relay.local), now_ns);
                }
            }
            method::CHANNEL_BIND => {
                let number = request.get(attr::CHANNEL_NUMBER).expect("400 without a number");
                let number = u16::from_be_bytes([number[0], number[1]]);
                self.shadow.bind(client, number, self.to_local(peers[0]), now_ns);
            }
            other => panic!("method {other} can't succeed"),
        }
    }

    fn note_allocation(&mut self, client: usize, request: &Stun<'_>, answer: &Stun<'_>, ends_ns: u64) {
        let owner = request.get(attr::USERNAME).unwrap_or_default();
        let relayed = answer.addresses(attr::XOR_RELAYED_ADDRESS);
        let halves: Vec<_> = relayed
            .iter()
            .map(|public| Half { local: self.to_local(*public), public: *public, ends_ns })
            .collect();
        for half in &halves {
            let socket = self.sockets.iter().find(|(_, (address, _))| address.0 == half.local);
            let ((worker, _), (_, state)) = socket.expect("a relayed address has its socket");
            assert_eq!((*worker, *state), (self.clients[client].worker, State::Open));
        }
        if !self.shadow.create(client, owner, &halves) {
            let held = self.shadow.get(client).expect("refused, so it exists");
            let same = held.halves.iter().flatten().map(|half| half.public).eq(relayed);
            return assert!(same, "the same Allocate gets the same answer (RFC 8489 s. 6.3.1)");
        }
        if let Some(token) = request.get(attr::RESERVATION_TOKEN) {
            // RFC 8656 s. 7.2: known, in time, once, and for its user only (conformance A4, Q9).
            let found = self.tokens.iter().position(|(known, ..)| known == token).expect("508 for others");
            let (_, user, ends_ns) = self.tokens.remove(found);
            assert_eq!(user, owner);
            // Held ports are asked for in time, and opened when the host likes.
            assert!(ends_ns > self.now.mono_ns || self.late_opening, "508 after its end");
        }
        if let Some(token) = answer.get(attr::RESERVATION_TOKEN) {
            let ends_ns = self.now.mono_ns + u64::from(RESERVATION_LIFETIME_SECS) * SECOND_NS;
            let token = token.try_into().expect("eight bytes");
            self.tokens.push((token, owner.to_vec(), ends_ns));
        }
    }
}
