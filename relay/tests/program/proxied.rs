//! The running program behind proxies, and in front of somebody else's server: who its clients are then, what operators
//! see of it, and what a reload changes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use rustls::ClientConnection;
use serde_json::Value;
use turnpike_proto::wire::proxy::{self, Proxied};
use turnpike_proto::wire::{attr, method};
use turnpike_testkit::certificate::{Certificate, tls};
use turnpike_testkit::message::{Answer, UDP};
use turnpike_testkit::stream::StreamClient;
use turnpike_testkit::talker::Talker;
use turnpike_testkit::{PATIENCE, becomes_true, eventually};

use super::relay::Relay;

const OWN: &str = "203.0.113.5:50000";
const NAME: &str = "turn.example.org";

/// The program with TLS.
struct Shared {
    relay: Relay,
    certificate: Certificate,
}

impl Shared {
    fn start(lines: &str) -> Shared {
        let folder = tempfile::tempdir().expect("a folder");
        let certificate = Certificate::new(&[NAME]);
        let [cert, key] = certificate.write(folder.path(), "turn");
        let text =
            format!("listen-tls = [\"127.0.0.1:0\"]\ntls-cert = [{cert:?}]\ntls-key = [{key:?}]\n{lines}");
        Shared { relay: Relay::start_in(folder, &text), certificate }
    }

    fn connect(&self, field: &str) -> TcpStream {
        connect(self.relay.at(field))
    }

    /// The TLS of a client that names these protocols (ALPN).
    fn tls(&self, alpn: &[&[u8]]) -> ClientConnection {
        let mut config = self.certificate.client();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        tls(config, NAME)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

/// Waits until a counter of the totals is as it has to be.
#[track_caller]
fn counts(relay: &Relay, pointer: &str, expected: u64) {
    let count = || relay.json("GET", "/v1/totals", None)["sum"].pointer(pointer).and_then(Value::as_u64);
    let is_so = becomes_true(|| count() == Some(expected));
    assert!(is_so, "{pointer} is {:?}, not {expected}", count());
}

/// Waits until the list has an allocation of this client behind this proxy: it is a second old at most.
#[track_caller]
fn lists(relay: &Relay, client: &str, proxy: &str) {
    let list = || relay.json("GET", "/v1/allocations", None)["allocations"].clone();
    let is_there = |list: Value| {
        list.as_array()
            .is_some_and(|all| all.iter().any(|found| found["client"] == client && found["proxy"] == proxy))
    };
    assert!(becomes_true(|| is_there(list())), "{client} behind {proxy} is not in {}", list());
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn header(client: &str, destination: SocketAddr, is_stream: bool) -> Vec<u8> {
    proxy::write(&Proxied { source: addr(client), destination, is_stream })
}

/// Allocates over a connection that may have sent something already; the address that the client is told.
fn allocate(stream: TcpStream, tls: Option<ClientConnection>) -> SocketAddr {
    let mut client = StreamClient::on(stream, tls).expect("connected");
    client.try_allocate(UDP).expect("an answer").expect_success().mapped()
}

/// Nothing comes but the end.
#[track_caller]
fn is_closed(mut stream: TcpStream) {
    let read = stream.read(&mut [0; 1]);
    let is_in_time = |error: &std::io::Error| error.kind() != std::io::ErrorKind::WouldBlock;
    assert!(matches!(&read, Ok(0)) || read.as_ref().is_err_and(is_in_time), "{read:?}");
}

#[test]
fn over_tcp_and_tls_a_trusted_proxy_says_who_the_client_is() {
    let shared = Shared::start("proxy-protocol-from = [\"127.0.0.0/8\"]\n");
    let relay = &shared.relay;
    for field in ["tcp=", "tls="] {
        let mut stream = shared.connect(field);
        let proxy = stream.local_addr().expect("connected").to_string();
        stream.write_all(&header(OWN, relay.at(field), true)).expect("sent");
        let keep = stream.try_clone().expect("a descriptor");
        let tls = (field == "tls=").then(|| shared.tls(&[]));
        assert_eq!(allocate(stream, tls), addr(OWN));
        lists(relay, OWN, &proxy);
        drop(keep);
    }
    // Without a header nobody is let in who is trusted to write one.
    let mut silent = shared.connect("tcp=");
    silent.write_all(&[0, 1, 0, 0]).expect("sent");
    is_closed(silent);
    counts(relay, "/streams/closed/proxy_missing", 1);
    let log = shared.relay.stop();
    assert_eq!(log.matches(&format!("\"client\":\"{OWN}\"")).count(), 2, "{log}");
    assert!(log.contains("\"reason\":\"proxy_missing\""), "{log}");
}

#[test]
fn a_header_from_anybody_else_is_refused_and_trust_changes_with_a_reload() {
    let relay = Relay::start("");
    let refused = |times: u64| {
        let mut stream = connect(relay.at("tcp="));
        stream.write_all(&header(OWN, relay.at("tcp="), true)).expect("sent");
        is_closed(stream);
        counts(&relay, "/streams/closed/proxy_untrusted", times);
    };
    let before = std::fs::read_to_string(relay.file()).expect("it was written");
    let reload = |lines: &str| {
        std::fs::write(relay.file(), format!("{before}{lines}")).expect("the folder is ours");
        relay.json("POST", "/v1/reload", None)["applied"].clone()
    };
    refused(1);
    assert_eq!(reload("proxy-protocol-from = [\"127.0.0.1\"]\n"), serde_json::json!(["proxy-protocol-from"]));
    let mut stream = connect(relay.at("tcp="));
    stream.write_all(&header(OWN, relay.at("tcp="), true)).expect("sent");
    assert_eq!(allocate(stream, None), addr(OWN));
    reload("");
    refused(2);
    let log = relay.stop();
    assert!(log.contains("proxy-protocol-from does not name their source"), "{log}");
}

/// A client behind a proxy of UDP.
struct Behind {
    talker: Talker,
    server: SocketAddr,
}

impl Behind {
    fn new(relay: &Relay) -> Behind {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        Behind { talker: Talker::on(socket, relay.server()), server: relay.server() }
    }

    fn proxied(&self, bytes: &[u8]) -> Vec<u8> {
        [&header(OWN, self.server, false), bytes].concat()
    }

    /// Asks, with a header in front or not, until there is an answer.
    #[track_caller]
    fn ask(&mut self, bytes: &[u8], has_header: bool) -> Answer {
        let sent = if has_header { self.proxied(bytes) } else { bytes.to_vec() };
        self.talker.patient_for(Duration::from_millis(500));
        let answer = eventually(|| {
            self.talker.say(&sent);
            let answer = Answer::of(self.talker.hear()?);
            Some(answer).filter(|answer| answer.message().transaction_id().0 == bytes[8..20])
        });
        answer.expect("an answer")
    }

    fn allocate(&mut self, each: bool) -> SocketAddr {
        let bare = self.talker.bare_allocate();
        let challenge = self.ask(&bare, true);
        self.talker.heed(&challenge);
        let request = self.talker.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &UDP));
        self.ask(&request, each).expect_success().mapped()
    }
}

#[test]
fn over_udp_a_header_is_on_each_datagram_or_on_the_first_only() {
    for (mode, each) in [("each", true), ("first", false)] {
        let relay = Relay::start(&format!(
            "proxy-protocol-from = [\"127.0.0.1\"]\nproxy-protocol-udp = \"{mode}\"\n"
        ));
        let mut client = Behind::new(&relay);
        assert_eq!(client.allocate(each), addr(OWN));
        lists(&relay, OWN, &client.talker.socket.local_addr().expect("bound").to_string());
        // Data on a channel, both ways.
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        peer.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let address = peer.local_addr().expect("bound");
        let bind = client.talker.signed(method::CHANNEL_BIND, |b| {
            b.attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]).xor_address(attr::XOR_PEER_ADDRESS, address)
        });
        client.ask(&bind, each).expect_success();
        let data = [0x40, 0, 0, 4, 1, 2, 3, 4];
        client.talker.say(&if each { client.proxied(&data) } else { data.to_vec() });
        let mut buffer = [0; 64];
        let (len, relayed) = peer.recv_from(&mut buffer).expect("the data");
        assert_eq!(buffer[..len], data[4..]);
        peer.send_to(&[9; 4], relayed).expect("sent");
        client.talker.patient_for(PATIENCE);
        assert_eq!(client.talker.hear().expect("ChannelData"), [0x40, 0, 0, 4, 9, 9, 9, 9]);

        let mut stranger = Behind::new(&relay);
        let bare = stranger.talker.bare_allocate();
        stranger.talker.say(&bare);
        counts(&relay, "/verdicts/drop_proxy_header", 1);
        let log = relay.stop();
        assert!(log.contains(&format!("\"client\":\"{OWN}\"")) && log.contains("drop_proxy_header"), "{log}");
    }
}

/// A website: takes so many connections, and gives what each begins with.
fn website(connections: usize) -> (SocketAddr, thread::JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serve = move || {
        let take = |_| {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
            let mut read = vec![0; 4096];
            let len = stream.read(&mut read).expect("something");
            read.truncate(len);
            stream.write_all(b"FROM THE WEBSITE").expect("sent");
            read
        };
        (0..connections).map(take).collect()
    };
    (address, thread::spawn(serve))
}

#[test]
fn a_website_shares_a_port_with_turn() {
    let (site, served) = website(2);
    let shared = Shared::start(&format!("tls-fallback = \"{site}\"\n"));
    let relay = &shared.relay;
    for alpn in [&[][..], &[&b"stun.turn"[..]]] {
        let turn = shared.connect("tls=");
        let own = turn.local_addr().expect("connected");
        assert_eq!(allocate(turn, Some(shared.tls(alpn))), own);
    }
    let is_answered = |mut stream: TcpStream| {
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"FROM THE WEBSITE");
    };
    let mut plain = shared.connect("tls=");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    is_answered(plain);
    // A browser names its own protocols.
    let mut browser = shared.connect("tls=");
    shared.tls(&[b"h2", b"http/1.1"]).write_tls(&mut browser).expect("a ClientHello");
    is_answered(browser);
    let served = served.join().expect("no panic");
    assert_eq!((&served[0][..], &served[1][..3]), (&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1][..]));
    counts(relay, "/streams/fallback/accepted", 2);
    counts(relay, "/streams/fallback/bytes_to_fallback", served.iter().map(Vec::len).sum::<usize>() as u64);
    counts(relay, "/streams/fallback/bytes_to_client", 32);
    counts(relay, "/streams/fallback/connections", 0);

    // The website is gone.
    let mut late = shared.connect("tls=");
    late.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    is_closed(late);
    counts(relay, "/streams/closed/fallback_unreachable", 1);
    let (_, page) = relay.http("GET", "/metrics", None);
    assert!(page.contains("turnpike_fallback_bytes_total{direction=\"to_client\"} 32"), "{page}");
    let log = shared.relay.stop();
    let line = log.lines().find(|line| line.contains("fallback_unreachable")).expect("a line");
    assert!(line.contains("WARN") && line.contains(&site.to_string()) && line.contains("refused"), "{line}");
}

#[test]
fn caps_are_the_operators() {
    let relay = Relay::start("max-connections-per-source = 2\nhandshake-timeout = 1\n");
    let held: Vec<TcpStream> = (0..40).map(|_| connect(relay.at("tcp="))).collect();
    // Each of the two workers takes two.
    counts(&relay, "/streams/closed/source_cap", 36);
    counts(&relay, "/streams/closed/message_timeout", 4);
    drop(held);
}
