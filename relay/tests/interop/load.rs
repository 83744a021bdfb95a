//! Twenty clients at 50 packets per second each, in every mode of `turnutils_uclient`: no loss.

use std::net::IpAddr;

use super::lab::{Lab, PEER_V4, PEER_V6, RELAY_V4, RELAY_V6};
use super::relay::{Options, PASSWORD, Relay, SECRET, USER};
use super::uclient::{self, PEER_PORT};

/// Runs the load with these arguments and the usual user.
fn load(name: &str, server: IpAddr, arguments: &[&str]) {
    let credentials = ["-u", USER, "-w", PASSWORD];
    load_with(name, &Options::default(), server, &[&credentials, arguments].concat());
}

fn load_with(name: &str, options: &Options, server: IpAddr, arguments: &[&str]) {
    let Some(lab) = Lab::new(name) else { return };
    let _echo = uclient::echo(&lab);
    let relay = Relay::start(&lab, options);
    uclient::assert_no_loss(&lab, server, arguments);
    relay.stop();
}

/// RFC 8656 s. 12: ChannelData, from one relayed address to another.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn channels_between_clients() {
    load("channels_between_clients", RELAY_V4, &["-y", "-c"]);
}

/// RFC 8656 s. 7.2: EVEN-PORT reserves the next port, RESERVATION-TOKEN takes it from another 5-tuple.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn port_pairs_between_clients() {
    load("port_pairs_between_clients", RELAY_V4, &["-y"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn channels_to_a_peer() {
    load("channels_to_a_peer", RELAY_V4, &["-e", &PEER_V4.to_string(), "-r", PEER_PORT, "-c"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn port_pairs_to_a_peer() {
    load("port_pairs_to_a_peer", RELAY_V4, &["-e", &PEER_V4.to_string(), "-r", PEER_PORT]);
}

/// RFC 8656 s. 11: Send and Data indications, no channels.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn indications_to_a_peer() {
    load("indications_to_a_peer", RELAY_V4, &["-s", "-e", &PEER_V4.to_string(), "-r", PEER_PORT, "-c"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn indications_between_clients() {
    load("indications_between_clients", RELAY_V4, &["-y", "-s"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn ipv6_between_clients() {
    load("ipv6_between_clients", RELAY_V6, &["-y", "-c", "-x"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn ipv6_to_a_peer() {
    load("ipv6_to_a_peer", RELAY_V6, &["-x", "-e", &PEER_V6.to_string(), "-r", PEER_PORT, "-c"]);
}

/// RFC 8656 s. 7: an IPv4 client with an IPv6 relayed address.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn ipv4_client_to_an_ipv6_peer() {
    load("ipv4_client_to_an_ipv6_peer", RELAY_V4, &["-x", "-e", &PEER_V6.to_string(), "-r", PEER_PORT, "-c"]);
}

/// RFC 8656 s. 14: DONT-FRAGMENT in Allocate and in each Send indication.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn dont_fragment_to_a_peer() {
    load(
        "dont_fragment_to_a_peer",
        RELAY_V4,
        &["-g", "-s", "-e", &PEER_V4.to_string(), "-r", PEER_PORT, "-c"],
    );
}

/// RFC 8656 s. 12.5: padding of ChannelData over UDP is allowed, and not forwarded.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn padded_channels_between_clients() {
    load("padded_channels_between_clients", RELAY_V4, &["-D", "-y", "-c"]);
}

/// Time-limited credentials: user name with its expiry, password as HMAC-SHA1 of it.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn time_limited_credentials() {
    let options = Options { secret: true, ..Options::default() };
    let arguments = ["-u", "bob", "-W", SECRET, "-y", "-c"];
    load_with("time_limited_credentials", &options, RELAY_V4, &arguments);
}

/// Each I/O backend with more workers than cores. Without `-c` the port pairs of RFC 8656 s. 7.2 are
/// reserved by one worker and often redeemed from another.
fn port_pairs_among_workers(name: &str, io: &'static str, workers: usize) {
    let options = Options { io, workers, ..Options::default() };
    load_with(name, &options, RELAY_V4, &["-u", USER, "-w", PASSWORD, "-y"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn port_pairs_among_two_workers_on_io_uring() {
    port_pairs_among_workers("port_pairs_among_two_workers_on_io_uring", "io-uring", 2);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn port_pairs_among_four_workers_on_io_uring() {
    port_pairs_among_workers("port_pairs_among_four_workers_on_io_uring", "io-uring", 4);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn port_pairs_among_two_workers_on_epoll() {
    port_pairs_among_workers("port_pairs_among_two_workers_on_epoll", "epoll", 2);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn port_pairs_among_four_workers_on_epoll() {
    port_pairs_among_workers("port_pairs_among_four_workers_on_epoll", "epoll", 4);
}

/// What `auto` does not choose works all the same, also over IPv6 and with indications.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn indications_to_a_peer_on_epoll() {
    let options = Options { io: "epoll", ..Options::default() };
    let peer = PEER_V6.to_string();
    let arguments = ["-u", USER, "-w", PASSWORD, "-s", "-x", "-e", &peer, "-r", PEER_PORT, "-c"];
    load_with("indications_to_a_peer_on_epoll", &options, RELAY_V6, &arguments);
}
