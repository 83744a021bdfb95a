//! What the server must refuse, as clients see it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use turnpike_testkit::eventually;

use super::client::Client;
use super::lab::{Lab, PEER_V4, RELAY_V4, RELAYED_V4};
use super::relay::{Options, PASSWORD, PORT, Relay, USER, is_coturn};
use super::uclient;

/// The client tries 32 times before it gives up.
const GIVES_UP: Duration = Duration::from_secs(120);
const SERVER: SocketAddr = SocketAddr::new(RELAY_V4, PORT);

/// Runs one client that must not get as far as sending, and returns its output.
fn refused(lab: &Lab, arguments: &[&str]) -> String {
    let outcome = uclient::run(lab, RELAY_V4, arguments, GIVES_UP);
    assert!(outcome.code.is_some_and(|code| code != 0), "it must be refused:\n{}", outcome.output);
    outcome.output
}

/// RFC 8489 s. 9.2.4: 401, however often it tries.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_wrong_password_gets_no_allocation() {
    let Some(lab) = Lab::new("a_wrong_password_gets_no_allocation") else { return };
    let relay = Relay::start(&lab, &Options::default());
    let output = refused(&lab, &["-u", USER, "-w", "wrong", "-y", "-c"]);
    assert!(output.contains("Cannot complete Allocation"), "{output}");
    let log = relay.stop();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn an_unknown_user_gets_no_allocation() {
    let Some(lab) = Lab::new("an_unknown_user_gets_no_allocation") else { return };
    let relay = Relay::start(&lab, &Options::default());
    let output = refused(&lab, &["-u", "mallory", "-w", PASSWORD, "-y", "-c"]);
    assert!(output.contains("Cannot complete Allocation"), "{output}");
    relay.stop();
}

/// RFC 8656 s. 10.2 and 12.2: a peer that the policy forbids is answered with 403.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_private_peer_is_refused_unless_allowed() {
    let Some(lab) = Lab::new("a_private_peer_is_refused_unless_allowed") else { return };
    let relay = Relay::start(&lab, &Options { allow_peers: false, ..Options::default() });
    let peer = PEER_V4.to_string();
    let output = refused(&lab, &["-u", USER, "-w", PASSWORD, "-e", &peer, "-c"]);
    assert!(output.contains("channel bind: error 403"), "{output}");
    let output = refused(&lab, &["-u", USER, "-w", PASSWORD, "-s", "-e", &peer, "-c"]);
    assert!(output.contains("create permission error 403"), "{output}");
    relay.stop();
}

/// RFC 8656 s. 7.2: 508 when no port is left; an ended allocation gives its port back.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn without_a_free_port_allocations_get_508() {
    let Some(lab) = Lab::new("without_a_free_port_allocations_get_508") else { return };
    let relay = Relay::start(&lab, &Options { ports: (50_000, 50_001), ..Options::default() });
    let mut first = Client::new(&lab.client, SERVER);
    let mut second = Client::new(&lab.client, SERVER);
    let ports = [&mut first, &mut second].map(|client| client.allocate().expect("a port is free").port());
    assert_eq!(ports.iter().min().zip(ports.iter().max()), Some((&50_000, &50_001)));
    let mut third = Client::new(&lab.client, SERVER);
    assert_eq!((third.allocate(), third.last_error()), (None, Some(508)));

    first.delete();
    // coturn keeps it a while.
    let again = match is_coturn() {
        true => None,
        false => eventually(|| Client::new(&lab.client, SERVER).allocate()),
    };
    assert!(is_coturn() || again.map(|relayed| relayed.port()) == Some(ports[0]), "{again:?}");
    relay.stop();
}

/// Ports that other programs hold are passed over.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn ports_held_by_others_are_passed_over() {
    let Some(lab) = Lab::new("ports_held_by_others_are_passed_over") else { return };
    let hold = |address: IpAddr, port| {
        lab.relay.enter(|| UdpSocket::bind((address, port))).expect("nobody else is in the namespace")
    };
    let _held = [50_000, 50_002, 50_003, 50_005].map(|port| hold(RELAYED_V4, port));
    let relay = Relay::start(&lab, &Options { ports: (50_000, 50_005), ..Options::default() });
    let mut clients = [Client::new(&lab.client, SERVER), Client::new(&lab.client, SERVER)];
    let mut ports = clients.each_mut().map(|client| {
        let port = client.allocate().map(|relayed| relayed.port());
        port.ok_or(client.last_error())
    });
    ports.sort_unstable();
    assert_eq!(ports, [Ok(50_001), Ok(50_004)]);
    let mut third = Client::new(&lab.client, SERVER);
    assert_eq!((third.allocate(), third.last_error()), (None, Some(508)));
    relay.stop();
}
