//! Every malformed shape is counted under its name, answered by nobody, and survived.

use std::collections::BTreeMap;
use std::time::Duration;

use turnpike_proto::wire::{MAGIC_COOKIE, MessageBuilder, TransactionId, attr, method};

use super::lab::{Lab, PEER_V4};
use super::server::{ALLOW_PEERS, SERVER, Server};
use super::talker::Talker;

/// Name, datagram, and the counter that it belongs to.
type Shape = (&'static str, Vec<u8>, &'static str);

const MALFORMED: &str = "drop_malformed";
const NOT_TURN: &str = "drop_not_turn";
const UNSUPPORTED: &str = "drop_unsupported";
const NO_ALLOCATION: &str = "drop_no_allocation";

/// A header of type `kind` that claims `len` bytes behind it.
fn header(kind: u16, len: u16) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(len.to_be_bytes());
    bytes.extend(MAGIC_COOKIE.to_be_bytes());
    bytes.extend([0x33; 12]);
    bytes
}

/// A message of type `kind` with a right header around these attribute bytes.
fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(attributes.len()).expect("it fits");
    [header(kind, len), attributes.to_vec()].concat()
}

fn request(method: u16) -> MessageBuilder {
    MessageBuilder::request(method, TransactionId([0x44; 12]))
}

/// What isn't a message at all.
fn strays() -> Vec<Shape> {
    let wrong_cookie = [&header(0x0001, 0)[..4], &[0; 16]].concat();
    vec![
        ("empty", vec![], NOT_TURN),
        ("DTLS", vec![22, 254, 253, 0], NOT_TURN),
        ("RTP", vec![0x80; 40], NOT_TURN),
        ("QUIC", vec![0xC0; 40], NOT_TURN),
        // Its first byte is 0x3E, where RFC 7983 s. 7 has ZRTP and DTLS.
        ("method 0xFFF", request(0xFFF).finish(), NOT_TURN),
        ("above the channels", vec![0x50, 0, 0, 0], NOT_TURN),
        ("one byte of ChannelData", vec![0x40], MALFORMED),
        ("three bytes of ChannelData", vec![0x40, 0, 0], MALFORMED),
        ("one byte of STUN", vec![0], MALFORMED),
        ("nineteen bytes of STUN", header(0x0001, 0)[..19].to_vec(), MALFORMED),
        ("wrong cookie", wrong_cookie, MALFORMED),
        ("60,000 zeros", vec![0; 60_000], MALFORMED),
    ]
}

/// Headers that don't fit what follows them (RFC 8489 s. 5), and attributes that don't fit in (s. 14).
fn misfits() -> Vec<Shape> {
    let many: Vec<u8> = (0..257).flat_map(|_| [0x80, 0x77, 0, 0]).collect();
    vec![
        ("length of nothing", header(0x0001, 4), MALFORMED),
        ("length 65535", header(0x0001, 0xFFFF), MALFORMED),
        ("length 65532", header(0x0001, 0xFFFC), MALFORMED),
        ("trailing bytes", [header(0x0001, 0), vec![0; 4]].concat(), MALFORMED),
        ("odd length", [header(0x0001, 3), vec![0; 3]].concat(), MALFORMED),
        ("attribute beyond the end", message(0x0001, &[0, 6, 0, 4]), MALFORMED),
        ("attribute of 65535", message(0x0001, &[0, 6, 0xFF, 0xFF, 0, 0, 0, 0]), MALFORMED),
        ("attribute of 65532", message(0x0003, &[0, 6, 0xFF, 0xFC]), MALFORMED),
        ("padding beyond the end", message(0x0001, &[0, 6, 0, 1]), MALFORMED),
        (
            "second attribute beyond the end",
            message(0x0001, &[0x80, 0x22, 0, 0, 0, 6, 0, 8, 1, 2, 3, 4]),
            MALFORMED,
        ),
        ("attribute behind integrity beyond the end", behind_integrity(), MALFORMED),
        ("257 attributes", message(0x0001, &many), MALFORMED),
        ("request above 4096 bytes", message(0x0001, &big_attribute(4096)), MALFORMED),
        ("FINGERPRINT of 8 bytes", message(0x0001, &[0x80, 0x28, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]), MALFORMED),
        ("empty FINGERPRINT", message(0x0001, &[0x80, 0x28, 0, 0]), MALFORMED),
        ("wrong FINGERPRINT", message(0x0001, &[0x80, 0x28, 0, 4, 1, 2, 3, 4]), "drop_fingerprint"),
        ("Send indication beyond the end", header(0x0016, 8), MALFORMED),
    ]
}

fn behind_integrity() -> Vec<u8> {
    let mut attributes = vec![0, 8, 0, 20];
    attributes.extend([0; 20]);
    attributes.extend([0x80, 0x22, 0x40, 0]);
    message(0x0003, &attributes)
}

fn big_attribute(len: u16) -> Vec<u8> {
    let mut attribute = vec![0x80, 0x77];
    attribute.extend(len.to_be_bytes());
    attribute.resize(4 + usize::from(len), 0);
    attribute
}

/// Well-formed, and meaningless here (RFC 8489 s. 6.3, RFC 8656 s. 11.2).
fn meaningless() -> Vec<Shape> {
    let unknown = MessageBuilder::indication(method::SEND, TransactionId([1; 12])).attribute(0x0777, &[]);
    let send = MessageBuilder::indication(method::SEND, TransactionId([2; 12]))
        .xor_address(attr::XOR_PEER_ADDRESS, (PEER_V4, 4000).into())
        .attribute(attr::DATA, b"x");
    vec![
        ("method 0", message(0x0000, &[]), UNSUPPORTED),
        ("method 0xFF", request(0x0FF).finish(), UNSUPPORTED),
        ("Connect (RFC 6062)", request(0x00A).finish(), UNSUPPORTED),
        ("Send as a request", request(method::SEND).finish(), UNSUPPORTED),
        ("Allocate as an indication", header(0x0013, 0), UNSUPPORTED),
        ("Data from a client", header(0x0017, 0), UNSUPPORTED),
        ("Binding success", header(0x0101, 0), "drop_response"),
        ("Allocate error", header(0x0113, 0), "drop_response"),
        ("Send with an unknown attribute", unknown.finish(), "drop_unknown_attribute"),
        ("Send without an allocation", send.finish(), NO_ALLOCATION),
        ("ChannelData without an allocation", vec![0x40, 0, 0, 0], NO_ALLOCATION),
    ]
}

/// From a client that has an allocation.
fn from_an_owner() -> Vec<Shape> {
    let indication = || MessageBuilder::indication(method::SEND, TransactionId([3; 12]));
    let peer = (PEER_V4, 4000).into();
    vec![
        ("unbound channel", vec![0x4F, 0xFF, 0, 0], "drop_unbound_channel"),
        (
            "Send without DATA",
            indication().xor_address(attr::XOR_PEER_ADDRESS, peer).finish(),
            "drop_bad_send",
        ),
        ("Send without a peer", indication().attribute(attr::DATA, b"x").finish(), "drop_bad_send"),
        (
            "Send with an address of a strange family",
            indication()
                .attribute(attr::XOR_PEER_ADDRESS, &[0, 9, 1, 2, 3, 4, 5, 6])
                .attribute(attr::DATA, b"x")
                .finish(),
            "drop_bad_send",
        ),
        (
            "Send with half an address",
            indication()
                .attribute(attr::XOR_PEER_ADDRESS, &[0, 1, 1, 2])
                .attribute(attr::DATA, b"x")
                .finish(),
            "drop_bad_send",
        ),
        (
            "Send without a permission",
            indication().xor_address(attr::XOR_PEER_ADDRESS, peer).attribute(attr::DATA, b"x").finish(),
            "drop_no_permission_to_peer",
        ),
    ]
}

fn send_all(talker: &Talker, witness: &Talker, shapes: &[Shape], expected: &mut BTreeMap<&'static str, u64>) {
    for (name, bytes, counter) in shapes {
        talker.say(bytes);
        *expected.entry(counter).or_default() += 1;
        let binding = request(method::BINDING).finish();
        assert_eq!(witness.ask(&binding).code, None, "the server answers others after {name}");
        assert_eq!(talker.hear(), None, "{name} is not answered");
    }
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q12_every_malformed_shape_is_counted_and_survived() {
    let Some(lab) = Lab::new("q12_every_malformed_shape_is_counted_and_survived") else { return };
    let server = Server::start(&lab, ALLOW_PEERS);
    let mut talker = Talker::new(&lab.client, SERVER);
    let witness = Talker::new(&lab.client, SERVER);
    talker.patient_for(Duration::from_millis(30));
    let mut expected = BTreeMap::new();
    for shapes in [strays(), misfits(), meaningless()] {
        send_all(&talker, &witness, &shapes, &mut expected);
    }
    talker.allocate();
    let peer = (PEER_V4, 4001).into();
    assert_eq!(talker.bind(peer).code, None);
    // A channel bound, and yet: its length field exceeds the datagram (RFC 8656 s. 12.6).
    let too_long = ("ChannelData shorter than it says", vec![0x40, 0, 0, 9, 1, 2], "drop_channel_length");
    send_all(&talker, &witness, &[too_long], &mut expected);
    // The binding's permission holds for all ports of the peer; another address has none.
    let mut owned = from_an_owner();
    let other = MessageBuilder::indication(method::SEND, TransactionId([4; 12]))
        .xor_address(attr::XOR_PEER_ADDRESS, "10.77.2.99:4000".parse().expect("an address"))
        .attribute(attr::DATA, b"x");
    owned.last_mut().expect("there are shapes").1 = other.finish();
    send_all(&talker, &witness, &owned, &mut expected);
    let log = server.stop();
    let counted: BTreeMap<&str, u64> = expected.keys().map(|&name| (name, log.count(name))).collect();
    println!("{counted:?}");
    assert_eq!(counted, expected, "{}", log.0);
}
