//! Clients that send more than they may: nothing is read from them for a while, so TCP slows them down.
//!
//! What a paused connection has sent stays where it is: what was read already with the connection, the rest in the
//! kernel. Requests wait behind it as they would behind a slow line; so that none of them waits for longer than a
//! client does for its answer, a connection that has been behind for long catches up by losing what may be dropped.
//!
//! ```text
//!   handed out ─► pause ─► (deadline) ─► resume ─► handed out again, then what came behind it ─► read
//! ```

use std::ops::Range;

use turnpike_proto::ClientSocket;

use super::backlog::Backlog;
use super::connection::{Phase, broken};
use super::counters::CloseReason;
use super::{Reading, Streams};

/// A pause lasts for so long at least: a turn of its own for each message would cost more than it is worth. Every
/// bandwidth limit saves up for longer.
const SHORTEST_PAUSE_NS: u64 = 5_000_000;
/// Bytes that were read from all paused connections of a worker: above it nobody is paused, and what exceeds a limit is
/// dropped.
const MAX_HELD_BYTES: usize = 32 << 20;

impl Streams {
    /// Takes back the message that was handed out last: it comes again at `until_ns`, and nothing is read from its
    /// connection before. `false` if it can't wait: the client is behind for too long, or too many are.
    pub fn pause(&mut self, now_ns: u64, message: &Range<usize>, until_ns: u64) -> bool {
        let Some(Reading { socket, end, .. }) = self.reading else { return false };
        let open = self.table.get_mut(socket).filter(|known| known.phase == Phase::Open);
        let Some(connection) = open else { return false };
        let rest = &self.inbox[message.start..];
        let backlog = connection.backlog.get_or_insert_default();
        if self.held + rest.len() > MAX_HELD_BYTES || !backlog.may_wait(now_ns, message.len()) {
            return false;
        }
        connection.partial = rest.to_vec();
        backlog.held = connection.records.capacity() + connection.partial.capacity();
        (backlog.end, backlog.paused_ns) = (end, Some(now_ns));
        self.held += backlog.held;
        self.reading = None;
        self.counters.pauses += 1;
        self.watch_open(socket);
        self.table.set_due(socket, until_ns.max(now_ns + SHORTEST_PAUSE_NS));
        true
    }

    /// Lets a paused connection go on; `false` if it isn't paused.
    pub(super) fn resume(&mut self, now_ns: u64, socket: ClientSocket) -> bool {
        let Some(connection) = self.table.get_mut(socket) else { return false };
        let paused_ns = connection.backlog.as_mut().and_then(|backlog| backlog.paused_ns.take());
        let Some(paused_ns) = paused_ns else { return false };
        self.counters.paused_ns += now_ns.saturating_sub(paused_ns);
        connection.heard_ns = now_ns;
        self.watch_open(socket);
        self.table.set_due(socket, now_ns + self.options.limits.idle_time.as_nanos() as u64);
        self.ready.push_back(socket);
        true
    }

    /// Puts what a connection had to keep back into the inbox; `None` if there is nothing, and it is to be read.
    pub(super) fn take_held(&mut self, socket: ClientSocket) -> Option<Reading> {
        let connection = self.table.get_mut(socket)?;
        let backlog = connection.backlog.as_mut().filter(|backlog| backlog.held > 0)?;
        self.held -= std::mem::take(&mut backlog.held);
        let end = backlog.end.take();
        super::reading::refill(&mut self.inbox, std::mem::take(&mut connection.partial));
        Some(Reading { socket, cursor: 0, end, has_all: false })
    }

    /// A paused connection has broken: what it had yet to say is of no use.
    pub(super) fn end_paused(&mut self, now_ns: u64, socket: ClientSocket) -> bool {
        let paused = self.table.get_mut(socket).filter(|connection| connection.is_paused());
        let Some(connection) = paused else { return false };
        let reason = connection.fault().map_or(CloseReason::Broken, |error| broken(&error));
        self.end(now_ns, socket, reason);
        true
    }

    /// A connection is closed that may have been paused.
    pub(super) fn forget_backlog(&mut self, now_ns: u64, backlog: Option<Box<Backlog>>) {
        let Some(backlog) = backlog else { return };
        self.held -= backlog.held;
        self.counters.paused_ns += backlog.paused_ns.map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
    }
}
