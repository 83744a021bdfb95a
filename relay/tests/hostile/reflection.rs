//! What a stranger gets for a byte (Q4), and that a login fails alike whoever is named (Q6): on the wire.

use std::time::{Duration, Instant};

use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, method};

use super::lab::Lab;
use super::server::{SERVER, SERVER_V6, Server};
use super::talker::{Talker, UDP};

/// Bytes of an IPv4 or IPv6 header with a UDP header behind it.
const HEADERS_V4: f64 = 28.0;
const HEADERS_V6: f64 = 48.0;

/// Failed logins of one source that are answered per second at the most.
const PER_SECOND: usize = 100;

/// A request of somebody who has no credentials, and what its answer may be.
struct Probe {
    name: &'static str,
    bytes: Vec<u8>,
    ipv6: bool,
    /// Payload bytes out per payload byte in.
    at_most: f64,
}

fn request(method: u16) -> MessageBuilder {
    MessageBuilder::request(method, TransactionId([0x11; 12]))
}

fn probe(name: &'static str, builder: MessageBuilder, at_most: f64) -> Probe {
    Probe { name, bytes: builder.finish(), ipv6: false, at_most }
}

/// What the limits on amplification are about first, then everything else that is answered at all.
fn probes() -> Vec<Probe> {
    let allocate = || request(method::ALLOCATE).attribute(attr::REQUESTED_TRANSPORT, &UDP);
    let unknown = |count: u16| {
        (0..count).fold(request(method::BINDING), |builder, i| builder.attribute(0x0700 + i, &[]))
    };
    vec![
        probe("Binding", request(method::BINDING), 2.0),
        probe("Binding with FINGERPRINT", request(method::BINDING).fingerprint(true), 2.0),
        // An IPv6 address is 12 bytes longer.
        Probe { ipv6: true, ..probe("Binding over IPv6", request(method::BINDING), 2.2) },
        probe("Binding, 1 unknown attribute", unknown(1), 1.9),
        probe("Binding, 8 unknown attributes", unknown(8), 1.9),
        probe("Binding, 200 unknown attributes", unknown(200), 1.9),
        probe("Allocate", allocate(), 76.0 / 28.0),
        probe("Allocate with FINGERPRINT", allocate().fingerprint(true), 76.0 / 28.0),
        probe("Allocate with SOFTWARE", allocate().attribute(attr::SOFTWARE, b"client"), 76.0 / 28.0),
        probe(
            "Allocate, integrity only",
            request(method::ALLOCATE).attribute(attr::MESSAGE_INTEGRITY, &[0; 20]),
            1.0,
        ),
    ]
}

/// What no client begins with (RFC 8656 s. 5 and 7.1).
fn incomplete() -> [Vec<u8>; 4] {
    [method::ALLOCATE, method::REFRESH, method::CREATE_PERMISSION, method::CHANNEL_BIND]
        .map(|method| request(method).finish())
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q4_answers_to_strangers_are_single_and_small() {
    let Some(lab) = Lab::new("q4_answers_to_strangers_are_single_and_small") else { return };
    let server = Server::start(&lab, "");
    println!("{:<38} {:>4} {:>5} {:>8} {:>12}", "request", "in", "out", "payload", "with headers");
    for probe in probes() {
        let talker = Talker::new(&lab.client, if probe.ipv6 { SERVER_V6 } else { SERVER });
        let out = talker.ask(&probe.bytes).bytes.len() as f64;
        talker.patient_for(Duration::from_millis(50));
        assert_eq!(talker.hear(), None, "{}: one answer", probe.name);
        let bytes_in = probe.bytes.len() as f64;
        let headers = if probe.ipv6 { HEADERS_V6 } else { HEADERS_V4 };
        let on_the_wire = (out + headers) / (bytes_in + headers);
        println!("{:<38} {bytes_in:>4} {out:>5} {:>8.2} {on_the_wire:>12.2}", probe.name, out / bytes_in);
        assert!(out / bytes_in <= probe.at_most, "{}: {bytes_in} bytes in, {out} out", probe.name);
        assert!(on_the_wire <= 1.9, "{}: {on_the_wire}", probe.name);
    }
    let talker = Talker::new(&lab.client, SERVER);
    talker.patient_for(Duration::from_millis(50));
    for bytes in incomplete() {
        talker.say(&bytes);
        assert_eq!(talker.hear(), None, "{bytes:?}");
    }
    assert_eq!(server.stop().count("drop_no_credentials"), 4);
}

/// Nothing but a request is ever answered, so that two servers can't keep each other busy (S8, Q18).
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q18_only_requests_are_answered() {
    let Some(lab) = Lab::new("q18_only_requests_are_answered") else { return };
    let server = Server::start(&lab, "");
    let talker = Talker::new(&lab.client, SERVER);
    talker.patient_for(Duration::from_millis(30));
    let mut silent = 0;
    for method in 0..=0x0FFFu16 {
        for class in [Class::Indication, Class::Success, Class::Error] {
            // Class and method bits interleaved as RFC 8489 s. 5 draws them.
            let class_bits = match class {
                Class::Indication => 0x010,
                Class::Success => 0x100,
                _ => 0x110,
            };
            let kind = class_bits | (method & 0x00F) | (method & 0x070) << 1 | (method & 0xF80) << 2;
            let mut bytes = request(method::BINDING).finish();
            bytes[..2].copy_from_slice(&kind.to_be_bytes());
            talker.say(&bytes);
            silent += 1;
        }
        if method % 512 == 511 {
            assert_eq!(talker.hear(), None, "up to method {method:#05x}");
        }
    }
    assert_eq!(silent, 3 * 4096);
    server.stop();
}

/// The shape of a failed login's answer: attributes with everything that is not drawn by lot.
fn shape(lab: &Lab, user: &str, password: &str) -> (usize, Vec<(u16, Vec<u8>)>) {
    let mut talker = Talker::new(&lab.client, SERVER).named(user, password);
    let answer = talker.try_allocate();
    assert_eq!(answer.code, Some(401));
    let message = Message::parse(&answer.bytes).expect("it was parsed before");
    let attributes = message.attributes().map(|(kind, value)| match kind {
        attr::NONCE => (kind, value[..13].to_vec()),
        _ => (kind, value.to_vec()),
    });
    (answer.bytes.len(), attributes.collect())
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q6_unknown_user_and_wrong_password_look_alike() {
    let Some(lab) = Lab::new("q6_unknown_user_and_wrong_password_look_alike") else { return };
    let server = Server::start(&lab, "");
    let wrong_password = shape(&lab, "alice", "guess");
    assert_eq!(shape(&lab, "mallory", "guess"), wrong_password);
    assert_eq!(shape(&lab, "mallory", "correct horse"), wrong_password);
    let kinds: Vec<u16> = wrong_password.1.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [attr::ERROR_CODE, attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS]);
    server.stop();
}

/// Failed logins are answered less and less, and the right password always is (Q7).
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q7_guessing_is_slowed_down_and_locks_nobody_out() {
    let Some(lab) = Lab::new("q7_guessing_is_slowed_down_and_locks_nobody_out") else { return };
    let server = Server::start(&lab, "");
    let mut guesser = Talker::new(&lab.client, SERVER).named("alice", "guess");
    guesser.challenge();
    let start = Instant::now();
    for _ in 0..2000 {
        let guess = guesser.signed(method::REFRESH, |builder| builder);
        guesser.say(&guess);
    }
    // As many as are answered at once, and then whatever comes until nothing does.
    let mut answers = (0..50).map_while(|_| guesser.hear()).count();
    guesser.patient_for(Duration::from_millis(300));
    answers += std::iter::from_fn(|| guesser.hear()).count();
    // On a slow machine some seconds have passed, each with its own share.
    let most = 200 + PER_SECOND * start.elapsed().as_secs() as usize;
    println!("2000 guesses, {answers} answers");
    assert!((50..most).contains(&answers), "{answers}");
    let mut client = Talker::new(&lab.client, SERVER);
    client.allocate();
    let log = server.stop();
    assert!(log.count("drop_unauthenticated_rate") >= 1800, "{}", log.0);
}
