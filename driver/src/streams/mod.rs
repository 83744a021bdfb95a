//! Clients over TCP and TLS: connections carried in the worker that took them.
//!
//! One epoll descriptor has all of a worker's stream sockets; a driver watches it ([`Driver::watch`](crate::Driver))
//! and says [`Event::StreamsReady`](crate::Event). So both drivers have the same streams, and who has none pays
//! nothing.
//!
//! ```text
//!   turn ─► accept, deadlines ─► next_event: read ─► TLS ─► frames ─► Message, Idle, Closed
//!   send_media, send_answer ─► a queue per connection ─► flush: one write, or record, after another
//!   a trusted proxy's header (proxy) is read first; what is not TURN's (sorting) may go elsewhere (fallback)
//! ```
//!
//! A connection that has not sent a message yet is watched by an epoll descriptor within that one, and by another one
//! once TLS has answered it. Of both each turn takes few, and makes very few signatures: those of many handshakes never
//! stand in the way of those who talk, and beginnings not in the way of handshakes that go on.
//!
//! It decides nothing about TURN: which connections are idle, and what is an answer, its caller says.

mod backlog;
mod connecting;
mod connection;
mod counters;
mod fallback;
mod listener;
mod moving;
mod outbound;
mod pace;
mod pauses;
mod poller;
mod proxy;
mod reading;
mod relayed;
mod sorting;
mod splice;
mod table;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustls::ServerConfig;
use turnpike_proto::addr::ClientAddr;
use turnpike_proto::{ClientPath, ClientSocket};

use self::connection::{Connection, Flushed, Phase};
pub use self::counters::{CloseCounts, CloseReason, HandshakeCounts, StreamCounters};
pub use self::fallback::Fallback;
use self::fallback::Passing;
pub use self::listener::{Offer, StreamListener, bind_stream_listeners};
pub use self::moving::Detached;
pub use self::outbound::{Dropped, QueueLimits};
use self::poller::Poller;
pub use self::proxy::IsProxy;
pub use self::relayed::{AcceptedPeer, Meter, Relayed, RelayedEvent};
pub use self::sorting::IsOwnName;
use self::table::{Stage, Table};

/// Sockets looked at in one turn; epoll reports those left out first the next time.
const READY: usize = 32;
/// New connections looked at in one turn, some microseconds each.
const NEW_PER_TURN: usize = 32;
/// Handshakes begun in one turn: each wants a signature, some 100 µs (ECDSA) to 1 ms (RSA).
const SIGNATURES_PER_TURN: usize = 2;
/// Handshakes gone on with in one turn, up to 100 µs each.
const ANSWERED_PER_TURN: usize = 4;
/// Connections taken in one turn.
const ACCEPTS_PER_TURN: usize = 32;
/// Deadlines kept in one turn.
const DUE_PER_TURN: usize = 64;
/// Without a descriptor for another connection nothing is taken for so long.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;
/// What is queued for a client that reads is sent for so long after [`Streams::stop`].
const GOODBYE_NS: u64 = 1_000_000_000;
/// Bytes queued for all clients of a worker; above it each has [`CROWDED_MEDIA_BYTES`].
const MAX_QUEUED_BYTES: usize = 64 << 20;
const CROWDED_MEDIA_BYTES: usize = 16 << 10;

/// The certificate and versions for handshakes that begin now.
pub type TlsConfig = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// How many connections a worker has, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Connections in total.
    pub total: usize,
    /// Connections from one IPv4 address, or one /64.
    pub per_source: usize,
    /// Connections that have not sent a message yet; an old one makes room for a new one.
    pub opening: usize,
    /// The same from one IPv4 address, or one /64; there the new one is refused.
    pub opening_per_source: usize,
    /// Until a TLS handshake is done, and then until the first message has come.
    pub opening_time: Duration,
    /// After this long without a message it is asked whether a connection carries anything.
    pub idle_time: Duration,
    /// Connections have descriptors below this number: the rest is for everything else.
    pub max_descriptor: RawFd,
}

impl Default for StreamLimits {
    /// 16,384: some 100 MB of memory with TLS. 4096: a company behind one address. 1024 and 256: half a second of
    /// handshakes. 5 s: a request over a bad line. 60 s: longer than a client takes from its first question to an
    /// allocation.
    fn default() -> Self {
        Self {
            total: 16_384,
            per_source: 4096,
            opening: 1024,
            opening_per_source: 256,
            opening_time: Duration::from_secs(5),
            idle_time: Duration::from_secs(60),
            max_descriptor: RawFd::MAX,
        }
    }
}

/// What a worker's streams are made of.
#[derive(Clone, Default)]
pub struct StreamOptions {
    /// Bounds of connections.
    pub limits: StreamLimits,
    /// Bounds of what waits to be sent.
    pub queue: QueueLimits,
    /// How TLS is spoken; without it it is not offered.
    pub tls: Option<TlsConfig>,
    /// Whose connections begin with a header of the PROXY protocol.
    pub proxies: Option<IsProxy>,
    /// Who takes what is not TURN's on listeners for TLS.
    pub fallback: Option<Fallback>,
}

/// What streams report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// A STUN message, or ChannelData without its padding.
    Message {
        /// Who sent it.
        path: ClientPath,
        /// The client's own address: behind a trusted proxy another one than the path's.
        client: ClientAddr,
        /// Where [`Streams::bytes`] has it, until the next event.
        bytes: Range<usize>,
    },
    /// No message has come for [`StreamLimits::idle_time`]: [`Streams::close`] it if it carries nothing.
    Idle(ClientPath),
    /// Media that was queued for a client did not reach it.
    Dropped {
        /// Who it was for.
        path: ClientPath,
        /// How many frames, and why.
        drops: Dropped,
    },
    /// A connection that had sent a message is over.
    Closed {
        /// Whose it was.
        path: ClientPath,
        /// Why.
        reason: CloseReason,
    },
}

/// The connections of one worker.
pub struct Streams {
    /// Listeners, the other pollers, and connections that have sent a message.
    poller: Poller,
    /// Connections of which TLS has answered none.
    new: Poller,
    /// Those that it has, before their first message.
    answered: Poller,
    listeners: Vec<StreamListener>,
    /// Nothing is taken until then.
    accept_again_ns: Option<u64>,
    table: Table,
    /// Connections that the fallback has, where there is one.
    passing: Option<Passing>,
    /// Connections with peers, and the clients' that carry what they do.
    relayed: Relayed,
    options: StreamOptions,
    /// Connections that have something to read in this turn.
    ready: VecDeque<ClientSocket>,
    /// New ones that may be looked at in this turn, as long as a signature is left.
    looks_left: usize,
    signatures_left: usize,
    /// The one whose messages are handed out.
    reading: Option<Reading>,
    /// Its bytes, without TLS.
    inbox: Vec<u8>,
    /// TLS records as they came.
    records: Vec<u8>,
    /// Bytes held by connections for what has not come whole.
    unfinished: usize,
    /// Bytes that paused connections have sent, and that were read.
    held: usize,
    /// Bytes that wait to be sent.
    queued: usize,
    told: VecDeque<StreamEvent>,
    /// Connections that have something to send.
    dirty: Vec<ClientSocket>,
    counters: StreamCounters,
}

/// Messages of one connection that are being handed out.
#[derive(Clone, Copy)]
struct Reading {
    socket: ClientSocket,
    /// Where the next message begins.
    cursor: usize,
    /// Why it is closed after them.
    end: Option<CloseReason>,
    /// The kernel had nothing beyond them.
    has_all: bool,
}

impl Streams {
    /// Streams that take connections from these listeners.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn new(listeners: Vec<StreamListener>, options: StreamOptions) -> io::Result<Streams> {
        let [poller, new, answered] = [Poller::new()?, Poller::new()?, Poller::new()?];
        poller.add(&new, poller::NEW, EventFlags::IN)?;
        poller.add(&answered, poller::ANSWERED, EventFlags::IN)?;
        let relayed = Relayed::new(options.limits.max_descriptor)?;
        poller.add(&relayed, poller::RELAYED, EventFlags::IN)?;
        for (place, listener) in listeners.iter().enumerate() {
            poller.add(listener, poller::listener(place), EventFlags::IN)?;
        }
        let passing = options.fallback.clone().map(Passing::new).transpose()?;
        if let Some(passing) = &passing {
            poller.add(&passing.poller, poller::PASSING, EventFlags::IN)?;
        }
        Ok(Streams {
            poller,
            new,
            answered,
            listeners,
            accept_again_ns: None,
            table: Table::new(),
            passing,
            relayed,
            options,
            ready: VecDeque::new(),
            looks_left: 0,
            signatures_left: 0,
            reading: None,
            inbox: Vec::new(),
            records: Vec::new(),
            unfinished: 0,
            held: 0,
            queued: 0,
            told: VecDeque::new(),
            dirty: Vec::new(),
            counters: StreamCounters::default(),
        })
    }

    /// Begins a turn: `is_ready` says whether the driver has reported [`Event::StreamsReady`](crate::Event).
    ///
    /// # Errors
    /// If waiting is impossible: a fault of the process.
    pub fn turn(&mut self, now_ns: u64, is_ready: bool) -> io::Result<()> {
        self.keep_deadlines(now_ns);
        self.relayed.keep_deadlines(now_ns);
        (self.looks_left, self.signatures_left) = (0, SIGNATURES_PER_TURN);
        if is_ready {
            let mut accepts = ACCEPTS_PER_TURN;
            for (token, flags) in self.poller.ready(READY)? {
                match poller::source(token) {
                    poller::Source::New => self.looks_left = NEW_PER_TURN,
                    poller::Source::Answered => {
                        for (token, flags) in self.answered.ready(ANSWERED_PER_TURN)? {
                            self.note_ready(now_ns, token, flags);
                        }
                    }
                    poller::Source::Passing => self.carry_passed(now_ns)?,
                    poller::Source::Relayed => self.relayed.turn()?,
                    poller::Source::Listener(place) => self.accept(now_ns, place, &mut accepts),
                    poller::Source::Connection(_) => self.note_ready(now_ns, token, flags),
                }
            }
        }
        Ok(())
    }

    /// The next connection that has something to read.
    fn next_ready(&mut self) -> Option<ClientSocket> {
        if let Some(socket) = self.ready.pop_front() {
            return Some(socket);
        }
        if self.signatures_left == 0 || self.looks_left == 0 {
            return None;
        }
        self.looks_left -= 1;
        // One at a time: what isn't looked at keeps its place. An error of epoll's is seen by the next turn.
        let (token, _) = self.new.ready(1).ok()?.next()?;
        match poller::source(token) {
            poller::Source::Connection(socket) => Some(socket),
            _ => None,
        }
    }

    fn note_ready(&mut self, now_ns: u64, token: u64, flags: EventFlags) {
        let poller::Source::Connection(socket) = poller::source(token) else { return };
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) && self.end_paused(now_ns, socket) {
            return;
        }
        if flags.contains(EventFlags::OUT) {
            self.mark_dirty(socket);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.ready.push_back(socket);
        }
    }

    /// The bytes of a [`StreamEvent::Message`].
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.inbox[range.clone()]
    }

    /// Queues something that may be dropped, given in two parts, with so many zeros (at most 3) behind. `false` if the
    /// connection is closed.
    pub fn send_media(
        &mut self,
        now_ns: u64,
        socket: ClientSocket,
        parts: [&[u8]; 2],
        padding_len: u8,
    ) -> bool {
        let mut limits = self.options.queue;
        if self.queued > MAX_QUEUED_BYTES {
            limits.max_media_bytes = limits.max_media_bytes.min(CROWDED_MEDIA_BYTES);
        }
        let Some(connection) = self.table.get_mut(socket).filter(|known| known.phase == Phase::Open) else {
            self.counters.dropped_closed += 1;
            return false;
        };
        let before = connection.outbound.len();
        let padding_len = usize::from(padding_len).min(3);
        let drops = connection.outbound.push_media(now_ns, parts, padding_len, &limits);
        self.queued = self.queued - before + connection.outbound.len();
        let path = connection.path(socket);
        self.tell_dropped(path, drops);
        self.wants_to_send(socket);
        true
    }

    /// Queues an answer, which is never dropped: a client that does not read its answers loses its connection. `false`
    /// if that is closed.
    pub fn send_answer(&mut self, now_ns: u64, socket: ClientSocket, answer: &[u8]) -> bool {
        let Some(connection) = self.table.get_mut(socket).filter(|known| known.phase == Phase::Open) else {
            self.counters.dropped_closed += 1;
            return false;
        };
        let before = connection.outbound.len();
        if !connection.outbound.push_answer(answer, &self.options.queue) {
            self.end(now_ns, socket, CloseReason::AnswersFull);
            return false;
        }
        self.queued = self.queued - before + connection.outbound.len();
        self.wants_to_send(socket);
        true
    }

    fn tell_dropped(&mut self, path: ClientPath, drops: Dropped) {
        if drops != Dropped::default() {
            self.counters.dropped_full += drops.full;
            self.counters.dropped_old += drops.old;
            self.counters.dropped_closed += drops.closed;
            self.told.push_back(StreamEvent::Dropped { path, drops });
        }
    }

    /// Something was queued: epoll tells when there is room, if there was none.
    fn wants_to_send(&mut self, socket: ClientSocket) {
        if self.table.get_mut(socket).is_some_and(|connection| !connection.waits_for_room) {
            self.mark_dirty(socket);
        }
    }

    fn mark_dirty(&mut self, socket: ClientSocket) {
        if let Some(connection) = self.table.get_mut(socket)
            && !std::mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push(socket);
        }
    }

    /// Sends what is queued, as far as clients take it.
    pub fn flush(&mut self, now_ns: u64) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for socket in dirty.drain(..) {
            self.flush_one(now_ns, socket);
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn flush_one(&mut self, now_ns: u64, socket: ClientSocket) {
        let Some(connection) = self.table.get_mut(socket) else { return };
        connection.is_dirty = false;
        let before = connection.outbound.len();
        let mut old = 0;
        let flushed = connection.flush(now_ns, &self.options.queue, &mut old);
        self.queued = self.queued - before + connection.outbound.len();
        let (path, is_closing) = (connection.path(socket), connection.phase == Phase::Closing);
        self.tell_dropped(path, Dropped { old, ..Dropped::default() });
        match flushed {
            Flushed::Failed(reason) => self.end(now_ns, socket, reason),
            Flushed::All if is_closing => self.end(now_ns, socket, CloseReason::ByRelay),
            _ => self.wait_for_room(socket, flushed == Flushed::Blocked),
        }
    }

    /// Asks epoll for when it can be written to, or no longer.
    fn wait_for_room(&mut self, socket: ClientSocket, wants: bool) {
        let stage = self.table.stage(socket);
        let Some(connection) = self.table.get_mut(socket) else { return };
        if connection.waits_for_room != wants {
            connection.waits_for_room = wants;
            let poller = match stage {
                Some(Stage::New) => &self.new,
                Some(Stage::Answered) => &self.answered,
                _ => &self.poller,
            };
            poller.change(&*connection, poller::connection(socket), interest(connection));
        }
    }

    /// Asks epoll for what a connection that has sent a message is waiting for now.
    fn watch_open(&mut self, socket: ClientSocket) {
        let Some(connection) = self.table.get_mut(socket) else { return };
        self.poller.change(&*connection, poller::connection(socket), interest(connection));
    }

    /// Closes a connection, after what waits for it, as far as the client takes that at once.
    pub fn close(&mut self, now_ns: u64, socket: ClientSocket, reason: CloseReason) {
        self.end(now_ns, socket, reason);
    }

    /// The listeners, for another process that goes on with them.
    pub fn listeners(&self) -> &[StreamListener] {
        &self.listeners
    }

    /// Takes no more connections: another process has the listeners.
    pub fn leave_listeners(&mut self) {
        self.accept_again_ns = None;
        // Closing is not enough while that process has them.
        std::mem::take(&mut self.listeners).iter().for_each(|listener| self.poller.remove(listener));
    }

    /// Takes no more connections, and ends those that there are; those of clients that read are sent what waits first.
    pub fn stop(&mut self, now_ns: u64) {
        self.listeners = Vec::new();
        self.accept_again_ns = None;
        for socket in self.table.names() {
            let Some(connection) = self.table.get_mut(socket) else { continue };
            if connection.phase != Phase::Open {
                self.end(now_ns, socket, CloseReason::ByRelay);
                continue;
            }
            let before = connection.outbound.len();
            let mut drops = Dropped::default();
            let flushed = connection.say_goodbye(now_ns, &self.options.queue, &mut drops.old);
            self.queued = self.queued - before + connection.outbound.len();
            let path = connection.path(socket);
            self.tell_dropped(path, drops);
            match flushed {
                Flushed::Blocked => self.begin_goodbye(now_ns, socket),
                _ => self.end(now_ns, socket, CloseReason::ByRelay),
            }
        }
    }

    /// What waits for a client is sent as it takes it, for a while; nothing more is read.
    fn begin_goodbye(&mut self, now_ns: u64, socket: ClientSocket) {
        let Some(connection) = self.table.get_mut(socket) else { return };
        let path = connection.path(socket);
        let open =
            if connection.tls.is_some() { &mut self.counters.open_tls } else { &mut self.counters.open_tcp };
        *open -= 1;
        (connection.phase, connection.waits_for_room) = (Phase::Closing, true);
        self.told.push_back(StreamEvent::Closed { path, reason: CloseReason::ByRelay });
        self.watch_open(socket);
        self.table.set_due(socket, now_ns + GOODBYE_NS);
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0 && self.told.is_empty()
    }

    /// When [`Streams::turn`] is to be called at the latest, on the monotonic clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        let due = [self.table.next_due_ns(), self.accept_again_ns, self.relayed.next_due_ns()];
        due.into_iter().flatten().min()
    }

    /// Connections with peers.
    pub fn relayed(&mut self) -> &mut Relayed {
        &mut self.relayed
    }

    /// What was counted, and what there is.
    pub fn counters(&self) -> StreamCounters {
        let passing = self.passing.as_ref();
        let mut counters = StreamCounters {
            opening: self.table.opening() as u64,
            fallback_open: passing.map_or(0, Passing::len) as u64,
            fallback_bytes: passing.map_or([0; 2], |passing| passing.moved),
            ..self.counters
        };
        counters.closed.count_more(CloseReason::NoDescriptor, self.relayed.without_descriptor());
        counters
    }

    fn keep_deadlines(&mut self, now_ns: u64) {
        if self.accept_again_ns.is_some_and(|again_ns| again_ns <= now_ns) {
            self.accept_again_ns = None;
            for (place, listener) in self.listeners.iter().enumerate() {
                self.poller.change(listener, poller::listener(place), EventFlags::IN);
            }
        }
        for _ in 0..DUE_PER_TURN {
            let Some(socket) = self.table.due(now_ns) else { return };
            let Some(phase) = self.table.get_mut(socket).map(|connection| connection.phase) else { return };
            match phase {
                Phase::Header | Phase::First | Phase::Message => {
                    self.end(now_ns, socket, CloseReason::MessageTimeout)
                }
                Phase::Handshake => self.end(now_ns, socket, CloseReason::HandshakeTimeout),
                Phase::Closing => self.end(now_ns, socket, CloseReason::ByRelay),
                Phase::Passed => self.keep_passed(now_ns, socket),
                Phase::Open if self.resume(now_ns, socket) => {}
                Phase::Open => {
                    let Some(connection) = self.table.get_mut(socket) else { return };
                    let idle_ns = self.options.limits.idle_time.as_nanos() as u64;
                    let idle_at_ns = connection.heard_ns + idle_ns;
                    if idle_at_ns <= now_ns {
                        let path = connection.path(socket);
                        self.told.push_back(StreamEvent::Idle(path));
                    }
                    self.table
                        .set_due(socket, if idle_at_ns > now_ns { idle_at_ns } else { now_ns + idle_ns });
                }
            }
        }
    }

    fn accept(&mut self, now_ns: u64, place: usize, budget: &mut usize) {
        while *budget > 0 && self.accept_again_ns.is_none() {
            *budget -= 1;
            let Some(listener) = self.listeners.get(place) else { return };
            match listener.accept() {
                Ok(None) => return,
                Ok(Some(taken)) => {
                    let (server, offer) = (listener.local_addr(), listener.offer());
                    let is_proxy = |ip| self.options.proxies.as_ref().is_some_and(|is_proxy| is_proxy(ip));
                    let phase = if is_proxy(taken.peer.ip()) { Phase::Header } else { Phase::First };
                    let connection = Connection::new(taken, server, offer, phase);
                    if let Err(reason) = connection.and_then(|connection| self.admit(now_ns, connection)) {
                        self.counters.closed.count(reason);
                    }
                }
                Err(_) => {
                    self.counters.closed.count(CloseReason::NoDescriptor);
                    self.accept_again_ns = Some(now_ns + ACCEPT_PAUSE_NS);
                    for (place, listener) in self.listeners.iter().enumerate() {
                        self.poller.change(listener, poller::listener(place), EventFlags::empty());
                    }
                }
            }
        }
    }

    fn admit(&mut self, now_ns: u64, connection: Connection) -> Result<(), CloseReason> {
        let limits = &self.options.limits;
        // The system gives the lowest free number.
        if connection.as_fd().as_raw_fd() >= limits.max_descriptor {
            return Err(CloseReason::NoDescriptor);
        }
        let client = Some(connection.apparent().0.ip()).filter(|_| connection.phase != Phase::Header);
        self.table.admit(client, limits)?;
        if self.table.opening() >= limits.opening
            && let Some(displaced) = self.table.to_displace(limits.opening)
        {
            self.end(now_ns, displaced, CloseReason::Displaced);
        }
        let due_ns = now_ns + self.options.limits.opening_time.as_nanos() as u64;
        let socket = self.table.insert(connection, client, due_ns);
        let connection = self.table.get_mut(socket).expect("it was put there just now");
        if self.new.add(&*connection, poller::connection(socket), EventFlags::IN).is_err() {
            self.table.remove(socket);
            return Err(CloseReason::NoDescriptor);
        }
        self.counters.accepted += 1;
        Ok(())
    }

    /// Ends a connection now.
    fn end(&mut self, now_ns: u64, socket: ClientSocket, reason: CloseReason) {
        let Some(mut connection) = self.table.remove(socket) else { return };
        if let Some(passing) = self.passing.as_mut().filter(|_| connection.phase == Phase::Passed) {
            passing.remove(socket);
        }
        let before = connection.outbound.len();
        let mut drops = Dropped::default();
        match reason {
            CloseReason::Broken | CloseReason::Unread => {}
            CloseReason::Displaced => connection.reset(),
            // The last answer, or the alert that says why. Whoever doesn't take it at once goes without.
            _ => drop(connection.say_goodbye(now_ns, &self.options.queue, &mut drops.old)),
        }
        drops.closed = connection.outbound.frames();
        self.tell_dropped(connection.path(socket), drops);
        self.tell_closed(&connection, socket, reason);
        self.queued -= before;
        self.unfinished -= connection.unfinished;
        self.forget_backlog(now_ns, connection.backlog.take());
        self.counters.closed.count(reason);
    }

    /// Tells once of a connection that carried messages that it doesn't any more.
    fn tell_closed(&mut self, connection: &Connection, socket: ClientSocket, reason: CloseReason) {
        if connection.phase != Phase::Open {
            return;
        }
        *self.counters.open_of(connection.tls.is_some()) -= 1;
        self.told.push_back(StreamEvent::Closed { path: connection.path(socket), reason });
    }
}

impl AsFd for Streams {
    /// What a driver has to watch.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

fn interest(connection: &Connection) -> EventFlags {
    let is_closing = connection.phase == Phase::Closing;
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, !is_closing && !connection.is_paused());
    flags.set(EventFlags::OUT, is_closing || connection.waits_for_room);
    flags
}
