//! The operator learns why a request was refused; the client and strangers learn nothing by it.

use turnpike_proto::addr::Family;
use turnpike_proto::auth::rest_password;
use turnpike_proto::settings::RelayIps;
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{ErrorCode, Input, RefusalReason, RefusedRequest};

use crate::lab::*;

const UDP: &[u8] = &[17, 0, 0, 0];
const CLIENT: &str = "203.0.113.5:1000";

/// An Allocate, and what the operator was told of it.
#[track_caller]
fn refused(lab: &mut Lab, client: &mut Client, code: u16) -> RefusedRequest {
    client.allocate_with(lab, |builder| builder).expect_error(code);
    told(lab, client)
}

/// The one refusal that the operator was told of, of this client.
#[track_caller]
fn told(lab: &mut Lab, client: &Client) -> RefusedRequest {
    assert_eq!(lab.refused.len(), 1, "{:?}", lab.refused);
    let request = lab.refused.remove(0);
    assert_eq!(request.client, client.address);
    let counted: u64 =
        lab.workers.iter().map(|w| w.counts().refusals.of(request.method, request.refusal.reason)).sum();
    assert!(counted > 0, "{request:?} is counted");
    request
}

fn words(request: &RefusedRequest) -> (&'static str, Option<&str>, String) {
    let detail = request.refusal.detail.map(|detail| detail.to_string()).unwrap_or_default();
    (request.refusal.reason.name(), request.user.as_deref(), detail)
}

// RFC 8489 s. 9.2.4: one answer for all of them (conformance Q6), and four reasons.
#[test]
fn q6_the_operator_learns_why_a_log_in_failed() {
    let mut lab = Lab::with(Setup { secrets: vec![SECRET], ..Setup::default() });
    let mut fails = |user: &str, password: &str, realm: &str| {
        let mut client = Client::named(CLIENT, user, password);
        client.challenge(&mut lab);
        client.realm = realm.to_owned();
        let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, UDP));
        client.exchange(&mut lab, &request).expect_error(401);
        let told = told(&mut lab, &client);
        let (reason, user, detail) = words(&told);
        (reason, user.unwrap_or_default().to_owned(), detail)
    };
    let is = |reason, user: &str, detail: &str| (reason, user.to_owned(), detail.to_owned());
    assert_eq!(fails("alice", "guess", REALM), is("wrong-key", "alice", ""));
    assert_eq!(fails("nobody", "guess", REALM), is("unknown-user", "nobody", ""));
    assert_eq!(fails("alice", "wonder", "example.com"), is("wrong-realm", "alice", ""));
    let expired = format!("{}:carol", START_UNIX_SECS - 3600);
    assert_eq!(
        fails(&expired, &rest_password(SECRET, &expired), REALM),
        is("expired-credential", "carol", "expired 3600 s ago")
    );
    let valid = format!("{}:carol", START_UNIX_SECS + 3600);
    assert_eq!(fails(&valid, &rest_password("south", &valid), REALM), is("wrong-key", "carol", ""));
}

// Most clients ask without credentials first, and again when a nonce has become too old.
#[test]
fn what_every_client_does_is_no_refusal() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT);
    client.allocate(&mut lab);
    lab.sleep(3700);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, UDP));
    client.exchange(&mut lab, &request).expect_error(438);
    assert!(lab.refused.is_empty(), "{:?}", lab.refused);
    let refusals = &lab.workers[0].counts().refusals;
    let counted: Vec<_> = refusals.nonzero().collect();
    assert_eq!(counted, [(method::ALLOCATE, RefusalReason::StaleNonce, 1)]);
}

// Whoever has not proved to be at its address could fill the operator's log in others' names.
#[test]
fn q4_a_stranger_without_a_nonce_of_ours_is_only_counted() {
    let mut lab = Lab::new();
    let mut client = Client::named(CLIENT, "alice", "guess");
    client.challenge(&mut lab);
    for port in 1..100 {
        let mut forger = client.clone();
        forger.address = addr(&format!("203.0.113.9:{port}"));
        let request = forger.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, UDP));
        forger.exchange(&mut lab, &request).expect_error(401);
    }
    assert!(lab.refused.is_empty());
    assert_eq!(lab.workers[0].counts().refusals.of(method::ALLOCATE, RefusalReason::WrongKey), 99);
}

#[test]
fn a_claimed_name_is_told_as_it_came_and_no_longer_than_a_name_may_be() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT);
    client.challenge(&mut lab);
    let long = "x".repeat(2000);
    for (name, shown) in [(&b"eve\n\xff"[..], "eve\n\u{fffd}"), (long.as_bytes(), &long[..508])] {
        let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::USERNAME, name)
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &client.nonce)
            .finish_signed(&client.key());
        client.exchange(&mut lab, &request).expect_error(401);
        assert_eq!(words(&told(&mut lab, &client)), ("unknown-user", Some(shown), String::new()));
    }
}

// Conformance A9
#[test]
fn a9_a_full_quota_says_whose_and_how_many() {
    let mut lab = Lab::with(Setup { user_quota: 2, total_quota: 3, ..Setup::default() });
    let client = |port: u16| Client::new(&format!("203.0.113.5:{port}"));
    for port in 1..3 {
        client(port).allocate(&mut lab);
    }
    let told = refused(&mut lab, &mut client(3), 486);
    assert_eq!(words(&told), ("user-quota", Some("alice"), "2 of 2".to_owned()));
    let bob = |port: u16| Client::named(&format!("203.0.113.6:{port}"), "bob", "builder");
    bob(1).allocate(&mut lab);
    let told = refused(&mut lab, &mut bob(2), 486);
    assert_eq!(words(&told), ("total-quota", Some("bob"), "3 of 3".to_owned()));
}

// A wider port-range wouldn't help here, and isn't advised.
#[test]
fn the_relay_address_that_is_awaited_is_said_to_be() {
    let mut lab = Lab::new();
    let awaited = RelayIps { awaited: vec![Family::V4], ..RelayIps::default() };
    lab.shared.set_network(&awaited, &Setup::default().peers());
    let told = refused(&mut lab, &mut Client::new(CLIENT), 508);
    let yet = "no relay address of this family is there yet; /readyz says what it waits for";
    assert_eq!(words(&told), ("no-port", Some("alice"), yet.to_owned()));
}

#[test]
fn each_508_has_its_own_reason() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_000), ..Setup::default() });
    let reason = |request: RefusedRequest| request.refusal.reason.name();
    lab.exhausted = true;
    assert_eq!(reason(refused(&mut lab, &mut Client::new(CLIENT), 508)), "no-descriptor");
    lab.exhausted = false;
    lab.occupied.insert(50_000);
    assert_eq!(reason(refused(&mut lab, &mut Client::new("203.0.113.5:1"), 508)), "no-port");
    lab.occupied.clear();
    let mut client = Client::new("203.0.113.5:2");
    client.allocate_with(&mut lab, |b| b.attribute(attr::RESERVATION_TOKEN, b"whatever")).expect_error(508);
    assert_eq!(reason(told(&mut lab, &client)), "no-reservation");
    lab.input_all(|| Input::Drain(true));
    assert_eq!(reason(refused(&mut lab, &mut Client::new("203.0.113.5:3"), 508)), "draining");
    lab.shared.set_alternate(Some(addr("192.0.2.99:3479")));
    assert_eq!(reason(refused(&mut lab, &mut Client::new("203.0.113.5:4"), 300)), "redirected");
}

// RFC 8656 s. 5, 7.2, 10.2, 12.2
#[test]
fn what_an_allocation_can_not_have_says_why() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT);
    let mut reasons = Vec::new();
    let mut keep = |lab: &mut Lab, client: &Client| reasons.push(told(lab, client).refusal.reason.name());
    client.permit(&mut lab, PEER).expect_error(437);
    keep(&mut lab, &client);
    client.allocate(&mut lab);
    client.allocate_with(&mut lab, |b| b).expect_error(437);
    keep(&mut lab, &client);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4001, PEER).expect_error(400);
    keep(&mut lab, &client);
    client.bind(&mut lab, 0x5001, PEER).expect_error(400);
    keep(&mut lab, &client);
    client.permit(&mut lab, PEER_V6).expect_error(443);
    keep(&mut lab, &client);
    client.request(&mut lab, method::REFRESH, |b| b.attribute(0x0fff, b"?")).expect_error(420);
    keep(&mut lab, &client);
    client.request(&mut lab, method::CREATE_PERMISSION, |b| b).expect_error(400);
    keep(&mut lab, &client);
    let mut other = Client::named(CLIENT, "bob", "builder");
    other.permit(&mut lab, PEER).expect_error(441);
    keep(&mut lab, &other);
    assert_eq!(
        reasons,
        [
            "no-allocation",
            "allocation-exists",
            "channel-conflict",
            "channel-number",
            "family-mismatch",
            "unknown-attribute",
            "malformed",
            "wrong-user"
        ]
    );
}

// Conformance Q1: no wider rule is proposed than this one needs.
#[test]
fn q1_a_refused_peer_names_the_user_and_the_narrowest_remedy() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT);
    client.allocate(&mut lab);
    client.permit(&mut lab, "10.0.0.20:80").expect_error(403);
    let told = told(&mut lab, &client);
    assert_eq!((told.user.as_deref(), told.refusal.peer), (Some("alice"), Some(addr("10.0.0.20:80").ip())));
    assert_eq!(told.refusal.remedy.expect("there is one").to_string(), "--allow-peer 10.0.0.20");
}

// Each error answer but a challenge has a reason: the sums agree.
#[test]
fn reasons_add_up_to_the_error_answers() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT);
    client.permit(&mut lab, PEER).expect_error(437);
    client.allocate(&mut lab);
    client.permit(&mut lab, "10.0.0.20:80").expect_error(403);
    Client::named("203.0.113.5:9", "nobody", "x").allocate_with(&mut lab, |b| b).expect_error(401);
    let counts = lab.workers[0].counts();
    let errors: u64 = counts.errors.nonzero().map(|(_, _, n)| n).sum();
    let refusals: u64 = counts.refusals.nonzero().map(|(_, _, n)| n).sum();
    let challenges = counts.authentications.of(turnpike_proto::stats::Authentication::Challenged);
    assert_eq!((refusals, errors - challenges), (3, 3));
    assert_eq!(counts.errors.of(method::ALLOCATE, ErrorCode::Unauthenticated), 3);
}
