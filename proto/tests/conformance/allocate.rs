//! Allocate (RFC 8656 s. 7): its checks, its answer, its ports.

use std::collections::HashSet;

use turnpike_proto::settings::DefaultFamily;
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{ErrorCode, Input, Verdict};

use crate::lab::*;

const EVEN: &[u8] = &[0];
const IPV6: &[u8] = &[2, 0, 0, 0];

fn clients(count: u16) -> impl Iterator<Item = Client> {
    (0..count).map(|i| Client::new(&format!("203.0.113.5:{}", 1000 + i)).on_worker(usize::from(i % 2)))
}

// RFC 8656 s. 7.2
#[test]
fn a10_success_tells_relayed_and_mapped_address_and_lifetime() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer = client.allocate_with(&mut lab, |b| b);
    answer.expect_success();
    assert!((49_152..=65_535).contains(&answer.relayed().port()));
    assert_eq!(answer.relayed().ip(), addr(SERVER_V4).ip());
    assert_eq!(answer.lifetime(), 600);
    let message = answer.message();
    assert!(message.has_integrity() && !message.has(attr::RESERVATION_TOKEN));
    let mapped = message.xor_address(attr::XOR_MAPPED_ADDRESS).expect("present").expect("well-formed");
    assert_eq!(mapped, client.address);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 7.2 step 2
#[test]
fn a1_second_allocate_on_a_five_tuple_is_a_mismatch_and_the_first_survives() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.allocate_with(&mut lab, |b| b).expect_error(437);
    client.request(&mut lab, method::REFRESH, |b| b).expect_success();
    assert_eq!(lab.workers[0].counts().errors.of(method::ALLOCATE, ErrorCode::AllocationMismatch), 1);
}

// RFC 8489 s. 6.3.1
#[test]
fn s26_a_repeated_allocate_gets_the_same_answer_for_forty_seconds() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    let request = client.signed(method::ALLOCATE, |b| {
        b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).attribute(attr::EVEN_PORT, &[0x80])
    });
    let first = client.exchange(&mut lab, &request);
    first.expect_success();
    lab.sleep(20);
    assert_eq!(client.exchange(&mut lab, &request).bytes, first.bytes);
    assert_eq!((lab.ports_opened, lab.shared.reservations(), lab.shared.quotas.used()), (1, 1, 1));
    lab.sleep(20);
    client.exchange(&mut lab, &request).expect_error(437);
}

// RFC 8489 s. 6.3.1: the network may deliver a copy after the allocation has gone
#[test]
fn s26_a_late_copy_of_an_allocate_revives_nothing() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    client.exchange(&mut lab, &request).expect_success();
    client.refresh(&mut lab, 0).expect_success();
    client.send_unanswered(&mut lab, &request);
    assert_eq!(lab.verdicts(Verdict::DropRetransmission), 1);
    lab.assert_empty();
    client.allocate(&mut lab);
}

// RFC 8489 s. 6.3.1: the port is still being opened
#[test]
fn s26_a_repetition_of_an_allocate_in_progress_waits_for_its_answer() {
    let mut lab = Lab::new();
    lab.hold_ports = true;
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    let transport: &[u8] = &[17, 0, 0, 0];
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, transport));
    client.send_unanswered(&mut lab, &request);
    client.send_unanswered(&mut lab, &request);
    assert_eq!(lab.verdicts(Verdict::DropRetransmission), 1);
    // Another one, or anything else, has to wait until there is an allocation.
    let other = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, transport));
    client.exchange(&mut lab, &other).expect_error(437);
    client.refresh(&mut lab, 0).expect_error(437);
    client.permit(&mut lab, PEER).expect_error(437);
    lab.take_sent();
    lab.open_pending();
    Answer::of(lab.take_one().payload).expect_success();
    assert_eq!(lab.ports_opened, 1);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 7.2 step 3
#[test]
fn a2_requested_transport_is_needed_and_only_udp_is_relayed() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let mut ask = |transport: Option<&[u8]>| {
        client.request(&mut lab, method::ALLOCATE, |b| match transport {
            Some(value) => b.attribute(attr::REQUESTED_TRANSPORT, value),
            None => b,
        })
    };
    ask(None).expect_error(400);
    ask(Some(&[17])).expect_error(400);
    ask(Some(&[17, 0, 0, 0, 0])).expect_error(400);
    for protocol in [0, 6, 132, 255] {
        ask(Some(&[protocol, 0, 0, 0])).expect_error(442);
    }
    // The reserved bytes are ignored (RFC 8656 s. 18.8).
    ask(Some(&[17, 0xff, 0xff, 0xff])).expect_success();
}

// RFC 8656 s. 7.2 step 4
#[test]
fn a3_dont_fragment_is_supported() {
    let mut lab = Lab::new();
    let answer =
        Client::new("203.0.113.5:1000").allocate_with(&mut lab, |b| b.attribute(attr::DONT_FRAGMENT, &[]));
    answer.expect_success();
}

// RFC 8656 s. 7.2 steps 5, 6 and 8
#[test]
fn a4_a5_a7_attributes_that_exclude_each_other() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let (token, family, additional) =
        (attr::RESERVATION_TOKEN, attr::REQUESTED_ADDRESS_FAMILY, attr::ADDITIONAL_ADDRESS_FAMILY);
    let cases: [&[(u16, &[u8])]; 6] = [
        &[(token, &[1; 8]), (attr::EVEN_PORT, EVEN)],
        &[(token, &[1; 8]), (family, IPV6)],
        &[(token, &[1; 8]), (additional, IPV6)],
        &[(family, IPV6), (additional, IPV6)],
        &[(attr::EVEN_PORT, &[0x80]), (additional, IPV6)],
        &[(additional, &[1, 0, 0, 0])],
    ];
    let malformed: [&[(u16, &[u8])]; 5] = [
        &[(token, &[1; 7])],
        &[(family, &[1])],
        &[(additional, &[2])],
        &[(attr::EVEN_PORT, &[0, 0])],
        &[(attr::LIFETIME, &[0, 0, 2])],
    ];
    for attributes in cases.iter().chain(&malformed) {
        let add = |b: MessageBuilder| attributes.iter().fold(b, |b, (kind, value)| b.attribute(*kind, value));
        client.allocate_with(&mut lab, add).expect_error(400);
        lab.assert_empty();
    }
}

// RFC 8656 s. 7.2 step 7
#[test]
fn a6_the_family_is_ipv4_unless_another_one_is_asked_for() {
    let mut lab = Lab::new();
    for (client, asked, relayed) in [
        ("203.0.113.5:1000", None, SERVER_V4),
        ("[2001:db8:5::5]:1000", None, SERVER_V4),
        ("203.0.113.5:1001", Some(2), SERVER_V6),
        ("[2001:db8:5::5]:1001", Some(2), SERVER_V6),
        ("[2001:db8:5::5]:1002", Some(1), SERVER_V4),
    ] {
        let answer = Client::new(client).allocate_with(&mut lab, |b| match asked {
            Some(family) => b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[family, 0xff, 0xff, 0xff]),
            None => b,
        });
        assert_eq!(answer.expect_success().relayed().ip(), addr(relayed).ip(), "{client} {asked:?}");
        assert_eq!(answer.all_relayed().len(), 1);
    }
}

// RFC 8656 s. 7.2 step 7
#[test]
fn a6_a_family_that_is_not_offered_is_440() {
    let relay = |ip: &str| {
        vec![turnpike_proto::settings::RelayIp { local: ip.parse().expect("an IP"), external: None }]
    };
    let mut lab = Lab::with(Setup { relays: relay("192.0.2.1"), ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    for family in [0, 2, 3, 255] {
        let value = [family, 0, 0, 0];
        let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &value));
        answer.expect_error(440);
    }
    let mut lab = Lab::with(Setup { relays: relay("2001:db8::1"), ..Setup::default() });
    let mut client = Client::new("[2001:db8:5::5]:1000");
    client.allocate_with(&mut lab, |b| b).expect_error(440);
    let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, IPV6));
    answer.expect_success();
}

// The operator's choice for requests that name no family
#[test]
fn a6_the_default_family_can_be_configured() {
    for (default_family, v4_client, v6_client) in
        [(DefaultFamily::Ipv6, SERVER_V6, SERVER_V6), (DefaultFamily::Keep, SERVER_V4, SERVER_V6)]
    {
        let mut setup = Setup::default();
        setup.config.default_family = default_family;
        let mut lab = Lab::with(setup);
        assert_eq!(Client::new("203.0.113.5:1000").allocate(&mut lab).ip(), addr(v4_client).ip());
        assert_eq!(Client::new("[2001:db8:5::5]:1000").allocate(&mut lab).ip(), addr(v6_client).ip());
    }
}

// RFC 8656 s. 7.2 step 8: coturn kept the sibling
#[test]
fn a7_even_port_without_r_leaves_the_sibling_free() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_001), ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, EVEN));
    assert_eq!(answer.expect_success().relayed().port(), 50_000);
    assert!(!answer.message().has(attr::RESERVATION_TOKEN));
    let mut other = Client::new("203.0.113.5:1001");
    let answer = other.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, EVEN));
    answer.expect_error(508);
    assert_eq!(other.allocate(&mut lab).port(), 50_001);
}

// RFC 8656 s. 7.2 step 10
#[test]
fn a9_the_quota_counts_per_user_and_is_given_back_at_once() {
    let mut lab = Lab::with(Setup { user_quota: 2, ..Setup::default() });
    let mut three: Vec<Client> = clients(3).collect();
    three[0].allocate(&mut lab);
    three[1].allocate(&mut lab);
    three[2].allocate_with(&mut lab, |b| b).expect_error(486);
    Client::named("203.0.113.6:1", "bob", "builder").allocate(&mut lab);
    three[0].refresh(&mut lab, 0).expect_success();
    three[2].allocate(&mut lab);
    // Expiry gives it back too.
    lab.sleep(600);
    lab.assert_empty();
    three[0].allocate(&mut lab);
}

// Conformance A9: everybody together
#[test]
fn a9_the_total_quota_counts_all_users() {
    let mut lab = Lab::with(Setup { total_quota: 2, ..Setup::default() });
    Client::new("203.0.113.5:1000").allocate(&mut lab);
    Client::named("203.0.113.6:1", "bob", "builder").on_worker(1).allocate(&mut lab);
    let mut third = Client::new("203.0.113.7:1");
    third.allocate_with(&mut lab, |b| b).expect_error(486);
    lab.shared.quotas.set_limits(0, 3);
    third.allocate(&mut lab);
}

// RFC 8656 s. 7.2
#[test]
fn a11_the_lifetime_is_at_least_600_and_at_most_the_maximum() {
    let mut lab = Lab::new();
    for (mut client, (asked, granted)) in
        clients(6).zip([(0, 600), (1, 600), (777, 777), (3600, 3600), (3601, 3600), (u32::MAX, 3600)])
    {
        let answer = client.allocate_with(&mut lab, |b| b.lifetime(asked));
        assert_eq!(answer.expect_success().lifetime(), granted);
    }
    lab.sleep(600);
    assert_eq!(lab.open.len(), 4);
    lab.sleep(3000);
    lab.assert_empty();

    let mut setup = Setup::default();
    setup.config.max_lifetime_secs = 900;
    let answer = Client::new("203.0.113.5:1000").allocate_with(&mut Lab::with(setup), |b| b.lifetime(3600));
    assert_eq!(answer.lifetime(), 900);
}

// RFC 8656 s. 7.2, RFC 6056
#[test]
fn a12_ports_come_from_the_range_in_no_order() {
    let mut lab = Lab::new();
    let ports: Vec<u16> = clients(64).map(|mut client| client.allocate(&mut lab).port()).collect();
    assert!(ports.iter().all(|port| *port >= 49_152));
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 64);
    let rising = ports.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!((12..=51).contains(&rising), "{rising} of 63 steps upwards");
    let close = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 16).count();
    assert!(close < 8, "{close} neighbours");
}

// RFC 8656 s. 3, 6
#[test]
fn a13_the_transport_belongs_to_the_five_tuple() {
    let mut lab = Lab::new();
    let mut udp = Client::new("203.0.113.5:1000");
    let mut tcp = Client::new("203.0.113.5:1000").over_tcp();
    assert_ne!(udp.allocate(&mut lab), tcp.allocate(&mut lab));
    udp.refresh(&mut lab, 0).expect_success();
    tcp.refresh(&mut lab, 600).expect_success();
}

// RFC 8656 s. 7.2
#[test]
fn a14_a_failed_allocate_leaves_nothing() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_000), user_quota: 3, ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    for _ in 0..5 {
        let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, &[0x80]));
        answer.expect_error(508);
        let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::RESERVATION_TOKEN, &[7; 8]));
        answer.expect_error(508);
    }
    lab.assert_empty();
    client.allocate(&mut lab);
}

// RFC 8656 s. 7.2 step 10: no port is left
#[test]
fn a9_without_a_free_port_the_answer_is_508() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_003), ..Setup::default() });
    let mut five: Vec<Client> = clients(5).collect();
    for client in &mut five[..4] {
        client.allocate(&mut lab);
    }
    five[4].allocate_with(&mut lab, |b| b).expect_error(508);
    five[0].refresh(&mut lab, 0).expect_success();
    five[4].allocate(&mut lab);
    assert_eq!(lab.shared.ports_taken(), 4);
}

// Somebody else on the host has the port: another one will do
#[test]
fn occupied_ports_are_passed_over() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_007), ..Setup::default() });
    lab.occupied = (50_000..50_007).filter(|port| *port != 50_004).collect();
    let mut ports: Vec<u16> = clients(2).map(|mut client| client.allocate(&mut lab).port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [50_004, 50_007]);
    assert_eq!(lab.shared.ports_taken(), 2);
}

// Two families, an even port: what was asked for holds for the second try too
#[test]
fn a7_an_occupied_even_port_is_replaced_by_an_even_one() {
    for r_bit in [0, 0x80] {
        let mut lab = Lab::with(Setup { ports: (50_000, 50_009), ..Setup::default() });
        lab.occupied = [50_000, 50_002, 50_004, 50_006].into();
        let mut client = Client::new("203.0.113.5:1000");
        let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, &[r_bit]));
        assert_eq!(answer.expect_success().relayed().port(), 50_008);
        assert_eq!(lab.shared.reservations(), usize::from(r_bit != 0));
        assert_eq!(lab.shared.ports_taken(), 1 + lab.shared.reservations());
        client.refresh(&mut lab, 0).expect_success();
        lab.sleep(30);
        lab.assert_empty();
    }
}

// Out of descriptors: no other port would do
#[test]
fn exhausted_descriptors_are_508_at_the_first_try() {
    let mut lab = Lab::new();
    lab.exhausted = true;
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, &[0x80])).expect_error(508);
    assert_eq!((lab.ports_opened, lab.workers[0].counts().ports_failed), (1, 1));
    lab.sleep(30);
    lab.assert_empty();
    lab.exhausted = false;
    client.allocate(&mut lab);
}

// Draining: no new allocations, the others go on
#[test]
fn drain_refuses_new_allocations_only() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    lab.input_all(|| Input::Drain(true));
    Client::new("203.0.113.5:1001").allocate_with(&mut lab, |b| b).expect_error(508);
    client.refresh(&mut lab, 600).expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, relayed, b"on").len(), 1);
    lab.input_all(|| Input::Drain(false));
    Client::new("203.0.113.5:1001").allocate(&mut lab);
}

// The process stops
#[test]
fn shutdown_ends_every_allocation_and_accepts_no_more() {
    let mut lab = Lab::new();
    for mut client in clients(4) {
        client.allocate(&mut lab);
        client.bind(&mut lab, 0x4000, PEER).expect_success();
    }
    lab.hold_ports = true;
    let mut opening = Client::new("203.0.113.5:2000");
    opening.challenge(&mut lab);
    let request =
        opening.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    opening.send_unanswered(&mut lab, &request);
    lab.input_all(|| Input::Shutdown);
    lab.assert_empty();
    assert_eq!(lab.ended.len(), 4);
    assert!(lab.ended.iter().all(|record| record.reason.name() == "shutdown"));
    Client::new("203.0.113.5:3000").allocate_with(&mut lab, |b| b).expect_error(508);
}

// The final log record
#[test]
fn an_ended_allocation_leaves_a_record_of_what_it_relayed() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.channel_data(&mut lab, 0x4000, b"12345");
    client.send_indication(&mut lab, PEER, b"123");
    lab.peer_data(PEER, relayed, b"1234567");
    lab.sleep(42);
    client.refresh(&mut lab, 0).expect_success();
    let record = &lab.ended[0];
    assert_eq!((&*record.user, record.five_tuple), ("alice", client.path().five_tuple));
    assert_eq!(record.relayed.iter().map(|relayed| relayed.0).collect::<Vec<_>>(), [relayed]);
    assert_eq!(record.duration_ns, 42_000_000_000);
    assert_eq!((record.to_peer.userspace.packets, record.to_peer.userspace.bytes), (2, 8));
    assert_eq!((record.to_client.userspace.packets, record.to_client.userspace.bytes), (1, 7));
    assert_eq!(record.reason.name(), "deleted");
}

// Conformance A14: ports that somebody else has are passed over, however many they are.
#[test]
fn a14_occupied_ports_are_each_tried_once() {
    let mut lab = Lab::with(Setup { ports: (50_001, 50_012), ..Setup::default() });
    lab.occupied = (50_001..=50_011).collect();
    let mut client = Client::new("203.0.113.5:1000");
    assert_eq!(client.allocate(&mut lab).port(), 50_012);
    assert_eq!(lab.shared.ports_taken(), 1, "the occupied ones are given back");
    Client::new("203.0.113.6:1000").allocate_with(&mut lab, |b| b).expect_error(508);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}
