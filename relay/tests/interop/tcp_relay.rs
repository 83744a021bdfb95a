//! TCP relayed for coturn's client and the project's own (RFC 6062): pairs of clients that connect to each other's
//! relayed address, and what is left of them.

use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::Value;
use turnpike_testkit::eventually;
use turnpike_testkit::http::{TOKEN, exchange};

use super::lab::{Lab, RELAY_V4, RELAY_V6};
use super::relay::{PASSWORD, USER, is_turnpike};
use super::streams::Server;
use super::uclient;

/// Clients, two of them a pair.
const LEGS: u64 = 4;
/// The administration, which only the relay's own namespace reaches.
const ADMIN: &str = "127.0.0.1:8080";

/// `GET /v1/totals`.
fn totals(lab: &Lab) -> Value {
    let (status, body) = lab.relay.enter(|| {
        let admin: SocketAddr = ADMIN.parse().expect("an address");
        let stream = eventually(|| TcpStream::connect(admin).ok()).expect("it listens");
        exchange(stream, "GET", "/v1/totals", "")
    });
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Allocations, connections of either side, and ports in use.
fn in_use(totals: &Value) -> u64 {
    let (sum, ports) = (&totals["sum"], totals["ports"].as_array().expect("by address"));
    let [relayed, streams] = [&sum["tcp_relay"], &sum["streams"]];
    let gauges = [&sum["allocations"], &relayed["allocations"], &relayed["unbound"], &relayed["bound"]];
    let connections = [&streams["tcp"], &streams["tls"], &streams["opening"]];
    let all = gauges.into_iter().chain(connections).chain(ports.iter().map(|address| &address["used"]));
    all.map(|count| count.as_u64().expect("a number")).sum()
}

/// What has happened to connections with peers.
fn events(lab: &Lab) -> Value {
    totals(lab)["sum"]["tcp_relay"]["connections"].clone()
}

fn start(lab: &Lab) -> Server {
    let options =
        ["--allow-tcp-relay=true".to_owned(), format!("--admin={ADMIN}"), format!("--admin-token={TOKEN}")];
    Server::start_with(lab, &options)
}

fn nothing_is_left(lab: &Lab) {
    let nothing = eventually(|| (in_use(&totals(lab)) == 0).then_some(()));
    assert!(nothing.is_some(), "still in use: {}", totals(lab));
}

/// All pairs' messages arrive, by TCP on all the way; nothing of them stays.
fn between_clients(name: &str, server: IpAddr, arguments: &[&str]) {
    let Some(lab) = Lab::new(name).filter(|_| is_turnpike(name)) else { return };
    let relay = start(&lab);
    // Nor of the connections that showed that it listens.
    nothing_is_left(&lab);
    let fixed = ["-t", "-T", "-u", USER, "-w", PASSWORD];
    uclient::assert_no_loss_of(LEGS, &lab, server, &[&fixed[..], arguments].concat());
    let counted = eventually(|| {
        let events = events(&lab);
        let event = |name: &str| events[name].as_u64().unwrap_or(0);
        (event("bound") >= LEGS && event("connected") > 0 && event("accepted") > 0).then_some(())
    });
    assert!(counted.is_some(), "{}", events(&lab));
    nothing_is_left(&lab);
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tcp_to_peers_between_clients() {
    between_clients("tcp_to_peers_between_clients", RELAY_V4, &[]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tcp_to_peers_over_ipv6() {
    between_clients("tcp_to_peers_over_ipv6", RELAY_V6, &["-x"]);
}

/// RFC 6156: who comes by IPv4 may have IPv6 relayed.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tcp_to_peers_over_ipv6_for_ipv4_clients() {
    between_clients("tcp_to_peers_over_ipv6_for_ipv4_clients", RELAY_V4, &["-x"]);
}

/// The project's own client, over TCP and TLS.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tcp_to_peers_of_clients_over_tcp_and_tls() {
    let name = "tcp_to_peers_of_clients_over_tcp_and_tls";
    let Some(lab) = Lab::new(name).filter(|_| is_turnpike(name)) else { return };
    let relay = start(&lab);
    let authority = relay.authority().display().to_string();
    for (server, family) in [(RELAY_V4, "-X"), (RELAY_V6, "-x"), (RELAY_V4, "-x")] {
        for way in [&["-T"][..], &["-T", "-S", "-E", &authority]] {
            let load =
                ["-m10", "-n100", "-l1001", "--fail-above-loss", "0", family, "-u", USER, "-w", PASSWORD];
            let (program, server) = (["turnpike-loadtest", "uclient"], [&*server.to_string()]);
            let all = [&program[..], way, &load, &server].concat().into_iter().map(Into::into).collect();
            let code = lab.client.enter(|| turnpike_loadtest::cli::main(all));
            assert_eq!(code, std::process::ExitCode::SUCCESS, "{way:?} {family} to {server:?}");
        }
    }
    let all = eventually(|| (events(&lab)["bound"] == 60).then_some(()));
    assert!(all.is_some(), "{}", events(&lab));
    nothing_is_left(&lab);
    relay.stop();
}
