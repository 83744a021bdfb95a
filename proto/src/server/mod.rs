//! The TURN server of one worker: what each message means, and what is done about it.
//!
//! ```text
//!   request ─► parse ─► authenticate ─► unknown attributes ─► allocate | refresh | permission | channel | tcp
//!                                                                  │ table changes, then the answer
//!   data ────► data: forward ─► Transmit                            ▼
//!   tick ────► expire, sweep: a part at a time                outputs, in order
//! ```
//!
//! Every request gets exactly one answer or one counted drop. Nothing is remembered about anybody
//! who has not authenticated.

mod allocate;
mod channel;
mod data;
mod expire;
mod inspect;
mod migrate;
mod offload;
mod operate;
mod permission;
mod recent;
mod refresh;
mod sweep;
mod tcp;

use std::collections::VecDeque;
use std::sync::Arc;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use turnpike_abi::Verdict;

use crate::auth::{Identity, Rejection, claimed_user};
use crate::error::ErrorCode;
use crate::io::{ClientPath, Egress, Input, Now, Origin, Output, Reason, Received, Sender, WorkerId};
use crate::limits::{CHALLENGE_FACTOR, MAX_REQUEST};
use crate::refusal::{Refusal, RefusalReason, RefusedRequest};
use crate::shared::Shared;
use crate::shared::limiter::{StrangerBudget, StrangerWork};
use crate::stats::{Authentication, ServerCounts, UserspaceDrop};
use crate::table::{Allocation, AllocationId, Table, TableCounts};
use crate::wire::{Class, Message, MessageBuilder, ReplyTo, attr, method};

/// Attributes that this server understands; any other comprehension-required one is answered with 420.
const KNOWN_ATTRIBUTES: &[u16] = &[
    attr::USERNAME,
    attr::MESSAGE_INTEGRITY,
    attr::MESSAGE_INTEGRITY_SHA256,
    attr::ERROR_CODE,
    attr::UNKNOWN_ATTRIBUTES,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::XOR_PEER_ADDRESS,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::DONT_FRAGMENT,
    attr::PASSWORD_ALGORITHM,
    attr::USERHASH,
    attr::XOR_MAPPED_ADDRESS,
    attr::MAPPED_ADDRESS,
    attr::RESERVATION_TOKEN,
    attr::CONNECTION_ID,
];

use data::is_channel_data;
pub use migrate::ExportCursor;
use recent::Recent;
use sweep::Sweeps;

/// One worker's server. See [`crate::Input`] and [`crate::Output`] for its contract.
pub struct Server {
    shared: Arc<Shared>,
    /// Its number among the workers.
    worker: WorkerId,
    table: Table,
    rng: ChaCha12Rng,
    outputs: VecDeque<Output>,
    /// Refreshes that deleted something: repeated, they get the same answer and delete nothing else.
    deletions: Recent,
    /// Allocates whose allocation was deleted already: a late repetition must not bring it back.
    ended_allocates: Recent,
    /// What concerns many allocations, and is done with the ticks.
    sweeps: Sweeps,
    /// The version of the credentials that the allocations' users were looked up in.
    checked_credentials: u64,
    draining: bool,
    strangers: StrangerBudget,
    counts: ServerCounts,
}

/// An authenticated request on its way through the server.
struct Request<'a> {
    sender: Sender,
    message: &'a Message<'a>,
    identity: &'a Arc<Identity>,
    /// The 5-tuple's allocation, if there is one.
    allocation: Option<AllocationId>,
}

impl Server {
    /// One worker's server; `seed` is its only source of randomness and must be secret.
    pub fn new(shared: Arc<Shared>, worker: WorkerId, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let hash_seed = rng.next_u64();
        shared.directory.add_worker();
        let checked_credentials = shared.auth.version();
        // The same for all workers, in each process that goes on with these.
        let recent_seed = shared.auth.derive_key(b"turnpike transactions key");
        let recent_seed =
            u64::from_ne_bytes(*recent_seed.first_chunk().expect("a key has more than eight bytes"));
        Self {
            shared,
            worker,
            table: Table::new(worker.first_allocation(), hash_seed),
            rng,
            outputs: VecDeque::new(),
            deletions: Recent::new(recent_seed),
            ended_allocates: Recent::new(recent_seed),
            sweeps: Sweeps::default(),
            checked_credentials,
            draining: false,
            strangers: StrangerBudget::default(),
            counts: ServerCounts::default(),
        }
    }

    /// Takes what has happened. Outputs are to be taken afterwards with [`Server::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Received(received) => match received.origin {
                Origin::Client(path) => {
                    let sender = Sender { path, client: path.five_tuple.client };
                    self.handle_client(now, &sender, &received);
                }
                Origin::Peer { relay, peer } => self.handle_peer(now, relay, peer, &received),
            },
            Input::Proxied { path, client, bytes, tos } => {
                let received = Received { origin: Origin::Client(path), bytes, tos };
                self.handle_client(now, &Sender { path, client }, &received);
            }
            Input::ClientGone(path) => self.handle_client_gone(now, &path),
            Input::PeerIcmp(error) => self.handle_icmp(now, &error),
            Input::PortOpened(relay) => self.handle_port_opened(now, relay),
            Input::PortFailed(relay, error) => self.handle_port_failed(now, relay, error),
            Input::PortClosed(relay) => self.table.relay_closed(relay),
            Input::PeerConnected(connection) => self.handle_peer_connected(now, connection),
            Input::PeerConnectFailed(connection) => self.handle_connect_failed(connection),
            Input::ConnectionClosed(connection) => self.handle_connection_closed(connection),
            Input::Tick => self.tick(now),
            Input::PolicyChanged => self.recheck_all(),
            Input::OffloadDone(binding) => self.handle_offloaded(binding),
            Input::OffloadFailed(binding, why_not) => self.handle_not_offloaded(binding, why_not),
            Input::OffloadWithdrawn(binding) => self.handle_withdrawn(binding),
            Input::SetRate { allocation, bits_per_sec } => self.set_rate(allocation, bits_per_sec),
            Input::Disconnect { allocation } => self.disconnect(now, allocation),
            Input::DisconnectUser { user } => self.disconnect_user(user),
            Input::Behind(is_behind) => self.strangers.set_behind(is_behind),
            Input::Drain(on) => self.draining = on,
            Input::Shutdown => {
                self.draining = true;
                self.end_all();
            }
        }
        self.emit_withdrawals();
    }

    /// Takes an allocation without halves away, for this worker and for the others.
    fn remove_allocation(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        let allocation = self.table.remove(id)?;
        self.shared.directory.release(&allocation.path().five_tuple);
        Some(allocation)
    }

    /// The next thing to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::Tick`] at the latest (`mono_ns`), and why. A time that has passed says
    /// that there is more to be done than one tick did: come back at once, after what waits to be forwarded.
    pub fn poll_timeout(&self) -> Option<(u64, Reason)> {
        if !self.sweeps.is_empty() || self.checked_credentials != self.shared.auth.version() {
            return Some((0, Reason::Sweep));
        }
        let recent_ns =
            [&self.deletions, &self.ended_allocates].map(Recent::ends_ns).into_iter().flatten().max();
        let recent = recent_ns.map(|due_ns| (due_ns, Reason::Transaction));
        // None of them is urgent: both go at once.
        self.table.next_deadline().into_iter().chain(recent).min_by_key(|(due_ns, _)| *due_ns)
    }

    /// How many of each thing there are.
    pub fn table_counts(&self) -> TableCounts {
        self.table.counts()
    }

    /// What was counted since the start.
    pub fn counts(&self) -> &ServerCounts {
        &self.counts
    }

    /// Counts something that happened to a datagram outside the core (cut short, not sent).
    pub fn count(&mut self, verdict: Verdict, times: u64) {
        self.counts.verdicts.add(verdict, times);
    }

    /// The same for what only userspace loses.
    pub fn count_userspace(&mut self, drop: UserspaceDrop, times: u64) {
        self.counts.userspace_drops.add(drop, times);
    }

    /// Counts what was forwarded to a stream's client and did not reach it, for its allocation, too.
    pub fn count_stream_drops(&mut self, path: &ClientPath, drop: UserspaceDrop, times: u64) {
        self.count_userspace(drop, times);
        if times == 0 {
            return;
        }
        let allocation = self.table.find(&path.five_tuple).and_then(|id| self.table.get_mut(id));
        if let Some(allocation) = allocation.filter(|allocation| allocation.path().is_continued_by(path)) {
            allocation.count_stream_drops(drop, times);
        }
    }

    fn handle_client(&mut self, now: Now, sender: &Sender, received: &Received<'_>) {
        if is_channel_data(received.bytes) {
            return self.handle_data(now, &sender.path, received);
        }
        let message = match Message::parse(received.bytes) {
            Ok(message) => message,
            Err(verdict) => return self.discard(verdict),
        };
        if message.class() == Class::Request && received.bytes.len() > MAX_REQUEST {
            return self.discard(Verdict::DropMalformed);
        }
        match (message.class(), message.method()) {
            (Class::Request, method::BINDING) => self.handle_binding(now, sender, &message),
            (
                Class::Request,
                method::ALLOCATE | method::REFRESH | method::CREATE_PERMISSION | method::CHANNEL_BIND,
            ) => self.handle_request(now, sender, &message),
            (Class::Request, method::CONNECT | method::CONNECTION_BIND) if self.shared.config.tcp_relay => {
                self.handle_request(now, sender, &message);
            }
            (Class::Indication, method::SEND) => self.handle_data(now, &sender.path, received),
            (Class::Indication, method::BINDING) => self.counts.verdicts.count(Verdict::KeepAlive),
            // RFC 8489 s. 6.3.3: nobody was asked, so nothing can be an answer.
            (Class::Success | Class::Error, _) => self.discard(Verdict::DropResponse),
            // RFC 8489 s. 6.3: an unknown method, or a class the method doesn't have, is discarded silently.
            _ => self.discard(Verdict::DropUnsupported),
        }
    }

    // RFC 8489 s. 6.3.1, RFC 8489 s. 2: Binding needs no credentials.
    fn handle_binding(&mut self, now: Now, sender: &Sender, message: &Message<'_>) {
        let (source, random) = (sender.client.ip(), self.rng.next_u32());
        let unknown = message.unknown_required(KNOWN_ATTRIBUTES);
        if !unknown.is_empty() {
            // The answer can be more than twice the request: it counts with the other errors.
            if !self.shared.limiter.admits_unauthenticated(now, source, random) {
                return self.discard_above_limit(&sender.path, Verdict::DropUnauthenticatedRate);
            }
            if !self.has_time_for(now, &sender.path, StrangerWork::Rejection) {
                return self.discard_above_limit(&sender.path, Verdict::DropStrangerBudget);
            }
            self.counts.errors.count(method::BINDING, ErrorCode::UnknownAttribute);
            let reply =
                MessageBuilder::error(message, ErrorCode::UnknownAttribute).unknown_attributes(&unknown);
            return self.answer(&sender.path, reply.finish());
        }
        if !self.shared.limiter.admits_binding(now, source, random) {
            return self.discard_above_limit(&sender.path, Verdict::DropBindingRate);
        }
        if !self.has_time_for(now, &sender.path, StrangerWork::Binding) {
            return self.discard_above_limit(&sender.path, Verdict::DropStrangerBudget);
        }
        let reply = MessageBuilder::success(message).xor_address(attr::XOR_MAPPED_ADDRESS, sender.client.0);
        self.counts.bindings += 1;
        self.answer(&sender.path, reply.finish());
    }

    fn handle_request(&mut self, now: Now, sender: &Sender, message: &Message<'_>) {
        let allocation = self.find_settled(now, &sender.path);
        if allocation.is_none() && !message.has_integrity() && !is_first_request(sender, message) {
            return self.discard(Verdict::DropNoCredentials);
        }
        // Before any of the work that its credentials may be.
        if message.has_integrity()
            && !self.has_time_for(now, &sender.path, StrangerWork::Login)
            && !self.has_valid_nonce(now, sender, message)
        {
            return self.discard_above_limit(&sender.path, Verdict::DropStrangerBudget);
        }
        let held = allocation.and_then(|id| self.table.get(id)).map(|a| Arc::clone(a.identity()));
        let identity = match self.shared.auth.authenticate(now, &sender.own_tuple(), message, held.as_ref()) {
            Ok(identity) => identity,
            Err(rejection) => {
                self.counts.authentications.count(result_of(message, rejection));
                return self.reject(now, sender, message, rejection);
            }
        };
        self.counts.authentications.count(Authentication::Accepted);
        if let (Some(id), Some(held)) = (allocation, held)
            && held.user == identity.user
            && !held.has_keys_of(&identity)
        {
            // Its user's password was changed, and the client has the new one.
            self.table.set_identity(id, Arc::clone(&identity));
        }
        let request = Request { sender: *sender, message, identity: &identity, allocation };
        let unknown = message.unknown_required(KNOWN_ATTRIBUTES);
        if !unknown.is_empty() {
            self.note_refusal(sender, &identity, message.method(), RefusalReason::UnknownAttribute.into());
            let reply =
                MessageBuilder::error(message, ErrorCode::UnknownAttribute).unknown_attributes(&unknown);
            return self.answer(&sender.path, reply.finish_signed(identity.key()));
        }
        let outcome = match message.method() {
            method::ALLOCATE => self.handle_allocate(now, &request),
            method::REFRESH => self.handle_refresh(now, &request),
            method::CREATE_PERMISSION => self.handle_create_permission(now, &request),
            method::CONNECT => self.handle_connect(now, &request),
            method::CONNECTION_BIND => self.handle_connection_bind(&request),
            _ => self.handle_channel_bind(now, &request),
        };
        if let Err(refusal) = outcome {
            self.refuse(sender, &identity, message.reply_to(), refusal);
        }
    }

    /// The allocation that a request other than Allocate is about (RFC 8656 s. 5).
    fn owned_allocation(&self, request: &Request<'_>) -> Result<AllocationId, RefusalReason> {
        let id = request.allocation.ok_or(RefusalReason::NoAllocation)?;
        let allocation = self.table.get(id).ok_or(RefusalReason::NoAllocation)?;
        if allocation.identity().user != request.identity.user {
            return Err(RefusalReason::WrongUser);
        }
        match allocation.live_since_ns() {
            Some(_) => Ok(id),
            None => Err(RefusalReason::NoAllocation),
        }
    }

    /// Answers a request that did not authenticate, unless its source has had enough of them; the answer
    /// can't be signed.
    fn reject(&mut self, now: Now, sender: &Sender, message: &Message<'_>, rejection: Rejection) {
        let has_credentials = rejection.code == ErrorCode::Unauthenticated && message.has_integrity();
        let proves_address = has_credentials && self.proves_address(now, sender, message);
        if let Err(verdict) = self.admits_rejection(now, sender, message, rejection, proves_address) {
            return self.discard_above_limit(&sender.path, verdict);
        }
        self.counts.errors.count(message.method(), rejection.code);
        if let Some(refusal) = rejection.refusal {
            self.counts.refusals.count(message.method(), refusal.reason);
            // What anybody could send in another's name leaves no trace but a number.
            if proves_address {
                let user = message.attribute(attr::USERNAME).map(claimed_user);
                self.tell_refusal(sender, message.method(), user, refusal);
            }
        }
        let mut reply = MessageBuilder::error(message, rejection.code);
        if rejection.challenge {
            let random = self.rng.next_u32();
            // Whoever has proved to receive what is sent to its address is no victim of a large answer.
            let is_stream = sender.path.five_tuple.transport.is_stream();
            let room = match proves_address || is_stream || rejection.code == ErrorCode::StaleNonce {
                true => usize::MAX,
                false => message.len() * CHALLENGE_FACTOR.0 / CHALLENGE_FACTOR.1,
            };
            reply = self.shared.auth.challenge(now, &sender.own_tuple(), random, room, reply);
        }
        self.answer(&sender.path, reply.finish());
    }

    /// Whether the sender receives what is sent to its address: it has a connection, or a nonce.
    fn proves_address(&self, now: Now, sender: &Sender, message: &Message<'_>) -> bool {
        sender.path.five_tuple.transport.is_stream() || self.has_valid_nonce(now, sender, message)
    }

    fn has_valid_nonce(&self, now: Now, sender: &Sender, message: &Message<'_>) -> bool {
        self.shared.auth.has_valid_nonce(now, &sender.own_tuple(), message)
    }

    /// Who has credentials, or proves to receive what is sent to its address, does not compete with a
    /// flood from the same address: a carrier-grade NAT's clients share one (Q4, Q7).
    fn admits_rejection(
        &mut self,
        now: Now,
        sender: &Sender,
        message: &Message<'_>,
        rejection: Rejection,
        failed_login: bool,
    ) -> Result<(), Verdict> {
        // 438 is only said to somebody whose integrity was right.
        if rejection.code == ErrorCode::StaleNonce {
            return Ok(());
        }
        let (source, random) = (sender.client.ip(), self.rng.next_u32());
        let limiter = &self.shared.limiter;
        if failed_login {
            let name = message.attribute(attr::USERNAME).or(message.attribute(attr::USERHASH));
            let is_admitted = limiter.admits_failed_login(now, source, name.unwrap_or_default(), random);
            return is_admitted.then_some(()).ok_or(Verdict::DropUnauthenticatedRate);
        }
        // The buckets first: they cost less than checking a nonce.
        let refused = match limiter.admits_unauthenticated(now, source, random) {
            true if self.has_time_for(now, &sender.path, StrangerWork::Rejection) => return Ok(()),
            true => Verdict::DropStrangerBudget,
            false => Verdict::DropUnauthenticatedRate,
        };
        self.has_valid_nonce(now, sender, message).then_some(()).ok_or(refused)
    }

    /// Whether this worker's time allows for work that somebody who may be a stranger asks for; who has an
    /// allocation is none. Lifting the limits on strangers lifts this one, too, as long as the worker keeps up.
    fn has_time_for(&self, now: Now, path: &ClientPath, work: StrangerWork) -> bool {
        self.strangers.admits(now, work)
            || self.table.find(&path.five_tuple).is_some()
            || self.shared.limiter.is_lifted() && !self.strangers.is_behind()
    }

    /// Answers an authenticated request with an error.
    fn refuse(&mut self, sender: &Sender, identity: &Identity, reply_to: ReplyTo, refusal: Refusal) {
        self.note_refusal(sender, identity, reply_to.method(), refusal);
        let code = refusal.reason.code();
        let mut reply = MessageBuilder::error_to(reply_to, code);
        // RFC 8489 s. 10: 300 says where to go instead.
        if code == ErrorCode::TryAlternate
            && let Some(server) = self.shared.alternate(sender.client.ip())
        {
            reply = reply.address(attr::ALTERNATE_SERVER, server);
        }
        self.answer(&sender.path, reply.finish_signed(identity.key()));
    }

    /// Counts and tells why an authenticated request is refused.
    fn note_refusal(&mut self, sender: &Sender, identity: &Identity, method: u16, refusal: Refusal) {
        self.counts.errors.count(method, refusal.reason.code());
        self.counts.refusals.count(method, refusal.reason);
        self.tell_refusal(sender, method, Some(Arc::clone(&identity.quota_user)), refusal);
    }

    fn tell_refusal(&mut self, sender: &Sender, method: u16, user: Option<Arc<str>>, refusal: Refusal) {
        let client = sender.client.0;
        self.outputs.push_back(Output::Refused(Box::new(RefusedRequest { client, method, user, refusal })));
    }

    /// Answers an authenticated request with success.
    fn succeed(&mut self, path: &ClientPath, identity: &Identity, mut reply: MessageBuilder) {
        if let Some(software) = &self.shared.config.software {
            reply = reply.software(software);
        }
        self.answer(path, reply.finish_signed(identity.key()));
    }

    fn answer(&mut self, path: &ClientPath, payload: Vec<u8>) {
        self.counts.verdicts.count(Verdict::Answered);
        self.send_to_client(path, payload, 0);
    }

    fn send_to_client(&mut self, path: &ClientPath, payload: Vec<u8>, tos: u8) {
        let egress = Egress::Client { socket: path.socket, source: path.five_tuple.server };
        let to = path.five_tuple.client.0;
        self.outputs.push_back(Output::Transmit { egress, to, payload, tos, dont_fragment: false });
    }

    /// What a limit on those without an allocation drops.
    fn discard_above_limit(&mut self, path: &ClientPath, verdict: Verdict) {
        self.discard(verdict);
        if path.five_tuple.transport.is_stream() && !self.has_allocation(&path.five_tuple) {
            self.outputs.push_back(Output::CloseStream(*path));
        }
    }

    fn discard(&mut self, verdict: Verdict) {
        self.counts.verdicts.count(verdict);
    }
}

/// Whether a client may begin with this, before it has a nonce: only Allocate creates anything, and always names
/// its transport (RFC 8656 s. 7.1). Answers to anything else would only serve reflection (Q4). A connection may be there
/// for a ConnectionBind alone (RFC 6062 s. 4.3), and reflects nothing.
fn is_first_request(sender: &Sender, message: &Message<'_>) -> bool {
    match message.method() {
        method::ALLOCATE => message.has(attr::REQUESTED_TRANSPORT),
        method::CONNECTION_BIND => sender.path.five_tuple.transport.is_stream(),
        _ => false,
    }
}

/// How a rejected request is counted.
fn result_of(message: &Message<'_>, rejection: Rejection) -> Authentication {
    match rejection.code {
        ErrorCode::StaleNonce => Authentication::StaleNonce,
        ErrorCode::Unauthenticated if !message.has_integrity() => Authentication::Challenged,
        ErrorCode::Unauthenticated => Authentication::Rejected,
        _ => Authentication::Malformed,
    }
}
