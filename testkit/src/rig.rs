//! A laboratory for the core: workers, virtual time, a driver made of a hash map, and clients that
//! know how to authenticate.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnpike_proto::addr::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, Transport};
use turnpike_proto::auth::{Credentials, Key};
use turnpike_proto::policy::PeerRules;
use turnpike_proto::settings::{RelayIp, RelayIps, ServerConfig, Settings};
use turnpike_proto::shared::Shared;
use turnpike_proto::shared::plane::PlainMemory;
use turnpike_proto::stats::AllocationRecord;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, channel, method};
use turnpike_proto::{
    AllocationView, ClientPath, ClientSocket, Egress, Forward, IcmpError, Input, Now, OffloadBinding, Origin,
    Output, Plane, PortError, Reason, Received, RefusedRequest, RelaySocket, Server, SlotName, Verdict,
    WorkerId,
};

pub use crate::REALM;

/// Where the server listens.
pub const SERVER_V4: &str = "192.0.2.1:3478";
/// Its IPv6 listener.
pub const SERVER_V6: &str = "[2001:db8::1]:3478";
/// A peer.
pub const PEER: &str = "198.51.100.7:4000";
/// An IPv6 peer.
pub const PEER_V6: &str = "[2001:db8:ffff::7]:4000";
/// A secret of time-limited credentials.
pub const SECRET: &str = "north";
/// The calendar when a laboratory opens, seconds since 1970.
pub const START_UNIX_SECS: u64 = 1_700_000_000;

/// An address, as text.
pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// What the operator of the laboratory's server has set.
pub struct Setup {
    /// What the core takes as it is.
    pub config: ServerConfig,
    /// Addresses to relay with.
    pub relays: Vec<RelayIp>,
    /// First and last relayed port.
    pub ports: (u16, u16),
    /// Names and passwords.
    pub users: Vec<(&'static str, &'static str)>,
    /// Secrets of time-limited credentials.
    pub secrets: Vec<&'static str>,
    /// Networks whose peers are allowed, as CIDR.
    pub allow: Vec<&'static str>,
    /// Networks whose peers are denied, as CIDR.
    pub deny: Vec<&'static str>,
    /// Whether peers may have loopback addresses.
    pub allow_loopback: bool,
    /// Allocations that one user may have; 0 for any number.
    pub user_quota: u32,
    /// Allocations that all together may have; 0 for any number.
    pub total_quota: u32,
    /// Whether the expiry of time-limited credentials ends their allocations, too.
    pub strict_expiry: bool,
    /// Workers.
    pub workers: u16,
    /// Slots of allocations and of bindings in the kernel plane, if there is one.
    pub slots: Option<(usize, usize)>,
}

impl Default for Setup {
    fn default() -> Self {
        let relay = |ip: &str| RelayIp { local: ip.parse().expect("an IP"), external: None };
        Self {
            config: ServerConfig::default(),
            relays: vec![relay("192.0.2.1"), relay("2001:db8::1")],
            ports: (49_152, 65_535),
            users: vec![("alice", "wonder"), ("bob", "builder")],
            secrets: vec![],
            // The addresses of documentation are not special to the policy.
            allow: vec![],
            deny: vec![],
            allow_loopback: false,
            user_quota: 0,
            total_quota: 0,
            strict_expiry: false,
            workers: 2,
            slots: None,
        }
    }
}

impl Setup {
    /// The rules for peers that this means.
    pub fn peers(&self) -> PeerRules {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().expect("a CIDR")).collect::<Vec<_>>();
        PeerRules {
            allow: nets(&self.allow),
            deny: nets(&self.deny),
            allow_loopback: self.allow_loopback,
            listeners: vec![addr(SERVER_V4), addr(SERVER_V6)],
            local_ips: vec![],
        }
    }

    /// The addresses to relay from that this means.
    pub fn relay_ips(&self) -> RelayIps {
        RelayIps { general: self.relays.clone(), ..RelayIps::default() }
    }

    /// Puts these relay addresses and peer rules in force on a running server.
    pub fn enforce(&self, shared: &Shared) {
        shared.set_network(&self.relay_ips(), &self.peers());
    }

    /// The credentials that this means.
    pub fn credentials(&self) -> Credentials {
        let mut credentials = Credentials::new(REALM);
        for (name, password) in &self.users {
            credentials.add_user(name, password).expect("good credentials");
        }
        for secret in &self.secrets {
            credentials.add_secret(secret.to_string());
        }
        credentials
    }
}

/// A datagram that left the server.
#[derive(Clone, Debug)]
pub struct Sent {
    /// By which socket.
    pub egress: Egress,
    /// To where.
    pub to: SocketAddr,
    /// What the datagram carries.
    pub payload: Vec<u8>,
    /// The TOS or traffic class byte of its IP header.
    pub tos: u8,
    /// Whether the network may not fragment it.
    pub dont_fragment: bool,
}

/// A server with its workers, and everything that they did to the world.
pub struct Lab {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The workers.
    pub workers: Vec<Server>,
    /// What time it is.
    pub now: Now,
    /// Datagrams that left since the last look.
    pub sent: Vec<Sent>,
    /// Final records of allocations.
    pub ended: Vec<AllocationRecord>,
    /// Requests that the operator was told of.
    pub refused: Vec<RefusedRequest>,
    /// Channel numbers that only RFC 5766 knew.
    pub old_channels: Vec<u16>,
    /// Ports that somebody else on the host has.
    pub occupied: HashSet<u16>,
    /// Opening a port fails for want of descriptors.
    pub exhausted: bool,
    /// Leave OpenPort unanswered until `open_pending` is called.
    pub hold_ports: bool,
    /// Ports that were asked for and not answered, by worker.
    pub pending: Vec<(usize, RelaySocket, RelayedAddr)>,
    /// Leave what concerns many allocations waiting for ticks.
    pub hold_ticks: bool,
    /// Relayed addresses that are open, by worker and socket.
    pub open: HashMap<(usize, RelaySocket), SocketAddr>,
    /// How often a port was asked for.
    pub ports_opened: usize,
    /// Ports that are bound for the owners of RESERVATION-TOKENs.
    pub reserved: HashSet<SocketAddr>,
    reserving: HashMap<(usize, RelaySocket), SocketAddr>,
    /// The memory that the kernel would share.
    pub memory: Arc<PlainMemory>,
    /// What the kernel was told to forward, by worker, and not told to forget.
    pub offloaded: Vec<(usize, OffloadBinding)>,
    /// Leave Offload and Withdraw unanswered.
    pub hold_kernel: bool,
    /// Withdrawals that were not answered.
    pub withdrawing: Vec<(usize, SlotName)>,
    /// Allocations that the operator was told of when they began.
    pub created: Vec<AllocationView>,
    /// Destinations to which smaller datagrams have to go from now on.
    pub path_mtu_fell: Vec<IpAddr>,
    /// How many allocations each disconnected user had.
    pub disconnected: Vec<(Arc<str>, Option<u64>)>,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// With the default [`Setup`].
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    /// With a set-up of the test's own.
    pub fn with(setup: Setup) -> Self {
        let (allocations, bindings) = setup.slots.unwrap_or_default();
        let memory = PlainMemory::new(allocations, bindings);
        let plane = setup.slots.map(|_| Plane::new(Arc::<PlainMemory>::clone(&memory)));
        let shared = Shared::new(Settings {
            config: setup.config.clone(),
            strict_credential_expiry: setup.strict_expiry,
            relays: setup.relay_ips(),
            relay_ports: setup.ports.0..=setup.ports.1,
            peers: setup.peers(),
            user_quota: setup.user_quota,
            total_quota: setup.total_quota,
            plane,
            ..Settings::new(setup.credentials(), [7; 32])
        });
        let workers = (0..setup.workers)
            .map(|number| Server::new(Arc::clone(&shared), WorkerId(number), [number as u8 + 1; 32]))
            .collect();
        Self {
            shared,
            workers,
            now: Now { mono_ns: 5_000_000_000, unix_secs: START_UNIX_SECS },
            sent: Vec::new(),
            ended: Vec::new(),
            refused: Vec::new(),
            old_channels: Vec::new(),
            occupied: HashSet::new(),
            exhausted: false,
            hold_ports: false,
            pending: Vec::new(),
            hold_ticks: false,
            open: HashMap::new(),
            ports_opened: 0,
            reserved: HashSet::new(),
            reserving: HashMap::new(),
            memory,
            offloaded: Vec::new(),
            hold_kernel: false,
            withdrawing: Vec::new(),
            created: Vec::new(),
            path_mtu_fell: Vec::new(),
            disconnected: Vec::new(),
        }
    }

    /// Lets time pass; every worker ticks at its deadlines on the way.
    pub fn sleep(&mut self, secs: u64) {
        self.sleep_ns(secs * 1_000_000_000);
        self.now.unix_secs += secs;
    }

    /// Like [`Lab::sleep`], in nanoseconds; the calendar stands still.
    pub fn sleep_ns(&mut self, nanos: u64) {
        let end_ns = self.now.mono_ns + nanos;
        while let Some((due_ns, worker)) = self.next_timeout().filter(|(due, _)| *due <= end_ns) {
            self.now.mono_ns = due_ns.max(self.now.mono_ns);
            self.input(worker, Input::Tick);
        }
        self.now.mono_ns = end_ns;
    }

    fn next_timeout(&self) -> Option<(u64, usize)> {
        let due = |(worker, server): (usize, &Server)| server.poll_timeout().map(|(due, _)| (due, worker));
        self.workers.iter().enumerate().filter_map(due).min()
    }

    /// Lets time pass without any tick: the driver is late.
    pub fn oversleep(&mut self, secs: u64) {
        self.now.mono_ns += secs * 1_000_000_000;
        self.now.unix_secs += secs;
    }

    /// Gives an input to every worker.
    pub fn input_all(&mut self, mut input: impl FnMut() -> Input<'static>) {
        for worker in 0..self.workers.len() {
            self.input(worker, input());
        }
    }

    /// How often a verdict was counted, on all workers.
    pub fn verdicts(&self, verdict: Verdict) -> u64 {
        self.workers.iter().map(|server| server.counts().verdicts.of(verdict)).sum()
    }

    /// A peer's datagram; gives what left the server because of it.
    pub fn peer_data(&mut self, peer: &str, relayed: SocketAddr, data: &[u8]) -> Vec<Sent> {
        self.take_sent();
        self.peer_sends(addr(peer), relayed, data, 0);
        self.take_sent()
    }

    /// Permissions and channels of all workers.
    pub fn held(&self) -> (usize, usize) {
        let counts = self.workers.iter().map(Server::table_counts);
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.permissions, sum.1 + counts.channels))
    }

    /// Gives an input to a worker, and does what it wants done.
    pub fn input(&mut self, worker: usize, input: Input<'_>) {
        self.workers[worker].handle_input(self.now, input);
        self.carry_out(worker);
        // What concerns many is done with ticks, at once.
        while !self.hold_ticks
            && self.workers[worker].poll_timeout().is_some_and(|(_, why)| why == Reason::Sweep)
        {
            self.workers[worker].handle_input(self.now, Input::Tick);
            self.carry_out(worker);
        }
    }

    /// A datagram from a client on its 5-tuple.
    pub fn client_sends(&mut self, worker: usize, path: ClientPath, bytes: &[u8], tos: u8) {
        self.receive(worker, Received { origin: Origin::Client(path), bytes, tos });
    }

    /// A datagram from a peer to a relayed address.
    pub fn peer_sends(&mut self, peer: SocketAddr, relayed: SocketAddr, bytes: &[u8], tos: u8) {
        let found = self.open.iter().find(|(_, address)| **address == relayed);
        let Some((&(worker, relay), _)) = found else { return };
        let origin = Origin::Peer { relay, peer: PeerAddr(peer) };
        self.receive(worker, Received { origin, bytes, tos });
    }

    fn receive(&mut self, worker: usize, received: Received<'_>) {
        match self.workers[worker].forward(self.now, &received) {
            Forward::Route(route) => {
                let (egress, to, payload, tos) =
                    (route.egress, route.to, route.assemble(received.bytes), route.tos);
                self.sent.push(Sent { egress, to, payload, tos, dont_fragment: route.dont_fragment });
            }
            Forward::Slow => self.input(worker, Input::Received(received)),
            Forward::Drop(_) => {}
            Forward::Elsewhere(owner) => {
                assert_ne!(owner.index(), worker, "a worker's own clients are not elsewhere");
                self.receive(owner.index(), received);
            }
        }
    }

    /// An ICMP error about what a relayed address sent to a peer.
    pub fn icmp(&mut self, relayed: SocketAddr, peer: SocketAddr, icmp_type: u8, icmp_code: u8, data: u32) {
        let (&(worker, relay), _) =
            self.open.iter().find(|(_, address)| **address == relayed).expect("an open relayed address");
        let error = IcmpError { relay, peer: PeerAddr(peer), icmp_type, icmp_code, data };
        self.input(worker, Input::PeerIcmp(error));
    }

    /// Does what a worker wants done, as far as the host lets us.
    pub fn carry_out(&mut self, worker: usize) {
        while let Some(output) = self.workers[worker].poll_output() {
            match output {
                Output::Transmit { egress, to, payload, tos, dont_fragment } => {
                    self.sent.push(Sent { egress, to, payload, tos, dont_fragment });
                }
                Output::ReleasePort(port) => {
                    self.reserved.remove(&port.address.0);
                }
                Output::OpenPort { relay, address, reserve } => {
                    self.pending.push((worker, relay, address));
                    self.reserving.extend(reserve.map(|reserve| ((worker, relay), reserve.0)));
                    if !self.hold_ports {
                        self.open_pending();
                    }
                }
                Output::ClosePort(relay) => {
                    self.open.remove(&(worker, relay));
                    self.pending.retain(|(owner, pending, _)| (*owner, *pending) != (worker, relay));
                    self.workers[worker].handle_input(self.now, Input::PortClosed(relay));
                }
                Output::Offload(binding) => {
                    self.offloaded.push((worker, *binding));
                    if !self.hold_kernel {
                        let done = Input::OffloadDone(binding.binding);
                        self.workers[worker].handle_input(self.now, done);
                    }
                }
                Output::Withdraw(name) => {
                    let is_meant = |(owner, offloaded): &(usize, OffloadBinding)| {
                        (*owner, offloaded.binding) == (worker, name)
                    };
                    let at = self.offloaded.iter().position(is_meant);
                    self.offloaded.remove(at.expect("what is withdrawn was offloaded, by the same worker"));
                    self.withdrawing.push((worker, name));
                    if !self.hold_kernel {
                        self.forget_withdrawn();
                    }
                }
                Output::PathMtuFell(destination) => self.path_mtu_fell.push(destination),
                Output::Created(view) => self.created.push(*view),
                Output::Ended(record) => self.ended.push(*record),
                Output::UserDisconnected { user, allocations } => {
                    self.disconnected.push((user, allocations));
                }
                Output::Refused(request) => self.refused.push(*request),
                Output::OldChannelNumber { channel } => self.old_channels.push(channel),
            }
        }
    }

    /// Opens what was asked for, as far as the host lets us.
    pub fn open_pending(&mut self) {
        for (worker, relay, address) in std::mem::take(&mut self.pending) {
            self.ports_opened += 1;
            let reserve = self.reserving.remove(&(worker, relay));
            let is_free = |address: SocketAddr| !self.occupied.contains(&address.port());
            let failure = match reserve {
                _ if self.exhausted => Some(PortError::Exhausted),
                Some(reserve) if !is_free(reserve) => Some(PortError::ReserveInUse),
                _ if !is_free(address.0) && !self.reserved.contains(&address.0) => Some(PortError::InUse),
                _ => None,
            };
            if failure.is_none_or(|failure| failure == PortError::InUse) {
                self.reserved.extend(reserve);
            }
            self.reserved.remove(&address.0);
            let outcome = match failure {
                Some(failure) => Input::PortFailed(relay, failure),
                None => {
                    self.open.insert((worker, relay), address.0);
                    Input::PortOpened(relay)
                }
            };
            self.input(worker, outcome);
        }
    }

    /// Peers that the operator was told of.
    pub fn refused_peers(&self) -> Vec<IpAddr> {
        self.refused.iter().filter_map(|request| request.refusal.peer).collect()
    }

    /// The kernel has forgotten what was withdrawn.
    pub fn forget_withdrawn(&mut self) {
        for (worker, name) in std::mem::take(&mut self.withdrawing) {
            self.input(worker, Input::OffloadWithdrawn(name));
        }
    }

    /// What was sent since the last call.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// The one datagram that was sent since the last call.
    #[track_caller]
    pub fn take_one(&mut self) -> Sent {
        let mut sent = self.take_sent();
        assert_eq!(sent.len(), 1, "one datagram was expected: {sent:?}");
        sent.remove(0)
    }

    /// Nothing is left of anybody.
    #[track_caller]
    pub fn assert_empty(&self) {
        for server in &self.workers {
            assert_eq!(server.table_counts(), Default::default());
        }
        assert_eq!(self.shared.ports_taken(), 0, "ports");
        assert_eq!(self.shared.reservations(), 0, "reservations");
        assert_eq!((self.shared.quotas.used(), self.shared.quotas.users()), (0, 0), "quotas");
        assert_eq!(self.shared.directory_len(), 0, "directory");
        if let Some(plane) = self.shared.plane() {
            assert_eq!(plane.taken(), Default::default(), "slots of the kernel plane");
        }
        assert!(self.reserved.is_empty(), "reserved: {:?}", self.reserved);
        assert!(self.open.is_empty(), "sockets: {:?}", self.open);
    }
}

impl Sent {
    /// Peer and data, if this is a Data indication to a client.
    #[track_caller]
    pub fn data_indication(&self) -> (SocketAddr, Vec<u8>) {
        let message = Message::parse(&self.payload).expect("a well-formed indication");
        assert_eq!((message.class(), message.method()), (Class::Indication, method::DATA));
        let value = message.attribute(attr::XOR_PEER_ADDRESS).expect("XOR-PEER-ADDRESS");
        let data = message.data().expect("DATA").to_vec();
        (decode_xor(value, message.transaction_id()), data)
    }

    /// Channel number and data, if this is ChannelData to a client.
    #[track_caller]
    pub fn channel_data(&self) -> (u16, Vec<u8>) {
        let (number, len) = channel::parse_header(&self.payload).expect("a header");
        assert!((0x4000..=0x7fff).contains(&number), "not a channel: {number:#x}");
        assert_eq!(usize::from(len), self.payload.len() - 4, "no padding over UDP");
        (number, self.payload[4..].to_vec())
    }
}

/// A client with its credentials, bound to one worker as the kernel's hash would do.
#[derive(Clone)]
pub struct Client {
    /// Its own address.
    pub address: SocketAddr,
    /// The worker that gets its datagrams.
    pub worker: usize,
    /// Its user name.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The realm that it signs for.
    pub realm: String,
    /// The nonce that it was given; empty before the first challenge.
    pub nonce: Vec<u8>,
    /// By what it reaches the server.
    pub transport: Transport,
    /// The socket at the server's end.
    pub socket: ClientSocket,
    next_transaction: u64,
}

/// An answer, parsed as far as tests want to know.
#[derive(Debug)]
pub struct Answer {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Success or error.
    pub class: Class,
    /// The error code.
    pub code: Option<u16>,
}

impl Answer {
    /// Reads an answer, which must be well-formed.
    #[track_caller]
    pub fn of(bytes: Vec<u8>) -> Self {
        let message = Message::parse(&bytes).expect("the server's answers are well-formed");
        let class = message.class();
        let code =
            message.attribute(attr::ERROR_CODE).map(|value| u16::from(value[2]) * 100 + u16::from(value[3]));
        Self { class, code, bytes }
    }

    /// The answer as a message.
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("parsed before")
    }

    /// It must be a success.
    #[track_caller]
    pub fn expect_success(&self) -> &Self {
        assert_eq!((self.class, self.code), (Class::Success, None));
        self
    }

    /// It must be this error.
    #[track_caller]
    pub fn expect_error(&self, code: u16) -> &Self {
        assert_eq!((self.class, self.code), (Class::Error, Some(code)));
        self
    }

    /// The first relayed address, which it must have.
    pub fn relayed(&self) -> SocketAddr {
        self.message().xor_address(attr::XOR_RELAYED_ADDRESS).expect("present").expect("well-formed")
    }

    /// All relayed addresses, in their order.
    pub fn all_relayed(&self) -> Vec<SocketAddr> {
        let kinds: Vec<_> =
            self.message().attributes().filter(|(k, _)| *k == attr::XOR_RELAYED_ADDRESS).collect();
        kinds.iter().map(|(_, value)| decode_xor(value, self.message().transaction_id())).collect()
    }

    /// LIFETIME, seconds.
    pub fn lifetime(&self) -> u32 {
        self.message().lifetime().expect("present").expect("well-formed")
    }

    /// RESERVATION-TOKEN.
    pub fn token(&self) -> [u8; 8] {
        self.message().reservation_token().expect("present").expect("well-formed")
    }
}

/// XOR address decoding of our own, so that the tests don't trust the code under test.
pub fn decode_xor(value: &[u8], transaction: TransactionId) -> SocketAddr {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    mask[4..].copy_from_slice(&transaction.0);
    let port = u16::from_be_bytes([value[2] ^ 0x21, value[3] ^ 0x12]);
    let ip: Vec<u8> = value[4..].iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    match value[1] {
        1 => SocketAddr::new(IpAddr::from(<[u8; 4]>::try_from(&ip[..]).expect("4 bytes")), port),
        _ => SocketAddr::new(IpAddr::from(<[u8; 16]>::try_from(&ip[..]).expect("16 bytes")), port),
    }
}

impl Client {
    /// A client of the first user, on worker 0, over UDP.
    pub fn new(address: &str) -> Self {
        Self::named(address, "alice", "wonder")
    }

    /// A client of another user.
    pub fn named(address: &str, user: &str, password: &str) -> Self {
        Self {
            address: addr(address),
            worker: 0,
            user: user.into(),
            password: password.into(),
            realm: REALM.into(),
            nonce: Vec::new(),
            transport: Transport::Udp,
            socket: ClientSocket::listener(0),
            next_transaction: u64::from(addr(address).port()) << 32,
        }
    }

    /// Its datagrams reach this worker.
    pub fn on_worker(mut self, worker: usize) -> Self {
        self.worker = worker;
        self
    }

    /// It is connected by TCP, as the server's first connection.
    pub fn over_tcp(self) -> Self {
        self.over_stream(Transport::Tcp, ClientSocket { index: 0, generation: 1 })
    }

    /// It is connected by TCP or TLS.
    pub fn over_stream(mut self, transport: Transport, socket: ClientSocket) -> Self {
        (self.transport, self.socket) = (transport, socket);
        self
    }

    /// Its 5-tuple and the socket at the server's end.
    pub fn path(&self) -> ClientPath {
        let server = addr(if self.address.is_ipv4() { SERVER_V4 } else { SERVER_V6 });
        let five_tuple = FiveTuple { client: ClientAddr(self.address), server, transport: self.transport };
        ClientPath { five_tuple, socket: self.socket }
    }

    /// The key of its long-term credentials.
    pub fn key(&self) -> Key {
        Key::md5(&self.user, &self.realm, &self.password).expect("good credentials")
    }

    /// A transaction id that it has not used before.
    pub fn transaction(&mut self) -> TransactionId {
        self.next_transaction += 1;
        let mut id = [0xc0; 12];
        id[4..].copy_from_slice(&self.next_transaction.to_be_bytes());
        TransactionId(id)
    }

    /// Sends bytes and takes the server's one answer.
    #[track_caller]
    pub fn exchange(&self, lab: &mut Lab, bytes: &[u8]) -> Answer {
        lab.take_sent();
        lab.client_sends(self.worker, self.path(), bytes, 0);
        let sent = lab.take_one();
        assert_eq!(sent.to, self.address);
        Answer::of(sent.payload)
    }

    /// Sends bytes to which no answer is due.
    #[track_caller]
    pub fn send_unanswered(&self, lab: &mut Lab, bytes: &[u8]) {
        lab.take_sent();
        lab.client_sends(self.worker, self.path(), bytes, 0);
        assert!(lab.sent.is_empty(), "no answer was expected: {:?}", lab.sent);
    }

    /// A request with credentials, signed.
    pub fn signed(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Vec<u8> {
        let id = self.transaction();
        self.signed_as(method, id, build)
    }

    /// The same with a transaction id of the test's choice.
    pub fn signed_as(
        &self,
        method: u16,
        id: TransactionId,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Vec<u8> {
        build(MessageBuilder::request(method, id))
            .attribute(attr::USERNAME, self.user.as_bytes())
            .attribute(attr::REALM, self.realm.as_bytes())
            .attribute(attr::NONCE, &self.nonce)
            .finish_signed(&self.key())
    }

    /// Gets a nonce by a request without credentials.
    #[track_caller]
    pub fn challenge(&mut self, lab: &mut Lab) {
        let id = self.transaction();
        let bytes = MessageBuilder::request(method::ALLOCATE, id)
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(attr::SOFTWARE, b"client")
            .finish();
        let answer = self.exchange(lab, &bytes);
        answer.expect_error(401);
        self.nonce = answer.message().attribute(attr::NONCE).expect("a nonce").to_vec();
    }

    /// A request as a client of RFC 8489 signs it: SHA-256 for the password and for the message.
    pub fn signed_sha256(
        &mut self,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Vec<u8> {
        let key = Key::sha256(&self.user, &self.realm, &self.password).expect("good credentials");
        let builder = MessageBuilder::request(method, self.transaction());
        build(builder)
            .attribute(attr::USERNAME, self.user.as_bytes())
            .attribute(attr::REALM, self.realm.as_bytes())
            .attribute(attr::NONCE, &self.nonce)
            .attribute(attr::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
            .attribute(attr::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
            .finish_signed(&key)
    }

    /// An authenticated request and its answer.
    #[track_caller]
    pub fn request(
        &mut self,
        lab: &mut Lab,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Answer {
        if self.nonce.is_empty() {
            self.challenge(lab);
        }
        let bytes = self.signed(method, build);
        self.exchange(lab, &bytes)
    }

    /// Allocates with more attributes; gives the answer, whatever it is.
    #[track_caller]
    pub fn allocate_with(
        &mut self,
        lab: &mut Lab,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Answer {
        self.request(lab, method::ALLOCATE, |b| build(b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])))
    }

    /// Allocates; gives the relayed address.
    #[track_caller]
    pub fn allocate(&mut self, lab: &mut Lab) -> SocketAddr {
        let answer = self.allocate_with(lab, |b| b);
        answer.expect_success().relayed()
    }

    /// Refreshes its allocation, or deletes it with 0.
    #[track_caller]
    pub fn refresh(&mut self, lab: &mut Lab, lifetime_secs: u32) -> Answer {
        self.request(lab, method::REFRESH, |b| b.lifetime(lifetime_secs))
    }

    /// Installs a permission.
    #[track_caller]
    pub fn permit(&mut self, lab: &mut Lab, peer: &str) -> Answer {
        self.request(lab, method::CREATE_PERMISSION, |b| b.xor_address(attr::XOR_PEER_ADDRESS, addr(peer)))
    }

    /// Binds a channel to a peer.
    #[track_caller]
    pub fn bind(&mut self, lab: &mut Lab, number: u16, peer: &str) -> Answer {
        self.request(lab, method::CHANNEL_BIND, |b| {
            let [high, low] = number.to_be_bytes();
            b.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, addr(peer))
        })
    }

    /// ChannelData; gives what left the server because of it.
    pub fn channel_data(&self, lab: &mut Lab, number: u16, data: &[u8]) -> Vec<Sent> {
        let mut bytes = channel::header(number, data.len() as u16).to_vec();
        bytes.extend_from_slice(data);
        lab.take_sent();
        lab.client_sends(self.worker, self.path(), &bytes, 0);
        lab.take_sent()
    }

    /// A Send indication; gives what left the server because of it.
    pub fn send_indication(&mut self, lab: &mut Lab, peer: &str, data: &[u8]) -> Vec<Sent> {
        let bytes = MessageBuilder::indication(method::SEND, self.transaction())
            .xor_address(attr::XOR_PEER_ADDRESS, addr(peer))
            .attribute(attr::DATA, data)
            .finish();
        lab.take_sent();
        lab.client_sends(self.worker, self.path(), &bytes, 0);
        lab.take_sent()
    }
}

/// Bytes of one attribute, padded.
pub fn raw_attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message with more attributes behind its last one, whatever that is.
pub fn append(mut message: Vec<u8>, attributes: &[u8]) -> Vec<u8> {
    message.extend_from_slice(attributes);
    let len = (message.len() - 20) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
    message
}
