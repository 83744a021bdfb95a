//! What goes through the kernel arrives unharmed; what doesn't, goes through userspace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use turnpike_proto::wire::{Message, attr};

use super::call::{Call, pattern};
use super::lab::{Lab, RELAY_V4};
use super::server::{SERVER, SERVER_V6, Server, lab, run};
use super::talker::peer_socket;

/// Payloads: none, odd, one that would be padded, and the largest that fits into every link.
const SIZES: [usize; 9] = [0, 1, 3, 4, 5, 170, 1199, 1200, 1420];

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn all_families_carry_all_sizes_in_the_kernel() {
    let Some(lab) = lab("all_families_carry_all_sizes_in_the_kernel") else { return };
    let server = Server::start(&lab, &[]);
    let mut calls = Vec::new();
    for (listener, peer_v6) in [(SERVER, false), (SERVER, true), (SERVER_V6, false), (SERVER_V6, true)] {
        calls.push(Call::new(&lab, listener, peer_v6));
    }
    server.wait_for_routes(8);
    for call in &calls {
        SIZES.iter().for_each(|size| call.assert_carries(&pattern(*size)));
    }
    let all = (calls.len() * SIZES.len()) as u64;
    server.stop().assert_forwarded(all, all);
}

/// RFC 8656 s. 12.5: padding is not forwarded, even if it isn't zero.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn padding_stays_behind() {
    let Some(lab) = lab("padding_stays_behind") else { return };
    let server = Server::start(&lab, &[]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    for padding in [&[0, 0, 0][..], &[0], &[1, 2, 3]] {
        call.talker.say(&[&[0x40, 0, 0, 5][..], b"hello", padding].concat());
        assert_eq!(call.peer_hears().as_deref(), Some(&b"hello"[..]), "{padding:?}");
    }
    let frames = server.stop();
    frames.assert_forwarded(2, 0);
    assert_eq!(frames.count("pass_padding"), 1);
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn what_is_too_large_is_fragmented_by_userspace() {
    let Some(lab) = lab("what_is_too_large_is_fragmented_by_userspace") else { return };
    let server = Server::start(&lab, &[]);
    let same = Call::new(&lab, SERVER, false);
    let wider = Call::new(&lab, SERVER, true);
    server.wait_for_routes(4);
    // 1472 bytes fill the peer's link; four more don't fit into the client's.
    let full = pattern(1472);
    assert_eq!(same.to_client(&full), Some(full));
    // The IPv6 header is longer than the IPv4 one that it came with.
    let full = pattern(1468);
    assert_eq!(wider.to_peer(&full), Some(full));
    let frames = server.stop();
    assert_eq!(frames.count("pass_mtu"), 2);
    assert_eq!(frames.lost(), 0);
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn other_traffic_is_left_alone() {
    let Some(lab) = lab("other_traffic_is_left_alone") else { return };
    let server = Server::start(&lab, &[]);
    let mut call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    let peer = call.peer.local_addr().expect("it is bound");
    // Indications both ways: the second peer has no channel.
    let other = peer_socket(&lab.peer, peer.ip());
    call.talker.send_indication(other.local_addr().expect("it is bound"), b"indication");
    let mut buffer = [0; 64];
    let (length, from) = other.recv_from(&mut buffer).expect("it arrives");
    assert_eq!((&buffer[..length], from), (&b"indication"[..], call.relayed));
    other.send_to(b"answer", call.relayed).expect("there is a route");
    let heard = call.client_hears().expect("it arrives");
    let data = Message::parse(&heard).expect("a Data indication").attribute(attr::DATA).map(<[u8]>::to_vec);
    assert_eq!(data.as_deref(), Some(&b"answer"[..]));
    other_sockets(&lab);
    assert!(run(&lab.client, "ip -s neigh show").contains("10.77.1.2"), "ARP works");
    call.assert_carries(b"still there");
    let frames = server.stop();
    frames.assert_forwarded(1, 1);
    assert!(frames.count("pass_not_channel") > 0 && frames.count("pass_not_udp") > 0);
}

/// TCP and UDP to other services of the relay's host.
fn other_sockets(lab: &Lab) {
    let address = SocketAddr::new(RELAY_V4, 7777);
    let (tcp, udp) = lab.relay.enter(|| (TcpListener::bind(address), UdpSocket::bind(address)));
    let (tcp, udp) = (tcp.expect("a port is free"), udp.expect("a port is free"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = tcp.accept().expect("somebody connects");
            let mut bytes = vec![0; 100_000];
            stream.read_exact(&mut bytes).expect("all of it");
            stream.write_all(&bytes).expect("all of it");
        });
        let mut stream = lab.client.enter(|| TcpStream::connect(address)).expect("it is accepted");
        let sent = pattern(100_000);
        stream.write_all(&sent).expect("all of it");
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).expect("all of it");
        assert_eq!(back, sent);
    });
    let client = lab.client.enter(|| UdpSocket::bind("10.77.1.10:0")).expect("a port is free");
    client.send_to(b"hello", address).expect("there is a route");
    let mut buffer = [0; 16];
    let (length, _) = udp.recv_from(&mut buffer).expect("it arrives");
    assert_eq!(&buffer[..length], b"hello");
}
