//! Connections with peers (RFC 6062): the listeners of relayed addresses, what comes to them, what is made from them, and
//! what is bound to clients' connections.
//!
//! ```text
//!   connect ─► PeerConnected │ Failed      listen ─► Accepted ─► keep
//!                  └──────────── unread until ───────────────────┘
//!                                   bind ─► a splice, as far as the meter lets it ─► Closed
//! ```
//!
//! All of them are in an epoll instance of their own within the streams' one, of which each turn takes a bounded part. What
//! is relayed is never looked at. It decides nothing about TURN: names, deadlines, and who may connect are the core's.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use foldhash::{HashMap, HashMapExt};
use rustix::event::epoll::EventFlags;
use turnpike_proto::addr::RelayedAddr;
use turnpike_proto::{ConnectionId, PortError, RelaySocket, Way};

use super::listener::PeerListener;
use super::poller::Poller;
use super::splice::{End, PIECE_BYTES, Scratch, Side, Sockets, Splice, Watched, reset, senders};
use super::{READY, connecting};
use crate::kernel::port_error;

/// Connections taken from one relayed address in one turn.
const ACCEPTS_PER_TURN: usize = 8;
/// Without a descriptor for another connection nothing is taken from a listener for so long.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;
/// Bytes that all splices of a worker may hold; above it each reads [`CROWDED_PIECE_BYTES`] at once.
const MAX_HELD_BYTES: usize = 64 << 20;
const CROWDED_PIECE_BYTES: usize = 4 << 10;

/// How many bytes a connection may carry.
pub trait Meter {
    /// How many of `wanted` bytes may be read now, at least one; or when to ask again, on the monotonic clock.
    ///
    /// # Errors
    /// The time to ask again, nanoseconds.
    fn allowance(&self, connection: ConnectionId, way: Way, wanted: usize) -> Result<usize, u64>;

    /// So many bytes were read.
    fn count(&mut self, connection: ConnectionId, way: Way, bytes: usize);
}

/// What happens to connections with peers.
#[derive(Debug)]
pub enum RelayedEvent {
    /// A peer has connected to a relayed address: [`Relayed::keep`] it, or drop it, which resets it.
    Accepted {
        /// The listener.
        relay: RelaySocket,
        /// Its address and port.
        peer: SocketAddr,
        /// Its connection.
        connection: AcceptedPeer,
    },
    /// [`Relayed::connect`] was done.
    Connected(ConnectionId),
    /// [`Relayed::connect`] failed.
    Failed(ConnectionId),
    /// A connection is over, and with it the client's that it was bound to.
    Closed(ConnectionId),
}

/// A peer's connection that nobody has asked for yet.
#[derive(Debug)]
pub struct AcceptedPeer(Option<TcpStream>);

impl Drop for AcceptedPeer {
    fn drop(&mut self) {
        // Nothing of a stranger's connection stays in the kernel.
        if let Some(socket) = &self.0 {
            reset(socket);
        }
    }
}

/// Connections with peers of one worker.
pub struct Relayed {
    poller: Poller,
    /// By the index of their names.
    listeners: HashMap<u32, (RelaySocket, PeerListener)>,
    links: HashMap<ConnectionId, Link>,
    ready: VecDeque<(Source, EventFlags)>,
    /// Ways that the meter holds back, by when it is asked again.
    paused: BTreeSet<(u64, ConnectionId, Side)>,
    /// Listeners from which nothing is taken until then, in order.
    deaf: VecDeque<(u64, u32)>,
    scratch: Scratch,
    /// Bytes that splices hold.
    held: usize,
    max_descriptor: RawFd,
    /// Connections of peers that were closed for want of a descriptor.
    without_descriptor: u64,
}

/// A connection with a peer.
enum Link {
    Connecting(TcpStream),
    /// Nothing is read from it: the kernel takes what the peer sends, as much as its window says.
    Unbound(TcpStream),
    Bound(Box<Bound>),
}

struct Bound {
    splice: Splice,
    client: TcpStream,
    far: TcpStream,
    watched: Watched,
    /// When the meter is asked again about what comes from a side.
    paused: [Option<u64>; 2],
}

/// What is ready, or is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Listener(u32),
    Connection(ConnectionId, Side),
}

impl Source {
    const CLIENT: u64 = 1;
    const FAR: u64 = 2;

    fn token(self) -> u64 {
        match self {
            Source::Listener(index) => u64::from(index),
            Source::Connection(id, Side::Client) => Self::CLIENT << 32 | u64::from(id.0),
            Source::Connection(id, Side::Far) => Self::FAR << 32 | u64::from(id.0),
        }
    }

    fn of(token: u64) -> Source {
        match token >> 32 {
            Self::CLIENT => Source::Connection(ConnectionId(token as u32), Side::Client),
            Self::FAR => Source::Connection(ConnectionId(token as u32), Side::Far),
            _ => Source::Listener(token as u32),
        }
    }
}

/// The way of what an end sends.
fn way_from(side: Side) -> Way {
    match side {
        Side::Client => Way::ToPeer,
        Side::Far => Way::ToClient,
    }
}

impl Relayed {
    /// Sockets get descriptors below `max_descriptor`.
    pub(super) fn new(max_descriptor: RawFd) -> io::Result<Relayed> {
        Ok(Relayed {
            poller: Poller::new()?,
            listeners: HashMap::new(),
            links: HashMap::new(),
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            deaf: VecDeque::new(),
            scratch: Scratch::new(),
            held: 0,
            max_descriptor,
            without_descriptor: 0,
        })
    }

    /// Listens at a relayed address.
    ///
    /// # Errors
    /// Why the port can't be had.
    pub fn listen(&mut self, relay: RelaySocket, address: RelayedAddr) -> Result<(), PortError> {
        let listener = PeerListener::bind(address.0).map_err(|error| port_error(&error))?;
        if !self.may_have(&listener) {
            return Err(port_error(&io::Error::from_raw_os_error(libc::EMFILE)));
        }
        let token = Source::Listener(relay.index).token();
        self.poller.add(&listener, token, EventFlags::IN).map_err(|error| port_error(&error))?;
        self.listeners.insert(relay.index, (relay, listener));
        Ok(())
    }

    /// Listens no more; whether there was such a listener.
    pub fn close_listener(&mut self, relay: RelaySocket) -> bool {
        let is_it = self.listeners.get(&relay.index).is_some_and(|(known, _)| *known == relay);
        if is_it {
            self.listeners.remove(&relay.index);
        }
        is_it
    }

    /// Connects to a peer from a listener's address and port, without waiting.
    ///
    /// # Errors
    /// If that fails at once.
    pub fn connect(&mut self, id: ConnectionId, relay: RelaySocket, peer: SocketAddr) -> io::Result<()> {
        let listener = self.listeners.get(&relay.index).filter(|(known, _)| *known == relay);
        let (_, listener) = listener.ok_or(io::ErrorKind::NotFound)?;
        let socket = listener.connect(peer)?;
        if !self.may_have(&socket) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        self.poller.add(&socket, Source::Connection(id, Side::Far).token(), EventFlags::OUT)?;
        self.links.insert(id, Link::Connecting(socket));
        Ok(())
    }

    /// Keeps a peer's connection under a name.
    ///
    /// # Errors
    /// If it can't be watched.
    pub fn keep(&mut self, id: ConnectionId, mut accepted: AcceptedPeer) -> io::Result<()> {
        let Some(socket) = accepted.0.take() else { return Ok(()) };
        self.poller.add(&socket, Source::Connection(id, Side::Far).token(), EventFlags::empty())?;
        self.links.insert(id, Link::Unbound(socket));
        Ok(())
    }

    /// Closes a connection with a peer, and the client's with it.
    pub fn close(&mut self, id: ConnectionId) {
        let Some(Link::Bound(bound)) = self.links.remove(&id) else { return };
        for (side, paused) in Side::BOTH.into_iter().zip(bound.paused) {
            if let Some(again_ns) = paused {
                self.paused.remove(&(again_ns, id, side));
            }
        }
        self.held -= bound.splice.held();
    }

    /// Connections of peers that were closed for want of a descriptor.
    pub(super) fn without_descriptor(&self) -> u64 {
        self.without_descriptor
    }

    /// From now on the client's connection carries what this one does. `rest` has come from the client already. `false`
    /// if there is no such connection that is unbound.
    pub(super) fn bind(&mut self, id: ConnectionId, (client, end): (TcpStream, End), rest: &[u8]) -> bool {
        let far = match self.links.remove(&id) {
            Some(Link::Unbound(socket)) => socket,
            Some(other) => {
                self.links.insert(id, other);
                return false;
            }
            None => return false,
        };
        let token = Source::Connection(id, Side::Client).token();
        if self.poller.add(&client, token, EventFlags::empty()).is_err() {
            return false;
        }
        let mut splice = Splice::new(end, End::default());
        let sockets = Sockets { client: &client, far: &far };
        if splice.carry_before(Side::Client, rest, sockets).is_err() {
            sockets.reset();
            return false;
        }
        self.held += splice.held();
        let watched = Watched::new([Some(EventFlags::empty()); 2]);
        let bound = Bound { splice, client, far, watched, paused: [None; 2] };
        self.links.insert(id, Link::Bound(Box::new(bound)));
        for side in Side::BOTH {
            // What has come already, and what waits.
            self.ready.push_back((Source::Connection(id, side), EventFlags::IN));
        }
        true
    }

    /// Begins a turn: looks what is ready.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        for (token, flags) in self.poller.ready(READY)? {
            self.ready.push_back((Source::of(token), flags));
        }
        Ok(())
    }

    /// What was put off until now.
    pub(super) fn keep_deadlines(&mut self, now_ns: u64) {
        while let Some((due_ns, id, side)) = self.paused.first().copied().filter(|first| first.0 <= now_ns) {
            self.paused.remove(&(due_ns, id, side));
            if let Some(Link::Bound(bound)) = self.links.get_mut(&id) {
                bound.paused[side as usize] = None;
            }
            self.ready.push_back((Source::Connection(id, side), EventFlags::IN));
        }
        while self.deaf.front().is_some_and(|(due_ns, _)| *due_ns <= now_ns) {
            let Some((_, index)) = self.deaf.pop_front() else { return };
            if let Some((_, listener)) = self.listeners.get(&index) {
                self.poller.change(listener, Source::Listener(index).token(), EventFlags::IN);
            }
        }
    }

    /// When something that was put off is due.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        let (paused, deaf) = (self.paused.first().map(|first| first.0), self.deaf.front().map(|(at, _)| *at));
        // What is ready by a bind has had no turn yet.
        let now = (!self.ready.is_empty()).then_some(0);
        [paused, deaf, now].into_iter().flatten().min()
    }

    /// What has happened since the turn began, with data carried on the way; `None` at the end.
    pub fn next_event(&mut self, now_ns: u64, meter: &mut dyn Meter) -> Option<RelayedEvent> {
        loop {
            let (source, flags) = self.ready.pop_front()?;
            let event = match source {
                Source::Listener(index) => self.accept(now_ns, index),
                Source::Connection(id, side) => self.look(now_ns, id, side, flags, meter),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// The next of the connections that wait at a listener. It is asked again after it, for a bounded number.
    fn accept(&mut self, now_ns: u64, index: u32) -> Option<RelayedEvent> {
        let (relay, listener) = self.listeners.get_mut(&index)?;
        match listener.accept(ACCEPTS_PER_TURN) {
            Ok(Some((socket, peer))) => {
                let relay = *relay;
                self.ready.push_front((Source::Listener(index), EventFlags::IN));
                let may_have = self.may_have(&socket);
                let connection = AcceptedPeer(Some(socket));
                self.without_descriptor += u64::from(!may_have);
                may_have.then_some(RelayedEvent::Accepted { relay, peer, connection })
            }
            Ok(None) => None,
            Err(_) => {
                self.without_descriptor += 1;
                self.poller.change(listener, Source::Listener(index).token(), EventFlags::empty());
                self.deaf.push_back((now_ns + ACCEPT_PAUSE_NS, index));
                None
            }
        }
    }

    fn look(
        &mut self,
        now_ns: u64,
        id: ConnectionId,
        side: Side,
        flags: EventFlags,
        meter: &mut dyn Meter,
    ) -> Option<RelayedEvent> {
        match self.links.get_mut(&id)? {
            Link::Connecting(_) => self.look_whether_connected(id),
            Link::Unbound(_) if flags.intersects(EventFlags::ERR | EventFlags::HUP) => {
                self.close(id);
                Some(RelayedEvent::Closed(id))
            }
            Link::Unbound(_) => None,
            Link::Bound(_) => self.carry(now_ns, id, side, flags, meter),
        }
    }

    fn look_whether_connected(&mut self, id: ConnectionId) -> Option<RelayedEvent> {
        let Some(Link::Connecting(socket)) = self.links.get(&id) else { return None };
        match connecting::is_made(socket) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(_) => {
                self.close(id);
                return Some(RelayedEvent::Failed(id));
            }
        }
        self.poller.change(socket, Source::Connection(id, Side::Far).token(), EventFlags::empty());
        if let Some(Link::Connecting(socket)) = self.links.remove(&id) {
            self.links.insert(id, Link::Unbound(socket));
        }
        Some(RelayedEvent::Connected(id))
    }

    /// Carries what an end has sent, and what waits for it.
    fn carry(
        &mut self,
        now_ns: u64,
        id: ConnectionId,
        side: Side,
        flags: EventFlags,
        meter: &mut dyn Meter,
    ) -> Option<RelayedEvent> {
        let piece = if self.held > MAX_HELD_BYTES { CROWDED_PIECE_BYTES } else { PIECE_BYTES };
        let Some(Link::Bound(bound)) = self.links.get_mut(&id) else { return None };
        let before = bound.splice.held();
        bound.splice.note(side, flags);
        let sockets = Sockets { client: &bound.client, far: &bound.far };
        let mut outcome = sockets.fault(side, flags);
        for from in senders(side, flags) {
            if outcome.is_err() {
                break;
            }
            let (limit, again_ns) = match meter.allowance(id, way_from(from), piece) {
                _ if bound.paused[from as usize].is_some() => (0, None),
                Ok(limit) => (limit, None),
                Err(again_ns) => (0, Some(again_ns)),
            };
            let carried = bound.splice.carry(from, limit, sockets, &mut self.scratch);
            outcome = carried.map(|bytes| meter.count(id, way_from(from), bytes));
            if let Some(again_ns) = again_ns {
                let again_ns = again_ns.max(now_ns + 1);
                bound.paused[from as usize] = Some(again_ns);
                self.paused.insert((again_ns, id, from));
            }
        }
        self.held = self.held + bound.splice.held() - before;
        if outcome.and_then(|()| bound.watch(id, &self.poller)).is_err() {
            bound.sockets().reset();
        } else if !bound.splice.is_over() {
            return None;
        }
        self.close(id);
        Some(RelayedEvent::Closed(id))
    }

    fn may_have(&self, socket: &impl AsFd) -> bool {
        // The system gives the lowest free number.
        socket.as_fd().as_raw_fd() < self.max_descriptor
    }
}

impl Bound {
    fn sockets(&self) -> Sockets<'_> {
        Sockets { client: &self.client, far: &self.far }
    }

    /// Has the poller look for what the ends wait for.
    fn watch(&mut self, id: ConnectionId, poller: &Poller) -> io::Result<()> {
        for side in Side::BOTH {
            let wanted = self.splice.interest(side, self.paused[side as usize].is_none());
            let sockets = Sockets { client: &self.client, far: &self.far };
            self.watched.update(poller, sockets, (side, Source::Connection(id, side).token()), wanted)?;
        }
        Ok(())
    }
}

impl AsFd for Relayed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;

    use turnpike_testkit::becomes_true;

    use super::super::splice::tests::pair;
    use super::*;

    const ID: ConnectionId = ConnectionId(1);

    /// Lets everything pass.
    struct Unmetered;

    impl Meter for Unmetered {
        fn allowance(&self, _: ConnectionId, _: Way, wanted: usize) -> Result<usize, u64> {
            Ok(wanted)
        }

        fn count(&mut self, _: ConnectionId, _: Way, _: usize) {}
    }

    /// A client's connection bound to a peer's: the other ends of both.
    fn bound() -> (Relayed, TcpStream, TcpStream) {
        let mut relayed = Relayed::new(RawFd::MAX).expect("descriptors");
        let ((client, theirs), (far, peer)) = (pair(), pair());
        relayed.keep(ID, AcceptedPeer(Some(far))).expect("it can be watched");
        assert!(relayed.bind(ID, (client, End::default()), b""));
        (relayed, theirs, peer)
    }

    /// One turn: whether anything was ready, and what came of it.
    fn turn(relayed: &mut Relayed) -> (bool, Option<RelayedEvent>) {
        relayed.turn().expect("epoll works");
        let was_ready = !relayed.ready.is_empty();
        (was_ready, relayed.next_event(0, &mut Unmetered))
    }

    #[test]
    fn who_has_ended_while_the_other_side_reads_nothing_is_not_looked_at_again_and_again() {
        let (mut relayed, mut client, mut peer) = bound();
        // The peer has nothing to say, and the client is told.
        peer.shutdown(Shutdown::Write).expect("connected");
        assert!(becomes_true(|| {
            turn(&mut relayed);
            client.set_nonblocking(true).expect("an option");
            matches!(client.read(&mut [0; 8]), Ok(0))
        }));
        // The client talks until nothing more is taken for the peer, then a little more, and ends.
        let mut sent = 0;
        while relayed.held == 0 {
            sent += client.write(&[7; 16 << 10]).unwrap_or(0);
            turn(&mut relayed);
        }
        client.set_nonblocking(false).expect("an option");
        client.write_all(&[7; 100]).expect("there is room");
        sent += 100;
        client.shutdown(Shutdown::Write).expect("connected");
        let Some(Link::Bound(link)) = relayed.links.get(&ID) else { panic!("it is bound") };
        let poller = Poller::new().expect("a descriptor");
        poller.add(&link.client, 0, EventFlags::empty()).expect("it can be watched");
        let has_hung_up =
            || poller.ready(1).expect("epoll works").any(|(_, flags)| flags.contains(EventFlags::HUP));
        assert!(becomes_true(has_hung_up), "its end has come");

        let is_quiet = becomes_true(|| !turn(&mut relayed).0);
        assert!(is_quiet, "a worker would do nothing else");
        let mut heard = 0;
        peer.set_nonblocking(true).expect("an option");
        let is_over = becomes_true(|| {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(len @ 1..) = peer.read(&mut buffer) {
                heard += len;
            }
            matches!(turn(&mut relayed).1, Some(RelayedEvent::Closed(ID)))
        });
        while let Ok(len @ 1..) = peer.read(&mut [0; 4096]) {
            heard += len;
        }
        assert!(is_over && heard == sent, "{heard} of {sent} bytes");
    }
}
