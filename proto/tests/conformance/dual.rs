//! ADDITIONAL-ADDRESS-FAMILY (RFC 8656 s. 7.2 step 9): one allocation with two relayed addresses.

use turnpike_proto::settings::RelayIp;
use turnpike_proto::wire::{attr, method};

use crate::lab::*;

const IPV6: &[u8] = &[2, 0, 0, 0];

fn ask(lab: &mut Lab, client: &mut Client) -> Answer {
    client.allocate_with(lab, |b| b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, IPV6))
}

fn allocated() -> (Lab, Client, [std::net::SocketAddr; 2]) {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer = ask(&mut lab, &mut client);
    let relayed = answer.expect_success().all_relayed();
    assert!(!answer.message().has(attr::ADDRESS_ERROR_CODE));
    (lab, client, relayed.try_into().expect("two addresses"))
}

fn refresh_half(lab: &mut Lab, client: &mut Client, family: u8, lifetime: u32) -> Answer {
    client.request(lab, method::REFRESH, |b| {
        b.lifetime(lifetime).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0])
    })
}

fn relay(ip: &str) -> RelayIp {
    RelayIp { local: ip.parse().expect("an IP"), external: None }
}

// RFC 8656 s. 7.2 step 9
#[test]
fn a8_both_families_in_one_allocation() {
    let (mut lab, mut client, [v4, v6]) = allocated();
    assert!(v4.is_ipv4() && v6.is_ipv6());
    assert_eq!((lab.shared.quotas.used(), lab.shared.ports_taken()), (1, 2));
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4001, PEER_V6).expect_success();
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out")[0].to, addr(PEER));
    assert_eq!(client.channel_data(&mut lab, 0x4001, b"out")[0].to, addr(PEER_V6));
    assert_eq!(lab.peer_data(PEER, v4, b"in")[0].channel_data().0, 0x4000);
    assert_eq!(lab.peer_data(PEER_V6, v6, b"in")[0].channel_data().0, 0x4001);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
    assert_eq!(lab.ended.len(), 1);
    assert_eq!(lab.ended[0].relayed.len(), 2);
}

fn address_error(answer: &Answer) -> Option<(u8, u16)> {
    let message = answer.message();
    let value = message.attribute(attr::ADDRESS_ERROR_CODE)?;
    assert_eq!((value[1], value[2] >> 3), (0, 0), "reserved");
    Some((value[0], u16::from(value[2] & 7) * 100 + u16::from(value[3])))
}

// RFC 8656 s. 7.2 step 9, 18.12
#[test]
fn a8_the_family_that_is_not_offered_is_explained() {
    for (local, missing) in [("192.0.2.1", 2), ("2001:db8::1", 1)] {
        let mut lab = Lab::with(Setup { relays: vec![relay(local)], ..Setup::default() });
        let mut client = Client::new("203.0.113.5:1000");
        let answer = ask(&mut lab, &mut client);
        assert_eq!(answer.expect_success().all_relayed().len(), 1);
        assert_eq!(answer.relayed().ip().to_string(), local);
        assert_eq!(address_error(&answer), Some((missing, 440)));
        client.refresh(&mut lab, 0).expect_success();
        lab.assert_empty();
    }
}

// RFC 8656 s. 7.2 step 9
#[test]
fn a8_the_family_without_a_free_port_is_explained() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_000), ..Setup::default() });
    let mut first = Client::new("203.0.113.5:1000");
    assert!(first.allocate(&mut lab).is_ipv4());
    let mut second = Client::new("203.0.113.5:1001");
    let answer = ask(&mut lab, &mut second);
    assert!(answer.expect_success().relayed().is_ipv6());
    assert_eq!(answer.all_relayed().len(), 1);
    assert_eq!(address_error(&answer), Some((1, 508)));
    // Neither: 508.
    ask(&mut lab, &mut Client::new("203.0.113.5:1002")).expect_error(508);
    assert_eq!(lab.shared.quotas.used(), 2);
}

// The driver finds one family's ports occupied, or both
#[test]
fn a8_a_socket_that_cannot_be_opened_leaves_the_other_family() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_000), ..Setup::default() });
    lab.hold_ports = true;
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    let request = client.signed(method::ALLOCATE, |b| {
        b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(attr::ADDITIONAL_ADDRESS_FAMILY, IPV6)
    });
    client.send_unanswered(&mut lab, &request);
    let v6 = lab.pending.pop().expect("the second socket");
    lab.occupied.insert(50_000);
    lab.open_pending();
    assert!(lab.sent.is_empty(), "the other one isn't decided yet");
    lab.occupied.clear();
    lab.pending.push(v6);
    lab.open_pending();
    let answer = Answer::of(lab.take_one().payload);
    assert!(answer.expect_success().relayed().is_ipv6());
    assert_eq!(address_error(&answer), Some((1, 508)));
    assert_eq!(lab.shared.ports_taken(), 1);
    // Repeated, the same (RFC 8489 s. 6.3.1).
    assert_eq!(client.exchange(&mut lab, &request).bytes, answer.bytes);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();

    lab.hold_ports = false;
    lab.exhausted = true;
    ask(&mut lab, &mut client).expect_error(508);
    lab.assert_empty();
}

// RFC 8656 s. 8.1, 8.2
#[test]
fn r4_each_half_is_deleted_by_itself() {
    for (family, gone, kept) in [(1, 0, 1), (2, 1, 0)] {
        let (mut lab, mut client, relayed) = allocated();
        let peers = [PEER, PEER_V6];
        client.bind(&mut lab, 0x4000, PEER).expect_success();
        client.bind(&mut lab, 0x4001, PEER_V6).expect_success();
        assert_eq!(refresh_half(&mut lab, &mut client, family, 0).expect_success().lifetime(), 0);
        assert_eq!((lab.held(), lab.shared.ports_taken(), lab.ended.len()), ((1, 1), 1, 0));
        assert!(lab.peer_data(peers[gone], relayed[gone], b"in").is_empty());
        assert_eq!(lab.peer_data(peers[kept], relayed[kept], b"in").len(), 1);
        client.permit(&mut lab, peers[gone]).expect_error(443);
        client.bind(&mut lab, 0x4002, peers[gone]).expect_error(443);
        refresh_half(&mut lab, &mut client, family, 600).expect_error(443);
        refresh_half(&mut lab, &mut client, 3 - family, 0).expect_success();
        lab.assert_empty();
        client.refresh(&mut lab, 600).expect_error(437);
    }
}

// RFC 8489 s. 6.3.1: the half is gone, but it was this very request that deleted it
#[test]
fn s26_a_repeated_deletion_of_a_half_gets_the_same_success() {
    let (mut lab, mut client, _) = allocated();
    let request = client
        .signed(method::REFRESH, |b| b.lifetime(0).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]));
    let first = client.exchange(&mut lab, &request);
    first.expect_success();
    assert_eq!(client.exchange(&mut lab, &request).bytes, first.bytes);
    assert_eq!(lab.shared.ports_taken(), 1);
}

// RFC 8656 s. 8.2
#[test]
fn r4_each_half_has_its_own_lifetime() {
    let (mut lab, mut client, [v4, v6]) = allocated();
    refresh_half(&mut lab, &mut client, 2, 1800).expect_success();
    client.bind(&mut lab, 0x4001, PEER_V6).expect_success();
    lab.sleep(599);
    client.permit(&mut lab, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, v4, b"in").len(), 1);
    lab.sleep(1);
    assert!(lab.peer_data(PEER, v4, b"in").is_empty());
    client.bind(&mut lab, 0x4001, PEER_V6).expect_success();
    assert_eq!(lab.peer_data(PEER_V6, v6, b"in").len(), 1);
    assert_eq!(lab.ended.len(), 0);
    lab.sleep(1200);
    lab.assert_empty();
    assert_eq!(lab.ended.len(), 1);
}

// RFC 8656 s. 8.2: without a family both are meant
#[test]
fn r4_a_refresh_without_a_family_is_about_both() {
    let (mut lab, mut client, _) = allocated();
    refresh_half(&mut lab, &mut client, 1, 3600).expect_success();
    client.refresh(&mut lab, 1000).expect_success();
    lab.sleep(999);
    assert_eq!(lab.open.len(), 2);
    lab.sleep(1);
    lab.assert_empty();
}

// RFC 8656 s. 7.2 step 8: EVEN-PORT without R may go along
#[test]
fn a8_a_dual_allocation_with_even_ports() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer = client.allocate_with(&mut lab, |b| {
        b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, IPV6).attribute(attr::EVEN_PORT, &[0])
    });
    assert!(answer.expect_success().all_relayed().iter().all(|relayed| relayed.port() % 2 == 0));
    assert_eq!(lab.shared.ports_taken(), 2);
}
