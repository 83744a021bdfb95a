//! A flood of strangers that nobody reads for a while fills their own queue, and none of a live call's.

use std::time::Duration;

use rustix::process::Signal;
use turnpike_testkit::{PATIENCE, becomes_true};

use super::lab::{Lab, PEER_V4};
use super::server::{ALLOW_PEERS, Log, SERVER, Server};
use super::talker::{Talker, peer_socket};

/// Datagrams of strangers: twice what the receive buffer of a listener holds.
const FLOOD: u32 = 20_000;
/// Datagrams of the call, behind them.
const CALL: usize = 50;

/// Floods a server that stands still; how many of the call's datagrams came through, and what the server says.
fn flood(lab: &Lab, lines: &str) -> (usize, Log) {
    let server = Server::start(lab, &format!("{ALLOW_PEERS}workers = 1\n{lines}"));
    let peer = peer_socket(&lab.peer, PEER_V4);
    peer.set_read_timeout(Some(Duration::from_secs(2))).expect("not zero");
    let mut client = Talker::new(&lab.client, SERVER);
    client.allocate();
    assert_eq!(client.bind(peer.local_addr().expect("it is bound")).code, None);
    let mut stranger = Talker::new(&lab.client, SERVER);
    server.signal(Signal::STOP);
    assert!(becomes_true(|| server.is_stopped()));
    (0..FLOOD).for_each(|_| stranger.say(&[0xff; 28]));
    (0..CALL).for_each(|_| client.channel_data(b"still here"));
    server.signal(Signal::CONT);
    let heard = (0..CALL).take_while(|_| peer.recv(&mut [0; 64]).is_ok()).count();
    // What was lost is told with the next datagram; and a stranger gets in as before.
    stranger.allocate();
    client.channel_data(b"and now?");
    peer.set_read_timeout(Some(PATIENCE)).expect("not zero");
    peer.recv(&mut [0; 64]).expect("the call goes on");
    (heard, server.stop())
}

fn strangers_fill_no_queue_but_their_own(name: &str, io: &str) {
    let Some(lab) = Lab::new(name) else { return };
    let (heard, log) = flood(&lab, &format!("io = \"{io}\"\n"));
    println!("{name}: {} of {FLOOD} dropped", log.count("drop_stranger_queue"));
    assert_eq!(heard, CALL);
    assert_eq!(log.count("drop_socket_overflow"), 0);
    assert!(log.count("drop_stranger_queue") > u64::from(FLOOD) / 2);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn strangers_fill_no_queue_but_their_own_on_io_uring() {
    strangers_fill_no_queue_but_their_own("strangers_fill_no_queue_but_their_own_on_io_uring", "io-uring");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn strangers_fill_no_queue_but_their_own_on_epoll() {
    strangers_fill_no_queue_but_their_own("strangers_fill_no_queue_but_their_own_on_epoll", "epoll");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn without_a_queue_of_their_own_strangers_fill_the_one_of_all() {
    let Some(lab) = Lab::new("without_a_queue_of_their_own_strangers_fill_the_one_of_all") else { return };
    let (heard, log) = flood(&lab, "no-stranger-queue = true\n");
    assert!(heard < CALL, "{heard} of {CALL}");
    assert_eq!(log.count("drop_stranger_queue"), 0);
    assert!(log.count("drop_socket_overflow") > 0);
}
