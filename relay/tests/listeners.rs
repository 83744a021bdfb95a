//! The running program's listeners for TCP and TLS: who reaches them, by which certificate, and what a change of it
//! does to those who are connected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};
use serde_json::Value;
use tempfile::TempDir;
use turnpike_proto::wire::{Message, MessageBuilder, TransactionId, method};
use turnpike_testkit::http::{TOKEN, exchange};
use turnpike_testkit::server::{Server, without_options};
use turnpike_testkit::{PASSWORD, USER};

const PATIENCE: Duration = Duration::from_secs(60);

struct Made {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

fn made(name: &str) -> Made {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    Made { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

/// Both files, each renamed over the old one.
fn write(folder: &Path, name: &str, made: &Made) {
    for (what, text) in [("cert", &made.cert), ("key", &made.key)] {
        std::fs::write(folder.join("new"), text).expect("written");
        std::fs::rename(folder.join("new"), folder.join(format!("{name}-{what}.pem"))).expect("renamed");
    }
}

/// The program with an administration, and these certificates for clients.
struct Relay {
    running: Server,
    folder: TempDir,
}

impl Relay {
    fn start(certificates: &[(&str, &Made)], lines: &str) -> Relay {
        let folder = tempfile::tempdir().expect("a folder");
        let list = |what: &str| {
            let path = |name: &str| folder.path().join(format!("{name}-{what}.pem")).display().to_string();
            let all: Vec<_> = certificates.iter().map(|(name, _)| format!("{:?}", path(name))).collect();
            all.join(", ")
        };
        let tls = match certificates {
            [] => String::new(),
            _ => format!("tls-cert = [{}]\ntls-key = [{}]\n", list("cert"), list("key")),
        };
        certificates.iter().for_each(|(name, made)| write(folder.path(), name, made));
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\nrelay-address = [\"127.0.0.1\"]\nallow-loopback-peers = true\n\
             user = [\"{USER}:{PASSWORD}\"]\nworkers = 2\nunauthenticated-rate = 0\noffload = \"off\"\n\
             admin = \"127.0.0.1:0\"\nadmin-token = [\"{TOKEN}\"]\n{tls}{lines}"
        );
        let file = folder.path().join("turnpike.toml");
        std::fs::write(&file, text).expect("written");
        let program = turnpike_testkit::binary(env!("CARGO_BIN_EXE_turnpike"));
        let mut command = without_options(Command::new(program));
        command.arg("run").arg("--config").arg(file);
        Relay { running: Server::start(command), folder }
    }

    fn at(&self, field: &str) -> SocketAddr {
        self.running.field(field).parse().expect("an address")
    }

    fn api(&self, method: &str, path: &str) -> Value {
        let (_, admin) = self.running.field("admin=").trim_end_matches('/').split_once("://").expect("a URL");
        let stream = TcpStream::connect(admin).expect("it listens");
        let (status, body) = exchange(stream, method, path, "");
        assert_eq!(status, 200, "{method} {path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }
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

/// A connection of a client that knows these names and trusts this certificate alone.
fn tls(
    server: SocketAddr,
    name: &str,
    trusted: &Made,
    versions: &[&'static SupportedProtocolVersion],
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("ring has both")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(server).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    StreamOwned::new(connection, stream)
}

// RFC 8656 s. 4: TCP where UDP is
#[test]
fn tcp_is_there_by_default_and_udp_is_not_where_it_is_unwanted() {
    let relay = Relay::start(&[], "");
    assert_eq!(relay.at("tcp="), relay.at("listen="), "the same port");
    is_answered(TcpStream::connect(relay.at("tcp=")).expect("it listens")).expect("an answer");
    let listeners = relay.api("GET", "/v1/status")["listeners"].clone();
    let transports: Vec<_> =
        listeners.as_array().expect("a list").iter().map(|own| own["transport"].clone()).collect();
    assert_eq!(transports, ["udp", "tcp"]);
    drop(relay);

    let relay = Relay::start(&[], "no-udp = true\n");
    let tcp = relay.at("tcp=");
    is_answered(TcpStream::connect(tcp).expect("it listens")).expect("an answer");
    UdpSocket::bind(tcp).expect("nobody has that port for UDP");
    drop(relay);

    let relay = Relay::start(&[], "no-tcp = true\n");
    assert!(TcpStream::connect(relay.at("listen=")).is_err(), "nobody listens");
}

fn turnpike(arguments: &[&str], file: &Path) -> String {
    let program = turnpike_testkit::binary(env!("CARGO_BIN_EXE_turnpike"));
    let output =
        without_options(Command::new(program)).args(arguments).arg(file).output().expect("it starts");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn the_name_decides_about_the_certificate_and_old_versions_are_refused() {
    let (one, two) = (made("one.example"), made("two.example"));
    let relay = Relay::start(&[("one", &one), ("two", &two)], "tls-min-version = \"1.3\"\n");
    let server = relay.at("tls=");
    let modern = &[&version::TLS13];
    is_answered(tls(server, "one.example", &one, modern)).expect("the first");
    is_answered(tls(server, "two.example", &two, modern)).expect("the second");
    assert!(is_answered(tls(server, "two.example", &one, modern)).is_err(), "not the other one");
    assert!(is_answered(tls(server, "one.example", &one, &[&version::TLS12])).is_err(), "too old");
    let certificates = relay.api("GET", "/v1/status")["certificates"].clone();
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
    turnpike(&["health", "--config"], &relay.folder.path().join("turnpike.toml"))
}

#[test]
fn one_port_has_tcp_and_tls_and_health_asks_there() {
    let own = made("one.example");
    let at = format!("[\"127.0.0.1:{}\"]", free_port());
    let lines = format!("listen-tcp = {at}\nlisten-tls = {at}\nno-udp = true\n");
    let relay = Relay::start(&[("one", &own)], &lines);
    assert_eq!(relay.at("tcp="), relay.at("tls="));
    is_answered(TcpStream::connect(relay.at("tcp=")).expect("it listens")).expect("an answer");
    is_answered(tls(relay.at("tls="), "one.example", &own, rustls::ALL_VERSIONS)).expect("an answer");
    assert!(health(&relay).contains("answered in"), "over TCP: {}", health(&relay));
    drop(relay);

    let lines = format!("no-tcp = true\nlisten-tls = [\"127.0.0.1:{}\"]\nno-udp = true\n", free_port());
    let relay = Relay::start(&[("one", &own)], &lines);
    assert!(health(&relay).contains("answered in"), "over TLS: {}", health(&relay));
}

#[test]
fn a_certificate_that_is_replaced_a_hundred_times_drops_no_connection() {
    let all: Vec<Made> = (0..=100).map(|_| made("one.example")).collect();
    let relay = Relay::start(&[("one", &all[0])], "");
    let server = relay.at("tls=");
    let report = relay.folder.path().join("report.json").display().to_string();
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
        "--json",
        &report,
    ];
    let load = arguments.map(Into::into).to_vec();
    let load = thread::spawn(move || turnpike_loadtest::cli::main(load));
    let end = Instant::now() + PATIENCE;
    while relay.api("GET", "/v1/status")["allocations"] != 8 {
        assert!(Instant::now() < end, "the clients are there");
        thread::sleep(Duration::from_millis(20));
    }
    let mut held = tls(server, "one.example", &all[0], rustls::ALL_VERSIONS);
    is_answered(&mut held).expect("the first one");
    for next in &all[1..] {
        write(relay.folder.path(), "one", next);
        relay.api("POST", "/v1/reload");
        is_answered(tls(server, "one.example", next, rustls::ALL_VERSIONS)).expect("the next one at once");
    }
    is_answered(&mut held).expect("it is still there");
    load.join().expect("it ends");
    let report = std::fs::read_to_string(report).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let total = &report["trials"][0]["total"];
    let number = |name: &str| total[name].as_u64().expect("a number");
    assert!(number("sent") > 0 && number("lost") == 0, "{total}");
    let log = relay.running.stop();
    assert_eq!(log.matches("a new certificate is in force").count(), 100, "{log}");
}
