//! Unknown user and wrong password can't be told apart (Q6): not by what is answered, nor by when.

// Time is what is measured here.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Instant;

use turnpike_proto::auth::rest_password;
use turnpike_proto::wire::{attr, method};

use crate::lab::*;
use crate::send_from;

/// Requests of each kind.
const ROUNDS: usize = 4000;
/// What the medians may differ by: scheduling on a shared machine, not a missing HMAC.
const TOLERANCE: f64 = 0.10;

/// Makes requests so long that hashing them takes most of the time, and a missing hash shows.
const PADDING: [u8; 3000] = [0; 3000];

/// Names of the same length: the message's own length would show otherwise, and shows nothing.
const KNOWN: &str = "alice";
const UNKNOWN: &str = "mallo";

/// Nanoseconds that the core takes for a request, with its answer.
fn time(lab: &mut Lab, client: &Client, bytes: &[u8]) -> u64 {
    // Failed logins are limited: let their buckets fill again.
    lab.now.mono_ns += 2_000_000_000;
    lab.take_sent();
    let start = Instant::now();
    send_from(lab, client.address, bytes);
    let took = start.elapsed().as_nanos() as u64;
    assert_eq!(lab.take_sent().len(), 1, "each is answered");
    took
}

fn median(mut times: Vec<u64>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2] as f64
}

/// Medians for an unknown user, a wrong password, and a request that needs no key at all.
fn medians(setup: Setup) -> [f64; 3] {
    let mut lab = Lab::with(setup);
    let mut clients = [Client::named("203.0.113.5:1000", UNKNOWN, "guess"), Client::new("203.0.113.6:1000")];
    clients[1].password = "guess".into();
    assert_eq!(clients[1].user, KNOWN);
    clients.iter_mut().for_each(|client| client.challenge(&mut lab));
    let mut times = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        // Neither kind is always the first one after the other.
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let request =
                clients[which].signed(method::REFRESH, |builder| builder.attribute(0x8fff, &PADDING));
            let took = time(&mut lab, &clients[which], &request);
            times[which].push(took);
        }
        let bare = turnpike_proto::wire::MessageBuilder::request(method::ALLOCATE, clients[0].transaction())
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let took = time(&mut lab, &clients[0], &bare.attribute(0x8fff, &PADDING).finish());
        times[2].push(took);
    }
    times.map(median)
}

#[track_caller]
fn assert_alike(setup: impl Fn() -> Setup) {
    // A machine that is busy with something else gets a second and a third chance; a difference in the
    // code shows each time.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let [unknown, wrong, bare] = medians(setup());
        assert!(bare < 0.9 * wrong, "the measure sees one HMAC: {bare} ns without, {wrong} ns with");
        if (unknown / wrong - 1.0).abs() < TOLERANCE {
            return;
        }
        seen.push((unknown, wrong));
    }
    panic!("unknown user and wrong password differ, ns: {seen:?}");
}

#[test]
fn q6_unknown_user_takes_as_long_as_wrong_password() {
    assert_alike(Setup::default);
}

#[test]
fn q6_with_rest_secrets_it_takes_as_long_too() {
    assert_alike(|| Setup { secrets: vec!["north", "south"], ..Setup::default() });
}

#[test]
fn q6_the_answers_have_the_same_attributes_and_lengths() {
    let mut lab = Lab::new();
    let mut shapes = Vec::new();
    for (user, password) in [(KNOWN, "guess"), (UNKNOWN, "guess"), (UNKNOWN, "wonder")] {
        let mut client = Client::named("203.0.113.5:1000", user, password);
        let answer = client.request(&mut lab, method::ALLOCATE, |builder| {
            builder.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        });
        answer.expect_error(401);
        let message = answer.message();
        let shape: Vec<_> = message
            .attributes()
            .map(|(kind, value)| {
                (kind, if kind == attr::NONCE { vec![0; value.len()] } else { value.to_vec() })
            })
            .collect();
        shapes.push((answer.bytes.len(), shape));
    }
    assert_eq!(shapes[0], shapes[1]);
    assert_eq!(shapes[0], shapes[2]);
}

// An expired time-limited credential, a wrong one, and a name that never was one.
#[test]
fn q6_expired_and_invented_rest_names_are_answered_alike() {
    let mut lab = Lab::with(Setup { secrets: vec![SECRET], ..Setup::default() });
    let expired = format!("{}:alice", START_UNIX_SECS - 1);
    let answers = [(&*expired, rest_password(SECRET, &expired).to_string()), ("nobody", "x".to_owned())].map(
        |(user, password)| {
            let mut client = Client::named("203.0.113.5:1000", user, &password);
            let answer = client.request(&mut lab, method::ALLOCATE, |builder| builder);
            answer.expect_error(401);
            answer.bytes.len()
        },
    );
    assert_eq!(answers[0], answers[1]);
}
