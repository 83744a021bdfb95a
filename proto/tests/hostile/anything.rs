//! Any bytes, from anybody: no panic, no state for strangers, at most one small answer.

// One test measures time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};
use turnpike_proto::{Input, Output, PortError};

use crate::lab::*;
use crate::{send_from, send_to_relayed};

const STRANGER: &str = "198.51.100.66:6666";

/// A well-formed request or indication with everything in it that the server reads.
fn well_formed(kind: u8, client: &mut Client) -> Vec<u8> {
    let methods = [method::ALLOCATE, method::REFRESH, method::CREATE_PERMISSION, method::CHANNEL_BIND];
    match kind {
        0..4 => client.signed(methods[usize::from(kind)], |builder| {
            builder
                .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                .attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
                .lifetime(700)
                .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
                .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER_V6))
        }),
        4 => MessageBuilder::indication(method::SEND, client.transaction())
            .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
            .attribute(attr::DATA, b"data")
            .finish(),
        5 => MessageBuilder::request(method::BINDING, client.transaction()).fingerprint(true).finish(),
        _ => vec![0x40, 0, 0, 4, 1, 2, 3, 4],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn q12_any_bytes_from_a_stranger_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut lab = Lab::new();
        send_from(&mut lab, addr(STRANGER), &bytes);
        prop_assert!(lab.sent.len() <= 1);
        lab.assert_empty();
    }

    /// A message with some bytes changed and cut somewhere, from a client that has an allocation, from one
    /// that has none, and from its peer.
    #[test]
    fn q12_damaged_messages_do_no_harm(
        kind in 0u8..7,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut lab = Lab::new();
        let mut client = Client::new("203.0.113.5:1000");
        let relayed = client.allocate(&mut lab);
        client.bind(&mut lab, 0x4000, PEER).expect_success();
        let mut bytes = well_formed(kind, &mut client);
        for (index, value) in &damage {
            let place = index.index(bytes.len());
            bytes[place] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        for sender in [client.address, addr(STRANGER)] {
            lab.take_sent();
            send_from(&mut lab, sender, &bytes);
            prop_assert!(lab.take_sent().len() <= 1, "one answer, or one datagram to a peer");
        }
        send_to_relayed(&mut lab, addr(PEER), relayed, &bytes);
        prop_assert_eq!(lab.take_sent().len(), 1, "what a peer sends is data, whatever it looks like (Q13)");
        // Who has the credentials can still end everything.
        client.refresh(&mut lab, 0);
        lab.sleep(4000);
        lab.assert_empty();
    }
}

/// A port that couldn't be opened for an allocation that has ended meanwhile is given back, though no
/// ClosePort ever finds a socket: otherwise a worker would wait for it at its end, for ever.
#[test]
fn a_port_that_fails_after_the_end_is_given_back() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    lab.hold_ports = true;
    let request = client
        .signed(method::ALLOCATE, |builder| builder.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    client.send_unanswered(&mut lab, &request);
    let (worker, relay, _) = lab.pending.remove(0);
    let (now, server) = (lab.now, &mut lab.workers[worker]);
    server.handle_input(now, Input::Shutdown);
    server.handle_input(now, Input::Tick);
    // The driver has no such socket, so it does nothing about this.
    assert!(matches!(server.poll_output(), Some(Output::ClosePort(closed)) if closed == relay));
    server.handle_input(now, Input::PortFailed(relay, PortError::InUse));
    lab.assert_empty();
}

/// What a stranger can make the server compute for one datagram stays far below a millisecond: the longest
/// name, of characters that are hard to normalise, in the largest request, against several secrets.
#[test]
fn q4_the_work_for_one_datagram_is_bounded() {
    let mut lab = Lab::with(Setup { secrets: vec!["north", "south"], ..Setup::default() });
    let client = Client::new("203.0.113.5:1000");
    // Marks that have to be sorted by their class, after each base letter.
    let name: String = "e\u{301}\u{327}\u{323}".chars().cycle().take(508 / 2).collect();
    let name = &name[..name.floor_char_boundary(508)];
    let worst = MessageBuilder::request(method::ALLOCATE, TransactionId([9; 12]))
        .attribute(attr::USERNAME, name.as_bytes())
        .attribute(attr::REALM, REALM.as_bytes())
        .attribute(attr::NONCE, b"obMatJos2AAAA")
        .attribute(0x8fff, &vec![0; 3400])
        .finish_signed(&client.key());
    let usual = MessageBuilder::request(method::ALLOCATE, TransactionId([9; 12]))
        .attribute(attr::USERNAME, b"alice")
        .attribute(attr::REALM, REALM.as_bytes())
        .attribute(attr::NONCE, b"obMatJos2AAAA")
        .finish_signed(&client.key());
    let mut fastest = |bytes: &[u8]| {
        let once = |_| {
            let start = Instant::now();
            send_from(&mut lab, client.address, bytes);
            start.elapsed()
        };
        let fastest = (0..200).map(once).min().expect("there are some");
        lab.take_sent();
        fastest
    };
    let (worst, usual) = (fastest(&worst), fastest(&usual));
    println!("worst {worst:?}, usual {usual:?}");
    // Unoptimised code on a slow machine; optimised it is a twentieth.
    assert!(worst < Duration::from_millis(5), "{worst:?}");
}
