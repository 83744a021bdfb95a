//! The rules of RFC 8489 s. 5, 6.3 and 14 for messages, whoever wrote them.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use turnpike_abi::Verdict;

use super::integrity::{Mechanism, verify};
use super::*;
use crate::ErrorCode;
use crate::addr::Family;
use crate::auth::Key;
use crate::limits::{MAX_ATTRIBUTES, MAX_SOFTWARE, MAX_UNKNOWN_ATTRIBUTES};

const ID: TransactionId = TransactionId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

fn allocate() -> MessageBuilder {
    MessageBuilder::request(method::ALLOCATE, ID)
}

fn key() -> Key {
    Key::md5("user", "realm", "password").unwrap()
}

/// A raw attribute with its padding.
fn raw(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(padded(bytes.len()), 0);
    bytes
}

/// Appends bytes to a finished message and corrects its length.
fn extended(mut message: Vec<u8>, more: &[u8]) -> Vec<u8> {
    message.extend_from_slice(more);
    let len = (message.len() - HEADER_LEN) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
    message
}

#[test]
fn s1_header_is_checked() {
    let good = allocate().lifetime(600).finish();
    assert!(Message::parse(&good).is_ok());
    for (offset, xor, what) in [
        (0, 0x80, "first bit"),
        (0, 0x40, "second bit"),
        (4, 1, "cookie"),
        (3, 4, "length"),
        (3, 1, "alignment"),
    ] {
        let mut bad = good.clone();
        bad[offset] ^= xor;
        assert_eq!(Message::parse(&bad).unwrap_err(), Verdict::DropMalformed, "{what}");
    }
}

#[test]
fn s1_length_is_exact() {
    let good = allocate().lifetime(600).finish();
    for len in 0..good.len() {
        assert_eq!(Message::parse(&good[..len]).unwrap_err(), Verdict::DropMalformed, "{len}");
    }
    for extra in 1..9 {
        let longer = [&good[..], &[0; 8][..extra]].concat();
        assert_eq!(Message::parse(&longer).unwrap_err(), Verdict::DropMalformed, "{extra}");
    }
}

#[test]
fn s1_length_that_is_no_multiple_of_four_is_refused() {
    for body in [&[0x80, 0x99][..], &[0x80, 0x99, 0, 0, 0], &[0x80, 0x99, 0, 1, 7], &[0x80, 0x99, 0, 2, 7, 7]]
    {
        let odd = extended(allocate().finish(), body);
        assert_eq!(Message::parse(&odd).unwrap_err(), Verdict::DropMalformed, "{body:?}");
    }
}

// RFC 8489 s. 5, figure 3
#[test]
fn s2_class_and_method_bits_are_interleaved() {
    for method in 0..=0xFFF {
        for builder in [MessageBuilder::request(method, ID), MessageBuilder::indication(method, ID)] {
            let bytes = builder.finish();
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.method(), method);
            let success = MessageBuilder::success(&message).finish();
            let error = MessageBuilder::error(&message, ErrorCode::BadRequest).finish();
            for (bytes, class) in [(&success, Class::Success), (&error, Class::Error)] {
                let answer = Message::parse(bytes).unwrap();
                assert_eq!((answer.class(), answer.method(), answer.transaction_id()), (class, method, ID));
            }
        }
    }
    assert_eq!(allocate().finish()[..2], [0x00, 0x03]);
    assert_eq!(MessageBuilder::indication(method::SEND, ID).finish()[..2], [0x00, 0x16]);
    assert_eq!(MessageBuilder::indication(0xFFF, ID).finish()[..2], [0x3E, 0xFF]);
}

#[test]
fn s5_unknown_required_attributes_are_listed_once_and_bounded() {
    let mut builder = allocate().attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    for kind in [0x7FFF, 0x0002, 0x7FFF, 0x8055] {
        builder = builder.attribute(kind, &[]);
    }
    let bytes = builder.finish();
    let message = Message::parse(&bytes).unwrap();
    let unknown = message.unknown_required(&[attr::REQUESTED_TRANSPORT]);
    assert_eq!(unknown.as_slice(), [0x7FFF, 0x0002]);
    assert!(message.unknown_required(&[attr::REQUESTED_TRANSPORT, 2, 0x7FFF]).is_empty());

    let answer =
        MessageBuilder::error(&message, ErrorCode::UnknownAttribute).unknown_attributes(&unknown).finish();
    let answer = Message::parse(&answer).unwrap();
    assert_eq!(answer.attribute(attr::UNKNOWN_ATTRIBUTES), Some(&[0x7F, 0xFF, 0x00, 0x02][..]));
    assert_eq!(&answer.attribute(attr::ERROR_CODE).unwrap()[..4], [0, 0, 4, 20]);

    let many = (0..100).fold(allocate(), |builder, kind| builder.attribute(0x7000 + kind, &[])).finish();
    let unknown = Message::parse(&many).unwrap().unknown_required(&[]);
    assert_eq!(unknown.as_slice().len(), MAX_UNKNOWN_ATTRIBUTES);
}

#[test]
fn s6_q11_padding_is_zero_when_sent_and_ignored_when_received() {
    let mut bytes = allocate().attribute(attr::REALM, b"a").attribute(attr::NONCE, b"bb").finish();
    assert_eq!(bytes[HEADER_LEN + 5..HEADER_LEN + 8], [0, 0, 0]);
    assert_eq!(bytes[HEADER_LEN + 14..], [0, 0]);
    bytes[HEADER_LEN + 5..HEADER_LEN + 8].fill(0xFF);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.attribute(attr::REALM), Some(&b"a"[..]));
    assert_eq!(message.attribute(attr::NONCE), Some(&b"bb"[..]));
}

#[test]
fn s7_the_first_of_duplicates_counts() {
    let bytes = allocate().lifetime(1).lifetime(2).finish();
    assert_eq!(Message::parse(&bytes).unwrap().lifetime(), Some(Ok(1)));
}

// RFC 8489 s. 14.8
#[test]
fn s9_error_code_is_class_number_and_short_reason() {
    let request = allocate().finish();
    let request = Message::parse(&request).unwrap();
    for &code in ErrorCode::ALL {
        let bytes = MessageBuilder::error(&request, code).finish();
        let value = Message::parse(&bytes).unwrap().attribute(attr::ERROR_CODE).unwrap();
        assert_eq!(value[..2], [0, 0]);
        assert!((3..=6).contains(&value[2]) && value[3] < 100);
        assert_eq!(u16::from(value[2]) * 100 + u16::from(value[3]), code.code());
        assert!(std::str::from_utf8(&value[4..]).unwrap().chars().count() < 128);
    }
}

// RFC 8489 s. 14.7
#[test]
fn s10_fingerprint_is_checked_and_answered_in_kind() {
    for on in [true, false] {
        let request = allocate().lifetime(600).fingerprint(on).finish();
        let message = Message::parse(&request).unwrap();
        assert_eq!(message.has_fingerprint(), on);
        for answer in [
            MessageBuilder::success(&message).finish_signed(&key()),
            MessageBuilder::error(&message, ErrorCode::BadRequest).finish(),
        ] {
            assert_eq!(Message::parse(&answer).unwrap().has_fingerprint(), on);
            let kind = &answer[answer.len() - 8..answer.len() - 6];
            assert_eq!(kind == attr::FINGERPRINT.to_be_bytes(), on, "it is the last attribute");
        }
    }
    let good = allocate().lifetime(600).fingerprint(true).finish();
    for offset in (8..HEADER_LEN).chain(HEADER_LEN + 4..HEADER_LEN + 8).chain(good.len() - 4..good.len()) {
        let mut bad = good.clone();
        bad[offset] ^= 1;
        assert_eq!(Message::parse(&bad).unwrap_err(), Verdict::DropFingerprint, "byte {offset}");
    }
}

#[test]
fn s10_a_fingerprint_of_another_size_is_malformed() {
    let bytes = extended(allocate().finish(), &raw(attr::FINGERPRINT, &[0; 8]));
    assert_eq!(Message::parse(&bytes).unwrap_err(), Verdict::DropMalformed);
}

#[test]
fn s10_nothing_behind_fingerprint_counts() {
    let bytes = extended(allocate().fingerprint(true).finish(), &raw(attr::LIFETIME, &[0; 4]));
    let message = Message::parse(&bytes).unwrap();
    assert!(message.has_fingerprint() && !message.has(attr::LIFETIME));
    for kind in [attr::MESSAGE_INTEGRITY, attr::MESSAGE_INTEGRITY_SHA256, attr::FINGERPRINT] {
        let bytes = extended(allocate().fingerprint(true).finish(), &raw(kind, &[0; 20]));
        assert!(!Message::parse(&bytes).unwrap().has_integrity());
    }
}

#[test]
fn s10_a_wrong_fingerprint_is_found_behind_ignored_attributes() {
    let signed = extended(allocate().finish_signed(&key()), &raw(0x0002, b"junk"));
    let bytes = extended(signed, &raw(attr::FINGERPRINT, &[0; 4]));
    assert_eq!(Message::parse(&bytes).unwrap_err(), Verdict::DropFingerprint);
}

#[test]
fn s11_software_is_cut_between_characters() {
    let bytes = allocate().software(&"\u{20AC}".repeat(300)).finish();
    let value = Message::parse(&bytes).unwrap().attribute(attr::SOFTWARE).unwrap();
    assert!(value.len() <= MAX_SOFTWARE && value.len() > MAX_SOFTWARE - 3);
    assert!(std::str::from_utf8(value).is_ok());
}

// RFC 8489 s. 14.5
#[test]
fn s12_integrity_covers_everything_in_front_of_it() {
    let signed = allocate().lifetime(600).finish_signed(&key());
    assert!(verify(&Message::parse(&signed).unwrap(), Mechanism::Sha1, &key()));
    let other = Key::md5("user", "realm", "Password").unwrap();
    assert!(!verify(&Message::parse(&signed).unwrap(), Mechanism::Sha1, &other));
    assert!(!verify(&Message::parse(&signed).unwrap(), Mechanism::Sha256, &key()));
}

#[test]
fn s12_s14_integrity_of_a_wrong_size_is_refused() {
    use super::integrity::sign;
    let unsigned = allocate().finish();
    for (key, right) in
        [(key(), &[20][..]), (Key::sha256("user", "realm", "password").unwrap(), &[16, 20, 24, 28, 32])]
    {
        for len in (0..=36).filter(|len| *len <= 32 || key.mechanism() == Mechanism::Sha256) {
            // The HMAC covers the length field, so each size has its own.
            let header = extended(unsigned.clone(), &raw(0x0001, &vec![0; len]));
            let (kind, tag) = tag_for(&header[..HEADER_LEN], &key, len);
            assert_eq!(kind, sign(&unsigned, &key).0);
            let bytes = extended(unsigned.clone(), &raw(kind, &tag));
            let valid = verify(&Message::parse(&bytes).unwrap(), key.mechanism(), &key);
            assert_eq!(valid, right.contains(&len), "{len} bytes");
        }
    }
}

/// The right HMAC for a header that already has its final length, cut or filled to `len` bytes.
fn tag_for(header: &[u8], key: &Key, len: usize) -> (u16, Vec<u8>) {
    use hmac::{Hmac, Mac};
    let (kind, mut tag) = match key.mechanism() {
        Mechanism::Sha1 => (
            attr::MESSAGE_INTEGRITY,
            Hmac::<sha1::Sha1>::new_from_slice(key.bytes())
                .unwrap()
                .chain_update(header)
                .finalize()
                .into_bytes()
                .to_vec(),
        ),
        Mechanism::Sha256 => (
            attr::MESSAGE_INTEGRITY_SHA256,
            Hmac::<sha2::Sha256>::new_from_slice(key.bytes())
                .unwrap()
                .chain_update(header)
                .finalize()
                .into_bytes()
                .to_vec(),
        ),
    };
    tag.resize(len, 0);
    (kind, tag)
}

// RFC 8489 s. 14.5 and 14.6; Q10
#[test]
fn s13_attributes_after_integrity_are_ignored() {
    let sha256 = Key::sha256("user", "realm", "password").unwrap();
    for (key, mechanism) in [(key(), Mechanism::Sha1), (sha256, Mechanism::Sha256)] {
        let signed = allocate().attribute(attr::REALM, b"r").finish_signed(&key);
        let junk = [raw(attr::LIFETIME, &[0; 4]), raw(0x7FFF, b"x"), raw(attr::REALM, b"other")].concat();
        let bytes = extended(signed, &junk);
        let message = Message::parse(&bytes).unwrap();
        assert!(message.has_integrity() && verify(&message, mechanism, &key));
        assert_eq!(message.lifetime(), None);
        assert!(message.unknown_required(&[attr::REALM]).is_empty());
        assert_eq!(message.attributes().collect::<Vec<_>>(), [(attr::REALM, &b"r"[..])]);
    }
}

#[test]
fn s13_integrity_behind_sha256_integrity_is_ignored() {
    let sha256 = Key::sha256("user", "realm", "password").unwrap();
    let bytes = extended(allocate().finish_signed(&sha256), &raw(attr::MESSAGE_INTEGRITY, &[0; 20]));
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.integrity(attr::MESSAGE_INTEGRITY), None);
    assert!(message.has_integrity_sha256());
}

#[test]
fn s13_sha256_integrity_may_follow_the_other() {
    let sha256 = Key::sha256("user", "realm", "password").unwrap();
    let first = allocate().finish_signed(&key());
    let (kind, tag) = integrity::sign(&first, &sha256);
    let bytes = extended(first, &raw(kind, tag.as_slice()));
    let message = Message::parse(&bytes).unwrap();
    assert!(verify(&message, Mechanism::Sha1, &key()));
    assert!(verify(&message, Mechanism::Sha256, &sha256));
}

#[test]
fn q12_attributes_beyond_the_message_are_refused() {
    for (kind, claimed) in [(attr::REALM, 5), (attr::REALM, 0xFFFF), (0x8055, 0xFFFC), (attr::DATA, 9)] {
        let mut bytes = extended(allocate().finish(), &raw(kind, &[0; 4]));
        bytes[HEADER_LEN + 2..HEADER_LEN + 4].copy_from_slice(&(claimed as u16).to_be_bytes());
        assert_eq!(Message::parse(&bytes).unwrap_err(), Verdict::DropMalformed, "{claimed}");
        // Also where attributes don't count any more.
        let tail = bytes[HEADER_LEN..].to_vec();
        let bytes = extended(allocate().finish_signed(&key()), &tail);
        assert_eq!(Message::parse(&bytes).unwrap_err(), Verdict::DropMalformed, "{claimed} behind integrity");
    }
}

#[test]
fn q12_the_number_of_attributes_is_bounded() {
    let message = |count| (0..count).fold(allocate(), |builder, _| builder.attribute(0x8055, &[])).finish();
    assert!(Message::parse(&message(MAX_ATTRIBUTES)).is_ok());
    assert_eq!(Message::parse(&message(MAX_ATTRIBUTES + 1)).unwrap_err(), Verdict::DropMalformed);
}

#[test]
fn typed_attributes_refuse_other_sizes() {
    for len in 0..24 {
        let value = vec![1; len];
        let mut builder = allocate();
        for kind in [
            attr::LIFETIME,
            attr::CHANNEL_NUMBER,
            attr::REQUESTED_TRANSPORT,
            attr::REQUESTED_ADDRESS_FAMILY,
            attr::ADDITIONAL_ADDRESS_FAMILY,
            attr::EVEN_PORT,
            attr::RESERVATION_TOKEN,
            attr::XOR_PEER_ADDRESS,
        ] {
            builder = builder.attribute(kind, &value);
        }
        let bytes = builder.finish();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.lifetime().unwrap().is_ok(), len == 4);
        assert_eq!(message.channel_number().unwrap().is_ok(), len == 4);
        assert_eq!(message.requested_transport().unwrap().is_ok(), len == 4);
        assert_eq!(message.requested_family().unwrap().is_ok(), len == 4);
        assert_eq!(message.additional_family().unwrap().is_ok(), len == 4);
        assert_eq!(message.even_port().unwrap().is_ok(), len == 1);
        assert_eq!(message.reservation_token().unwrap().is_ok(), len == 8);
        assert_eq!(
            message.xor_address(attr::XOR_PEER_ADDRESS).unwrap().is_ok(),
            len == 8,
            "family 1 is IPv4"
        );
    }
}

#[test]
fn typed_attributes_ignore_reserved_bits() {
    let bytes = allocate()
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0xFF, 0xFF, 0xFF])
        .attribute(attr::CHANNEL_NUMBER, &[0x40, 0x01, 0xFF, 0xFF])
        .attribute(attr::EVEN_PORT, &[0x7F])
        .attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 9, 9, 9])
        .finish();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.requested_transport(), Some(Ok(17)));
    assert_eq!(message.channel_number(), Some(Ok(0x4001)));
    assert_eq!(message.even_port(), Some(Ok(false)));
    assert_eq!(message.requested_family(), Some(Ok(2)));
    let reserve = allocate().attribute(attr::EVEN_PORT, &[0x80]).finish();
    assert_eq!(Message::parse(&reserve).unwrap().even_port(), Some(Ok(true)));
}

#[test]
fn addresses_of_an_unknown_family_are_malformed() {
    let bytes = allocate().attribute(attr::XOR_PEER_ADDRESS, &[0, 3, 0, 9, 1, 2, 3, 4]).finish();
    assert_eq!(Message::parse(&bytes).unwrap().xor_address(attr::XOR_PEER_ADDRESS), Some(Err(Malformed)));
}

#[test]
fn p1_all_peer_addresses_are_given_in_order() {
    let peers: [SocketAddr; 2] = ["192.0.2.1:5".parse().unwrap(), "[2001:db8::1]:6".parse().unwrap()];
    let bytes = MessageBuilder::request(method::CREATE_PERMISSION, ID)
        .xor_address(attr::XOR_PEER_ADDRESS, peers[0])
        .attribute(attr::XOR_PEER_ADDRESS, b"bad")
        .xor_address(attr::XOR_PEER_ADDRESS, peers[1])
        .finish();
    let found: Vec<_> = Message::parse(&bytes).unwrap().peer_addresses().collect();
    assert_eq!(found, [Ok(peers[0]), Err(Malformed), Ok(peers[1])]);
}

// RFC 8656 s. 18.12
#[test]
fn a8_address_error_code_names_family_and_code() {
    let bytes = allocate().address_error(Family::V6, ErrorCode::AddressFamilyNotSupported).finish();
    let value = Message::parse(&bytes).unwrap().attribute(attr::ADDRESS_ERROR_CODE).unwrap();
    assert_eq!(value[..4], [2, 0, 4, 40]);
}

#[test]
fn what_does_not_fit_gives_nothing() {
    let largest = 65_535 - 3 - 4;
    let fits = MessageBuilder::indication(method::DATA, ID).attribute(attr::DATA, &vec![0; largest]).finish();
    assert_eq!(Message::parse(&fits).unwrap().data().map(<[u8]>::len), Some(largest));
    for builder in [
        MessageBuilder::indication(method::DATA, ID).attribute(attr::DATA, &vec![0; largest + 1]),
        MessageBuilder::indication(method::DATA, ID).attribute(attr::DATA, &vec![0; 70_000]),
        MessageBuilder::indication(method::DATA, ID)
            .attribute(attr::DATA, &vec![0; largest])
            .fingerprint(true),
    ] {
        assert_eq!(builder.clone().finish(), []);
        assert_eq!(builder.finish_signed(&key()), []);
    }
}

/// Calls everything that reads a message.
fn read_all(message: &Message<'_>) {
    let _ = (message.lifetime(), message.channel_number(), message.requested_transport());
    let _ = (message.requested_family(), message.additional_family(), message.even_port());
    let _ = (message.reservation_token(), message.data(), message.xor_address(attr::XOR_MAPPED_ADDRESS));
    let _ = (message.peer_addresses().count(), message.attributes().count(), message.unknown_required(&[]));
    assert!(!verify(message, Mechanism::Sha1, &key()) && !verify(message, Mechanism::Sha256, &key()));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(IpAddr::V4(ip.into()), port)),
        (any::<u128>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(IpAddr::V6(ip.into()), port)),
    ]
}

proptest! {
    // Q12
    #[test]
    fn q12_no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::parse(&bytes) {
            read_all(&message);
        }
    }

    #[test]
    fn q12_no_attributes_make_the_parser_panic(
        body in prop::collection::vec(prop_oneof![0..0x30u8, Just(0x80), any::<u8>()], 0..50), kind in 0..0x4000u16
    ) {
        let mut bytes = [&kind.to_be_bytes()[..], &[0, 0], &MAGIC_COOKIE.to_be_bytes(), &ID.0].concat();
        bytes.extend(body.iter().flat_map(|&byte| [0, byte, 0, byte & 7]));
        let bytes = extended(bytes, &[]);
        if let Ok(message) = Message::parse(&bytes) {
            read_all(&message);
        }
    }

    #[test]
    fn what_is_written_is_read(
        attributes in prop::collection::vec((0x0100..0x7000u16, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        id in any::<[u8; 12]>(), method in 0..0x1000u16, fingerprint in any::<bool>(), signed in 0..3
    ) {
        let mut builder = MessageBuilder::request(method, TransactionId(id)).fingerprint(fingerprint);
        for (kind, value) in &attributes {
            builder = builder.attribute(*kind, value);
        }
        let sha256 = Key::sha256("user", "realm", "password").unwrap();
        let bytes = match signed {
            0 => builder.finish(),
            1 => builder.finish_signed(&key()),
            _ => builder.finish_signed(&sha256),
        };
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!((message.method(), message.transaction_id()), (method, TransactionId(id)));
        prop_assert_eq!((message.has_fingerprint(), message.has_integrity()), (fingerprint, signed > 0));
        prop_assert_eq!(verify(&message, Mechanism::Sha1, &key()), signed == 1);
        prop_assert_eq!(verify(&message, Mechanism::Sha256, &sha256), signed == 2);
        let read: Vec<_> = message.attributes().map(|(kind, value)| (kind, value.to_vec())).collect();
        prop_assert_eq!(read, attributes);
    }

    // Another implementation agrees with what we sign.
    #[test]
    fn stun_types_verifies_what_is_signed(value in prop::collection::vec(any::<u8>(), 0..40), fingerprint in any::<bool>()) {
        use stun_types::message::{LongTermKeyCredentials, Message as Theirs, MessageIntegrityCredentials};
        let credentials = LongTermKeyCredentials::new("user".into(), "password".into(), "realm".into());
        let bytes = allocate().attribute(0x8055, &value).fingerprint(fingerprint).finish_signed(&key());
        let theirs = Theirs::from_bytes(&bytes).unwrap();
        prop_assert!(theirs.validate_integrity(&MessageIntegrityCredentials::from(credentials)).is_ok());
    }

    #[test]
    fn s3_addresses_survive_the_xor(peer in address(), id in any::<[u8; 12]>()) {
        let bytes = MessageBuilder::indication(method::SEND, TransactionId(id))
            .xor_address(attr::XOR_PEER_ADDRESS, peer)
            .finish();
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(message.xor_address(attr::XOR_PEER_ADDRESS), Some(Ok(peer)));
    }

    // RFC 8489 s. 14.5: every byte in front of the attribute is covered, and its own value counts in full.
    #[test]
    fn s12_any_changed_byte_breaks_integrity(
        value in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), xor in 1..=255u8,
        sha256 in any::<bool>()
    ) {
        let (key, mechanism) = if sha256 {
            (Key::sha256("user", "realm", "password").unwrap(), Mechanism::Sha256)
        } else {
            (key(), Mechanism::Sha1)
        };
        let mut bytes = allocate().attribute(attr::DATA, &value).finish_signed(&key);
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        let verified = Message::parse(&bytes).is_ok_and(|message| verify(&message, mechanism, &key));
        prop_assert!(!verified, "byte {at}");
    }
}
