//! How far a connection is behind what its client has sent, since its limit was used up.

use super::counters::CloseReason;

/// A connection may be behind for so long: a client gives up a request after 39.5 s (RFC 8489 s. 6.2.2).
const LONGEST_BACKLOG_NS: u64 = 30_000_000_000;
/// What a connection loses at the most to catch up, bytes: what the send buffer of a client's system holds.
const CATCH_UP_BYTES: usize = 4 << 20;

/// A connection that has been paused since all that it had sent was read.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// It is paused: since when.
    pub(super) paused_ns: Option<u64>,
    /// Bytes of what was read and not handled, among which are whole messages.
    pub(super) held: usize,
    /// Why the connection is over after them.
    pub(super) end: Option<CloseReason>,
    /// When it was paused first.
    since_ns: Option<u64>,
    /// Bytes that it has yet to lose to catch up.
    excess: usize,
}

impl Backlog {
    /// Nothing is read from it for now.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_ns.is_some()
    }

    /// Whether a message of so many bytes may wait.
    pub(super) fn may_wait(&mut self, now_ns: u64, len: usize) -> bool {
        if self.excess > 0 {
            self.excess = self.excess.saturating_sub(len);
            return false;
        }
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since_ns) <= LONGEST_BACKLOG_NS {
            return true;
        }
        (self.since_ns, self.excess) = (None, CATCH_UP_BYTES.saturating_sub(len));
        false
    }
}
