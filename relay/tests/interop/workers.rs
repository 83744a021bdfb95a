//! Workers: clients whose datagrams come to another one than their Allocate did.

use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use turnpike_testkit::eventually;

use super::client::Client;
use super::lab::{Lab, Namespace, PEER_V4, RELAY_V4};
use super::relay::{Options, PORT, Relay, is_turnpike};

/// One in six comes to another worker when a third socket joins two.
const CLIENTS: usize = 48;

/// A socket that takes its part of what comes to the relay's port. The relay itself would refuse it at its
/// start; later anybody with its user id can have one.
fn stranger(relay: &Namespace) -> UdpSocket {
    let address = SocketAddr::new(RELAY_V4, PORT);
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok::<_, std::io::Error>(socket.into())
    };
    relay.enter(open).expect("the port can be shared")
}

/// Which of two sockets gets a datagram with this content.
fn arrives_at(sockets: [&UdpSocket; 2], ends_with: &[u8]) -> usize {
    let mut buffer = [0; 2048];
    // A ChannelData message may be padded.
    let mut is_there = |socket: &UdpSocket| {
        socket
            .recv(&mut buffer)
            .is_ok_and(|length| buffer[..length].windows(ends_with.len()).any(|bytes| bytes == ends_with))
    };
    let place = eventually(|| sockets.iter().position(|socket| is_there(socket)));
    place.unwrap_or_else(|| panic!("{ends_with:?} arrives nowhere"))
}

/// Without CAP_BPF the kernel chooses among the sockets that there are, by a hash: when there is one more,
/// clients come to other workers. What they send is relayed all the same, and so are their requests.
fn strays_are_handed_over(name: &str, io: &'static str) {
    let Some(lab) = Lab::new(name).filter(|_| is_turnpike(name)) else { return };
    let options = Options { io, workers: 2, ..Options::default() };
    let relay = Relay::start_without(&lab, &options, "-bpf,-sys_admin");
    let peer = lab.peer.enter(|| UdpSocket::bind((PEER_V4, 0))).expect("a port is free");
    peer.set_nonblocking(true).expect("it can be set");
    let peer_address = peer.local_addr().expect("it is bound");
    let server = SocketAddr::new(RELAY_V4, PORT);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new(&lab.client, server)).collect();
    for client in &mut clients {
        client.allocate().expect("the server agrees");
        assert!(client.bind(peer_address), "the server agrees");
    }
    let stranger = stranger(&lab.relay);
    let mut relayed = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let data = format!("client {number:03}").into_bytes();
        client.send(peer_address, &data);
        if arrives_at([&peer, &stranger], &data) == 0 {
            relayed.push(number);
        }
    }
    let taken = CLIENTS - relayed.len();
    assert!(taken > 0 && relayed.len() > CLIENTS / 4, "the stranger got {taken} of {CLIENTS}");
    // Their requests are answered by the worker that has the allocation: another one would say 437.
    for number in relayed {
        clients[number].delete();
    }
    drop(stranger);
    assert!(relay.stop().contains("the kernel spreads clients"), "no eBPF program chooses");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn strays_are_handed_over_on_io_uring() {
    strays_are_handed_over("strays_are_handed_over_on_io_uring", "io-uring");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn strays_are_handed_over_on_epoll() {
    strays_are_handed_over("strays_are_handed_over_on_epoll", "epoll");
}
