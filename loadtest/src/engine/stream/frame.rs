//! Where a message ends in a stream (RFC 8656 sections 12.4 and 12.5, RFC 8489 section 5).

/// The magic cookie.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Bytes of a STUN header and of a ChannelData header.
const STUN_HEADER: usize = 20;
const CHANNEL_HEADER: usize = 4;

/// What a stream begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Less than one message.
    Incomplete,
    /// A message of so many bytes, its padding included.
    Whole(usize),
    /// Something that no TURN server sends.
    Invalid,
}

/// Looks at the front of a stream.
pub fn first(bytes: &[u8]) -> Frame {
    let [a, _, c, d, ..] = bytes else { return Frame::Incomplete };
    let length = usize::from(u16::from_be_bytes([*c, *d]));
    let whole = match a {
        // RFC 8656 section 12: channel numbers are 0x4000 to 0x4FFF; section 12.5: padded to 4 in streams.
        0x40..=0x4f => (CHANNEL_HEADER + length).next_multiple_of(4),
        0x00..=0x3f if length % 4 == 0 => STUN_HEADER + length,
        _ => return Frame::Invalid,
    };
    if *a < 0x40 && bytes.len() >= 8 && bytes[4..8] != COOKIE {
        return Frame::Invalid;
    }
    if bytes.len() < whole { Frame::Incomplete } else { Frame::Whole(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Binding success, 5 bytes on a channel with their padding, an empty channel message.
    fn three() -> Vec<u8> {
        let mut stream = vec![0x01, 0x01, 0, 4, 0x21, 0x12, 0xa4, 0x42];
        stream.extend([7; 16]);
        stream.extend([0x40, 0x01, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]);
        stream.extend([0x4f, 0xff, 0, 0]);
        stream
    }

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let stream = three();
        for cut in 0..=stream.len() {
            let (mut found, mut have) = (Vec::new(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                have.extend_from_slice(part);
                while let Frame::Whole(length) = first(&have) {
                    found.push(length);
                    have.drain(..length);
                }
                assert_ne!(first(&have), Frame::Invalid, "cut at {cut}");
            }
            assert_eq!((found, have.len()), (vec![24, 12, 4], 0), "cut at {cut}");
        }
    }

    #[test]
    fn the_longest_lengths_do_not_wrap() {
        for length in 0xfffc..=0xffff_u16 {
            let [high, low] = length.to_be_bytes();
            let mut bytes = vec![0x40, 0, high, low];
            let whole = (4 + usize::from(length)).next_multiple_of(4);
            bytes.resize(whole - 1, 0);
            assert_eq!(first(&bytes), Frame::Incomplete, "{length}");
            bytes.resize(whole, 0);
            assert_eq!(first(&bytes), Frame::Whole(whole), "{length}");
        }
    }

    #[test]
    fn what_no_server_sends_is_invalid() {
        for bytes in [&[0x80, 0, 0, 0][..], &[0x50, 0, 0, 0], &[0x01, 0x01, 0, 3], &[1, 1, 0, 0, 1, 2, 3, 4]]
        {
            assert_eq!(first(bytes), Frame::Invalid, "{bytes:?}");
        }
    }
}
