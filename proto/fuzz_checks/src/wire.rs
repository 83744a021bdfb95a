//! Target `wire`: every sequence of bytes is read as the reference reads it, and what was read can be
//! written and read again (RFC 8489 s. 5 and 14; conformance S1, S7, S10, S13, Q12).

use turnpike_proto::Verdict;
use turnpike_proto::auth::Key;
use turnpike_proto::limits::{MAX_ATTRIBUTES, MAX_UNKNOWN_ATTRIBUTES};
use turnpike_proto::wire::{Class, Message, MessageBuilder, attr, channel};

use super::reference::{self, Fault, Stun};

/// Larger inputs say nothing new.
const MAX_INPUT: usize = 4096;

/// Reads the bytes as they are, then with a repaired header, then with a FINGERPRINT behind them.
pub fn run(data: &[u8]) {
    let data = &data[..data.len().min(MAX_INPUT)];
    check(data);
    check_channel_header(data);
    if data.len() >= 20 {
        let mut repaired = data[..data.len() / 4 * 4].to_vec();
        let len = (repaired.len() - 20) as u16;
        repaired[0] &= 0x3F;
        repaired[2..4].copy_from_slice(&len.to_be_bytes());
        repaired[4..8].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
        check(&repaired);
        let crc = reference::fingerprint(&repaired);
        reference::append(&mut repaired, attr::FINGERPRINT, &crc.to_be_bytes());
        check(&repaired);
    }
}

fn check(bytes: &[u8]) {
    let (message, expected) = match (Message::parse(bytes), reference::parse(bytes)) {
        (Ok(message), Ok(expected)) => (message, expected),
        (Err(verdict), Err(fault)) => {
            let same = match fault {
                Fault::Malformed => Verdict::DropMalformed,
                Fault::Fingerprint => Verdict::DropFingerprint,
            };
            return assert_eq!(verdict, same);
        }
        (ours, reference) => panic!("we say {ours:?}, the reference says {reference:?}"),
    };
    assert_eq!(
        (message.class(), message.method(), message.transaction_id().0),
        (expected.class, expected.method, expected.transaction)
    );
    assert_eq!(message.attributes().collect::<Vec<_>>(), expected.attributes);
    assert_eq!(
        (message.has_integrity(), message.has_fingerprint()),
        (expected.integrity, expected.fingerprint)
    );
    assert!(expected.attributes.len() <= MAX_ATTRIBUTES);
    check_views(&message, &expected);
    check_rewritten(&message);
}

/// The typed views agree with the raw values.
fn check_views(message: &Message<'_>, expected: &Stun<'_>) {
    for kind in [attr::XOR_PEER_ADDRESS, attr::XOR_MAPPED_ADDRESS, attr::XOR_RELAYED_ADDRESS] {
        let ours = message.xor_address(kind).map(Result::ok);
        assert_eq!(ours, expected.get(kind).map(|value| expected.address(value)));
    }
    let peers: Vec<_> = message.peer_addresses().filter_map(Result::ok).collect();
    assert_eq!(peers, expected.addresses(attr::XOR_PEER_ADDRESS));
    let word = |kind| expected.get(kind).map(|value| <[u8; 4]>::try_from(value).ok());
    assert_eq!(message.lifetime().map(Result::ok), word(attr::LIFETIME).map(|v| v.map(u32::from_be_bytes)));
    let first = |kind| word(kind).map(|value| value.map(|bytes| bytes[0]));
    assert_eq!(message.requested_transport().map(Result::ok), first(attr::REQUESTED_TRANSPORT));
    assert_eq!(message.requested_family().map(Result::ok), first(attr::REQUESTED_ADDRESS_FAMILY));
    assert_eq!(message.additional_family().map(Result::ok), first(attr::ADDITIONAL_ADDRESS_FAMILY));
    let number = word(attr::CHANNEL_NUMBER).map(|v| v.map(|v| u16::from_be_bytes([v[0], v[1]])));
    assert_eq!(message.channel_number().map(Result::ok), number);
    let token = expected.get(attr::RESERVATION_TOKEN).map(|value| <[u8; 8]>::try_from(value).ok());
    assert_eq!(message.reservation_token().map(Result::ok), token);
    let even = expected.get(attr::EVEN_PORT).map(|v| <[u8; 1]>::try_from(v).ok().map(|v| v[0] & 0x80 != 0));
    assert_eq!(message.even_port().map(Result::ok), even);
    assert_eq!(message.data(), expected.get(attr::DATA));
    let unknown = message.unknown_required(&[attr::USERNAME]);
    assert!(unknown.as_slice().len() <= MAX_UNKNOWN_ATTRIBUTES);
    let some = expected.attributes.iter().any(|(kind, _)| *kind < 0x8000 && *kind != attr::USERNAME);
    assert_eq!(unknown.is_empty(), !some);
}

/// What was read, written anew: the same attributes, padded with zeros (Q11), closed as asked.
fn check_rewritten(message: &Message<'_>) {
    let start = || match message.class() {
        Class::Request => MessageBuilder::request(message.method(), message.transaction_id()),
        Class::Indication => MessageBuilder::indication(message.method(), message.transaction_id()),
        // The builder makes answers from requests: there, only ERROR-CODE is its own.
        Class::Success | Class::Error => MessageBuilder::success(message).fingerprint(false),
    };
    let written =
        || message.attributes().fold(start(), |builder, (kind, value)| builder.attribute(kind, value));
    let plain = written().finish();
    let signed = written().finish_signed(&Key::from_md5_bytes([7; 16]));
    let marked = written().fingerprint(true).finish();
    let room = message.attributes().count() < MAX_ATTRIBUTES;
    for (bytes, integrity, fingerprint) in
        [(&plain, false, false), (&signed, true, false), (&marked, false, true)]
    {
        if !room && (integrity || fingerprint) {
            continue;
        }
        let again = reference::parse(bytes).expect("what we write is well-formed");
        assert!(again.clean_padding);
        assert_eq!((again.integrity, again.fingerprint), (integrity, fingerprint));
        assert_eq!((again.method, again.transaction), (message.method(), message.transaction_id().0));
        assert_eq!(again.attributes, message.attributes().collect::<Vec<_>>());
        assert!(Message::parse(bytes).is_ok());
    }
}

fn check_channel_header(data: &[u8]) {
    let Some((number, len)) = channel::parse_header(data) else { return assert!(data.len() < 4) };
    assert_eq!(channel::header(number, len), data[..4]);
}
