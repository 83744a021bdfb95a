//! One worker on real sockets: nothing is left of allocations that ended, a whole port range can be used
//! at once, and merged runs are taken apart as if they had come one by one.
//!
//! In network namespaces of their own, for which they need root; else they say so, and fail where CI=true
//! promises that everything runs.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use turnpike::config::resolve::Addresses;
use turnpike::config::{Config, Hidden, PortRange, Secret, User};
use turnpike::setup;
use turnpike::worker::{Order, Status, ToWorker};
use turnpike_driver::Driver;
use turnpike_driver::clock;
use turnpike_driver::epoll::EpollDriver;
use turnpike_driver::sockets::{SocketOptions, bind_listener};
use turnpike_driver::uring::{self, UringDriver};
use turnpike_proto::limits::{RETRANSMISSION_SECS, SECOND_NS};
use turnpike_proto::shared::Shared;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, channel, method};
use turnpike_proto::{Now, Server, Verdict, WorkerId};
use turnpike_testkit::talker::{Answer, Talker, UDP};
use turnpike_testkit::{PASSWORD, PATIENCE, USER, in_own_namespace, skip};
use zeroize::Zeroizing;

/// How long a datagram may wait: longer than usual, for the machine may be busy.
const DELAY: Duration = Duration::from_secs(1);
const RELAY: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another address, so that no client's own port is in the way of a relayed one.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const FIRST_CLIENT_PORT: u16 = 10_000;
/// As many ports as the test of a full range opens.
const RANGE: PortRange = PortRange { first: 40_000, last: 55_999 };

/// A worker that this thread turns whenever it wants something from it.
struct Worker<D> {
    inner: turnpike::worker::Worker<D>,
    shared: Arc<Shared>,
    address: SocketAddr,
    orders: SyncSender<ToWorker>,
    /// How much later it is for the worker than it is, nanoseconds.
    ahead_ns: u64,
}

impl<D: Driver> Worker<D> {
    fn new(make: impl FnOnce(Vec<turnpike_driver::sockets::ListenerSocket>, SocketOptions) -> D) -> Self {
        let options = SocketOptions::default();
        // Not in the range of relayed ports, all of which a test wants to have.
        let listener = bind_listener((RELAY, 3478).into(), &options).expect("the namespace is ours");
        let address = listener.local_addr();
        let user = User { name: USER.to_owned(), password: Secret::new(Zeroizing::new(PASSWORD.to_owned())) };
        let config = Config {
            users: Hidden(vec![user]),
            port_range: RANGE,
            allow_loopback_peers: true,
            // All clients are strangers from one address.
            unauthenticated_rate: None,
            ..Config::default()
        };
        let relay = IpAddr::from(RELAY).into();
        let addresses = Addresses { listen: vec![address], relay: vec![relay], ..Addresses::default() };
        let shared = setup::shared(&config, &addresses, &[address], [7; 32], None).expect("a good user");
        let server = Server::new(Arc::clone(&shared), WorkerId(0), [9; 32]);
        let (orders, receiver) = sync_channel(1);
        let driver = make(vec![listener], options);
        let inner = turnpike::worker::Worker::new(driver, server, receiver, Arc::new(Status::default()))
            .with_max_queue_delay(DELAY);
        Worker { inner, shared, address, orders, ahead_ns: 0 }
    }

    fn turn(&mut self) {
        let events = self.inner.driver().wait(Some(Duration::from_millis(1))).expect("waiting is possible");
        let now = clock::now();
        self.inner.turn(Now { mono_ns: now.mono_ns + self.ahead_ns, ..now }, events);
        self.inner.driver().flush();
    }

    /// Sends a request and turns the worker until it has answered.
    fn exchange(&mut self, client: &UdpSocket, request: &[u8]) -> Answer {
        client.send_to(request, self.address).expect("sent");
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            self.turn();
            if let Ok(len) = client.recv(&mut buffer) {
                return Answer::of(buffer[..len].to_vec());
            }
        }
        panic!("no answer within {PATIENCE:?}");
    }

    fn until_closed(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.inner.server().table_counts().relay_sockets > 0 && Instant::now() < deadline {
            self.turn();
        }
    }

    fn assert_empty(&mut self) {
        self.until_closed();
        assert_eq!(self.inner.server().table_counts(), Default::default());
        assert_eq!((self.shared.ports_taken(), self.inner.driver().open_ports()), (0, 0));
    }
}

/// A client with one socket, whose worker turns whenever it waits for an answer.
struct Client {
    talker: Talker,
}

impl Client {
    fn new(address: SocketAddr, worker: SocketAddr) -> Client {
        let talker = Talker::on(UdpSocket::bind(address).expect("a free port"), worker);
        talker.socket.set_nonblocking(true).expect("an option of every socket");
        Client { talker: talker.named(USER, PASSWORD) }
    }

    fn request<D: Driver>(
        &mut self,
        worker: &mut Worker<D>,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Answer {
        if self.talker.nonce.is_empty() {
            let bare = self.talker.bare_allocate();
            let challenge = worker.exchange(&self.talker.socket, &bare);
            self.talker.heed(&challenge);
        }
        let request = self.talker.signed(method, build);
        let answer = worker.exchange(&self.talker.socket, &request);
        assert_eq!(answer.code, None);
        answer
    }

    /// The relayed port.
    fn allocate<D: Driver>(&mut self, worker: &mut Worker<D>) -> u16 {
        let answer = self.request(worker, method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &UDP));
        match answer.message().xor_address(attr::XOR_RELAYED_ADDRESS) {
            Some(Ok(relayed)) => relayed.port(),
            _ => panic!("no relayed address"),
        }
    }

    /// RFC 8656 s. 8: lifetime 0 deletes.
    fn delete<D: Driver>(&mut self, worker: &mut Worker<D>) {
        self.request(worker, method::REFRESH, |b| b.lifetime(0));
    }

    /// RFC 8656 s. 12.2
    fn bind<D: Driver>(&mut self, worker: &mut Worker<D>, number: u16, peer: SocketAddr) {
        let [high, low] = number.to_be_bytes();
        self.request(worker, method::CHANNEL_BIND, |b| {
            b.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0]).xor_address(attr::XOR_PEER_ADDRESS, peer)
        });
    }
}

fn epoll() -> Worker<EpollDriver> {
    Worker::new(|listeners, options| EpollDriver::new(listeners, options).expect("a driver"))
}

fn io_uring() -> Option<Worker<UringDriver>> {
    match thread::spawn(uring::probe).join().expect("no panic") {
        Ok(()) => Some(Worker::new(|own, options| UringDriver::new(own, options).expect("a driver"))),
        Err(why) => {
            skip("worker on io_uring", &why);
            None
        }
    }
}

/// Time between two allocations, nanoseconds.
const APART_NS: u64 = 20_000_000;

/// Opens and deletes one allocation after the other; descriptors, ports and memory are back at the start.
fn churn<D: Driver>(worker: &mut Worker<D>, count: usize) {
    let mut client = Client::new((CLIENT, 0).into(), worker.address);
    let mut once = |worker: &mut Worker<D>| {
        client.allocate(worker);
        client.delete(worker);
        worker.ahead_ns += APART_NS;
    };
    // Transactions are remembered for a while.
    (0..2 * u64::from(RETRANSMISSION_SECS) * SECOND_NS / APART_NS).for_each(|_| once(worker));
    worker.assert_empty();
    let (descriptors, resident) = (own_sockets(), resident_bytes());
    (0..count).for_each(|_| once(worker));
    worker.assert_empty();
    assert_eq!(own_sockets(), descriptors, "sockets of this namespace");
    // A bounded hash table may grow by a step; 40 bytes lost per allocation would be too much.
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 4 << 20, "{grown} bytes more after {count} allocations");
}

/// UDP sockets of this thread's namespace: other tests of the process have their own.
fn own_sockets() -> usize {
    std::fs::read_to_string("/proc/thread-self/net/udp").expect("Linux has /proc").lines().count()
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    4096 * statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("second field")
}

/// Takes every port of the range, is refused one more, and gives all back.
fn fill<D: Driver>(worker: &mut Worker<D>, count: usize) {
    let mut ports = HashSet::new();
    for number in 0..count {
        // Not by the system's choice: it would soon give a port again whose allocation still lives.
        let mut client = Client::new((CLIENT, FIRST_CLIENT_PORT + number as u16).into(), worker.address);
        assert!(ports.insert(client.allocate(worker)), "each port once");
        // The socket goes, the allocation stays.
        assert_eq!(worker.inner.server().table_counts().allocations, number + 1);
    }
    assert!(ports.iter().all(|port| (RANGE.first..=RANGE.last).contains(port)));
    assert_eq!(worker.inner.driver().open_ports(), count);
    worker.orders.send(ToWorker::Tell(Order::Stop)).expect("the worker takes one order");
    worker.inner.driver().waker().wake();
    worker.assert_empty();
}

/// Sends datagrams of `size` bytes, the last one perhaps shorter, as one message (UDP_SEGMENT): over
/// loopback they arrive as one merged run.
fn send_run(socket: &UdpSocket, to: SocketAddr, size: usize, bytes: &[u8]) {
    use std::os::fd::AsRawFd;
    let size = size as libc::c_int;
    // SAFETY: the kernel reads one int from a live local.
    let result = unsafe {
        let (value, len) = ((&raw const size).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, len)
    };
    assert_eq!(result, 0, "Linux 4.18 has it");
    assert_eq!(socket.send_to(bytes, to).expect("sent"), bytes.len());
}

fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    [&channel::header(number, payload.len() as u16)[..], payload].concat()
}

/// What a socket receives while the worker turns.
fn receive<D: Driver>(worker: &mut Worker<D>, socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut received = Vec::new();
    let mut buffer = [0; 2048];
    while received.len() < count && Instant::now() < deadline {
        worker.turn();
        while let Ok(len) = socket.recv(&mut buffer) {
            received.push(buffer[..len].to_vec());
        }
    }
    received
}

/// After a standstill what is too old to be of use is gone, and counted; requests are answered, and what comes
/// afterwards is relayed.
fn stand_still<D: Driver>(worker: &mut Worker<D>) {
    const LATE: u64 = 5;
    let peer = Client::new((PEER, 0).into(), worker.address).talker.socket;
    let mut client = Client::new((CLIENT, 0).into(), worker.address);
    let relayed = SocketAddr::from((RELAY, client.allocate(worker)));
    client.bind(worker, 0x4000, peer.local_addr().expect("bound"));
    let both_ways = |data: &[u8]| {
        client.talker.socket.send_to(&channel_data(0x4000, data), (RELAY, 3478)).expect("sent");
        peer.send_to(data, relayed).expect("sent");
    };
    (0..LATE).for_each(|_| both_ways(b"late"));
    let id = TransactionId([9; 12]);
    let request = MessageBuilder::request(method::BINDING, id).finish();
    client.talker.socket.send_to(&request, worker.address).expect("sent");
    thread::sleep(DELAY + Duration::from_millis(50));
    both_ways(b"fresh");
    assert_eq!(receive(worker, &peer, 1), [b"fresh"]);
    let heard = receive(worker, &client.talker.socket, 2);
    let answer = heard.iter().find_map(|bytes| Message::parse(bytes).ok()).expect("requests may be late");
    assert_eq!((answer.class(), answer.transaction_id()), (Class::Success, id));
    assert!(heard.contains(&channel_data(0x4000, b"fresh")), "{heard:?}");
    assert_eq!(worker.inner.server().counts().verdicts.of(Verdict::DropLate), 2 * LATE);
    client.delete(worker);
    worker.assert_empty();
}

/// A run that mixes channels, with an unbound one and noise in between: each segment goes its own way.
fn mix<D: Driver>(worker: &mut Worker<D>) {
    let peers = [0, 1].map(|_| Client::new((PEER, 0).into(), worker.address).talker.socket);
    let mut client = Client::new((CLIENT, 0).into(), worker.address);
    let relayed = SocketAddr::from((RELAY, client.allocate(worker)));
    for (peer, number) in peers.iter().zip(0x4000..) {
        client.bind(worker, number, peer.local_addr().expect("bound"));
    }
    let to = worker.address;
    let mut run: Vec<u8> = Vec::new();
    for (number, byte) in [(0x4000, 1), (0x4001, 2), (0x4000, 3), (0x4002, 4), (0x4001, 5)] {
        run.extend(channel_data(number, &[byte; 96]));
    }
    run.extend([0xff; 100]);
    run.extend(channel_data(0x4000, &[6; 20]));
    send_run(&client.talker.socket, to, 100, &run);
    assert_eq!(receive(worker, &peers[0], 3), [vec![1; 96], vec![3; 96], vec![6; 20]]);
    assert_eq!(receive(worker, &peers[1], 2), [[2; 96], [5; 96]]);
    let verdicts = &worker.inner.server().counts().verdicts;
    assert_eq!(verdicts.of(Verdict::ChannelToPeer), 5);
    assert_eq!((verdicts.of(Verdict::DropUnboundChannel), verdicts.of(Verdict::DropNotTurn)), (1, 1));

    let back: Vec<u8> =
        (0..50u8).flat_map(|number| vec![number; if number < 49 { 300 } else { 7 }]).collect();
    send_run(&peers[1], relayed, 300, &back);
    let expected: Vec<Vec<u8>> = back.chunks(300).map(|segment| channel_data(0x4001, segment)).collect();
    assert_eq!(receive(worker, &client.talker.socket, 50), expected);
    assert_eq!(worker.inner.server().counts().verdicts.of(Verdict::ChannelToClient), 50);
}

#[test]
fn a_merged_run_of_several_channels_is_taken_apart() {
    in_own_namespace(|| {
        mix(&mut epoll());
        if let Some(mut worker) = io_uring() {
            mix(&mut worker);
        }
    });
}

/// The same on both drivers: one after the other, since the memory is that of the whole process.
fn churn_on_both(count: usize) {
    in_own_namespace(move || {
        churn(&mut epoll(), count);
        if let Some(mut worker) = io_uring() {
            churn(&mut worker, count);
        }
    });
}

#[test]
fn allocations_leave_nothing_behind() {
    churn_on_both(2000);
}

#[test]
#[ignore = "takes a minute: cargo test --release --test worker -- --ignored --test-threads 1"]
fn a_hundred_thousand_allocations_leave_nothing_behind() {
    churn_on_both(100_000);
}

#[test]
#[ignore = "takes a minute: cargo test --release --test worker -- --ignored --test-threads 1"]
fn sixteen_thousand_allocations_on_one_address() {
    in_own_namespace(|| {
        fill(&mut epoll(), 16_000);
        if let Some(mut worker) = io_uring() {
            fill(&mut worker, 16_000);
        }
    });
}

#[test]
fn what_is_late_is_dropped() {
    in_own_namespace(|| {
        stand_still(&mut epoll());
        if let Some(mut worker) = io_uring() {
            stand_still(&mut worker);
        }
    });
}
