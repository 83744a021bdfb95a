//! The same tests for both drivers of a real kernel, on loopback sockets with ports that the system chooses.

mod moved;
mod netns;
mod pitfalls;
mod runs;
mod strangers;

use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use socket2::Socket;
use turnpike_proto::{ClientSocket, Verdict};
use turnpike_testkit::PATIENCE;

use super::epoll::EpollDriver;
use super::uring::UringDriver;
use super::*;
use crate::mechanism::Mechanism;
use crate::sockets::{ListenerSocket, SocketOptions, bind_listener, bind_listeners};

/// A driver under test.
trait Rig: Mechanism + Send + Sized + 'static {
    fn make(listeners: Vec<ListenerSocket>, options: SocketOptions) -> io::Result<Self>;

    /// An open relay socket itself.
    fn relay_socket(&self, relay: RelaySocket) -> Option<&Socket> {
        self.base().sockets.relay(relay)
    }
}

impl Rig for EpollDriver {
    fn make(listeners: Vec<ListenerSocket>, options: SocketOptions) -> io::Result<Self> {
        EpollDriver::new(listeners, options)
    }
}

impl Rig for UringDriver {
    fn make(listeners: Vec<ListenerSocket>, options: SocketOptions) -> io::Result<Self> {
        UringDriver::new(listeners, options)
    }
}

/// Makes a test of each generic function for each driver.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_epoll {
            $(#[test] fn $test() { super::$test::<crate::epoll::EpollDriver>() })+
        }

        mod on_io_uring {
            $(#[test] fn $test() {
                if crate::tests::has_io_uring() {
                    super::$test::<crate::uring::UringDriver>()
                }
            })+
        }
    };
}
use on_both;

/// The test is skipped where there is none.
fn has_io_uring() -> bool {
    let works = choose::io_uring();
    if let Err(why) = &works {
        turnpike_testkit::skip(
            std::thread::current().name().unwrap_or("a test"),
            &format!("there is no io_uring: {why}"),
        );
    }
    works.is_ok()
}

on_both!(
    every_size_comes_back_whole,
    an_empty_datagram_is_an_event,
    a_route_takes_a_part_and_puts_a_header_in_front,
    dscp_and_ecn_survive_both_directions_in_both_families,
    a_wildcard_listener_answers_from_the_address_that_was_asked,
    a_datagram_longer_than_the_buffer_is_marked,
    an_icmp_error_is_reported_and_hurts_no_other_peer,
    a_pending_error_fails_neither_the_next_send_nor_the_next_receive,
    an_occupied_port_is_in_use_and_a_foreign_address_is_exhausted,
    relay_ports_are_never_shared,
    a_reserved_port_is_bound_until_it_is_opened_or_released,
    a_closed_port_is_free_and_its_old_name_means_nothing,
    more_than_a_batch_arrives_and_leaves_in_order,
    more_than_the_queue_holds_is_sent_all_the_same,
    one_refused_datagram_does_not_hold_up_the_rest,
    df_holds_for_one_datagram_only,
    wakers_wake_from_other_threads,
    streams_are_reported_in_each_turn_in_which_they_are_ready,
    a_driver_may_be_made_in_one_thread_and_used_in_another,
    too_many_listeners_are_refused,
    answers_to_commands_do_not_wait,
    a_group_of_listeners_shares_clients_and_keeps_each_on_one,
    many_ports_opened_and_closed_leave_no_descriptor,
    many_ports_that_close_hold_up_no_datagram,
    no_socket_starves_beside_busy_ones,
);

/// How long to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(50);
const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn relay(index: u32) -> RelaySocket {
    RelaySocket { index, generation: 7 }
}

/// A driver with one listener, and the listener's address.
fn driver<D: Rig>(listen: &str) -> (D, SocketAddr) {
    driver_with(listen, SocketOptions::default())
}

fn driver_with<D: Rig>(listen: &str, options: SocketOptions) -> (D, SocketAddr) {
    let listener = bind_listener(addr(listen), &options).expect("a free port");
    let local = listener.local_addr();
    (D::make(vec![listener], options).expect("a driver"), local)
}

fn client(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind(addr(bind)).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// A socket that takes nothing, since it is connected to itself: its port answers as if nobody had it, and nobody
/// else gets it meanwhile.
fn nobody(bind: &str) -> UdpSocket {
    let socket = client(bind);
    socket.connect(local(&socket)).expect("loopback");
    socket
}

fn local(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket")
}

/// Opens a relay socket; returns its address.
fn open(driver: &mut impl Rig, name: RelaySocket, bind: &str) -> SocketAddr {
    driver.open_port(name, RelayedAddr(addr(bind)));
    let events = turn(driver, PATIENCE);
    assert!(events.iter().any(|event| matches!(event, Event::PortOpened(of) if *of == name)), "{events:?}");
    let socket = driver.relay_socket(name).expect("just opened");
    socket.local_addr().ok().and_then(|local| local.as_socket()).expect("a bound socket")
}

fn turn(driver: &mut impl Rig, timeout: Duration) -> Vec<Event> {
    let count = driver.wait(Some(timeout)).expect("waiting is possible");
    (0..count).map(|index| driver.event(index)).collect()
}

/// Turns until an event gives a value.
fn await_event<D: Rig, T>(driver: &mut D, pick: impl Fn(&D, &Event) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for event in turn(driver, SILENCE) {
            if let Some(value) = pick(driver, &event) {
                return value;
            }
        }
    }
    panic!("it did not happen within {PATIENCE:?}");
}

fn await_datagram(driver: &mut impl Rig) -> Datagram {
    await_event(driver, |_, event| match event {
        Event::Datagram(datagram) => Some(*datagram),
        _ => None,
    })
}

fn echo_of(datagram: &Datagram) -> Transmit {
    let egress = match datagram.ingress {
        Ingress::Client { socket, server } => Egress::Client { socket, source: server },
        Ingress::Relay(relay) => Egress::Relay(relay),
    };
    Transmit {
        egress,
        to: datagram.from,
        header: None,
        payload_start: 0,
        payload_len: datagram.len,
        padding_len: 0,
        tos: datagram.tos,
        dont_fragment: false,
        verdict: Verdict::ChannelToPeer,
    }
}

/// Sends back whatever comes until `count` datagrams were.
fn echo(driver: &mut impl Rig, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut echoed = 0;
    while echoed < count && Instant::now() < deadline {
        for event in turn(driver, SILENCE) {
            if let Event::Datagram(datagram) = event {
                driver.forward(&datagram, 0, &echo_of(&datagram));
                echoed += 1;
            }
        }
        driver.flush();
    }
    assert_eq!(echoed, count);
}

// RFC 8656 s. 11.2: payload of any size, 0 to the largest that UDP carries.
fn every_size_comes_back_whole<D: Rig>() {
    for bind in [V4, V6] {
        let (mut driver, server) = driver::<D>(bind);
        let relayed = open(&mut driver, relay(0), bind);
        let client = client(bind);
        let mut buffer = vec![0; 70_000];
        for target in [server, relayed] {
            for size in [0, 1, 1200, 1472, 9000, 65_507] {
                let sent: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
                client.send_to(&sent, target).expect("loopback takes it");
                echo(&mut driver, 1);
                let (len, from) = client.recv_from(&mut buffer).expect("an echo");
                assert_eq!((len, from), (size, target));
                assert_eq!(buffer[..len], sent);
            }
        }
        assert_eq!(driver.counters(), DriverCounters::default());
    }
}

fn an_empty_datagram_is_an_event<D: Rig>() {
    let (mut driver, server) = driver::<D>(V4);
    let client = client(V4);
    client.send_to(&[], server).expect("sent");
    let datagram = await_datagram(&mut driver);
    assert_eq!((datagram.len, datagram.truncated), (0, false));
    assert_eq!(driver.bytes(&datagram), b"");
    assert_eq!(datagram.from, local(&client));
}

fn a_route_takes_a_part_and_puts_a_header_in_front<D: Rig>() {
    let (mut driver, server) = driver::<D>(V4);
    let client = client(V4);
    client.send_to(b"skip|pre|payload|post", server).expect("sent");
    let datagram = await_datagram(&mut driver);
    let header = Some([0x40, 0x01, 0, 7]);
    let transmit = Transmit { header, payload_start: 4, payload_len: 7, ..echo_of(&datagram) };
    driver.forward(&datagram, 5, &transmit);
    driver.flush();
    let mut buffer = [0; 100];
    let len = client.recv(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..len], b"\x40\x01\0\x07payload");
}

// RFC 8656 s. 14: DSCP and ECN are copied.
fn dscp_and_ecn_survive_both_directions_in_both_families<D: Rig>() {
    for bind in [V4, V6] {
        let (mut near, server) = driver::<D>(bind);
        let (mut far, _) = driver::<D>(bind);
        let relayed = open(&mut far, relay(0), bind);
        for tos in [0x00, 0x01, 0x02, 0x03, 0xb8, 0xbb, 0xff] {
            far.transmit(Egress::Relay(relay(0)), server, &[1], tos, false);
            far.flush();
            let there = await_datagram(&mut near);
            assert_eq!((there.tos, there.from), (tos, relayed));
            near.forward(&there, 0, &echo_of(&there));
            near.flush();
            let back = await_datagram(&mut far);
            assert_eq!((back.tos, back.from), (tos, server), "a TOS does not stick to the socket");
        }
    }
}

fn a_wildcard_listener_answers_from_the_address_that_was_asked<D: Rig>() {
    let (mut v4, wildcard) = driver::<D>("0.0.0.0:0");
    let client_v4 = client("127.0.0.1:0");
    let asked = SocketAddr::new(addr("127.0.0.2:0").ip(), wildcard.port());
    client_v4.send_to(b"x", asked).expect("sent");
    let datagram = await_datagram(&mut v4);
    assert_eq!(datagram.ingress, Ingress::Client { socket: ClientSocket::listener(0), server: asked });
    // With a TOS, so that both control messages travel together.
    v4.forward(&datagram, 0, &Transmit { tos: 0xb9, ..echo_of(&datagram) });
    v4.flush();
    assert_eq!(client_v4.recv_from(&mut [0; 10]).expect("an answer").1, asked);

    let (mut v6, wildcard) = driver::<D>("[::]:0");
    let client_v6 = client("[::1]:0");
    let asked = SocketAddr::new(addr("[::1]:0").ip(), wildcard.port());
    client_v6.send_to(b"x", asked).expect("sent");
    let datagram = await_datagram(&mut v6);
    assert_eq!(datagram.ingress, Ingress::Client { socket: ClientSocket::listener(0), server: asked });
    v6.forward(&datagram, 0, &Transmit { tos: 0xb9, ..echo_of(&datagram) });
    v6.flush();
    assert_eq!(client_v6.recv_from(&mut [0; 10]).expect("an answer").1, asked);
}

fn a_datagram_longer_than_the_buffer_is_marked<D: Rig>() {
    let (mut driver, server) =
        driver_with::<D>(V4, SocketOptions { datagram_bytes: 100, ..SocketOptions::default() });
    let client = client(V4);
    client.send_to(&[7; 100], server).expect("sent");
    client.send_to(&[8; 101], server).expect("sent");
    let seen = datagrams(&mut driver, 2, PATIENCE);
    assert_eq!(seen, [(100, false), (100, true)]);
}

/// The lengths of the datagrams of a run.
fn segments(run: &Datagram) -> impl Iterator<Item = u32> + use<> {
    let (len, size) = (run.len, run.segment_size.max(1));
    (0..len.max(1)).step_by(size as usize).map(move |start| size.min(len - start))
}

/// Length and truncation of the next datagrams, until there were `count` or the time is over.
fn datagrams(driver: &mut impl Rig, count: usize, patience: Duration) -> Vec<(u32, bool)> {
    let deadline = Instant::now() + patience;
    let mut seen = Vec::new();
    while seen.len() < count && Instant::now() < deadline {
        for event in turn(driver, SILENCE) {
            if let Event::Datagram(datagram) = event {
                seen.extend(segments(&datagram).map(|len| (len, datagram.truncated)));
            }
        }
    }
    seen
}

// RFC 8656 s. 11.5
fn an_icmp_error_is_reported_and_hurts_no_other_peer<D: Rig>() {
    for (bind, icmp_type, icmp_code) in [(V4, 3, 3), (V6, 1, 4)] {
        let (mut driver, _) = driver::<D>(bind);
        open(&mut driver, relay(0), bind);
        let alive = client(bind);
        let occupied = nobody(bind);
        let dead = local(&occupied);
        let egress = Egress::Relay(relay(0));
        for number in 0..20u8 {
            driver.transmit(egress, dead, &[number], 0, false);
            driver.transmit(egress, local(&alive), &[number], 0, false);
        }
        driver.flush();
        for number in 0..20u8 {
            let mut buffer = [0; 10];
            assert_eq!(alive.recv(&mut buffer).expect("it arrives in spite of the error"), 1);
            assert_eq!(buffer[0], number);
        }
        assert_eq!(driver.counters(), DriverCounters::default());
        let icmp = await_event(&mut driver, |_, event| match *event {
            Event::Icmp { relay, peer, icmp_type, icmp_code, data } => {
                Some((relay, peer, icmp_type, icmp_code, data))
            }
            _ => None,
        });
        assert_eq!(icmp, (relay(0), dead, icmp_type, icmp_code, 0));
        // All errors are drained, the socket still receives, and then the driver sleeps.
        alive.send_to(b"still there", driver_address(&driver)).expect("sent");
        assert_eq!(await_datagram(&mut driver).len, 11);
        while !turn(&mut driver, SILENCE).is_empty() {}
        let idle = Instant::now();
        assert!(turn(&mut driver, SILENCE).is_empty());
        assert!(idle.elapsed() >= SILENCE, "no error is left that would keep waking it");
    }
}

fn driver_address(driver: &impl Rig) -> SocketAddr {
    let socket = driver.relay_socket(relay(0)).expect("it is open");
    socket.local_addr().ok().and_then(|local| local.as_socket()).expect("a bound socket")
}

// With IP_RECVERR a pending ICMP error fails the socket's next call, whoever that is for.
fn a_pending_error_fails_neither_the_next_send_nor_the_next_receive<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    let relayed = open(&mut driver, relay(0), V4);
    let occupied = nobody(V4);
    let dead = local(&occupied);
    let alive = client(V4);
    let send = |driver: &mut D, to| {
        driver.transmit(Egress::Relay(relay(0)), to, &[1], 0, false);
        driver.flush();
    };
    send(&mut driver, dead);
    send(&mut driver, local(&alive));
    assert_eq!(driver.counters(), DriverCounters::default());
    assert_eq!(alive.recv(&mut [0; 10]).expect("it arrives in spite of the error"), 1);

    send(&mut driver, dead);
    alive.send_to(b"data", relayed).expect("sent");
    assert_eq!(await_datagram(&mut driver).len, 4, "in spite of the error in front of it");
}

fn an_occupied_port_is_in_use_and_a_foreign_address_is_exhausted<D: Rig>() {
    let (mut driver, server) = driver::<D>(V4);
    let occupant = client(V4);
    let failures = [
        (local(&occupant), PortError::InUse),
        (server, PortError::InUse),
        (addr("192.0.2.1:0"), PortError::Exhausted),
    ];
    for (address, expected) in failures {
        driver.open_port(relay(3), RelayedAddr(address));
        let events = turn(&mut driver, PATIENCE);
        assert!(
            matches!(events[..], [Event::PortFailed(of, error)] if of == relay(3) && error == expected),
            "{address}: {events:?}"
        );
    }
    driver.open_port(RelaySocket { index: u32::MAX, generation: 0 }, RelayedAddr(addr(V4)));
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortFailed(_, PortError::Exhausted)]));
    assert_eq!(driver.open_ports(), 0);
}

fn a_reserved_port_is_bound_until_it_is_opened_or_released<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    let free = || local(&client("127.77.7.7:0"));
    let (even, odd) = (free(), free());
    let is_bound = |address| UdpSocket::bind(address).is_err();
    driver.open_pair(relay(0), RelayedAddr(even), RelayedAddr(odd));
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortOpened(of)] if of == relay(0)));
    assert!(is_bound(odd) && driver.open_ports() == 1);
    driver.open_port(relay(1), RelayedAddr(odd));
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortOpened(of)] if of == relay(1)));
    // Taken by somebody: neither of the two is opened.
    let other = free();
    driver.open_pair(relay(2), RelayedAddr(other), RelayedAddr(odd));
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortFailed(_, PortError::ReserveInUse)]));
    assert!(!is_bound(other));
    driver.open_pair(relay(2), RelayedAddr(even), RelayedAddr(other));
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortFailed(_, PortError::InUse)]));
    assert!(is_bound(other), "until it is released");
    driver.release_port(RelayedAddr(other));
    assert!(!is_bound(other));
}

fn relay_ports_are_never_shared<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    let relayed = open(&mut driver, relay(0), V4);
    driver.open_port(relay(1), RelayedAddr(relayed));
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortFailed(_, PortError::InUse)]));
}

fn a_closed_port_is_free_and_its_old_name_means_nothing<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    let relayed = open(&mut driver, relay(0), V4);
    let peer = client(V4);
    driver.transmit(Egress::Relay(relay(0)), local(&peer), b"last", 0, false);
    driver.close_port(relay(0));
    assert_eq!(driver.open_ports(), 0);
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortClosed(of)] if of == relay(0)));
    let mut buffer = [0; 10];
    assert_eq!(peer.recv(&mut buffer).expect("queued before the end"), 4);

    let newer = RelaySocket { index: 0, generation: 8 };
    driver.open_port(newer, RelayedAddr(relayed));
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::PortOpened(of)] if of == newer));
    driver.transmit(Egress::Relay(relay(0)), local(&peer), b"stale", 0, false);
    driver.close_port(relay(0));
    assert!(turn(&mut driver, SILENCE).is_empty());
    assert_eq!(driver.counters().send_failed, 1);
    assert_eq!(driver.open_ports(), 1);
}

fn more_than_a_batch_arrives_and_leaves_in_order<D: Rig>() {
    const COUNT: usize = 500;
    let (mut driver, server) = driver::<D>(V4);
    let client = client(V4);
    let peers = [self::client(V4), self::client(V4)];
    for (index, peer) in peers.iter().enumerate() {
        open(&mut driver, relay(index as u32), V4);
        peer.send_to(b"", local(&client)).expect("sent");
        client.recv(&mut [0; 4]).expect("both sockets work");
    }
    (0..COUNT as u32).for_each(|number| {
        client.send_to(&number.to_be_bytes(), server).expect("sent");
    });
    // Alternating between two relay sockets: each flow's order must survive the grouping.
    let mut forwarded = 0;
    let deadline = Instant::now() + PATIENCE;
    while forwarded < COUNT && Instant::now() < deadline {
        for event in turn(&mut driver, SILENCE) {
            let Event::Datagram(datagram) = event else { continue };
            let index = forwarded % 2;
            let egress = Egress::Relay(relay(index as u32));
            let transmit = Transmit { egress, to: local(&peers[index]), ..echo_of(&datagram) };
            driver.forward(&datagram, 0, &transmit);
            forwarded += 1;
        }
    }
    driver.flush();
    for (index, peer) in peers.iter().enumerate() {
        for expected in (index..COUNT).step_by(2) {
            let mut buffer = [0; 4];
            peer.recv(&mut buffer).expect("it arrives");
            assert_eq!(u32::from_be_bytes(buffer) as usize, expected);
        }
    }
}

fn more_than_the_queue_holds_is_sent_all_the_same<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    open(&mut driver, relay(0), V4);
    let peer = bind_listener(addr(V4), &SocketOptions::default()).expect("a large receive buffer");
    let to = peer.local_addr();
    let mut sink = D::make(vec![peer], SocketOptions::default()).expect("a driver");
    let count = limits::MAX_QUEUED + 100;
    for _ in 0..count {
        driver.transmit(Egress::Relay(relay(0)), to, &[0; 100], 0, false);
    }
    driver.flush();
    assert_eq!(datagrams(&mut sink, count, PATIENCE).len(), count);
}

fn one_refused_datagram_does_not_hold_up_the_rest<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    open(&mut driver, relay(0), V4);
    let peer = client(V4);
    let egress = Egress::Relay(relay(0));
    driver.transmit(egress, local(&peer), b"1", 0, false);
    driver.transmit(egress, local(&peer), &[0; 65_508], 0, false);
    driver.transmit(egress, addr("[::1]:9"), b"wrong family", 0, false);
    driver.transmit(egress, local(&peer), b"2", 0, false);
    driver.flush();
    let mut buffer = [0; 100];
    for expected in [b"1", b"2"] {
        let len = peer.recv(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..len], expected);
    }
    let expected = DriverCounters { send_failed: 1, send_too_large: 1, ..DriverCounters::default() };
    assert_eq!(driver.counters(), expected);
}

// RFC 8656 s. 14: DF only for Send with DONT-FRAGMENT.
fn df_holds_for_one_datagram_only<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    open(&mut driver, relay(0), V4);
    let peer = client(V4);
    let mode = |driver: &D| mtu_discovery(driver.relay_socket(relay(0)).expect("open").as_fd());
    assert_eq!(mode(&driver), libc::IP_PMTUDISC_OMIT);
    for (byte, dont_fragment) in [(b'a', false), (b'b', true), (b'c', false)] {
        driver.transmit(Egress::Relay(relay(0)), local(&peer), &[byte], 0, dont_fragment);
    }
    driver.flush();
    assert_eq!(mode(&driver), libc::IP_PMTUDISC_OMIT, "restored");
    let mut buffer = [0; 10];
    for expected in *b"abc" {
        peer.recv(&mut buffer).expect("it arrives");
        assert_eq!(buffer[0], expected, "in order");
    }
}

fn mtu_discovery(socket: BorrowedFd<'_>) -> i32 {
    use std::os::fd::AsRawFd;
    let mut value: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to a live local of that size.
    let result = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value, &raw mut len)
    };
    assert_eq!(result, 0);
    value
}

fn streams_are_reported_in_each_turn_in_which_they_are_ready<D: Rig>() {
    let (mut driver, server) = driver::<D>(V4);
    let offer = streams::Offer { plain: true, tls: false };
    let listeners = streams::bind_stream_listeners(addr(V4), 1, offer).expect("a free port");
    let address = listeners[0].local_addr();
    let mut streams = streams::Streams::new(listeners, Default::default()).expect("descriptors");
    driver.watch(streams.as_fd().try_clone_to_owned().expect("a descriptor")).expect("it can be watched");
    assert!(turn(&mut driver, SILENCE).is_empty());
    let is_ready = |_: &D, event: &Event| matches!(event, Event::StreamsReady).then_some(());
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    // It stays ready until the connection is taken.
    await_event(&mut driver, is_ready);
    await_event(&mut driver, is_ready);
    streams.turn(1, true).expect("epoll works");
    assert_eq!(streams.counters().accepted, 1);
    let rest = turn(&mut driver, Duration::ZERO);
    assert!(rest.len() <= 1 && turn(&mut driver, SILENCE).is_empty(), "nothing is left to do: {rest:?}");
    io::Write::write_all(&mut stream, &[0x40, 1, 0, 0]).expect("sent");
    await_event(&mut driver, is_ready);
    // And datagrams go on beside it.
    let client = client(V4);
    client.send_to(b"x", server).expect("sent");
    echo(&mut driver, 1);
}

fn wakers_wake_from_other_threads<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    let waker = driver.waker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(SILENCE);
        waker.wake();
    });
    assert!(matches!(turn(&mut driver, PATIENCE)[..], [Event::Woken]));
    thread.join().expect("the thread ends");
    assert!(turn(&mut driver, SILENCE).is_empty(), "once");
}

fn a_driver_may_be_made_in_one_thread_and_used_in_another<D: Rig>() {
    let (mut driver, server) = driver::<D>(V4);
    client(V4).send_to(b"xy", server).expect("sent");
    let thread = std::thread::spawn(move || await_datagram(&mut driver).len);
    assert_eq!(thread.join().expect("the thread ends"), 2);
}

fn too_many_listeners_are_refused<D: Rig>() {
    let options = SocketOptions::default();
    let listeners =
        (0..=limits::MAX_LISTENERS).map(|_| bind_listener(addr(V4), &options).expect("a free port"));
    let error = D::make(listeners.collect(), options).err().expect("there is a limit");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

fn answers_to_commands_do_not_wait<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    driver.open_port(relay(0), RelayedAddr(addr(V4)));
    assert_eq!(driver.wait(None).expect("it does not sleep"), 1);
    assert!(matches!(driver.event(0), Event::PortOpened(_)));
}

#[test]
fn a_held_listener_port_is_refused_even_if_it_would_be_shared() {
    let options = SocketOptions::default();
    let group = bind_listeners(addr(V4), 2, &options).expect("a free port");
    let error = bind_listeners(group[0].local_addr(), 2, &options).expect_err("the group holds it");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("address already in use"), "{error}");
    let plain = client(V4);
    assert!(bind_listeners(local(&plain), 1, &options).is_err());
    let everywhere = SocketAddr::new(addr("0.0.0.0:0").ip(), local(&plain).port());
    assert!(bind_listeners(everywhere, 1, &options).is_err(), "a wildcard does not hide a narrower holder");
}

fn a_group_of_listeners_shares_clients_and_keeps_each_on_one<D: Rig>() {
    let group = bind_listeners(addr(V4), 3, &SocketOptions::default()).expect("a free port");
    let server = group[0].local_addr();
    assert!(group.iter().all(|listener| listener.local_addr() == server));
    let mut drivers: Vec<D> = group
        .into_iter()
        .map(|listener| D::make(vec![listener], SocketOptions::default()).expect("a driver"))
        .collect();
    let clients: Vec<UdpSocket> = (0..60).map(|_| client(V4)).collect();
    let mut rounds = Vec::new();
    for _ in 0..2 {
        clients.iter().for_each(|client| {
            client.send_to(b"x", server).expect("sent");
        });
        let mut shares: Vec<Vec<SocketAddr>> = vec![Vec::new(); drivers.len()];
        let deadline = Instant::now() + PATIENCE;
        while shares.iter().map(Vec::len).sum::<usize>() < clients.len() && Instant::now() < deadline {
            drivers.iter_mut().zip(&mut shares).for_each(|(driver, share)| share.extend(senders(driver)));
        }
        assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), clients.len());
        assert!(shares.iter().all(|share| !share.is_empty()), "each worker has a share: {shares:?}");
        rounds.push(shares);
    }
    assert_eq!(rounds[0], rounds[1], "nobody changed worker");
}

/// Who has sent something that waits at the listener.
fn senders(driver: &mut impl Rig) -> Vec<SocketAddr> {
    let senders = turn(driver, SILENCE).into_iter().filter_map(|event| match event {
        Event::Datagram(datagram) => Some(datagram.from),
        _ => None,
    });
    senders.collect()
}

fn many_ports_opened_and_closed_leave_no_descriptor<D: Rig>() {
    const PORTS: u32 = 2000;
    let (mut driver, _) = driver::<D>(V4);
    (0..PORTS).for_each(|index| driver.open_port(relay(index), RelayedAddr(addr(V4))));
    let opened = turn(&mut driver, PATIENCE);
    assert_eq!(opened.iter().filter(|event| matches!(event, Event::PortOpened(_))).count(), PORTS as usize);
    assert_eq!(driver.open_ports(), PORTS as usize);
    let descriptors = relay_descriptors(&driver);
    let held = sockets_of_process();
    assert_eq!(descriptors.iter().filter(|link| held.contains(*link)).count(), PORTS as usize);
    (0..PORTS).for_each(|index| driver.close_port(relay(index)));
    let mut closed = 0;
    while closed < PORTS as usize {
        let events = turn(&mut driver, PATIENCE);
        assert!(!events.is_empty() && events.iter().all(|event| matches!(event, Event::PortClosed(_))));
        closed += events.len();
    }
    assert_eq!(driver.open_ports(), 0);
    let held = sockets_of_process();
    let leaked = descriptors.iter().filter(|link| held.contains(*link)).count();
    assert_eq!(leaked, 0, "the process holds none of them any more");
}

fn many_ports_that_close_hold_up_no_datagram<D: Rig>() {
    const PORTS: u32 = 2000;
    /// As many as the core ends in one turn.
    const PORTION: u32 = 256;
    let (mut driver, server) = driver::<D>(V4);
    let client = client(V4);
    (0..PORTS).for_each(|index| driver.open_port(relay(index), RelayedAddr(addr(V4))));
    turn(&mut driver, PATIENCE);
    turn(&mut driver, SILENCE);
    let (mut next, mut closed, mut turns, mut most) = (0, 0, 0, 0);
    client.send_to(b"client", server).expect("sent");
    while next < PORTS || closed < PORTS {
        (next..PORTS.min(next + PORTION)).for_each(|index| driver.close_port(relay(index)));
        next = PORTS.min(next + PORTION);
        turns += 1;
        for event in turn(&mut driver, PATIENCE) {
            closed += u32::from(matches!(event, Event::PortClosed(_)));
            if matches!(event, Event::Datagram(_)) {
                most = most.max(turns);
                turns = 0;
                client.send_to(b"client", server).expect("sent");
            }
        }
    }
    assert!(most.max(turns) <= 4, "a datagram waited for {most} turns");
}

/// The sockets behind the open relay ports, as /proc names them. Other tests open and close
/// descriptors at the same time, so counting the process's would prove nothing.
fn relay_descriptors(driver: &impl Rig) -> Vec<String> {
    use std::os::fd::AsRawFd;
    let open = (0..driver.open_ports() as u32).filter_map(|index| driver.relay_socket(relay(index)));
    open.map(|socket| socket_name(&format!("/proc/self/fd/{}", socket.as_raw_fd()))).collect()
}

fn socket_name(path: &str) -> String {
    std::fs::read_link(path).map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

fn sockets_of_process() -> std::collections::HashSet<String> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("Linux has /proc");
    entries.flatten().map(|entry| socket_name(&entry.path().to_string_lossy())).collect()
}

fn no_socket_starves_beside_busy_ones<D: Rig>() {
    /// io_uring handles about twenty sockets at once.
    const TURNS: usize = 40;
    let (mut driver, server) = driver::<D>(V4);
    let client = client(V4);
    let ports: Vec<SocketAddr> = (0..300).map(|index| open(&mut driver, relay(index), V4)).collect();
    for _ in 0..4 {
        ports.iter().for_each(|port| {
            client.send_to(b"peer", port).expect("sent");
        });
    }
    client.send_to(b"client", server).expect("sent");
    let is_listener =
        |event: &Event| matches!(event, Event::Datagram(Datagram { ingress: Ingress::Client { .. }, .. }));
    let (mut served, mut listener_served) = (std::collections::HashSet::new(), false);
    for _ in 0..TURNS {
        for event in turn(&mut driver, PATIENCE) {
            listener_served |= is_listener(&event);
            if let Event::Datagram(Datagram { ingress: Ingress::Relay(name), .. }) = event {
                served.insert(name);
            }
        }
        if listener_served && served.len() == 300 {
            return;
        }
    }
    panic!("{TURNS} turns served {} relay sockets; the listener: {listener_served}", served.len());
}
