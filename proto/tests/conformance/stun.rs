//! STUN itself (RFC 8489): what is answered, how, and what isn't.

use turnpike_proto::Verdict;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, method};

use crate::lab::*;

fn binding(client: &mut Client) -> MessageBuilder {
    MessageBuilder::request(method::BINDING, client.transaction())
}

// RFC 8489 s. 5 and 6.3
#[test]
fn s1_a_header_that_is_not_stun_is_discarded_silently() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let good = binding(&mut client).attribute(attr::SOFTWARE, b"test").finish();
    client.exchange(&mut lab, &good).expect_success();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let longer = [good.clone(), vec![0; 4]].concat();
    for bytes in [
        with(0, 0x80),
        with(0, 0xc0),
        with(4, 0x20),
        with(7, 0x43),
        with(3, good.len() as u8 - 20 + 4),
        with(3, good.len() as u8 - 20 - 4),
        with(3, good.len() as u8 - 20 - 1),
        longer,
        good[..19].to_vec(),
        good[..good.len() - 1].to_vec(),
        vec![],
        vec![0],
    ] {
        client.send_unanswered(&mut lab, &bytes);
    }
    assert_eq!(lab.workers[0].counts().bindings, 1);
    assert_eq!(lab.verdicts(Verdict::DropMalformed) + lab.verdicts(Verdict::DropNotTurn), 12);
}

// RFC 8489 s. 5
#[test]
fn s2_binding_success_echoes_method_and_transaction_id() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let request = binding(&mut client).finish();
    let answer = client.exchange(&mut lab, &request);
    assert_eq!(answer.bytes[..2], [0x01, 0x01]);
    assert_eq!(answer.bytes[4..20], request[4..20]);
}

// RFC 8489 s. 14.2, decoded here by the test's own code
#[test]
fn s3_xor_mapped_address_of_both_families() {
    for address in ["203.0.113.5:1000", "[2001:db8:aaaa::5]:65535"] {
        let mut lab = Lab::new();
        let mut client = Client::new(address);
        let request = binding(&mut client).finish();
        let answer = client.exchange(&mut lab, &request);
        let message = answer.message();
        let value = message.attribute(attr::XOR_MAPPED_ADDRESS).expect("present");
        assert_eq!(decode_xor(value, message.transaction_id()), client.address);
    }
}

// RFC 8489 s. 6.3: neither 401 nor 400
#[test]
fn s4_unknown_methods_and_wrong_classes_are_discarded_silently() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    let id = client.transaction();
    for method in [0x000, 0x002, 0x005, 0x006, 0x007, 0x00a, 0x00c, 0x080, 0xfff] {
        client.send_unanswered(&mut lab, &MessageBuilder::request(method, id).finish());
        let signed = client.signed(method, |b| b);
        client.send_unanswered(&mut lab, &signed);
    }
    for method in [method::ALLOCATE, method::REFRESH, method::DATA, method::CHANNEL_BIND, 0x0c] {
        client.send_unanswered(&mut lab, &MessageBuilder::indication(method, id).finish());
    }
    // RFC 7983 s. 7: methods from 0x100 up begin with a byte that belongs to others.
    assert_eq!((lab.verdicts(Verdict::DropUnsupported), lab.verdicts(Verdict::DropNotTurn)), (21, 2));
}

// RFC 8489 s. 6.3.1 and 14.9
#[test]
fn s5_unknown_required_attributes_of_a_request_are_all_listed() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let request = binding(&mut client).attribute(0x7abc, b"x").attribute(0x0003, &[0; 4]).finish();
    let answer = client.exchange(&mut lab, &request);
    answer.expect_error(420);
    let listed = answer.message().attribute(attr::UNKNOWN_ATTRIBUTES).map(<[u8]>::to_vec);
    assert_eq!(listed, Some(vec![0x7a, 0xbc, 0x00, 0x03]));

    let answer = client.allocate_with(&mut lab, |b| b.attribute(0x7abc, b"x"));
    answer.expect_error(420);
    assert!(answer.message().has_integrity(), "the sender is known by then");
    lab.assert_empty();
}

fn bare_allocate(id: TransactionId) -> Vec<u8> {
    MessageBuilder::request(method::ALLOCATE, id)
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .finish()
}

// RFC 8489 s. 6.3.1: authentication comes first, so strangers learn nothing
#[test]
fn s5_without_credentials_the_challenge_comes_before_420() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(0x7abc, b"x");
    client.exchange(&mut lab, &request.finish()).expect_error(401);
}

// RFC 8489 s. 6.3.2
#[test]
fn s5_an_indication_with_an_unknown_required_attribute_is_discarded() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    let bytes = MessageBuilder::indication(method::SEND, client.transaction())
        .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
        .attribute(0x7abc, &[])
        .attribute(attr::DATA, b"data")
        .finish();
    client.send_unanswered(&mut lab, &bytes);
    assert_eq!(lab.verdicts(Verdict::DropUnknownAttribute), 1);
}

// RFC 8489 s. 14
#[test]
fn s6_unknown_optional_attributes_and_padding_are_ignored() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let mut request = binding(&mut client).attribute(0xfabc, b"x").finish();
    let len = request.len();
    request[len - 3..].copy_from_slice(b"\xff\x20\x01");
    client.exchange(&mut lab, &request).expect_success();
    client.allocate_with(&mut lab, |b| b.attribute(0xc001, b"optional")).expect_success();
}

// RFC 8489 s. 14, Q11: nothing of our memory travels in padding
#[test]
fn s6_sent_padding_is_zero() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    let sent = lab.peer_data(PEER, relayed, b"\xff\xff\xff\xff\xff");
    assert!(sent[0].payload.ends_with(&[0xff, 0, 0, 0]));
    let refused = client.bind(&mut lab, 0x3fff, PEER);
    let reason = b"Bad Request";
    let at = refused.bytes.windows(reason.len()).position(|w| w == reason).expect("a reason");
    assert_eq!(refused.bytes[at + reason.len()], 0);
}

// RFC 8489 s. 14
#[test]
fn s7_of_duplicate_attributes_the_first_counts() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    let answer = client.request(&mut lab, method::REFRESH, |b| b.lifetime(1200).lifetime(0));
    assert_eq!(answer.expect_success().lifetime(), 1200);
}

// RFC 8489 s. 6.3.2, 6.3.3, Q18
#[test]
fn s8_answers_and_indications_provoke_no_answer() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let id = client.transaction();
    client.send_unanswered(&mut lab, &MessageBuilder::indication(method::BINDING, id).finish());
    assert_eq!(lab.verdicts(Verdict::KeepAlive), 1);
    // The server's own answers, sent back to it.
    let success = {
        let request = binding(&mut client).finish();
        client.exchange(&mut lab, &request).bytes
    };
    let request = bare_allocate(id);
    let error = client.exchange(&mut lab, &request).bytes;
    client.send_unanswered(&mut lab, &success);
    client.send_unanswered(&mut lab, &error);
    assert_eq!(lab.verdicts(Verdict::DropResponse), 2);
}

// RFC 8489 s. 14.8
#[test]
fn s9_error_code_has_reserved_bits_zero_class_number_and_a_short_reason() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let unsigned = bare_allocate(client.transaction());
    let answers = [
        client.exchange(&mut lab, &unsigned),
        client.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, &[0, 0])),
        client.refresh(&mut lab, 600),
        client.allocate_with(&mut lab, |b| b.attribute(0x7abc, &[])),
    ];
    for (answer, code) in answers.iter().zip([401, 400, 437, 420]) {
        answer.expect_error(code);
        let message = answer.message();
        let value = message.attribute(attr::ERROR_CODE).expect("present");
        assert_eq!(value[..2], [0, 0]);
        assert_eq!(u16::from(value[2]) * 100 + u16::from(value[3]), code);
        let reason = std::str::from_utf8(&value[4..]).expect("UTF-8");
        assert!((1..128).contains(&reason.chars().count()));
    }
}

// RFC 8489 s. 14.7
#[test]
fn s10_fingerprint_is_checked_and_answered_in_kind() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let plain = binding(&mut client).finish();
    assert!(!client.exchange(&mut lab, &plain).message().has_fingerprint());
    let mut request = binding(&mut client).fingerprint(true).finish();
    let answer = client.exchange(&mut lab, &request);
    assert!(answer.message().has_fingerprint());
    let kinds = answer.bytes[answer.bytes.len() - 8..].to_vec();
    assert_eq!(kinds[..4], [0x80, 0x28, 0, 4], "the last attribute");
    *request.last_mut().expect("not empty") ^= 1;
    client.send_unanswered(&mut lab, &request);
    assert_eq!(lab.verdicts(Verdict::DropFingerprint), 1);
}

// RFC 8489 s. 14.7: the answer to an Allocate comes later, and has one all the same
#[test]
fn s10_signed_answers_end_with_fingerprint_after_integrity() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer = client.allocate_with(&mut lab, |b| b.fingerprint(true));
    answer.expect_success();
    assert!(answer.message().has_fingerprint() && answer.message().has_integrity());
    let refused = client.request(&mut lab, method::CHANNEL_BIND, |b| b.fingerprint(true));
    assert!(refused.expect_error(400).message().has_fingerprint());
}

// RFC 8489 s. 14.14, RFC 8656 s. 5
#[test]
fn s11_t6_software_is_in_authenticated_successes_only_and_configurable() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let request = binding(&mut client).finish();
    assert!(!client.exchange(&mut lab, &request).message().has(attr::SOFTWARE));
    let unsigned = bare_allocate(client.transaction());
    assert!(!client.exchange(&mut lab, &unsigned).message().has(attr::SOFTWARE));
    assert!(!client.refresh(&mut lab, 0).message().has(attr::SOFTWARE), "a 437");
    let allocated = client.allocate_with(&mut lab, |b| b);
    assert_eq!(allocated.message().attribute(attr::SOFTWARE), Some(&b"Turnpike"[..]));
    let refreshed = client.refresh(&mut lab, 600);
    assert_eq!(refreshed.message().attribute(attr::SOFTWARE), Some(&b"Turnpike"[..]), "no version");

    let mut setup = Setup::default();
    setup.config.software = None;
    let mut lab = Lab::with(setup);
    let mut client = Client::new("203.0.113.5:1000");
    assert!(!client.allocate_with(&mut lab, |b| b).message().has(attr::SOFTWARE));

    let mut setup = Setup::default();
    setup.config.software = Some("ä".repeat(1000));
    let mut lab = Lab::with(setup);
    let answer = Client::new("203.0.113.5:1000").allocate_with(&mut lab, |b| b);
    let software = answer.message().attribute(attr::SOFTWARE).map(<[u8]>::len);
    assert_eq!(software, Some(762), "at most 763 bytes, and no half of a character");
}

// RFC 8489 s. 9 and 14.5, Q10: coturn obeyed such attributes until 4.15
#[test]
fn s13_q10_attributes_after_integrity_have_no_effect() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    let signed = client.signed(method::REFRESH, |b| b.lifetime(900));
    let more = [raw_attribute(0x7abc, b"unknown"), raw_attribute(attr::LIFETIME, &[0; 4])].concat();
    let answer = client.exchange(&mut lab, &append(signed, &more));
    assert_eq!(answer.expect_success().lifetime(), 900, "neither 420 nor a deletion");

    let signed =
        client.signed(method::CREATE_PERMISSION, |b| b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER)));
    let other = MessageBuilder::request(
        method::CREATE_PERMISSION,
        Message::parse(&signed).expect("well-formed").transaction_id(),
    )
    .xor_address(attr::XOR_PEER_ADDRESS, addr("198.51.100.99:1"))
    .finish();
    client.exchange(&mut lab, &append(signed, &other[20..])).expect_success();
    assert_eq!(lab.held(), (1, 0));
}

// RFC 8489 s. 2: a Binding doesn't need credentials, and what it has of them isn't looked at
#[test]
fn binding_is_answered_whoever_asks() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let signed = client.signed(method::BINDING, |b| b);
    let answer = client.exchange(&mut lab, &signed);
    assert_eq!(answer.expect_success().class, Class::Success);
    assert!(!answer.message().has_integrity());
}
