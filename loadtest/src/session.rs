//! One client's life with a TURN server, without sockets or clocks: bytes and time go in, requests
//! and a state come out.
//!
//! ```text
//!   Idle ─start─► Allocating ─► Allocated ─bind─► Binding ─► Ready ─release─► Releasing ─► Released
//!                     └──────────────┴───────────────┴──── Failed(SetupError)
//! ```
//! Requests go one at a time and are retransmitted as RFC 8489 section 6.2.1 says. Renewals run
//! beside `Ready` and don't leave it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

use crate::credentials::Credentials;
use crate::engine::stream::LinkError;
use crate::limits::{MAX_EXTRA_REQUESTS, MAX_STALE_NONCES, MAX_TRANSMISSIONS};
use crate::stun_client::{AllocateOptions, Authentication, Outcome, Request, parse_response};
use crate::transport::Transport;

/// First retransmission timeout (RFC 8489 section 6.2.1), ns.
const RTO_NS: u64 = 500_000_000;
/// How long a request waits for its answer where nothing gets lost: Ti of RFC 8489 section 6.2.2, ns.
const RELIABLE_PATIENCE_NS: u64 = 39_500_000_000;
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

/// Why a session couldn't be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Nothing came back.
    #[error("no answer to {0}: is the server running and reachable over {1}?")]
    NoAnswer(&'static str, Transport),
    /// The server's machine answered that nothing listens there.
    #[error("connection refused: nothing listens on the server's {port} port", port = port_of(*.0))]
    Refused(Transport),
    /// The connection to the server ended, or never began.
    #[error("the connection to the server: {0}")]
    Connection(LinkError),
    /// The server wants credentials and there are none.
    #[error("the server wants credentials: give a user and password, or a REST secret")]
    NeedCredentials,
    /// The server refused the credentials.
    #[error("wrong user name or password: {0} again for credentials of realm \"{1}\"")]
    WrongCredentials(u16, String),
    /// Success responses came without valid integrity.
    #[error("wrong integrity in a message received from server")]
    WrongIntegrity,
    /// The server refused the peer.
    #[error("the server refuses peer {0}: 403 {1} ({what}, or name another peer)", what = way_to_allow(.0))]
    PeerForbidden(SocketAddr, String),
    /// ALTERNATE-SERVER.
    #[error("the server redirects to {0}: name that one")]
    Redirected(SocketAddr),
    /// Any other error response.
    #[error("{request} refused: error {code} ({reason})")]
    Code {
        /// The request's name.
        request: &'static str,
        /// ERROR-CODE.
        code: u16,
        /// Reason phrase.
        reason: String,
    },
    /// A success response to Allocate without a usable relayed address.
    #[error("the server's answer to Allocate has no relayed address")]
    NoRelayedAddress,
    /// The deadline of the whole set-up passed.
    #[error("set-up not finished within its deadline")]
    Deadline,
    /// The session that this one depends on failed.
    #[error("its partner's set-up failed")]
    Partner,
    /// A local socket could not be made.
    #[error("cannot open a socket: {0}")]
    Socket(String),
}

/// TLS goes over TCP.
fn port_of(transport: Transport) -> &'static str {
    if transport.is_stream() { "TCP" } else { "UDP" }
}

/// How an operator allows a peer.
fn way_to_allow(peer: &SocketAddr) -> String {
    match peer.ip() {
        ip if ip.is_loopback() => {
            "allow it there: coturn and Turnpike have --allow-loopback-peers for trials".into()
        }
        ip => format!("allow it there: Turnpike by --allow-peer {ip}, coturn by --allowed-peer-ip={ip}"),
    }
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

struct Transaction {
    id: u128,
    request: Request,
    bytes: Vec<u8>,
    deadline_ns: u64,
    rto_ns: u64,
    transmissions: u32,
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
        self.current = under_way.map(|mut allocate| {
            allocate.transmissions = MAX_TRANSMISSIONS;
            allocate.deadline_ns = now_ns + RELEASE_PATIENCE_NS;
            allocate
        });
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
        self.current.as_ref().map_or(self.next_renewal_ns, |transaction| transaction.deadline_ns)
    }

    /// Retransmits, gives up or renews, whatever is due.
    pub fn handle_timeout(&mut self, now_ns: u64, rng: &mut ChaCha8Rng) {
        if now_ns < self.poll_timeout() {
            return;
        }
        match &mut self.current {
            None => self.renew(now_ns, rng),
            Some(transaction) if transaction.transmissions < MAX_TRANSMISSIONS => {
                transaction.transmissions += 1;
                transaction.rto_ns *= 2;
                transaction.deadline_ns = now_ns + transaction.rto_ns;
                self.outgoing.push_back(transaction.bytes.clone());
            }
            Some(Transaction { request: Request::Allocate(_), .. }) if self.state == State::Releasing => {
                self.current = None;
                self.allocate_settled(now_ns, rng);
            }
            Some(transaction) => {
                let name = transaction.request.name();
                let wrong_integrity = self.wrong_integrity > 0;
                let reason = if wrong_integrity {
                    SetupError::WrongIntegrity
                } else {
                    SetupError::NoAnswer(name, self.config.transport)
                };
                self.refuse(reason, now_ns, rng);
            }
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
            Outcome::Success { relayed, reservation_token, .. } => {
                let Some(done) = self.current.take() else { return false };
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
                    (403, _, Request::Permission(peer) | Request::ChannelBind(_, peer)) => {
                        SetupError::PeerForbidden(*peer, reason)
                    }
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
        let id = (u128::from(rng.next_u32()) << 64) | u128::from(rng.next_u64());
        let bytes = request.encode(id, self.auth.as_ref());
        if matches!(request, Request::Allocate(_)) {
            self.allocation = Allocation::Unknown;
        }
        self.outgoing.push_back(bytes.clone());
        // RFC 8489 section 6.2.2: over reliable transports nothing is repeated.
        let (rto_ns, transmissions) = if self.config.transport.is_stream() {
            (RELIABLE_PATIENCE_NS, MAX_TRANSMISSIONS)
        } else {
            (RTO_NS, 1)
        };
        let deadline_ns = now_ns + rto_ns;
        self.current = Some(Transaction { id, request, bytes, deadline_ns, rto_ns, transmissions });
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
mod tests {
    use rand::SeedableRng;
    use stun_types::attribute::{ErrorCode, Nonce, Realm};
    use stun_types::message::{
        IntegrityAlgorithm, LongTermCredentials, Message, MessageWrite, MessageWriteExt, MessageWriteVec,
    };
    use turn_types::attribute::XorRelayedAddress;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    struct Pair {
        session: Session,
        rng: ChaCha8Rng,
    }

    impl Pair {
        fn started() -> Self {
            Self::started_over(Transport::Udp)
        }

        fn started_over(transport: Transport) -> Self {
            let config = SessionConfig {
                transport,
                credentials: Some(Credentials::new("u", "p")),
                allocate: AllocateOptions { lifetime_secs: 600, ..AllocateOptions::default() },
                channel: true,
                random_channel: false,
                permission: false,
                refresh_first: false,
                extra_requests: false,
                renew_every_ns: 100 * SECOND,
            };
            let mut pair =
                Self { session: Session::new(Arc::new(config)), rng: ChaCha8Rng::seed_from_u64(7) };
            pair.session.start(0, &mut pair.rng, None, None);
            pair
        }

        fn sent(&mut self) -> Vec<u8> {
            self.session.poll_transmit().expect("a request")
        }

        fn handle(&mut self, answer: &[u8]) -> bool {
            self.session.handle(0, &mut self.rng, answer)
        }

        fn refuse(&mut self, code: u16, nonce: &str) {
            let request = self.sent();
            let request = Message::from_bytes(&request).expect("valid");
            let mut answer = Message::builder_error(&request, MessageWriteVec::new());
            answer.push_attribute_unchecked(&ErrorCode::builder(code).build().expect("known"));
            answer.push_attribute_unchecked(&Realm::new("r").expect("short"));
            answer.push_attribute_unchecked(&Nonce::new(nonce).expect("short"));
            assert!(self.handle(&answer.finish()));
        }

        /// A success answer with integrity of this password.
        fn grant(&mut self, password: &str) {
            let request = self.sent();
            let request = Message::from_bytes(&request).expect("valid");
            let mut answer = Message::builder_success(&request, MessageWriteVec::new());
            let relayed = "192.0.2.1:5000".parse().expect("an address");
            answer.push_attribute_unchecked(&XorRelayedAddress::new(relayed, request.transaction_id()));
            let key = LongTermCredentials::new("u".into(), password.into()).to_key("r".into());
            let key = key.make_key(IntegrityAlgorithm::Sha1);
            answer.add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha1).expect("first");
            assert!(self.handle(&answer.finish()));
        }
    }

    // RFC 8489 section 9.2.3.2, 9.2.5.
    #[test]
    fn a_challenge_is_answered_with_credentials_and_a_stale_nonce_with_the_new_one() {
        let mut pair = Pair::started();
        pair.refuse(401, "n1");
        pair.refuse(438, "n2");
        let request = pair.session.outgoing.front().expect("a third try").clone();
        let request = Message::from_bytes(&request).expect("valid");
        assert_eq!(request.attribute::<Nonce>().expect("present").nonce(), "n2");
        pair.grant("p");
        assert_eq!(*pair.session.state(), State::Allocated);
        assert_eq!(pair.session.relayed(), "192.0.2.1:5000".parse().ok());
    }

    #[test]
    fn a_second_401_means_wrong_credentials() {
        let mut pair = Pair::started();
        pair.refuse(401, "n1");
        pair.refuse(401, "n2");
        assert!(matches!(pair.session.state(), State::Failed(SetupError::WrongCredentials(401, _))));
    }

    #[test]
    fn endless_stale_nonces_end() {
        let mut pair = Pair::started();
        pair.refuse(401, "n");
        (0..=MAX_STALE_NONCES).for_each(|_| pair.refuse(438, "n"));
        assert!(matches!(pair.session.state(), State::Failed(_)));
    }

    // RFC 8489 section 9.2.5: a response with wrong integrity is as if never received.
    #[test]
    fn a_forged_success_is_ignored_and_named_in_the_end() {
        let mut pair = Pair::started();
        pair.refuse(401, "n");
        pair.grant("not p");
        assert_eq!(*pair.session.state(), State::Allocating);
        while *pair.session.state() == State::Allocating {
            let at = pair.session.poll_timeout();
            pair.session.handle_timeout(at, &mut pair.rng);
        }
        assert_eq!(*pair.session.state(), State::Failed(SetupError::WrongIntegrity));
    }

    // RFC 8489 section 6.2.1: 0, 500, 1500, 3500, 7500, 15500, 31500 ms.
    #[test]
    fn requests_are_repeated_at_doubling_intervals_seven_times() {
        let mut pair = Pair::started();
        let first = pair.sent();
        let mut times = Vec::new();
        while *pair.session.state() == State::Allocating {
            let at = pair.session.poll_timeout();
            pair.session.handle_timeout(at, &mut pair.rng);
            if let Some(again) = pair.session.poll_transmit() {
                assert_eq!(again, first);
                times.push(at / 1_000_000);
            }
        }
        assert_eq!(times, [500, 1500, 3500, 7500, 15_500, 31_500]);
        assert_eq!(*pair.session.state(), State::Failed(SetupError::NoAnswer("Allocate", Transport::Udp)));
    }

    // RFC 8489 section 6.2.2.
    #[test]
    fn in_a_stream_no_request_is_repeated() {
        let mut pair = Pair::started_over(Transport::Tcp);
        pair.sent();
        assert_eq!(pair.session.poll_timeout(), 39_500 * SECOND / 1000);
        pair.session.handle_timeout(39_500 * SECOND / 1000, &mut pair.rng);
        assert_eq!(pair.session.poll_transmit(), None);
        assert!(matches!(pair.session.state(), State::Failed(SetupError::NoAnswer(..))));
    }

    #[test]
    fn a_release_of_what_is_gone_already_is_done() {
        let mut pair = Pair::started();
        pair.refuse(401, "n");
        pair.grant("p");
        pair.session.release(0, &mut pair.rng);
        assert_eq!(*pair.session.state(), State::Releasing);
        pair.refuse(437, "n");
        assert_eq!(*pair.session.state(), State::Released);
        assert!(!pair.session.has_allocation());
    }

    /// A session whose signed Allocate is under way.
    fn signed() -> Pair {
        let mut pair = Pair::started();
        pair.refuse(401, "n");
        pair
    }

    #[test]
    fn a_release_waits_for_an_allocate_under_way_and_deletes_what_it_made() {
        let mut pair = signed();
        pair.session.release(0, &mut pair.rng);
        assert!(pair.session.has_allocation());
        pair.grant("p");
        assert_eq!(*pair.session.state(), State::Releasing);
        pair.grant("p");
        assert_eq!(*pair.session.state(), State::Released);
        assert!(pair.session.is_deleted() && !pair.session.has_allocation());
    }

    #[test]
    fn a_release_deletes_what_an_unanswered_allocate_may_have_made() {
        let mut pair = signed();
        pair.sent();
        pair.session.release(0, &mut pair.rng);
        assert_eq!(pair.session.poll_transmit(), None, "the Allocate's answer comes first");
        pair.session.handle_timeout(SECOND, &mut pair.rng);
        let refresh = pair.session.outgoing.front().expect("Refresh 0").clone();
        let refresh = Message::from_bytes(&refresh).expect("valid");
        assert!(refresh.has_method(turn_types::message::REFRESH));
        // It had made nothing.
        pair.refuse(437, "n");
        assert_eq!(*pair.session.state(), State::Released);
        assert!(!pair.session.is_deleted() && !pair.session.has_allocation());
    }

    #[test]
    fn a_release_of_a_refused_allocate_asks_for_nothing_more() {
        let mut pair = signed();
        pair.session.release(0, &mut pair.rng);
        pair.refuse(486, "n");
        assert_eq!(*pair.session.state(), State::Released);
        assert_eq!(pair.session.poll_transmit(), None);
    }

    #[test]
    fn a_server_that_never_answered_is_not_asked_to_release() {
        let mut pair = Pair::started();
        pair.sent();
        pair.session.fail(SetupError::Refused(Transport::Udp));
        pair.session.release(0, &mut pair.rng);
        assert_eq!(*pair.session.state(), State::Released);
        assert_eq!(pair.session.poll_transmit(), None);
    }

    #[test]
    fn a_failed_renewal_is_counted_and_does_not_end_the_session() {
        let mut pair = Pair::started();
        pair.refuse(401, "n");
        pair.grant("p");
        let peer = "192.0.2.9:9".parse().expect("an address");
        pair.session.bind(0, &mut pair.rng, peer);
        pair.grant("p");
        assert_eq!(*pair.session.state(), State::Ready);
        pair.session.handle_timeout(100 * SECOND, &mut pair.rng);
        pair.refuse(500, "n");
        assert_eq!((pair.session.state(), pair.session.renewal_failures()), (&State::Ready, 1));
        pair.grant("p");
    }

    #[test]
    fn answers_to_nothing_and_garbage_are_not_taken() {
        let mut pair = Pair::started();
        let other = Request::Binding.encode(99, None);
        let other = Message::from_bytes(&other).expect("valid");
        let answer = Message::builder_success(&other, MessageWriteVec::new()).finish();
        assert!(!pair.handle(&answer));
        assert!(!pair.handle(&[]));
        assert!(!pair.handle(&[0x01; 19]));
        assert_eq!(*pair.session.state(), State::Allocating);
    }
}
