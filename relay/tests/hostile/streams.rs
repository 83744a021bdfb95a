//! Clients over TCP and TLS that come in crowds, never finish what they begin, or read nothing; and those beside them,
//! who notice nothing of it.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use turnpike_testkit::stream::StreamClient;
use turnpike_testkit::talker::peer_socket;
use turnpike_testkit::{PATIENCE, becomes_true, skip};

use super::lab::{CLIENT_V4, Lab, PEER_V4};
use super::server::{SERVER, secs_of};
use super::standstill::{call, talk};
use super::stream_server::{SERVER_TLS, StreamServer, source};

/// Connections that a storm makes; `TURNPIKE_STORM=1000000` is the whole one.
const USUAL_STORM: u64 = 20_000;
/// Idle clients over TLS; `TURNPIKE_IDLE_CLIENTS=10000` are all that 20,000 descriptors allow.
const USUAL_IDLE: u64 = 900;
/// What an idle client of TLS may cost, bytes.
const IDLE_BYTES: u64 = 40 << 10;
/// Clients that read nothing.
const STALLED: u32 = 1000;
/// After so long a new client connects anew.
const ANEW: Duration = Duration::from_secs(2);
/// Between two datagrams of a call in one direction.
const PACE: Duration = Duration::from_millis(40);

/// Lets this process have so many sockets.
fn may_open(descriptors: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if most < descriptors {
        return false;
    }
    let wanted = Some(descriptors.max(limit.current.unwrap_or(u64::MAX)));
    setrlimit(Resource::Nofile, Rlimit { current: wanted, ..limit }).is_ok()
}

/// A call of a client over TLS: sends in both directions until it is over; how many datagrams of how many came.
fn call_over_tls(lab: &Lab, relay: &StreamServer<'_>, over: &AtomicBool, talks: &AtomicBool) -> (u64, u64) {
    let peer = peer_socket(&lab.peer, PEER_V4);
    lab.client.enter(|| {
        let mut client = relay.connect(CLIENT_V4, true).expect("it gets in");
        let relayed = client.allocate().expect("an allocation");
        client.bind(peer.local_addr().expect("bound")).expect("an answer").expect_success();
        let (mut sent, mut heard, mut buffer) = (0, 0, [0; 64]);
        while !over.load(Ordering::Relaxed) {
            // What is lost is never said again: then nothing is heard until the patience is over.
            client.channel_data(b"to the peer").expect("the connection lives");
            heard += u64::from(peer.recv_from(&mut buffer).is_ok());
            peer.send_to(b"to the client", relayed).expect("sent");
            heard += u64::from(client.hear().is_ok_and(|message| message.is_some()));
            sent += 2;
            talks.store(true, Ordering::Relaxed);
            std::thread::sleep(PACE);
        }
        client.refresh(0).expect("an answer").expect_success();
        (sent, heard)
    })
}

/// What the connections of a storm say, one after the other.
fn openings() -> Vec<Vec<u8>> {
    let hello = {
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = "localhost".try_into().expect("a name");
        let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("a ClientHello");
        bytes
    };
    // Nothing; the beginning of a record; half a ClientHello; a whole one, and no answer to what comes back.
    vec![Vec::new(), hello[..5].to_vec(), hello[..hello.len() / 2].to_vec(), hello]
}

/// A connection that is being made, from one of many addresses.
fn begin(number: u32) -> Option<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP)).ok()?;
    // Every second one ends by a reset.
    if number.is_multiple_of(2) {
        socket.set_linger(Some(Duration::ZERO)).ok()?;
    }
    socket.bind(&SocketAddr::new(source(number), 0).into()).ok()?;
    let server = if number % 8 < 6 { SERVER_TLS } else { SERVER };
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => None,
        _ => Some(socket),
    }
}

/// Connects again and again and finishes no handshake; how many connections were made.
fn storm(lab: &Lab, count: u64, made: &AtomicU64) {
    /// Connections that it holds, and after how many others it says something on one.
    const HELD: usize = 3000;
    const LATER: usize = 100;
    let openings = openings();
    lab.client.enter(|| {
        let mut held: VecDeque<Socket> = VecDeque::new();
        let mut number = 0;
        while made.load(Ordering::Relaxed) < count {
            number += 1;
            held.extend(begin(number));
            if held.len() > LATER {
                let place = held.len() - LATER;
                let mut socket = &held[place];
                let opening = &openings[number as usize % openings.len()];
                // Refused, reset or displaced: it may be over already.
                let is_made = socket.peer_addr().is_ok();
                let _ = socket.write(opening);
                made.fetch_add(u64::from(is_made), Ordering::Relaxed);
            }
            if held.len() > HELD {
                held.pop_front();
            }
        }
    });
}

/// New clients come in, one after the other, each as often as it takes; how long each took, shortest first, and how
/// many attempts that was.
fn newcomers(lab: &Lab, relay: &StreamServer<'_>, over: &AtomicBool) -> (Vec<Duration>, u64) {
    lab.client.enter(|| {
        let (mut waits, mut attempts) = (Vec::new(), 0);
        let mut since = Instant::now();
        while !over.load(Ordering::Relaxed) {
            attempts += 1;
            // A lost SYN is sent again after a second, and then ever later: better to begin anew.
            let client = relay.connect_within(ANEW, CLIENT_V4);
            if client.and_then(|mut client| client.allocate()).is_ok() {
                waits.push(since.elapsed());
                since = Instant::now();
            }
            assert!(since.elapsed() < 4 * PATIENCE, "nobody gets in any more");
            std::thread::sleep(Duration::from_millis(20));
        }
        waits.sort_unstable();
        (waits, attempts)
    })
}

fn handshakes_that_never_end(name: &str, io: &str) {
    let Some(lab) = Lab::new(name) else { return };
    if !may_open(10_000) {
        return skip(name, "this process may not have 10,000 descriptors");
    }
    let count = secs_of("TURNPIKE_STORM").unwrap_or(USUAL_STORM);
    let relay = StreamServer::start(&lab, 20_000, &format!("io = \"{io}\"\nunauthenticated-rate = 0\n"));
    let (over, talks, made) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| call_over_tls(&lab, &relay, &over, &talks));
        assert!(becomes_true(|| talks.load(Ordering::Relaxed)));
        // What the first of a storm take, all that follow take again.
        storm(&lab, count.min(5000), &made);
        let (before, start) = (relay.server.resident_bytes(), Instant::now());
        made.store(0, Ordering::Relaxed);
        let coming = scope.spawn(|| newcomers(&lab, &relay, &over));
        storm(&lab, count, &made);
        let (after, took) = (relay.server.resident_bytes(), start.elapsed());
        assert!(becomes_true(|| relay.totals()["streams"]["opening"] == 0), "{}", relay.totals()["streams"]);
        over.store(true, Ordering::Relaxed);
        let (sent, heard) = calling.join().expect("no panic");
        let (waits, attempts) = coming.join().expect("no panic");
        println!(
            "{name}: {count} connections within {took:?}; memory {} KiB before, {} after; {} new clients in \
             {attempts} attempts, after {:?} in the middle and {:?} at the longest; {sent} datagrams of a call over \
             TLS, {} lost",
            before >> 10,
            after >> 10,
            waits.len(),
            waits.get(waits.len() / 2),
            waits.last(),
            sent - heard
        );
        assert_eq!(heard, sent);
        assert!(!waits.is_empty());
        assert!(after < before + (32 << 20), "memory is flat");
    });
    let closed = &relay.totals()["streams"]["closed"];
    println!("{name}: {closed}");
    assert!(closed["displaced"].as_u64().expect("a number") > 0, "{closed}");
    relay.server.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn handshakes_that_never_end_on_io_uring() {
    handshakes_that_never_end("handshakes_that_never_end_on_io_uring", "io-uring");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn handshakes_that_never_end_on_epoll() {
    handshakes_that_never_end("handshakes_that_never_end_on_epoll", "epoll");
}

/// Memory of the kernel for the sockets of all namespaces, and all of its own, KiB.
fn kernel_kib() -> (u64, u64) {
    let number = |text: &str, after: &str| {
        let found = text.split_once(after).map(|(_, rest)| rest.trim_start());
        found.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let sockets = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default().to_owned();
    (4 * number(&tcp, "mem"), number(&memory, "Slab:"))
}

/// Clients over TLS that have said something once, from several addresses.
fn idle_clients(lab: &Lab, relay: &StreamServer<'_>, count: u64) -> Vec<StreamClient> {
    lab.client.enter(|| {
        let connect = |number: u64| {
            let mut client = relay.connect(source(number as u32 / 1000), true)?;
            client.binding()?;
            Ok::<_, std::io::Error>(client)
        };
        let refused = |error| panic!("there is room: {error}: {}", relay.totals()["streams"]);
        (0..count).map(|number| connect(number).unwrap_or_else(refused)).collect()
    })
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn idle_clients_cost_little_and_what_they_cost_is_given_back() {
    let name = "idle_clients_cost_little_and_what_they_cost_is_given_back";
    let Some(lab) = Lab::new(name) else { return };
    let count = secs_of("TURNPIKE_IDLE_CLIENTS").unwrap_or(USUAL_IDLE);
    if !may_open(count + 1000) {
        return skip(name, "this process may not have as many descriptors");
    }
    let relay = StreamServer::start(&lab, 20_000, "unauthenticated-rate = 0\n");
    let open = |relay: &StreamServer<'_>| relay.totals()["streams"]["tls"].as_u64();
    // What the first ones take is not theirs.
    drop(idle_clients(&lab, &relay, 30));
    assert!(becomes_true(|| open(&relay) == Some(0)));
    let (before, kernel_before) = (relay.server.resident_bytes(), kernel_kib());
    let clients = idle_clients(&lab, &relay, count);
    assert!(becomes_true(|| open(&relay) == Some(count)), "{}", relay.totals()["streams"]);
    let (held, kernel) = (relay.server.resident_bytes().saturating_sub(before), kernel_kib());
    println!(
        "{name}: {count} clients: {} bytes each in the relay; kernel, both ends: {} KiB of TCP, {} KiB of slabs more",
        held / count,
        kernel.0.saturating_sub(kernel_before.0),
        kernel.1.saturating_sub(kernel_before.1)
    );
    assert!(held / count <= IDLE_BYTES);
    drop(clients);
    assert!(becomes_true(|| open(&relay) == Some(0)));
    let is_back = || relay.server.resident_bytes() < before + held / 4 + (1 << 20);
    println!("{name}: {} KiB kept at once", relay.server.resident_bytes().saturating_sub(before) >> 10);
    assert!(becomes_true(is_back), "{} of {held} bytes are kept", relay.server.resident_bytes() - before);
    println!(
        "{name}: {} KiB of {} are kept",
        relay.server.resident_bytes().saturating_sub(before) >> 10,
        held >> 10
    );
    relay.server.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn calls_beside_a_thousand_clients_that_never_read_lose_nothing() {
    let name = "calls_beside_a_thousand_clients_that_never_read_lose_nothing";
    let Some(lab) = Lab::new(name) else { return };
    if !may_open(3000) {
        return skip(name, "this process may not have 3000 descriptors");
    }
    let relay = StreamServer::start(&lab, 20_000, "unauthenticated-rate = 0\n");
    let calls: Vec<_> = (0..10).map(|_| call(&lab, SERVER, false)).collect();
    let flooding = peer_socket(&lab.peer, PEER_V4);
    let address = flooding.local_addr().expect("bound");
    let stalled: Vec<(StreamClient, SocketAddr)> = lab.client.enter(|| {
        let stall = |number| {
            let mut client = relay.connect_slow(source(number % 10)).expect("there is room");
            let relayed = client.allocate().expect("an allocation");
            client.bind(address).expect("an answer").expect_success();
            (client, relayed)
        };
        (0..STALLED).map(stall).collect()
    });
    let over = AtomicBool::new(false);
    let (sent, heard) = std::thread::scope(|scope| {
        let talking = scope.spawn(|| talk(&calls, &over));
        // Until each of them has lost something.
        let start = Instant::now();
        while relay.drops("drop_stream_queue_age") + relay.drops("drop_stream_queue_full")
            < 20 * u64::from(STALLED)
        {
            assert!(start.elapsed() < 4 * PATIENCE, "{}", relay.totals()["verdicts"]);
            for (_, relayed) in &stalled {
                flooding.send_to(&[7; 1200], relayed).expect("sent");
            }
            std::thread::sleep(2 * PACE);
        }
        over.store(true, Ordering::Relaxed);
        talking.join().expect("no panic")
    });
    println!(
        "{name}: {sent} datagrams of calls, {} lost; memory {} KiB; {}",
        sent - heard,
        relay.server.resident_bytes() >> 10,
        relay.totals()["verdicts"]
    );
    assert_eq!(heard, sent);
    drop(stalled);
    assert!(becomes_true(|| relay.totals()["allocations"] == calls.len()), "{}", relay.totals()["streams"]);
    let log = relay.server.stop();
    let lost = log.records().iter().filter(|record| !record.contains("to_client_stream_drops=0")).count();
    assert!(lost > 0, "each user sees what was dropped of his: {}", log.records()[0]);
}

/// Takes all that comes until the end; whether that was in order.
fn listen(mut client: StreamClient) -> bool {
    loop {
        match client.hear() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_drain_lets_clients_of_streams_go_on_and_then_ends_them_in_order() {
    const CLIENTS: u32 = 30;
    let name = "a_drain_lets_clients_of_streams_go_on_and_then_ends_them_in_order";
    let Some(lab) = Lab::new(name) else { return };
    let relay = StreamServer::start(&lab, 2000, "drain-timeout = 10\nunauthenticated-rate = 0\n");
    let peer = peer_socket(&lab.peer, PEER_V4);
    let address = peer.local_addr().expect("bound");
    let connect = |number: u32| {
        let mut client = relay.connect(CLIENT_V4, number.is_multiple_of(2)).expect("it gets in");
        let relayed = client.allocate().expect("an allocation");
        client.bind(address).expect("an answer").expect_success();
        (client, relayed)
    };
    let mut calls: Vec<_> = lab.client.enter(|| (0..CLIENTS).map(connect).collect());
    let (mut late, _) = lab.client.enter(|| connect(0));
    late.refresh(0).expect("an answer").expect_success();
    relay.server.signal(Signal::TERM);
    relay.server.wait_for_log("drain");
    // Who has no allocation gets none any more; who has one goes on.
    let mut buffer = [0; 64];
    assert!(late.allocate().is_err());
    for (client, relayed) in &mut calls {
        client.channel_data(b"still here").expect("sent");
        assert_eq!(peer.recv_from(&mut buffer).expect("it is relayed").0, 10);
        peer.send_to(b"so am I", *relayed).expect("sent");
        assert!(client.hear().expect("it lives").is_some());
    }
    let over = AtomicBool::new(false);
    let relayed: Vec<_> = calls.iter().map(|(_, relayed)| *relayed).collect();
    let in_order = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                relayed.iter().for_each(|to| drop(peer.send_to(&[7; 1200], to)));
                std::thread::sleep(PACE / 4);
            }
        });
        let listening: Vec<_> =
            calls.into_iter().map(|(client, _)| scope.spawn(move || listen(client))).collect();
        let in_order = listening.into_iter().map(|it| it.join().expect("no panic"));
        let in_order = in_order.filter(|in_order| *in_order).count();
        over.store(true, Ordering::Relaxed);
        in_order
    });
    assert_eq!(in_order, CLIENTS as usize, "each hears the end of its connection, not a cut");
    let log = relay.server.stop();
    let ended = log.records().iter().filter(|record| record.contains("reason=\"shutdown\"")).count();
    assert_eq!(ended, CLIENTS as usize, "{}", log.0);
}

/// A request with a wrong password, over and over on connections of its own.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn who_guesses_passwords_over_streams_is_hung_up_on_and_counted() {
    let name = "who_guesses_passwords_over_streams_is_hung_up_on_and_counted";
    let Some(lab) = Lab::new(name) else { return };
    let relay = StreamServer::start(&lab, 2000, "");
    let hung_up = lab.client.enter(|| {
        (0..200).any(|_| {
            let client = relay.connect(CLIENT_V4, false).expect("there is room");
            let mut client = client.named("mallory", "guess");
            // Two are refused with 401, until nobody answers any more.
            (0..2).any(|_| {
                client.allocate().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof)
            })
        })
    });
    assert!(hung_up, "{}", relay.totals());
    assert!(becomes_true(|| relay.totals()["streams"]["closed"]["limited"].as_u64() >= Some(1)));
    assert!(relay.drops("drop_unauthenticated_rate") > 0);
    // Another address is not concerned.
    lab.client.enter(|| {
        let mut client = relay.connect(source(1), false).expect("there is room");
        client.allocate().expect("an allocation");
    });
    relay.server.stop();
}
