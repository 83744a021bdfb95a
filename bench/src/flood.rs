//! Floods of strangers from random sources beside live calls: what the calls, and new clients, notice of them.
//!
//! ```text
//!   client ns: senders, raw sockets, forged sources ─┐
//!              100 calls, echoed by a peer ──────────┼─► server ─► peer ns
//!              new clients, one after the other ─────┘
//! ```
//!
//! Nothing is pinned: senders, calls and server compete for the processors, as they would at a busy host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use turnpike_loadtest::modes::stop_flag;
use turnpike_loadtest::transport::Transport;
use turnpike_proto::auth::Key;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, method};

use crate::fault::Fault;
use crate::generator::{Ends, Generator, Load};
use crate::lab::{self, FORGED_NETWORK, Lab, Link, RELAYED, SERVER};
use crate::scenario::{Path, Traffic};
use crate::server::{PASSWORD, Programs, REALM, Running, USER, VARIANTS, Variant};
use crate::{cpu, machine};

/// The servers that are flooded: the kernel path has no part in what isn't ChannelData.
const SERVERS: &[&str] = &["turnpike-epoll", "turnpike-io-uring", "coturn"];
/// The calls.
const CALLS: Traffic = Traffic {
    clients: 100,
    packets_per_sec: 5000.0,
    payload_bytes: 170,
    run: 1,
    in_step: false,
    path: Path::Channel,
    transport: Transport::Udp,
};
/// Between two new clients.
const NEWCOMERS_APART: Duration = Duration::from_millis(100);
/// First retransmission timeout of a new client; it doubles (RFC 8489 s. 6.2.1).
const FIRST_RTO: Duration = Duration::from_millis(500);
/// Requests of a new client at most: seven (RFC 8489 s. 6.2.1).
const MAX_REQUESTS: u32 = 7;
/// Forged packets between two looks at the clock.
const RUN: u32 = 32;
const UDP: [u8; 4] = [17, 0, 0, 0];
/// `IPPROTO_RAW`: the IP header is ours, the kernel adds its checksum.
const IPPROTO_RAW: i32 = 255;
/// IP and UDP headers, bytes.
const HEADERS: usize = 28;

/// How the floods are run.
pub struct Options {
    /// Turnpike's binary, if not the one beside this program.
    pub turnpike: Option<std::path::PathBuf>,
    /// coturn's, if not the one on the path.
    pub turnserver: Option<std::path::PathBuf>,
    /// Only these servers.
    pub servers: Vec<String>,
    /// Threads that send forged packets.
    pub senders: u32,
    /// Forged packets per second of all of them at most.
    pub rate: u32,
    /// Length of each flood.
    pub duration: Duration,
}

/// What the flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Garbage,
    ChannelData,
    Binding,
    Allocate,
    Login,
    RelayPorts,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::Nothing,
        Kind::Garbage,
        Kind::ChannelData,
        Kind::Binding,
        Kind::Allocate,
        Kind::Login,
        Kind::RelayPorts,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Nothing => "no flood",
            Kind::Garbage => "garbage",
            Kind::ChannelData => "ChannelData of nobody",
            Kind::Binding => "Binding",
            Kind::Allocate => "Allocate without credentials",
            Kind::Login => "Allocate, forged credentials",
            Kind::RelayPorts => "garbage at the calls' relay ports",
        }
    }

    fn payload(self) -> Vec<u8> {
        let id = TransactionId([0x55; 12]);
        let allocate =
            MessageBuilder::request(method::ALLOCATE, id).attribute(attr::REQUESTED_TRANSPORT, &UDP);
        match self {
            Kind::Nothing => Vec::new(),
            Kind::Garbage | Kind::RelayPorts => vec![0xff; 28],
            // RFC 8656 s. 12.4: a channel, a length, and so many bytes.
            Kind::ChannelData => [&[0x40, 0, 0, 24][..], &[0xff; 24]].concat(),
            Kind::Binding => MessageBuilder::request(method::BINDING, id).finish(),
            Kind::Allocate => allocate.finish(),
            Kind::Login => allocate
                .attribute(attr::USERNAME, USER.as_bytes())
                .attribute(attr::REALM, REALM.as_bytes())
                .attribute(attr::NONCE, &[b'x'; 20])
                .attribute(attr::MESSAGE_INTEGRITY, &[7; 20])
                .finish(),
        }
    }
}

/// Runs every kind against every server, and prints a Markdown table as it goes.
///
/// # Errors
/// If it can't run here, or a server doesn't start.
pub fn run(options: &Options) -> Result<(), Fault> {
    let stop = stop_flag();
    let processors = cpu::processors();
    let cpus = format!("0-{}", processors.saturating_sub(1));
    let mut programs =
        Programs::find(options.turnpike.clone(), options.turnserver.clone(), cpus, processors)?;
    programs.limits = true;
    lab::prepare()?;
    let lab = Lab::new("flood", Link::Plain)?;
    lab.route_forged()?;
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let wanted = |variant: &&Variant| match options.servers.is_empty() {
        true => SERVERS.contains(&variant.name),
        false => options.servers.iter().any(|name| name == variant.name),
    };
    let Options { senders, rate, .. } = options;
    let secs = options.duration.as_secs();
    println!("{}; {senders} senders, at most {rate} packets/s together, {secs} s each\n", machine::utc_now());
    println!(
        "| Flood | Server | Forged packets/s | Calls' packets lost | Round trip p50 | p99 | New client, median | slowest | without success | Server's CPU |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for kind in Kind::ALL {
        for variant in VARIANTS.iter().filter(wanted) {
            let server = Running::start(&lab, &programs, variant, folder.path(), None, None)?;
            let outcome = flood(&lab, &server, kind, options, &stop);
            println!("{}", outcome?.row(kind, variant));
            server.stop()?;
        }
    }
    Ok(())
}

/// What one flood did.
struct Outcome {
    forged_per_sec: f64,
    load: Load,
    /// How long each new client took, sorted; and how many gave up.
    newcomers: Vec<Duration>,
    gave_up: u64,
}

impl Outcome {
    fn row(&self, kind: Kind, variant: &Variant) -> String {
        let stats = &self.load.stats;
        let ms = |us: f64| format!("{:.1} ms", us / 1000.0);
        let (p50, p99) = match stats.round_trip.summary() {
            Some(delay) => (ms(delay.p50_us), ms(delay.p99_us)),
            None => ("–".to_owned(), "–".to_owned()),
        };
        let newcomer =
            |at: Option<&Duration>| at.map_or("–".to_owned(), |took| ms(took.as_secs_f64() * 1e6));
        let cpu = self.load.used.server_secs / self.load.used.wall_secs;
        format!(
            "| {} | {} | {:.0} | {:.2} % | {p50} | {p99} | {} | {} | {} of {} | {cpu:.2} |",
            kind.name(),
            variant.name,
            self.forged_per_sec,
            stats.loss_percent(),
            newcomer(self.newcomers.get(self.newcomers.len() / 2)),
            newcomer(self.newcomers.last()),
            self.gave_up,
            self.gave_up + self.newcomers.len() as u64,
        )
    }
}

fn flood(
    lab: &Lab,
    server: &Running,
    kind: Kind,
    options: &Options,
    stop: &Arc<AtomicBool>,
) -> Result<Outcome, Fault> {
    let mut generator = Generator::start(lab, &CALLS, SERVER, Ends::Peer, 1, stop)?;
    generator.setup()?;
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let sockets = (0..if kind == Kind::Nothing { 0 } else { options.senders })
        .map(|_| lab.client.enter(raw_socket))
        .collect::<Result<Vec<Socket>, Fault>>()?;
    let targets = match kind {
        Kind::RelayPorts => relay_ports(server.pid())?,
        _ => vec![SERVER],
    };
    let begun = Instant::now();
    let (load, newcomers) = std::thread::scope(|scope| {
        for (number, socket) in sockets.iter().enumerate() {
            let (over, sent, targets) = (&over, &sent, &targets);
            let pause = Duration::from_secs(1) * RUN * options.senders / options.rate;
            let forged = Forged { targets, seed: number as u64, payload: kind.payload(), pause };
            scope.spawn(move || send_forged(socket, &forged, over, sent));
        }
        let newcomers = scope.spawn(|| lab.client.enter(|| new_clients(&over)));
        let load = generator.trial(1.0, options.duration, Some(server.pid()));
        over.store(true, Ordering::Relaxed);
        (load, newcomers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let forged_per_sec = sent.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    let (load, (mut newcomers, gave_up)) = (load?, newcomers?);
    newcomers.sort_unstable();
    generator.release()?;
    Ok(Outcome { forged_per_sec, load, newcomers, gave_up })
}

fn raw_socket() -> Result<Socket, Fault> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
        .map_err(|error| format!("raw socket: {error}").into())
}

/// The relayed transport addresses that a server has open.
fn relay_ports(pid: u32) -> Result<Vec<SocketAddr>, Fault> {
    let path = format!("/proc/{pid}/net/udp");
    let table = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let IpAddr::V4(relayed) = RELAYED else { unreachable!("the lab is IPv4") };
    // The address is a word in the order of the processor, the port a number.
    let own = format!("{:08X}:", u32::from_ne_bytes(relayed.octets()));
    let local = table.lines().filter_map(|line| line.split_whitespace().nth(1)?.strip_prefix(&own));
    let ports: Vec<_> = local.filter_map(|port| u16::from_str_radix(port, 16).ok()).collect();
    if ports.is_empty() {
        return Err("the server has no relay port open".into());
    }
    Ok(ports.into_iter().map(|port| SocketAddr::new(RELAYED, port)).collect())
}

/// What one sender sends.
struct Forged<'a> {
    /// Each packet goes to one of them.
    targets: &'a [SocketAddr],
    seed: u64,
    payload: Vec<u8>,
    /// Between two runs.
    pause: Duration,
}

/// Sends one run each `pause`, or as fast as it can; each packet from another address and port.
fn send_forged(socket: &Socket, forged: &Forged<'_>, over: &AtomicBool, sent: &AtomicU64) {
    let SocketAddr::V4(to) = forged.targets[0] else { unreachable!("the lab is IPv4") };
    let mut random = ChaCha8Rng::seed_from_u64(forged.seed);
    let mut packet = vec![0; HEADERS];
    (packet[0], packet[8], packet[9]) = (0x45, 64, 17);
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[24..26].copy_from_slice(&(8 + forged.payload.len() as u16).to_be_bytes());
    // A UDP checksum of zero says that there is none (RFC 768).
    packet.extend_from_slice(&forged.payload);
    let to = SockAddr::from(SocketAddrV4::new(*to.ip(), 0));
    let mut due = Instant::now();
    for number in 1u32.. {
        if number.is_multiple_of(RUN) {
            if over.load(Ordering::Relaxed) {
                return;
            }
            due += forged.pause;
            let early = due.saturating_duration_since(Instant::now());
            // Shorter sleeps take longer than they should.
            if early > Duration::from_millis(1) {
                std::thread::sleep(early);
            }
        }
        let source = Ipv4Addr::from_bits(u32::from(FORGED_NETWORK) << 24 | random.random::<u32>() >> 8);
        packet[12..16].copy_from_slice(&source.octets());
        packet[20..22].copy_from_slice(&random.random_range(1024..=u16::MAX).to_be_bytes());
        let target = forged.targets[random.random_range(0..forged.targets.len())];
        packet[22..24].copy_from_slice(&target.port().to_be_bytes());
        if socket.send_to(&packet, &to).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// New clients, one after the other; how long those took that got an allocation, and how many gave up.
fn new_clients(over: &AtomicBool) -> Result<(Vec<Duration>, u64), Fault> {
    let (mut took, mut gave_up, mut number) = (Vec::new(), 0, 0u64);
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        number += 1;
        match new_client(number, over).map_err(|error| format!("new client: {error}"))? {
            Arrival::Allocated => took.push(begun.elapsed()),
            Arrival::GaveUp => gave_up += 1,
            Arrival::Over => break,
        }
        std::thread::sleep(NEWCOMERS_APART);
    }
    Ok((took, gave_up))
}

enum Arrival {
    Allocated,
    GaveUp,
    /// The flood has ended meanwhile.
    Over,
}

fn new_client(number: u64, over: &AtomicBool) -> std::io::Result<Arrival> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SERVER)?;
    let id = |step: u8| {
        let mut id = [step; 12];
        id[4..].copy_from_slice(&number.to_be_bytes());
        TransactionId(id)
    };
    let bare = MessageBuilder::request(method::ALLOCATE, id(1)).attribute(attr::REQUESTED_TRANSPORT, &UDP);
    let challenge = match ask(&socket, &bare.finish(), over)? {
        Ok(answer) => answer,
        Err(arrival) => return Ok(arrival),
    };
    let nonce = Message::parse(&challenge).ok().and_then(|m| m.attribute(attr::NONCE).map(<[u8]>::to_vec));
    let (Some(nonce), Ok(key)) = (nonce, Key::md5(USER, REALM, PASSWORD)) else { return Ok(Arrival::GaveUp) };
    let sign = |builder: MessageBuilder| {
        let builder = builder.attribute(attr::USERNAME, USER.as_bytes());
        builder.attribute(attr::REALM, REALM.as_bytes()).attribute(attr::NONCE, &nonce).finish_signed(&key)
    };
    let allocate =
        MessageBuilder::request(method::ALLOCATE, id(2)).attribute(attr::REQUESTED_TRANSPORT, &UDP);
    let answer = match ask(&socket, &sign(allocate), over)? {
        Ok(answer) => answer,
        Err(arrival) => return Ok(arrival),
    };
    if !Message::parse(&answer).is_ok_and(|message| message.class() == Class::Success) {
        return Ok(Arrival::GaveUp);
    }
    // It leaves; nobody waits for the answer.
    socket.send(&sign(MessageBuilder::request(method::REFRESH, id(3)).lifetime(0)))?;
    Ok(Arrival::Allocated)
}

/// Sends a request until it is answered, as clients do.
fn ask(socket: &UdpSocket, request: &[u8], over: &AtomicBool) -> std::io::Result<Result<Vec<u8>, Arrival>> {
    let mut buffer = [0; 1500];
    for attempt in 0..MAX_REQUESTS {
        socket.send(request)?;
        let deadline = Instant::now() + FIRST_RTO * 2u32.pow(attempt);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if over.load(Ordering::Relaxed) {
                return Ok(Err(Arrival::Over));
            }
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left.min(FIRST_RTO)))?;
            match socket.recv(&mut buffer) {
                Ok(len) if buffer[8..20] == request[8..20] => return Ok(Ok(buffer[..len].to_vec())),
                _ => {}
            }
        }
    }
    Ok(Err(Arrival::GaveUp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_proto::wire::framer::{self, Frame};

    #[test]
    fn each_kind_is_what_a_server_takes_it_for() {
        let parse =
            |kind: Kind| Message::parse(&kind.payload()).map(|m| (m.method(), m.has_integrity())).ok();
        assert_eq!(parse(Kind::Garbage), None);
        let data = framer::next(&Kind::ChannelData.payload());
        assert_eq!(data, Frame::Message { len: 28, consumed: 28 });
        assert_eq!(parse(Kind::Binding), Some((method::BINDING, false)));
        assert_eq!(parse(Kind::Allocate), Some((method::ALLOCATE, false)));
        assert_eq!(parse(Kind::Login), Some((method::ALLOCATE, true)));
    }
}
