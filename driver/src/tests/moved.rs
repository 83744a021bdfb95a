//! Sockets that another driver goes on with, as another process would: nothing that arrives meanwhile is lost.

use std::os::fd::OwnedFd;

use super::*;

/// The driver lets go of its sockets; gives the datagrams that it had taken by then.
fn pause(driver: &mut impl Rig) -> usize {
    driver.pause().expect("paused");
    let deadline = Instant::now() + PATIENCE;
    let mut taken = 0;
    while !driver.is_paused() {
        assert!(Instant::now() < deadline, "the kernel lets go of sockets");
        let events = turn(driver, Duration::from_millis(1));
        taken += events.iter().filter(|event| matches!(event, Event::Datagram(_))).count();
    }
    taken
}

/// Numbers of the datagrams that arrive, at most so many.
fn numbers(driver: &mut impl Rig, count: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while numbers.len() < count && Instant::now() < deadline {
        for event in turn(driver, Duration::from_millis(5)) {
            let Event::Datagram(datagram) = event else { continue };
            for segment in driver.bytes(&datagram).chunks(datagram.segment_size as usize) {
                numbers.push(u32::from_be_bytes(segment[..4].try_into().expect("a number")));
            }
        }
    }
    numbers
}

/// What another driver needs of this one's sockets.
fn copies(driver: &impl Rig) -> Vec<(SocketName, OwnedFd, u32)> {
    let copy = |held: HeldSocket<'_>| {
        (held.name, held.socket.try_clone_to_owned().expect("a descriptor"), held.lost)
    };
    driver.held_sockets().into_iter().map(copy).collect()
}

fn successor<D: Rig>(sockets: Vec<(SocketName, OwnedFd, u32)>) -> D {
    let (mut listeners, mut relays) = (Vec::new(), Vec::new());
    for (name, socket, lost) in sockets {
        match name {
            SocketName::Listener(_) => {
                listeners.push(ListenerSocket::adopt(socket, lost).expect("a listener"));
            }
            SocketName::Strangers(_) => {
                let listener = listeners.last_mut().expect("it comes first");
                listener.adopt_strangers(socket, lost).expect("a socket for strangers");
            }
            SocketName::Relay(relay) => relays.push((relay, socket, lost)),
        }
    }
    let mut driver = D::make(listeners, SocketOptions::default()).expect("a driver");
    for (relay, socket, lost) in relays {
        driver.adopt_port(relay, socket, lost).expect("a relay socket");
    }
    driver
}

fn everything_that_arrives_is_taken_by_one_of_two_drivers<D: Rig>() {
    let (mut old, listener) = driver::<D>("127.0.0.1:0");
    let name = relay(3);
    let relayed = open(&mut old, name, "127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let send = |number: u32| {
        let to = if number.is_multiple_of(2) { listener } else { relayed };
        client.send_to(&number.to_be_bytes(), to).expect("sent");
    };
    (0..10).for_each(send);
    let before = numbers(&mut old, 10);
    (10..20).for_each(send);
    let taken = pause(&mut old);
    (20..40).for_each(send);
    assert!(turn(&mut old, Duration::from_millis(20)).is_empty(), "nothing is taken out of any socket");
    let mut new = successor::<D>(copies(&old));
    drop(old);
    let mut after = numbers(&mut new, 30 - taken);
    after.sort_unstable();
    assert_eq!((before.len(), after.len()), (10, 30 - taken));
    assert!(after.ends_with(&(20..40).collect::<Vec<u32>>()), "{after:?}");
    // And back to the client, from either socket.
    client.send_to(b"echo", listener).expect("sent");
    echo(&mut new, 1);
    assert_eq!(client.recv_from(&mut [0; 16]).expect("an echo").1, listener);
}

fn a_driver_that_goes_on_after_all_has_lost_nothing<D: Rig>() {
    let (mut driver, listener) = driver::<D>("127.0.0.1:0");
    let relayed = open(&mut driver, relay(0), "127.0.0.1:0");
    let client = client("127.0.0.1:0");
    assert_eq!(pause(&mut driver), 0);
    for number in 0..6_u32 {
        let to = if number.is_multiple_of(2) { listener } else { relayed };
        client.send_to(&number.to_be_bytes(), to).expect("sent");
    }
    let late = open(&mut driver, relay(1), "127.0.0.1:0");
    client.send_to(&6u32.to_be_bytes(), late).expect("sent");
    driver.resume(true).expect("resumed");
    let mut numbers = numbers(&mut driver, 7);
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
    assert!(!driver.is_paused());
}

fn what_is_no_udp_socket_is_not_taken<D: Rig>() {
    let (mut driver, _) = driver::<D>("127.0.0.1:0");
    let stream = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    assert!(ListenerSocket::adopt(stream.try_clone().expect("a descriptor").into(), 0).is_err());
    assert!(driver.adopt_port(relay(0), stream.into(), 0).is_err());
    let held = open(&mut driver, relay(0), "127.0.0.1:0");
    assert_ne!(held.port(), 0);
    let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    assert!(driver.adopt_port(relay(0), other.into(), 0).is_err(), "the name is taken");
}

fn a_driver_without_its_listeners_goes_on_with_its_relay_sockets<D: Rig>() {
    let (mut driver, listener) = driver::<D>("127.0.0.1:0");
    let relayed = open(&mut driver, relay(0), "127.0.0.1:0");
    let client = client("127.0.0.1:0");
    pause(&mut driver);
    driver.resume(false).expect("resumed");
    client.send_to(&1u32.to_be_bytes(), listener).expect("sent");
    client.send_to(&2u32.to_be_bytes(), relayed).expect("sent");
    assert_eq!(numbers(&mut driver, 1), [2]);
    assert!(turn(&mut driver, Duration::from_millis(20)).is_empty());
}

on_both!(
    a_driver_without_its_listeners_goes_on_with_its_relay_sockets,
    everything_that_arrives_is_taken_by_one_of_two_drivers,
    a_driver_that_goes_on_after_all_has_lost_nothing,
    what_is_no_udp_socket_is_not_taken,
);
