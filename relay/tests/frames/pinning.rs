//! Clients stay on their worker, on loopback; they are placed where userspace says they are, and strangers beside them.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use socket2::{Domain, Socket, Type};
use turnpike_abi::Pinning;
use turnpike_driver::sockets::{ListenerSocket, SocketOptions, bind_listeners, bind_listeners_apart};
use turnpike_offload::pinning::{self, PinError};
use turnpike_testkit::PATIENCE;

use crate::kernel::Kernel;

const WORKERS: usize = 4;
const CLIENTS: usize = 200;
/// Two listeners of an address, a listener of every address, and the same in IPv6.
const LISTENERS: [&str; 4] = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"];

/// No sockets for strangers.
const NONE: &[UdpSocket] = &[];

/// A group of listeners with clients that send to it.
struct Crowd {
    server: SocketAddr,
    clients: Vec<UdpSocket>,
}

impl Crowd {
    fn new(server: SocketAddr) -> Crowd {
        let everywhere = server.ip().is_unspecified();
        let v6 = server.is_ipv6();
        let loopback = if v6 { "::1" } else { "127.0.0.1" };
        let server = if everywhere {
            SocketAddr::new(loopback.parse().expect("a literal"), server.port())
        } else {
            server
        };
        let client = |_| UdpSocket::bind(SocketAddr::new(server.ip(), 0)).expect("a free port");
        Crowd { server, clients: (0..CLIENTS).map(client).collect() }
    }

    /// Sends a datagram of each client; which of the sockets got it?
    fn places(&self, sockets: &[UdpSocket]) -> Vec<usize> {
        for client in &self.clients {
            client.send_to(b"x", self.server).expect("loopback takes it");
        }
        // Sending on loopback delivers before it returns.
        let mut places = vec![usize::MAX; self.clients.len()];
        for (place, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true).expect("it can be set");
            loop {
                match socket.recv_from(&mut [0; 16]) {
                    Ok((_, from)) => places[self.number(from)] = place,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(!places.contains(&usize::MAX), "a datagram was lost: {places:?}");
        places
    }

    fn number(&self, from: SocketAddr) -> usize {
        let is_it = |client: &UdpSocket| client.local_addr().expect("it is bound") == from;
        self.clients.iter().position(is_it).expect("a client of ours")
    }

    /// Where they have to be.
    fn slots(&self, pinning: Pinning) -> Vec<usize> {
        let slot = |client: &UdpSocket| {
            let client = client.local_addr().expect("it is bound");
            let ([a, b], [c, d]) = (client.port().to_be_bytes(), self.server.port().to_be_bytes());
            let ports = u32::from_ne_bytes([a, b, c, d]);
            pinning.pin(client.ip().into(), self.server.ip().into(), ports).slot as usize
        };
        self.clients.iter().map(slot).collect()
    }
}

fn group(address: &str) -> Vec<ListenerSocket> {
    let address = address.parse().expect("a literal");
    bind_listeners(address, WORKERS, &SocketOptions::default()).expect("a free port")
}

/// Other handles of the same sockets, which can receive.
fn receivers(group: &[ListenerSocket]) -> Vec<UdpSocket> {
    use std::os::fd::AsFd;
    let receiver =
        |socket: &ListenerSocket| socket.as_fd().try_clone_to_owned().expect("a descriptor").into();
    group.iter().map(receiver).collect()
}

/// A socket that joins a group from outside.
fn newcomer(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("Linux has it");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("Linux has it");
    }
    socket.bind(&address.into()).expect("the group lets it in");
    socket.into()
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn clients_stay_on_their_worker_when_sockets_come_and_go() {
    if Kernel::new().is_none() {
        return;
    }
    for address in LISTENERS {
        let group = group(address);
        let local = group[0].local_addr();
        let crowd = Crowd::new(local);
        let mut sockets = receivers(&group);
        let slots = crowd.slots(pinning::pin(&group, NONE).unwrap().pinning());
        drop(group);
        assert!((0..WORKERS).all(|slot| slots.contains(&slot)), "all workers have clients: {slots:?}");
        assert_eq!(crowd.places(&sockets), slots, "{address}");

        // A stranger joins, and gets nobody.
        sockets.push(newcomer(local));
        assert_eq!(crowd.places(&sockets), slots, "{address}, a socket more");

        // A worker's socket is closed: its clients go elsewhere, the others stay.
        drop(sockets.remove(1));
        let moved = crowd.places(&sockets);
        for (client, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot != 1) {
            // The closed one no longer counts.
            let place = if slot > 1 { slot - 1 } else { slot };
            assert_eq!(moved[client], place, "{address}, client {client} of slot {slot}");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn a_restart_finds_clients_where_they_were() {
    if Kernel::new().is_none() {
        return;
    }
    let first = group("127.0.0.1:0");
    let local = first[0].local_addr();
    let crowd = Crowd::new(local);
    pinning::pin(&first, NONE).unwrap();
    let before = crowd.places(&receivers(&first));
    drop(first);
    let second = bind_listeners(local, WORKERS, &SocketOptions::default()).unwrap();
    pinning::pin(&second, NONE).unwrap();
    assert_eq!(crowd.places(&receivers(&second)), before);
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn strangers_have_sockets_of_their_own_until_they_are_known() {
    if Kernel::new().is_none() {
        return;
    }
    for address in LISTENERS {
        let local = address.parse().expect("a literal");
        let group = bind_listeners_apart(local, WORKERS, &SocketOptions::default()).expect("a free port");
        let crowd = Crowd::new(group[0].local_addr());
        let strangers: Vec<_> = group.iter().filter_map(ListenerSocket::strangers).collect();
        let owned = |fd: &BorrowedFd<'_>| UdpSocket::from(fd.try_clone_to_owned().expect("a descriptor"));
        let mut sockets = receivers(&group);
        sockets.extend(strangers.iter().map(owned));
        let pinned = pinning::pin(&group, &strangers).unwrap();
        let slots = crowd.slots(pinned.pinning());
        let apart: Vec<usize> = slots.iter().map(|slot| slot + WORKERS).collect();
        assert_eq!(crowd.places(&sockets), apart, "{address}: nobody is known yet");
        let known: Vec<SocketAddr> =
            crowd.clients.iter().step_by(2).map(|client| client.local_addr().expect("it is bound")).collect();
        // Twice: one of two allocations that came one after the other goes.
        known.iter().for_each(|client| pinned.enter(*client, crowd.server));
        known.iter().for_each(|client| pinned.enter(*client, crowd.server));
        known.iter().for_each(|client| pinned.leave(*client, crowd.server));
        let places = crowd.places(&sockets);
        let is_right = |(number, place): (usize, &usize)| {
            *place == if number.is_multiple_of(2) { slots[number] } else { apart[number] }
        };
        let wrong = places.iter().enumerate().filter(|it| !is_right(*it)).count();
        // A stranger shares a bucket with one who is known once in ten thousand times.
        assert!(wrong <= 2, "{address}: {wrong} are in the wrong place");
        let pairs = places.iter().zip(&slots).enumerate();
        assert!(pairs.filter(|(number, _)| number.is_multiple_of(2)).all(|(_, (place, slot))| place == slot));
        known.iter().for_each(|client| pinned.leave(*client, crowd.server));
        assert_eq!(crowd.places(&sockets), apart, "{address}: nobody is known any more");
    }
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn without_the_privilege_the_kernel_goes_on_choosing() {
    if Kernel::new().is_none() {
        return;
    }
    let group = group("127.0.0.1:0");
    // Capabilities belong to a thread.
    let refused = std::thread::scope(|scope| {
        let unprivileged = scope.spawn(|| {
            let mut held = capabilities(None).expect("they can be read");
            held.effective -= CapabilitySet::BPF | CapabilitySet::SYS_ADMIN;
            set_capabilities(None, held).expect("fewer are always allowed");
            pinning::pin(&group, NONE).map(drop)
        });
        unprivileged.join().expect("no panic")
    });
    let refused = refused.expect_err("it has no right to");
    assert!(matches!(refused, PinError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("CAP_BPF"), "{refused}");
    let crowd = Crowd::new(group[0].local_addr());
    let sockets = receivers(&group);
    let places = crowd.places(&sockets);
    assert!((0..WORKERS).all(|worker| places.contains(&worker)), "{places:?}");
    assert_eq!(crowd.places(&sockets), places);
    // What is no group is no reason to fall over.
    let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
    alone.set_read_timeout(Some(PATIENCE)).unwrap();
    pinning::pin(&[&alone], NONE).unwrap_err();
    alone.send_to(b"x", alone.local_addr().unwrap()).unwrap();
    assert_eq!(alone.recv(&mut [0; 16]).unwrap(), 1);
}
