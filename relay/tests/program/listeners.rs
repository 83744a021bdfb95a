//! The running program's listeners for TCP and TLS: who reaches them, by which certificate, and what a change of it
//! does to those who are connected.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;

use rustls::{SupportedProtocolVersion, version};
use serde_json::Value;
use turnpike_testkit::certificate::{Certificate, tls};
use turnpike_testkit::stream::StreamClient;
use turnpike_testkit::{PASSWORD, USER, becomes_true};

use super::relay::{Relay, run, turnpike};

/// The program with these certificates for clients.
fn start(certificates: &[(&str, &Certificate)], lines: &str) -> Relay {
    let folder = tempfile::tempdir().expect("a folder");
    let written = certificates.iter().map(|(name, made)| made.write(folder.path(), name));
    let (certs, keys): (Vec<_>, Vec<_>) = written.map(|[cert, key]| (cert, key)).unzip();
    let tls = match certificates {
        [] => String::new(),
        _ => format!("tls-cert = {certs:?}\ntls-key = {keys:?}\n"),
    };
    Relay::start_in(folder, &format!("{tls}{lines}"))
}

/// What the program has now.
fn status(relay: &Relay) -> Value {
    relay.json("GET", "/v1/status", None)
}

/// A client over TCP.
fn tcp(server: SocketAddr) -> StreamClient {
    StreamClient::connect(server, None).expect("it listens")
}

/// One over TLS that knows this name, trusts this certificate alone, and speaks these versions.
fn secure(
    server: SocketAddr,
    name: &str,
    trusted: &Certificate,
    versions: &[&'static SupportedProtocolVersion],
) -> StreamClient {
    StreamClient::connect(server, Some(tls(trusted.client_of(versions), name))).expect("it listens")
}

// RFC 8656 s. 4: TCP where UDP is
#[test]
fn tcp_is_there_by_default_and_udp_is_not_where_it_is_unwanted() {
    let relay = start(&[], "");
    assert_eq!(relay.at("tcp="), relay.at("listen="), "the same port");
    tcp(relay.at("tcp=")).binding().expect("an answer");
    let listeners = status(&relay)["listeners"].clone();
    let transports: Vec<_> =
        listeners.as_array().expect("a list").iter().map(|own| own["transport"].clone()).collect();
    assert_eq!(transports, ["udp", "tcp"]);
    drop(relay);

    let relay = start(&[], "no-udp = true\n");
    let tcp = relay.at("tcp=");
    self::tcp(tcp).binding().expect("an answer");
    UdpSocket::bind(tcp).expect("nobody has that port for UDP");
    drop(relay);

    let relay = start(&[], "no-tcp = true\n");
    assert!(TcpStream::connect(relay.at("listen=")).is_err(), "nobody listens");
}

#[test]
fn the_name_decides_about_the_certificate_and_old_versions_are_refused() {
    let (one, two) = (Certificate::new(&["one.example"]), Certificate::new(&["two.example"]));
    let relay = start(&[("one", &one), ("two", &two)], "tls-min-version = \"1.3\"\n");
    let server = relay.at("tls=");
    let modern = &[&version::TLS13];
    secure(server, "one.example", &one, modern).binding().expect("the first");
    secure(server, "two.example", &two, modern).binding().expect("the second");
    assert!(secure(server, "two.example", &one, modern).binding().is_err(), "not the other one");
    assert!(secure(server, "one.example", &one, &[&version::TLS12]).binding().is_err(), "too old");
    let certificates = status(&relay)["certificates"].clone();
    assert_eq!(certificates[1]["names"][0], "two.example");
    assert_eq!(certificates[1]["audience"], "clients");
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    address.expect("a free one").port()
}

/// What `turnpike health` says of a relay with this configuration.
fn health(relay: &Relay) -> String {
    let (_, stdout, stderr) = run(turnpike().args(["health", "--config"]).arg(relay.file()));
    stdout + &stderr
}

#[test]
fn one_port_has_tcp_and_tls_and_health_asks_there() {
    let own = Certificate::new(&["one.example"]);
    let at = format!("[\"127.0.0.1:{}\"]", free_port());
    let lines = format!("listen-tcp = {at}\nlisten-tls = {at}\nno-udp = true\n");
    let relay = start(&[("one", &own)], &lines);
    assert_eq!(relay.at("tcp="), relay.at("tls="));
    tcp(relay.at("tcp=")).binding().expect("an answer");
    secure(relay.at("tls="), "one.example", &own, rustls::ALL_VERSIONS).binding().expect("an answer");
    assert!(health(&relay).contains("answered in"), "over TCP: {}", health(&relay));
    drop(relay);

    let lines = format!("no-tcp = true\nlisten-tls = [\"127.0.0.1:{}\"]\nno-udp = true\n", free_port());
    let relay = start(&[("one", &own)], &lines);
    assert!(health(&relay).contains("answered in"), "over TLS: {}", health(&relay));
}

#[test]
fn a_certificate_that_is_replaced_a_hundred_times_drops_no_connection() {
    let all: Vec<Certificate> = (0..=100).map(|_| Certificate::new(&["one.example"])).collect();
    let relay = start(&[("one", &all[0])], "");
    let server = relay.at("tls=");
    let report = relay.folder().join("report.json").display().to_string();
    let url = format!("turns:{server}?transport=tcp");
    let arguments = [
        "turnpike-loadtest",
        "loss",
        &url,
        "-u",
        USER,
        "-w",
        PASSWORD,
        "-c",
        "8",
        "-r",
        "25",
        "-l",
        "200",
        "-d",
        "10",
        // Which certificate is shown when, the clients below look at.
        "--insecure",
        "--json",
        &report,
    ];
    let load = arguments.map(Into::into).to_vec();
    let load = thread::spawn(move || turnpike_loadtest::cli::main(load));
    assert!(becomes_true(|| status(&relay)["allocations"] == 8), "the clients are there");
    let mut held = secure(server, "one.example", &all[0], rustls::ALL_VERSIONS);
    held.binding().expect("the first one");
    for next in &all[1..] {
        next.write(relay.folder(), "one");
        relay.json("POST", "/v1/reload", None);
        secure(server, "one.example", next, rustls::ALL_VERSIONS).binding().expect("the next one at once");
    }
    held.binding().expect("it is still there");
    load.join().expect("it ends");
    let report = std::fs::read_to_string(report).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let total = &report["trials"][0]["total"];
    let number = |name: &str| total[name].as_u64().expect("a number");
    assert!(number("sent") > 0 && number("lost") == 0, "{total}");
    let log = relay.stop();
    assert_eq!(log.matches("a new certificate is in force").count(), 100, "{log}");
}
