//! Permissions (RFC 8656 s. 9 and 10).

use turnpike_proto::Verdict;
use turnpike_proto::wire::{MessageBuilder, attr, method};

use crate::lab::*;

fn permit_all(lab: &mut Lab, client: &mut Client, peers: &[&str]) -> Answer {
    let add = |b: MessageBuilder, peer: &&str| b.xor_address(attr::XOR_PEER_ADDRESS, addr(peer));
    client.request(lab, method::CREATE_PERMISSION, |b| peers.iter().fold(b, add))
}

// RFC 8656 s. 10.2
#[test]
fn p1_without_a_valid_peer_the_request_is_malformed() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    permit_all(&mut lab, &mut client, &[]).expect_error(400);
    // Too short, too long, of no family, of a family with the other's length.
    for value in [
        &[][..],
        &[0, 1, 2, 3],
        &[0, 1, 0, 9, 1, 2, 3, 4, 5],
        &[0, 3, 0, 9, 1, 2, 3, 4],
        &[0, 2, 0, 9, 1, 2, 3, 4],
    ] {
        let answer = client.request(&mut lab, method::CREATE_PERMISSION, |b| {
            b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER)).attribute(attr::XOR_PEER_ADDRESS, value)
        });
        answer.expect_error(400);
    }
    assert_eq!(lab.held(), (0, 0), "all or nothing");
}

// RFC 8656 s. 10.2
#[test]
fn p1_a_peer_of_another_family_is_443_for_all() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    permit_all(&mut lab, &mut client, &[PEER, PEER_V6]).expect_error(443);
    permit_all(&mut lab, &mut client, &[PEER_V6]).expect_error(443);
    assert_eq!(lab.held(), (0, 0));
}

// RFC 8656 s. 10.2
#[test]
fn p1_a_refused_peer_is_403_for_all_and_noted() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    permit_all(&mut lab, &mut client, &[PEER, "10.1.2.3:5"]).expect_error(403);
    assert_eq!(lab.held(), (0, 0));
    assert_eq!(lab.refused_peers(), [addr("10.1.2.3:0").ip()]);
}

// RFC 8656 s. 10.2
#[test]
fn p1_several_peers_are_permitted_at_once() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    let peers = ["198.51.100.1:1", "198.51.100.2:2", "198.51.100.1:3"];
    permit_all(&mut lab, &mut client, &peers).expect_success();
    assert_eq!(lab.held(), (2, 0));
    for peer in peers {
        assert_eq!(lab.peer_data(peer, relayed, b"in").len(), 1);
    }
}

// RFC 8656 s. 9: by IP, for 300 s
#[test]
fn p2_a_permission_is_for_every_port_of_an_ip_and_lasts_300_seconds() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    lab.sleep_ns(299_999_999_999);
    for peer in [PEER, "198.51.100.7:1", "198.51.100.7:65535"] {
        assert_eq!(lab.peer_data(peer, relayed, b"in").len(), 1);
        assert_eq!(client.send_indication(&mut lab, peer, b"out").len(), 1);
    }
    lab.sleep_ns(1);
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    assert!(client.send_indication(&mut lab, PEER, b"out").is_empty());
    assert_eq!(lab.held(), (0, 0));
}

// RFC 8656 s. 9: neither direction of data keeps it alive
#[test]
fn p2_data_does_not_refresh_a_permission() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    for _ in 0..3 {
        lab.sleep(99);
        assert_eq!(lab.peer_data(PEER, relayed, b"in").len(), 1);
        assert_eq!(client.send_indication(&mut lab, PEER, b"out").len(), 1);
    }
    lab.sleep(3);
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
}

// RFC 8656 s. 9: CreatePermission and ChannelBind do
#[test]
fn p2_create_permission_and_channel_bind_refresh_it() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    let other_port = "198.51.100.7:9";
    client.permit(&mut lab, PEER).expect_success();
    lab.sleep(200);
    client.permit(&mut lab, other_port).expect_success();
    lab.sleep(200);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.sleep(100);
    client.refresh(&mut lab, 600).expect_success();
    lab.sleep(199);
    assert_eq!(lab.peer_data(other_port, relayed, b"in").len(), 1);
    lab.sleep(1);
    assert!(lab.peer_data(other_port, relayed, b"in").is_empty());
}

// RFC 8656 s. 9, 11.2, 11.3
#[test]
fn p3_without_permission_both_directions_are_dropped_silently() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    assert!(client.send_indication(&mut lab, PEER, b"out").is_empty());
    client.permit(&mut lab, PEER).expect_success();
    assert!(lab.peer_data("198.51.100.8:4000", relayed, b"in").is_empty());
    assert!(client.send_indication(&mut lab, "198.51.100.8:4000", b"out").is_empty());
    assert_eq!(lab.verdicts(Verdict::DropNoPermissionFromPeer), 2);
    assert_eq!(lab.verdicts(Verdict::DropNoPermissionToPeer), 2);
}

// RFC 8656 s. 9
#[test]
fn p4_permissions_are_not_shared_between_allocations_of_a_user() {
    let mut lab = Lab::new();
    let mut first = Client::new("203.0.113.5:1000");
    let mut second = Client::new("203.0.113.5:1001");
    first.allocate(&mut lab);
    let relayed = second.allocate(&mut lab);
    first.permit(&mut lab, PEER).expect_success();
    first.bind(&mut lab, 0x4000, PEER).expect_success();
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    assert!(second.send_indication(&mut lab, PEER, b"out").is_empty());
    assert!(second.channel_data(&mut lab, 0x4000, b"out").is_empty());
}
