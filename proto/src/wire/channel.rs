//! The ChannelData header (RFC 8656 s. 12.4): channel number, then the payload's length.

use std::ops::RangeInclusive;

/// The channel numbers of RFC 8656 s. 12.
pub const NUMBERS: RangeInclusive<u16> = 0x4000..=0x4FFF;
/// The channel numbers of RFC 5766 s. 11, which clients written before RFC 8656 choose from.
pub const RFC5766_NUMBERS: RangeInclusive<u16> = 0x4000..=0x7FFF;

/// Bytes of a ChannelData header.
pub const HEADER_LEN: usize = 4;

/// Channel number and payload length in bytes, or `None` if there are fewer than four bytes.
///
/// Says nothing about whether the number is a legal one, nor whether that many bytes follow.
pub fn parse_header(bytes: &[u8]) -> Option<(u16, u16)> {
    let [n0, n1, l0, l1, ..] = *bytes else { return None };
    Some((u16::from_be_bytes([n0, n1]), u16::from_be_bytes([l0, l1])))
}

/// The header for a payload of `len` bytes; padding doesn't count (RFC 8656 s. 12.5).
pub fn header(number: u16, len: u16) -> [u8; HEADER_LEN] {
    let [n0, n1] = number.to_be_bytes();
    let [l0, l1] = len.to_be_bytes();
    [n0, n1, l0, l1]
}

/// Bytes of zeros that follow a payload of `len` bytes over a stream (RFC 8656 s. 12.5).
#[inline]
pub const fn padding(len: usize) -> u8 {
    (len.wrapping_neg() % 4) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8656 s. 12.4
    #[test]
    fn c6_header_is_number_then_length_in_network_order() {
        assert_eq!(header(0x4001, 0x0203), [0x40, 0x01, 0x02, 0x03]);
        assert_eq!(parse_header(&[0x40, 0x01, 0x02, 0x03, 0xFF]), Some((0x4001, 0x0203)));
    }

    // RFC 8656 s. 12.5
    #[test]
    fn c6_padding_fills_up_to_a_multiple_of_four() {
        assert_eq!([0, 1, 2, 3, 4, 5, 65_533, 65_535].map(padding), [0, 3, 2, 1, 0, 3, 3, 1]);
    }

    #[test]
    fn fewer_than_four_bytes_are_no_header() {
        for len in 0..HEADER_LEN {
            assert_eq!(parse_header(&[0x40, 0, 0, 0][..len]), None);
        }
    }
}
