//! Allocate (RFC 8656 s. 7).

use turnpike_proto::wire::{attr, method};

use crate::lab::*;

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
