use turnpike_proto::addr::RelayedAddr;
use turnpike_proto::{ClientSocket, Egress, PortError, RelaySocket, Transmit, Verdict};

use super::*;
use crate::{Driver, Event, Ingress};

const SERVER: &str = "192.0.2.1:3478";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn relay(index: u32) -> RelaySocket {
    RelaySocket { index, generation: 1 }
}

fn events(driver: &mut SimDriver) -> Vec<Event> {
    let count = driver.wait(None).expect("the simulation never fails");
    (0..count).map(|index| driver.event(index)).collect()
}

fn open(driver: &mut SimDriver, name: RelaySocket, address: &str) {
    driver.open_port(name, RelayedAddr(addr(address)));
    assert!(
        events(driver).iter().any(|event| matches!(event, Event::PortOpened(opened) if *opened == name)),
        "the port opens"
    );
}

fn rough() -> Impairment {
    Impairment {
        loss: 0.05,
        duplicate: 0.02,
        reorder: 0.1,
        delay: Duration::from_millis(5)..Duration::from_millis(30),
    }
}

/// Sends `count` numbered datagrams a tenth of a millisecond apart; returns the numbers in order of arrival.
fn arrivals(network: &SimNetwork, count: u32) -> Vec<u32> {
    let client = network.endpoint(addr("198.51.100.1:1000"));
    let peer = network.endpoint(addr("203.0.113.1:2000"));
    let mut seen = Vec::new();
    let mut take = || {
        while let Some((_, bytes, _)) = peer.recv() {
            seen.push(u32::from_be_bytes(bytes.try_into().expect("four bytes")));
        }
    };
    for number in 0..count {
        client.send_to(peer.address(), &number.to_be_bytes(), 0);
        network.advance(Duration::from_micros(100));
        take();
    }
    while let Some(due_ns) = network.next_due() {
        network.advance_to(due_ns);
        take();
    }
    seen
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let network = SimNetwork::new(seed, rough());
        (arrivals(&network, 2000), network.trace(), network.counters())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

#[test]
fn impairments_have_their_rates() {
    let network = SimNetwork::new(1, rough());
    let arrived = arrivals(&network, 100_000).len() as u64;
    let counters = network.counters();
    let near = |value: u64, expected: f64| (value as f64 - expected).abs() < expected * 0.1;
    assert_eq!(counters.sent, 100_000);
    assert!(near(counters.lost, 5_000.0), "{counters:?}");
    assert!(near(counters.duplicated, 95_000.0 * 0.02), "{counters:?}");
    assert!(near(counters.reordered, 95_000.0 * 0.98 * 0.1), "{counters:?}");
    assert_eq!(arrived, counters.sent - counters.lost + counters.duplicated, "the books balance");
    assert_eq!(arrived, counters.delivered);
}

#[test]
fn without_reordering_a_flow_keeps_its_order_however_delays_vary() {
    let varying = Impairment { reorder: 0.0, duplicate: 0.0, ..rough() };
    let seen = arrivals(&SimNetwork::new(3, varying), 5000);
    assert!(seen.is_sorted());
    let reordering = arrivals(&SimNetwork::new(3, rough()), 5000);
    assert!(!reordering.is_sorted());
}

#[test]
fn delays_lie_in_their_range_and_time_only_moves_when_told() {
    let delay = Duration::from_millis(5)..Duration::from_millis(30);
    let network = SimNetwork::new(4, Impairment { delay, ..Impairment::NONE });
    let start = network.now();
    let client = network.endpoint(addr("198.51.100.1:1000"));
    let peer = network.endpoint(addr("203.0.113.1:2000"));
    for _ in 0..200 {
        let sent_ns = network.now().mono_ns;
        client.send_to(peer.address(), b"x", 0);
        assert!(peer.recv().is_none(), "not before its time");
        let due_ns = network.next_due().expect("one is under way");
        assert!((5_000_000..30_000_000).contains(&(due_ns - sent_ns)));
        network.advance_to(due_ns);
        assert!(peer.recv().is_some());
    }
    network.advance(Duration::from_secs(60));
    let elapsed_ns = network.now().mono_ns - start.mono_ns;
    assert_eq!(network.now().unix_secs - start.unix_secs, elapsed_ns / 1_000_000_000, "both clocks agree");
}

#[test]
fn exempt_hosts_and_datagrams_within_a_host_are_unharmed() {
    let network = SimNetwork::new(5, Impairment { loss: 1.0, ..rough() });
    let client = network.endpoint(addr("198.51.100.1:1000"));
    let same_host = network.endpoint(addr("198.51.100.1:1001"));
    let peer = network.endpoint(addr("203.0.113.1:2000"));
    client.send_to(same_host.address(), b"a", 0);
    client.send_to(peer.address(), b"b", 0);
    assert!(same_host.recv().is_some());
    assert!(peer.recv().is_none());
    network.exempt(peer.address().ip());
    client.send_to(peer.address(), b"c", 0);
    assert_eq!(peer.recv().map(|(_, bytes, _)| bytes), Some(b"c".to_vec()));
}

#[test]
fn workers_share_a_listener_and_each_client_stays_on_one() {
    let network = SimNetwork::new(6, Impairment::NONE);
    let mut drivers: Vec<SimDriver> = (0..3).map(|worker| network.driver(worker, &[addr(SERVER)])).collect();
    let clients: Vec<SimEndpoint> = (0..300)
        .map(|port| network.endpoint(SocketAddr::new(addr("198.51.100.1:0").ip(), 1000 + port)))
        .collect();
    let mut senders_by_worker = Vec::new();
    for _ in 0..2 {
        clients.iter().for_each(|client| client.send_to(addr(SERVER), b"hi", 0xb8));
        for driver in &mut drivers {
            let mut senders = Vec::new();
            for event in events(driver) {
                let Event::Datagram(datagram) = event else { panic!("{event:?}") };
                let server = addr(SERVER);
                assert_eq!(datagram.ingress, Ingress::Client { socket: ClientSocket::listener(0), server });
                assert_eq!(driver.bytes(&datagram), b"hi");
                assert_eq!(datagram.tos, 0xb8);
                senders.push(datagram.from);
            }
            senders_by_worker.push(senders);
        }
    }
    assert_eq!(senders_by_worker[..3], senders_by_worker[3..], "nobody changed worker");
    assert!(senders_by_worker[..3].iter().all(|senders| senders.len() > 50), "each has a share");
    assert_eq!(senders_by_worker[..3].iter().map(Vec::len).sum::<usize>(), 300);
}

#[test]
fn a_wildcard_listener_learns_and_keeps_the_address_that_was_asked() {
    let network = SimNetwork::new(7, Impairment::NONE);
    let mut driver = network.driver(0, &[addr("0.0.0.0:3478")]);
    let client = network.endpoint(addr("198.51.100.1:1000"));
    client.send_to(addr("192.0.2.9:3478"), b"hi", 0);
    let Some(Event::Datagram(datagram)) = events(&mut driver).first().copied() else { panic!("no datagram") };
    let Ingress::Client { socket, server } = datagram.ingress else { panic!("{datagram:?}") };
    assert_eq!(server, addr("192.0.2.9:3478"));
    driver.transmit(Egress::Client { socket, source: server }, datagram.from, b"yes", 0, false);
    driver.flush();
    assert_eq!(client.recv(), Some((server, b"yes".to_vec(), 0)));
}

#[test]
fn a_route_is_sent_with_its_header_and_tos() {
    let network = SimNetwork::new(8, Impairment::NONE);
    let mut driver = network.driver(0, &[addr(SERVER)]);
    let client = network.endpoint(addr("198.51.100.1:1000"));
    let peer = network.endpoint(addr("203.0.113.1:2000"));
    open(&mut driver, relay(0), "192.0.2.1:50000");
    peer.send_to(addr("192.0.2.1:50000"), b"..data.", 0x2e);
    let Some(Event::Datagram(datagram)) = events(&mut driver).first().copied() else { panic!("no datagram") };
    assert_eq!(datagram.ingress, Ingress::Relay(relay(0)));
    let transmit = Transmit {
        egress: Egress::Client { socket: ClientSocket::listener(0), source: addr(SERVER) },
        to: client.address(),
        header: Some([0x40, 0, 0, 4]),
        payload_start: 1,
        payload_len: 4,
        padding_len: 0,
        tos: 0x2e,
        dont_fragment: true,
        verdict: Verdict::ChannelToClient,
    };
    driver.forward(&datagram, 1, &transmit);
    assert!(client.recv().is_none(), "it is only queued");
    driver.flush();
    assert_eq!(client.recv(), Some((addr(SERVER), b"\x40\0\0\x04data".to_vec(), 0x2e)));
    let last = network.trace().last().copied().expect("two were sent");
    assert_eq!((last.from, last.to, last.len, last.tos), (addr(SERVER), client.address(), 8, 0x2e));
    assert!(last.dont_fragment);
}

#[test]
fn relay_sockets_of_different_workers_reach_each_other() {
    let network = SimNetwork::new(9, Impairment::NONE);
    let mut one = network.driver(0, &[addr(SERVER)]);
    let mut two = network.driver(1, &[addr(SERVER)]);
    open(&mut one, relay(0), "192.0.2.1:50000");
    open(&mut two, relay(0), "192.0.2.1:50001");
    one.transmit(Egress::Relay(relay(0)), addr("192.0.2.1:50001"), b"hairpin", 0, true);
    one.flush();
    let Some(Event::Datagram(datagram)) = events(&mut two).first().copied() else { panic!("no datagram") };
    assert_eq!(datagram.from, addr("192.0.2.1:50000"));
    assert_eq!(two.bytes(&datagram), b"hairpin");
    assert!(network.trace()[0].dont_fragment);
}

#[test]
fn ports_can_be_occupied_and_descriptors_run_out() {
    let network = SimNetwork::new(10, Impairment::NONE);
    let mut driver = network.driver(0, &[addr(SERVER)]);
    let mut try_open = |index, address: &str| {
        driver.open_port(relay(index), RelayedAddr(addr(address)));
        match events(&mut driver)[..] {
            [Event::PortOpened(name)] => Ok(name),
            [Event::PortFailed(name, error)] => Err((name, error)),
            ref other => panic!("{other:?}"),
        }
    };
    network.occupy(addr("192.0.2.1:50000"));
    assert_eq!(try_open(0, "192.0.2.1:50000"), Err((relay(0), PortError::InUse)));
    network.release(addr("192.0.2.1:50000"));
    assert_eq!(try_open(0, "192.0.2.1:50000"), Ok(relay(0)));
    assert_eq!(try_open(1, "192.0.2.1:50000"), Err((relay(1), PortError::InUse)));
    assert_eq!(try_open(1, SERVER), Err((relay(1), PortError::InUse)));
    network.fail_ports_after(1);
    assert_eq!(try_open(1, "192.0.2.1:50001"), Ok(relay(1)));
    assert_eq!(try_open(2, "192.0.2.1:50002"), Err((relay(2), PortError::Exhausted)));
    assert_eq!(network.open_ports(), 2);
}

#[test]
fn a_closed_port_is_free_again_and_its_old_name_means_nothing() {
    let network = SimNetwork::new(11, Impairment::NONE);
    let mut driver = network.driver(0, &[addr(SERVER)]);
    let peer = network.endpoint(addr("203.0.113.1:2000"));
    open(&mut driver, relay(0), "192.0.2.1:50000");
    driver.transmit(Egress::Relay(relay(0)), peer.address(), b"last", 0, false);
    driver.close_port(relay(0));
    assert!(matches!(events(&mut driver)[..], [Event::PortClosed(name)] if name == relay(0)));
    assert_eq!(peer.recv().map(|(_, bytes, _)| bytes), Some(b"last".to_vec()), "queued before the end");

    open(&mut driver, RelaySocket { index: 0, generation: 2 }, "192.0.2.1:50000");
    driver.transmit(Egress::Relay(relay(0)), peer.address(), b"stale", 0, false);
    driver.close_port(relay(0));
    assert!(events(&mut driver).is_empty());
    assert_eq!(driver.counters().send_failed, 1);
    assert_eq!(driver.open_ports(), 1);
    assert!(peer.recv().is_none());
    drop(driver);
    assert_eq!(network.open_ports(), 0, "sockets go with their driver");
}

#[test]
fn an_address_that_nobody_holds_answers_with_icmp() {
    let network = SimNetwork::new(12, Impairment::NONE);
    let mut driver = network.driver(0, &[addr(SERVER)]);
    open(&mut driver, relay(0), "192.0.2.1:50000");
    open(&mut driver, relay(1), "[2001:db8::1]:50000");
    let nobody_v6 = addr("[2001:db8::9]:9");
    driver.transmit(Egress::Relay(relay(0)), addr("203.0.113.9:9"), b"x", 0, false);
    driver.transmit(Egress::Relay(relay(1)), nobody_v6, b"x", 0, false);
    let seen = events(&mut driver);
    assert!(matches!(seen[0], Event::Icmp { relay: of, peer, icmp_type: 3, icmp_code: 3, data: 0 }
            if of == relay(0) && peer == addr("203.0.113.9:9")));
    assert!(matches!(seen[1], Event::Icmp { relay: of, peer, icmp_type: 1, icmp_code: 4, data: 0 }
            if of == relay(1) && peer == nobody_v6));
    network.set_port_unreachable(false);
    driver.transmit(Egress::Relay(relay(0)), addr("203.0.113.9:9"), b"x", 0, false);
    assert!(events(&mut driver).is_empty());
    assert_eq!(network.counters().unreachable, 3);
}

#[test]
fn a_waker_reaches_the_next_turn_once() {
    let network = SimNetwork::new(13, Impairment::NONE);
    let mut driver = network.driver(0, &[addr(SERVER)]);
    let waker = driver.waker();
    let woken = std::thread::spawn(move || {
        waker.wake();
        waker.wake();
    });
    woken.join().expect("the thread ends");
    assert_eq!(network.next_due(), Some(network.now().mono_ns), "the worker has something to do");
    assert!(matches!(events(&mut driver)[..], [Event::Woken]));
    assert!(events(&mut driver).is_empty());
    assert_eq!(network.next_due(), None);
}

#[test]
fn what_no_socket_could_send_is_counted() {
    let network = SimNetwork::new(14, Impairment::NONE);
    let mut driver = network.driver(0, &[addr(SERVER)]);
    let egress = Egress::Client { socket: ClientSocket::listener(0), source: addr(SERVER) };
    driver.transmit(egress, addr("198.51.100.1:1000"), &[0; 65_508], 0, false);
    driver.transmit(egress, addr("[2001:db8::9]:9"), &[0; 10], 0, false);
    let unknown = Egress::Client { socket: ClientSocket::listener(5), source: addr(SERVER) };
    driver.transmit(unknown, addr("198.51.100.1:1000"), &[0; 10], 0, false);
    driver.flush();
    assert_eq!(driver.counters().send_too_large, 1);
    assert_eq!(driver.counters().send_failed, 2);
    assert_eq!(network.counters().sent, 0);
}

#[test]
fn endpoints_with_something_new_are_told_once() {
    let network = SimNetwork::new(15, Impairment::NONE);
    let client = network.endpoint(addr("198.51.100.1:1000"));
    let peer = network.endpoint(addr("203.0.113.1:2000"));
    client.send_to(peer.address(), b"x", 0);
    client.send_to(peer.address(), b"y", 0);
    assert_eq!(network.take_ready(), [peer.address()]);
    assert!(network.take_ready().is_empty());
    assert!(peer.recv().is_some());
    client.send_to(peer.address(), b"z", 0);
    assert_eq!(network.take_ready(), [peer.address()]);
}
