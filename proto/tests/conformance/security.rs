//! What a hostile client, peer or bystander tries (conformance section 6).

use proptest::prelude::*;
use turnpike_proto::addr::PeerAddr;
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{Input, Origin, Received, Verdict};

use crate::lab::*;

fn family_of(peer: &str) -> u8 {
    if addr(peer).is_ipv4() { 1 } else { 2 }
}

fn allocated(lab: &mut Lab, family: u8) -> Client {
    let mut client = Client::new("203.0.113.5:1000");
    let value = [family, 0, 0, 0];
    let answer = client.allocate_with(lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &value));
    answer.expect_success();
    client
}

const INTERNAL: &[&str] = &[
    "0.0.0.0:80",
    "127.0.0.1:80",
    "127.255.255.254:80",
    "10.0.0.1:80",
    "172.16.0.1:80",
    "192.168.1.1:80",
    "100.64.0.1:80",
    "169.254.169.254:80",
    "168.63.129.16:80",
    "100.100.100.200:80",
    "192.0.0.1:80",
    "198.18.0.1:80",
    "224.0.0.1:80",
    "240.0.0.1:80",
    "255.255.255.255:80",
    "[::]:80",
    "[::1]:80",
    "[fe80::1]:80",
    "[fec0::1]:80",
    "[fc00::1]:80",
    "[fd00:ec2::254]:80",
    "[ff02::1]:80",
    // Q2: IPv4 in disguise.
    "[::ffff:127.0.0.1]:80",
    "[::ffff:198.51.100.7]:80",
    "[::127.0.0.1]:80",
    "[64:ff9b::10.0.0.1]:80",
    "[64:ff9b:1::10.0.0.1]:80",
    "[2002:7f00:1::]:80",
    "[2001:0:a9fe:a9fe::]:80",
];

// Conformance Q1, Q2: CVE-2020-26262, CVE-2026-27624
#[test]
fn q1_q2_internal_peers_are_refused_by_every_request() {
    for peer in INTERNAL {
        let mut lab = Lab::new();
        let mut client = allocated(&mut lab, family_of(peer));
        client.permit(&mut lab, peer).expect_error(403);
        client.bind(&mut lab, 0x4000, peer).expect_error(403);
        assert_eq!(lab.held(), (0, 0), "{peer}");
        assert!(client.send_indication(&mut lab, peer, b"GET /").is_empty());
        assert_eq!(lab.refused_peers().len(), 2, "{peer}");
    }
}

// Conformance Q1: what the operator opens is open, but no rule wider than a default opens that
#[test]
fn q1_the_operator_opens_networks_by_name() {
    let setup = Setup {
        allow: vec!["0.0.0.0/0"],
        allow_loopback: true,
        deny: vec!["10.1.9.0/24"],
        ..Setup::default()
    };
    let mut lab = Lab::with(setup);
    let mut client = allocated(&mut lab, 1);
    client.permit(&mut lab, "10.1.2.3:5").expect_error(403);
    let setup = Setup {
        allow: vec!["10.0.0.0/8"],
        allow_loopback: true,
        deny: vec!["10.1.9.0/24"],
        ..Setup::default()
    };
    let mut lab = Lab::with(setup);
    let mut client = allocated(&mut lab, 1);
    client.bind(&mut lab, 0x4000, "10.1.2.3:5").expect_success();
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out")[0].to, addr("10.1.2.3:5"));
    client.permit(&mut lab, "127.0.0.1:5").expect_success();
    client.permit(&mut lab, "10.1.9.1:5").expect_error(403);
    client.permit(&mut lab, "169.254.169.254:80").expect_error(403);
}

// Conformance Q1: the policy is asked for each Send, since a permission holds for every port
#[test]
fn q1_q3_a_permission_does_not_open_our_other_services() {
    let mut lab = Lab::new();
    let mut client = allocated(&mut lab, 1);
    let other = Client::new("203.0.113.6:1000").on_worker(1).allocate(&mut lab).to_string();
    client.permit(&mut lab, &other).expect_success();
    assert_eq!(client.send_indication(&mut lab, &other, b"relayed").len(), 1);
    for service in [SERVER_V4, "192.0.2.1:22", "192.0.2.1:49151", "192.0.2.1:0", &unleased(&other)] {
        assert!(client.send_indication(&mut lab, service, b"attack").is_empty(), "{service}");
        client.bind(&mut lab, 0x4000, service).expect_error(403);
    }
    assert_eq!(lab.verdicts(Verdict::DropPeerDenied), 5);
}

/// A port of the relay range that no allocation has: a VPN's on the same host, say.
fn unleased(relayed: &str) -> String {
    let relayed = addr(relayed);
    let port = if relayed.port() == 51_820 { 51_821 } else { 51_820 };
    std::net::SocketAddr::new(relayed.ip(), port).to_string()
}

// Conformance Q3: nor do they get in that way
#[test]
fn q3_our_other_services_are_no_peers_either() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    let mut other = Client::new("203.0.113.6:1000");
    let peer = other.allocate(&mut lab).to_string();
    client.permit(&mut lab, &peer).expect_success();
    assert_eq!(lab.peer_data(&peer, relayed, b"relayed").len(), 1);
    assert!(lab.peer_data(SERVER_V4, relayed, b"from the listener").is_empty());
    assert!(lab.peer_data("192.0.2.1:22", relayed, b"SSH-2.0").is_empty());
    assert!(lab.peer_data(&unleased(&peer), relayed, b"handshake").is_empty());
    other.refresh(&mut lab, 0).expect_success();
    assert!(lab.peer_data(&peer, relayed, b"whose port it is now").is_empty());
}

// Conformance Q3: a channel outlives its peer, whose port may be another program's by then
#[test]
fn q3_a_channel_ends_where_the_peers_allocation_ends() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    let mut other = Client::new("203.0.113.6:1000").on_worker(1);
    let peer = other.allocate(&mut lab).to_string();
    client.bind(&mut lab, 0x4000, &peer).expect_success();
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out").len(), 1);
    assert_eq!(lab.peer_data(&peer, relayed, b"in").len(), 1);
    other.refresh(&mut lab, 0).expect_success();
    assert!(client.channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert!(lab.peer_data(&peer, relayed, b"in").is_empty());
    assert_eq!(lab.verdicts(Verdict::DropPeerDenied), 2);
    client.bind(&mut lab, 0x4000, &peer).expect_error(403);
}

// A reserved port has no socket of ours yet: whoever has it on this host is no peer
#[test]
fn q3_a_reserved_port_is_no_peer_before_its_token_is_redeemed() {
    let mut lab = Lab::new();
    let mut rtp = Client::new("203.0.113.5:1000");
    let answer = rtp.allocate_with(&mut lab, |b| b.attribute(attr::EVEN_PORT, &[0x80]));
    let (even, token) = (answer.expect_success().relayed(), answer.token());
    let odd = std::net::SocketAddr::new(even.ip(), even.port() + 1).to_string();
    let mut client = allocated(&mut lab, 2);
    client.bind(&mut lab, 0x4000, &odd).expect_error(403);
    let mut rtcp = Client::new("203.0.113.5:1001");
    rtcp.allocate_with(&mut lab, |b| b.attribute(attr::RESERVATION_TOKEN, &token)).expect_success();
    client.bind(&mut lab, 0x4000, &odd).expect_success();
}

// The server's own answer, relayed to its own listener, must not be answered again (Q3, Q18)
#[test]
fn q18_answers_fed_back_end_there() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.permit(&mut lab, "198.51.100.9:1").expect_success();
    let mut echoes = lab.peer_data("198.51.100.9:1", relayed, b"in");
    echoes.extend(lab.peer_data(PEER, relayed, b"in"));
    for payload in [client.refresh(&mut lab, 600).bytes, client.bind(&mut lab, 1, PEER).bytes]
        .into_iter()
        .chain(echoes.into_iter().map(|sent| sent.payload))
    {
        lab.take_sent();
        let stranger = Client::new("198.51.100.99:3478");
        lab.client_sends(0, stranger.path(), &payload, 0);
        assert!(lab.sent.is_empty());
    }
}

// Conformance Q4: one small answer for each request of a stranger, nothing for anything else
#[test]
fn q4_an_unauthenticated_answer_is_small() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .finish();
    let answer = client.exchange(&mut lab, &request);
    assert!(answer.bytes.len() <= 140, "{} bytes", answer.bytes.len());
    let nonce = answer.message().attribute(attr::NONCE).map(<[u8]>::len);
    assert!(nonce <= Some(40));
    lab.client_sends(0, client.path(), &request, 0);
    assert_eq!(lab.sent.len(), 1, "one answer");
}

// Conformance Q5: a flood of strangers leaves no state
#[test]
fn q5_nothing_is_remembered_of_strangers() {
    let mut lab = Lab::new();
    for i in 0..2000u32 {
        let client = Client::new(&format!("203.0.{}.{}:{}", i % 113, i / 113, 1000 + i));
        let mut forged = client.clone();
        forged.nonce = b"obMatJos2AAADxxxxxxxxxxxxxxxxxxxx".to_vec();
        forged.password = "guess".into();
        let request =
            forged.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
        forged.exchange(&mut lab, &request).expect_error(401);
    }
    lab.assert_empty();
    assert!(lab.workers.iter().all(|server| server.poll_timeout().is_none()));
}

// Conformance Q9: a replay from another address is nobody's
#[test]
fn q9_a_replay_from_another_address_gets_nothing() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    client.exchange(&mut lab, &request).expect_success();
    Client::new("203.0.113.66:1000").exchange(&mut lab, &request).expect_error(438);
    let deletion = client.signed(method::REFRESH, |b| b.lifetime(0));
    Client::new("203.0.113.66:1000").exchange(&mut lab, &deletion).expect_error(438);
    assert_eq!((lab.open.len(), lab.shared.quotas.used()), (1, 1));
}

// Conformance Q13: a peer's datagram is data, whatever it looks like
#[test]
fn q13_what_a_peer_sends_is_never_control() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    let refresh = client.signed(method::REFRESH, |b| b.lifetime(0));
    let binding = MessageBuilder::request(method::BINDING, client.transaction()).finish();
    for bytes in [&refresh[..], &binding, &[0x40, 0, 0, 4, 1, 2, 3, 4]] {
        let sent = lab.peer_data(PEER, relayed, bytes);
        assert_eq!(sent[0].data_indication(), (addr(PEER), bytes.to_vec()));
    }
    client.refresh(&mut lab, 600).expect_success();
}

// Conformance Q9: knowing the user's password on another 5-tuple gives no hold on this one
#[test]
fn q9_channels_and_data_belong_to_the_five_tuple() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    for mut other in [Client::new("203.0.113.5:1001"), Client::new("203.0.113.5:1000").over_tcp()] {
        assert!(other.channel_data(&mut lab, 0x4000, b"out").is_empty());
        assert!(other.send_indication(&mut lab, PEER, b"out").is_empty());
        other.refresh(&mut lab, 0).expect_error(437);
    }
}

fn deny(lab: &Lab, net: &'static str) {
    Setup { deny: vec![net], ..Setup::default() }.enforce(&lab.shared);
}

// A reloaded policy takes back what it would not give any more
#[test]
fn a_stricter_policy_revokes_permissions_and_channels() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4001, "198.51.100.8:4000").expect_success();
    client.permit(&mut lab, "198.51.100.9:4000").expect_success();
    deny(&lab, "198.51.100.7/32");
    assert!(client.send_indication(&mut lab, PEER, b"out").is_empty(), "at once");
    lab.input_all(|| Input::PolicyChanged);
    assert_eq!(lab.held(), (2, 1));
    assert!(client.channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    client.bind(&mut lab, 0x4000, PEER).expect_error(403);
    client.permit(&mut lab, PEER).expect_error(403);
    assert_eq!(client.channel_data(&mut lab, 0x4001, b"out").len(), 1);
    assert_eq!(lab.peer_data("198.51.100.9:4000", relayed, b"in").len(), 1);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// The same for a channel whose permission has ended already
#[test]
fn a_stricter_policy_revokes_a_channel_that_outlived_its_permission() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.sleep(400);
    assert_eq!(lab.held(), (0, 1));
    deny(&lab, "198.51.100.0/24");
    lab.input_all(|| Input::PolicyChanged);
    assert_eq!(lab.held(), (0, 0));
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(0xff), any::<u8>()];
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        // A header that looks right, then attributes that may not be.
        (any::<u16>(), proptest::collection::vec((0..0x30u16, 0..12u16, byte), 0..12)).prop_map(
            |(kind, attributes)| {
                let mut bytes =
                    [&(kind & 0x011f).to_be_bytes()[..], &[0, 0], &0x2112_a442u32.to_be_bytes(), &[9; 12]]
                        .concat();
                for (kind, len, fill) in attributes {
                    bytes.extend(raw_attribute(kind, &vec![fill; usize::from(len)]));
                }
                append(bytes, &[])
            }
        ),
    ]
}

proptest! {
    // Conformance Q12: no bytes of anybody's make the server panic, hold anything, or answer twice
    #[test]
    fn q12_noise_of_strangers_does_nothing(datagrams in proptest::collection::vec(noise(), 1..20)) {
        let mut lab = Lab::new();
        let client = Client::new("203.0.113.5:1000");
        for bytes in &datagrams {
            lab.take_sent();
            lab.client_sends(0, client.path(), bytes, 0);
            prop_assert!(lab.sent.len() <= 1);
        }
        lab.assert_empty();
    }

    // The same from a client with an allocation, signed: only what it may do is done
    #[test]
    fn q12_noise_of_a_client_keeps_its_allocation_consistent(
        requests in proptest::collection::vec((0..4usize, proptest::collection::vec((0..0x30u16, 0..12usize, any::<u8>()), 0..6)), 1..20),
        data in noise(),
    ) {
        let mut lab = Lab::new();
        let mut client = Client::new("203.0.113.5:1000");
        let relayed = client.allocate(&mut lab);
        client.bind(&mut lab, 0x4000, PEER).expect_success();
        for (kind, attributes) in requests {
            let method = [method::ALLOCATE, method::REFRESH, method::CREATE_PERMISSION, method::CHANNEL_BIND][kind];
            let add = |b: MessageBuilder| attributes.iter().fold(b, |b, (kind, len, fill)| b.attribute(*kind, &vec![*fill; *len]));
            let bytes = client.signed(method, add);
            lab.take_sent();
            lab.client_sends(0, client.path(), &bytes, 0);
            prop_assert!(lab.sent.len() <= 1);
        }
        lab.client_sends(0, client.path(), &data, 0);
        lab.peer_data(PEER, relayed, &data);
        lab.sleep(4000);
        lab.assert_empty();
    }
}

// A relay socket's name that isn't, or no longer, in use
#[test]
fn q12_names_of_closed_sockets_are_stale() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    let (&(_, relay), _) = lab.open.iter().next().expect("one socket");
    client.refresh(&mut lab, 0).expect_success();
    client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    lab.take_sent();
    let origin = Origin::Peer { relay, peer: PeerAddr(addr(PEER)) };
    lab.input(0, Input::Received(Received { origin, bytes: b"late", tos: 0 }));
    lab.input(0, Input::PortOpened(relay));
    lab.input(0, Input::PortFailed(relay, turnpike_proto::PortError::InUse));
    lab.input(0, Input::PortClosed(relay));
    assert!(lab.sent.is_empty());
    assert_eq!(lab.verdicts(Verdict::DropStale), 1);
    assert_eq!(lab.shared.ports_taken(), 1);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}
