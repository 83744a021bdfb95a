//! Real clients at a rate, through the kernel: nothing is lost, and nearly nothing is seen by a worker.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::call::{Call, pattern};
use super::lab::{Lab, PEER_V4, PEER_V6, RELAY_V4, RELAY_V6};
use super::process::Process;
use super::server::{PASSWORD, SERVER, Server, USER, lab, settle};
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
