//! What clients over TCP and TLS ask is answered, what they send goes on, and nothing is left of them when they are gone.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::time::Instant;

use turnpike::config::Config;
use turnpike_driver::streams::CloseReason;
use turnpike_proto::Verdict;
use turnpike_proto::stats::UserspaceDrop;
use turnpike_proto::wire::channel;
use turnpike_testkit::message::UDP;
use turnpike_testkit::stream::StreamClient;
use turnpike_testkit::{PATIENCE, uninterrupted};

use super::relay::{HERE, Relay, on_both};

/// Runs a test on each driver with one worker, over TCP and over TLS.
fn on_all(test: impl Fn(Relay, bool)) {
    on_all_with(&Config::default(), test);
}

fn on_all_with(config: &Config, test: impl Fn(Relay, bool)) {
    for tls in [false, true] {
        on_both(1, config, |relay| test(relay, tls));
    }
}

/// A client of the only worker with an allocation, and its relayed address.
fn allocated(relay: &Relay, tls: bool) -> (StreamClient, SocketAddr) {
    let mut client = relay.client(0, tls);
    let answer = client.try_allocate(UDP).expect("an answer");
    assert_eq!(answer.expect_success().mapped(), client.socket().local_addr().expect("connected"));
    let relayed = answer.relayed();
    (client, relayed)
}

/// Binds channel 0x4000.
fn bind(client: &mut StreamClient, peer: &UdpSocket) {
    client.bind(peer.local_addr().expect("bound")).expect("an answer").expect_success();
}

/// The next message.
fn hear(client: &mut StreamClient) -> Vec<u8> {
    client.hear().expect("not cut").expect("not closed")
}

// RFC 8656 s. 12.5: over a stream ChannelData is padded to a multiple of four, and its padding goes nowhere.
#[test]
fn a_stream_carries_a_call_both_ways() {
    on_all(|relay, tls| {
        let peer = UdpSocket::bind((HERE, 0)).expect("a free port");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut client, relayed) = allocated(&relay, tls);
        bind(&mut client, &peer);
        let mut buffer = [0; 2048];
        for size in [0_usize, 1, 2, 3, 4, 1199, 1200] {
            let data = vec![size as u8; size];
            let mut frame = [&channel::header(0x4000, size as u16)[..], &data].concat();
            frame.resize(frame.len().next_multiple_of(4), 0xee);
            client.say(&frame).expect("sent");
            let (len, from) = uninterrupted(|| peer.recv_from(&mut buffer)).expect("the data");
            assert_eq!((&buffer[..len], from), (&data[..], relayed));
            peer.send_to(&data, relayed).expect("sent");
            let heard = hear(&mut client);
            let zeros = vec![0; size.next_multiple_of(4) - size];
            assert_eq!(heard, [&channel::header(0x4000, size as u16)[..], &data, &zeros].concat());
        }
        // A peer's other port has no channel: a Data indication.
        let other = UdpSocket::bind((HERE, 0)).expect("a free port");
        other.send_to(b"by permission", relayed).expect("sent");
        assert_eq!(hear(&mut client)[..2], [0x00, 0x17], "a Data indication");
        client.refresh(0).expect("an answer").expect_success();
        relay.until("deleted", |relay| relay.workers[0].status.allocations() == 0);
        relay.stop();
    });
}

#[test]
fn a_connection_that_breaks_ends_its_allocation_at_once() {
    on_all(|relay, tls| {
        let (client, _) = allocated(&relay, tls);
        let is_left = |relay: &Relay| {
            let status = &relay.workers[0].status;
            [status.allocations(), status.relay_sockets()] != [0, 0]
        };
        relay.until("there", is_left);
        drop(client);
        relay.until("gone", |relay| !is_left(relay));
        // The same client may come again.
        let _again = allocated(&relay, tls);
        let report = relay.stop()[0].report();
        assert_eq!(report.ended.get("connection_closed"), Some(&1), "{:?}", report.ended);
    });
}

#[test]
fn a_stop_ends_allocations_and_says_goodbye() {
    on_all(|relay, tls| {
        let (mut client, _) = allocated(&relay, tls);
        let report = relay.stop()[0].report();
        assert_eq!(client.hear().expect("closed, not cut"), None);
        assert_eq!(report.ended.get("shutdown"), Some(&1), "{:?}", report.ended);
        assert_eq!(report.streams.closed.of(CloseReason::ByRelay), 1);
    });
}

#[test]
fn a_client_that_never_reads_loses_media_that_is_counted_and_a_neighbour_nothing() {
    on_all(|relay, tls| {
        let peer = UdpSocket::bind((HERE, 0)).expect("a free port");
        let ((mut stalled, to_stalled), (mut reader, to_reader)) =
            (allocated(&relay, tls), allocated(&relay, tls));
        bind(&mut stalled, &peer);
        bind(&mut reader, &peer);
        let deadline = Instant::now() + PATIENCE;
        while relay.count(|report| report.streams.dropped_full + report.streams.dropped_old) == 0 {
            assert!(Instant::now() < deadline, "nothing is dropped");
            for _ in 0..200 {
                peer.send_to(&[1; 1200], to_stalled).expect("sent");
            }
            // Resent until it has come: UDP on a busy machine may lose it.
            peer.send_to(&[2; 100], to_reader).expect("sent");
            assert_eq!(hear(&mut reader).len(), 104);
        }
        let report = relay.stop()[0].report();
        let (streams, counted) = (&report.streams, report.counts.userspace_drops);
        let queued = [streams.dropped_full, streams.dropped_old, streams.dropped_closed, 0, 0, 0];
        assert_eq!(UserspaceDrop::ALL.map(|drop| counted.of(drop)), queued, "beside the other drops");
    });
}

/// Sends `count` datagrams at once and a Refresh behind them, of which `expected` get through; those that the peer got.
fn burst(relay: &Relay, tls: bool, count: u32, len: usize, expected: usize) -> Vec<u32> {
    let peer = UdpSocket::bind((HERE, 0)).expect("a free port");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (mut client, _) = allocated(relay, tls);
    bind(&mut client, &peer);
    let mut all = Vec::new();
    for number in 0..count {
        all.extend(channel::header(0x4000, len as u16));
        all.extend(number.to_be_bytes());
        all.resize(all.len() + len - 4, 7);
    }
    client.say(&all).expect("sent");
    client.refresh(600).expect("an answer").expect_success();
    let mut buffer = [0; 4096];
    let take = |_| {
        assert_eq!(uninterrupted(|| peer.recv(&mut buffer)).expect("it comes"), len);
        u32::from_be_bytes(buffer[..4].try_into().expect("four bytes"))
    };
    (0..expected).map(take).collect()
}

#[test]
fn whoever_has_used_up_the_limit_waits_and_loses_nothing() {
    // 25,000 bytes at once, then 250,000 in a second.
    let config = Config { max_bitrate: NonZeroU64::new(2_000_000), ..Config::default() };
    on_all_with(&config, |relay, tls| {
        let numbers = burst(&relay, tls, 100, 1000, 100);
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        let report = relay.stop()[0].report();
        assert!(report.streams.pauses > 0 && report.streams.paused_ns > 0, "{:?}", report.streams);
        assert_eq!(report.counts.verdicts.of(Verdict::DropRateToPeer), 0);
    });
}

#[test]
fn what_no_burst_has_room_for_is_dropped_and_holds_nobody_up() {
    // 3000 bytes are the least at once, whatever the rate.
    let config = Config { max_bitrate: NonZeroU64::new(1000), ..Config::default() };
    on_all_with(&config, |relay, tls| {
        burst(&relay, tls, 20, 3004, 0);
        let report = relay.stop()[0].report();
        assert_eq!(report.streams.pauses, 0);
        assert_eq!(report.counts.verdicts.of(Verdict::DropRateToPeer), 20);
    });
}
