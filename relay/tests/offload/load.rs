//! Real clients at a rate, through the kernel: nothing is lost, and nearly nothing is seen by a worker.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::call::{Call, pattern};
use super::lab::{Lab, PEER_V4, PEER_V6, RELAY_V4, RELAY_V6};
use super::process::Process;
use super::server::{PASSWORD, SERVER, Server, USER, lab, run, settle};
use super::uclient::{self, LEGS, MESSAGES};

const PEER_PORT: &str = "3480";

/// Runs `turnutils_uclient` with these arguments; the kernel has to carry this share of its data, permille.
fn load(lab: &Lab, server: IpAddr, arguments: &[&str], permille: u64) {
    let relay = Server::start(lab, &[]);
    let mut echo = lab.peer.command(Path::new("turnutils_peer"));
    echo.args(["-p", PEER_PORT, "-L", &PEER_V4.to_string(), "-L", &PEER_V6.to_string()]);
    let _echo = Process::start(echo);
    uclient::assert_no_loss(lab, server, &[&["-u", USER, "-w", PASSWORD], arguments].concat());
    let all = LEGS * MESSAGES * permille / 1000;
    relay.stop().assert_forwarded(all, all);
}

/// RFC 8656 s. 12 between two relayed addresses of ours: both steps in one pass of the program.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn channels_between_clients_stay_in_the_kernel() {
    let Some(lab) = lab("channels_between_clients_stay_in_the_kernel") else { return };
    load(&lab, RELAY_V4, &["-y", "-c"], 990);
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn channels_to_a_peer_stay_in_the_kernel() {
    let Some(lab) = lab("channels_to_a_peer_stay_in_the_kernel") else { return };
    load(&lab, RELAY_V4, &["-e", &PEER_V4.to_string(), "-r", PEER_PORT, "-c"], 990);
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn ipv6_clients_stay_in_the_kernel() {
    let Some(lab) = lab("ipv6_clients_stay_in_the_kernel") else { return };
    load(&lab, RELAY_V6, &["-x", "-y", "-c"], 990);
}

/// 2000 datagrams per second, each answered: all arrive, and 99.9 % of them by the kernel.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_steady_stream_never_reaches_a_worker() {
    const DATAGRAMS: u64 = 5000;
    let Some(lab) = lab("a_steady_stream_never_reaches_a_worker") else { return };
    settle(&lab);
    let server = Server::start(&lab, &[]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    let data = pattern(200);
    let (there, back) = std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let heard = (0..DATAGRAMS).map_while(|_| call.peer_hears());
            heard.filter(|heard| call.peer.send_to(heard, call.relayed).is_ok() && *heard == data).count()
        });
        let back = scope.spawn(|| (0..DATAGRAMS).map_while(|_| call.client_hears()).count());
        let begin = Instant::now();
        for sent in 0..DATAGRAMS as u32 {
            let due = begin + Duration::from_micros(500) * sent;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            call.talker.channel_data(&data);
        }
        (there.join().expect("no panic"), back.join().expect("no panic"))
    });
    assert_eq!((there as u64, back as u64), (DATAGRAMS, DATAGRAMS));
    server.stop().assert_forwarded(DATAGRAMS * 999 / 1000, DATAGRAMS * 999 / 1000);
}

/// Clients and peers on one interface, both behind a router.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn one_interface_behind_a_router_carries_both_sides() {
    let Some(lab) = lab("one_interface_behind_a_router_carries_both_sides") else { return };
    // The peer's namespace becomes the router: the client moves behind it, and so does the peer.
    run(&lab.relay, "ip link del client0");
    for line in [
        "ip address add 10.77.1.2/32 dev lo",
        "ip address add fd77:1::2/128 dev lo",
        "ip route add 10.77.1.0/24 via 10.77.2.10 mtu 1400",
        "ip route add 10.77.3.0/24 via 10.77.2.10",
    ] {
        run(&lab.relay, line);
    }
    run(&lab.client, &format!("ip link add relay0 type veth peer name client0 netns {}", lab.peer.name()));
    for line in [
        "ip address add 10.77.1.10/24 dev relay0",
        "ip link set relay0 up",
        "ethtool -K relay0 tx off",
        "ip route add 10.77.1.2/32 via 10.77.1.1",
    ] {
        run(&lab.client, line);
    }
    for line in [
        "ip address add 10.77.1.1/24 dev client0",
        "ip link set client0 up",
        "ip address add 10.77.3.1/32 dev lo",
        "ip route add 10.77.1.2/32 via 10.77.2.2",
        "sysctl -qw net.ipv4.ip_forward=1",
    ] {
        run(&lab.peer, line);
    }
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
