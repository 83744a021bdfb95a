//! Target `framer`: a stream, in pieces (conformance S27, C6, Q12).
//!
//! The same bytes, however they are cut, are the same messages, or refused at the same place; a plain reading of the
//! whole says which.

use turnpike_proto::wire::framer::{self, Frame, MAX_FRAME};

/// Longest piece, bytes: small ones find more.
const MAX_PIECE: usize = 64;

/// The first byte is how many sizes follow; these are the pieces' sizes, in turn. The rest is the stream.
pub fn run(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return };
    let (sizes, stream) = rest.split_at((usize::from(count) % 8).min(rest.len()));
    let expected = read_whole(stream);
    assert_eq!(read_pieces(stream, sizes), expected);
    assert_eq!(read_pieces(stream, &[0]), expected, "byte by byte");
}

/// What a stream holds: its messages, then where it can't be read any more, or what is missing.
#[derive(Debug, PartialEq)]
struct Read<'a> {
    messages: Vec<&'a [u8]>,
    /// Offset of the first byte that belongs to no message that is whole.
    rest: usize,
    is_invalid: bool,
}

/// As the RFCs have it, with all of the stream at hand.
fn read_whole(stream: &[u8]) -> Read<'_> {
    let (mut messages, mut at) = (Vec::new(), 0);
    loop {
        let rest = &stream[at..];
        let field = |i: usize| Some(u32::from(*rest.get(i)?) << 8 | u32::from(*rest.get(i + 1)?));
        let kind = rest.first().map(|first| first & 0xC0);
        let is_cookie = |i: usize| rest.get(4 + i).is_none_or(|byte| *byte == [0x21, 0x12, 0xA4, 0x42][i]);
        // RFC 8489 s. 5, RFC 8656 s. 12.4: what may not be.
        let is_invalid = match (kind, field(2)) {
            (Some(0x80 | 0xC0), _) => true,
            (Some(0), Some(length)) => length & 3 != 0 || !(0..4).all(is_cookie),
            _ => false,
        };
        let whole = match (kind, field(2)) {
            (Some(0), Some(length)) => Some((20 + length, 20 + length)),
            (Some(0x40), Some(length)) => Some((4 + length, 4 + length.div_ceil(4) * 4)),
            _ => None,
        };
        match whole.filter(|(_, consumed)| !is_invalid && *consumed as usize <= rest.len()) {
            None => return Read { messages, rest: at, is_invalid },
            Some((len, consumed)) => {
                messages.push(&rest[..len as usize]);
                at += consumed as usize;
            }
        }
    }
}

/// With the bytes that have come so far, as a connection's reader does.
fn read_pieces<'a>(stream: &'a [u8], sizes: &[u8]) -> Read<'a> {
    let (mut messages, mut at, mut there) = (Vec::new(), 0, 0);
    let mut sizes = sizes.iter().map(|size| 1 + usize::from(*size) % MAX_PIECE).cycle();
    loop {
        match framer::next(&stream[at..there]) {
            Frame::Message { len, consumed } => {
                assert!(len <= consumed && consumed - len < 4 && consumed <= MAX_FRAME);
                messages.push(&stream[at..at + len]);
                at += consumed;
            }
            Frame::Invalid => return Read { messages, rest: at, is_invalid: true },
            Frame::Need(needed) => {
                assert!(needed > there - at && needed <= MAX_FRAME);
                if there == stream.len() {
                    return Read { messages, rest: at, is_invalid: false };
                }
                there = stream.len().min(there + sizes.next().unwrap_or(stream.len()));
            }
        }
    }
}
