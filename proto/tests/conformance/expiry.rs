//! What ends when, and the one deliberate deviation: a live channel admits its exact peer.

use turnpike_proto::{Input, Reason};

use crate::lab::*;

const OTHER_PORT: &str = "198.51.100.7:4001";

// RFC 8656 s. 12 lets the permission end after 300 s while the channel lives on for 600 s. Clients such as
// aioice refresh only their channels: the channel's own peer stays admitted, the IP's other ports don't.
#[test]
fn c3_a_live_channel_admits_its_exact_peer_for_600_seconds() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.refresh(&mut lab, 3600).expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.sleep(299);
    assert_eq!(lab.peer_data(OTHER_PORT, relayed, b"in").len(), 1);
    lab.sleep(1);
    assert_eq!(lab.held(), (0, 1), "the permission has ended");
    assert!(lab.peer_data(OTHER_PORT, relayed, b"in").is_empty());
    assert!(client.send_indication(&mut lab, OTHER_PORT, b"out").is_empty());
    lab.sleep(299);
    assert_eq!(lab.peer_data(PEER, relayed, b"in")[0].channel_data().0, 0x4000);
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out").len(), 1);
    assert_eq!(client.send_indication(&mut lab, PEER, b"out").len(), 1);
    lab.sleep(1);
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    assert!(client.channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert!(client.send_indication(&mut lab, PEER, b"out").is_empty());
}

// A client that refreshes nothing but its allocation and its channel, for an hour
#[test]
fn c3_a_client_that_refreshes_only_its_channel_loses_no_media() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    for second in 1..3500 {
        lab.sleep(1);
        if second % 500 == 0 {
            client.refresh(&mut lab, 600).expect_success();
            client.bind(&mut lab, 0x4000, PEER).expect_success();
        }
        assert_eq!(client.channel_data(&mut lab, 0x4000, b"out").len(), 1, "after {second} s");
        assert_eq!(lab.peer_data(PEER, relayed, b"in").len(), 1, "after {second} s");
    }
}

// RFC 8656 s. 6, 9, 12: the driver may tick late, the data path is exact all the same
#[test]
fn nothing_outlives_its_end_although_the_tick_is_late() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, "198.51.100.9:1").expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.oversleep(300);
    assert!(lab.peer_data("198.51.100.9:1", relayed, b"in").is_empty());
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    // The channel would live until 900 s, the allocation ends at 600 s.
    lab.oversleep(299);
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"out").len(), 1);
    lab.oversleep(1);
    assert!(client.channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert!(client.send_indication(&mut lab, PEER, b"out").is_empty());
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    // A request at that moment finds the allocation gone.
    client.refresh(&mut lab, 600).expect_error(437);
    lab.assert_empty();
}

// `poll_timeout` names the nearest end
#[test]
fn the_next_deadline_is_known_with_its_reason() {
    let mut lab = Lab::new();
    let start_ns = lab.now.mono_ns;
    let at = |secs: u64| start_ns + secs * 1_000_000_000;
    assert_eq!(lab.workers[0].poll_timeout(), None);
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    assert_eq!(lab.workers[0].poll_timeout(), Some((at(600), Reason::Allocation)));
    lab.sleep(1);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(lab.workers[0].poll_timeout(), Some((at(301), Reason::Permission)));
    client.refresh(&mut lab, 3600).expect_success();
    lab.sleep(300);
    // The allocation's entry still stands at its old end: it fires, sees the new one, and goes back.
    assert_eq!(lab.workers[0].poll_timeout(), Some((at(600), Reason::Allocation)));
    lab.sleep(299);
    assert_eq!(lab.workers[0].poll_timeout(), Some((at(601), Reason::Channel)));
    lab.sleep(1);
    assert_eq!(lab.workers[0].poll_timeout(), Some((at(3601), Reason::Allocation)));
    assert_eq!(lab.workers[1].poll_timeout(), None);
}

// A tick too early, or twice, changes nothing
#[test]
fn ticks_are_harmless() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    for _ in 0..3 {
        lab.input_all(|| Input::Tick);
        lab.sleep(99);
    }
    assert_eq!(lab.held(), (1, 1));
}

// A time that goes by without anybody ends everything, in whatever order it was made
#[test]
fn everything_ends_by_itself() {
    let mut lab = Lab::new();
    for i in 0..50u16 {
        let worker = usize::from(i % 2);
        let mut client = Client::new(&format!("203.0.113.5:{}", 1000 + i)).on_worker(worker);
        client.allocate_with(&mut lab, |b| b.lifetime(600 + u32::from(i) * 7 % 100)).expect_success();
        for peer in 0..i % 5 {
            client.permit(&mut lab, &format!("198.51.100.{peer}:1")).expect_success();
            client.bind(&mut lab, 0x4000 + peer, &format!("198.51.101.{peer}:1")).expect_success();
        }
        lab.sleep(u64::from(i % 3));
    }
    lab.sleep(700);
    lab.assert_empty();
    assert_eq!(lab.ended.len(), 50);
}
