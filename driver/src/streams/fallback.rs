//! Connections that are not TURN's, passed to an address of the operator's as they are.
//!
//! ```text
//!   client ─► what was read to decide ─► splice ─► site (connected without waiting)
//!          ◄───────────────────────────        ◄─
//! ```
//!
//! No byte is changed: a splice carries them, as it does those of relayed connections ([`super::splice`]).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use turnpike_proto::ClientSocket;
use turnpike_proto::wire::proxy::{self, Proxied};

use super::connection::{Connection, Phase, broken};
use super::counters::CloseReason;
use super::poller::{self, Poller};
use super::sorting::IsOwnName;
use super::splice::{End, Scratch, Side, Sockets, Splice, Watched, senders};
use super::{StreamLimits, Streams, connecting};

/// The fallback has so long to take a connection: it is close by.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Without a byte in either direction a connection is closed: longer than servers of websites keep one.
const IDLE_TIME: Duration = Duration::from_secs(600);
/// Bytes read at once, and so the most that waits in one direction.
const CHUNK: usize = 16 << 10;
/// Chunks moved in one direction in one turn; TURN's clients have theirs then.
const CHUNKS_PER_TURN: usize = 2;
/// Sockets looked at in one turn.
pub(super) const SOCKETS_PER_TURN: usize = 8;
/// Of all connections that a worker may have, this part may be passed on: each takes two descriptors.
const SHARE: usize = 4;
/// Marks the side of the site in a token: no connection has an index as large.
const SITE: u64 = 1 << 31;

/// Where connections go that are not TURN's.
#[derive(Clone)]
pub struct Fallback {
    /// The server that takes them.
    pub to: SocketAddr,
    /// Which names mean TURN.
    pub is_own_name: IsOwnName,
    /// Each connection to it begins with a header of the PROXY protocol, version 2, that says who the client is.
    pub proxy_header: bool,
}

/// All connections of a worker that are passed on.
pub(super) struct Passing {
    pub(super) poller: Poller,
    fallback: Fallback,
    passed: HashMap<ClientSocket, Passed>,
    scratch: Scratch,
    /// Bytes that clients and the site have sent.
    pub(super) moved: [u64; 2],
    /// Why the fallback could not be reached the last time.
    fault: Option<io::Error>,
}

/// One of them.
struct Passed {
    site: TcpStream,
    is_connected: bool,
    splice: Splice,
    watched: Watched,
}

impl Passing {
    pub(super) fn new(fallback: Fallback) -> io::Result<Passing> {
        let (poller, passed) = (Poller::new()?, HashMap::new());
        Ok(Passing { poller, fallback, passed, scratch: Scratch::new(), moved: [0; 2], fault: None })
    }

    pub(super) fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    pub(super) fn len(&self) -> usize {
        self.passed.len()
    }

    /// Bytes that wait to be written, at either side.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.passed.values().map(|passed| passed.splice.held()).sum()
    }

    pub(super) fn fault(&self) -> Option<(SocketAddr, &io::Error)> {
        self.fault.as_ref().map(|fault| (self.fallback.to, fault))
    }

    /// Forgets a connection; the site's side is closed by that.
    pub(super) fn remove(&mut self, socket: ClientSocket) {
        self.passed.remove(&socket);
    }

    /// Begins to pass a connection on, with what has come of it.
    fn begin(
        &mut self,
        socket: ClientSocket,
        connection: &Connection,
        begun: &[u8],
        limits: &StreamLimits,
    ) -> Result<(), CloseReason> {
        if self.passed.len() >= (limits.total / SHARE).max(1) {
            return Err(CloseReason::FallbackCap);
        }
        let site = connect(self.fallback.to).map_err(|error| self.unreachable(error))?;
        if site.as_raw_fd() >= limits.max_descriptor {
            return Err(CloseReason::NoDescriptor);
        }
        let mut waiting = Vec::new();
        if self.fallback.proxy_header {
            let (source, destination) = (connection.apparent().0, connection.server());
            waiting = proxy::write(&Proxied { source, destination, is_stream: true });
        }
        waiting.extend_from_slice(begun);
        self.moved[0] += begun.len() as u64;
        let watched = Watched::new([None, Some(EventFlags::OUT)]);
        self.poller
            .add(&site, token(socket, Side::Far), EventFlags::OUT)
            .map_err(|_| CloseReason::NoDescriptor)?;
        let splice = Splice::new(End::default(), End::default().with_waiting(waiting));
        self.passed.insert(socket, Passed { site, is_connected: false, splice, watched });
        Ok(())
    }

    fn unreachable(&mut self, error: io::Error) -> CloseReason {
        let reason = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => CloseReason::NoDescriptor,
            _ => CloseReason::FallbackUnreachable,
        };
        self.fault = Some(error);
        reason
    }

    /// Carries what can go on of one connection, of which this is reported.
    fn carry(
        &mut self,
        socket: ClientSocket,
        client: &TcpStream,
        side: Side,
        flags: EventFlags,
    ) -> Result<(), CloseReason> {
        let Some(passed) = self.passed.get_mut(&socket) else { return Ok(()) };
        if !passed.is_connected {
            match connecting::is_made(&passed.site) {
                Ok(true) => passed.is_connected = true,
                Ok(false) => return Ok(()),
                Err(error) => return Err(self.unreachable(error)),
            }
        }
        let sockets = Sockets { client, far: &passed.site };
        let carried =
            carry_chunks(&mut passed.splice, sockets, (side, flags), &mut self.scratch, &mut self.moved);
        carried.map_err(|error| {
            sockets.reset();
            broken(&error)
        })?;
        if passed.splice.is_over() {
            return Err(CloseReason::FallbackDone);
        }
        for side in Side::BOTH {
            let wanted = passed.splice.interest(side, true);
            let watched = passed.watched.update(&self.poller, sockets, (side, token(socket, side)), wanted);
            watched.map_err(|_| CloseReason::NoDescriptor)?;
        }
        Ok(())
    }
}

/// Carries so much that others have their turn; adds what was read to `moved`.
fn carry_chunks(
    splice: &mut Splice,
    sockets: Sockets<'_>,
    (side, flags): (Side, EventFlags),
    scratch: &mut Scratch,
    moved: &mut [u64; 2],
) -> io::Result<()> {
    splice.note(side, flags);
    sockets.fault(side, flags)?;
    for from in senders(side, flags) {
        for _ in 0..CHUNKS_PER_TURN {
            let carried = splice.carry(from, CHUNK, sockets, scratch)?;
            moved[from as usize] += carried as u64;
            if carried == 0 {
                break;
            }
        }
    }
    Ok(())
}

fn token(socket: ClientSocket, side: Side) -> u64 {
    let site = if side == Side::Far { SITE } else { 0 };
    poller::connection(socket) | site
}

/// A connection that is being made: nobody waits for it.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    connecting::begin(socket, to)
}

impl Streams {
    /// Passes a connection on that is not TURN's, with what has come of it.
    pub(super) fn pass(&mut self, now_ns: u64, socket: ClientSocket) -> Result<(), CloseReason> {
        let (Some(passing), Some(connection)) = (&mut self.passing, self.table.get_mut(socket)) else {
            return Ok(());
        };
        passing.begin(socket, connection, &self.inbox, &self.options.limits)?;
        self.new.remove(&*connection);
        connection.phase = Phase::Passed;
        connection.heard_ns = now_ns;
        connection.take_all_that_fits();
        self.counters.fallback_accepted += 1;
        self.table.set_open(socket, now_ns + CONNECT_TIME.as_nanos() as u64);
        Ok(())
    }

    /// Moves what connections that are passed on have to be moved, a bounded part of it.
    pub(super) fn carry_passed(&mut self, now_ns: u64) -> io::Result<()> {
        let Some(passing) = &self.passing else { return Ok(()) };
        for (token, flags) in passing.poller.ready(SOCKETS_PER_TURN)? {
            let poller::Source::Connection(socket) = poller::source(token & !SITE) else { continue };
            let side = if token & SITE == 0 { Side::Client } else { Side::Far };
            self.carry(now_ns, socket, side, flags);
        }
        Ok(())
    }

    fn carry(&mut self, now_ns: u64, socket: ClientSocket, side: Side, flags: EventFlags) {
        let (Some(passing), Some(connection)) = (&mut self.passing, self.table.get_mut(socket)) else {
            return;
        };
        let before = passing.moved;
        let carried = passing.carry(socket, connection.socket(), side, flags);
        if passing.moved != before {
            connection.heard_ns = now_ns;
        }
        if let Err(reason) = carried {
            self.end(now_ns, socket, reason);
        }
    }

    /// A connection's time has come; closes it, or says when to look again.
    pub(super) fn keep_passed(&mut self, now_ns: u64, socket: ClientSocket) {
        let Some(connection) = self.table.get_mut(socket) else { return };
        let idle_at_ns = connection.heard_ns + IDLE_TIME.as_nanos() as u64;
        let is_connected = self
            .passing
            .as_ref()
            .is_some_and(|passing| passing.passed.get(&socket).is_some_and(|passed| passed.is_connected));
        match (is_connected, idle_at_ns > now_ns) {
            (false, _) => self.end(now_ns, socket, CloseReason::FallbackTimeout),
            (true, false) => self.end(now_ns, socket, CloseReason::Idle),
            (true, true) => self.table.set_due(socket, idle_at_ns),
        }
    }

    /// Where the fallback is, and why it could not be reached the last time.
    pub fn fallback_fault(&self) -> Option<(SocketAddr, &io::Error)> {
        self.passing.as_ref()?.fault()
    }
}
