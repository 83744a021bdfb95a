//! One client's connection: its socket, its TLS, what has come of a message, and what waits to be sent.

use std::io::{self, IoSlice, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use socket2::SockRef;
use turnpike_proto::ClientPath;
use turnpike_proto::addr::{ClientAddr, FiveTuple, Transport};

use super::backlog::Backlog;
use super::counters::CloseReason;
use super::listener::{Offer, Taken, UNSENT_BYTES};
use super::outbound::{Outbound, QueueLimits};
use super::pace::Pace;
use super::splice::End;
use super::tls::{RECORD_BYTES, Session};
use crate::sockets::{set_option, unsent_bytes};

/// Bytes given to the kernel at once: what it has begun to take it takes, however much it has with that.
const WRITE_BYTES: usize = 16 << 10;
/// Times that a connection is written to in one turn; others have theirs then.
const WRITES_PER_TURN: usize = 8;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A trusted proxy's: its header has not come whole.
    Header,
    /// It is not known yet whether it is TLS, or TURN at all.
    First,
    /// TLS agrees on keys.
    Handshake,
    /// No message has come yet.
    Message,
    /// It carries messages.
    Open,
    /// It is not TURN's: the fallback has it.
    Passed,
    /// Nothing is read any more; what waits is sent, then it is closed.
    Closing,
}

/// What is to be done about writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing waits.
    All,
    /// More than the kernel takes now.
    Blocked,
    /// It is over.
    Failed(CloseReason),
}

pub(super) struct Connection {
    socket: TcpStream,
    /// Our side's address.
    server: SocketAddr,
    client: SocketAddr,
    /// The client's own address, as a trusted proxy has named it.
    pub(super) proxied: Option<ClientAddr>,
    offer: Offer,
    pub(super) phase: Phase,
    pub(super) tls: Option<Box<Session>>,
    /// Records that have not come whole.
    pub(super) records: Vec<u8>,
    /// A message that has not come whole.
    pub(super) partial: Vec<u8>,
    pub(super) outbound: Outbound,
    /// What it has to catch up with, if it was paused.
    pub(super) backlog: Option<Box<Backlog>>,
    /// Bytes that the kernel has taken.
    pub(super) written: u64,
    /// What is known of a client that takes them slowly.
    pub(super) pace: Option<Box<Pace>>,
    /// It is in the list of those that have something to send.
    pub(super) is_dirty: bool,
    /// epoll tells when it can be written to.
    pub(super) waits_for_room: bool,
    /// When a message came last.
    pub(super) heard_ns: u64,
    /// Bytes that it counts for among those of what has not come whole.
    pub(super) unfinished: usize,
}

impl Connection {
    /// For what a listener with this address has taken; `phase` is what it begins with.
    pub(super) fn new(
        taken: Taken,
        listener: SocketAddr,
        offer: Offer,
        phase: Phase,
    ) -> Result<Connection, CloseReason> {
        let socket = TcpStream::from(taken.socket);
        let server = match listener.ip().is_unspecified() {
            true => socket.local_addr().map_err(|error| broken(&error))?,
            false => listener,
        };
        Ok(Connection {
            socket,
            server,
            client: taken.peer,
            proxied: None,
            offer,
            phase,
            tls: None,
            records: Vec::new(),
            partial: Vec::new(),
            outbound: Outbound::default(),
            backlog: None,
            written: 0,
            pace: None,
            is_dirty: false,
            waits_for_room: false,
            heard_ns: 0,
            unfinished: 0,
        })
    }

    /// The client's own address: behind a trusted proxy another one than the path's.
    pub(super) fn apparent(&self) -> ClientAddr {
        self.proxied.unwrap_or(ClientAddr(self.client))
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Lets the kernel take all that it has room for: nothing of this connection is ever dropped.
    pub(super) fn take_all_that_fits(&self) {
        // Without it the connection is slower, no more.
        let _ = set_option(self.socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, i32::MAX);
    }

    pub(super) fn offer(&self) -> Offer {
        self.offer
    }

    pub(super) fn path(&self, socket: turnpike_proto::ClientSocket) -> ClientPath {
        let transport = if self.tls.is_some() { Transport::Tls } else { Transport::Tcp };
        let client = ClientAddr(self.client);
        let five_tuple = FiveTuple { client, server: self.server, transport };
        let tls = self.tls.as_ref().and_then(|tls| tls.info());
        ClientPath { five_tuple, socket, tls }
    }

    /// Appends what is there, about `limit` bytes at most. `Some(0)` is the end, `None` nothing at the moment.
    pub(super) fn read(&self, into: &mut Vec<u8>, limit: usize) -> io::Result<Option<usize>> {
        into.reserve(limit);
        loop {
            return match rustix::io::read(&self.socket, spare_capacity(into)) {
                Ok(count) => Ok(Some(count)),
                Err(Errno::AGAIN) => Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Nothing is read from it for now.
    pub(super) fn is_paused(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.is_paused())
    }

    /// What the system has found wrong with it.
    pub(super) fn fault(&self) -> Option<io::Error> {
        self.socket.take_error().ok().flatten()
    }

    /// Bytes of memory that hold what has not come whole.
    pub(super) fn held(&self) -> usize {
        self.records.capacity() + self.partial.capacity()
    }

    /// Sends what waits, as far as the kernel takes it. Counts what was too old.
    pub(super) fn flush(&mut self, now_ns: u64, limits: &QueueLimits, too_old: &mut u64) -> Flushed {
        let flushed = self.write_all(now_ns, limits, too_old);
        match flushed {
            Flushed::All => self.note_taken(now_ns),
            Flushed::Blocked => self.note_slow(now_ns),
            Flushed::Failed(_) => {}
        }
        flushed
    }

    fn write_all(&mut self, now_ns: u64, limits: &QueueLimits, too_old: &mut u64) -> Flushed {
        for _ in 0..WRITES_PER_TURN {
            if !self.outbound.has_begun() {
                // What is ahead of it makes it older. Something is left for a client that seems slower than it is.
                let least_ns = limits.max_age_ns / 3;
                let max_age_ns = limits.max_age_ns.saturating_sub(self.ahead_ns()).max(least_ns);
                *too_old += self.outbound.drop_old(now_ns, &QueueLimits { max_age_ns, ..*limits });
                if self.outbound.is_empty() {
                    return Flushed::All;
                }
                let piece = self.piece(RECORD_BYTES);
                if let Some(tls) = &mut self.tls
                    && !encrypt(tls, piece, &mut self.records, &mut self.outbound)
                {
                    return Flushed::Failed(CloseReason::TlsOther);
                }
            }
            let (written, wanted) = match self.write_once() {
                Ok(outcome) => outcome,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Flushed::Failed(broken(&error)),
            };
            if written < wanted {
                return Flushed::Blocked;
            }
        }
        if self.outbound.is_empty() { Flushed::All } else { Flushed::Blocked }
    }

    /// The most that is begun at once: a TLS record's plaintext, or what the kernel is given.
    pub(super) fn piece(&self, most: usize) -> usize {
        self.pace.as_ref().map_or(most, |pace| pace.piece().min(most))
    }

    /// How long what the kernel has not sent yet and the next piece will take, nanoseconds; 0 for a client that isn't
    /// slow.
    pub(super) fn ahead_ns(&self) -> u64 {
        let Some(pace) = self.pace.as_ref().filter(|pace| pace.is_known()) else { return 0 };
        pace.time_ns(unsent_bytes(self.as_fd()).unwrap_or(0) + pace.piece())
    }

    /// More waits than the kernel has taken.
    fn note_slow(&mut self, now_ns: u64) {
        let Ok(unsent) = unsent_bytes(self.as_fd()) else { return };
        let sent = self.written.saturating_sub(unsent as u64);
        let pace = self.pace.get_or_insert_with(|| Box::new(Pace::new()));
        if pace.note(now_ns, sent) {
            let piece = pace.piece();
            self.set_unsent(piece);
        }
    }

    /// The kernel has taken all there is.
    fn note_taken(&mut self, now_ns: u64) {
        let Some(pace) = self.pace.as_mut() else { return };
        if pace.note_taken(now_ns) {
            let was_known = pace.is_known();
            self.pace = None;
            if was_known {
                self.set_unsent(UNSENT_BYTES as usize);
            }
        }
    }

    fn set_unsent(&self, bytes: usize) {
        // Without it there is more in the kernel, and nothing worse.
        let _ = set_option(self.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes as i32);
    }

    /// One system call; how much it took, of how much.
    fn write_once(&mut self) -> io::Result<(usize, usize)> {
        if self.outbound.has_begun() {
            let begun = self.outbound.begun();
            let (written, wanted) = (self.socket.write(begun)?, begun.len());
            self.written += written as u64;
            self.outbound.advance_begun(written);
            return Ok((written, wanted));
        }
        let [answers, media] = self.outbound.waiting();
        let media = &media[..media.len().min(self.piece(WRITE_BYTES))];
        let wanted = answers.len() + media.len();
        let written = match (answers.is_empty(), media.is_empty()) {
            (true, _) => self.socket.write(media)?,
            (_, true) => self.socket.write(answers)?,
            _ => self.socket.write_vectored(&[IoSlice::new(answers), IoSlice::new(media)])?,
        };
        self.written += written as u64;
        self.outbound.consume(written);
        Ok((written, wanted))
    }

    /// What becomes of it when it carries no messages any more: all that waits goes first. `None` if TLS has failed.
    pub(super) fn take_end(mut self, has_finished: bool) -> Option<(TcpStream, End)> {
        if let Some(tls) = &mut self.tls {
            while self.outbound.waiting().iter().any(|part| !part.is_empty()) {
                encrypt(tls, RECORD_BYTES, &mut self.records, &mut self.outbound).then_some(())?;
            }
        }
        let mut waiting = self.outbound.begun().to_vec();
        self.outbound.waiting().iter().for_each(|part| waiting.extend_from_slice(part));
        self.take_all_that_fits();
        // Who relays is patient: a receiver may pause for as long as it likes.
        let _ = SockRef::from(&self.socket).set_tcp_user_timeout(None);
        let end = End::default().with_tls(self.tls, self.records);
        Some((self.socket, end.with_waiting(waiting).with_finished(has_finished)))
    }

    /// Lets its end be a reset: the system keeps nothing of it, and waits for nobody.
    pub(super) fn reset(&self) {
        // Without it it ends in order, no more.
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Queues the farewell of TLS behind what waits. Counts what was too old.
    pub(super) fn say_goodbye(&mut self, now_ns: u64, limits: &QueueLimits, too_old: &mut u64) -> Flushed {
        let flushed = self.flush(now_ns, limits, too_old);
        if let Some(tls) = &mut self.tls
            && flushed == Flushed::All
            && !tls.is_handshaking()
        {
            tls.close(&mut self.records, self.outbound.begin());
            return self.flush(now_ns, limits, too_old);
        }
        flushed
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One record of about `piece` bytes, or those of one long frame.
fn encrypt(tls: &mut Session, piece: usize, rest: &mut Vec<u8>, outbound: &mut Outbound) -> bool {
    let mut records = std::mem::take(outbound.begin());
    let batch = outbound.batch(piece);
    let len = batch.len();
    let is_written = tls.write(rest, batch, &mut records);
    *outbound.begin() = records;
    if is_written {
        outbound.consume(len);
    }
    is_written
}

/// Why a connection is over that the system has ended.
pub(super) fn broken(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::TimedOut => CloseReason::Unread,
        _ => CloseReason::Broken,
    }
}
