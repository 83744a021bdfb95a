//! Turnpike's own measurements, and what they have in common: from options to a plan, set-up,
//! trials, release, report.

pub mod allocate;
pub mod loss;
pub mod ndr;
pub mod stun;
pub mod video;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::arguments::{Server, duration, millis, resolve_server};
use crate::credentials::Credentials;
use crate::engine::payload::{Fill, MAX_PAYLOAD, MIN_PAYLOAD};
use crate::engine::stream::LinkError;
use crate::engine::{Engine, FlowSpec, Framing, Group, PeerChoice, Plan, Snapshot};
use crate::report::output::Outputs;
use crate::report::verdict::{Verdict, VerdictKind};
use crate::report::{Report, table, unix_secs};
use crate::session::{SessionConfig, SetupError};
use crate::stats::GroupStats;
use crate::stun_client::{AllocateOptions, Family};
use crate::transport::{Transport, TransportArgs};

/// LIFETIME asked for, seconds: the default of RFC 8656 section 3.2.
const LIFETIME_SECS: u32 = 600;
/// Renewal of allocation, permission and channel: well within a permission's 300 s.
const RENEW_EVERY_NS: u64 = 120_000_000_000;
/// How long the release may take at the end.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// Exit status when loss exceeds `--fail-above-loss`.
pub const EXIT_LOSS: u8 = 1;
/// Exit status when the run could not be set up.
pub const EXIT_FAILED: u8 = 2;
/// Exit status after SIGINT or SIGTERM.
pub const EXIT_INTERRUPTED: u8 = 130;

/// How data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// ChannelData to an echoing peer and back.
    Channel,
    /// Send and Data indications to an echoing peer and back.
    Indication,
    /// ChannelData from client to client through both clients' relayed addresses, one way.
    RelayToRelay,
    /// Binding requests to the server; no allocation.
    Binding,
}

/// Options of every mode of our own.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// User name of the long-term credentials, or the user part with --rest-secret
    #[arg(short, long)]
    pub user: Option<String>,
    /// Password
    #[arg(short = 'w', long, env = "TURNPIKE_LOADTEST_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Shared secret from which time-limited credentials are derived
    #[arg(short = 'W', long, env = "TURNPIKE_LOADTEST_REST_SECRET", hide_env_values = true)]
    pub rest_secret: Option<String>,
    /// UDP echo server to send to; default: a built-in peer in this process
    #[arg(long, value_name = "IP:PORT")]
    pub peer: Option<SocketAddr>,
    /// Address of the built-in peer; default: the one that reaches the server
    #[arg(long, value_name = "IP")]
    pub peer_bind: Option<IpAddr>,
    /// Local address of the clients
    #[arg(long, value_name = "IP")]
    pub local: Option<IpAddr>,
    /// Bind the clients to a network device
    #[arg(long)]
    pub device: Option<String>,
    /// Address family of the relayed addresses; default: the server's choice
    #[arg(long, value_parser = ["4", "6"])]
    pub relay_family: Option<String>,
    /// Worker threads; default: half of the processors
    #[arg(long)]
    pub threads: Option<usize>,
    /// Clients being set up at a time
    #[arg(long, default_value_t = 256)]
    pub in_flight: usize,
    /// Deadline of the whole set-up
    #[arg(long, default_value = "30", value_name = "SECS|1m", value_parser = duration)]
    pub setup_timeout: Duration,
    /// How long to wait for packets under way at the end of a trial
    #[arg(long, default_value = "1000", value_name = "MS|1s", value_parser = millis)]
    pub drain: u64,
    /// A packet that took longer than this counts as late
    #[arg(long, default_value = "400", value_name = "MS|1s", value_parser = millis)]
    pub late: u64,
    /// Packets are sent on multiples of this, µs
    #[arg(long, default_value_t = 100, value_name = "US")]
    pub tick: u64,
    /// A packet that could not be sent this long after its time is skipped and counted
    #[arg(long, default_value = "50", value_name = "MS|1s", value_parser = millis)]
    pub max_lag: u64,
    /// Receive and send buffer of each client's UDP socket, KiB
    #[arg(long, default_value_t = 1024, value_name = "KIB")]
    pub socket_buffer: usize,
    /// Over UDP, send runs as one GSO datagram: cheaper for the generator, and flatters servers with GRO
    #[arg(long)]
    pub gso: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one self-contained HTML page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Exit with status 1 if more than this percentage of the packets is lost
    #[arg(long, value_name = "PERCENT")]
    pub fail_above_loss: Option<f64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub transport: TransportArgs,
}

/// Clients with the same traffic.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// Name in reports.
    pub name: String,
    /// Clients (allocations).
    pub clients: usize,
    /// Path of the data.
    pub mode: Mode,
    /// Application bytes per packet.
    pub payload_bytes: usize,
    /// Packets per second and client.
    pub packets_per_sec: f64,
    /// Packets sent back to back.
    pub run: u32,
}

/// A fault of the options or the surroundings, one line.
pub type Fault = String;

impl Common {
    /// The credentials of the options, if any.
    pub fn credentials(&self) -> Result<Option<Credentials>, Fault> {
        match (&self.rest_secret, &self.user, &self.password) {
            (Some(_), _, Some(_)) => Err("give either a password or a REST secret, not both".into()),
            (Some(secret), user, None) => {
                Ok(Some(Credentials::from_rest_secret(secret, user.as_deref(), ':', unix_secs())))
            }
            (None, Some(user), Some(password)) => Ok(Some(Credentials::new(user, password))),
            (None, None, None) => Ok(None),
            _ => Err("a user name and a password go together".into()),
        }
    }

    /// The server that a command line names.
    pub fn server(&self, text: &str) -> Result<Server, Fault> {
        resolve_server(text, self.transport.transport)
    }

    /// The plan for groups of clients against a server.
    pub fn plan(&self, server: &Server, groups: &[GroupSpec]) -> Result<Plan, Fault> {
        let credentials = self.credentials()?;
        if self.gso && server.transport.is_stream() {
            return Err("--gso is for UDP: a stream has no datagrams".into());
        }
        let mut plan = Plan {
            server: server.address,
            transport: server.transport,
            tls: self.transport.tls(server.transport, &server.host)?,
            local: self.local,
            device: self.device.clone(),
            groups: Vec::new(),
            flows: Vec::new(),
            threads: self.threads.unwrap_or_else(default_threads).max(1),
            in_flight: self.in_flight.max(1),
            setup_rate: f64::INFINITY,
            setup_deadline: self.setup_timeout,
            tick_ns: self.tick * 1000,
            max_lag_ns: Some((self.max_lag * 1_000_000).max(self.tick * 2000)),
            late_ns: self.late * 1_000_000,
            gso: self.gso,
            disrupt: false,
            first_byte: false,
            keep_going: false,
            no_setup: groups.iter().all(|group| group.mode == Mode::Binding),
            peer_bind: self.peer_bind,
            socket_buffer_bytes: self.socket_buffer * 1024,
        };
        for (index, group) in groups.iter().enumerate() {
            if group.mode == Mode::Binding && !plan.no_setup {
                return Err("Binding requests can't be mixed with other modes in one run".into());
            }
            check_group(group)?;
            plan.groups.push(self.group(group, server.transport, credentials.as_ref()));
            self.add_flows(&mut plan, index, group);
        }
        plan.threads = plan.threads.min(plan.flows.len());
        Ok(plan)
    }

    fn group(&self, spec: &GroupSpec, transport: Transport, credentials: Option<&Credentials>) -> Group {
        let family = match self.relay_family.as_deref() {
            Some("4") => Family::V4,
            Some("6") => Family::V6,
            _ => Family::Unspecified,
        };
        let framing = match spec.mode {
            Mode::Channel | Mode::RelayToRelay => Framing::Channel,
            Mode::Indication => Framing::Indication,
            Mode::Binding => Framing::Binding,
        };
        let session = SessionConfig {
            transport,
            credentials: credentials.cloned(),
            allocate: AllocateOptions { lifetime_secs: LIFETIME_SECS, family, ..AllocateOptions::default() },
            channel: framing == Framing::Channel,
            random_channel: false,
            permission: framing != Framing::Channel,
            refresh_first: false,
            extra_requests: false,
            renew_every_ns: RENEW_EVERY_NS,
        };
        Group {
            name: spec.name.clone(),
            session: Arc::new(session),
            framing,
            payload_bytes: spec.payload_bytes,
            packets_per_sec: spec.packets_per_sec,
            run: spec.run,
            fill: Fill::Pattern,
            pad_channel_data: false,
            dont_fragment: false,
        }
    }

    fn add_flows(&self, plan: &mut Plan, group: usize, spec: &GroupSpec) {
        let pairs = spec.mode == Mode::RelayToRelay;
        let clients = if pairs { spec.clients.next_multiple_of(2) } else { spec.clients };
        let first = plan.flows.len();
        for index in first..first + clients {
            let peer = match (spec.mode, self.peer) {
                (Mode::RelayToRelay, _) => PeerChoice::Partner(first + ((index - first) ^ 1)),
                (Mode::Binding, _) => PeerChoice::None,
                (_, Some(peer)) => PeerChoice::Fixed(peer),
                (_, None) => PeerChoice::BuiltIn,
            };
            let unit = if pairs { first + (index - first) / 2 } else { index };
            plan.flows.push(FlowSpec { group, peer, even_port: None, token_from: None, unit });
        }
    }
}

fn check_group(group: &GroupSpec) -> Result<(), Fault> {
    let GroupSpec { name, clients, payload_bytes, packets_per_sec, run, .. } = group;
    let largest = MAX_PAYLOAD - 100;
    if *clients == 0 || *run == 0 {
        return Err(format!("{name}: clients and run are at least 1"));
    }
    if !(MIN_PAYLOAD..=largest).contains(payload_bytes) {
        return Err(format!("{name}: a payload has {MIN_PAYLOAD} to {largest} bytes"));
    }
    if packets_per_sec.is_nan() || *packets_per_sec <= 0.0 {
        return Err(format!("{name}: the packet rate must be above 0"));
    }
    Ok(())
}

/// Half of the processors: the other half is the server's when both share a machine.
pub fn default_threads() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 16)
}

/// A flag that SIGINT, SIGTERM and SIGHUP raise; a second signal ends the process at once.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()));
        registered.expect("handlers of these signals can be installed");
    }
    stop
}

/// What [`run`]'s body works with.
pub struct Run<'a> {
    /// The generator, set up.
    pub engine: &'a mut Engine,
    /// The report so far.
    pub report: &'a mut Report,
    /// The bar on the terminal.
    pub bar: &'a ProgressBar,
}

/// Sets up, calls `body`, releases everything whatever happened, and reports.
pub fn run(
    common: &Common,
    plan: Plan,
    mut report: Report,
    body: impl FnOnce(&mut Run<'_>) -> Result<(), Fault>,
) -> Result<ExitCode, Fault> {
    let outputs = Outputs::open(common.json.as_deref(), common.html.as_deref())?;
    let stop = stop_flag();
    let bar = ProgressBar::new(plan.flows.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{elapsed_precise} {bar:30} {msg}").expect("the template is constant"),
    );
    let mut engine = Engine::start(plan, stop.clone()).map_err(|error| error.to_string())?;
    let mut progress = |now: &Snapshot| {
        bar.set_position(now.sessions);
        bar.set_message(format!("{} clients ready", now.sessions));
    };
    let setup = engine.setup(&mut progress);
    report.interrupted = setup.interrupted;
    report.setup = (!engine.plan().no_setup).then(|| (&setup).into());
    let mut outcome = match setup.failures.first() {
        Some((reason, count)) if !engine.plan().keep_going || setup.ready == 0 => {
            let advice = advice(&report.mode, engine.plan(), reason);
            Err(format!("{count} of {} clients could not be set up: {reason}{advice}", setup.wanted))
        }
        _ => Ok(()),
    };
    if outcome.is_ok() && !setup.interrupted {
        outcome = body(&mut Run { engine: &mut engine, report: &mut report, bar: &bar });
    }
    let plan = engine.plan().clone();
    let release = engine.release(RELEASE_WITHIN, &mut |_| {});
    bar.finish_and_clear();
    let left = release.left();
    outcome.map_err(|fault| left.iter().fold(fault, |fault, left| format!("{fault}; {left}")))?;
    report.release = (!plan.no_setup).then(|| release.into());
    report.notes.extend(left);
    report.interrupted |= stop.load(Ordering::Relaxed);
    report.verdict = Verdict::of(&report, common.fail_above_loss);
    if report.verdict.kind == VerdictKind::NothingReceived && uses_built_in_peer(&plan) {
        let way = way_without_peer(&report.mode);
        report.notes.push(format!(
            "the built-in peer may be out of the server's reach, as it is behind a NAT (--peer-bind): {way}"
        ));
    }
    print(&table::render(&report))?;
    outputs.write(&report)?;
    Ok(exit_code(common, &report))
}

/// What else could be done about a client that could not be set up.
fn advice(mode: &str, plan: &Plan, reason: &SetupError) -> String {
    match reason {
        SetupError::PeerForbidden(..) if uses_built_in_peer(plan) => {
            format!("; behind a NAT the built-in peer's address is a private one: {}", way_without_peer(mode))
        }
        _ => certificate_advice(reason).to_owned(),
    }
}

/// What else could be done about a server's certificate.
pub(super) fn certificate_advice(reason: &SetupError) -> &'static str {
    match reason {
        SetupError::Connection(LinkError::Certificate(_)) => {
            "; --ca-file names whom to trust, --insecure takes any certificate"
        }
        _ => "",
    }
}

fn uses_built_in_peer(plan: &Plan) -> bool {
    plan.flows.iter().any(|flow| flow.peer == PeerChoice::BuiltIn)
}

/// How to measure in a mode without a peer of this machine's own.
fn way_without_peer(mode: &str) -> &'static str {
    match mode {
        "allocate" => "--only needs no peer",
        "run" => "a scenario with mode = \"relay-to-relay\" needs no peer",
        _ => "-m relay-to-relay needs no peer",
    }
}

/// Prints to stdout; that a reader has seen enough (`| head`) is no fault.
pub(crate) fn print(text: &str) -> Result<(), Fault> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot print the report: {error}"))
        }
        _ => Ok(()),
    }
}

fn exit_code(common: &Common, report: &Report) -> ExitCode {
    if let Some(limit) = common.fail_above_loss {
        let worst = report.trials.iter().map(|trial| trial.total.loss_percent).fold(0.0, f64::max);
        if report.search.is_none() && worst > limit {
            eprintln!("turnpike-loadtest: {worst:.4} % lost, more than the {limit} % allowed");
            return ExitCode::from(EXIT_LOSS);
        }
    }
    if report.interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::SUCCESS }
}

/// Packets per second of all flows together.
pub fn offered_pps(plan: &Plan, factor: f64) -> f64 {
    plan.flows.iter().map(|flow| plan.groups[flow.group].packets_per_sec * factor).sum()
}

/// Shows a trial's progress on the bar.
pub fn trial_progress(bar: &ProgressBar, label: &str, duration: Duration) -> impl FnMut(&Snapshot) {
    bar.set_length(duration.as_millis().max(1) as u64);
    let (bar, label) = (bar.clone(), label.to_owned());
    move |now| {
        bar.set_position(now.elapsed.as_millis() as u64);
        let stats = GroupStats { sent: now.sent, received: now.received, ..GroupStats::default() };
        bar.set_message(format!(
            "{label}: {} sent, {:.3} % under way or lost",
            now.sent,
            stats.loss_percent()
        ));
    }
}
