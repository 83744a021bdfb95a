//! Connections that are not TURN's, passed to an address of the operator's as they are.
//!
//! ```text
//!   client ─► what was read to decide ─► to_site ─► site (connected without waiting)
//!   client ◄──────────────────────────── to_client ◄─ site
//! ```
//!
//! No byte is changed. Each direction holds at most one read's bytes: nothing more is read before they are written, so
//! each side is as fast as the other one reads. The end of one direction is passed on as such, the other one goes on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use turnpike_proto::ClientSocket;
use turnpike_proto::wire::proxy::{self, Proxied};

use super::connection::{Connection, Phase};
use super::counters::CloseReason;
use super::poller::{self, Poller};
use super::sorting::IsOwnName;
use super::{StreamLimits, Streams};

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
    chunk: Box<[u8; CHUNK]>,
    /// Bytes moved to the site and to clients.
    pub(super) moved: [u64; 2],
    /// Why the fallback could not be reached the last time.
    fault: Option<io::Error>,
}

/// One of them.
struct Passed {
    site: TcpStream,
    is_connected: bool,
    to_site: Flow,
    to_client: Flow,
    /// What epoll looks for at either side.
    watched: [EventFlags; 2],
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Read and not written yet, from `start` on.
    waiting: Vec<u8>,
    start: usize,
    /// Nothing more comes.
    is_over: bool,
    /// And the other side knows.
    is_told: bool,
}

impl Passing {
    pub(super) fn new(fallback: Fallback) -> io::Result<Passing> {
        let (poller, passed) = (Poller::new()?, HashMap::new());
        Ok(Passing { poller, fallback, passed, chunk: Box::new([0; CHUNK]), moved: [0; 2], fault: None })
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
        let flows = self.passed.values().flat_map(|passed| [&passed.to_site, &passed.to_client]);
        flows.map(|flow| flow.waiting.len() - flow.start).sum()
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
        let to_site = Flow { waiting, ..Flow::default() };
        let watched = [EventFlags::empty(), EventFlags::OUT];
        let token = poller::connection(socket) | SITE;
        self.poller.add(&site, token, EventFlags::OUT).map_err(|_| CloseReason::NoDescriptor)?;
        let to_client = Flow::default();
        self.passed.insert(socket, Passed { site, is_connected: false, to_site, to_client, watched });
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

    /// Moves what there is to move of one connection.
    fn carry(&mut self, socket: ClientSocket, client: &TcpStream) -> Result<(), CloseReason> {
        let Some(passed) = self.passed.get_mut(&socket) else { return Ok(()) };
        if !passed.is_connected {
            match is_connected(&passed.site) {
                Ok(true) => passed.is_connected = true,
                Ok(false) => return Ok(()),
                Err(error) => return Err(self.unreachable(error)),
            }
        }
        let [to_site, to_client] = &mut self.moved;
        passed.to_site.carry(client, &passed.site, &mut self.chunk[..], to_site)?;
        passed.to_client.carry(&passed.site, client, &mut self.chunk[..], to_client)?;
        if passed.to_site.is_told && passed.to_client.is_told {
            return Err(CloseReason::FallbackDone);
        }
        passed.watch(socket, client, &self.poller).map_err(|_| CloseReason::NoDescriptor)
    }
}

impl Passed {
    /// Asks epoll for what can be gone on with. A side of which nothing is wanted is not watched at all: its end would
    /// be reported again and again.
    fn watch(&mut self, socket: ClientSocket, client: &TcpStream, poller: &Poller) -> io::Result<()> {
        let wanted = [wants(&self.to_site, &self.to_client), wants(&self.to_client, &self.to_site)];
        let token = poller::connection(socket);
        let sides = [(client, token), (&self.site, token | SITE)];
        for ((watched, wanted), (side, token)) in self.watched.iter_mut().zip(wanted).zip(sides) {
            match (watched.is_empty(), wanted.is_empty()) {
                (true, true) => {}
                (true, false) => poller.add(side, token, wanted)?,
                (false, true) => poller.remove(side),
                (false, false) if *watched == wanted => {}
                (false, false) => poller.change(side, token, wanted),
            }
            *watched = wanted;
        }
        Ok(())
    }
}

/// What is to be looked for at a side that `from` reads, and `to` writes to.
fn wants(from: &Flow, to: &Flow) -> EventFlags {
    let mut wanted = EventFlags::empty();
    wanted.set(EventFlags::IN, from.waiting.is_empty() && !from.is_over);
    wanted.set(EventFlags::OUT, !to.waiting.is_empty());
    wanted
}

impl Flow {
    /// Moves a bounded number of bytes; adds those that were read to `moved`.
    fn carry(
        &mut self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        chunk: &mut [u8],
        moved: &mut u64,
    ) -> Result<(), CloseReason> {
        for _ in 0..CHUNKS_PER_TURN {
            if !self.drain(to)? || self.is_over {
                break;
            }
            let len = match from.read(chunk) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(super::connection::broken(&error)),
            };
            self.is_over = len == 0;
            *moved += len as u64;
            let written = match to.write(&chunk[..len]) {
                Ok(written) => written,
                Err(error) if is_for_later(&error) => 0,
                Err(error) => return Err(super::connection::broken(&error)),
            };
            self.waiting.extend_from_slice(&chunk[written..len]);
        }
        if self.is_over && self.waiting.is_empty() && !self.is_told {
            self.is_told = true;
            // It may be gone already: then that is seen when it is read.
            let _ = to.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Writes what waits; whether nothing is left.
    fn drain(&mut self, mut to: &TcpStream) -> Result<bool, CloseReason> {
        while self.start < self.waiting.len() {
            match to.write(&self.waiting[self.start..]) {
                Ok(written) => self.start += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(super::connection::broken(&error)),
            }
        }
        // Its memory, too: most connections have nothing waiting.
        (self.waiting, self.start) = (Vec::new(), 0);
        Ok(true)
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A connection that is being made: nobody waits for it.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from(OwnedFd::from(socket)))
}

/// Whether a connection was made; an error if it can't be.
fn is_connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
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
        for (token, _) in passing.poller.ready(SOCKETS_PER_TURN)? {
            let poller::Source::Connection(socket) = poller::source(token & !SITE) else { continue };
            self.carry(now_ns, socket);
        }
        Ok(())
    }

    fn carry(&mut self, now_ns: u64, socket: ClientSocket) {
        let (Some(passing), Some(connection)) = (&mut self.passing, self.table.get_mut(socket)) else {
            return;
        };
        let before = passing.moved;
        let carried = passing.carry(socket, connection.socket());
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
