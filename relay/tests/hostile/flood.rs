//! A million requests from forged addresses: no memory, no harm to clients that are there (Q4, Q5).

use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};
use turnpike_testkit::PATIENCE;

use super::lab::{CLIENT_V4, Lab, PEER_V4};
use super::process::Process;
use super::raw::Spoofer;
use super::server::{ALLOW_PEERS, SERVER, Server};
use super::talker::{Answer, Talker, UDP, peer_socket};

/// Forged requests.
const FORGED: u64 = 1_000_000;
/// Forged requests per second: within what one slow core relays beside the tests' own work, since a
/// kernel that drops for want of processor time says nothing about the server.
const RATE: u64 = 30_000;
/// The first byte of forged addresses; all of 11/8 is routed to the client's namespace, which drops it.
const FORGED_NETWORK: u8 = 11;
/// Bytes that may wait for the server: a fraction of its receive buffer, so that the kernel drops nothing.
const MAX_BACKLOG: u64 = 512 << 10;
/// Memory that the server may gain: the allocator's arenas and queues that a busy turn fills once.
const GROWTH: u64 = 6 << 20;
/// How long after a call's last datagram one of it may arrive.
const LAST: Duration = Duration::from_secs(3);
/// One flood at a time: they need a core each.
static ONE_FLOOD: Mutex<()> = Mutex::new(());

/// An Allocate without credentials.
fn bare_allocate() -> Vec<u8> {
    MessageBuilder::request(method::ALLOCATE, TransactionId([0x55; 12]))
        .attribute(attr::REQUESTED_TRANSPORT, &UDP)
        .finish()
}

/// Answers to forged addresses go to the client's namespace and nowhere from there.
fn route_forged(lab: &Lab) {
    let network = format!("{FORGED_NETWORK}.0.0.0/8");
    let via = CLIENT_V4.to_string();
    for (namespace, route) in
        [(&lab.relay, vec![&*network, "via", &via]), (&lab.client, vec!["blackhole", &network])]
    {
        let mut command = namespace.command(Path::new("ip"));
        command.args(["route", "add"]).args(route);
        let outcome = Process::start(command).wait(PATIENCE);
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    }
}

/// Sends `total` datagrams at [`RATE`], or slower if the server gets too little processor time for that:
/// what waits for it stays below [`MAX_BACKLOG`].
fn flood(lab: &Lab, total: u64, mut send: impl FnMut()) -> Duration {
    let start = Instant::now();
    let (backlog, on) = (AtomicU64::new(0), AtomicBool::new(true));
    std::thread::scope(|scope| {
        scope.spawn(|| lab.relay.enter(|| watch_backlog(&backlog, &on)));
        for sent in 0..total {
            send();
            if sent % 32 == 31 {
                let due = Duration::from_micros(sent * 1_000_000 / RATE);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
                while backlog.load(Ordering::Relaxed) > MAX_BACKLOG {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        on.store(false, Ordering::Relaxed);
    });
    start.elapsed()
}

/// Keeps `backlog` at the bytes that wait in the fullest UDP socket of this thread's namespace.
fn watch_backlog(backlog: &AtomicU64, on: &AtomicBool) {
    while on.load(Ordering::Relaxed) {
        let table = std::fs::read_to_string("/proc/thread-self/net/udp").expect("the kernel has a table");
        let queues = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4)?.split_once(':'));
        let waiting = queues.filter_map(|(_, received)| u64::from_str_radix(received, 16).ok()).max();
        backlog.store(waiting.unwrap_or(0), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A client and its peer that exchange a datagram each way every 10 ms, as long as `on` is set.
struct Call {
    client: Talker,
    peer: UdpSocket,
    relayed: SocketAddr,
    /// How many were sent each way, and how many arrived.
    sent: AtomicU64,
    at_peer: AtomicU64,
    at_client: AtomicU64,
}

impl Call {
    fn start(lab: &Lab) -> Call {
        let peer = peer_socket(&lab.peer, PEER_V4);
        peer.set_read_timeout(Some(LAST)).expect("not zero");
        let mut client = Talker::new(&lab.client, SERVER);
        let relayed = client.allocate();
        assert_eq!(client.bind(peer.local_addr().expect("it is bound")).code, None);
        client.patient_for(LAST);
        let zero = || AtomicU64::new(0);
        Call { client, peer, relayed, sent: zero(), at_peer: zero(), at_client: zero() }
    }

    fn send_while(&self, on: &AtomicBool) {
        while on.load(Ordering::Relaxed) {
            self.client.channel_data(b"to the peer");
            self.peer.send_to(b"to the client", self.relayed).expect("the namespace has a route");
            self.sent.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn count_at_peer(&self, on: &AtomicBool) {
        let mut buffer = [0; 100];
        loop {
            match self.peer.recv_from(&mut buffer) {
                Ok(_) => _ = self.at_peer.fetch_add(1, Ordering::Relaxed),
                Err(_) if !on.load(Ordering::Relaxed) => return,
                Err(_) => {}
            }
        }
    }

    fn count_at_client(&self, on: &AtomicBool) {
        loop {
            match self.client.hear() {
                Some(_) => _ = self.at_client.fetch_add(1, Ordering::Relaxed),
                None if !on.load(Ordering::Relaxed) => return,
                None => {}
            }
        }
    }

    /// Whatever is missing was dropped by a kernel whose receiver got no processor time.
    #[track_caller]
    fn assert_nothing_lost(&self, lab: &Lab) {
        let [sent, at_peer, at_client] =
            [&self.sent, &self.at_peer, &self.at_client].map(|counter| counter.load(Ordering::Relaxed));
        let dropped = dropped_by_kernels(lab);
        println!("{sent} datagrams each way, {at_peer} and {at_client} arrived, kernels dropped {dropped}");
        assert!(sent > 100, "the call went on: {sent}");
        assert!(2 * sent - at_peer - at_client <= dropped, "the relay loses nothing of a call");
    }
}

/// Datagrams that the namespaces' kernels dropped because a socket's buffer was full.
fn dropped_by_kernels(lab: &Lab) -> u64 {
    let dropped = || {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel counts");
        let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
        let names = lines.next().expect("names").split_whitespace();
        let mut values = names.zip(lines.next().expect("values").split_whitespace());
        let (_, value) = values.find(|(name, _)| *name == "RcvbufErrors").expect("it is counted");
        value.parse::<u64>().expect("a number")
    };
    [&lab.client, &lab.relay, &lab.peer].into_iter().map(|namespace| namespace.enter(dropped)).sum()
}

/// New clients, one after the other: each is challenged, allocates and leaves.
fn new_clients(lab: &Lab, on: &AtomicBool) -> u64 {
    let mut clients = 0;
    while on.load(Ordering::Relaxed) {
        let mut client = Talker::new(&lab.client, SERVER);
        if !is_challenged(&mut client, on) {
            break;
        }
        client.allocate();
        assert_eq!(client.refresh(0).code, None);
        clients += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    clients
}

/// Asks until there is a challenge: a worker that can't keep up answers few strangers, whoever they are.
fn is_challenged(client: &mut Talker, on: &AtomicBool) -> bool {
    let bare = client.bare_allocate();
    client.patient_for(Duration::from_millis(100));
    let asked = std::iter::repeat_with(|| {
        client.say(&bare);
        client.hear()
    });
    let challenge = asked.take_while(|_| on.load(Ordering::Relaxed)).flatten().next();
    challenge.is_some_and(|challenge| {
        client.heed(&Answer::of(challenge));
        true
    })
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q5_a_million_forged_allocates_leave_memory_and_clients_alone() {
    let Some(lab) = Lab::new("q5_a_million_forged_allocates_leave_memory_and_clients_alone") else { return };
    let _alone = ONE_FLOOD.lock();
    route_forged(&lab);
    let server = Server::start(&lab, ALLOW_PEERS);
    let mut spoofer = Spoofer::new(&lab.client, SERVER, &bare_allocate());
    // What is allocated once, is allocated now.
    flood(&lab, FORGED / 10, || spoofer.send_from_anywhere(FORGED_NETWORK));
    let call = Call::start(&lab);
    let (before, on) = (server.resident_bytes(), AtomicBool::new(true));
    let (took, clients) = std::thread::scope(|scope| {
        scope.spawn(|| call.send_while(&on));
        scope.spawn(|| call.count_at_peer(&on));
        scope.spawn(|| call.count_at_client(&on));
        let clients = scope.spawn(|| new_clients(&lab, &on));
        let took = flood(&lab, FORGED, || spoofer.send_from_anywhere(FORGED_NETWORK));
        on.store(false, Ordering::Relaxed);
        (took, clients.join())
    });
    let clients = clients.expect("new clients are answered");
    let after = server.resident_bytes();
    call.assert_nothing_lost(&lab);
    let log = server.stop();
    println!(
        "{FORGED} forged requests in {took:?}: memory {before} -> {after} bytes, {} answered, \
         {clients} new clients, {} datagrams each way without loss",
        log.count("answered"),
        call.sent.load(Ordering::Relaxed),
    );
    assert!(after.saturating_sub(before) < GROWTH, "{before} -> {after} bytes");
    assert!(clients > 5, "{clients} new clients");
    let over_budget = log.count("drop_stranger_budget");
    assert!(log.count("answered") + over_budget > FORGED / 2, "the flood arrived: {}", log.0);
}

/// A flood with the address that honest clients share: it uses up that address's answers, yet whoever has
/// credentials is answered, and who asks for the first time gets through by retransmitting.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q4_a_flood_from_an_address_leaves_its_clients_alone() {
    let Some(lab) = Lab::new("q4_a_flood_from_an_address_leaves_its_clients_alone") else { return };
    let _alone = ONE_FLOOD.lock();
    let server = Server::start(&lab, ALLOW_PEERS);
    let IpAddr::V4(shared) = CLIENT_V4 else { panic!("the lab's client has an IPv4 address") };
    let mut spoofer = Spoofer::new(&lab.client, SERVER, &bare_allocate());
    let mut client = Talker::new(&lab.client, SERVER);
    client.allocate();
    let on = AtomicBool::new(true);
    let call = Call::start(&lab);
    std::thread::scope(|scope| {
        scope.spawn(|| call.send_while(&on));
        scope.spawn(|| call.count_at_peer(&on));
        scope.spawn(|| call.count_at_client(&on));
        let flood = scope.spawn(|| {
            let mut port = 1;
            flood(&lab, FORGED / 5, || {
                // Ports below those that sockets get by themselves: the answers find nobody.
                port = port % 20_000 + 1;
                spoofer.send_from(SocketAddrV4::new(shared, port));
            })
        });
        std::thread::sleep(Duration::from_millis(500));
        while !flood.is_finished() {
            assert_eq!(client.refresh(600).code, None, "who has credentials is not limited");
            std::thread::sleep(Duration::from_millis(20));
        }
        on.store(false, Ordering::Relaxed);
    });
    call.assert_nothing_lost(&lab);
    let log = server.stop();
    let (answered, limited) = (log.count("answered"), log.count("drop_unauthenticated_rate"));
    println!("{} forged requests of one address: {answered} answered, {limited} not", FORGED / 5);
    assert!(limited > FORGED / 5 / 2, "{}", log.0);
}

/// A flood cannot be used to keep a new client from its challenge for long (RFC 8489 s. 6.2.1).
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q4_a_new_client_of_a_flooded_address_gets_through_by_retransmitting() {
    let name = "q4_a_new_client_of_a_flooded_address_gets_through_by_retransmitting";
    let Some(lab) = Lab::new(name) else { return };
    let _alone = ONE_FLOOD.lock();
    let server = Server::start(&lab, "unauthenticated-rate = 1\n");
    let flooder = Talker::new(&lab.client, SERVER);
    (0..50).for_each(|_| flooder.say(&bare_allocate()));
    let client = Talker::new(&lab.client, SERVER);
    client.patient_for(Duration::from_millis(20));
    let tries = (1..=400).find(|_| {
        client.say(&bare_allocate());
        client.hear().is_some()
    });
    assert!(tries.is_some(), "one in eight is answered");
    server.stop();
}
