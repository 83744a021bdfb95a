//! Clients and peers behind a router, all on one interface of the relay.
//!
//! ```text
//!   client ns                  peer ns                   relay ns
//!   10.77.1.10 ──── veth ──── 10.77.1.1    the router
//!   fd77:1::10                fd77:1::1
//!                             10.77.3.1 (lo)
//!                             10.77.2.10 ──── veth ──── 10.77.2.2
//!                             fd77:2::10                fd77:2::2, 10.77.1.2 (lo)
//! ```

use std::time::Duration;

use turnpike_testkit::eventually;

use super::call::{Call, pattern};
use super::lab::{CLIENT_V6, Lab};
use super::server::{SERVER, Server, lab, run};
use super::talker::peer_socket;

/// The peer's namespace becomes the router, and the client moves behind it.
fn behind_a_router(test: &str) -> Option<Lab> {
    let lab = lab(test)?;
    run(&lab.relay, "ip link del client0");
    for line in [
        "ip address add 10.77.1.2/32 dev lo",
        "ip address add fd77:1::2/128 dev lo",
        "ip route add 10.77.1.0/24 via 10.77.2.10 mtu 1400",
        "ip route add 10.77.3.0/24 via 10.77.2.10",
        "ip route add fd77:1::10/128 via fd77:2::10",
    ] {
        run(&lab.relay, line);
    }
    run(&lab.client, &format!("ip link add relay0 type veth peer name client0 netns {}", lab.peer.name()));
    for line in [
        "ip address add 10.77.1.10/24 dev relay0",
        "ip address add fd77:1::10/64 dev relay0 nodad",
        "ip link set relay0 addrgenmode none",
        "ip address add fe80::10/64 dev relay0 nodad",
        "ip link set relay0 up",
        "ethtool -K relay0 tx off",
        "ip route add 10.77.1.2/32 via 10.77.1.1",
        "ip route add fd77:2::/64 via fd77:1::1",
    ] {
        run(&lab.client, line);
    }
    for line in [
        "ip address add 10.77.1.1/24 dev client0",
        "ip address add fd77:1::1/64 dev client0 nodad",
        "ip link set client0 addrgenmode none",
        "ip address add fe80::1/64 dev client0 nodad",
        "ip link set client0 up",
        "ip address add 10.77.3.1/32 dev lo",
        "ip route add 10.77.1.2/32 via 10.77.2.2",
        "sysctl -qw net.ipv4.ip_forward=1",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
    ] {
        run(&lab.peer, line);
    }
    for namespace in [&lab.client, &lab.relay, &lab.peer] {
        namespace.settle().expect("the kernel makes it so");
    }
    Some(lab)
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn one_interface_carries_both_sides() {
    let Some(lab) = behind_a_router("one_interface_carries_both_sides") else { return };
    let server = Server::start_on(&lab, &["--offload=require", "--offload-interface=peer0"]);
    let call = Call::with_peer(&lab, SERVER, "10.77.3.1".parse().expect("an address"));
    server.wait_for_routes(2);
    for size in [0, 5, 170, 1200] {
        call.assert_carries(&pattern(size));
    }
    // The route to the clients takes 1400 bytes: 20 and 8 for the headers, 4 for the channel.
    call.assert_carries(&pattern(1368));
    call.assert_carries(&pattern(1369));
    let frames = server.stop();
    frames.assert_forwarded(6, 5);
    assert_eq!(frames.count("pass_mtu"), 1);
}

/// RFC 8201: a router on the way says that it takes less. The kernel forwards no more of what is larger.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_smaller_path_mtu_is_noticed() {
    let Some(lab) = behind_a_router("a_smaller_path_mtu_is_noticed") else { return };
    run(&lab.peer, "ip route change fd77:1::/64 dev client0 proto kernel metric 256 mtu 1280");
    let server = Server::start_on(&lab, &["--offload=require", "--offload-interface=peer0"]);
    let peer = peer_socket(&lab.client, CLIENT_V6);
    let call = Call::with_socket(&lab, SERVER, peer);
    server.wait_for_routes(2);
    call.assert_carries(b"small enough");
    // The first one is lost, as on any path.
    call.peer_is_patient_for(Duration::from_millis(200));
    let large = pattern(1300);
    assert!(eventually(|| call.to_peer(&large)).as_ref() == Some(&large), "in fragments, by userspace");
    // The client hears of it, too: RFC 8656 s. 11.6.
    let small = eventually(|| call.to_peer(b"small enough").filter(|heard| heard != &large));
    assert_eq!(small.as_deref(), Some(&b"small enough"[..]));
    let frames = server.stop();
    frames.assert_forwarded(2, 1);
    assert!(frames.count("pass_mtu") > 0);
}
