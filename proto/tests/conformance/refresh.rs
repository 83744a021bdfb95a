//! Refresh (RFC 8656 s. 8). Halves of dual allocations are in `dual`.

use turnpike_proto::wire::{attr, method};

use crate::lab::*;

// RFC 8656 s. 8.2
#[test]
fn r1_the_lifetime_is_granted_as_for_allocate_and_counts_from_now() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    lab.sleep(300);
    for (asked, granted) in [(1, 600), (777, 777), (99_999_999, 3600), (u32::MAX, 3600)] {
        assert_eq!(client.refresh(&mut lab, asked).expect_success().lifetime(), granted);
    }
    let unnamed = client.request(&mut lab, method::REFRESH, |b| b);
    assert_eq!(unnamed.expect_success().lifetime(), 600);
    lab.sleep(599);
    assert_eq!(lab.open.len(), 1);
    lab.sleep(1);
    lab.assert_empty();
    assert_eq!(lab.ended[0].reason.name(), "expired");
}

// RFC 8656 s. 8.2: a shorter life than before
#[test]
fn r1_a_refresh_may_shorten_the_life() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate_with(&mut lab, |b| b.lifetime(3600)).expect_success();
    client.refresh(&mut lab, 600).expect_success();
    lab.sleep(600);
    lab.assert_empty();
}

// RFC 8656 s. 8.2
#[test]
fn r1_a_malformed_lifetime_changes_nothing() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.request(&mut lab, method::REFRESH, |b| b.attribute(attr::LIFETIME, &[0; 3])).expect_error(400);
    client.request(&mut lab, method::REFRESH, |b| b.attribute(attr::LIFETIME, &[])).expect_error(400);
    assert_eq!(lab.open.len(), 1);
}

// RFC 8656 s. 8.1, 8.2: at once, with everything that belonged to it
#[test]
fn r2_lifetime_zero_ends_everything_at_once() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, "198.51.100.9:1").expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    let answer = client.refresh(&mut lab, 0);
    assert_eq!(answer.expect_success().lifetime(), 0);
    assert!(answer.message().has_integrity());
    lab.assert_empty();
    assert!(lab.peer_data(PEER, relayed, b"late").is_empty());
    assert!(client.channel_data(&mut lab, 0x4000, b"late").is_empty());
    assert!(client.send_indication(&mut lab, PEER, b"late").is_empty());
    client.refresh(&mut lab, 600).expect_error(437);
    // The 5-tuple is free; nothing is inherited.
    let relayed = client.allocate(&mut lab);
    assert!(client.channel_data(&mut lab, 0x4000, b"early").is_empty());
    assert!(lab.peer_data(PEER, relayed, b"early").is_empty());
}

// RFC 8656 s. 8.3, RFC 8489 s. 6.3.1
#[test]
fn r3_a_repeated_deletion_gets_the_same_success() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    let request = client.signed(method::REFRESH, |b| b.lifetime(0));
    let first = client.exchange(&mut lab, &request);
    assert_eq!(first.expect_success().lifetime(), 0);
    lab.sleep(39);
    assert_eq!(client.exchange(&mut lab, &request).bytes, first.bytes);
    lab.sleep(1);
    client.exchange(&mut lab, &request).expect_error(437);
    assert_eq!(lab.ended.len(), 1);
    lab.assert_empty();
}

// RFC 8489 s. 6.3.1: no second effect, whatever stands on the 5-tuple by then
#[test]
fn s26_a_late_copy_of_a_deletion_spares_the_next_allocation() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    let deletion = client.signed(method::REFRESH, |b| b.lifetime(0));
    client.exchange(&mut lab, &deletion).expect_success();
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(client.exchange(&mut lab, &deletion).expect_success().lifetime(), 0);
    assert_eq!(lab.peer_data(PEER, relayed, b"alive").len(), 1);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8489 s. 6.3.1
#[test]
fn s26_repeated_refreshes_permissions_and_binds_have_one_effect() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    let refresh = client.signed(method::REFRESH, |b| b.lifetime(700));
    let permission =
        client.signed(method::CREATE_PERMISSION, |b| b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER)));
    let bind = client.signed(method::CHANNEL_BIND, |b| {
        b.attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]).xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
    });
    for request in [&refresh, &permission, &bind] {
        let first = client.exchange(&mut lab, request);
        first.expect_success();
        assert_eq!(client.exchange(&mut lab, request).bytes, first.bytes);
    }
    assert_eq!(lab.held(), (1, 1));
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 8.2
#[test]
fn r4_a_family_the_allocation_does_not_have_is_443_and_changes_nothing() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    for family in [0, 2, 3] {
        for lifetime in [0, 3600] {
            let answer = client.request(&mut lab, method::REFRESH, |b| {
                b.lifetime(lifetime).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0])
            });
            answer.expect_error(443);
        }
    }
    let answer = client.request(&mut lab, method::REFRESH, |b| {
        b.lifetime(0).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[1])
    });
    answer.expect_error(400);
    lab.sleep(599);
    assert_eq!(lab.open.len(), 1, "neither deleted nor longer-lived");
    lab.sleep(1);
    lab.assert_empty();
}

// RFC 8656 s. 6
#[test]
fn r5_data_does_not_refresh_an_allocation() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    for _ in 0..599 {
        lab.sleep(1);
        assert_eq!(client.channel_data(&mut lab, 0x4000, b"on").len(), 1);
        assert_eq!(lab.peer_data(PEER, relayed, b"on").len(), 1);
    }
    lab.sleep(1);
    assert!(client.channel_data(&mut lab, 0x4000, b"off").is_empty());
    lab.assert_empty();
}
