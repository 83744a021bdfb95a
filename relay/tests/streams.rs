//! Clients over TCP and TLS on a worker with real sockets: what they ask is answered, what they send goes on, and
//! nothing is left of them when they are gone. On both drivers.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use turnpike::config::resolve::Addresses;
use turnpike::config::{Config, Hidden, Secret, User};
use turnpike::setup;
use turnpike::worker::{Order, Status, ToWorker, Worker};
use turnpike_driver::epoll::EpollDriver;
use turnpike_driver::sockets::{ListenerSocket, SocketOptions};
use turnpike_driver::streams::{CloseReason, Offer, StreamOptions, Streams, bind_stream_listeners};
use turnpike_driver::uring::{self, UringDriver};
use turnpike_driver::{Driver, clock};
use turnpike_proto::stats::UserspaceDrop;
use turnpike_proto::wire::framer::{self, Frame};
use turnpike_proto::wire::{MessageBuilder, attr, channel, method};
use turnpike_proto::{Server, Verdict, WorkerId};
use turnpike_testkit::talker::{Answer, Talker, UDP};
use turnpike_testkit::{PASSWORD, USER, skip, uninterrupted};
use zeroize::Zeroizing;

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A worker on a thread of its own, with one listener for TCP and TLS.
struct Relay {
    address: SocketAddr,
    trust: RootCertStore,
    orders: SyncSender<ToWorker>,
    waker: Arc<dyn turnpike_driver::Waker>,
    status: Arc<Status>,
    thread: JoinHandle<io::Result<()>>,
}

impl Relay {
    fn start_with<D: Driver + Send + 'static>(
        make: impl FnOnce(Vec<ListenerSocket>, SocketOptions) -> io::Result<D>,
        config: Config,
    ) -> Relay {
        let offer = Offer { plain: true, tls: true };
        let listeners = bind_stream_listeners((HERE, 0).into(), 1, offer).expect("a free port");
        let address = listeners[0].local_addr();
        let (tls, trust) = certificate();
        let options = StreamOptions { tls: Some(Arc::new(move || Arc::clone(&tls))), ..Default::default() };
        let streams = Streams::new(listeners, options).expect("descriptors");
        let user = User { name: USER.to_owned(), password: Secret::new(Zeroizing::new(PASSWORD.to_owned())) };
        let config = Config {
            realm: "example.org".to_owned(),
            users: Hidden(vec![user]),
            allow_loopback_peers: true,
            ..config
        };
        let addresses = Addresses { listen: vec![address], relay: vec![HERE.into()], ..Addresses::default() };
        let shared = setup::shared(&config, &addresses, &[address], [7; 32], None).expect("a good user");
        let server = Server::new(shared, WorkerId(0), [9; 32]);
        let (orders, receiver) = sync_channel(8);
        let status = Arc::new(Status::default());
        let driver = make(Vec::new(), SocketOptions::default()).expect("a driver");
        let waker = driver.waker();
        let worker = Worker::new(driver, server, receiver, Arc::clone(&status));
        let mut worker = worker.with_streams(streams).expect("it can be watched");
        let thread = thread::spawn(move || worker.run(clock::now));
        Relay { address, trust, orders, waker, status, thread }
    }

    fn order(&self, order: Order) {
        self.orders.send(ToWorker::Tell(order)).expect("the worker lives");
        self.waker.wake();
    }

    fn until(&self, holds: impl Fn(&Status) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.status) {
            assert!(Instant::now() < deadline, "it did not happen: {:?}", self.status.report());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as SIGTERM does.
    fn stop(self) -> Arc<Status> {
        self.order(Order::Stop);
        self.thread.join().expect("no panic").expect("no error");
        self.status
    }

    fn client(&self, tls: bool) -> Client {
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let local = socket.local_addr().expect("connected");
        let stream: Box<dyn ReadWrite> = match tls {
            true => {
                let config =
                    ClientConfig::builder().with_root_certificates(self.trust.clone()).with_no_client_auth();
                let name = ServerName::try_from("localhost").expect("a name");
                let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
                Box::new(StreamOwned::new(connection, socket))
            }
            false => Box::new(socket),
        };
        let unused = UdpSocket::bind((HERE, 0)).expect("a free port");
        Client { stream, local, unread: Vec::new(), talker: Talker::on(unused, self.address) }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A client of a stream.
struct Client {
    stream: Box<dyn ReadWrite>,
    local: SocketAddr,
    unread: Vec<u8>,
    /// Signs its requests; its socket is not used.
    talker: Talker,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
        self.stream.flush().expect("sent");
    }

    /// The next message, with its padding.
    fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            match framer::next(&self.unread) {
                Frame::Message { consumed, .. } => return Some(self.unread.drain(..consumed).collect()),
                Frame::Need(_) => {}
                Frame::Invalid => panic!("not a message: {:02x?}", self.unread),
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("cut: {error}"),
            }
        }
    }

    fn ask(&mut self, request: &[u8]) -> Answer {
        self.send(request);
        Answer::of(self.hear().expect("an answer"))
    }

    fn request(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Answer {
        if self.talker.nonce.is_empty() {
            let bare = self.talker.bare_allocate();
            let challenge = self.ask(&bare);
            self.talker.heed(&challenge);
        }
        let request = self.talker.signed(method, build);
        let answer = self.ask(&request);
        assert_eq!(answer.code, None, "{answer:?}");
        answer
    }

    fn allocate(&mut self) -> SocketAddr {
        let answer = self.request(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &UDP));
        let mapped = answer.message().xor_address(attr::XOR_MAPPED_ADDRESS);
        assert_eq!(mapped, Some(Ok(self.local)));
        answer.message().xor_address(attr::XOR_RELAYED_ADDRESS).expect("present").expect("well-formed")
    }

    fn bind(&mut self, peer: SocketAddr) {
        self.request(method::CHANNEL_BIND, |builder| {
            let number = builder.attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);
            number.xor_address(attr::XOR_PEER_ADDRESS, peer)
        });
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

/// Runs a test on each driver, over TCP and over TLS.
fn on_all(test: impl Fn(Relay, bool)) {
    on_all_with(&Config::default(), test);
}

fn on_all_with(config: &Config, test: impl Fn(Relay, bool)) {
    for tls in [false, true] {
        test(Relay::start_with(EpollDriver::new, config.clone()), tls);
        match uring::probe() {
            Ok(()) => test(Relay::start_with(UringDriver::new, config.clone()), tls),
            Err(why) => skip("streams on io_uring", &format!("there is no io_uring: {why}")),
        }
    }
}

// RFC 8656 s. 12.5: over a stream ChannelData is padded to a multiple of four, and its padding goes nowhere.
#[test]
fn a_stream_carries_a_call_both_ways() {
    on_all(|relay, tls| {
        let peer = UdpSocket::bind((HERE, 0)).expect("a free port");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let peer_address = peer.local_addr().expect("bound");
        let mut client = relay.client(tls);
        let relayed = client.allocate();
        client.bind(peer_address);
        let mut buffer = [0; 2048];
        for size in [0_usize, 1, 2, 3, 4, 1199, 1200] {
            let data = vec![size as u8; size];
            let mut frame = [&channel::header(0x4000, size as u16)[..], &data].concat();
            frame.resize(frame.len().next_multiple_of(4), 0xee);
            client.send(&frame);
            let (len, from) = uninterrupted(|| peer.recv_from(&mut buffer)).expect("the data");
            assert_eq!((&buffer[..len], from), (&data[..], relayed));
            peer.send_to(&data, relayed).expect("sent");
            let heard = client.hear().expect("ChannelData");
            let zeros = vec![0; size.next_multiple_of(4) - size];
            assert_eq!(heard, [&channel::header(0x4000, size as u16)[..], &data, &zeros].concat());
        }
        // A peer's other port has no channel: a Data indication.
        let other = UdpSocket::bind((HERE, 0)).expect("a free port");
        other.send_to(b"by permission", relayed).expect("sent");
        let heard = client.hear().expect("a Data indication");
        assert_eq!(heard[..2], [0x00, 0x17]);
        let answer = client.request(method::REFRESH, |builder| builder.lifetime(0));
        assert_eq!(answer.code, None);
        relay.until(|status| status.allocations() == 0);
        relay.stop();
    });
}

#[test]
fn a_connection_that_breaks_ends_its_allocation_at_once() {
    on_all(|relay, tls| {
        let mut client = relay.client(tls);
        client.allocate();
        relay.until(|status| status.allocations() == 1);
        drop(client);
        relay.until(|status| status.allocations() == 0 && status.relay_sockets() == 0);
        // The same client may come again.
        let mut again = relay.client(tls);
        again.allocate();
        let status = relay.stop();
        assert_eq!(status.report().ended.get("connection_closed"), Some(&1), "{:?}", status.report().ended);
    });
}

#[test]
fn a_stop_ends_allocations_and_says_goodbye() {
    on_all(|relay, tls| {
        let mut client = relay.client(tls);
        client.allocate();
        let status = relay.stop();
        assert_eq!(client.hear(), None, "closed, not cut");
        let report = status.report();
        assert_eq!(report.ended.get("shutdown"), Some(&1), "{:?}", report.ended);
        assert_eq!(report.streams.closed.of(CloseReason::ByRelay), 1);
    });
}

#[test]
fn a_client_that_never_reads_loses_media_that_is_counted_and_a_neighbour_nothing() {
    on_all(|relay, tls| {
        let peer = UdpSocket::bind((HERE, 0)).expect("a free port");
        let address = peer.local_addr().expect("bound");
        let (mut stalled, mut reader) = (relay.client(tls), relay.client(tls));
        let (to_stalled, to_reader) = (stalled.allocate(), reader.allocate());
        stalled.bind(address);
        reader.bind(address);
        let deadline = Instant::now() + PATIENCE;
        while relay.status.report().streams.dropped_full + relay.status.report().streams.dropped_old == 0 {
            assert!(Instant::now() < deadline, "{:?}", relay.status.report().streams);
            for _ in 0..200 {
                peer.send_to(&[1; 1200], to_stalled).expect("sent");
            }
            // Resent until it has come: UDP on a busy machine may lose it.
            peer.send_to(&[2; 100], to_reader).expect("sent");
            assert_eq!(reader.hear().expect("ChannelData").len(), 104);
        }
        let report = relay.stop().report();
        let (streams, counted) = (&report.streams, report.counts.userspace_drops);
        let queued = [streams.dropped_full, streams.dropped_old, streams.dropped_closed, 0, 0];
        assert_eq!(UserspaceDrop::ALL.map(|drop| counted.of(drop)), queued, "beside the other drops");
    });
}

/// Sends `count` datagrams at once and a Refresh behind them, of which `expected` get through; those that the peer got.
fn burst(relay: &Relay, tls: bool, count: u32, len: usize, expected: usize) -> Vec<u32> {
    let peer = UdpSocket::bind((HERE, 0)).expect("a free port");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut client = relay.client(tls);
    client.allocate();
    client.bind(peer.local_addr().expect("bound"));
    let mut all = Vec::new();
    for number in 0..count {
        all.extend(channel::header(0x4000, len as u16));
        all.extend(number.to_be_bytes());
        all.resize(all.len() + len - 4, 7);
    }
    client.send(&all);
    assert_eq!(client.request(method::REFRESH, |builder| builder.lifetime(600)).code, None);
    let mut buffer = [0; 4096];
    let take = |_| {
        assert_eq!(uninterrupted(|| peer.recv(&mut buffer)).expect("it comes"), len);
        u32::from_be_bytes(buffer[..4].try_into().expect("four bytes"))
    };
    (0..expected).map(take).collect()
}

#[test]
fn whoever_has_used_up_the_limit_waits_and_loses_nothing() {
    // 25,000 bytes at once, then 250,000 in a second.
    let config = Config { max_bitrate: NonZeroU64::new(2_000_000), ..Config::default() };
    on_all_with(&config, |relay, tls| {
        let numbers = burst(&relay, tls, 100, 1000, 100);
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        let report = relay.stop().report();
        assert!(report.streams.pauses > 0 && report.streams.paused_ns > 0, "{:?}", report.streams);
        assert_eq!(report.counts.verdicts.of(Verdict::DropRateToPeer), 0);
    });
}

#[test]
fn what_no_burst_has_room_for_is_dropped_and_holds_nobody_up() {
    // 3000 bytes are the least at once, whatever the rate.
    let config = Config { max_bitrate: NonZeroU64::new(1000), ..Config::default() };
    on_all_with(&config, |relay, tls| {
        burst(&relay, tls, 20, 3004, 0);
        let report = relay.stop().report();
        assert_eq!(report.streams.pauses, 0);
        assert_eq!(report.counts.verdicts.of(Verdict::DropRateToPeer), 20);
    });
}
