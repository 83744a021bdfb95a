//! A TURN client: one transaction at a time, retransmitted as RFC 8489 s. 6.2.1 says, and what it holds
//! refreshed in time for as long as it wants.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stun_types::message::{
    IntegrityAlgorithm, IntegrityKey, LongTermCredentials, MessageIntegrityCredentials,
};
use turnpike_driver::sim::SimEndpoint;
use turnpike_proto::limits::SECOND_NS;
use turnpike_proto::wire::proxy::{self, Proxied};
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, channel, method};
use turnpike_testkit::message::{self, Answer, Login, UDP};

use super::ledger::Via;

/// RFC 8489 s. 6.2.1: 500 ms, doubled each time, seven requests, then sixteen times the first interval.
const RTO_NS: u64 = SECOND_NS / 2;
const MAX_REQUESTS: u32 = 7;
const LAST_WAIT_NS: u64 = 16 * RTO_NS;
/// Whole transactions tried before the client gives up: one in 100,000 times all seven requests are lost.
const MAX_ROUNDS: u32 = 3;
/// Challenges answered within one call.
const MAX_CHALLENGES: u32 = 3;
/// Channels are refreshed this long after their binding: well before 600 s (RFC 8656 s. 12).
const CHANNEL_REFRESH_NS: u64 = 500 * SECOND_NS;
/// Permissions likewise, before 300 s (RFC 8656 s. 9).
const PERMISSION_REFRESH_NS: u64 = 240 * SECOND_NS;
/// Allocations are refreshed a minute before their end, as RFC 8656 s. 8.1 suggests.
const REFRESH_MARGIN_NS: u64 = 60 * SECOND_NS;

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: u16,
    attributes: Vec<(u16, Vec<u8>)>,
    peers: Vec<SocketAddr>,
}

impl Call {
    fn new(method: u16) -> Self {
        Self { method, attributes: Vec::new(), peers: Vec::new() }
    }

    pub fn allocate() -> Self {
        Self::new(method::ALLOCATE).with(attr::REQUESTED_TRANSPORT, &UDP)
    }

    pub fn refresh(lifetime_secs: u32) -> Self {
        Self::new(method::REFRESH).with(attr::LIFETIME, &lifetime_secs.to_be_bytes())
    }

    pub fn permit(peers: &[SocketAddr]) -> Self {
        Self { peers: peers.to_vec(), ..Self::new(method::CREATE_PERMISSION) }
    }

    pub fn bind(number: u16, peer: SocketAddr) -> Self {
        let [high, low] = number.to_be_bytes();
        let call = Self::new(method::CHANNEL_BIND).with(attr::CHANNEL_NUMBER, &[high, low, 0, 0]);
        Self { peers: vec![peer], ..call }
    }

    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.attributes.push((kind, value.to_vec()));
        self
    }

    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(k, _)| *k == kind).map(|(_, value)| &value[..])
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Error(u16),
    TimedOut,
}

/// Data, or an ICMP error, that reached the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Data {
        via: Via,
        /// The peer: named by the indication, or the one that the channel is bound to.
        from: SocketAddr,
        payload: Vec<u8>,
        tos: u8,
    },
    Icmp {
        peer: SocketAddr,
        icmp_type: u8,
        icmp_code: u8,
    },
}

struct Transaction {
    call: Call,
    id: TransactionId,
    bytes: Vec<u8>,
    requests: u32,
    rounds: u32,
    challenges: u32,
    next_ns: u64,
}

/// A client's proxy, which has the client's endpoint.
pub struct Proxy {
    /// The client's own address.
    pub own: SocketAddr,
    /// Whether each datagram has a header, or the first one only.
    pub each: bool,
    pub has_said: bool,
}

pub struct Client {
    pub endpoint: SimEndpoint,
    server: SocketAddr,
    login: Login,
    check: IntegrityKey,
    random: ChaCha8Rng,
    calls: VecDeque<Call>,
    transaction: Option<Transaction>,
    /// The last request sent, byte for byte.
    pub last_request: Vec<u8>,
    pub outcomes: Vec<(u16, Outcome)>,
    /// Relayed transport addresses as the server told them; empty without an allocation.
    pub relayed: Vec<SocketAddr>,
    pub mapped: Option<SocketAddr>,
    pub token: Option<[u8; 8]>,
    /// Channels by number: peer and when to refresh.
    channels: BTreeMap<u16, (SocketAddr, u64)>,
    /// Permissions by the address they were asked with: when to refresh.
    permissions: BTreeMap<SocketAddr, u64>,
    refresh_ns: u64,
    /// Lifetime to ask for, seconds.
    pub lifetime_secs: u32,
    /// Whether it refreshes what it has.
    pub upkeep: bool,
    /// What arrived that no ledger knows.
    pub inbox: Vec<Received>,
    /// Who stands between it and the server.
    pub proxy: Option<Proxy>,
}

impl Client {
    pub fn new(endpoint: SimEndpoint, server: SocketAddr, login: Login, seed: u64) -> Self {
        let (user, password) = (login.user.clone(), login.password.clone());
        let credentials = LongTermCredentials::new(user, password).to_key(login.realm.clone());
        let check = MessageIntegrityCredentials::LongTerm(credentials).make_key(IntegrityAlgorithm::Sha1);
        Self {
            endpoint,
            server,
            login,
            check,
            random: ChaCha8Rng::seed_from_u64(seed),
            calls: VecDeque::new(),
            transaction: None,
            last_request: Vec::new(),
            outcomes: Vec::new(),
            relayed: Vec::new(),
            mapped: None,
            token: None,
            channels: BTreeMap::new(),
            permissions: BTreeMap::new(),
            refresh_ns: u64::MAX,
            lifetime_secs: 600,
            upkeep: true,
            inbox: Vec::new(),
            proxy: None,
        }
    }

    pub fn call(&mut self, call: Call) {
        self.calls.push_back(call);
    }

    pub fn is_busy(&self) -> bool {
        self.transaction.is_some() || !self.calls.is_empty()
    }

    /// How the latest call ended.
    #[track_caller]
    pub fn outcome(&self) -> Outcome {
        self.outcomes.last().expect("a call has ended").1
    }

    /// Calls that did not succeed, with their methods.
    pub fn failures(&self) -> Vec<(u16, Outcome)> {
        self.outcomes.iter().copied().filter(|(_, outcome)| *outcome != Outcome::Success).collect()
    }

    /// Its relayed address of the family of `peer`.
    pub fn relayed_for(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.relayed.iter().copied().find(|relayed| relayed.is_ipv4() == peer.is_ipv4())
    }

    /// The channel that is bound to a peer.
    pub fn channel_to(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.iter().find(|(_, (bound, _))| *bound == peer).map(|(number, _)| *number)
    }

    /// Forgets everything, as a client does whose process has died.
    pub fn vanish(&mut self) {
        self.calls.clear();
        self.transaction = None;
        self.vanish_allocation();
    }

    /// Sends data: on the peer's channel if there is one, else in a Send indication.
    pub fn send_data(&mut self, peer: SocketAddr, payload: &[u8], tos: u8) {
        let Some(number) = self.channel_to(peer) else {
            return self.send_indication(peer, payload, tos, false);
        };
        self.send(&message::channel_data(number, payload), tos);
    }

    pub fn send_indication(&mut self, peer: SocketAddr, payload: &[u8], tos: u8, dont_fragment: bool) {
        let indication = message::send_indication(self.new_id(), peer, payload);
        let indication =
            if dont_fragment { indication.attribute(attr::DONT_FRAGMENT, &[]) } else { indication };
        self.send(&indication.finish(), tos);
    }

    /// Sends a datagram, as its proxy would if it has one.
    fn send(&mut self, bytes: &[u8], tos: u8) {
        let Some(proxy) = &mut self.proxy else { return self.endpoint.send_to(self.server, bytes, tos) };
        let proxied = Proxied { source: proxy.own, destination: self.server, is_stream: false };
        let is_first = !std::mem::replace(&mut proxy.has_said, true);
        let header = if proxy.each || is_first { proxy::write(&proxied) } else { Vec::new() };
        self.endpoint.send_to(self.server, &[&header[..], bytes].concat(), tos);
    }

    /// When it has something to do next.
    pub fn next_wake_ns(&self) -> Option<u64> {
        let upkeep = self.upkeep.then(|| {
            let channels = self.channels.values().map(|(_, due_ns)| *due_ns);
            channels.chain(self.permissions.values().copied()).chain([self.refresh_ns]).min()
        });
        let transaction = self.transaction.as_ref().map(|transaction| transaction.next_ns);
        let soonest = upkeep.flatten().into_iter().chain(transaction).min()?;
        (soonest != u64::MAX).then_some(soonest)
    }

    /// Does what is due.
    pub fn advance(&mut self, now_ns: u64) {
        if self.upkeep {
            self.call_for_upkeep(now_ns);
        }
        if self.transaction.as_ref().is_some_and(|transaction| transaction.next_ns <= now_ns) {
            self.retransmit(now_ns);
        }
        if self.transaction.is_none()
            && let Some(call) = self.calls.pop_front()
        {
            self.begin(call, 0, now_ns);
        }
    }

    fn call_for_upkeep(&mut self, now_ns: u64) {
        if self.refresh_ns <= now_ns {
            self.refresh_ns = u64::MAX;
            self.calls.push_back(Call::refresh(self.lifetime_secs));
        }
        for (number, (peer, due_ns)) in &mut self.channels {
            if *due_ns <= now_ns {
                *due_ns = u64::MAX;
                self.calls.push_back(Call::bind(*number, *peer));
            }
        }
        let mut due = Vec::new();
        for (peer, due_ns) in &mut self.permissions {
            if *due_ns <= now_ns {
                *due_ns = u64::MAX;
                due.push(*peer);
            }
        }
        if !due.is_empty() {
            self.calls.push_back(Call::permit(&due));
        }
    }

    fn begin(&mut self, call: Call, challenges: u32, now_ns: u64) {
        let id = self.new_id();
        let mut builder = MessageBuilder::request(call.method, id);
        for (kind, value) in &call.attributes {
            builder = builder.attribute(*kind, value);
        }
        for peer in &call.peers {
            builder = builder.xor_address(attr::XOR_PEER_ADDRESS, *peer);
        }
        let bytes = if self.login.nonce.is_empty() { builder.finish() } else { self.login.sign(builder) };
        self.last_request.clone_from(&bytes);
        let transaction =
            Transaction { call, id, bytes, requests: 0, rounds: 0, challenges, next_ns: now_ns };
        self.transaction = Some(transaction);
        self.retransmit(now_ns);
    }

    fn retransmit(&mut self, now_ns: u64) {
        let Some(transaction) = &mut self.transaction else { return };
        if transaction.requests == MAX_REQUESTS {
            transaction.requests = 0;
            transaction.rounds += 1;
            if transaction.rounds == MAX_ROUNDS {
                let method = transaction.call.method;
                self.transaction = None;
                return self.outcomes.push((method, Outcome::TimedOut));
            }
        }
        let wait_ns = RTO_NS << transaction.requests;
        transaction.requests += 1;
        let is_last = transaction.requests == MAX_REQUESTS;
        transaction.next_ns = now_ns + if is_last { LAST_WAIT_NS } else { wait_ns };
        let bytes = transaction.bytes.clone();
        self.send(&bytes, 0);
    }

    /// Takes a datagram; gives the data in it.
    pub fn receive(&mut self, from: SocketAddr, bytes: &[u8], tos: u8, now_ns: u64) -> Option<Received> {
        assert_eq!(from, self.server, "a client hears from its server only");
        if bytes[0] & 0xc0 == 0x40 {
            return Some(self.channel_data(bytes, tos));
        }
        let message = Message::parse(bytes).expect("what the server sends is well-formed");
        match message.class() {
            Class::Indication => Some(data_indication(&message, tos)),
            Class::Request => panic!("a server asks nothing"),
            Class::Success | Class::Error => {
                self.handle_answer(&Answer::of(bytes.to_vec()), now_ns);
                None
            }
        }
    }

    fn channel_data(&self, bytes: &[u8], tos: u8) -> Received {
        let (number, len) = channel::parse_header(bytes).expect("ChannelData has a header");
        let payload = bytes[channel::HEADER_LEN..].to_vec();
        assert_eq!(payload.len(), usize::from(len), "over UDP nothing is padded");
        let from = self.channels.get(&number).map(|(peer, _)| *peer).unwrap_or(self.server);
        Received::Data { via: Via::Channel(number), from, payload, tos }
    }

    fn handle_answer(&mut self, answer: &Answer, now_ns: u64) {
        let message = answer.message();
        // Answers to older requests come again when the network repeats or delays them.
        let Some(transaction) = self.transaction.take_if(|t| t.id == message.transaction_id()) else {
            return;
        };
        assert_eq!(message.method(), transaction.call.method);
        if let (Some(401 | 438), Some(nonce)) = (answer.code, message.attribute(attr::NONCE))
            && transaction.challenges < MAX_CHALLENGES
        {
            self.login.nonce = nonce.to_vec();
            return self.begin(transaction.call, transaction.challenges + 1, now_ns);
        }
        if answer.code != Some(401) {
            let signed = stun_types::message::Message::from_bytes(&answer.bytes).expect("well-formed");
            signed.validate_integrity_with_key(&self.check).expect("answers are signed (RFC 8489 s. 9.2.4)");
        }
        let outcome = answer.code.map_or(Outcome::Success, Outcome::Error);
        self.outcomes.push((message.method(), outcome));
        if outcome == Outcome::Success {
            self.note_success(&transaction.call, answer, now_ns);
        }
        self.advance(now_ns);
    }

    fn note_success(&mut self, call: &Call, answer: &Answer, now_ns: u64) {
        let lifetime_ns = || (u64::from(answer.lifetime()) * SECOND_NS).saturating_sub(REFRESH_MARGIN_NS);
        match call.method {
            method::ALLOCATE => {
                let message = answer.message();
                self.relayed = answer.all_relayed();
                self.mapped = message.xor_address(attr::XOR_MAPPED_ADDRESS).and_then(Result::ok);
                self.token = message.reservation_token().and_then(Result::ok);
                self.refresh_ns = now_ns + lifetime_ns();
            }
            method::REFRESH if call.attribute(attr::LIFETIME) == Some(&[0; 4]) => self.vanish_allocation(),
            method::REFRESH => self.refresh_ns = now_ns + lifetime_ns(),
            method::CREATE_PERMISSION => {
                let due_ns = now_ns + PERMISSION_REFRESH_NS;
                self.permissions.extend(call.peers.iter().map(|peer| (*peer, due_ns)));
            }
            method::CHANNEL_BIND => {
                let number = call.attribute(attr::CHANNEL_NUMBER).expect("a ChannelBind has one");
                let number = u16::from_be_bytes([number[0], number[1]]);
                self.channels.insert(number, (call.peers[0], now_ns + CHANNEL_REFRESH_NS));
            }
            _ => {}
        }
    }

    fn vanish_allocation(&mut self) {
        self.relayed.clear();
        self.channels.clear();
        self.permissions.clear();
        self.refresh_ns = u64::MAX;
    }

    fn new_id(&mut self) -> TransactionId {
        TransactionId(self.random.random())
    }
}

fn data_indication(message: &Message<'_>, tos: u8) -> Received {
    assert_eq!(message.method(), method::DATA);
    let from = message.xor_address(attr::XOR_PEER_ADDRESS).expect("present").expect("well-formed");
    match message.attribute(attr::ICMP) {
        // RFC 8656 s. 18.13: 16 bits reserved, 7 bits type, 9 bits code.
        Some(&[0, 0, high, low, ..]) => Received::Icmp { peer: from, icmp_type: high >> 1, icmp_code: low },
        Some(other) => panic!("a malformed ICMP attribute: {other:?}"),
        None => {
            let payload = message.data().expect("a Data indication has DATA").to_vec();
            Received::Data { via: Via::Data, from, payload, tos }
        }
    }
}
