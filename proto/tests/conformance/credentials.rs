//! Passwords that change and users who go while they have allocations.

use turnpike_proto::Input;
use turnpike_proto::auth::rest_password;
use turnpike_proto::stats::EndReason;
use turnpike_proto::wire::{Message, MessageBuilder, method};

use crate::lab::*;

/// Puts these users and secrets in force, as a reload does.
fn replace(lab: &mut Lab, users: &[(&'static str, &'static str)], secrets: &[&'static str]) {
    let setup = Setup { users: users.to_vec(), secrets: secrets.to_vec(), ..Setup::default() };
    lab.shared.auth.replace_credentials(setup.credentials()).expect("the same realm");
    lab.input_all(|| Input::Tick);
}

fn with_password(client: &Client, password: &str) -> Client {
    let mut client = client.clone();
    client.password = password.into();
    client
}

// RFC 8656 s. 5: the 5-tuple is its user's, whichever password of his the client has
#[test]
fn a_new_password_works_at_once_where_there_is_an_allocation() {
    let mut lab = Lab::new();
    let mut old = Client::new("203.0.113.5:1000");
    old.allocate(&mut lab);
    replace(&mut lab, &[("alice", "changed"), ("bob", "builder")], &[]);
    // Until the client shows that it knows the new one, the call goes on by the old one.
    old.refresh(&mut lab, 600).expect_success();
    let mut new = with_password(&old, "changed");
    let request = new.signed(method::REFRESH, |b| b.lifetime(600));
    let answer = new.exchange(&mut lab, &request);
    let request = Message::parse(&request).expect("ours");
    let expected = MessageBuilder::success(&request).lifetime(600).software("Turnpike");
    assert_eq!(answer.bytes, expected.finish_signed(&new.key()), "the client can verify it");
    new.bind(&mut lab, 0x4000, PEER).expect_success();
    old.refresh(&mut lab, 600).expect_error(401);
    // The old one opens nothing new, and nobody else gets at the allocation.
    let mut elsewhere = Client::new("203.0.113.5:1001");
    elsewhere.allocate_with(&mut lab, |b| b).expect_error(401);
    let mut bob = Client::named("203.0.113.5:1000", "bob", "builder");
    bob.refresh(&mut lab, 0).expect_error(441);
    with_password(&new, "guess").refresh(&mut lab, 0).expect_error(401);
    assert_eq!(new.channel_data(&mut lab, 0x4000, b"on").len(), 1);
    new.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

#[test]
fn a_user_who_is_removed_loses_what_he_has() {
    let mut lab = Lab::new();
    let mut alice = Client::new("203.0.113.5:1000");
    let mut bobs: Vec<Client> = (0..4)
        .map(|n| Client::named(&format!("203.0.113.6:{}", 1000 + n), "bob", "builder").on_worker(n % 2))
        .collect();
    alice.allocate(&mut lab);
    let relayed = bobs[0].allocate(&mut lab);
    for bob in &mut bobs[1..] {
        bob.allocate(&mut lab);
    }
    bobs[0].bind(&mut lab, 0x4000, PEER).expect_success();
    replace(&mut lab, &[("alice", "wonder")], &[]);
    assert!(lab.ended.iter().all(|record| record.reason == EndReason::UserRemoved && &*record.user == "bob"));
    assert_eq!(lab.ended.len(), 4);
    assert!(bobs[0].channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    bobs[0].refresh(&mut lab, 600).expect_error(401);
    alice.refresh(&mut lab, 600).expect_success();
    // Who was never away, only replaced by himself, keeps it.
    replace(&mut lab, &[("alice", "wonder"), ("carol", "new")], &[]);
    alice.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// Conformance O3: secrets are rotated while calls go on; time-limited credentials end by themselves
#[test]
fn o3_secrets_that_go_end_no_calls() {
    let mut lab = Lab::with(Setup { secrets: vec![SECRET], ..Setup::default() });
    let name = format!("{}:carol", START_UNIX_SECS + 9000);
    let mut carol = Client::named("203.0.113.5:1000", &name, &rest_password(SECRET, &name));
    carol.allocate(&mut lab);
    let users = [("alice", "wonder")];
    for secrets in [&["south"][..], &[]] {
        replace(&mut lab, &users, secrets);
        carol.refresh(&mut lab, 600).expect_success();
        let mut elsewhere = Client::named("203.0.113.5:1001", &name, &carol.password);
        elsewhere.allocate_with(&mut lab, |b| b).expect_error(401);
    }
    // The same credential made anew from another secret takes the call over.
    replace(&mut lab, &users, &["south"]);
    with_password(&carol, &rest_password("south", &name)).refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// Who can make time-limited credentials of any name is not therefore a user with a password of that name
#[test]
fn a_time_limited_credential_takes_no_allocation_of_a_user_with_a_password() {
    let name: &'static str = "4102444800";
    let mut lab =
        Lab::with(Setup { users: vec![(name, "wonder")], secrets: vec![SECRET], ..Setup::default() });
    let mut user = Client::named("203.0.113.5:1000", name, "wonder");
    user.allocate(&mut lab);
    let password = rest_password(SECRET, name);
    with_password(&user, &password).refresh(&mut lab, 0).expect_error(401);
    user.refresh(&mut lab, 0).expect_success();
}
