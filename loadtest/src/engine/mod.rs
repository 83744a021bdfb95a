//! The load generator: worker threads that own clients, set their allocations up, run trials and
//! release everything, and an optional built-in peer.
//!
//! ```text
//!   main ──WorkerCommand──► worker: flows (link + Session + Pace + Tracker) ──► server
//!        ◄──Reply───         epoll, sendmmsg, recvmmsg                  ◄──
//!                     (over TCP and TLS: `stream`)
//!                     peer thread: echoes, stamps and counts            ◄──► server's relay ports
//! ```
//! Sending is an open loop: due times are fixed in advance (`schedule`), and nothing that the server
//! does or fails to do moves them. What the generator itself can't do in time is counted as its own.

pub mod mmsg;
pub mod payload;
pub mod peer;
pub mod receive;
pub mod schedule;
pub mod stream;
pub mod worker;

mod flow;
mod receiver;
mod sender;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{MAX_FLOWS, MAX_THREADS};
use crate::session::{SessionConfig, SetupError};
use crate::stats::{Delays, GroupStats};
use crate::transport::Transport;
use payload::Fill;
use peer::PeerHost;
use stream::tls::TlsClient;

/// How often a run looks at its counters.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// How data goes to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// ChannelData (RFC 8656 section 12.4).
    Channel,
    /// Send and Data indications (RFC 8656 section 11).
    Indication,
    /// No data: Binding requests and their answers.
    Binding,
    /// Bytes that are no STUN message at all (turnutils_uclient's `-Y invalid`).
    Invalid,
}

/// Whom a flow sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerChoice {
    /// Nobody: the server itself answers.
    None,
    /// This address, where something echoes.
    Fixed(SocketAddr),
    /// The relayed address of another flow of the plan, by index.
    Partner(usize),
    /// The peer that the load test runs itself: it echoes, and counts what reached it.
    BuiltIn,
}

/// Flows with the same traffic.
#[derive(Debug, Clone)]
pub struct Group {
    /// What reports call it.
    pub name: String,
    /// What its clients ask of the server before and beside their data.
    pub session: Arc<SessionConfig>,
    /// What is put around each packet's payload.
    pub framing: Framing,
    /// Application bytes of a packet.
    pub payload_bytes: usize,
    /// Packets per second of one flow; infinite = as fast as possible.
    pub packets_per_sec: f64,
    /// Packets sent back to back.
    pub run: u32,
    /// What the payload is filled with behind the marks that measure it.
    pub fill: Fill,
    /// Pad ChannelData to 4 bytes over UDP too; in streams it always is.
    pub pad_channel_data: bool,
    /// DONT-FRAGMENT in Send indications.
    pub dont_fragment: bool,
}

/// One client (one 5-tuple, one allocation).
#[derive(Debug, Clone)]
pub struct FlowSpec {
    /// Which of [`Plan::groups`] it is in.
    pub group: usize,
    /// Whom its data goes to.
    pub peer: PeerChoice,
    /// Ask for an even port; `true`: reserve the next one, too (the R bit of EVEN-PORT).
    pub even_port: Option<bool>,
    /// Takes the reservation token of this flow.
    pub token_from: Option<usize>,
    /// Flows of one unit stay on one worker.
    pub unit: usize,
}

/// Everything a run needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server's address and port.
    pub server: SocketAddr,
    /// Between clients and server.
    pub transport: Transport,
    /// What [`Transport::Tls`] needs.
    pub tls: Option<TlsClient>,
    /// Local address of the clients.
    pub local: Option<IpAddr>,
    /// SO_BINDTODEVICE of the clients.
    pub device: Option<String>,
    /// The kinds of traffic, which are reported each by itself.
    pub groups: Vec<Group>,
    /// One for each client; indices of flows are places in this list.
    pub flows: Vec<FlowSpec>,
    /// How many threads the clients are spread over.
    pub threads: usize,
    /// Set-ups under way at a time, over all workers.
    pub in_flight: usize,
    /// Set-ups started per second over all workers; infinite = no limit.
    pub setup_rate: f64,
    /// Deadline of the whole set-up.
    pub setup_deadline: Duration,
    /// Packets are sent on multiples of this, ns.
    pub tick_ns: u64,
    /// Packets later than this are skipped instead of sent; `None` = all are sent, however late.
    pub max_lag_ns: Option<u64>,
    /// A delay above this counts as late, ns.
    pub late_ns: u64,
    /// Send runs as one GSO datagram.
    pub gso: bool,
    /// Spoil one message in ten at random.
    pub disrupt: bool,
    /// Measure the time to the first relayed byte during set-up.
    pub first_byte: bool,
    /// Go on setting up after a client failed.
    pub keep_going: bool,
    /// Nothing is set up: for Binding requests and floods of garbage.
    pub no_setup: bool,
    /// Where the built-in peer binds; default: the address that reaches the server.
    pub peer_bind: Option<IpAddr>,
    /// Receive buffer of each client's UDP socket, bytes; connections have what the kernel thinks best.
    pub socket_buffer_bytes: usize,
}

/// What one trial is.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Number of the trial, 1 to 4095.
    pub number: u32,
    /// Multiplies every group's packet rate.
    pub rate_factor: f64,
    /// How long packets are sent.
    pub duration: Option<Duration>,
    /// Packets of each flow, instead of a duration.
    pub count: Option<u64>,
    /// How long to wait for packets under way at the end.
    pub drain: Duration,
    /// Spread of the flows' first packets; `None` = one interval.
    pub spread: Option<Duration>,
}

/// Counters that a worker shows while it runs.
#[derive(Debug, Default)]
pub struct Live {
    /// Packets handed to the kernel.
    pub sent: AtomicU64,
    /// Distinct packets received.
    pub received: AtomicU64,
    /// Flows still sending or waiting.
    pub running: AtomicU64,
    /// Sessions set up or released.
    pub sessions: AtomicU64,
}

/// Sum of all workers' live counters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Time since the phase began.
    pub elapsed: Duration,
    /// Packets handed to the kernel.
    pub sent: u64,
    /// Distinct packets received.
    pub received: u64,
    /// Flows that still send, or wait for what they have sent.
    pub running: u64,
    /// Sessions that are set up, or released, whichever phase it is.
    pub sessions: u64,
}

/// Result of the set-up.
#[derive(Debug, Clone, Default)]
pub struct SetupReport {
    /// Sessions that are ready.
    pub ready: usize,
    /// Sessions that the plan has.
    pub wanted: usize,
    /// Failures by reason: how many.
    pub failures: Vec<(SetupError, usize)>,
    /// From the first step of a connection to its being open, TLS included, ns; empty over UDP.
    pub connect: Delays,
    /// From the first Allocate, or the beginning of the connection, to its success, ns.
    pub allocate: Delays,
    /// From the first Allocate to the last answer of the set-up, ns.
    pub ready_delay: Delays,
    /// From the first Allocate to the first relayed byte received, ns.
    pub first_byte: Delays,
    /// Wall time of the whole set-up.
    pub elapsed: Duration,
    /// A signal ended it before its time.
    pub interrupted: bool,
}

/// Result of the release.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReleaseReport {
    /// Allocations that existed.
    pub held: usize,
    /// Refresh 0 confirmed by the server.
    pub confirmed: usize,
    /// Connections that had ended before, outside of trials: their allocations may be gone with them.
    pub connections_lost: u64,
    /// From the first Refresh to the last answer, or to the end of patience.
    pub elapsed: Duration,
}

impl ReleaseReport {
    /// What to say about allocations that are not known to be gone.
    pub fn left(&self) -> Option<String> {
        let left = self.held - self.confirmed;
        if self.connections_lost > 0 {
            let lost = self.connections_lost;
            return Some(format!(
                "{lost} connections ended by themselves; {left} allocations were not confirmed gone"
            ));
        }
        (left > 0).then(|| format!("{left} allocations were not confirmed gone; they expire by themselves"))
    }
}

/// Result of one trial.
#[derive(Debug, Clone, Default)]
pub struct TrialReport {
    /// Counters by group, in the plan's order.
    pub groups: Vec<GroupStats>,
    /// From the first due packet to the last one sent.
    pub sending: Duration,
    /// CPU seconds of the workers.
    pub cpu_secs: f64,
    /// (seconds, packets sent, packets received) every 100 ms.
    pub series: Vec<(f64, u64, u64)>,
    /// A signal ended it before its time.
    pub interrupted: bool,
    /// Renewals of allocations, permissions or channels that failed.
    pub renewal_failures: u64,
    /// Connections that ended during the trial.
    pub connections_lost: u64,
}

impl TrialReport {
    /// The counters of all groups, added up.
    pub fn total(&self) -> GroupStats {
        let mut total = GroupStats::default();
        self.groups.iter().for_each(|group| total.merge(group));
        total
    }
}

/// What main asks of a worker.
pub(crate) enum WorkerCommand {
    Setup { deadline_ns: u64 },
    Trial { trial: Arc<Trial>, start_ns: u64 },
    Release { deadline_ns: u64 },
}

/// What a worker answers.
pub(crate) enum Reply {
    Setup(Box<SetupReport>),
    Trial(Box<TrialReport>),
    Release(ReleaseReport),
}

struct WorkerHandle {
    commands: Sender<WorkerCommand>,
    replies: Receiver<Reply>,
    live: Arc<Live>,
    thread: JoinHandle<()>,
}

/// A running generator.
pub struct Engine {
    workers: Vec<WorkerHandle>,
    peer: Option<PeerHost>,
    plan: Arc<Plan>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// Starts the threads; nothing is sent yet. `stop` ends any phase early.
    pub fn start(plan: Plan, stop: Arc<AtomicBool>) -> io::Result<Self> {
        if plan.flows.len() > MAX_FLOWS {
            return Err(io::Error::other(format!("at most {MAX_FLOWS} clients")));
        }
        let spare = 64 + plan.threads * 4;
        if mmsg::raise_open_files_limit() < (plan.flows.len() + spare) as u64 {
            let wanted = plan.flows.len() + spare;
            return Err(io::Error::other(format!("too few open files allowed: ulimit -n {wanted}")));
        }
        let plan = Arc::new(plan);
        let peer = plan.flows.iter().any(|flow| flow.peer == PeerChoice::BuiltIn);
        let peer = if peer { Some(PeerHost::start(&plan)?) } else { None };
        let addresses = peer.as_ref().map_or_else(Vec::new, PeerHost::addresses);
        let threads = plan.threads.clamp(1, MAX_THREADS);
        let mut workers = Vec::with_capacity(threads);
        for index in 0..threads {
            let (commands, inbox) = channel();
            let (outbox, replies) = channel();
            let live = Arc::new(Live::default());
            let worker = worker::Builder {
                plan: plan.clone(),
                index,
                threads,
                live: live.clone(),
                stop: stop.clone(),
                peers: addresses.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker.run(&inbox, &outbox))?;
            workers.push(WorkerHandle { commands, replies, live, thread });
        }
        Ok(Self { workers, peer, plan, stop })
    }

    /// What the engine was made for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Sets all sessions up at the same time, within the plan's deadline.
    pub fn setup(&mut self, progress: &mut dyn FnMut(&Snapshot)) -> SetupReport {
        let started_ns = mmsg::mono_ns();
        let deadline_ns = started_ns + self.plan.setup_deadline.as_nanos() as u64;
        let mut report = SetupReport { wanted: self.plan.flows.len(), ..SetupReport::default() };
        self.send_all(|| WorkerCommand::Setup { deadline_ns });
        self.collect(started_ns, progress, |reply| {
            let Reply::Setup(part) = reply else { return };
            report.ready += part.ready;
            report.connect.merge(&part.connect);
            report.allocate.merge(&part.allocate);
            report.ready_delay.merge(&part.ready_delay);
            report.first_byte.merge(&part.first_byte);
            report.interrupted |= part.interrupted;
            for (error, count) in part.failures {
                add_failure(&mut report.failures, error, count);
            }
        });
        // Causes before consequences.
        report.failures.sort_by_key(|(error, _)| matches!(error, SetupError::Partner | SetupError::Deadline));
        report.elapsed = Duration::from_nanos(mmsg::mono_ns() - started_ns);
        report
    }

    /// Runs one trial on the sessions that are ready.
    pub fn trial(&mut self, trial: Trial, progress: &mut dyn FnMut(&Snapshot)) -> TrialReport {
        /// Head start, so that all workers begin together.
        const LEAD_NS: u64 = 20_000_000;
        let trial = Arc::new(trial);
        let start_ns = mmsg::mono_ns() + LEAD_NS;
        let groups = self.plan.groups.len();
        let mut report =
            TrialReport { groups: vec![GroupStats::default(); groups], ..TrialReport::default() };
        if let Some(peer) = &self.peer {
            peer.begin(trial.number);
        }
        for worker in &self.workers {
            worker.live.sent.store(0, Ordering::Relaxed);
            worker.live.received.store(0, Ordering::Relaxed);
        }
        self.send_all(|| WorkerCommand::Trial { trial: trial.clone(), start_ns });
        let mut series = Vec::new();
        let mut sample = |now: &Snapshot| {
            series.push((now.elapsed.as_secs_f64(), now.sent, now.received));
            progress(now);
        };
        self.collect(start_ns, &mut sample, |reply| {
            let Reply::Trial(part) = reply else { return };
            report.groups.iter_mut().zip(&part.groups).for_each(|(sum, group)| sum.merge(group));
            report.sending = report.sending.max(part.sending);
            report.cpu_secs += part.cpu_secs;
            report.interrupted |= part.interrupted;
            report.renewal_failures += part.renewal_failures;
            report.connections_lost += part.connections_lost;
        });
        if let Some(peer) = &self.peer {
            let counts = peer.finish();
            report.groups.iter_mut().zip(&counts).for_each(|(sum, group)| sum.merge(group));
        }
        report.series = series;
        report
    }

    /// Deletes all allocations, with confirmation, and ends the threads.
    pub fn release(mut self, within: Duration, progress: &mut dyn FnMut(&Snapshot)) -> ReleaseReport {
        let started_ns = mmsg::mono_ns();
        let deadline_ns = started_ns + within.as_nanos() as u64;
        let mut report = ReleaseReport::default();
        self.send_all(|| WorkerCommand::Release { deadline_ns });
        self.collect(started_ns, progress, |reply| {
            let Reply::Release(part) = reply else { return };
            report.held += part.held;
            report.confirmed += part.confirmed;
            report.connections_lost += part.connections_lost;
        });
        report.elapsed = Duration::from_nanos(mmsg::mono_ns() - started_ns);
        self.join_workers();
        report
    }

    /// Ends the threads and closes the sockets; allocations stay until the server lets them expire.
    pub fn abandon(mut self) {
        self.join_workers();
    }

    fn join_workers(&mut self) {
        for worker in self.workers.drain(..) {
            drop(worker.commands);
            worker.thread.join().expect("workers don't panic");
        }
    }

    /// Whether a signal asked for the end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn send_all(&self, command: impl Fn() -> WorkerCommand) {
        for worker in &self.workers {
            worker.commands.send(command()).expect("a worker lives until its channel closes");
        }
    }

    fn collect(&self, start_ns: u64, progress: &mut dyn FnMut(&Snapshot), mut take: impl FnMut(Reply)) {
        for worker in &self.workers {
            loop {
                match worker.replies.recv_timeout(SAMPLE_EVERY) {
                    Ok(reply) => {
                        take(reply);
                        break;
                    }
                    Err(RecvTimeoutError::Timeout) => progress(&self.snapshot(start_ns)),
                    Err(RecvTimeoutError::Disconnected) => panic!("a worker thread ended by a bug"),
                }
            }
        }
        progress(&self.snapshot(start_ns));
    }

    fn snapshot(&self, start_ns: u64) -> Snapshot {
        let elapsed = Duration::from_nanos(mmsg::mono_ns().saturating_sub(start_ns));
        let mut sum = Snapshot { elapsed, ..Snapshot::default() };
        for Live { sent, received, running, sessions } in self.workers.iter().map(|worker| &*worker.live) {
            sum.sent += sent.load(Ordering::Relaxed);
            sum.received += received.load(Ordering::Relaxed);
            sum.running += running.load(Ordering::Relaxed);
            sum.sessions += sessions.load(Ordering::Relaxed);
        }
        sum
    }
}

/// Counts a failure with those of the same kind, so that thousands of clients give one line.
pub(crate) fn add_failure(failures: &mut Vec<(SetupError, usize)>, error: SetupError, count: usize) {
    let same = |known: &SetupError| match (known, &error) {
        (SetupError::PeerForbidden(a, _), SetupError::PeerForbidden(b, _)) => a.ip() == b.ip(),
        (a, b) => a == b,
    };
    match failures.iter_mut().find(|(known, _)| same(known)) {
        Some((_, sum)) => *sum += count,
        None => failures.push((error, count)),
    }
}

/// A UDP socket with a large receive queue that doesn't block, to be read by [`receive::RecvBatch`]:
/// it may get merged runs.
pub fn open_socket(local: SocketAddr, device: Option<&str>, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    mmsg::force_receive_buffer(socket.as_fd(), buffer_bytes);
    receive::allow_merged_runs(socket.as_fd());
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

/// The unspecified address of a family, any port.
pub(crate) fn any_address(like: SocketAddr) -> SocketAddr {
    if like.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() }
}
