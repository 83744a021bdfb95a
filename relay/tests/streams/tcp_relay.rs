//! TCP relayed (RFC 6062): connections made from either side, bound by clients of TCP and TLS on their allocation's worker
//! or another, and all that may become of them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use turnpike::config::Config;
use turnpike::setup;
use turnpike::worker::{Order, Report};
use turnpike_driver::epoll::EpollDriver;
use turnpike_proto::stats::ConnectionEvent;
use turnpike_proto::wire::{Message, attr, method};
use turnpike_testkit::message::TCP;
use turnpike_testkit::stream::StreamClient;
use turnpike_testkit::{PATIENCE, becomes_true, uninterrupted};

use super::relay::{self, HERE, Relay};

/// A client's connection may be on another worker than its allocation.
const WORKERS: u16 = 2;

fn config() -> Config {
    Config { allow_tcp_relay: true, ..Config::default() }
}

/// Runs a test on each driver.
fn on_both(test: impl Fn(Relay)) {
    relay::on_both(WORKERS, &config(), test);
}

/// A client of the first worker with an allocation that relays TCP, and the relayed address.
fn control(relay: &Relay, tls: bool) -> (StreamClient, SocketAddr) {
    let mut client = relay.client(0, tls);
    let relayed = client.try_allocate(TCP).expect("an answer").relayed();
    (client, relayed)
}

/// Has a connection made with whoever listens there: its id, and the peer's end of it.
#[track_caller]
fn connect(control: &mut StreamClient, listener: &TcpListener) -> (Vec<u8>, TcpStream) {
    let answer = control.connect_peer(listener.local_addr().expect("bound")).expect("an answer");
    let (peer, _) = listener.accept().expect("connected");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (answer.expect_success().attribute(attr::CONNECTION_ID), peer)
}

fn listener() -> TcpListener {
    TcpListener::bind((HERE, 0)).expect("a free port")
}

/// A connection that a client's Connect has made, bound by a client of a worker; and the peer's end of it.
#[track_caller]
fn pair(relay: &Relay, control: &mut StreamClient, worker: usize, tls: bool) -> (StreamClient, TcpStream) {
    let (id, peer) = connect(control, &listener());
    let mut data = relay.client(worker, tls);
    data.bind_connection(&id).expect("an answer").expect_success();
    (data, peer)
}

/// So many bytes.
#[track_caller]
fn read(from: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).expect("not cut");
    bytes
}

/// All that comes until the regular end.
#[track_caller]
fn read_to_end(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a regular end");
    bytes
}

/// It is closed so that nobody takes it for a regular end.
fn reset(socket: &TcpStream) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("an option");
}

/// It is over, by an end or a reset; never data, never silence.
fn is_over(mut connection: impl Read) -> bool {
    let read = uninterrupted(|| connection.read(&mut [0; 8]));
    !matches!(&read, Ok(1..)) && !matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn events(relay: &Relay, event: ConnectionEvent) -> u64 {
    relay.count(|report| report.counts.tcp_relay.of(event))
}

#[track_caller]
fn until_counted(relay: &Relay, event: ConnectionEvent, count: u64) {
    relay.until("counted", |relay| events(relay, event) == count);
}

#[track_caller]
fn until_all_closed(relay: &Relay) {
    relay.until("all closed", |relay| relay.count(|report| report.counts.tcp_relay.bound) == 0);
}

/// Bytes that show what is missing, twice, or in another order.
fn pattern(len: usize) -> Vec<u8> {
    (0_u32..).map(|n| n.wrapping_mul(2_654_435_761)).flat_map(u32::to_be_bytes).take(len).collect()
}

// RFC 6062 s. 5.2 and 5.4
#[test]
fn x2_x3_a_connect_is_bound_on_either_worker_over_tcp_and_tls() {
    on_both(|relay| {
        let (mut own, relayed) = control(&relay, true);
        for (worker, tls) in [(0, false), (0, true), (1, false), (1, true)] {
            let (mut data, mut peer) = pair(&relay, &mut own, worker, tls);
            assert_eq!(peer.peer_addr().expect("connected"), relayed, "it leaves from the relayed address");
            // What looks like TLS, STUN or a proxy's header is data like any other.
            let look_alikes =
                [&[0x16, 3, 1, 0, 5][..], b"\0\x01\0\0\x21\x12\xa4\x42", b"PROXY TCP4 "].concat();
            data.say(&look_alikes).expect("sent");
            assert_eq!(read(&mut peer, look_alikes.len()), look_alikes);
            peer.write_all(&look_alikes).expect("sent");
            assert_eq!(read(&mut data, look_alikes.len()), look_alikes);
            drop(peer);
            assert!(read_to_end(&mut data).is_empty());
        }
        until_counted(&relay, ConnectionEvent::Bound, 4);
        until_all_closed(&relay);
        own.refresh(0).expect("an answer").expect_success();
        relay.stop();
    });
}

// A client need not wait for the answer, nor the peer for the client
#[test]
fn x3_what_comes_before_the_binding_is_not_lost() {
    on_both(|relay| {
        let (mut own, _) = control(&relay, false);
        for (worker, tls) in [(0, false), (1, true)] {
            let (id, mut peer) = connect(&mut own, &listener());
            peer.write_all(b"220 ready").expect("sent");
            peer.shutdown(Shutdown::Write).expect("connected");
            let mut data = relay.client(worker, tls);
            let request = data.signed(method::CONNECTION_BIND, |b| b.attribute(attr::CONNECTION_ID, &id));
            let request = request.expect("a challenge");
            data.ask(&[&request[..], b"HELO"].concat()).expect("an answer").expect_success();
            assert_eq!(read(&mut peer, 4), b"HELO");
            assert_eq!(read_to_end(&mut data), b"220 ready");
        }
        relay.stop();
    });
}

// RFC 6062 s. 5.3
#[test]
fn x4_a_peer_connects_and_others_are_turned_away() {
    on_both(|relay| {
        let (mut own, relayed) = control(&relay, false);
        let early = TcpStream::connect(relayed).expect("it listens");
        early.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // Without a permission: reset, or the end, whichever comes first.
        assert!(is_over(early));
        until_counted(&relay, ConnectionEvent::NoPermission, 1);
        own.permit((HERE, 1).into()).expect("an answer").expect_success();
        let mut peer = TcpStream::connect(relayed).expect("it listens");
        let attempt = own.hear().expect("not cut").expect("not closed");
        let attempt = Message::parse(&attempt).expect("well-formed");
        assert_eq!(attempt.method(), method::CONNECTION_ATTEMPT);
        let from = attempt.xor_address(attr::XOR_PEER_ADDRESS).expect("present");
        assert_eq!(from, Ok(peer.local_addr().expect("connected")));
        let mut data = relay.client(1, false);
        let id = attempt.attribute(attr::CONNECTION_ID).expect("present");
        data.bind_connection(id).expect("an answer").expect_success();
        peer.write_all(b"hello").expect("sent");
        assert_eq!(read(&mut data, 5), b"hello");
        // A relayed address is a peer like any other: a second client's Connect leads to the first.
        let (mut other, _) = control(&relay, false);
        other.connect_peer(relayed).expect("an answer").expect_success();
        let attempt = own.hear().expect("not cut").expect("not closed");
        assert_eq!(attempt[..2], [0x00, 0x1c], "a ConnectionAttempt");
        relay.stop();
    });
}

#[test]
fn x3_an_end_is_passed_on_while_the_other_way_goes_on() {
    on_both(|relay| {
        let (mut own, _) = control(&relay, false);
        for (worker, tls) in [(0, false), (1, true)] {
            let (mut data, mut peer) = pair(&relay, &mut own, worker, tls);
            data.say(b"a question").expect("sent");
            data.finish().expect("connected");
            assert_eq!(read_to_end(&mut peer), b"a question");
            peer.write_all(b"an answer").expect("sent");
            drop(peer);
            assert_eq!(read_to_end(&mut data), b"an answer");
        }
        until_all_closed(&relay);
        relay.stop();
    });
}

#[test]
fn x3_a_reset_is_passed_on_as_a_reset() {
    on_both(|relay| {
        let (mut own, _) = control(&relay, false);
        let (data, mut peer) = pair(&relay, &mut own, 0, false);
        reset(data.socket());
        drop(data);
        let error = uninterrupted(|| peer.read(&mut [0; 8])).expect_err("no regular end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (mut data, peer) = pair(&relay, &mut own, 1, false);
        reset(&peer);
        drop(peer);
        let error = uninterrupted(|| data.read(&mut [0; 8])).expect_err("no regular end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        until_all_closed(&relay);
        relay.stop();
    });
}

/// Sends until nothing more is taken for a while; gives how much.
fn fill(sender: &TcpStream, data: &[u8]) -> usize {
    sender.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut sent = 0;
    while sent < data.len() {
        match (&mut &*sender).write(&data[sent..]) {
            Ok(len) => sent += len,
            Err(_) => break,
        }
    }
    sender.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    sent
}

// Back-pressure instead of memory, or of loss
#[test]
fn x5_a_reader_that_pauses_stalls_its_sender_and_gets_everything() {
    const LEN: usize = 50 << 20;
    on_both(|relay| {
        let (mut own, _) = control(&relay, false);
        let data = pattern(LEN);
        for tls in [false, true] {
            // The client pauses.
            let (mut client, mut peer) = pair(&relay, &mut own, 1, tls);
            let sent = fill(&peer, &data);
            assert!(sent < LEN, "the kernel's buffers alone don't hold as much");
            let rest = data[sent..].to_vec();
            let sender = thread::spawn(move || peer.write_all(&rest).map(|()| peer));
            assert!(read(&mut client, LEN) == data, "something is missing");
            drop(sender.join().expect("no panic").expect("sent"));
        }
        // The peer pauses.
        let (client, mut peer) = pair(&relay, &mut own, 0, false);
        let sent = fill(client.socket(), &data);
        assert!(sent < LEN, "the kernel's buffers alone don't hold as much");
        let (rest, mut plain) = (data[sent..].to_vec(), client.socket().try_clone().expect("a descriptor"));
        let sender = thread::spawn(move || plain.write_all(&rest));
        assert!(read(&mut peer, LEN) == data, "something is missing");
        sender.join().expect("no panic").expect("sent");
        let counts = |of: fn(&Report) -> u64| relay.count(of);
        relay.until("counted", |_| {
            counts(|report| report.counts.tcp_relay.bytes_to_client) == 2 * LEN as u64
                && counts(|report| report.counts.tcp_relay.bytes_to_peer) == LEN as u64
        });
        relay.stop();
    });
}

// Both ways at once, over TLS, with a bandwidth limit that holds it back
#[test]
fn x5_a_bandwidth_limit_slows_and_loses_nothing() {
    const LEN: usize = 1 << 20;
    let config = Config { max_bitrate: NonZeroU64::new(80_000_000), ..config() };
    let relay = Relay::start(EpollDriver::new, WORKERS, &config);
    let (mut own, _) = control(&relay, false);
    let (mut client, mut peer) = pair(&relay, &mut own, 1, true);
    let data = pattern(LEN);
    let (copy, mut theirs) = (data.clone(), peer.try_clone().expect("a descriptor"));
    let begun = Instant::now();
    let sender = thread::spawn(move || theirs.write_all(&copy));
    assert!(read(&mut client, LEN) == data);
    // 1 MiB at 10 MB per second, the first 100 ms of it at once: no machine is faster.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(4), "{took:?}");
    sender.join().expect("no panic").expect("sent");
    client.say(&data[..200_000]).expect("sent");
    assert!(read(&mut peer, 200_000) == data[..200_000]);
    relay.stop();
}

#[test]
fn x4_x5_what_nobody_binds_is_closed_and_so_is_what_has_no_answer() {
    on_both(|relay| {
        let (mut own, relayed) = control(&relay, false);
        own.permit((HERE, 1).into()).expect("an answer").expect_success();
        let (id, made) = connect(&mut own, &listener());
        let accepted = TcpStream::connect(relayed).expect("it listens");
        accepted.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        own.hear().expect("not cut").expect("a ConnectionAttempt");
        relay.skip_time(Duration::from_secs(31));
        assert!(is_over(made) && is_over(accepted));
        until_counted(&relay, ConnectionEvent::Unbound, 2);
        relay.client(1, false).bind_connection(&id).expect("an answer").expect_error(400);
        relay.stop();
    });
}

#[test]
fn x2_a_peer_that_refuses_is_447_at_once() {
    on_both(|relay| {
        let (mut own, _) = control(&relay, true);
        // Bound and not listening: refused.
        let peer = listener().local_addr().expect("bound");
        own.connect_peer(peer).expect("an answer").expect_error(447);
        until_counted(&relay, ConnectionEvent::Failed, 1);
        relay.stop();
    });
}

#[test]
fn x5_connections_end_with_their_allocation_with_a_new_policy_and_with_a_stop() {
    on_both(|relay| {
        let (mut own, relayed) = control(&relay, false);
        let (mut data, _peer) = pair(&relay, &mut own, 1, false);
        drop(own);
        assert!(is_over(&mut data), "the control connection's end is the allocation's");
        relay.until("gone", |relay| relay.count(|report| report.counts.tcp_relay.allocations) == 0);
        assert!(becomes_true(|| TcpStream::connect(relayed).is_err()), "nobody listens there");

        let (mut own, _) = control(&relay, false);
        let (mut data, _peer) = pair(&relay, &mut own, 0, true);
        let stricter = Config { allow_loopback_peers: false, ..relay.config.clone() };
        let rules = setup::peer_rules(&stricter, &relay.addresses, &relay.listeners);
        relay.shared.set_network(&setup::relay_ips(&relay.addresses), &rules);
        relay.workers.iter().for_each(|worker| worker.send(Order::PolicyChanged).expect("it lives"));
        assert!(is_over(&mut data), "the policy in force refuses the peer");
        until_counted(&relay, ConnectionEvent::Denied, 1);
        let rules = setup::peer_rules(&relay.config, &relay.addresses, &relay.listeners);
        relay.shared.set_network(&setup::relay_ips(&relay.addresses), &rules);

        let (mut data, _peer) = pair(&relay, &mut own, 1, false);
        relay.stop();
        assert!(is_over(&mut data));
    });
}
