//! Relay addresses behind a NAT, and several of them.

use std::collections::HashSet;

use turnpike_proto::settings::RelayIp;
use turnpike_proto::wire::attr;

use crate::lab::*;

const PUBLIC: &str = "192.0.2.200";
const PUBLIC_V6: &str = "2001:db8:200::1";

fn mapped(local: &str, external: &str) -> RelayIp {
    let ip = |text: &str| text.parse().expect("an IP");
    RelayIp { local: ip(local), external: Some(ip(external)) }
}

fn behind_nat() -> Lab {
    let relays = vec![mapped("10.0.0.2", PUBLIC), mapped("fd00::2", PUBLIC_V6)];
    Lab::with(Setup { relays, ..Setup::default() })
}

fn local(public: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new("10.0.0.2".parse().expect("an IP"), public.port())
}

#[test]
fn clients_are_told_the_public_address_only() {
    let mut lab = behind_nat();
    let mut client = Client::new("203.0.113.5:1000");
    let answer =
        client.allocate_with(&mut lab, |b| b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]));
    let relayed = answer.expect_success().all_relayed();
    let ips: Vec<String> = relayed.iter().map(|relayed| relayed.ip().to_string()).collect();
    assert_eq!(ips, [PUBLIC, PUBLIC_V6]);
    let open: HashSet<String> = lab.open.values().map(|local| local.ip().to_string()).collect();
    assert_eq!(open, ["10.0.0.2".to_string(), "fd00::2".to_string()].into());
}

// Relay-to-relay by public addresses must not depend on a NAT that hairpins
#[test]
fn d6_relay_to_relay_by_public_address_stays_inside() {
    let mut lab = behind_nat();
    let mut left = Client::new("203.0.113.5:1000");
    let mut right = Client::new("203.0.113.6:1000").on_worker(1);
    let (left_public, right_public) = (left.allocate(&mut lab), right.allocate(&mut lab));
    left.bind(&mut lab, 0x4000, &right_public.to_string()).expect_success();
    right.permit(&mut lab, &left_public.to_string()).expect_success();
    for out in [
        left.channel_data(&mut lab, 0x4000, b"hello"),
        left.send_indication(&mut lab, &right_public.to_string(), b"hello"),
    ] {
        assert_eq!(out[0].to, local(right_public), "straight to the local socket");
    }
    let arrived = lab.peer_data(&local(left_public).to_string(), local(right_public), b"hello");
    assert_eq!(arrived[0].data_indication(), (left_public, b"hello".to_vec()), "named publicly");
    let back = right.send_indication(&mut lab, &left_public.to_string(), b"hi");
    assert_eq!(back[0].to, local(left_public));
    let arrived = lab.peer_data(&local(right_public).to_string(), local(left_public), b"hi");
    assert_eq!(arrived[0].channel_data(), (0x4000, b"hi".to_vec()));
    // An ICMP error names the peer publicly too.
    lab.take_sent();
    lab.icmp(local(right_public), local(left_public), 3, 3, 0);
    let sent = lab.take_one();
    let message = turnpike_proto::wire::Message::parse(&sent.payload).expect("well-formed");
    let peer = message.attribute(attr::XOR_PEER_ADDRESS).expect("present");
    assert_eq!(decode_xor(peer, message.transaction_id()), left_public);
}

// The local form of a peer names the same peer: no second channel to it
#[test]
fn the_two_names_of_a_relayed_address_are_one_peer() {
    let mut lab = behind_nat();
    let mut left = Client::new("203.0.113.5:1000");
    let mut right = Client::new("203.0.113.6:1000");
    left.allocate(&mut lab);
    let right_public = right.allocate(&mut lab);
    left.bind(&mut lab, 0x4000, &right_public.to_string()).expect_success();
    left.bind(&mut lab, 0x4001, &local(right_public).to_string()).expect_error(400);
    left.permit(&mut lab, &right_public.to_string()).expect_success();
    assert_eq!(lab.held(), (1, 1));
}

// Our public address outside the relay range is none of our relayed ones, and refused (Q3)
#[test]
fn q3_other_ports_of_the_public_address_are_refused() {
    let mut lab = behind_nat();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, &format!("{PUBLIC}:22")).expect_error(403);
    client.bind(&mut lab, 0x4000, "10.0.0.2:22").expect_error(403);
    client.permit(&mut lab, &format!("{PUBLIC}:22")).expect_error(403);
    client.permit(&mut lab, "10.0.0.2:22").expect_error(403);
    // A permission is for every port, and other clients' relayed addresses are behind some.
    client.permit(&mut lab, &format!("{PUBLIC}:0")).expect_success();
    assert!(client.send_indication(&mut lab, &format!("{PUBLIC}:22"), b"out").is_empty());
    assert!(client.send_indication(&mut lab, "10.0.0.2:22", b"out").is_empty());
}

const MEDIA: &str = "10.0.0.2:10000";
const MEDIA_NET: &str = "10.0.0.2/32";
const PUBLIC_NET: &str = "192.0.2.200/32";

/// Behind the same NAT as a media server on this host, which the operator has allowed or denied.
fn beside_a_media_server(
    allow: &[&'static str],
    deny: &[&'static str],
) -> (Lab, Client, std::net::SocketAddr) {
    let relays = vec![mapped("10.0.0.2", PUBLIC)];
    let mut lab = Lab::with(Setup { relays, allow: allow.to_vec(), deny: deny.to_vec(), ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    (lab, client, local(relayed))
}

// A peer on this very host is named by the public address, and the NAT need not lead it back to us
#[test]
fn an_allowed_service_of_this_host_is_reached_by_its_public_address() {
    for allowed in [PUBLIC_NET, MEDIA_NET] {
        let (mut lab, mut client, relayed) = beside_a_media_server(&[allowed], &[]);
        let public = format!("{PUBLIC}:10000");
        client.permit(&mut lab, &public).expect_success();
        let sent = client.send_indication(&mut lab, &public, b"offer");
        assert_eq!(sent[0].to, addr(MEDIA), "straight to it, allowed as {allowed}");
        let back = lab.peer_data(MEDIA, relayed, b"answer");
        assert_eq!(back[0].data_indication(), (addr(&public), b"answer".to_vec()), "named publicly");
        client.bind(&mut lab, 0x4000, &public).expect_success();
        assert_eq!(client.channel_data(&mut lab, 0x4000, b"media")[0].to, addr(MEDIA));
        assert_eq!(lab.peer_data(MEDIA, relayed, b"media")[0].channel_data(), (0x4000, b"media".to_vec()));
    }
}

// What is denied in one form is denied in the other, and our listener in both (Q3)
#[test]
fn q3_a_service_of_this_host_is_refused_in_both_forms() {
    let denied: [(&[&str], &[&str]); 3] =
        [(&[], &[]), (&[MEDIA_NET], &[PUBLIC_NET]), (&[PUBLIC_NET], &[MEDIA_NET])];
    for (allow, deny) in denied {
        let (mut lab, mut client, _) = beside_a_media_server(allow, deny);
        for peer in [&format!("{PUBLIC}:10000"), MEDIA] {
            client.bind(&mut lab, 0x4000, peer).expect_error(403);
            client.permit(&mut lab, peer).expect_error(403);
        }
    }
}

fn several() -> Lab {
    let relay = |ip: &str| RelayIp { local: ip.parse().expect("an IP"), external: None };
    let relays = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(relay).to_vec();
    Lab::with(Setup { relays, ports: (50_000, 50_001), ..Setup::default() })
}

// The address that the client talks to comes first, then the others of the family
#[test]
fn the_relay_address_near_the_client_comes_first_then_the_others() {
    let mut lab = several();
    let mut ips = Vec::new();
    for i in 0..6 {
        let relayed = Client::new(&format!("203.0.113.5:{}", 1000 + i)).allocate(&mut lab);
        ips.push(relayed.ip().to_string());
    }
    assert_eq!(ips[..2], ["192.0.2.1", "192.0.2.1"]);
    assert_eq!(ips.iter().collect::<HashSet<_>>().len(), 3);
    Client::new("203.0.113.5:2000").allocate_with(&mut lab, |b| b).expect_error(508);
    assert_eq!(lab.shared.ports_taken(), 6);
}

// A pair lies on one address, and its token leads there
#[test]
fn a7_a_pair_lies_on_one_of_several_addresses() {
    let mut lab = several();
    Client::new("203.0.113.5:1000").allocate(&mut lab);
    let mut rtp = Client::new("203.0.113.5:1001");
    let answer = rtp.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, &[0x80]));
    let relayed = answer.expect_success().relayed();
    assert_ne!(relayed.ip().to_string(), "192.0.2.1", "no pair is left there");
    let token = answer.token();
    let mut rtcp = Client::new("203.0.113.5:1002").on_worker(1);
    let answer = rtcp.allocate_with(&mut lab, |b| b.attribute(attr::RESERVATION_TOKEN, &token));
    let sibling = answer.expect_success().relayed();
    assert_eq!((sibling.ip(), sibling.port()), (relayed.ip(), relayed.port() + 1));
}

// Data leaves from the allocation's own address, and one address's data isn't another's
#[test]
fn equal_ports_on_several_addresses_are_kept_apart() {
    let relay = |ip: &str| RelayIp { local: ip.parse().expect("an IP"), external: None };
    let relays = ["192.0.2.1", "192.0.2.2"].map(relay).to_vec();
    let mut lab = Lab::with(Setup { relays, ports: (50_000, 50_000), ..Setup::default() });
    let mut first = Client::new("203.0.113.5:1000");
    let mut second = Client::new("203.0.113.5:1001").on_worker(1);
    let (a, b) = (first.allocate(&mut lab), second.allocate(&mut lab));
    assert_eq!((a.port(), b.port()), (50_000, 50_000));
    assert_ne!(a.ip(), b.ip());
    first.permit(&mut lab, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, a, b"in")[0].to, first.address);
    assert!(lab.peer_data(PEER, b, b"in").is_empty());
}
