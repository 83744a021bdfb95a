//! A laboratory for the core: workers, virtual time, a driver made of a hash map, and clients that
//! know how to authenticate.

mod client;
mod migrated;
mod setup;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnpike_proto::addr::{PeerAddr, RelayedAddr};
use turnpike_proto::settings::Settings;
use turnpike_proto::shared::Shared;
use turnpike_proto::shared::plane::PlainMemory;
use turnpike_proto::stats::{AllocationRecord, ConnectionEvent};
use turnpike_proto::wire::{Class, Message, attr, channel, method};
use turnpike_proto::{
    AllocationView, ClientPath, ConnectionId, Egress, Forward, IcmpError, Input, Now, OffloadBinding, Origin,
    Output, Plane, PortError, Reason, Received, RefusedRequest, RelaySocket, Server, SlotName, Verdict,
    WhyNot, WorkerId,
};

pub use client::Client;
pub use migrated::Luggage;
pub use setup::Setup;

pub use crate::REALM;
pub use crate::message::{Answer, Style, append, decode_xor, raw_attribute};

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
    /// Users of whom it was said that they have their share of the kernel's places.
    pub over_share: Vec<(Arc<str>, WhyNot)>,
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
    /// Bindings that were ever withdrawn.
    withdrawn: Vec<OffloadBinding>,
    /// Allocations that the operator was told of when they began.
    pub created: Vec<AllocationView>,
    /// Destinations to which smaller datagrams have to go from now on.
    pub path_mtu_fell: Vec<IpAddr>,
    /// Connections that were to be closed.
    pub closed_streams: Vec<ClientPath>,
    /// When the last message that had to wait may be sent again.
    pub waits_until_ns: Option<u64>,
    /// How many allocations each disconnected user had.
    pub disconnected: Vec<(Arc<str>, Option<u64>)>,
    /// Connections to peers that are to be made, by worker.
    pub connecting: Vec<(usize, ConnectionId, SocketAddr)>,
    /// Connections that carry what a client's does.
    pub bound: Vec<(ConnectionId, ClientPath)>,
    /// Connections with peers that were closed.
    pub closed: Vec<ConnectionId>,
    /// Connections of clients that were given to a worker, with their requests.
    pub handed_over: Vec<(ClientPath, WorkerId, Vec<u8>)>,
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
        Self::over(setup, [7; 32], None)
    }

    /// With a seed, and memory that was there before.
    fn over(setup: Setup, seed: [u8; 32], memory: Option<Arc<PlainMemory>>) -> Self {
        let (allocations, bindings) = setup.slots.unwrap_or_default();
        let memory = memory.unwrap_or_else(|| PlainMemory::new(allocations, bindings));
        let plane = setup.slots.map(|_| Plane::new(Arc::<PlainMemory>::clone(&memory)));
        let shared = Shared::new(Settings { plane, ..setup.settings(seed) });
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
            over_share: Vec::new(),
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
            withdrawn: Vec::new(),
            created: Vec::new(),
            path_mtu_fell: Vec::new(),
            closed_streams: Vec::new(),
            waits_until_ns: None,
            disconnected: Vec::new(),
            connecting: Vec::new(),
            bound: Vec::new(),
            closed: Vec::new(),
            handed_over: Vec::new(),
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
            Forward::Transmit(transmit) => {
                let (egress, to, payload, tos) =
                    (transmit.egress, transmit.to, transmit.assemble(received.bytes), transmit.tos);
                self.sent.push(Sent { egress, to, payload, tos, dont_fragment: transmit.dont_fragment });
            }
            Forward::Slow => self.input(worker, Input::Received(received)),
            Forward::Drop(_) => {}
            Forward::Wait(until_ns) => self.waits_until_ns = Some(until_ns),
            Forward::Elsewhere(owner) => {
                assert_ne!(owner.index(), worker, "a worker's own clients are not elsewhere");
                self.receive(owner.index(), received);
            }
        }
    }

    /// A peer connects to a relayed address (RFC 6062): the name of its connection, if it is let in.
    pub fn peer_connects(&mut self, peer: &str, relayed: SocketAddr) -> Option<ConnectionId> {
        let found = self.open.iter().find(|(_, address)| **address == relayed);
        let (&(worker, relay), _) = found.expect("an open relayed address");
        let connection = self.workers[worker].admit_peer(self.now, relay, PeerAddr(addr(peer)));
        self.carry_out(worker);
        connection
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
                Output::Listen { relay, address } => {
                    self.pending.push((worker, relay, address));
                    if !self.hold_ports {
                        self.open_pending();
                    }
                }
                Output::Connect { connection, peer, .. } => {
                    self.connecting.push((worker, connection, peer.0));
                }
                Output::Bind { connection, client } => self.bound.push((connection, client)),
                Output::CloseConnection(connection) => self.closed.push(connection),
                Output::HandOver { client, worker, request } => {
                    self.handed_over.push((client, worker, request));
                }
                Output::ClosePort(relay) => {
                    self.open.remove(&(worker, relay));
                    self.pending.retain(|(owner, pending, _)| (*owner, *pending) != (worker, relay));
                    self.workers[worker].handle_input(self.now, Input::PortClosed(relay));
                }
                Output::Offload(binding) => self.offload(worker, *binding),
                Output::Withdraw(name) => self.withdraw(worker, name),
                Output::PathMtuFell(destination) => self.path_mtu_fell.push(destination),
                Output::CloseStream(path) => self.closed_streams.push(path),
                Output::Created(view) => self.created.push(*view),
                Output::Ended(record) => self.ended.push(*record),
                Output::UserDisconnected { user, allocations } => {
                    self.disconnected.push((user, allocations));
                }
                Output::Refused(request) => self.refused.push(*request),
                Output::OldChannelNumber { channel } => self.old_channels.push(channel),
                Output::OverShare { user, why } => self.over_share.push((user, why)),
            }
        }
    }

    fn offload(&mut self, worker: usize, binding: OffloadBinding) {
        self.offloaded.push((worker, binding));
        if !self.hold_kernel {
            let done = Input::OffloadDone(binding.binding);
            self.workers[worker].handle_input(self.now, done);
        }
    }

    fn withdraw(&mut self, worker: usize, name: SlotName) {
        let is_meant =
            |(owner, offloaded): &(usize, OffloadBinding)| (*owner, offloaded.binding) == (worker, name);
        let at = self.offloaded.iter().position(is_meant);
        let (_, binding) =
            self.offloaded.remove(at.expect("what is withdrawn was offloaded, by the same worker"));
        self.withdrawn.push(binding);
        self.withdrawing.push((worker, name));
        if !self.hold_kernel {
            self.forget_withdrawn();
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

    /// How often something happened to connections with peers, on all workers.
    pub fn connections(&self, event: ConnectionEvent) -> u64 {
        self.workers.iter().map(|server| server.tcp_relay_counts().of(event)).sum()
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
