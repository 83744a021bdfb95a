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

// RFC 8656 s. 7.2: while it is held, no other program can take it
#[test]
fn a7_the_reserved_port_is_bound() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let (port, token) = reserve(&mut lab, &mut client);
    let kept = || lab.reserved.iter().map(|address| address.port());
    assert!(kept().eq([port + 1]));
    // Whoever asks for it now finds it taken.
    lab.occupied.insert(port + 1);
    redeem(&mut lab, &mut Client::new("203.0.113.5:1001").on_worker(1), token).expect_success();
    assert!(lab.reserved.is_empty(), "it has its allocation");
    let (_, _) = reserve(&mut lab, &mut Client::new("203.0.113.5:1002"));
    assert_eq!(lab.reserved.len(), 1);
    lab.sleep(30);
    assert!(lab.reserved.is_empty(), "nobody came for it");
    assert_eq!(lab.shared.ports_taken(), 3);
}

// A pair has both of its ports or is none: the search goes on
#[test]
fn a7_a_pair_whose_odd_port_is_anothers_is_passed_over() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_063), ..Setup::default() });
    lab.occupied = (50_000..=50_063).filter(|port| port % 2 == 1 && *port != 50_033).collect();
    let mut client = Client::new("203.0.113.5:1000");
    assert_eq!(reserve(&mut lab, &mut client).0, 50_032);
    assert_eq!(lab.reserved.len(), 1);
    client.refresh(&mut lab, 0).expect_success();
    client.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, &[0x80])).expect_error(508);
    lab.sleep(30);
    lab.assert_empty();
    lab.occupied = (50_000..=50_063).collect();
    client.allocate_with(&mut lab, |b| b).expect_error(508);
    lab.assert_empty();
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
