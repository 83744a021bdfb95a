//! Every bound in `turnpike_proto::limits` that a client can reach: the answer or the counter it leads to,
//! and that nothing is left behind.

use turnpike_proto::limits::*;
use turnpike_proto::wire::{HEADER_LEN, MessageBuilder, attr, method};
use turnpike_proto::{Detail, ErrorCode, Verdict};

use crate::lab::*;

fn peer(number: usize) -> String {
    format!("198.51.{}.{}:4000", 100 + number / 250, number % 250)
}

fn allocated(lab: &mut Lab) -> Client {
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(lab);
    client
}

fn permit_range(lab: &mut Lab, client: &mut Client, range: std::ops::Range<usize>) -> Answer {
    client.request(lab, method::CREATE_PERMISSION, |b| {
        range.fold(b, |b, i| b.xor_address(attr::XOR_PEER_ADDRESS, addr(&peer(i))))
    })
}

// RFC 8656 s. 10.2, conformance Q8
#[test]
fn p1_q8_permissions_per_allocation() {
    let mut lab = Lab::new();
    let mut client = allocated(&mut lab);
    for start in (0..MAX_PERMISSIONS).step_by(32) {
        permit_range(&mut lab, &mut client, start..start + 32).expect_success();
    }
    assert_eq!(lab.held().0, MAX_PERMISSIONS);
    client.permit(&mut lab, &peer(MAX_PERMISSIONS)).expect_error(508);
    client.bind(&mut lab, 0x4000, &peer(MAX_PERMISSIONS)).expect_error(508);
    // All or nothing: one of the two is new.
    permit_range(&mut lab, &mut client, MAX_PERMISSIONS - 1..MAX_PERMISSIONS + 1).expect_error(508);
    // What is held can be refreshed and bound.
    permit_range(&mut lab, &mut client, 0..32).expect_success();
    client.bind(&mut lab, 0x4000, &peer(5)).expect_success();
    assert_eq!(lab.held(), (MAX_PERMISSIONS, 1));
    assert_eq!(
        lab.workers[0].counts().errors.of(method::CREATE_PERMISSION, ErrorCode::InsufficientCapacity),
        2
    );
    lab.sleep(300);
    assert_eq!(lab.held(), (0, 1));
    client.permit(&mut lab, &peer(MAX_PERMISSIONS)).expect_success();
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 12.2, conformance Q8
#[test]
fn c2_q8_channels_per_allocation() {
    let mut lab = Lab::new();
    let mut client = allocated(&mut lab);
    let port = |i: usize| format!("198.51.100.7:{}", 1 + i);
    for i in 0..MAX_CHANNELS {
        client.bind(&mut lab, 0x4000 + i as u16, &port(i)).expect_success();
    }
    client.bind(&mut lab, 0x4000 + MAX_CHANNELS as u16, &port(MAX_CHANNELS)).expect_error(508);
    client.bind(&mut lab, 0x4000, &port(0)).expect_success();
    assert_eq!(lab.held(), (1, MAX_CHANNELS));
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 10.1
#[test]
fn p1_peers_per_request() {
    let mut lab = Lab::new();
    let mut client = allocated(&mut lab);
    permit_range(&mut lab, &mut client, 0..MAX_PEERS_PER_REQUEST).expect_success();
    permit_range(&mut lab, &mut client, 100..101 + MAX_PEERS_PER_REQUEST).expect_error(508);
    assert_eq!(lab.held().0, MAX_PEERS_PER_REQUEST);
}

// RFC 8489 s. 14: a walk over attributes is bounded
#[test]
fn q12_attributes_per_message() {
    let mut lab = Lab::new();
    let mut client = allocated(&mut lab);
    let with = |client: &mut Client, count: usize| {
        let builder = MessageBuilder::request(method::BINDING, client.transaction());
        (0..count).fold(builder, |b, _| b.attribute(0xc001, &[])).finish()
    };
    let most = with(&mut client, MAX_ATTRIBUTES);
    client.exchange(&mut lab, &most).expect_success();
    let more = with(&mut client, MAX_ATTRIBUTES + 1);
    client.send_unanswered(&mut lab, &more);
    assert_eq!(lab.verdicts(Verdict::DropMalformed), 1);
}

// RFC 8489 s. 14.9, conformance Q4: the answer doesn't grow with the question
#[test]
fn q4_unknown_attributes_in_one_answer() {
    let mut lab = Lab::new();
    let mut client = allocated(&mut lab);
    let builder = MessageBuilder::request(method::BINDING, client.transaction());
    let request = (0..200).fold(builder, |b, i| b.attribute(0x7000 + i, &[])).finish();
    let answer = client.exchange(&mut lab, &request);
    let listed = answer.expect_error(420).message().attribute(attr::UNKNOWN_ATTRIBUTES).map(<[u8]>::len);
    assert_eq!(listed, Some(2 * MAX_UNKNOWN_ATTRIBUTES));
}

// RFC 8489 s. 14.3
#[test]
fn q12_a_user_name_beyond_its_limit_is_nobody() {
    let name: &'static str = "n".repeat(MAX_USERNAME).leak();
    let mut lab = Lab::with(Setup { users: vec![(name, "wonder")], ..Setup::default() });
    Client::named("203.0.113.5:1000", name, "wonder").allocate(&mut lab);
    let mut client = Client::new("203.0.113.5:1001");
    client.challenge(&mut lab);
    for len in [MAX_USERNAME + 1, 3_000] {
        let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::USERNAME, "n".repeat(len).as_bytes())
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &client.nonce)
            .finish_signed(&client.key());
        client.exchange(&mut lab, &request).expect_error(401);
    }
}

// RFC 8656 s. 7.2 bounds what a request can need
#[test]
fn q12_a_request_beyond_its_limit_is_dropped() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let of_len = |client: &mut Client, len: usize| {
        MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(attr::SOFTWARE, &vec![b's'; len - HEADER_LEN - 12])
            .finish()
    };
    let largest = of_len(&mut client, MAX_REQUEST);
    client.exchange(&mut lab, &largest).expect_error(401);
    let larger = of_len(&mut client, MAX_REQUEST + 4);
    client.send_unanswered(&mut lab, &larger);
    assert_eq!(lab.verdicts(Verdict::DropMalformed), 1);
}

fn reserve(lab: &mut Lab, client: &mut Client) -> Answer {
    client.allocate_with(lab, |b| b.attribute(attr::EVEN_PORT, &[0x80]))
}

// Conformance Q8: reserved ports are taken from everybody, so one user gets few of them
#[test]
fn q8_reservations_per_user() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    for _ in 0..MAX_RESERVATIONS_PER_USER {
        reserve(&mut lab, &mut client).expect_success();
        client.refresh(&mut lab, 0).expect_success();
    }
    assert_eq!(lab.shared.reservations(), MAX_RESERVATIONS_PER_USER);
    assert_eq!(lab.shared.ports_taken(), MAX_RESERVATIONS_PER_USER);
    reserve(&mut lab, &mut client).expect_error(508);
    assert_eq!(lab.shared.ports_taken(), MAX_RESERVATIONS_PER_USER, "the pair went back");
    reserve(&mut lab, &mut Client::named("203.0.113.6:1000", "bob", "builder")).expect_success();
    lab.sleep(30);
    assert_eq!(lab.shared.reservations(), 0);
    reserve(&mut lab, &mut client).expect_success();
}

// Conformance Q8: and all users together
#[test]
fn q8_reservations_in_total() {
    let users: Vec<(&'static str, &'static str)> = (0..=MAX_RESERVATIONS / MAX_RESERVATIONS_PER_USER)
        .map(|i| (&*format!("user{i}").leak(), "wonder"))
        .collect();
    let mut lab = Lab::with(Setup { users: users.clone(), ..Setup::default() });
    let (last, others) = users.split_last().expect("users");
    for (i, (user, password)) in others.iter().enumerate() {
        let mut client = Client::named(&format!("203.0.113.5:{}", 1000 + i), user, password).on_worker(i % 2);
        for _ in 0..MAX_RESERVATIONS_PER_USER {
            reserve(&mut lab, &mut client).expect_success();
            client.refresh(&mut lab, 0).expect_success();
        }
    }
    assert_eq!(lab.shared.reservations(), MAX_RESERVATIONS);
    let mut client = Client::named("203.0.113.6:1000", last.0, last.1);
    reserve(&mut lab, &mut client).expect_error(508);
    client.allocate(&mut lab);
    client.refresh(&mut lab, 0).expect_success();
    lab.sleep(30);
    lab.assert_empty();
}

// RFC 8656 s. 7.2: 508 says that there is no port; while one is free, it is found
#[test]
fn a8_the_one_port_that_no_other_program_has_is_found() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_063), ..Setup::default() });
    lab.occupied = (50_000..=50_063).filter(|port| *port != 50_037).collect();
    let mut client = Client::new("203.0.113.5:1000");
    for _ in 0..12 {
        assert_eq!(client.allocate(&mut lab).port(), 50_037);
        client.refresh(&mut lab, 0).expect_success();
    }
    assert!(lab.ports_opened <= 63 + 12, "others' ports are remembered: {}", lab.ports_opened);
    assert_eq!(lab.workers[0].counts().ports_failed as usize, lab.ports_opened - 12);
    lab.assert_empty();
    let dual = |client: &mut Client, lab: &mut Lab| {
        client.allocate_with(lab, |b| b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]))
    };
    assert_eq!(dual(&mut client, &mut lab).expect_success().all_relayed().len(), 2);
    client.refresh(&mut lab, 0).expect_success();
}

#[test]
fn others_ports_are_tried_again_after_a_while() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_099), ..Setup::default() });
    lab.occupied = (0..=u16::MAX).collect();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate_with(&mut lab, |b| b).expect_error(508);
    assert_eq!(lab.ports_opened, 100, "each once");
    let refusal = lab.refused.last().expect("the operator is told").refusal;
    assert_eq!(refusal.detail, Some(Detail::Ports { held: 0, foreign: 100, of: 100 }));
    lab.assert_empty();
    reserve(&mut lab, &mut client).expect_error(508);
    lab.occupied.clear();
    client.allocate_with(&mut lab, |b| b).expect_error(508);
    assert_eq!(lab.ports_opened, 100, "known");
    lab.sleep(u64::from(FOREIGN_PORT_SECS));
    client.allocate(&mut lab);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// A pair whose even port is another program's: the search goes on, and no odd port is left behind
#[test]
fn a7_a_pair_is_looked_for_among_others_ports() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_063), ..Setup::default() });
    lab.occupied = (50_000..=50_063).step_by(2).filter(|port| *port != 50_010).collect();
    let mut client = Client::new("203.0.113.5:1000");
    assert_eq!(reserve(&mut lab, &mut client).expect_success().relayed().port(), 50_010);
    assert_eq!((lab.shared.ports_taken(), lab.shared.reservations()), (2, 1));
}

// Conformance Q8: a user that does everything that is allowed, again and again, holds no more than before
#[test]
fn q8_churn_leaves_nothing_behind() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    for round in 0..200u32 {
        if round % 50 == 0 {
            client.challenge(&mut lab);
        }
        reserve(&mut lab, &mut client).expect_success();
        client.permit(&mut lab, PEER).expect_success();
        client.bind(&mut lab, 0x4000, PEER).expect_success();
        client.refresh(&mut lab, 0).expect_success();
        lab.sleep(1);
    }
    let counts = lab.workers[0].table_counts();
    assert!(counts.timers <= 31 && counts.allocations == 0, "{counts:?}");
    lab.sleep(30);
    lab.assert_empty();
}
