//! EVEN-PORT with R = 1 and RESERVATION-TOKEN (RFC 8656 s. 7.2).

use turnpike_proto::wire::attr;

use crate::lab::*;

fn reserve(lab: &mut Lab, client: &mut Client) -> (u16, [u8; 8]) {
    let answer = client.allocate_with(lab, |b| b.attribute(attr::EVEN_PORT, &[0x80]));
    (answer.expect_success().relayed().port(), answer.token())
}

fn redeem(lab: &mut Lab, client: &mut Client, token: [u8; 8]) -> Answer {
    client.allocate_with(lab, |b| b.attribute(attr::RESERVATION_TOKEN, &token))
}

// RFC 8656 s. 7.2 steps 5 and 8: the token comes from another 5-tuple, so often on another worker
#[test]
fn a7_the_odd_port_of_a_pair_is_redeemed_on_another_worker() {
    let mut lab = Lab::new();
    let mut rtp = Client::new("203.0.113.5:1000");
    let (port, token) = reserve(&mut lab, &mut rtp);
    assert_eq!(port % 2, 0);
    assert_eq!((lab.shared.ports_taken(), lab.shared.reservations()), (2, 1));
    let mut rtcp = Client::new("203.0.113.5:1001").on_worker(1);
    let answer = redeem(&mut lab, &mut rtcp, token);
    assert_eq!(answer.expect_success().relayed().port(), port + 1);
    assert!(!answer.message().has(attr::RESERVATION_TOKEN));
    assert_eq!((lab.shared.ports_taken(), lab.shared.reservations()), (2, 0));
    // The reservation's old deadline doesn't touch the port any more.
    lab.sleep(31);
    assert_eq!(lab.shared.ports_taken(), 2);
    rtp.refresh(&mut lab, 0).expect_success();
    rtcp.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 7.2 step 5
#[test]
fn a4_a_token_works_once() {
    let mut lab = Lab::new();
    let (_, token) = reserve(&mut lab, &mut Client::new("203.0.113.5:1000"));
    redeem(&mut lab, &mut Client::new("203.0.113.5:1001").on_worker(1), token).expect_success();
    redeem(&mut lab, &mut Client::new("203.0.113.5:1002"), token).expect_error(508);
    redeem(&mut lab, &mut Client::new("203.0.113.5:1003"), [0; 8]).expect_error(508);
    assert_eq!(lab.shared.ports_taken(), 2);
}

// RFC 8656 s. 7.2 step 8: at least 30 s, whatever becomes of the even port
#[test]
fn a7_a_reservation_is_held_for_thirty_seconds() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let (port, token) = reserve(&mut lab, &mut client);
    client.refresh(&mut lab, 0).expect_success();
    lab.sleep(29);
    let mut other = Client::new("203.0.113.5:1001").on_worker(1);
    assert_eq!(redeem(&mut lab, &mut other, token).expect_success().relayed().port(), port + 1);
    other.refresh(&mut lab, 0).expect_success();

    let (_, token) = reserve(&mut lab, &mut client);
    client.refresh(&mut lab, 0).expect_success();
    assert_eq!(lab.shared.ports_taken(), 1);
    lab.sleep(30);
    lab.assert_empty();
    redeem(&mut lab, &mut other, token).expect_error(508);
}

// The same, before the worker that made it has ticked
#[test]
fn a4_an_expired_token_is_refused_by_a_worker_whose_timer_it_is_not() {
    let mut lab = Lab::new();
    let (_, token) = reserve(&mut lab, &mut Client::new("203.0.113.5:1000"));
    lab.oversleep(30);
    redeem(&mut lab, &mut Client::new("203.0.113.5:1001").on_worker(1), token).expect_error(508);
}

// Conformance Q9: a token is of no use to another user, and not lost to its owner by the attempt
#[test]
fn q9_a_token_belongs_to_its_user() {
    let mut lab = Lab::new();
    let (_, token) = reserve(&mut lab, &mut Client::new("203.0.113.5:1000"));
    redeem(&mut lab, &mut Client::named("203.0.113.6:1000", "bob", "builder"), token).expect_error(508);
    redeem(&mut lab, &mut Client::new("203.0.113.5:1001"), token).expect_success();
}

// Conformance Q9: tokens can't be guessed from others
#[test]
fn q9_tokens_are_random() {
    let mut lab = Lab::new();
    let tokens: std::collections::HashSet<[u8; 8]> = (0..32)
        .map(|i| reserve(&mut lab, &mut Client::new(&format!("203.0.113.5:{}", 1000 + i)).on_worker(i % 2)).1)
        .collect();
    assert_eq!(tokens.len(), 32);
    let bits: u32 = tokens.iter().map(|token| u64::from_be_bytes(*token).count_ones()).sum();
    assert!((880..1168).contains(&bits), "{bits} of 2048 bits are set");
}

// Only this very port will do: somebody else on the host has taken it meanwhile
#[test]
fn a4_a_reserved_port_that_is_occupied_is_508() {
    let mut lab = Lab::new();
    let (port, token) = reserve(&mut lab, &mut Client::new("203.0.113.5:1000"));
    lab.occupied.insert(port + 1);
    redeem(&mut lab, &mut Client::new("203.0.113.5:1001").on_worker(1), token).expect_error(508);
    assert_eq!((lab.shared.ports_taken(), lab.shared.reservations(), lab.ports_opened), (1, 0, 2));
}

// RFC 8656 s. 7.2: the pair exists in IPv6 too, and the token remembers its family
#[test]
fn a7_a_pair_of_ipv6_ports() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer = client.allocate_with(&mut lab, |b| {
        b.attribute(attr::EVEN_PORT, &[0x80]).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])
    });
    let relayed = answer.expect_success().relayed();
    let sibling = redeem(&mut lab, &mut Client::new("203.0.113.5:1001"), answer.token());
    assert_eq!(sibling.relayed().ip(), relayed.ip());
    assert_eq!(sibling.relayed().port(), relayed.port() + 1);
    assert!(relayed.is_ipv6());
}
