//! Listeners with a second socket, for strangers. Without a program the kernel chooses between both by its own hash, so
//! some clients are strangers here.

use super::*;
use crate::limits::STRANGER_DATAGRAMS;
use crate::sockets::bind_listeners_apart;

on_both!(
    strangers_are_read_last_and_a_bounded_number_of_them,
    what_strangers_lose_is_counted_apart_and_costs_nobody_else_anything,
    strangers_are_answered_from_the_same_address,
);

fn apart<D: Rig>(listen: &str, options: SocketOptions) -> (D, SocketAddr) {
    let group = bind_listeners_apart(addr(listen), 1, &options).expect("a free port");
    let local = group[0].local_addr();
    (D::make(group, options).expect("a driver"), local)
}

/// A client that the kernel takes for a stranger, and one that it doesn't.
fn one_of_each<D: Rig>(driver: &mut D, server: SocketAddr) -> (UdpSocket, UdpSocket) {
    let mut found = [None, None];
    let deadline = Instant::now() + PATIENCE;
    while found.iter().any(Option::is_none) {
        assert!(Instant::now() < deadline, "the kernel's hash uses both sockets");
        let client = client(V4);
        client.send_to(b"who am I?", server).expect("sent");
        let is_strangers = await_datagram(driver).is_strangers;
        found[usize::from(!is_strangers)] = Some(client);
    }
    let [stranger, known] = found.map(|client| client.expect("found"));
    (stranger, known)
}

fn datagrams_in(events: &[Event]) -> Vec<Datagram> {
    let datagram = |event: &Event| match event {
        Event::Datagram(datagram) => Some(*datagram),
        _ => None,
    };
    events.iter().filter_map(datagram).collect()
}

fn strangers_are_read_last_and_a_bounded_number_of_them<D: Rig>() {
    const SENT: usize = 3 * STRANGER_DATAGRAMS;
    let (mut driver, server) = apart::<D>(V4, SocketOptions::default());
    let (stranger, known) = one_of_each(&mut driver, server);
    for number in 0..SENT {
        stranger.send_to(b"stranger", server).expect("sent");
        if number < 10 {
            known.send_to(b"known", server).expect("sent");
        }
    }
    let (mut of_strangers, mut of_known) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while (of_strangers, of_known) != (SENT, 10) {
        assert!(Instant::now() < deadline, "{of_strangers} and {of_known} came");
        let datagrams = datagrams_in(&turn(&mut driver, SILENCE));
        let first = datagrams.iter().position(|datagram| datagram.is_strangers).unwrap_or(datagrams.len());
        let (before, after) = datagrams.split_at(first);
        assert!(after.iter().all(|datagram| datagram.is_strangers), "strangers come last");
        assert!(after.len() <= STRANGER_DATAGRAMS, "{} in one turn", after.len());
        of_known += before.len();
        of_strangers += after.len();
    }
    assert_eq!(driver.counters(), DriverCounters::default());
}

fn what_strangers_lose_is_counted_apart_and_costs_nobody_else_anything<D: Rig>() {
    const SENT: usize = 500;
    let options = SocketOptions { stranger_receive_bytes: 16 << 10, ..SocketOptions::default() };
    let (mut driver, server) = apart::<D>(V4, options);
    let (stranger, known) = one_of_each(&mut driver, server);
    for number in 0..SENT {
        stranger.send_to(&[1; 1000], server).expect("sent");
        if number.is_multiple_of(10) {
            known.send_to(b"known", server).expect("sent");
        }
    }
    let (mut of_strangers, mut of_known, mut sent) = (0, 0, SENT);
    let deadline = Instant::now() + PATIENCE;
    while of_known < SENT / 10 || of_strangers as u64 + driver.counters().stranger_overflow < sent as u64 {
        assert!(Instant::now() < deadline, "{of_strangers} and {of_known} came: {:?}", driver.counters());
        let datagrams = datagrams_in(&turn(&mut driver, SILENCE));
        if datagrams.is_empty() {
            // The next one tells what was lost before it.
            stranger.send_to(b"and now?", server).expect("sent");
            sent += 1;
        }
        for datagram in datagrams {
            if datagram.is_strangers { of_strangers += 1 } else { of_known += 1 }
        }
    }
    let counters = driver.counters();
    assert!(counters.stranger_overflow > 0, "so many don't fit");
    assert_eq!(DriverCounters { stranger_overflow: 0, ..counters }, DriverCounters::default());
}

fn strangers_are_answered_from_the_same_address<D: Rig>() {
    for listen in [V4, "0.0.0.0:0"] {
        let (mut driver, server) = apart::<D>(listen, SocketOptions::default());
        let server = SocketAddr::new(addr(V4).ip(), server.port());
        let (stranger, _) = one_of_each(&mut driver, server);
        stranger.send_to(b"hello", server).expect("sent");
        echo(&mut driver, 1);
        let mut buffer = [0; 16];
        assert_eq!(stranger.recv_from(&mut buffer).expect("an echo"), (5, server));
    }
}
