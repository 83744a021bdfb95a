//! The limits on answers to strangers, and on the work that they can cause.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use turnpike_proto::settings::ServerConfig;
use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};
use turnpike_proto::{Input, Verdict};

use crate::lab::*;
use crate::send_from;

/// Answers of each kind that one worker gives strangers at once.
const STRANGERS_BURST: usize = 4000;
const FLOODER: &str = "203.0.113.5:6666";

fn count(lab: &Lab, verdict: Verdict) -> u64 {
    lab.workers.iter().map(|worker| worker.counts().verdicts.of(verdict)).sum()
}

/// An Allocate without credentials.
fn bare_allocate(number: u32) -> Vec<u8> {
    MessageBuilder::request(method::ALLOCATE, transaction(number))
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .finish()
}

fn transaction(number: u32) -> TransactionId {
    let mut id = [0xaa; 12];
    id[8..].copy_from_slice(&number.to_be_bytes());
    TransactionId(id)
}

/// Sends `times` requests from one address within no time; gives the number of answers.
fn flood(lab: &mut Lab, times: u32, request: impl Fn(u32) -> Vec<u8>) -> usize {
    lab.take_sent();
    for number in 0..times {
        send_from(lab, addr(FLOODER), &request(number));
    }
    lab.take_sent().len()
}

/// The answers to `times` requests of which `free` are answered for certain, and of the rest one in eight.
#[track_caller]
fn assert_limited(answers: usize, free: usize, times: u32) {
    let rest = (times as usize - free) / 8;
    // Five standard deviations of so many draws.
    let spread = ((rest as f64 * 7.0 / 8.0).sqrt() * 5.0) as usize;
    assert!(answers.abs_diff(free + rest) <= spread, "{answers} answers, expected {free} + {rest}");
}

// Conformance Q4
#[test]
fn q4_unauthenticated_answers_are_limited_per_source() {
    let mut lab = Lab::new();
    let answers = flood(&mut lab, 20_000, bare_allocate);
    assert_limited(answers, 1000, 20_000);
    assert_eq!(count(&lab, Verdict::DropUnauthenticatedRate), 20_000 - answers as u64);
    lab.assert_empty();
}

#[test]
fn q4_the_configured_rate_counts_and_can_be_lifted() {
    let config = ServerConfig { unauthenticated_per_sec: 10, ..ServerConfig::default() };
    let mut lab = Lab::with(Setup { config, ..Setup::default() });
    assert_limited(flood(&mut lab, 10_000, bare_allocate), 100, 10_000);
    lab.shared.set_unauthenticated_rate(0);
    assert_eq!(flood(&mut lab, 10_000, bare_allocate), 10_000);
}

#[test]
fn q4_binding_has_its_own_limit() {
    let mut lab = Lab::new();
    flood(&mut lab, 10_000, bare_allocate);
    let binding = |number| MessageBuilder::request(method::BINDING, transaction(number)).finish();
    let answers = flood(&mut lab, 100_000, binding);
    // A worker has less to spend at once than one source may ask for.
    assert_eq!(answers, STRANGERS_BURST);
    let over_source = count(&lab, Verdict::DropBindingRate) as usize;
    assert_limited(100_000 - over_source, 20_000, 100_000);
    assert_eq!(count(&lab, Verdict::DropStrangerBudget) as usize, 100_000 - over_source - STRANGERS_BURST);
}

/// `count` requests from as many sources; how many were answered.
fn flood_from_anywhere(lab: &mut Lab, count: u32, request: &[u8]) -> usize {
    lab.take_sent();
    for number in 0..count {
        let ip = Ipv4Addr::from(0x0b00_0000 | number);
        send_from(lab, SocketAddr::new(IpAddr::V4(ip), 1000), request);
    }
    lab.take_sent().len()
}

/// A Refresh of somebody who has made up his credentials, nonce included.
fn forged_login() -> Vec<u8> {
    MessageBuilder::request(method::ALLOCATE, transaction(1))
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(attr::USERNAME, b"alice")
        .attribute(attr::REALM, REALM.as_bytes())
        .attribute(attr::NONCE, &[b'x'; 20])
        .attribute(attr::MESSAGE_INTEGRITY, &[7; 20])
        .finish()
}

// Conformance Q4: a limit per source sees nothing of a flood from random ones
#[test]
fn q4_a_flood_from_anywhere_gets_a_workers_budget_and_harms_nobody_who_is_known() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.7:1000");
    client.allocate(&mut lab);
    let mut newcomer = Client::new("203.0.113.8:1000");
    newcomer.challenge(&mut lab);
    // The worker that those go to: the lab sends what comes from anywhere to the first.
    let binding = MessageBuilder::request(method::BINDING, transaction(1)).finish();
    lab.sleep(1);
    // The client's own challenge is given to another.
    for (request, returned) in [(binding, 0), (bare_allocate(1), 1), (forged_login(), 0)] {
        let (before, bytes) = (count(&lab, Verdict::DropStrangerBudget), request.len());
        let expected = STRANGERS_BURST + returned;
        assert_eq!(flood_from_anywhere(&mut lab, 10_000, &request), expected, "{bytes} bytes");
        assert_eq!(count(&lab, Verdict::DropStrangerBudget) - before, (10_000 - expected) as u64);
        // Who has an allocation, and who has proved to be there, is answered all the same.
        client.refresh(&mut lab, 600).expect_success();
        let own = MessageBuilder::request(method::BINDING, transaction(2)).finish();
        client.exchange(&mut lab, &own).expect_success();
        newcomer.refresh(&mut lab, 600).expect_error(437);
        lab.sleep(1);
    }
    newcomer.allocate(&mut lab);
}

// The budget shrinks while the worker can't keep up, and is back afterwards.
#[test]
fn q4_a_worker_that_is_behind_answers_few_strangers() {
    let mut lab = Lab::new();
    let binding = MessageBuilder::request(method::BINDING, transaction(1)).finish();
    lab.input(0, Input::Behind(true));
    assert_eq!(flood_from_anywhere(&mut lab, 10_000, &binding), STRANGERS_BURST);
    lab.sleep(1);
    assert_eq!(flood_from_anywhere(&mut lab, 10_000, &binding), 2000);
    lab.shared.set_unauthenticated_rate(0);
    assert_eq!(flood_from_anywhere(&mut lab, 10_000, &binding), 0, "not even where nothing else is limited");
    lab.input(0, Input::Behind(false));
    lab.sleep(1);
    assert_eq!(flood_from_anywhere(&mut lab, 10_000, &binding), 10_000);
}

// All clients of a relay that was restarted: the worker is behind by them, and none has to ask twice.
#[test]
fn q4_a_crowd_that_comes_back_pays_for_itself() {
    let mut lab = Lab::new();
    flood_from_anywhere(&mut lab, 10_000, &bare_allocate(1));
    lab.input(0, Input::Behind(true));
    for number in 0..4200 {
        let ip = Ipv4Addr::from(0x0c00_0000 | number);
        let mut client = Client::new(&format!("{ip}:1000"));
        client.allocate(&mut lab);
        client.refresh(&mut lab, 0).expect_success();
    }
}

// An error answer to Binding may be larger than twice the request, so it doesn't have Binding's limit.
#[test]
fn q4_errors_to_binding_count_as_unauthenticated_answers() {
    let mut lab = Lab::new();
    let odd = |number| {
        MessageBuilder::request(method::BINDING, transaction(number)).attribute(0x0777, &[]).finish()
    };
    assert_limited(flood(&mut lab, 20_000, odd), 1000, 20_000);
}

// Carrier-grade NAT: a flood from the same address leaves those who have credentials alone.
#[test]
fn q4_q7_a_flood_never_limits_who_authenticates() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    flood(&mut lab, 50_000, bare_allocate);
    client.allocate(&mut lab);
    for _ in 0..2000 {
        client.refresh(&mut lab, 600).expect_success();
    }
    // A nonce that is too old is answered with 438 to whoever has the password, flood or not (S25).
    lab.now.unix_secs += 3601;
    for _ in 0..100 {
        client.refresh(&mut lab, 600).expect_error(438);
    }
}

// RFC 8489 s. 9.2.5: a client that was challenged may ask again with its nonce and no credentials.
#[test]
fn q4_a_valid_nonce_passes_the_limit() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    flood(&mut lab, 50_000, bare_allocate);
    for _ in 0..100 {
        let bytes = MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(attr::NONCE, &client.nonce)
            .finish();
        client.exchange(&mut lab, &bytes).expect_error(401);
    }
}

// Conformance Q7
#[test]
fn q7_failed_logins_are_slowed_down_and_never_lock_the_user_out() {
    let mut lab = Lab::new();
    let mut guesser = Client::named(FLOODER, "alice", "guess");
    guesser.challenge(&mut lab);
    let answers = flood(&mut lab, 64_000, |number| {
        guesser.signed_as(method::REFRESH, transaction(number), |builder| builder)
    });
    assert!((750..1350).contains(&answers), "50, then one in 64: {answers}");
    // The right password works at once: from elsewhere, and from the guesser's own address.
    Client::new("198.51.100.99:1000").allocate(&mut lab);
    let mut neighbour = Client::new("203.0.113.5:1000");
    neighbour.nonce = nonce_of(&mut lab, neighbour.address);
    neighbour.allocate(&mut lab);
}

/// A nonce for an address: its 401 is due at once, or by one of the next requests.
fn nonce_of(lab: &mut Lab, address: SocketAddr) -> Vec<u8> {
    let answer = (0..1000).find_map(|number| {
        lab.take_sent();
        send_from(lab, address, &bare_allocate(number));
        lab.take_sent().pop()
    });
    let answer = Answer::of(answer.expect("one in eight is answered").payload);
    answer.message().attribute(attr::NONCE).expect("a 401 has one").to_vec()
}

// A failed login isn't answered the more often for a name that doesn't exist (Q6).
#[test]
fn q6_q7_unknown_users_are_slowed_down_alike() {
    let answers = |user: &str| {
        let mut lab = Lab::new();
        let mut guesser = Client::named(FLOODER, user, "guess");
        guesser.challenge(&mut lab);
        flood(&mut lab, 10_000, |number| {
            guesser.signed_as(method::REFRESH, transaction(number), |builder| builder)
        })
    };
    assert_eq!(answers("alice"), answers("mallory"), "the same draws, the same answers");
}

// Conformance Q4, Q5: nothing is remembered about strangers, and honest ones are answered.
#[test]
fn q5_spoofed_sources_leave_no_state() {
    let mut lab = Lab::new();
    let request = bare_allocate(1);
    for number in 0..100_000u32 {
        let ip = Ipv4Addr::from_bits(0x0b00_0000 + number.wrapping_mul(2_654_435_761) % 0x0100_0000);
        send_from(&mut lab, SocketAddr::new(IpAddr::V4(ip), 1000), &request);
        if number % 1000 == 0 {
            lab.take_sent();
            lab.now.mono_ns += 10_000_000;
        }
    }
    lab.take_sent();
    lab.assert_empty();
    // The flood has spent what the worker does for strangers at once; who is there asks again (RFC 8489 s. 6.2.1).
    lab.sleep_ns(500_000_000);
    Client::new("203.0.113.5:1000").allocate(&mut lab);
}

// Q1: a stricter policy has to hold within a second, however much users have piled up: that takes one pass.
#[test]
fn q1_revoking_everything_takes_one_pass() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    for part in 0..8u8 {
        let answer = client.request(&mut lab, method::CREATE_PERMISSION, |builder| {
            (0..64).fold(builder, |builder, host| {
                builder.xor_address(attr::XOR_PEER_ADDRESS, addr(&format!("8.8.{part}.{host}:1")))
            })
        });
        answer.expect_success();
    }
    for number in 0..1024u16 {
        client.bind(&mut lab, 0x4000 + number, &format!("8.8.0.1:{}", 10_000 + number)).expect_success();
    }
    let before = lab.workers[0].table_counts();
    assert_eq!((before.permissions, before.channels), (512, 1024));
    Setup { deny: vec!["8.0.0.0/8"], ..Setup::default() }.enforce(&lab.shared);
    lab.input(0, Input::PolicyChanged);
    let after = lab.workers[0].table_counts();
    // The allocation's own deadline stays, no other one does.
    assert_eq!((after.permissions, after.channels, after.timers), (0, 0, 1));
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// A request that no client needs to send is not hashed.
#[test]
fn q12_oversized_requests_are_malformed() {
    let mut lab = Lab::new();
    let request = |len: usize| {
        let padding = vec![0; len - 24];
        MessageBuilder::request(method::BINDING, transaction(1)).attribute(0x8fff, &padding).finish()
    };
    let client = Client::new("203.0.113.5:1000");
    client.exchange(&mut lab, &request(4096)).expect_success();
    client.send_unanswered(&mut lab, &request(4100));
    client.send_unanswered(&mut lab, &request(60_000));
    assert_eq!(count(&lab, Verdict::DropMalformed), 2);
}
