//! Channels (RFC 8656 s. 12).

use turnpike_proto::Verdict;
use turnpike_proto::wire::{attr, channel, method};

use crate::lab::*;

const OTHER_PORT: &str = "198.51.100.7:4001";
const OTHER_PEER: &str = "198.51.100.8:4000";

fn allocated() -> (Lab, Client, std::net::SocketAddr) {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    (lab, client, relayed)
}

// RFC 8656 s. 12, 12.2
#[test]
fn c1_only_numbers_from_0x4000_to_0x4fff_are_bound() {
    let (mut lab, mut client, _) = allocated();
    for number in [0, 0x3fff, 0x5000, 0x7000, 0x7fff, 0x8000, 0xffff] {
        client.bind(&mut lab, number, PEER).expect_error(400);
    }
    assert_eq!(lab.held(), (0, 0));
    // The operator is told which numbers RFC 5766 would have allowed.
    assert_eq!(lab.old_channels, [0x5000, 0x7000, 0x7fff]);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4fff, OTHER_PEER).expect_success();
}

// RFC 5766 s. 11: old clients, by --rfc5766-channel-numbers
#[test]
fn c1_the_range_of_rfc_5766_is_a_switch() {
    let mut setup = Setup::default();
    setup.config.rfc5766_channels = true;
    let mut lab = Lab::with(setup);
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x7fff, PEER).expect_success();
    client.bind(&mut lab, 0x8000, OTHER_PEER).expect_error(400);
    assert_eq!(client.channel_data(&mut lab, 0x7fff, b"out").len(), 1);
    assert_eq!(lab.peer_data(PEER, relayed, b"in")[0].channel_data(), (0x7fff, b"in".to_vec()));
    assert!(lab.old_channels.is_empty());
}

// RFC 8656 s. 12.2, 18.1
#[test]
fn c1_the_reserved_bytes_are_ignored() {
    let (mut lab, mut client, _) = allocated();
    let answer = client.request(&mut lab, method::CHANNEL_BIND, |b| {
        b.attribute(attr::CHANNEL_NUMBER, &[0x40, 1, 0xff, 0xff])
            .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
    });
    answer.expect_success();
}

// RFC 8656 s. 12.2
#[test]
fn c2_missing_or_malformed_attributes_are_400() {
    let (mut lab, mut client, _) = allocated();
    let number: &[u8] = &[0x40, 0, 0, 0];
    client.request(&mut lab, method::CHANNEL_BIND, |b| b).expect_error(400);
    let answer =
        client.request(&mut lab, method::CHANNEL_BIND, |b| b.attribute(attr::CHANNEL_NUMBER, number));
    answer.expect_error(400);
    let answer =
        client.request(&mut lab, method::CHANNEL_BIND, |b| b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER)));
    answer.expect_error(400);
    for (number, peer) in [(&[0x40, 0][..], &[0, 1, 0, 9, 1, 2, 3, 4][..]), (number, &[0, 1, 0, 9])] {
        let answer = client.request(&mut lab, method::CHANNEL_BIND, |b| {
            b.attribute(attr::CHANNEL_NUMBER, number).attribute(attr::XOR_PEER_ADDRESS, peer)
        });
        answer.expect_error(400);
    }
    assert_eq!(lab.held(), (0, 0));
}

// RFC 8656 s. 12.2
#[test]
fn c2_neither_channel_nor_peer_is_bound_twice_and_the_binding_stays() {
    let (mut lab, mut client, relayed) = allocated();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4000, OTHER_PEER).expect_error(400);
    client.bind(&mut lab, 0x4000, OTHER_PORT).expect_error(400);
    client.bind(&mut lab, 0x4001, PEER).expect_error(400);
    client.bind(&mut lab, 0x4002, OTHER_PEER).expect_success();
    // Both are bound, but not to each other.
    client.bind(&mut lab, 0x4000, OTHER_PEER).expect_error(400);
    assert_eq!(lab.held(), (2, 2));
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out")[0].to, addr(PEER));
    assert_eq!(lab.peer_data(PEER, relayed, b"in")[0].channel_data().0, 0x4000);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
}

// RFC 8656 s. 12.2: two ports of one IP are two peers
#[test]
fn c2_two_channels_to_one_ip() {
    let (mut lab, mut client, relayed) = allocated();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4001, OTHER_PORT).expect_success();
    assert_eq!(lab.held(), (1, 2));
    assert_eq!(lab.peer_data(OTHER_PORT, relayed, b"in")[0].channel_data().0, 0x4001);
    assert_eq!(client.channel_data(&mut lab, 0x4001, b"out")[0].to, addr(OTHER_PORT));
}

// RFC 8656 s. 12.2
#[test]
fn c2_family_and_policy_are_checked_as_for_permissions() {
    let (mut lab, mut client, _) = allocated();
    client.bind(&mut lab, 0x4000, PEER_V6).expect_error(443);
    client.bind(&mut lab, 0x4000, "127.0.0.1:80").expect_error(403);
    client.bind(&mut lab, 0x4000, "198.51.100.7:0").expect_error(403);
    assert_eq!(lab.held(), (0, 0));
    assert_eq!(lab.refused_peers(), [addr("127.0.0.1:80").ip(), addr("198.51.100.7:0").ip()]);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
}

// RFC 8656 s. 12.1, 12.2
#[test]
fn c3_a_bind_creates_the_permission_too() {
    let (mut lab, mut client, relayed) = allocated();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(lab.held(), (1, 1));
    assert_eq!(lab.peer_data(OTHER_PORT, relayed, b"in").len(), 1);
    assert_eq!(client.send_indication(&mut lab, OTHER_PORT, b"out").len(), 1);
}

// RFC 8656 s. 12: 600 s, refreshed by ChannelBind alone
#[test]
fn c3_a_binding_lasts_600_seconds_and_data_does_not_refresh_it() {
    let (mut lab, mut client, relayed) = allocated();
    client.refresh(&mut lab, 3600).expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    for _ in 0..599 {
        lab.sleep(1);
        assert_eq!(client.channel_data(&mut lab, 0x4000, b"out").len(), 1);
        assert_eq!(lab.peer_data(PEER, relayed, b"in")[0].channel_data().0, 0x4000);
    }
    lab.sleep_ns(999_999_999);
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out").len(), 1);
    lab.sleep_ns(1);
    assert!(client.channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    assert_eq!(lab.held(), (0, 0));
}

// RFC 8656 s. 12: the client's duty is to wait; a server may take the next bind at once
#[test]
fn c4_after_its_end_channel_and_peer_can_be_bound_anew() {
    let (mut lab, mut client, relayed) = allocated();
    client.refresh(&mut lab, 3600).expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.sleep(600);
    client.bind(&mut lab, 0x4000, OTHER_PEER).expect_success();
    client.bind(&mut lab, 0x4001, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, relayed, b"in")[0].channel_data().0, 0x4001);
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out")[0].to, addr(OTHER_PEER));
}

// RFC 8656 s. 12.5, 12.7
#[test]
fn c5_a_bound_peer_uses_its_channel_and_its_other_ports_do_not() {
    let (mut lab, mut client, relayed) = allocated();
    client.permit(&mut lab, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, relayed, b"before")[0].data_indication().0, addr(PEER));
    client.bind(&mut lab, 0x4abc, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, relayed, b"after")[0].channel_data(), (0x4abc, b"after".to_vec()));
    let other = lab.peer_data(OTHER_PORT, relayed, b"other");
    assert_eq!(other[0].data_indication(), (addr(OTHER_PORT), b"other".to_vec()));
    // Send indications still work for a bound peer.
    assert_eq!(client.send_indication(&mut lab, PEER, b"out")[0].to, addr(PEER));
}

// RFC 8656 s. 12.4, 12.5, 12.6
#[test]
fn c6_padding_is_left_behind_and_a_short_datagram_discarded() {
    let (mut lab, mut client, _) = allocated();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    let mut data = |len: u16, bytes: &[u8]| {
        let datagram = [&channel::header(0x4000, len)[..], bytes].concat();
        lab.take_sent();
        lab.client_sends(0, client.path(), &datagram, 0);
        lab.take_sent().into_iter().map(|sent| sent.payload).collect::<Vec<_>>()
    };
    assert_eq!(data(5, b"12345"), [b"12345"]);
    assert_eq!(data(5, b"12345\0\0\0"), [b"12345"]);
    assert_eq!(data(5, b"12345\xff\xff\xff and more"), [b"12345"]);
    assert_eq!(data(0, b""), [b""]);
    assert_eq!(data(0, b"\0\0\0\0"), [b""]);
    assert!(data(6, b"12345").is_empty());
    assert!(data(u16::MAX, b"12345").is_empty());
    lab.client_sends(0, client.path(), &[0x40, 0, 0], 0);
    assert!(lab.sent.is_empty());
    assert_eq!(lab.verdicts(Verdict::DropChannelLength), 2);
    assert_eq!(lab.verdicts(Verdict::ChannelToPeer), 5);
}

// RFC 8656 s. 12.7: an empty datagram is a datagram
#[test]
fn c6_an_empty_datagram_reaches_the_client_as_empty_channel_data() {
    let (mut lab, mut client, relayed) = allocated();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, relayed, b"")[0].payload, [0x40, 0, 0, 0]);
}

// RFC 7983 s. 7
#[test]
fn c7_other_first_bytes_belong_to_other_protocols() {
    let (mut lab, client, _) = allocated();
    lab.take_sent();
    for first in (4..=0x3f).chain(0x50..=0xff) {
        let datagram = [&[first][..], &[0; 40]].concat();
        lab.client_sends(0, client.path(), &datagram, 0);
    }
    assert!(lab.sent.is_empty());
    assert_eq!(lab.verdicts(Verdict::DropNotTurn), 60 + 176);
}

// RFC 8656 s. 12.6
#[test]
fn c8_an_unbound_channel_and_a_stranger_are_dropped_silently() {
    let (mut lab, mut client, _) = allocated();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert!(client.channel_data(&mut lab, 0x4001, b"out").is_empty());
    let stranger = Client::new("203.0.113.5:1001");
    assert!(stranger.channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert_eq!(lab.verdicts(Verdict::DropUnboundChannel), 1);
    assert_eq!(lab.verdicts(Verdict::DropNoAllocation), 1);
}

// RFC 8656 s. 12.2: a peer that the client has made up its mind about keeps its channel when renewed
#[test]
fn c3_renewing_a_binding_counts_from_the_renewal() {
    let (mut lab, mut client, _) = allocated();
    client.refresh(&mut lab, 3600).expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.sleep(599);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.sleep(599);
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out").len(), 1);
    lab.sleep(1);
    assert!(client.channel_data(&mut lab, 0x4000, b"out").is_empty());
}
