//! One client's life with a TURN server, without sockets or clocks: bytes and time go in, requests
//! and a state come out.
//!
//! ```text
//!   Idle ─start─► Allocating ─► Allocated ─bind─► Binding ─► Ready ─release─► Releasing ─► Released
//!                     └──────────────┴───────────────┴──── Failed(SetupError)
//! ```
//! Requests go one at a time and are retransmitted as RFC 8489 section 6.2.1 says. Renewals run
//! beside `Ready` and don't leave it.

mod error;
mod transaction;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::credentials::Credentials;
use crate::limits::{MAX_EXTRA_REQUESTS, MAX_STALE_NONCES};
use crate::stun_client::{AllocateOptions, Authentication, Outcome, Request, parse_response};
use crate::transport::Transport;

pub use error::SetupError;
use transaction::Transaction;

/// Channel numbers a client may choose (RFC 8656 section 12).
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;
/// How long a release waits for the answer to an Allocate under way, ns.
const RELEASE_PATIENCE_NS: u64 = 500_000_000;

/// What all sessions of a group have in common.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Between client and server: requests in a stream are never repeated.
    pub transport: Transport,
    /// Long-term credentials; without them a challenge is an error.
    pub credentials: Option<Credentials>,
    /// The Allocate's attributes; EVEN-PORT and the token are set per session.
    pub allocate: AllocateOptions,
    /// Bind a channel; else only a permission is created and data goes in indications.
    pub channel: bool,
    /// Choose channel numbers at random instead of the first.
    pub random_channel: bool,
    /// Ask for a permission explicitly.
    pub permission: bool,
    /// Refresh once directly after the allocation.
    pub refresh_first: bool,
    /// coturn's `-G`: up to 24 further permissions and channels.
    pub extra_requests: bool,
    /// Time between renewals of allocation, permission and channel, ns.
    pub renew_every_ns: u64,
}

/// Where a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not started.
    Idle,
    /// Waiting for the allocation.
    Allocating,
    /// Has an allocation and waits for [`Session::bind`].
    Allocated,
    /// Waiting for permission and channel.
    Binding,
    /// Data may flow.
    Ready,
    /// Waiting for the answer to Refresh 0.
    Releasing,
    /// The server confirmed that the allocation is gone.
    Released,
    /// Gave up; the allocation may exist (see [`Session::has_allocation`]).
    Failed(SetupError),
}

/// What the server holds for a session, as far as the session knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allocation {
    /// Never had any.
    None,
    /// An Allocate was sent, and no answer to it has come: it may have been granted.
    Unknown,
    /// Granted.
    Held,
    /// Granted and deleted.
    Deleted,
}

/// One client session. See the module for its life.
pub struct Session {
    config: Arc<SessionConfig>,
    state: State,
    auth: Option<Authentication>,
    current: Option<Transaction>,
    queue: VecDeque<Request>,
    outgoing: VecDeque<Vec<u8>>,
    relayed: Vec<SocketAddr>,
    reservation_token: Option<u64>,
    peer: Option<SocketAddr>,
    channel: Option<u16>,
    connection: Option<u32>,
    allocation: Allocation,
    /// Some answer has come: there is a server.
    answered: bool,
    next_renewal_ns: u64,
    stale_nonces: u32,
    wrong_integrity: u64,
    renewal_failures: u64,
}

impl Session {
    /// A session that hasn't started.
    pub fn new(config: Arc<SessionConfig>) -> Self {
        Self {
            config,
            state: State::Idle,
            auth: None,
            current: None,
            queue: VecDeque::new(),
            outgoing: VecDeque::new(),
            relayed: Vec::new(),
            reservation_token: None,
            peer: None,
            channel: None,
            connection: None,
            allocation: Allocation::None,
            answered: false,
            next_renewal_ns: u64::MAX,
            stale_nonces: 0,
            wrong_integrity: 0,
            renewal_failures: 0,
        }
    }

    /// How far the session has come.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The first relayed address.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.relayed.first().copied()
    }

    /// RESERVATION-TOKEN of this allocation's EVEN-PORT R=1.
    pub fn reservation_token(&self) -> Option<u64> {
        self.reservation_token
    }

    /// The bound channel.
    pub fn channel(&self) -> Option<u16> {
        self.channel
    }

    /// CONNECTION-ID of the last Connect.
    pub fn connection(&self) -> Option<u32> {
        self.connection
    }

    /// The bound peer.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Whether the server holds an allocation for it, or may hold one: an Allocate without an answer counts.
    pub fn has_allocation(&self) -> bool {
        matches!(self.allocation, Allocation::Held | Allocation::Unknown)
    }

    /// Whether the server had an allocation for it and confirmed that it is gone.
    pub fn is_deleted(&self) -> bool {
        self.allocation == Allocation::Deleted
    }

    /// Renewals that the server refused or left unanswered.
    pub fn renewal_failures(&self) -> u64 {
        self.renewal_failures
    }

    /// Sends Allocate. `even_port` and `token` are this session's own (RFC 8656 section 7.2).
    pub fn start(&mut self, now_ns: u64, rng: &mut ChaCha8Rng, even_port: Option<bool>, token: Option<u64>) {
        let mut options = self.config.allocate.clone();
        options.even_port = even_port;
        options.reservation_token = token;
        self.state = State::Allocating;
        self.queue.push_back(Request::Allocate(Box::new(options)));
        self.next_request(now_ns, rng);
    }

    /// Becomes ready without an allocation: for Binding requests and floods.
    pub fn skip_setup(&mut self) {
        self.state = State::Ready;
    }

    /// Asks for a permission and, if configured, a channel to the peer.
    pub fn bind(&mut self, now_ns: u64, rng: &mut ChaCha8Rng, peer: SocketAddr) {
        self.state = State::Binding;
        self.peer = Some(peer);
        if self.config.refresh_first {
            self.queue.push_back(Request::Refresh(self.config.allocate.lifetime_secs));
        }
        if self.config.permission {
            self.queue.push_back(Request::Permission(peer));
        }
        if self.config.channel {
            let first = *CHANNELS.start();
            let channel = if self.config.random_channel { rng.random_range(CHANNELS) } else { first };
            self.channel = Some(channel);
            self.queue.push_back(Request::ChannelBind(channel, peer));
        }
        if self.config.extra_requests {
            self.queue_extra_requests(rng, peer);
        }
        self.next_request(now_ns, rng);
        self.settle(now_ns);
    }

    /// Has the relay connect to a peer (RFC 6062 section 4.3).
    pub fn connect(&mut self, now_ns: u64, rng: &mut ChaCha8Rng, peer: SocketAddr) {
        self.ask(now_ns, rng, Request::Connect(peer));
    }

    /// Makes this session's connection the data connection of that number, instead of starting (RFC 6062
    /// section 4.3). It has the control connection's realm and nonce from the beginning: coturn ends a connection that has to be challenged first.
    pub fn bind_connection(&mut self, now_ns: u64, rng: &mut ChaCha8Rng, connection: u32, control: &Self) {
        self.auth.clone_from(&control.auth);
        self.ask(now_ns, rng, Request::ConnectionBind(connection));
    }

    fn ask(&mut self, now_ns: u64, rng: &mut ChaCha8Rng, request: Request) {
        self.state = State::Binding;
        self.queue.push_back(request);
        self.next_request(now_ns, rng);
    }

    fn queue_extra_requests(&mut self, rng: &mut ChaCha8Rng, peer: SocketAddr) {
        for n in 1..=rng.random_range(1..=MAX_EXTRA_REQUESTS) {
            let other = SocketAddr::new(peer.ip(), peer.port().wrapping_add(n).max(1));
            self.queue.push_back(Request::Permission(other));
            if self.config.channel {
                let used = self.channel.unwrap_or(*CHANNELS.start()) - CHANNELS.start();
                let channel = CHANNELS.start() + (used + n) % (CHANNELS.end() - CHANNELS.start() + 1);
                self.queue.push_back(Request::ChannelBind(channel, other));
            }
        }
    }

    /// Deletes the allocation: Refresh 0, repeated until the server confirms (RFC 8656 section 8).
    ///
    /// An Allocate under way is waited for first: a Refresh that overtook it would leave what it makes.
    pub fn release(&mut self, now_ns: u64, rng: &mut ChaCha8Rng) {
        self.queue.clear();
        self.next_renewal_ns = u64::MAX;
        if !self.has_allocation() {
            self.current = None;
            self.state = State::Released;
            return;
        }
        self.state = State::Releasing;
        let under_way = self.current.take().filter(|current| matches!(current.request, Request::Allocate(_)));
        self.current = under_way.map(|allocate| allocate.wait_only_until(now_ns + RELEASE_PATIENCE_NS));
        self.queue.push_back(Request::Refresh(0));
        if self.current.is_none() {
            self.allocate_settled(now_ns, rng);
        }
    }

    /// The wait for an Allocate's answer is over, or nothing can come of it.
    fn allocate_settled(&mut self, now_ns: u64, rng: &mut ChaCha8Rng) {
        // Whatever a server that never said a word may have got, it sent no challenge, so there was no
        // request with credentials.
        if !self.answered || !self.has_allocation() {
            self.queue.clear();
            self.allocation = Allocation::None;
            self.state = State::Released;
        }
        self.next_request(now_ns, rng);
    }

    /// Gives up for a reason found outside, such as a deadline.
    pub fn fail(&mut self, reason: SetupError) {
        self.current = None;
        self.queue.clear();
        self.next_renewal_ns = u64::MAX;
        self.state = State::Failed(reason);
    }

    /// The connection is over: what the server held for it can neither be used nor deleted by anybody.
    pub fn disconnect(&mut self, reason: SetupError) {
        self.allocation = Allocation::None;
        self.fail(reason);
    }

    /// The next message to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called, ns; `u64::MAX` = never.
    pub fn poll_timeout(&self) -> u64 {
        self.current.as_ref().map_or(self.next_renewal_ns, Transaction::deadline_ns)
    }

    /// Retransmits, gives up or renews, whatever is due.
    pub fn handle_timeout(&mut self, now_ns: u64, rng: &mut ChaCha8Rng) {
        if now_ns < self.poll_timeout() {
            return;
        }
        let Some(transaction) = &mut self.current else { return self.renew(now_ns, rng) };
        if let Some(again) = transaction.repeat(now_ns) {
            self.outgoing.push_back(again);
        } else if self.state == State::Releasing && matches!(transaction.request, Request::Allocate(_)) {
            self.current = None;
            self.allocate_settled(now_ns, rng);
        } else {
            let reason = match self.wrong_integrity {
                0 => SetupError::NoAnswer(transaction.request.name(), self.config.transport),
                _ => SetupError::WrongIntegrity,
            };
            self.refuse(reason, now_ns, rng);
        }
    }

    fn renew(&mut self, now_ns: u64, rng: &mut ChaCha8Rng) {
        self.next_renewal_ns = now_ns + self.config.renew_every_ns;
        self.queue.push_back(Request::Refresh(self.config.allocate.lifetime_secs));
        if let Some(peer) = self.peer {
            if self.config.permission {
                self.queue.push_back(Request::Permission(peer));
            }
            if let Some(channel) = self.channel {
                self.queue.push_back(Request::ChannelBind(channel, peer));
            }
        }
        self.next_request(now_ns, rng);
    }

    /// Takes one datagram that isn't data. Returns whether it was this session's.
    pub fn handle(&mut self, now_ns: u64, rng: &mut ChaCha8Rng, data: &[u8]) -> bool {
        let Some(response) = parse_response(data, self.auth.as_ref()) else { return false };
        if self.current.as_ref().is_none_or(|current| current.id != response.transaction) {
            return false;
        }
        self.answered = true;
        match response.outcome {
            // RFC 8489 section 9.2.5: discard, as if it had never been received.
            Outcome::WrongIntegrity => self.wrong_integrity += 1,
            Outcome::Success { relayed, reservation_token, connection, .. } => {
                let Some(done) = self.current.take() else { return false };
                self.connection = connection.or(self.connection);
                self.stale_nonces = 0;
                self.succeeded(now_ns, rng, &done.request, relayed, reservation_token);
            }
            Outcome::Error { code, reason, challenge, alternate } => {
                let Some(failed) = self.current.take() else { return false };
                self.failed(now_ns, rng, failed.request, Refusal { code, reason, challenge, alternate });
            }
        }
        true
    }

    fn succeeded(
        &mut self,
        now_ns: u64,
        rng: &mut ChaCha8Rng,
        request: &Request,
        relayed: Vec<SocketAddr>,
        token: Option<u64>,
    ) {
        match request {
            Request::Allocate(_) if self.state == State::Releasing => self.allocation = Allocation::Held,
            Request::Allocate(_) => {
                self.allocation = Allocation::Held;
                self.reservation_token = token;
                self.relayed = relayed;
                if self.relayed().is_none_or(|address| address.ip().is_unspecified()) {
                    return self.fail(SetupError::NoRelayedAddress);
                }
                self.state = State::Allocated;
                self.next_renewal_ns = now_ns + self.config.renew_every_ns;
            }
            Request::Refresh(0) => {
                self.allocation = Allocation::Deleted;
                self.state = State::Released;
            }
            _ => {}
        }
        self.next_request(now_ns, rng);
        self.settle(now_ns);
    }

    fn failed(&mut self, now_ns: u64, rng: &mut ChaCha8Rng, request: Request, refusal: Refusal) {
        let Refusal { code, reason, challenge, alternate } = refusal;
        if matches!(request, Request::Allocate(_)) {
            self.allocation = Allocation::None;
            if self.state == State::Releasing {
                return self.allocate_settled(now_ns, rng);
            }
        }
        match (code, challenge) {
            (401 | 438, Some((realm, nonce))) => {
                match self.accept_challenge(code, &realm, &nonce) {
                    Ok(()) => {
                        self.queue.push_front(request);
                        self.next_request(now_ns, rng);
                    }
                    Err(error) => self.refuse(error, now_ns, rng),
                };
            }
            // The allocation is gone already: what a release wants (RFC 8656 section 8).
            (437, _) if matches!(request, Request::Refresh(0)) => {
                self.allocation = match self.allocation {
                    Allocation::Unknown => Allocation::None,
                    _ => Allocation::Deleted,
                };
                self.state = State::Released;
            }
            _ => {
                let error = match (code, alternate, &request) {
                    (300, Some(server), _) => SetupError::Redirected(server),
                    (
                        403,
                        _,
                        Request::Permission(peer) | Request::ChannelBind(_, peer) | Request::Connect(peer),
                    ) => SetupError::PeerForbidden(*peer, reason),
                    _ => SetupError::Code { request: request.name(), code, reason },
                };
                self.refuse(error, now_ns, rng);
            }
        }
    }

    /// RFC 8489 section 9.2.5: authenticate after the first 401, take a new nonce after 438; a 401 for
    /// credentials that were already sent for this realm means that they are wrong.
    fn accept_challenge(&mut self, code: u16, realm: &str, nonce: &str) -> Result<(), SetupError> {
        let Some(credentials) = &self.config.credentials else { return Err(SetupError::NeedCredentials) };
        match &mut self.auth {
            Some(auth) if code == 438 && auth.realm() == realm => {
                self.stale_nonces += 1;
                if self.stale_nonces > MAX_STALE_NONCES {
                    return Err(SetupError::Code {
                        request: "nonce",
                        code,
                        reason: "Stale Nonce, again".into(),
                    });
                }
                auth.set_nonce(nonce);
            }
            Some(auth) if code == 401 && auth.realm() == realm => {
                return Err(SetupError::WrongCredentials(code, realm.to_owned()));
            }
            _ => self.auth = Some(Authentication::new(credentials, realm, nonce)),
        }
        Ok(())
    }

    /// A request failed for good: fatal during set-up, counted afterwards.
    fn refuse(&mut self, reason: SetupError, now_ns: u64, rng: &mut ChaCha8Rng) {
        self.current = None;
        if self.state == State::Ready {
            self.renewal_failures += 1;
            self.next_request(now_ns, rng);
        } else {
            self.fail(reason);
        }
    }

    fn next_request(&mut self, now_ns: u64, rng: &mut ChaCha8Rng) {
        if self.current.is_some() {
            return;
        }
        let Some(request) = self.queue.pop_front() else { return };
        if matches!(request, Request::Allocate(_)) {
            self.allocation = Allocation::Unknown;
        }
        let transaction = Transaction::begin(now_ns, rng, request, self.auth.as_ref(), self.config.transport);
        self.outgoing.push_back(transaction.bytes());
        self.current = Some(transaction);
    }

    fn settle(&mut self, now_ns: u64) {
        if self.state == State::Binding && self.current.is_none() && self.queue.is_empty() {
            self.state = State::Ready;
            self.next_renewal_ns = now_ns + self.config.renew_every_ns;
        }
    }
}

struct Refusal {
    code: u16,
    reason: String,
    challenge: Option<(String, String)>,
    alternate: Option<SocketAddr>,
}

#[cfg(test)]
mod tests;
