//! Real clients at a rate, through the kernel: nothing is lost, and nearly nothing is seen by a worker.

use std::net::IpAddr;
use std::path::Path;

use super::lab::{Lab, PEER_V4, PEER_V6, RELAY_V4, RELAY_V6};
use super::process::Process;
use super::server::{PASSWORD, Server, USER, lab};
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
