//! From what a connection has sent to messages.

use rustix::event::epoll::EventFlags;
use turnpike_proto::ClientSocket;
use turnpike_proto::limits::MAX_REQUEST;
use turnpike_proto::wire::framer::{self, Frame};
use turnpike_proto::wire::proxy;

use super::connection::{Phase, broken};
use super::counters::CloseReason;
use super::sorting::{Sorted, TLS_HANDSHAKE, sort};
use super::table::Stage;
use super::tls::Session;
use super::{Reading, StreamEvent, Streams, poller};

/// Read from a connection in one turn: a record of TLS, or a dozen packets; others have theirs then.
const READ_BYTES: usize = 16 << 10;
/// TLS records, and handshake messages joined of several, that have not come whole: more is none of TLS.
const MAX_RECORDS_BYTES: usize = 68 << 10;
/// What has not come whole of all connections of a worker.
const MAX_UNFINISHED_BYTES: usize = 32 << 20;

/// Begins a buffer with what was left of a connection's. One that a long message has made large is given back.
pub(super) fn refill(buffer: &mut Vec<u8>, rest: Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(2 * READ_BYTES);
    buffer.extend_from_slice(&rest);
}

impl Streams {
    /// What has happened since [`Streams::turn`]; `None` at the end.
    pub fn next_event(&mut self, now_ns: u64) -> Option<StreamEvent> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Some(event);
            }
            match self.reading.take() {
                Some(reading) => {
                    if let Some(message) = self.next_message(now_ns, reading) {
                        return Some(message);
                    }
                }
                None => {
                    let socket = self.next_ready()?;
                    if let Err(reason) = self.read(now_ns, socket) {
                        self.end(now_ns, socket, reason);
                    }
                }
            }
        }
    }

    /// Reads once, and decrypts; what came stands in the inbox.
    fn read(&mut self, now_ns: u64, socket: ClientSocket) -> Result<(), CloseReason> {
        let Some(connection) = self.table.get_mut(socket) else { return Ok(()) };
        match connection.phase {
            Phase::Closing => return Err(CloseReason::ByRelay),
            Phase::Passed => return Ok(()),
            _ => {}
        }
        if connection.is_paused() {
            // It was among the ready before.
            return Ok(());
        }
        if let Some(held) = self.take_held(socket) {
            self.reading = Some(held);
            return Ok(());
        }
        let Some(connection) = self.table.get_mut(socket) else { return Ok(()) };
        self.unfinished -= std::mem::take(&mut connection.unfinished);
        refill(&mut self.inbox, std::mem::take(&mut connection.partial));
        refill(&mut self.records, std::mem::take(&mut connection.records));
        let into = if connection.tls.is_some() { &mut self.records } else { &mut self.inbox };
        let (count, end) = match connection.read(into, READ_BYTES) {
            Ok(Some(0)) => (0, Some(CloseReason::ByClient)),
            Ok(count) => (count.unwrap_or(0), None),
            Err(error) => (0, Some(broken(&error))),
        };
        if !self.begin(now_ns, socket)? {
            return self.keep_beginning(socket, end);
        }
        let end = self.decrypt(now_ns, socket).or(end);
        self.reading = Some(Reading { socket, cursor: 0, end, has_all: count < READ_BYTES });
        Ok(())
    }

    /// Looks at what a connection begins with: its proxy's header, and whether it is TURN's. Whether there are messages
    /// to be looked for.
    fn begin(&mut self, now_ns: u64, socket: ClientSocket) -> Result<bool, CloseReason> {
        let phase = |streams: &mut Streams| streams.table.get_mut(socket).map(|known| known.phase);
        if phase(self) == Some(Phase::Header) && !self.take_header(socket)? {
            return Ok(false);
        }
        match phase(self) {
            Some(Phase::First) => self.decide(now_ns, socket),
            _ => Ok(true),
        }
    }

    /// Keeps what doesn't say yet whom a connection is for.
    fn keep_beginning(&mut self, socket: ClientSocket, end: Option<CloseReason>) -> Result<(), CloseReason> {
        let known = self.table.get_mut(socket).filter(|known| known.phase != Phase::Passed);
        let Some(connection) = known else { return Ok(()) };
        connection.partial.clone_from(&self.inbox);
        connection.unfinished = connection.held();
        self.unfinished += connection.unfinished;
        match end {
            Some(reason) => Err(reason),
            None if self.unfinished > MAX_UNFINISHED_BYTES => Err(CloseReason::PartialBytes),
            None => Ok(()),
        }
    }

    /// Whether it is TLS, and whether it is TURN's; if not, the fallback has it. `false` if it can't be said yet.
    fn decide(&mut self, now_ns: u64, socket: ClientSocket) -> Result<bool, CloseReason> {
        let Some(connection) = self.table.get_mut(socket) else { return Ok(false) };
        let Some(first) = self.inbox.first() else { return Ok(false) };
        let offer = connection.offer();
        if proxy::is_header(&self.inbox) {
            return Err(CloseReason::ProxyUntrusted);
        }
        if let (Some(passing), Some(tls), true) = (&self.passing, &self.options.tls, offer.tls) {
            match sort(&self.inbox, &tls().alpn_protocols, &passing.fallback().is_own_name) {
                Sorted::NotYet => return Ok(false),
                Sorted::Fallback => return self.pass(now_ns, socket).map(|()| false),
                Sorted::Turn => {}
            }
        }
        if *first != TLS_HANDSHAKE {
            connection.phase = Phase::Message;
            return if offer.plain { Ok(true) } else { Err(CloseReason::PlainNotOffered) };
        }
        let config = self.options.tls.as_ref().filter(|_| offer.tls).ok_or(CloseReason::TlsNotOffered)?;
        connection.tls = Some(Box::new(Session::new(config())?));
        connection.phase = Phase::Handshake;
        std::mem::swap(&mut self.inbox, &mut self.records);
        Ok(true)
    }

    /// Gives the records to TLS, if the connection has it; why it is over, if it is.
    fn decrypt(&mut self, now_ns: u64, socket: ClientSocket) -> Option<CloseReason> {
        let connection = self.table.get_mut(socket)?;
        let tls = connection.tls.as_mut()?;
        let before = connection.outbound.len();
        let progress = tls.read(&mut self.records, &mut self.inbox, connection.outbound.begin());
        self.queued = self.queued - before + connection.outbound.len();
        connection.records = self.records[progress.consumed..].to_vec();
        let end = match progress.fault {
            Some(fault) => Some(fault),
            None if progress.is_over => Some(CloseReason::ByClient),
            None if connection.records.len() > MAX_RECORDS_BYTES => Some(CloseReason::NotTls),
            None => None,
        };
        let has_to_send = !connection.outbound.is_empty();
        let is_done = connection.phase == Phase::Handshake && !tls.is_handshaking();
        if is_done && end.is_none() {
            connection.phase = Phase::Message;
            if let Some(info) = tls.info() {
                self.counters.handshakes.count(info.version, tls.is_resumed());
            }
            let due_ns = now_ns + self.options.limits.opening_time.as_nanos() as u64;
            self.table.set_due(socket, due_ns);
        }
        if has_to_send {
            self.mark_dirty(socket);
        }
        match end {
            None if has_to_send => self.note_answered(socket),
            end => end,
        }
    }

    /// TLS has something for a client: the first time it has cost a signature, and the connection is none of the new
    /// ones any more. Why it is over, if it is.
    fn note_answered(&mut self, socket: ClientSocket) -> Option<CloseReason> {
        if self.table.stage(socket) != Some(Stage::New) {
            return None;
        }
        self.signatures_left = self.signatures_left.saturating_sub(1);
        self.table.set_answered(socket);
        let connection = self.table.get_mut(socket)?;
        self.new.remove(&*connection);
        connection.waits_for_room = false;
        let added = self.answered.add(&*connection, poller::connection(socket), EventFlags::IN);
        added.err().map(|_| CloseReason::NoDescriptor)
    }

    /// The next message of the inbox; after the last one it keeps the rest, or ends the connection.
    fn next_message(&mut self, now_ns: u64, mut reading: Reading) -> Option<StreamEvent> {
        let socket = reading.socket;
        // It may have been closed because of a message before.
        let connection = self.table.get_mut(socket)?;
        let rest = &self.inbox[reading.cursor..];
        match framer::next(rest) {
            Frame::Message { len, consumed } => {
                connection.heard_ns = now_ns;
                let is_first = connection.phase == Phase::Message;
                if is_first && len > MAX_REQUEST {
                    return self.end_reading(now_ns, socket, CloseReason::TooLong);
                }
                let bytes = reading.cursor..reading.cursor + len;
                let (path, client) = (connection.path(socket), connection.apparent());
                reading.cursor += consumed;
                self.reading = Some(reading);
                if is_first {
                    self.open(now_ns, socket);
                }
                Some(StreamEvent::Message { path, client, bytes })
            }
            Frame::Need(needed) => {
                let is_too_long = connection.phase == Phase::Message && needed > MAX_REQUEST;
                connection.partial = rest.to_vec();
                if reading.has_all {
                    connection.backlog = None;
                }
                connection.unfinished = connection.held();
                self.unfinished += connection.unfinished;
                if let Some(reason) = reading.end {
                    return self.end_reading(now_ns, socket, reason);
                }
                if is_too_long {
                    return self.end_reading(now_ns, socket, CloseReason::TooLong);
                }
                if self.unfinished > MAX_UNFINISHED_BYTES {
                    return self.end_reading(now_ns, socket, CloseReason::PartialBytes);
                }
                None
            }
            Frame::Invalid => self.end_reading(now_ns, socket, CloseReason::NotTurn),
        }
    }

    fn end_reading(&mut self, now_ns: u64, socket: ClientSocket, reason: CloseReason) -> Option<StreamEvent> {
        self.end(now_ns, socket, reason);
        None
    }

    /// A connection's first message has come: from now on it is one of those that talk.
    fn open(&mut self, now_ns: u64, socket: ClientSocket) {
        let idle_ns = self.options.limits.idle_time.as_nanos() as u64;
        let poller = match self.table.stage(socket) {
            Some(Stage::Answered) => &self.answered,
            _ => &self.new,
        };
        self.table.set_open(socket, now_ns + idle_ns);
        let Some(connection) = self.table.get_mut(socket) else { return };
        connection.phase = Phase::Open;
        match connection.tls {
            Some(_) => self.counters.open_tls += 1,
            None => self.counters.open_tcp += 1,
        }
        poller.remove(&*connection);
        connection.waits_for_room = false;
        if self.poller.add(&*connection, poller::connection(socket), EventFlags::IN).is_err() {
            self.end(now_ns, socket, CloseReason::NoDescriptor);
        } else {
            self.mark_dirty(socket);
        }
    }
}
