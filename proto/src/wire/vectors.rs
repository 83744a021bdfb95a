//! The published test vectors: RFC 5769 s. 2 and RFC 8489 appendix B.1 (with errata 6268).

use super::*;
use crate::auth::{Authenticator, Credentials, Key};
use crate::wire::integrity::{Mechanism, sign, verify};
use crate::wire::message::fingerprint;

/// RFC 5769 s. 2.1: short-term credentials; padding is 0x20.
pub(crate) const REQUEST: &[&str] = &[
    "000100582112a442b7e7a701bc34d686fa87dfae",         // header
    "802200105354554e207465737420636c69656e74",         // SOFTWARE
    "002400046e0001ff",                                 // PRIORITY
    "80290008932ff9b151263b36",                         // ICE-CONTROLLED
    "000600096576746a3a68367659202020",                 // USERNAME
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2", // MESSAGE-INTEGRITY
    "80280004e57a3bcf",                                 // FINGERPRINT
];

/// RFC 5769 s. 2.2; padding is 0x20.
pub(crate) const RESPONSE_V4: &[&str] = &[
    "0101003c2112a442b7e7a701bc34d686fa87dfae",         // header
    "8022000b7465737420766563746f7220",                 // SOFTWARE
    "002000080001a147e112a643",                         // XOR-MAPPED-ADDRESS
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7", // MESSAGE-INTEGRITY
    "80280004c07d4c96",                                 // FINGERPRINT
];

/// RFC 5769 s. 2.3; padding is 0x20.
pub(crate) const RESPONSE_V6: &[&str] = &[
    "010100482112a442b7e7a701bc34d686fa87dfae",         // header
    "8022000b7465737420766563746f7220",                 // SOFTWARE
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9", // XOR-MAPPED-ADDRESS
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41", // MESSAGE-INTEGRITY
    "80280004c8fb0b4c",                                 // FINGERPRINT
];

/// RFC 5769 s. 2.4: long-term credentials.
pub(crate) const LONG_TERM: &[&str] = &[
    "000100602112a44278ad3433c6ad72c029da412e",         // header
    "00060012e3839ee38388e383aae38383e382afe382b90000", // USERNAME
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341", // NONCE
    "0014000b6578616d706c652e6f726700",                 // REALM
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666", // MESSAGE-INTEGRITY
];

/// RFC 8489 appendix B.1: long-term credentials with SHA-256 and USERHASH.
pub(crate) const SHA256: &[&str] = &[
    "000100902112a44278ad3433c6ad72c029da412e", // header
    "001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704", // USERHASH
    "001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39465354767936347341000000", // NONCE
    "0014000b6578616d706c652e6f726700", // REALM
    "001d000400020000",                 // PASSWORD-ALGORITHM
    "001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65", // MESSAGE-INTEGRITY-SHA256
];

/// Password of RFC 5769 s. 2.1 to 2.3.
const SHORT_TERM_PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
/// User of RFC 5769 s. 2.4 and RFC 8489 appendix B.1.
const USER: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
/// Their password as it enters the key. The RFCs' raw form has a soft hyphen, which SASLprep removes, but
/// which OpaqueString, the successor, refuses: so the prepared form is what can be configured.
const PASSWORD: &str = "TheMatrIX";
const REALM: &str = "example.org";

pub(crate) fn bytes(hex: &[&str]) -> Vec<u8> {
    let digits = hex.concat();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

// RFC 5769 s. 2.1
#[test]
fn s29_sample_request_is_read_and_verified() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, method::BINDING));
    assert_eq!(message.transaction_id().0[..4], [0xb7, 0xe7, 0xa7, 0x01]);
    assert_eq!(message.attribute(attr::SOFTWARE), Some(&b"STUN test client"[..]));
    assert_eq!(message.attribute(attr::USERNAME), Some(&b"evtj:h6vY"[..]));
    assert_eq!(message.attribute(attr::PRIORITY), Some(&[0x6e, 0, 1, 0xff][..]));
    assert!(message.has_fingerprint());
    assert!(verify(&message, Mechanism::Sha1, &Key::short_term(SHORT_TERM_PASSWORD)));
    assert!(!verify(&message, Mechanism::Sha1, &Key::short_term("VOkJxbRl1RmTxUk/WvJxBT")));
}

// RFC 5769 s. 2.1. Its USERNAME is padded with blanks where ours is padded with zeros (Q11), so three bytes are
// put in place before the message is signed; everything else comes out byte for byte.
#[test]
fn s29_sample_request_is_written_byte_for_byte() {
    let expected = bytes(REQUEST);
    let source = Message::parse(&expected).unwrap();
    let mut builder = MessageBuilder::request(source.method(), source.transaction_id());
    for (kind, value) in source.attributes() {
        builder = builder.attribute(kind, value);
    }
    let mut ours = builder.finish();
    let end = ours.len();
    assert_eq!(ours[end - 3..], [0, 0, 0]);
    ours[end - 3..].fill(b' ');
    let (kind, tag) = sign(&ours, &Key::short_term(SHORT_TERM_PASSWORD));
    append(&mut ours, kind, tag.as_slice());
    let crc = fingerprint(&ours);
    append(&mut ours, attr::FINGERPRINT, &crc.to_be_bytes());
    assert_eq!(ours, expected);
}

fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    let len = (message.len() - HEADER_LEN) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
}

// RFC 5769 s. 2.2 and 2.3
#[test]
fn s3_s29_sample_responses_are_read_and_verified() {
    for (hex, address) in
        [(RESPONSE_V4, "192.0.2.1:32853"), (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = bytes(hex);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, method::BINDING));
        assert_eq!(message.attribute(attr::SOFTWARE), Some(&b"test vector"[..]));
        assert_eq!(message.xor_address(attr::XOR_MAPPED_ADDRESS), Some(Ok(address.parse().unwrap())));
        assert!(verify(&message, Mechanism::Sha1, &Key::short_term(SHORT_TERM_PASSWORD)));
        let written = MessageBuilder::request(method::BINDING, message.transaction_id())
            .xor_address(attr::XOR_MAPPED_ADDRESS, address.parse().unwrap())
            .finish();
        let value = message.attribute(attr::XOR_MAPPED_ADDRESS).unwrap();
        assert_eq!(Message::parse(&written).unwrap().attribute(attr::XOR_MAPPED_ADDRESS), Some(value));
    }
}

// RFC 5769 s. 2.4: padding is zero there, so our own message is the RFC's.
#[test]
fn s24_s29_long_term_request_is_verified_and_written_byte_for_byte() {
    let expected = bytes(LONG_TERM);
    let source = Message::parse(&expected).unwrap();
    assert_eq!(source.attribute(attr::USERNAME), Some(USER.as_bytes()));
    let key = Key::md5(USER, REALM, PASSWORD).unwrap();
    assert!(verify(&source, Mechanism::Sha1, &key));
    let mut builder = MessageBuilder::request(source.method(), source.transaction_id());
    for (kind, value) in source.attributes() {
        builder = builder.attribute(kind, value);
    }
    assert_eq!(builder.finish_signed(&key), expected);
}

// RFC 8489 appendix B.1
#[test]
fn s22_s24_sha256_request_is_verified_and_written_byte_for_byte() {
    let expected = bytes(SHA256);
    let source = Message::parse(&expected).unwrap();
    let key = Key::sha256(USER, REALM, PASSWORD).unwrap();
    assert!(verify(&source, Mechanism::Sha256, &key));
    assert!(!verify(&source, Mechanism::Sha1, &key));
    let mut builder = MessageBuilder::request(source.method(), source.transaction_id());
    for (kind, value) in source.attributes() {
        builder = builder.attribute(kind, value);
    }
    assert_eq!(builder.finish_signed(&key), expected);
}

// The nonces of both RFCs aren't ours: 438 says that everything else was right, 401 would say the opposite.
#[test]
fn s22_s24_vectors_authenticate_up_to_their_nonce() {
    let mut credentials = Credentials::new(REALM);
    credentials.add_user(USER, PASSWORD).unwrap();
    let authenticator = Authenticator::new(credentials, false, [7; 32]);
    let now = crate::Now { mono_ns: 0, unix_secs: 1_800_000_000 };
    let five_tuple = crate::addr::FiveTuple {
        client: crate::addr::ClientAddr("192.0.2.1:1000".parse().unwrap()),
        server: "192.0.2.2:3478".parse().unwrap(),
        transport: crate::addr::Transport::Udp,
    };
    for hex in [LONG_TERM, SHA256] {
        let mut bytes = bytes(hex);
        let verdict = authenticator
            .authenticate(now, &five_tuple, &Message::parse(&bytes).unwrap(), None)
            .map_err(|rejection| rejection.code);
        assert_eq!(verdict.unwrap_err(), crate::ErrorCode::StaleNonce);
        *bytes.last_mut().unwrap() ^= 1;
        let verdict = authenticator
            .authenticate(now, &five_tuple, &Message::parse(&bytes).unwrap(), None)
            .map_err(|rejection| rejection.code);
        assert_eq!(verdict.unwrap_err(), crate::ErrorCode::Unauthenticated);
    }
}
