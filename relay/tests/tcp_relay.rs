//! TCP relayed by workers with real sockets (RFC 6062): connections made from either side, bound by clients of TCP and TLS
//! on their allocation's worker or another, and all that may become of them. On both drivers.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use socket2::SockRef;
use turnpike::config::resolve::Addresses;
use turnpike::config::{Config, Hidden, Secret, User};
use turnpike::setup;
use turnpike::worker::handover::Handover;
use turnpike::worker::{Order, Report, Worker, WorkerHandle};
use turnpike_driver::epoll::EpollDriver;
use turnpike_driver::sockets::{ListenerSocket, SocketOptions};
use turnpike_driver::streams::{Offer, StreamOptions, Streams, bind_stream_listeners};
use turnpike_driver::uring::{self, UringDriver};
use turnpike_driver::{Driver, clock};
use turnpike_proto::shared::Shared;
use turnpike_proto::stats::ConnectionEvent;
use turnpike_proto::wire::framer::{self, Frame};
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{Now, Server, WorkerId};
use turnpike_testkit::talker::{Answer, Talker};
use turnpike_testkit::{PASSWORD, PATIENCE, USER, becomes_true, skip, uninterrupted};
use zeroize::Zeroizing;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WORKERS: u16 = 2;
const TCP: [u8; 4] = [6, 0, 0, 0];

/// Workers on threads of their own, each with a listener of its own for TCP and TLS: a client chooses its worker.
struct Relay {
    listeners: Vec<SocketAddr>,
    trust: RootCertStore,
    shared: Arc<Shared>,
    config: Config,
    addresses: Addresses,
    workers: Vec<WorkerHandle>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// How far the workers' clocks are ahead, nanoseconds.
    ahead_ns: Arc<AtomicU64>,
}

impl Relay {
    fn start<D: Driver + Send + 'static>(
        make: impl Fn(Vec<ListenerSocket>, SocketOptions) -> io::Result<D>,
        max_bitrate: Option<u64>,
    ) -> Relay {
        let offer = Offer { plain: true, tls: true };
        let bind = || bind_stream_listeners((HERE, 0).into(), 1, offer).expect("a free port");
        let bound: Vec<_> = (0..WORKERS).map(|_| bind()).collect();
        let listeners: Vec<_> = bound.iter().map(|own| own[0].local_addr()).collect();
        let (tls, trust) = certificate();
        let options = StreamOptions { tls: Some(Arc::new(move || Arc::clone(&tls))), ..Default::default() };
        let user = User { name: USER.to_owned(), password: Secret::new(Zeroizing::new(PASSWORD.to_owned())) };
        let config = Config {
            realm: "example.org".to_owned(),
            users: Hidden(vec![user]),
            allow_loopback_peers: true,
            allow_tcp_relay: true,
            max_bitrate: max_bitrate.and_then(std::num::NonZeroU64::new),
            ..Config::default()
        };
        let addresses =
            Addresses { listen: listeners.clone(), relay: vec![HERE.into()], ..Default::default() };
        let shared = setup::shared(&config, &addresses, &listeners, [7; 32], None).expect("a good user");
        let ahead_ns = Arc::new(AtomicU64::new(0));
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for ((number, own), handover) in (0..).zip(bound).zip(Handover::between(WORKERS.into())) {
            let streams = Streams::new(own, options.clone()).expect("descriptors");
            let server = Server::new(Arc::clone(&shared), WorkerId(number), [number as u8; 32]);
            let driver = make(Vec::new(), SocketOptions::default()).expect("a driver");
            let (handle, told, status) = WorkerHandle::new(driver.waker());
            let worker = Worker::new(driver, server, told, status).with_handover(handover);
            let mut worker = worker.with_streams(streams).expect("it can be watched");
            let ahead_ns = Arc::clone(&ahead_ns);
            let now = move || {
                let now = clock::now();
                Now { mono_ns: now.mono_ns + ahead_ns.load(Ordering::Relaxed), ..now }
            };
            threads.push(thread::spawn(move || worker.run(now)));
            workers.push(handle);
        }
        Relay { listeners, trust, shared, config, addresses, workers, threads, ahead_ns }
    }

    /// What all workers have counted together.
    fn count(&self, of: impl Fn(&Report) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(&worker.status.report())).sum()
    }

    fn events(&self, event: ConnectionEvent) -> u64 {
        self.count(|report| report.counts.tcp_relay.of(event))
    }

    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut(&Relay) -> bool) {
        let is_so = becomes_true(|| holds(self));
        assert!(is_so, "{what}: {:?}", self.workers.iter().map(|it| it.status.report()).collect::<Vec<_>>());
    }

    fn skip_time(&self, time: Duration) {
        self.ahead_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        self.workers.iter().for_each(WorkerHandle::wake);
    }

    /// Ends it as SIGTERM does; nothing is left.
    fn stop(self) {
        self.workers.iter().for_each(|worker| worker.send(Order::Stop).expect("it lives"));
        for thread in self.threads {
            thread.join().expect("no panic").expect("no error");
        }
        assert_eq!(self.shared.ports_taken(), 0);
    }

    /// A client of a worker.
    fn client(&self, worker: usize, tls: bool) -> Client {
        let socket = TcpStream::connect(self.listeners[worker]).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_nodelay(true).expect("an option");
        let plain = socket.try_clone().expect("a descriptor");
        let stream: Box<dyn ReadWrite> = match tls {
            true => {
                let config =
                    ClientConfig::builder().with_root_certificates(self.trust.clone()).with_no_client_auth();
                let name = ServerName::try_from("localhost").expect("a name");
                let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
                Box::new(Tls(StreamOwned::new(connection, socket)))
            }
            false => Box::new(socket),
        };
        let unused = UdpSocket::bind((HERE, 0)).expect("a free port");
        let talker = Talker::on(unused, self.listeners[worker]);
        Client { stream, plain, unread: Vec::new(), talker }
    }

    /// A client with an allocation that relays TCP, and the relayed address.
    fn control(&self, tls: bool) -> (Client, SocketAddr) {
        let mut client = self.client(0, tls);
        let answer = client.request(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &TCP));
        let relayed = answer.relayed();
        (client, relayed)
    }

    /// A connection that a client's Connect has made, bound by a client of a worker; and the peer's end of it.
    fn pair(&self, control: &mut Client, worker: usize, tls: bool) -> (Client, TcpStream) {
        let listener = TcpListener::bind((HERE, 0)).expect("a free port");
        let id = control.connect(listener.local_addr().expect("bound")).attribute(attr::CONNECTION_ID);
        let (peer, _) = listener.accept().expect("connected");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut data = self.client(worker, tls);
        data.bind(&id);
        (data, peer)
    }
}

trait ReadWrite: Read + Write + Send {
    /// Says that nothing more comes.
    fn finish(&mut self) -> io::Result<()>;
}

impl ReadWrite for TcpStream {
    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl ReadWrite for Tls {
    fn finish(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()
    }
}

/// A client's connection: for control, or for data.
struct Client {
    stream: Box<dyn ReadWrite>,
    /// The same without TLS.
    plain: TcpStream,
    unread: Vec<u8>,
    /// Signs its requests; its socket is not used.
    talker: Talker,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
        self.stream.flush().expect("sent");
    }

    /// The next message.
    fn hear(&mut self) -> Vec<u8> {
        loop {
            match framer::next(&self.unread) {
                Frame::Message { consumed, .. } => return self.unread.drain(..consumed).collect(),
                Frame::Need(_) => {}
                Frame::Invalid => panic!("not a message: {:02x?}", self.unread),
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("closed"),
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("cut: {error}"),
            }
        }
    }

    fn signed(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Vec<u8> {
        if self.talker.nonce.is_empty() {
            let bare = self.talker.bare_allocate();
            self.send(&bare);
            let challenge = Answer::of(self.hear());
            self.talker.heed(&challenge);
        }
        self.talker.signed(method, build)
    }

    fn ask(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Answer {
        let request = self.signed(method, build);
        self.send(&request);
        Answer::of(self.hear())
    }

    #[track_caller]
    fn request(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Answer {
        let answer = self.ask(method, build);
        answer.expect_success();
        answer
    }

    fn connect(&mut self, peer: SocketAddr) -> Answer {
        self.request(method::CONNECT, |b| b.xor_address(attr::XOR_PEER_ADDRESS, peer))
    }

    fn permit(&mut self, peer: SocketAddr) {
        self.request(method::CREATE_PERMISSION, |b| b.xor_address(attr::XOR_PEER_ADDRESS, peer));
    }

    fn bind(&mut self, id: &[u8]) {
        self.request(method::CONNECTION_BIND, |b| b.attribute(attr::CONNECTION_ID, id));
    }

    /// Raw bytes, those first that have come already.
    fn read_exact(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let had = len.min(self.unread.len());
        bytes[..had].copy_from_slice(&self.unread[..had]);
        self.unread.drain(..had);
        self.stream.read_exact(&mut bytes[had..]).expect("not cut");
        bytes
    }

    /// All that comes until its regular end.
    fn read_to_end(mut self) -> Vec<u8> {
        let mut bytes = self.unread;
        self.stream.read_to_end(&mut bytes).expect("a regular end");
        bytes
    }
}

fn certificate() -> (Arc<ServerConfig>, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("they belong together");
    let mut trust = RootCertStore::empty();
    trust.add(certificate).expect("a certificate");
    (Arc::new(config), trust)
}

/// Runs a test on each driver.
fn on_both(test: impl Fn(Relay)) {
    test(Relay::start(EpollDriver::new, None));
    match uring::probe() {
        Ok(()) => test(Relay::start(UringDriver::new, None)),
        Err(why) => skip("TCP relaying on io_uring", &format!("there is no io_uring: {why}")),
    }
}

/// Bytes that show what is missing, twice, or in another order.
fn pattern(len: usize) -> Vec<u8> {
    (0_u32..).map(|n| n.wrapping_mul(2_654_435_761)).flat_map(u32::to_be_bytes).take(len).collect()
}

// RFC 6062 s. 5.2 and 5.4
#[test]
fn x2_x3_a_connect_is_bound_on_either_worker_over_tcp_and_tls() {
    on_both(|relay| {
        let (mut control, relayed) = relay.control(true);
        for (worker, tls) in [(0, false), (0, true), (1, false), (1, true)] {
            let (mut data, mut peer) = relay.pair(&mut control, worker, tls);
            assert_eq!(peer.peer_addr().expect("connected"), relayed, "it leaves from the relayed address");
            // What looks like TLS, STUN or a proxy's header is data like any other.
            let look_alikes =
                [&[0x16, 3, 1, 0, 5][..], b"\0\x01\0\0\x21\x12\xa4\x42", b"PROXY TCP4 "].concat();
            data.send(&look_alikes);
            let mut heard = vec![0; look_alikes.len()];
            peer.read_exact(&mut heard).expect("not cut");
            assert_eq!(heard, look_alikes);
            peer.write_all(&look_alikes).expect("sent");
            assert_eq!(data.read_exact(look_alikes.len()), look_alikes);
            drop(peer);
            assert!(data.read_to_end().is_empty());
        }
        relay.until("counted", |relay| relay.events(ConnectionEvent::Bound) == 4);
        relay.until("all closed", |relay| relay.count(|report| report.counts.tcp_relay.bound) == 0);
        control.request(method::REFRESH, |b| b.lifetime(0));
        relay.stop();
    });
}

// A client need not wait for the answer, nor the peer for the client
#[test]
fn x3_what_comes_before_the_binding_is_not_lost() {
    on_both(|relay| {
        let (mut control, _) = relay.control(false);
        for (worker, tls) in [(0, false), (1, true)] {
            let listener = TcpListener::bind((HERE, 0)).expect("a free port");
            let id = control.connect(listener.local_addr().expect("bound")).attribute(attr::CONNECTION_ID);
            let (mut peer, _) = listener.accept().expect("connected");
            peer.write_all(b"220 ready").expect("sent");
            peer.shutdown(Shutdown::Write).expect("connected");
            let mut data = relay.client(worker, tls);
            let request = data.signed(method::CONNECTION_BIND, |b| b.attribute(attr::CONNECTION_ID, &id));
            data.send(&[&request[..], b"HELO"].concat());
            Answer::of(data.hear()).expect_success();
            let mut heard = [0; 4];
            peer.read_exact(&mut heard).expect("not cut");
            assert_eq!(&heard, b"HELO");
            assert_eq!(data.read_to_end(), b"220 ready");
        }
        relay.stop();
    });
}

// RFC 6062 s. 5.3
#[test]
fn x4_a_peer_connects_and_others_are_turned_away() {
    on_both(|relay| {
        let (mut control, relayed) = relay.control(false);
        let mut early = TcpStream::connect(relayed).expect("it listens");
        early.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // Without a permission: reset, or the end, whichever comes first; never data, never silence.
        assert!(!matches!(early.read(&mut [0; 8]), Ok(1..)));
        relay.until("counted", |relay| relay.events(ConnectionEvent::NoPermission) == 1);
        control.permit((HERE, 1).into());
        let mut peer = TcpStream::connect(relayed).expect("it listens");
        let attempt = control.hear();
        let attempt = turnpike_proto::wire::Message::parse(&attempt).expect("well-formed");
        assert_eq!(attempt.method(), method::CONNECTION_ATTEMPT);
        let from = attempt.xor_address(attr::XOR_PEER_ADDRESS).expect("present");
        assert_eq!(from, Ok(peer.local_addr().expect("connected")));
        let mut data = relay.client(1, false);
        data.bind(attempt.attribute(attr::CONNECTION_ID).expect("present"));
        peer.write_all(b"hello").expect("sent");
        assert_eq!(data.read_exact(5), b"hello");
        // A relayed address is a peer like any other: a second client's Connect leads to the first.
        let (mut other, _) = relay.control(false);
        other.connect(relayed);
        assert_eq!(control.hear()[..2], [0x00, 0x1c], "a ConnectionAttempt");
        relay.stop();
    });
}

#[test]
fn x3_an_end_is_passed_on_while_the_other_way_goes_on() {
    on_both(|relay| {
        let (mut control, _) = relay.control(false);
        for (worker, tls) in [(0, false), (1, true)] {
            let (mut data, mut peer) = relay.pair(&mut control, worker, tls);
            data.send(b"a question");
            data.stream.finish().expect("connected");
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).expect("a regular end");
            assert_eq!(heard, b"a question");
            peer.write_all(b"an answer").expect("sent");
            drop(peer);
            assert_eq!(data.read_to_end(), b"an answer");
        }
        relay.until("all closed", |relay| relay.count(|report| report.counts.tcp_relay.bound) == 0);
        relay.stop();
    });
}

#[test]
fn x3_a_reset_is_passed_on_as_a_reset() {
    on_both(|relay| {
        let (mut control, _) = relay.control(false);
        let (data, mut peer) = relay.pair(&mut control, 0, false);
        SockRef::from(&data.plain).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(data);
        let error = uninterrupted(|| peer.read(&mut [0; 8])).expect_err("no regular end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (mut data, peer) = relay.pair(&mut control, 1, false);
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(peer);
        let error = uninterrupted(|| data.stream.read(&mut [0; 8])).expect_err("no regular end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        relay.until("all closed", |relay| relay.count(|report| report.counts.tcp_relay.bound) == 0);
        relay.stop();
    });
}

/// Sends until nothing more is taken for a while; gives how much.
fn fill(sender: &TcpStream, data: &[u8]) -> usize {
    sender.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut sent = 0;
    while sent < data.len() {
        match (&mut &*sender).write(&data[sent..]) {
            Ok(len) => sent += len,
            Err(_) => break,
        }
    }
    sender.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    sent
}

// Back-pressure instead of memory, or of loss
#[test]
fn x5_a_reader_that_pauses_stalls_its_sender_and_gets_everything() {
    const LEN: usize = 50 << 20;
    on_both(|relay| {
        let (mut control, _) = relay.control(false);
        let data = pattern(LEN);
        for tls in [false, true] {
            // The client pauses.
            let (mut client, mut peer) = relay.pair(&mut control, 1, tls);
            let sent = fill(&peer, &data);
            assert!(sent < LEN, "the kernel's buffers alone don't hold as much");
            let rest = data[sent..].to_vec();
            let sender = thread::spawn(move || peer.write_all(&rest).map(|()| peer));
            let heard = client.read_exact(LEN);
            assert!(heard == data, "something is missing");
            drop(sender.join().expect("no panic").expect("sent"));
        }
        // The peer pauses.
        let (client, mut peer) = relay.pair(&mut control, 0, false);
        let sent = fill(&client.plain, &data);
        assert!(sent < LEN, "the kernel's buffers alone don't hold as much");
        let (rest, mut plain) = (data[sent..].to_vec(), client.plain.try_clone().expect("a descriptor"));
        let sender = thread::spawn(move || plain.write_all(&rest));
        let mut heard = vec![0; LEN];
        peer.read_exact(&mut heard).expect("not cut");
        assert!(heard == data, "something is missing");
        sender.join().expect("no panic").expect("sent");
        let counts = |of: fn(&Report) -> u64| relay.count(of);
        relay.until("counted", |_| {
            counts(|report| report.counts.tcp_relay.bytes_to_client) == 2 * LEN as u64
                && counts(|report| report.counts.tcp_relay.bytes_to_peer) == LEN as u64
        });
        relay.stop();
    });
}

// Both ways at once, over TLS, with a bandwidth limit that holds it back
#[test]
fn x5_a_bandwidth_limit_slows_and_loses_nothing() {
    const LEN: usize = 1 << 20;
    let relay = Relay::start(EpollDriver::new, Some(80_000_000));
    let (mut control, _) = relay.control(false);
    let (mut client, mut peer) = relay.pair(&mut control, 1, true);
    let data = pattern(LEN);
    let (copy, mut theirs) = (data.clone(), peer.try_clone().expect("a descriptor"));
    let begun = std::time::Instant::now();
    let sender = thread::spawn(move || theirs.write_all(&copy));
    assert!(client.read_exact(LEN) == data);
    // 1 MiB at 10 MB per second, the first 100 ms of it at once: no machine is faster.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(4), "{took:?}");
    sender.join().expect("no panic").expect("sent");
    client.send(&data[..200_000]);
    let mut heard = vec![0; 200_000];
    peer.read_exact(&mut heard).expect("not cut");
    assert!(heard == data[..200_000]);
    relay.stop();
}

#[test]
fn x4_x5_what_nobody_binds_is_closed_and_so_is_what_has_no_answer() {
    on_both(|relay| {
        let (mut control, relayed) = relay.control(false);
        control.permit((HERE, 1).into());
        let listener = TcpListener::bind((HERE, 0)).expect("a free port");
        let id = control.connect(listener.local_addr().expect("bound")).attribute(attr::CONNECTION_ID);
        let (mut made, _) = listener.accept().expect("connected");
        let mut accepted = TcpStream::connect(relayed).expect("it listens");
        control.hear();
        relay.skip_time(Duration::from_secs(31));
        for peer in [&mut made, &mut accepted] {
            peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            assert!(!matches!(peer.read(&mut [0; 8]), Ok(1..)), "closed");
        }
        relay.until("counted", |relay| relay.events(ConnectionEvent::Unbound) == 2);
        let answer =
            relay.client(1, false).ask(method::CONNECTION_BIND, |b| b.attribute(attr::CONNECTION_ID, &id));
        answer.expect_error(400);
        relay.stop();
    });
}

#[test]
fn x2_a_peer_that_refuses_is_447_at_once() {
    on_both(|relay| {
        let (mut control, _) = relay.control(true);
        // Bound and not listening: refused.
        let closed = TcpListener::bind((HERE, 0)).map(|listener| listener.local_addr().expect("bound"));
        let peer = closed.expect("a free port");
        let answer = control.ask(method::CONNECT, |b| b.xor_address(attr::XOR_PEER_ADDRESS, peer));
        answer.expect_error(447);
        relay.until("counted", |relay| relay.events(ConnectionEvent::Failed) == 1);
        relay.stop();
    });
}

#[test]
fn x5_connections_end_with_their_allocation_with_a_new_policy_and_with_a_stop() {
    on_both(|relay| {
        let is_over = |client: &mut Client| !matches!(client.stream.read(&mut [0; 8]), Ok(1..));
        let (mut control, relayed) = relay.control(false);
        let (mut data, _peer) = relay.pair(&mut control, 1, false);
        drop(control);
        assert!(is_over(&mut data), "the control connection's end is the allocation's");
        relay.until("gone", |relay| relay.count(|report| report.counts.tcp_relay.allocations) == 0);
        assert!(becomes_true(|| TcpStream::connect(relayed).is_err()), "nobody listens there");

        let (mut control, _) = relay.control(false);
        let (mut data, _peer) = relay.pair(&mut control, 0, true);
        let stricter = Config { allow_loopback_peers: false, ..relay.config.clone() };
        let rules = setup::peer_rules(&stricter, &relay.addresses, &relay.listeners);
        relay.shared.set_network(&setup::relay_ips(&relay.addresses), &rules);
        relay.workers.iter().for_each(|worker| worker.send(Order::PolicyChanged).expect("it lives"));
        assert!(is_over(&mut data), "the policy in force refuses the peer");
        relay.until("counted", |relay| relay.events(ConnectionEvent::Denied) == 1);
        let rules = setup::peer_rules(&relay.config, &relay.addresses, &relay.listeners);
        relay.shared.set_network(&setup::relay_ips(&relay.addresses), &rules);

        let (mut data, _peer) = relay.pair(&mut control, 1, false);
        relay.stop();
        assert!(is_over(&mut data));
    });
}
