//! How fast a client takes what is sent to it, seen while more waits than the kernel takes.
//!
//! What was given to the kernel can't be dropped any more, so whoever is slow gets it in small pieces; and the time
//! that the pieces take counts for the age of what is behind them.
//!
//! ```text
//!   media (may be dropped) ─► begun ─► unsent in the kernel ─► on its way
//!                            └──── time to drain: bytes / pace ────┘
//! ```

use super::listener::UNSENT_BYTES;

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
    /// Of a client that does not take everything for the first time.
    pub(super) fn new() -> Pace {
        Pace { bytes_per_sec: 0, sample: None, slow_ns: 0, piece: UNKNOWN_PIECE_BYTES }
    }

    /// So many bytes have left the kernel by now; more wait, and have waited since the last time. `true` if the pace is
    /// another one now.
    pub(super) fn note(&mut self, now_ns: u64, sent: u64) -> bool {
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

    /// Everything was taken. `true` if that has been so for long enough: the client isn't slow any more.
    pub(super) fn note_taken(&mut self, now_ns: u64) -> bool {
        self.sample = None;
        now_ns.saturating_sub(self.slow_ns) > FORGET_NS
    }

    /// Whether there is a measurement.
    pub(super) fn is_known(&self) -> bool {
        self.bytes_per_sec > 0
    }

    /// Bytes of a piece.
    pub(super) fn piece(&self) -> usize {
        self.piece
    }

    /// How long so many bytes take, nanoseconds; 0 if that isn't known.
    pub(super) fn time_ns(&self, bytes: usize) -> u64 {
        match self.bytes_per_sec {
            0 => 0,
            pace => (bytes as u128 * 1_000_000_000 / u128::from(pace)).min(u128::from(u64::MAX)) as u64,
        }
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
