//! Whether a worker keeps up with what arrives.
//!
//! Decides two things: what has waited for too long to be of use to anybody, and whether strangers are to come
//! last for a while.

use std::time::Duration;

use turnpike_proto::Now;

/// A client's datagram that has waited for this long in a listener says that the worker doesn't keep up,
/// microseconds: below what a call notices, above what a busy machine's scheduler does now and then.
const BEHIND_US: u32 = 10_000;
/// How long a sign of being behind counts, nanoseconds.
const SIGN_NS: u64 = 100_000_000;

/// How late a worker is.
pub(crate) struct Lag {
    /// Data that has waited for longer is dropped, microseconds.
    max_us: u32,
    /// The longest that a client's datagram of this turn has waited, microseconds.
    longest_us: u32,
    /// Until when the last sign counts, on the monotonic clock.
    behind_until_ns: Option<u64>,
}

impl Lag {
    /// Data may wait for `max`; zero is no bound.
    pub(crate) fn new(max: Duration) -> Self {
        let max_us = match max.is_zero() {
            true => u32::MAX,
            false => u32::try_from(max.as_micros()).unwrap_or(u32::MAX),
        };
        Self { max_us, longest_us: 0, behind_until_ns: None }
    }

    /// Whether what has waited for so long is too late.
    pub(crate) fn is_late(&self, waited_us: u32) -> bool {
        waited_us > self.max_us
    }

    /// A datagram came from a listener, after so long.
    pub(crate) fn note(&mut self, waited_us: u32) {
        self.longest_us = self.longest_us.max(waited_us);
    }

    /// At the end of a turn: whether the worker is behind, if that has changed. `overflowed` says that a socket's
    /// buffer was full.
    pub(crate) fn end_turn(&mut self, now: Now, overflowed: bool) -> Option<bool> {
        let was_behind = self.behind_until_ns.is_some();
        if overflowed || self.longest_us > BEHIND_US {
            self.behind_until_ns = Some(now.mono_ns + SIGN_NS);
        } else if self.behind_until_ns.is_some_and(|until_ns| until_ns <= now.mono_ns) {
            self.behind_until_ns = None;
        }
        self.longest_us = 0;
        let is_behind = self.behind_until_ns.is_some();
        (is_behind != was_behind).then_some(is_behind)
    }
}

/// Whether bytes from a client are data: too late they are of no use, while a request is repeated until it is
/// answered.
pub(crate) fn is_data(bytes: &[u8]) -> bool {
    // RFC 8656 s. 12 and RFC 5766: channels; RFC 8489 s. 5: a Send indication.
    matches!(bytes, [0x40..=0x7f, ..] | [0x00, 0x16, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Now {
        Now { mono_ns: millis * 1_000_000, unix_secs: 0 }
    }

    #[test]
    fn a_worker_is_behind_until_no_sign_has_come_for_a_while() {
        let mut lag = Lag::new(Duration::from_millis(200));
        lag.note(BEHIND_US);
        assert_eq!(lag.end_turn(at(0), false), None);
        lag.note(BEHIND_US + 1);
        lag.note(5);
        assert_eq!(lag.end_turn(at(1), false), Some(true));
        assert_eq!(lag.end_turn(at(50), true), None, "it still is");
        assert_eq!(lag.end_turn(at(149), false), None);
        assert_eq!(lag.end_turn(at(150), false), Some(false));
        assert_eq!(lag.end_turn(at(151), true), Some(true), "a full buffer is a sign, too");
    }

    #[test]
    fn what_is_late_is_configured() {
        assert!(!Lag::new(Duration::from_millis(200)).is_late(200_000));
        assert!(Lag::new(Duration::from_millis(200)).is_late(200_001));
        assert!(!Lag::new(Duration::ZERO).is_late(u32::MAX));
    }

    #[test]
    fn requests_are_no_data() {
        for data in [&[0x40, 0, 0, 0][..], &[0x4f, 0xff], &[0x00, 0x16, 0, 0]] {
            assert!(is_data(data), "{data:?}");
        }
        for other in [&[0x00, 0x01][..], &[0x00, 0x03], &[0x00, 0x08], &[], &[0x00]] {
            assert!(!is_data(other), "{other:?}");
        }
    }
}
