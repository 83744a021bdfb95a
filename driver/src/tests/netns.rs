//! What needs an own network namespace: another MTU, raw sockets, link-local addresses, and
//! counters that nobody else touches. Each test makes one for its thread; it goes with the thread.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use socket2::{Domain, Protocol, Type};

use turnpike_testkit::in_own_namespace;

use super::*;
use crate::sockets::lost_datagrams;

on_both!(
    df_is_set_on_the_wire_for_one_datagram_only,
    a_late_too_big_error_is_reported_with_its_mtu,
    link_local_addresses_keep_their_zone,
    under_a_flood_every_datagram_is_accounted_for,
    a_listener_hears_what_arrives_once_its_address_is_there,
);

/// Runs `ip`; a child is in the namespace of the thread that starts it.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

// RFC 8656 s. 14: DF only for Send with DONT-FRAGMENT, and then it really is set.
fn df_is_set_on_the_wire_for_one_datagram_only<D: Rig>() {
    in_own_namespace(|| {
        let (mut driver, _) = driver::<D>(V4);
        let relayed = open(&mut driver, relay(0), V4);
        let peer = client(V4);
        let wire = raw(Protocol::UDP);
        let sizes = [(100, false), (200, true), (300, false), (3000, true), (4000, false)];
        for (size, dont_fragment) in sizes {
            driver.transmit(Egress::Relay(relay(0)), local(&peer), &vec![0; size], 0x2e, dont_fragment);
        }
        driver.flush();
        // Over the MTU, with DF: refused. Without: in fragments, of which the peer sees nothing.
        assert_eq!(driver.counters(), DriverCounters { send_too_large: 1, ..DriverCounters::default() });
        for (size, dont_fragment) in [(100, false), (200, true), (300, false)] {
            let (header, len) = next_packet_from(&wire, relayed.port());
            assert_eq!(len, 20 + 8 + size);
            assert_eq!(header[6] & 0x40 != 0, dont_fragment, "DF of {size}");
            assert_eq!(header[1], 0x2e, "TOS of {size}");
        }
        let mut buffer = vec![0; 5000];
        let received: Vec<usize> = (0..4).map(|_| peer.recv(&mut buffer).expect("it arrives")).collect();
        assert_eq!(received, [100, 200, 300, 4000]);
    });
}

fn a_listener_hears_what_arrives_once_its_address_is_there<D: Rig>() {
    in_own_namespace(|| {
        for (listen, any, own) in
            [("192.0.2.1:3478", V4, "192.0.2.1/32"), ("[2001:db8::1]:3478", "[::]:0", "2001:db8::1/128")]
        {
            let (mut driver, server) = driver::<D>(listen);
            ip(&format!("addr add {own} dev lo nodad"));
            // `ip` returns before an IPv6 address is local: the kernel enters that route in its own
            // time, and drops what arrives until then.
            let client = client(any);
            let deadline = Instant::now() + PATIENCE;
            let mut heard = Vec::new();
            while heard.is_empty() && Instant::now() < deadline {
                // Refused as long as no route leads there.
                let _ = client.send_to(b"hello", server);
                heard = datagrams(&mut driver, 1, SILENCE);
            }
            assert_eq!(heard.first(), Some(&(5, false)), "{listen}");
        }
    });
}

fn raw(protocol: Protocol) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).expect("root in the namespace");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// The IP header and total length of the next UDP packet with that source port.
fn next_packet_from(wire: &Socket, port: u16) -> ([u8; 20], usize) {
    use std::io::Read;
    let mut packet = [0; 5000];
    loop {
        let len = (&*wire).read(&mut packet).expect("a packet");
        if packet[20..22] == port.to_be_bytes() {
            return (packet[..20].try_into().expect("twenty bytes"), len);
        }
    }
}

// RFC 8656 s. 11.5: the answer to a datagram with DF comes when the socket sends without again.
fn a_late_too_big_error_is_reported_with_its_mtu<D: Rig>() {
    in_own_namespace(|| {
        let (mut driver, _) = driver::<D>(V4);
        let relayed = open(&mut driver, relay(0), V4);
        let peer = client(V4);
        driver.transmit(Egress::Relay(relay(0)), local(&peer), &[0; 1400], 0, true);
        driver.flush();
        let error = fragmentation_needed(relayed, local(&peer), 1300);
        raw(Protocol::ICMPV4).send_to(&error, &addr("127.0.0.1:0").into()).expect("sent");
        let seen = await_event(&mut driver, |_, event| match *event {
            Event::Icmp { relay, peer, icmp_type, icmp_code, data } => {
                Some((relay, peer, icmp_type, icmp_code, data))
            }
            _ => None,
        });
        assert_eq!(seen, (relay(0), local(&peer), 3, 4, 1300));
        driver.transmit(Egress::Relay(relay(0)), local(&peer), &[0; 1400], 0, false);
        driver.flush();
        assert_eq!(driver.counters(), DriverCounters::default(), "the socket is as good as before");
    });
}

/// RFC 792, RFC 1191 s. 4: quotes the IP and UDP headers of what did not fit.
fn fragmentation_needed(from: SocketAddr, to: SocketAddr, mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    // IPv4, 5 words, 1428 bytes, DF, TTL 64, UDP, checksum (not looked at), both addresses.
    message.extend([0x45, 0, 0x05, 0x94, 0, 1, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    message.extend(from.port().to_be_bytes());
    message.extend(to.port().to_be_bytes());
    message.extend([0x05, 0x80, 0, 0]);
    let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes());
    message
}

// RFC 4007 s. 6: a link-local address means nothing without its zone.
fn link_local_addresses_keep_their_zone<D: Rig>() {
    in_own_namespace(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        ip("-6 addr add fe80::1/64 dev v0 nodad");
        ip("-6 addr add fe80::2/64 dev v0 nodad");
        let zone = interface_index("v0");
        let (mut driver, wildcard) = driver::<D>("[::]:0");
        let client = client(&format!("[fe80::1%{zone}]:0"));
        let asked = addr(&format!("[fe80::2%{zone}]:{}", wildcard.port()));
        // The link comes up in its own time; until then the addresses are not yet local.
        let mut events = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while events.is_empty() && Instant::now() < deadline {
            let _ = client.send_to(b"x", asked);
            events = turn(&mut driver, SILENCE);
        }
        let Some(&Event::Datagram(datagram)) = events.first() else { panic!("{events:?}") };
        assert_eq!(datagram.from, local(&client));
        assert_eq!(datagram.ingress, Ingress::Client { socket: ClientSocket::listener(0), server: asked });
        driver.forward(&datagram, 0, &echo_of(&datagram));
        driver.flush();
        assert_eq!(client.recv_from(&mut [0; 10]).expect("an answer").1, asked);
    });
}

fn interface_index(name: &str) -> u32 {
    let listing =
        Command::new("ip").args(["-o", "link", "show", name]).output().expect("iproute2 is installed");
    let text = String::from_utf8_lossy(&listing.stdout).into_owned();
    text.split(':').next().and_then(|index| index.parse().ok()).expect("an index at the start")
}

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(1);
const FLOODERS: usize = 2;

fn under_a_flood_every_datagram_is_accounted_for<D: Rig>() {
    in_own_namespace(|| {
        // Unmerged, so that each datagram that finds no room is counted by itself.
        let options = SocketOptions { merge: false, ..SocketOptions::default() };
        let (near, far) = (bind(&options), bind(&options));
        let (server, to) = (near.local_addr(), far.local_addr());
        let watched = [near.as_fd(), far.as_fd()].map(|fd| fd.try_clone_to_owned().expect("a descriptor"));
        let mut driver = D::make(vec![near], options).expect("a driver");
        let mut sink = D::make(vec![far], options).expect("a driver");
        (0..8).for_each(|index| {
            open(&mut driver, relay(index), V4);
        });
        let stop = Arc::new(AtomicBool::new(false));
        let flooded = Arc::new(AtomicU64::new(0));
        let flooders: Vec<_> = (0..FLOODERS)
            .map(|_| {
                let (client, stop, flooded) = (client(V4), stop.clone(), flooded.clone());
                thread::spawn(move || flood(&client, server, &stop, &flooded))
            })
            .collect();
        let (mut received, mut sunk) = (0, 0);
        let until = Instant::now() + FLOOD;
        loop {
            let events = relay_on(&mut driver, to, &mut received);
            sunk += datagrams_of(&turn(&mut sink, Duration::ZERO));
            stop.store(received > 1000 && Instant::now() > until, Ordering::Relaxed);
            if events == 0 && flooders.iter().all(|flooder| flooder.is_finished()) {
                break;
            }
        }
        flooders.into_iter().for_each(|flooder| flooder.join().expect("a flooder ends"));

        let flooded = flooded.load(Ordering::Relaxed);
        let lost = || watched.each_ref().map(|socket| lost_datagrams(socket.as_fd()).expect("Linux 4.12"));
        let [mut lost_before, mut lost_behind] = lost().map(u64::from);
        // What is still under way.
        let deadline = Instant::now() + PATIENCE;
        while (received + lost_before < flooded || sunk + lost_behind < received) && Instant::now() < deadline
        {
            relay_on(&mut driver, to, &mut received);
            sunk += datagrams_of(&turn(&mut sink, SILENCE));
            [lost_before, lost_behind] = lost().map(u64::from);
        }
        assert_eq!(received + lost_before, flooded, "each datagram was received, or found a full buffer");
        assert_eq!(sunk + lost_behind, received, "each datagram received was sent on");
        let counters = driver.counters();
        assert_eq!((counters.send_failed, counters.send_too_large), (0, 0));
        assert!(counters.socket_overflow <= lost_before);
    });
}

fn bind(options: &SocketOptions) -> ListenerSocket {
    bind_listener(addr(V4), options).expect("a free port")
}

fn flood(client: &UdpSocket, to: SocketAddr, stop: &AtomicBool, flooded: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        for size in [0, 1, 100, 1200] {
            flooded.fetch_add(u64::from(client.send_to(&[9; 1200][..size], to).is_ok()), Ordering::Relaxed);
        }
    }
}

/// Sends on whatever arrived, over one relay socket after the other; returns how many events there were.
fn relay_on(driver: &mut impl Rig, to: SocketAddr, received: &mut u64) -> usize {
    let events = turn(driver, Duration::from_millis(10));
    for event in &events {
        if let Event::Datagram(datagram) = event {
            let egress = Egress::Relay(relay((*received % 8) as u32));
            driver.forward(datagram, 0, &Transmit { egress, to, ..echo_of(datagram) });
            *received += 1;
        }
    }
    driver.flush();
    events.len()
}

fn datagrams_of(events: &[Event]) -> u64 {
    events.iter().filter(|event| matches!(event, Event::Datagram(_))).count() as u64
}
