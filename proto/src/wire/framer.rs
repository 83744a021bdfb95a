//! Cutting a stream into messages (RFC 8489 s. 6.2.2, RFC 8656 s. 12.5).
//!
//! Decides where a message ends, and whether what begins here can be one at all. It keeps no bytes: whoever has
//! them asks again when there are more. What a message means, or whether it is welcome, others decide.
//!
//! ```text
//!   0b00 type │ length, multiple of 4 │ cookie │ transaction id │ attributes           STUN
//!   0b01 channel number │ length │ data │ 0 to 3 bytes of padding, which count nowhere ChannelData
//! ```

use super::{HEADER_LEN, MAGIC_COOKIE, channel};
use crate::limits::MAX_STUN_MESSAGE;

/// Most bytes that one message of a stream has, its padding included.
pub const MAX_FRAME: usize = MAX_STUN_MESSAGE;

// The longest ChannelData with its padding is shorter.
const _: () = assert!(MAX_FRAME >= (channel::HEADER_LEN + u16::MAX as usize).next_multiple_of(4));

/// Bytes up to which nothing is known of a message's length.
const PREFIX_LEN: usize = 4;

/// What a stream begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Not all of it is there: nothing can be said before there are so many bytes, which are at most [`MAX_FRAME`].
    /// Who has no allocation needs no more than [`MAX_REQUEST`](crate::limits::MAX_REQUEST) of them.
    Need(usize),
    /// One message.
    Message {
        /// Bytes of the message itself: STUN, or ChannelData without its padding.
        len: usize,
        /// Bytes after which the next message begins.
        consumed: usize,
    },
    /// Neither STUN nor ChannelData: where the next message begins can't be known, so the connection is of no use
    /// any more.
    Invalid,
}

/// What the unread bytes of a stream begin with; what is there is enough to refuse it, as soon as it is.
///
/// The channel numbers that only RFC 5766 has are cut out as well, since their lengths are known: whether such
/// ChannelData goes on is the core's to say (RFC 8656 s. 12).
pub fn next(bytes: &[u8]) -> Frame {
    let Some(&first) = bytes.first() else { return Frame::Need(PREFIX_LEN) };
    // The first two bits tell them apart (RFC 8656 s. 12).
    let is_stun = match first >> 6 {
        0b00 => true,
        0b01 => false,
        _ => return Frame::Invalid,
    };
    let Some(&[_, _, l0, l1]) = bytes.first_chunk::<PREFIX_LEN>() else { return Frame::Need(PREFIX_LEN) };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let (len, consumed) = if is_stun {
        let cookie = MAGIC_COOKIE.to_be_bytes();
        let there = &bytes[PREFIX_LEN..bytes.len().min(PREFIX_LEN + cookie.len())];
        // RFC 8489 s. 5: attributes are padded, so the length is a multiple of four.
        if !length.is_multiple_of(4) || !cookie.starts_with(there) {
            return Frame::Invalid;
        }
        (HEADER_LEN + length, HEADER_LEN + length)
    } else {
        let len = channel::HEADER_LEN + length;
        (len, len.next_multiple_of(4))
    };
    match bytes.len() >= consumed {
        true => Frame::Message { len, consumed },
        false => Frame::Need(consumed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Message, MessageBuilder, TransactionId, attr, method};

    /// What a careful reader makes of a stream that comes in these pieces; `None` if it has to be closed.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
        let (mut unread, mut messages) = (Vec::new(), Vec::new());
        for piece in pieces {
            unread.extend_from_slice(piece);
            loop {
                match next(&unread) {
                    Frame::Need(needed) => {
                        assert!(needed > unread.len() && needed <= MAX_FRAME);
                        break;
                    }
                    Frame::Message { len, consumed } => {
                        messages.push(unread[..len].to_vec());
                        unread.drain(..consumed);
                    }
                    Frame::Invalid => return None,
                }
            }
        }
        Some((messages, unread))
    }

    fn stun(data: &[u8]) -> Vec<u8> {
        MessageBuilder::indication(method::SEND, TransactionId([7; 12]))
            .xor_address(attr::XOR_PEER_ADDRESS, "192.0.2.7:4000".parse().expect("an address"))
            .attribute(attr::DATA, data)
            .finish()
    }

    fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
        [&channel::header(number, data.len() as u16), data].concat()
    }

    fn padded(mut message: Vec<u8>, with: u8) -> Vec<u8> {
        message.resize(message.len().next_multiple_of(4), with);
        message
    }

    /// A message as a client sends it: itself, and what is on the wire.
    fn message() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let data = || prop::collection::vec(any::<u8>(), 0..40);
        let of_channel = (0x4000u16..=0x7FFF, data(), any::<u8>()).prop_map(|(number, data, padding)| {
            let message = channel_data(number, &data);
            (message.clone(), padded(message, padding))
        });
        prop_oneof![data().prop_map(|data| (stun(&data), stun(&data))), of_channel]
    }

    proptest! {
        // RFC 8489 s. 6.2.2
        #[test]
        fn s27_however_a_stream_is_split_and_merged_its_messages_are_the_same(
            messages in prop::collection::vec(message(), 0..8),
            sizes in prop::collection::vec(1usize..60, 1..20),
        ) {
            let wire: Vec<u8> = messages.iter().flat_map(|(_, wire)| wire).copied().collect();
            let expected: Vec<_> = messages.into_iter().map(|(message, _)| message).collect();
            let mut rest = &wire[..];
            let pieces = sizes.iter().cycle().map_while(|size| {
                let (piece, behind) = rest.split_at_checked((*size).min(rest.len()))?;
                rest = behind;
                (!piece.is_empty()).then_some(piece)
            });
            prop_assert_eq!(read(pieces), Some((expected.clone(), vec![])));
            for at in 0..=wire.len() {
                let (before, behind) = wire.split_at(at);
                prop_assert_eq!(read([before, behind]), Some((expected.clone(), vec![])));
            }
        }

        #[test]
        fn s27_more_bytes_never_change_what_was_said(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let whole = next(&bytes);
            for len in 0..bytes.len() {
                match next(&bytes[..len]) {
                    Frame::Need(needed) => prop_assert!(needed > len),
                    said => prop_assert_eq!(said, whole),
                }
            }
        }
    }

    #[test]
    fn s27_byte_by_byte() {
        let wire = [stun(b"abc"), padded(channel_data(0x4001, b"hello"), 0), stun(b"")].concat();
        let messages = vec![stun(b"abc"), channel_data(0x4001, b"hello"), stun(b"")];
        assert_eq!(read(wire.chunks(1)), Some((messages.clone(), vec![])));
        assert_eq!(read([&wire[..]]), Some((messages, vec![])));
    }

    // RFC 8656 s. 12.5
    #[test]
    fn c6_padding_of_any_content_belongs_to_no_message() {
        for len in 0..9 {
            let data = vec![0xAB; len];
            let wire = padded(channel_data(0x4FFF, &data), 0xEE);
            assert_eq!(next(&wire), Frame::Message { len: 4 + len, consumed: wire.len() });
            assert_eq!(next(&wire[..wire.len() - 1]), Frame::Need(wire.len()));
        }
    }

    #[test]
    fn q12_the_longest_lengths_do_not_wrap() {
        for length in [0xFFFCu16, 0xFFFD, 0xFFFE, 0xFFFF] {
            let mut wire = channel::header(0x4000, length).to_vec();
            let consumed = if length == 0xFFFC { 0x1_0000 } else { 0x1_0004 };
            assert_eq!(next(&wire), Frame::Need(consumed));
            wire.resize(consumed - 1, 0x40);
            assert_eq!(next(&wire), Frame::Need(consumed), "no byte of it is a new message");
            wire.push(0x40);
            assert_eq!(next(&wire), Frame::Message { len: 4 + usize::from(length), consumed });
        }
        for length in (65_508..=65_532u16).step_by(4) {
            let mut wire = [&[0, 0x16], &length.to_be_bytes()[..], &MAGIC_COOKIE.to_be_bytes()].concat();
            let len = HEADER_LEN + usize::from(length);
            assert_eq!(next(&wire), Frame::Need(len));
            wire.resize(len, 0);
            assert_eq!(next(&wire), Frame::Message { len, consumed: len });
        }
    }

    #[test]
    fn s27_what_the_longest_messages_say_is_read() {
        let data = vec![0xAB; 65_532 - 4 - 8 - 4];
        assert_eq!(stun(&data).len(), MAX_FRAME);
        let Frame::Message { len, .. } = next(&stun(&data)) else { panic!("whole") };
        assert_eq!(Message::parse(&stun(&data)[..len]).expect("well-formed").data(), Some(&data[..]));
    }

    // There is no way back into a stream whose framing is lost
    #[test]
    fn s27_what_begins_no_message_is_refused_with_the_byte_that_shows_it() {
        for first in 0x80..=0xFF {
            assert_eq!(next(&[first]), Frame::Invalid);
        }
        let good = stun(b"abc");
        for at in 4..8 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(next(&bad[..at]), Frame::Need(good.len()));
            assert_eq!(next(&bad[..=at]), Frame::Invalid, "cookie");
        }
        for length in 1..4 {
            assert_eq!(next(&[0, 1, 0, length]), Frame::Invalid, "length");
        }
        // TLS where none is spoken.
        assert_eq!(next(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]), Frame::Invalid);
    }
}
