//! Send, Data and ICMP (RFC 8656 s. 11), and the bandwidth limit.

use turnpike_proto::settings::ServerConfig;
use turnpike_proto::stats::{Authentication, UserspaceDrop};
use turnpike_proto::wire::{Message, MessageBuilder, attr, method};
use turnpike_proto::{Egress, Verdict};

use crate::lab::*;

fn permitted(client: &str) -> (Lab, Client, std::net::SocketAddr) {
    let mut lab = Lab::new();
    let mut client = Client::new(client);
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    (lab, client, relayed)
}

// RFC 8656 s. 11.2
#[test]
fn d1_a_send_without_peer_or_data_is_discarded_silently() {
    let (mut lab, mut client, _) = permitted("203.0.113.5:1000");
    let send = |client: &mut Client| MessageBuilder::indication(method::SEND, client.transaction());
    let peer = addr(PEER);
    let broken = [
        send(&mut client).finish(),
        send(&mut client).attribute(attr::DATA, b"data").finish(),
        send(&mut client).xor_address(attr::XOR_PEER_ADDRESS, peer).finish(),
        send(&mut client)
            .attribute(attr::XOR_PEER_ADDRESS, &[0, 1, 2])
            .attribute(attr::DATA, b"data")
            .finish(),
        send(&mut client)
            .attribute(attr::XOR_PEER_ADDRESS, &[0, 9, 0, 1, 1, 2, 3, 4])
            .attribute(attr::DATA, b"")
            .finish(),
        send(&mut client)
            .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER_V6))
            .attribute(attr::DATA, b"x")
            .finish(),
    ];
    for bytes in &broken {
        client.send_unanswered(&mut lab, bytes);
    }
    assert_eq!(lab.verdicts(Verdict::DropBadSend), broken.len() as u64);
}

// RFC 8656 s. 11.2
#[test]
fn d1_empty_data_sends_an_empty_datagram() {
    let (mut lab, mut client, _) = permitted("203.0.113.5:1000");
    let sent = client.send_indication(&mut lab, PEER, b"");
    assert_eq!((sent.len(), sent[0].payload.len(), sent[0].to), (1, 0, addr(PEER)));
}

// RFC 8656 s. 11.2: from the relayed address, byte for byte
#[test]
fn d2_payloads_of_all_sizes_arrive_intact() {
    let (mut lab, mut client, relayed) = permitted("203.0.113.5:1000");
    client.bind(&mut lab, 0x4000, "198.51.100.7:5000").expect_success();
    let bytes: Vec<u8> = (0..65_507u32).map(|i| ((i * 31) >> 3) as u8).collect();
    // What remains of 65,507 bytes after header, XOR-PEER-ADDRESS and DATA, whose value is padded.
    for len in [1, 2, 3, 4, 5, 1200, 1472, 9000, 65_467, 65_468] {
        for sent in [
            client.send_indication(&mut lab, PEER, &bytes[..len]),
            client.channel_data(&mut lab, 0x4000, &bytes[..len]),
        ] {
            assert_eq!(sent.len(), 1, "{len} bytes");
            let Egress::Relay(socket) = sent[0].egress else { panic!("to a peer") };
            assert_eq!(lab.open[&(0, socket)], relayed);
            assert_eq!(sent[0].payload, bytes[..len]);
        }
        assert_eq!(lab.peer_data(PEER, relayed, &bytes[..len])[0].data_indication().1, bytes[..len]);
        assert_eq!(
            lab.peer_data("198.51.100.7:5000", relayed, &bytes[..len])[0].channel_data().1,
            bytes[..len]
        );
    }
}

// What doesn't fit into one datagram towards its receiver is counted, never cut
#[test]
fn d2_what_does_not_fit_is_dropped_and_counted() {
    let (mut lab, mut client, relayed) = permitted("203.0.113.5:1000");
    client.bind(&mut lab, 0x4000, "198.51.100.7:5000").expect_success();
    let bytes = vec![7; 65_527];
    assert!(lab.peer_data(PEER, relayed, &bytes[..65_469]).is_empty());
    assert!(lab.peer_data("198.51.100.7:5000", relayed, &bytes[..65_504]).is_empty());
    assert_eq!(lab.peer_data("198.51.100.7:5000", relayed, &bytes[..65_503]).len(), 1);
    assert_eq!(lab.verdicts(Verdict::DropTooLarge), 2);

    // An IPv6 client's datagram may be 20 bytes larger than what IPv4 carries.
    let (mut lab, mut client, _) = permitted("[2001:db8:5::5]:1000");
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert!(client.channel_data(&mut lab, 0x4000, &bytes[..65_508]).is_empty());
    assert_eq!(client.channel_data(&mut lab, 0x4000, &bytes[..65_507])[0].payload.len(), 65_507);
    assert_eq!(lab.verdicts(Verdict::DropTooLarge), 1);
}

// RFC 8656 s. 11.3, 11.4
#[test]
fn d3_a_data_indication_has_peer_data_a_new_transaction_and_no_integrity() {
    let (mut lab, _, relayed) = permitted("203.0.113.5:1000");
    let mut transactions = std::collections::HashSet::new();
    for data in [&b"data"[..], b"", b"data"] {
        let sent = lab.peer_data(PEER, relayed, data);
        assert_eq!(sent[0].data_indication(), (addr(PEER), data.to_vec()));
        let message = Message::parse(&sent[0].payload).expect("well-formed");
        let kinds: Vec<u16> = message.attributes().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [attr::XOR_PEER_ADDRESS, attr::DATA]);
        assert!(!message.has_integrity());
        transactions.insert(message.transaction_id());
    }
    assert_eq!(transactions.len(), 3);
}

// The answer leaves from the address that the client talks to
#[test]
fn d3_data_to_a_client_leaves_from_the_listener_address_it_uses() {
    let (mut lab, mut client, relayed) = permitted("203.0.113.5:1000");
    client.bind(&mut lab, 0x4000, "198.51.100.7:5000").expect_success();
    for peer in [PEER, "198.51.100.7:5000"] {
        let sent = lab.peer_data(peer, relayed, b"in");
        let Egress::Client { source, .. } = sent[0].egress else { panic!("to the client") };
        assert_eq!((source, sent[0].to), (addr(SERVER_V4), client.address));
    }
}

fn icmp_attribute(sent: &Sent) -> Option<Vec<u8>> {
    Message::parse(&sent.payload).expect("well-formed").attribute(attr::ICMP).map(<[u8]>::to_vec)
}

// RFC 8656 s. 11.5, 18.13: 16 bits reserved, 7 bits type, 9 bits code, 4 bytes of data
#[test]
fn d4_an_icmp_error_about_a_permitted_peer_reaches_the_client() {
    let (mut lab, _, relayed) = permitted("203.0.113.5:1000");
    for (icmp_type, code, data, expected) in [
        (3, 3, 99, [0, 0, 6, 3, 0, 0, 0, 0]),
        (3, 4, 1280, [0, 0, 6, 4, 0, 0, 5, 0]),
        (11, 0, 0, [0, 0, 22, 0, 0, 0, 0, 0]),
    ] {
        lab.take_sent();
        lab.icmp(relayed, addr(PEER), icmp_type, code, data);
        let sent = lab.take_one();
        assert_eq!(icmp_attribute(&sent), Some(expected.to_vec()));
        let message = Message::parse(&sent.payload).expect("well-formed");
        let peer = message.attribute(attr::XOR_PEER_ADDRESS).expect("present");
        assert_eq!(decode_xor(peer, message.transaction_id()), addr(PEER));
        assert!(!message.has(attr::DATA));
    }
    assert_eq!(lab.verdicts(Verdict::IcmpToClient), 3);
}

// Clients that stop reading at an indication without DATA are spared, unless the operator wants it otherwise.
#[test]
fn d4_icmp_errors_are_kept_from_clients_by_default() {
    let mut lab = Lab::with(Setup { config: ServerConfig::default(), ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    lab.take_sent();
    lab.icmp(relayed, addr(PEER), 3, 3, 0);
    assert!(lab.take_sent().is_empty());
    assert_eq!(lab.verdicts(Verdict::IcmpToClient), 0);
    let drops = |lab: &Lab| {
        lab.workers.iter().map(|it| it.counts().userspace_drops.of(UserspaceDrop::IcmpError)).sum::<u64>()
    };
    assert_eq!(drops(&lab), 1);
    assert_eq!(lab.peer_data(PEER, relayed, b"in").len(), 1);
}

// RFC 8656 s. 11.5: ICMPv6 types 1 to 3
#[test]
fn d4_icmpv6_errors_have_their_own_types() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer =
        client.allocate_with(&mut lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]));
    let relayed = answer.expect_success().relayed();
    client.permit(&mut lab, PEER_V6).expect_success();
    for (icmp_type, relevant) in [(0, false), (1, true), (2, true), (3, true), (4, false), (128, false)] {
        lab.take_sent();
        lab.icmp(relayed, addr(PEER_V6), icmp_type, 0, 1280);
        assert_eq!(lab.take_sent().len(), usize::from(relevant), "type {icmp_type}");
    }
}

// RFC 8656 s. 11.5: by the quoted destination; other types say nothing about our datagram
#[test]
fn d4_icmp_about_others_and_of_other_types_is_dropped() {
    let (mut lab, _, relayed) = permitted("203.0.113.5:1000");
    lab.take_sent();
    lab.icmp(relayed, addr("198.51.100.8:4000"), 3, 3, 0);
    for icmp_type in [0, 4, 5, 8, 12, 255] {
        lab.icmp(relayed, addr(PEER), icmp_type, 255, u32::MAX);
    }
    lab.sleep(300);
    lab.icmp(relayed, addr(PEER), 3, 3, 0);
    assert!(lab.sent.is_empty());
}

// RFC 8656 s. 11.5
#[test]
fn d5_an_icmp_error_disables_nothing() {
    let (mut lab, mut client, relayed) = permitted("203.0.113.5:1000");
    for _ in 0..100 {
        lab.icmp(relayed, addr(PEER), 3, 3, 0);
    }
    assert_eq!(client.send_indication(&mut lab, PEER, b"out").len(), 1);
    assert_eq!(lab.peer_data(PEER, relayed, b"in").len(), 1);
}

// RFC 8656 s. 3: two clients of this server talk through their relayed addresses
#[test]
fn d6_relay_to_relay_on_one_server() {
    let mut lab = Lab::new();
    let mut left = Client::new("203.0.113.5:1000");
    let mut right = Client::new("203.0.113.6:1000").on_worker(1);
    let (left_relayed, right_relayed) = (left.allocate(&mut lab), right.allocate(&mut lab));
    left.bind(&mut lab, 0x4000, &right_relayed.to_string()).expect_success();
    let out = left.channel_data(&mut lab, 0x4000, b"hello");
    assert_eq!(out[0].to, right_relayed);
    assert!(
        lab.peer_data(&left_relayed.to_string(), right_relayed, b"hello").is_empty(),
        "not permitted yet"
    );
    right.permit(&mut lab, &left_relayed.to_string()).expect_success();
    let arrived = lab.peer_data(&left_relayed.to_string(), right_relayed, &out[0].payload);
    assert_eq!(arrived[0].data_indication(), (left_relayed, b"hello".to_vec()));
    let back = right.send_indication(&mut lab, &left_relayed.to_string(), b"hi");
    let arrived = lab.peer_data(&right_relayed.to_string(), left_relayed, &back[0].payload);
    assert_eq!(arrived[0].channel_data(), (0x4000, b"hi".to_vec()));
}

fn limited(bits_per_sec: u64) -> (Lab, Client, std::net::SocketAddr) {
    let mut setup = Setup::default();
    setup.config.max_bitrate_bits = bits_per_sec;
    let mut lab = Lab::with(setup);
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.permit(&mut lab, "198.51.100.9:1").expect_success();
    (lab, client, relayed)
}

// RFC 8656 s. 5: a bandwidth quota is about data, in each direction by itself
#[test]
fn t5_the_bandwidth_limit_holds_for_channels_and_indications_together() {
    let (mut lab, mut client, relayed) = limited(1_000_000);
    let (mut out, mut into) = (0, 0);
    // Ten seconds with four times what is allowed.
    for i in 0..5000 {
        lab.sleep_ns(2_000_000);
        let sent = match i % 2 {
            0 => client.channel_data(&mut lab, 0x4000, &[0; 1000]),
            _ => client.send_indication(&mut lab, "198.51.100.9:1", &[0; 1000]),
        };
        out += sent.len() * 1000;
        let peer = if i % 2 == 0 { PEER } else { "198.51.100.9:1" };
        into += lab.peer_data(peer, relayed, &[0; 1000]).len() * 1000;
    }
    // 125,000 bytes a second and the burst of 100 ms.
    for bytes in [out, into] {
        assert!((1_225_000..=1_300_000).contains(&bytes), "{bytes} bytes in 10 s");
    }
    let drops = lab.verdicts(Verdict::DropRateToPeer) + lab.verdicts(Verdict::DropRateToClient);
    assert_eq!(drops as usize * 1000 + out + into, 10_000_000);
    client.refresh(&mut lab, 0).expect_success();
    let record = &lab.ended[0];
    assert_eq!(record.to_peer.userspace.rate_drops + record.to_client.userspace.rate_drops, drops);
    assert_eq!(record.to_peer.userspace.bytes as usize, out);
}

// RFC 8656 s. 5
#[test]
fn t5_the_bandwidth_limit_never_drops_control() {
    let (mut lab, mut client, _) = limited(1000);
    while !client.channel_data(&mut lab, 0x4000, &[0; 1000]).is_empty() {}
    for _ in 0..50 {
        client.refresh(&mut lab, 600).expect_success();
        client.permit(&mut lab, PEER).expect_success();
        client.bind(&mut lab, 0x4000, PEER).expect_success();
    }
    assert!(client.channel_data(&mut lab, 0x4000, &[0; 1000]).is_empty());
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// One allocation's flood is nobody else's loss
#[test]
fn t5_each_allocation_has_its_own_limit() {
    let (mut lab, client, _) = limited(1_000_000);
    let mut other = Client::new("203.0.113.5:1001");
    other.allocate(&mut lab);
    other.bind(&mut lab, 0x4000, PEER).expect_success();
    while !client.channel_data(&mut lab, 0x4000, &[0; 1000]).is_empty() {}
    assert_eq!(other.channel_data(&mut lab, 0x4000, &[0; 1000]).len(), 1);
}

#[test]
fn what_the_server_counted_is_what_its_allocations_counted() {
    let (mut lab, mut client, relayed) = permitted("203.0.113.5:1000");
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    let other = "198.51.100.8:5000";
    client.permit(&mut lab, other).expect_success();
    client.channel_data(&mut lab, 0x4000, &[1; 100]);
    client.send_indication(&mut lab, other, &[2; 30]);
    lab.peer_data(PEER, relayed, &[3; 7]);
    lab.peer_data(other, relayed, &[4; 20]);
    client.channel_data(&mut lab, 0x4001, &[5; 1000]);
    let counts = lab.workers[0].counts().clone();
    let view = lab.workers[0].inspect(None, 10).0.remove(0);
    assert_eq!((counts.to_peer().packets, counts.to_peer().bytes), (2, 130));
    assert_eq!((counts.to_client().packets, counts.to_client().bytes), (2, 27));
    assert_eq!((view.to_peer.userspace, view.to_client.userspace), (counts.to_peer(), counts.to_client()));
    assert_eq!(view.peers, [addr(PEER).ip(), addr(other).ip()]);
    assert_eq!(counts.authentications.of(Authentication::Challenged), 1);
    assert!(counts.authentications.of(Authentication::Accepted) >= 3);
    client.refresh(&mut lab, 0).expect_success();
    let record = &lab.ended[0];
    assert_eq!((record.to_peer.userspace, record.relayed_public[0]), (counts.to_peer(), relayed));
}
