//! The application payload of a test packet.
//!
//! ```text
//!  0        4        8                16                24
//!  | number | tag    | send time, ns  | peer's time, ns | fill ...
//! ```
//! Number and send time are where turnutils_uclient has them. The peer's time exists only with the
//! built-in peer and from 24 bytes on. The tag names trial and flow, so that a packet of an earlier
//! trial or of somebody else is never counted.

use std::sync::LazyLock;

use crate::limits::MAX_FLOWS;

/// Smallest payload: number, tag and send time.
pub const MIN_PAYLOAD: usize = 16;
/// From this size on the built-in peer's time fits.
pub const STAMPED_PAYLOAD: usize = 24;
/// Largest payload: what a UDP datagram holds.
pub const MAX_PAYLOAD: usize = 65_507;
/// Longest shift of the pattern between two flows.
const SHIFTS: usize = 251;

/// What follows the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// turnutils_uclient's: all bytes 0x07.
    Sevens,
    /// turnutils_uclient's for invalid packets: all bytes 0xA5.
    Invalid,
    /// A pattern that differs between flows, so that mixed-up or shifted data is noticed.
    Pattern,
}

static SEVENS: [u8; MAX_PAYLOAD] = [7; MAX_PAYLOAD];
static INVALID: [u8; MAX_PAYLOAD] = [0xa5; MAX_PAYLOAD];
static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..MAX_PAYLOAD + SHIFTS).map(|n| (n.wrapping_mul(167) >> 3) as u8).collect());

impl Fill {
    /// The fill of flow `flow`, `len` bytes (at most [`MAX_PAYLOAD`]).
    pub fn bytes(self, flow: u32, len: usize) -> &'static [u8] {
        match self {
            Self::Sevens => &SEVENS[..len],
            Self::Invalid => &INVALID[..len],
            Self::Pattern => &PATTERN[flow as usize % SHIFTS..][..len],
        }
    }
}

/// The header of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Low 32 bits of the packet's number within its flow.
    pub number: u32,
    /// Trial and flow, see [`tag`].
    pub tag: u32,
    /// When it was sent, monotonic ns.
    pub sent_ns: u64,
}

/// The tag of a flow in a trial.
pub fn tag(trial: u32, flow: u32) -> u32 {
    (trial << 20) | (flow & (MAX_FLOWS as u32 - 1))
}

/// The flow of a tag.
pub fn tag_flow(tag: u32) -> usize {
    tag as usize & (MAX_FLOWS - 1)
}

/// The trial of a tag (12 bits).
pub fn tag_trial(tag: u32) -> u32 {
    tag >> 20
}

impl Header {
    /// Writes the header; `buffer` has at least [`MIN_PAYLOAD`] bytes.
    pub fn write(self, buffer: &mut [u8]) {
        buffer[0..4].copy_from_slice(&self.number.to_ne_bytes());
        buffer[4..8].copy_from_slice(&self.tag.to_ne_bytes());
        buffer[8..16].copy_from_slice(&self.sent_ns.to_ne_bytes());
    }

    /// Reads a header, `None` if the payload is too short for one.
    pub fn read(payload: &[u8]) -> Option<Self> {
        Some(Self {
            number: u32::from_ne_bytes(payload.get(0..4)?.try_into().ok()?),
            tag: u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?),
            sent_ns: read_time(payload, 8)?,
        })
    }
}

/// Reads a time at `offset`, ns.
pub fn read_time(payload: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(payload.get(offset..offset + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_and_short_payloads_are_refused() {
        let header = Header { number: 7, tag: tag(5, 99), sent_ns: 123_456_789_012 };
        let mut buffer = [0; MIN_PAYLOAD];
        header.write(&mut buffer);
        assert_eq!(Header::read(&buffer), Some(header));
        assert_eq!((tag_trial(header.tag), tag_flow(header.tag)), (5, 99));
        assert_eq!(Header::read(&buffer[..15]), None);
    }

    #[test]
    fn fills_of_neighbouring_flows_differ() {
        assert_ne!(Fill::Pattern.bytes(1, 32), Fill::Pattern.bytes(2, 32));
        assert_eq!(Fill::Pattern.bytes(250, MAX_PAYLOAD).len(), MAX_PAYLOAD);
        assert!(Fill::Sevens.bytes(3, 84).iter().all(|&byte| byte == 7));
    }
}
