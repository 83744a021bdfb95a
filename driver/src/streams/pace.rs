//! How fast a client takes what is sent to it, seen while more waits than the kernel takes.
//!
//! What was given to the kernel can't be dropped any more, so whoever is slow gets it in small pieces; and the time
//! that the pieces take counts for the age of what is behind them.
//!
//! ```text
//!   media (may be dropped) ─► begun ─► unsent in the kernel ─► on its way
//!                            └──── time to drain: bytes / pace ────┘
//! ```

use std::os::fd::AsFd;

use super::connection::Connection;
use super::listener::UNSENT_BYTES;
use crate::sockets::{set_option, unsent_bytes};

/// A pace is taken over so long at least.
const SAMPLE_NS: u64 = 100_000_000;
/// The kernel has so much time's worth of bytes unsent, and a TLS record holds as much.
const PIECE_NS: u64 = 30_000_000;
/// A piece has so many bytes at least: about a packet.
const MIN_PIECE_BYTES: u64 = 2 << 10;
/// A piece for a client whose pace is not known yet, but that does not take everything at once.
const UNKNOWN_PIECE_BYTES: usize = 4 << 10;
/// A client that has taken all at once for so long is not slow any more.
const FORGET_NS: u64 = 1_000_000_000;

/// What is known of a client that was slow within the last second.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes per second; 0 until it is known.
    bytes_per_sec: u64,
    /// Since when it is measured, and what had left the kernel by then; `None` while the client takes everything.
    sample: Option<(u64, u64)>,
    /// When it did not take everything last.
    slow_ns: u64,
    /// Bytes of a piece.
    piece: usize,
}

impl Pace {
    fn new() -> Pace {
        Pace { bytes_per_sec: 0, sample: None, slow_ns: 0, piece: UNKNOWN_PIECE_BYTES }
    }

    /// So many bytes have left the kernel by now; more wait, and have waited since the last time. `true` if the pace is
    /// another one now.
    fn note(&mut self, now_ns: u64, sent: u64) -> bool {
        self.slow_ns = now_ns;
        let Some((since_ns, sent_before)) = self.sample else {
            self.sample = Some((now_ns, sent));
            return false;
        };
        let (time_ns, bytes) = (now_ns.saturating_sub(since_ns), sent.saturating_sub(sent_before));
        // On a long way nothing leaves for a while: that says nothing.
        if time_ns < SAMPLE_NS || bytes == 0 {
            return false;
        }
        self.sample = Some((now_ns, sent));
        self.bytes_per_sec = (u128::from(bytes) * 1_000_000_000 / u128::from(time_ns)).max(1) as u64;
        let piece = (u128::from(self.bytes_per_sec) * u128::from(PIECE_NS) / 1_000_000_000) as u64;
        self.piece = piece.clamp(MIN_PIECE_BYTES, UNSENT_BYTES as u64) as usize;
        true
    }

    /// How long so many bytes take, nanoseconds; 0 if that isn't known.
    fn time_ns(&self, bytes: usize) -> u64 {
        match self.bytes_per_sec {
            0 => 0,
            pace => (bytes as u128 * 1_000_000_000 / u128::from(pace)).min(u128::from(u64::MAX)) as u64,
        }
    }
}

impl Connection {
    /// The most that is begun at once: a TLS record's plaintext, or what the kernel is given.
    pub(super) fn piece(&self, most: usize) -> usize {
        self.pace.as_ref().map_or(most, |pace| pace.piece.min(most))
    }

    /// How long what the kernel has not sent yet will take, nanoseconds; 0 for a client that isn't slow.
    pub(super) fn ahead_ns(&self) -> u64 {
        let Some(pace) = self.pace.as_ref().filter(|pace| pace.bytes_per_sec > 0) else { return 0 };
        pace.time_ns(unsent_bytes(self.as_fd()).unwrap_or(0))
    }

    /// More waits than the kernel has taken.
    pub(super) fn note_slow(&mut self, now_ns: u64) {
        let Ok(unsent) = unsent_bytes(self.as_fd()) else { return };
        let sent = self.written.saturating_sub(unsent as u64);
        let pace = self.pace.get_or_insert_with(|| Box::new(Pace::new()));
        if pace.note(now_ns, sent) {
            let piece = pace.piece;
            self.set_unsent(piece);
        }
    }

    /// The kernel has taken all there is.
    pub(super) fn note_taken(&mut self, now_ns: u64) {
        let Some(pace) = &mut self.pace else { return };
        pace.sample = None;
        if now_ns.saturating_sub(pace.slow_ns) > FORGET_NS {
            let was_known = pace.bytes_per_sec > 0;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_pace_is_what_left_the_kernel_in_a_tenth_of_a_second() {
        let mut pace = Pace::new();
        assert_eq!(pace.time_ns(1000), 0);
        assert!(!pace.note(0, 500));
        assert!(!pace.note(99 * MS, 20_000));
        assert!(pace.note(100 * MS, 25_500));
        assert_eq!((pace.bytes_per_sec, pace.piece), (250_000, 7500));
        assert_eq!(pace.time_ns(2500), 10 * MS);
        assert!(!pace.note(200 * MS, 25_500), "a window that is closed says nothing");
        assert!(pace.note(300 * MS, 30_500));
        assert_eq!((pace.bytes_per_sec, pace.piece), (25_000, 2048));
        assert!(pace.note(400 * MS, 30_500 + 10_000_000));
        assert_eq!(pace.piece, UNSENT_BYTES as usize);
    }
}
