//! The running program's listeners for TCP and TLS: who reaches them, by which certificate, and what a change of it
//! does to those who are connected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;

use rustls::{ClientConnection, StreamOwned, SupportedProtocolVersion, version};
use serde_json::Value;
use turnpike_proto::wire::{Message, MessageBuilder, TransactionId, method};
use turnpike_testkit::{PASSWORD, USER, becomes_true};

use super::relay::{Relay, run, turnpike};
use super::tls::{self, Made};

/// The program with these certificates for clients.
fn start(certificates: &[(&str, &Made)], lines: &str) -> Relay {
    let folder = tempfile::tempdir().expect("a folder");
    certificates.iter().for_each(|(name, made)| made.write(folder.path(), name));
    let list = |what: &str| {
        let paths = certificates.iter().map(|(name, _)| tls::path(folder.path(), name, what));
        format!("{:?}", paths.collect::<Vec<_>>())
    };
    let tls = match certificates {
        [] => String::new(),
        _ => format!("tls-cert = {}\ntls-key = {}\n", list("cert"), list("key")),
    };
    Relay::start_in(folder, &format!("{tls}{lines}"))
}

/// What the program has now.
fn status(relay: &Relay) -> Value {
    relay.json("GET", "/v1/status", None)
}

/// A Binding request over a stream, and whether its answer comes.
fn is_answered(mut stream: impl Read + Write) -> std::io::Result<()> {
    let id = TransactionId(*b"a-dozen-byte");
    stream.write_all(&MessageBuilder::request(method::BINDING, id).finish())?;
    let mut answer = vec![0; 20];
    stream.read_exact(&mut answer)?;
    answer.resize(20 + usize::from(u16::from_be_bytes([answer[2], answer[3]])), 0);
    stream.read_exact(&mut answer[20..])?;
    assert_eq!(Message::parse(&answer).expect("a message").transaction_id(), id);
    Ok(())
}

/// A connection of a client that knows this name and trusts this certificate alone.
fn connect(
    server: SocketAddr,
    name: &str,
    trusted: &Made,
    versions: &[&'static SupportedProtocolVersion],
) -> StreamOwned<ClientConnection, TcpStream> {
    tls::connect(server, name, trusted, versions).expect("it listens")
}

// RFC 8656 s. 4: TCP where UDP is
#[test]
fn tcp_is_there_by_default_and_udp_is_not_where_it_is_unwanted() {
    let relay = start(&[], "");
    assert_eq!(relay.at("tcp="), relay.at("listen="), "the same port");
    is_answered(TcpStream::connect(relay.at("tcp=")).expect("it listens")).expect("an answer");
    let listeners = status(&relay)["listeners"].clone();
    let transports: Vec<_> =
        listeners.as_array().expect("a list").iter().map(|own| own["transport"].clone()).collect();
    assert_eq!(transports, ["udp", "tcp"]);
    drop(relay);

    let relay = start(&[], "no-udp = true\n");
    let tcp = relay.at("tcp=");
    is_answered(TcpStream::connect(tcp).expect("it listens")).expect("an answer");
    UdpSocket::bind(tcp).expect("nobody has that port for UDP");
    drop(relay);

    let relay = start(&[], "no-tcp = true\n");
    assert!(TcpStream::connect(relay.at("listen=")).is_err(), "nobody listens");
}

#[test]
fn the_name_decides_about_the_certificate_and_old_versions_are_refused() {
    let (one, two) = (Made::new("one.example"), Made::new("two.example"));
    let relay = start(&[("one", &one), ("two", &two)], "tls-min-version = \"1.3\"\n");
    let server = relay.at("tls=");
    let modern = &[&version::TLS13];
    is_answered(connect(server, "one.example", &one, modern)).expect("the first");
    is_answered(connect(server, "two.example", &two, modern)).expect("the second");
    assert!(is_answered(connect(server, "two.example", &one, modern)).is_err(), "not the other one");
    assert!(is_answered(connect(server, "one.example", &one, &[&version::TLS12])).is_err(), "too old");
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
    let own = Made::new("one.example");
    let at = format!("[\"127.0.0.1:{}\"]", free_port());
    let lines = format!("listen-tcp = {at}\nlisten-tls = {at}\nno-udp = true\n");
    let relay = start(&[("one", &own)], &lines);
    assert_eq!(relay.at("tcp="), relay.at("tls="));
    is_answered(TcpStream::connect(relay.at("tcp=")).expect("it listens")).expect("an answer");
    is_answered(connect(relay.at("tls="), "one.example", &own, rustls::ALL_VERSIONS)).expect("an answer");
    assert!(health(&relay).contains("answered in"), "over TCP: {}", health(&relay));
    drop(relay);

    let lines = format!("no-tcp = true\nlisten-tls = [\"127.0.0.1:{}\"]\nno-udp = true\n", free_port());
    let relay = start(&[("one", &own)], &lines);
    assert!(health(&relay).contains("answered in"), "over TLS: {}", health(&relay));
}

#[test]
fn a_certificate_that_is_replaced_a_hundred_times_drops_no_connection() {
    let all: Vec<Made> = (0..=100).map(|_| Made::new("one.example")).collect();
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
    let mut held = connect(server, "one.example", &all[0], rustls::ALL_VERSIONS);
    is_answered(&mut held).expect("the first one");
    for next in &all[1..] {
        next.write(relay.folder(), "one");
        relay.json("POST", "/v1/reload", None);
        is_answered(connect(server, "one.example", next, rustls::ALL_VERSIONS))
            .expect("the next one at once");
    }
    is_answered(&mut held).expect("it is still there");
    load.join().expect("it ends");
    let report = std::fs::read_to_string(report).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let total = &report["trials"][0]["total"];
    let number = |name: &str| total[name].as_u64().expect("a number");
    assert!(number("sent") > 0 && number("lost") == 0, "{total}");
    let log = relay.stop();
    assert_eq!(log.matches("a new certificate is in force").count(), 100, "{log}");
}
