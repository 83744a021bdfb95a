//! What goes wrong with batched input and output on Linux unless one knows it.

use turnpike_testkit::in_own_namespace;

use super::*;
use crate::uring::RingSizes;

on_both!(
    empty_datagrams_are_no_end,
    a_port_is_free_as_soon_as_it_is_said_to_be_closed,
    joined_datagrams_over_the_mtu_arrive_all_the_same,
    lost_datagrams_are_counted,
    a_datagram_that_could_not_be_answered_is_counted,
    what_waited_in_the_kernel_says_how_long,
);

/// Sends `count` numbered datagrams, each behind an empty one, and takes them all in order.
fn exchange(driver: &mut impl Rig, server: SocketAddr, count: u32, with_empty: bool) {
    let client = client(V4);
    for number in 0..count {
        if with_empty {
            client.send_to(b"", server).expect("sent");
        }
        client.send_to(&number.to_be_bytes(), server).expect("sent");
    }
    let deadline = Instant::now() + PATIENCE;
    let (mut empty, mut next) = (0, 0);
    while next < count && Instant::now() < deadline {
        for event in turn(driver, SILENCE) {
            let Event::Datagram(datagram) = event else { continue };
            if datagram.len == 0 {
                empty += 1;
                continue;
            }
            assert_eq!(driver.bytes(&datagram), next.to_be_bytes(), "in order");
            next += 1;
        }
    }
    assert_eq!((next, empty), (count, if with_empty { count } else { 0 }));
    let idle = Instant::now();
    assert!(turn(driver, SILENCE).is_empty());
    assert!(idle.elapsed() >= SILENCE, "it sleeps when there is nothing to do");
}

// An empty datagram ends a multishot request.
fn empty_datagrams_are_no_end<D: Rig>() {
    let (mut driver, server) = driver::<D>(V4);
    let relayed = open(&mut driver, relay(0), V4);
    for target in [server, relayed] {
        exchange(&mut driver, target, 200, true);
    }
}

// Running out of buffers, or of room for completions, ends one, too; nothing may be lost by it.
#[test]
fn running_out_of_buffers_or_completions_loses_nothing() {
    if !has_io_uring() {
        return;
    }
    let few_buffers = RingSizes { listener_buffers: 2, relay_buffers: 2, ..RingSizes::default() };
    let few_completions = RingSizes { requests: 2, completions: 4, ..RingSizes::default() };
    for sizes in [few_buffers, few_completions] {
        let options = SocketOptions::default();
        let listener = bind_listener(addr(V4), &options).expect("a free port");
        let server = listener.local_addr();
        let mut driver = UringDriver::with_sizes(vec![listener], options, sizes).expect("a driver");
        let relayed: Vec<SocketAddr> = (0..8).map(|index| open(&mut driver, relay(index), V4)).collect();
        for target in [server, relayed[0], relayed[7]] {
            exchange(&mut driver, target, 300, false);
        }
        exchange_among_all(&mut driver, &relayed);
    }
}

/// Many sockets at once share what is short.
fn exchange_among_all(driver: &mut UringDriver, relayed: &[SocketAddr]) {
    const EACH: usize = 50;
    let client = client(V4);
    for _ in 0..EACH {
        relayed.iter().for_each(|to| {
            client.send_to(b"x", to).expect("sent");
        });
    }
    assert_eq!(datagrams(driver, EACH * relayed.len(), PATIENCE).len(), EACH * relayed.len());
}

// A socket that a request still uses keeps its port, even when it was closed.
fn a_port_is_free_as_soon_as_it_is_said_to_be_closed<D: Rig>() {
    let (mut driver, _) = driver::<D>(V4);
    let client = client(V4);
    for generation in 0..100 {
        let name = RelaySocket { index: 3, generation };
        let relayed = open(&mut driver, name, V4);
        // Armed and idle, armed with data under way, not yet armed.
        if generation % 3 == 1 {
            client.send_to(b"late", relayed).expect("sent");
        }
        driver.close_port(name);
        await_event(&mut driver, |_, event| {
            matches!(event, Event::PortClosed(of) if *of == name).then_some(())
        });
        UdpSocket::bind(relayed).expect("the port is free");
    }
    let name = RelaySocket { index: 3, generation: 100 };
    driver.open_port(name, RelayedAddr(addr(V4)));
    driver.close_port(name);
    await_event(&mut driver, |_, event| matches!(event, Event::PortClosed(of) if *of == name).then_some(()));
    assert_eq!(driver.open_ports(), 0);
}

// The kernel refuses a whole message if one of its datagrams is over the MTU, where it would cut a single
// datagram into fragments.
fn joined_datagrams_over_the_mtu_arrive_all_the_same<D: Rig>() {
    in_own_namespace(|| {
        let (mut driver, server) = driver::<D>(V4);
        open(&mut driver, relay(0), V4);
        let client = client(V4);
        let egress = Egress::Client { socket: ClientSocket::listener(0), source: server };
        let header = Some([0x40, 0, 0, 0]);
        // With the header of ChannelData 1473 to 1476 bytes, over an MTU of 1500 with its 28 of headers.
        for payload in [1468usize, 1469, 1470, 1471, 1472, 1468] {
            for round in 0..2u8 {
                // What is received is sent on, so that it travels by ranges of the buffers.
                let peer = self::client(V4);
                let relayed = local_of(&driver, relay(0));
                (0..10u8).for_each(|number| {
                    peer.send_to(&vec![round * 10 + number; payload], relayed).expect("sent");
                });
                let mut forwarded = 0;
                while forwarded < 10 {
                    for event in turn(&mut driver, PATIENCE) {
                        let Event::Datagram(datagram) = event else { continue };
                        let to = local(&client);
                        let transmit = Transmit { egress, to, header, ..echo_of(&datagram) };
                        driver.forward(&datagram, 0, &transmit);
                        forwarded += 1;
                    }
                }
                driver.flush();
                let mut buffer = [0; 2000];
                for number in 0..10 {
                    let len = client.recv(&mut buffer).expect("it arrives");
                    assert_eq!((len, buffer[4]), (4 + payload, round * 10 + number), "in order");
                }
            }
        }
        assert_eq!(driver.counters(), DriverCounters::default());
    });
}

fn local_of(driver: &impl Rig, name: RelaySocket) -> SocketAddr {
    let socket = driver.relay_socket(name).expect("it is open");
    socket.local_addr().ok().and_then(|local| local.as_socket()).expect("a bound socket")
}

// While the process stands still its sockets fill up: nobody but the kernel knows for how long.
fn what_waited_in_the_kernel_says_how_long<D: Rig>() {
    const STANDSTILL: Duration = Duration::from_millis(60);
    for measure_waiting in [true, false] {
        let options = SocketOptions { measure_waiting, ..SocketOptions::default() };
        let (mut driver, server) = driver_with::<D>(V4, options);
        let relayed = open(&mut driver, relay(0), V4);
        let client = client(V4);
        for target in [server, relayed] {
            client.send_to(b"waits", target).expect("sent");
            std::thread::sleep(STANDSTILL);
            let waited = Duration::from_micros(await_datagram(&mut driver).waited_us.into());
            match measure_waiting {
                // The clock of the kernel's stamps and the one that sleeps are different ones.
                true => assert!((STANDSTILL * 9 / 10..PATIENCE).contains(&waited), "{waited:?}"),
                false => assert_eq!(waited, Duration::ZERO),
            }
        }
    }
}

// What the kernel drops at a full buffer would otherwise be lost without a trace.
// A wildcard listener hears from PKTINFO alone to which address a datagram was sent.
fn a_datagram_that_could_not_be_answered_is_counted<D: Rig>() {
    let options = SocketOptions::default();
    let listener = bind_listener(addr("0.0.0.0:0"), &options).expect("a free port");
    let server = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().port()));
    sockets::set_option(listener.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 0).expect("an option");
    let mut driver = D::make(vec![listener], options).expect("a driver");
    client(V4).send_to(b"to where?", server).expect("sent");
    let deadline = Instant::now() + PATIENCE;
    while driver.counters().unaddressed == 0 {
        assert!(Instant::now() < deadline, "{:?}", driver.counters());
        assert!(turn(&mut driver, SILENCE).is_empty());
    }
    assert_eq!(driver.counters().unaddressed, 1);
}

fn lost_datagrams_are_counted<D: Rig>() {
    let options =
        SocketOptions { listener_receive_bytes: 8192, relay_receive_bytes: 8192, ..SocketOptions::default() };
    let (mut driver, server) = driver_with::<D>(V4, options);
    let relayed = open(&mut driver, relay(0), V4);
    let client = client(V4);
    for target in [server, relayed] {
        const SENT: usize = 200;
        const NEXT: &[u8] = b"the next one tells";
        let before = driver.counters().socket_overflow;
        (0..SENT).for_each(|_| {
            client.send_to(&[1; 1000], target).expect("sent");
        });
        // The next one tells, if there is room for it.
        let (mut sent, mut received) = (SENT as u64, Vec::new());
        let deadline = Instant::now() + PATIENCE;
        while !received.contains(&(NEXT.len() as u32, false)) && Instant::now() < deadline {
            client.send_to(NEXT, target).expect("sent");
            sent += 1;
            received.extend(datagrams(&mut driver, usize::MAX, SILENCE));
        }
        let lost = driver.counters().socket_overflow - before;
        assert!(lost > 0, "so many don't fit");
        assert_eq!(received.len() as u64 + lost, sent);
    }
    (0..200).for_each(|_| {
        client.send_to(&[1; 1000], relayed).expect("sent");
    });
    let before = driver.counters().socket_overflow;
    driver.close_port(relay(0));
    await_event(&mut driver, |_, event| matches!(event, Event::PortClosed(_)).then_some(()));
    assert!(driver.counters().socket_overflow > before, "what was lost at the end counts, too");
}
