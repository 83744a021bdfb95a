//! From flags to a plan, and the run with coturn's lines.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::alloc_flood;
use super::flags::{Flags, LoadMode, Refusal, USAGE, parse};
use super::output::{Output, Style, progress, rates, summary};
use super::tcp_relay;
use crate::arguments::resolve_server;
use crate::credentials::Credentials;
use crate::engine::payload::Fill;
use crate::engine::stream::tls::{Identity, TlsClient, Trust};
use crate::engine::{
    Engine, FlowSpec, Framing, Group, PeerChoice, Plan, ReleaseReport, SetupReport, Snapshot, Trial,
    TrialReport,
};
use crate::limits::SETUPS_AT_ONCE;
use crate::modes::{default_threads, stop_flag};
use crate::report::output::Outputs;
use crate::report::verdict::Verdict;
use crate::report::{Report, TrialSummary, table, unix_secs};
use crate::session::{SessionConfig, SetupError};
use crate::stats::GroupStats;
use crate::stun_client::{AllocateOptions, Family};
use crate::transport::Transport;

/// LIFETIME asked for, seconds; with `-O` and without.
const QUICK_LIFETIME_SECS: u32 = 259;
const LIFETIME_SECS: u32 = 777;
/// Renewal of allocation, permission and channel.
const RENEW_EVERY_NS: u64 = 30_000_000_000;
/// How long a leg waits for packets under way after its last.
const DRAIN: Duration = Duration::from_secs(10);
/// Packets per leg and ms with `-z 0`.
const BURST_PER_MS: f64 = 50.0;
/// Messages after which `-B` drops the sockets.
const DROP_SOCKETS_AFTER: u64 = 5;
/// How long the release may take at the end.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);
/// A delay above this counts as late (in reports), ns.
const LATE_NS: u64 = 400_000_000;
/// Packets leave on multiples of this, ns.
const TICK_NS: u64 = 100_000;
/// coturn's status of a failed set-up.
const EXIT_FAILED: u8 = 255;

/// Runs turnutils_uclient's command line, without the program's name.
pub fn main(arguments: &[String]) -> ExitCode {
    let flags = match parse(arguments) {
        Ok(flags) => flags,
        Err(Refusal { message, usage, status }) => {
            if !message.is_empty() {
                eprintln!("uclient: {message}");
            }
            if usage {
                eprint!("{USAGE}");
            }
            return ExitCode::from(status);
        }
    };
    let out = Output::new(flags.style);
    match execute(&flags, out) {
        Ok(code) => code,
        Err(message) => {
            out.error(&message);
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn execute(flags: &Flags, out: Output) -> Result<ExitCode, String> {
    let mut server = resolve_server(&flags.server, Some(flags.transport))?;
    server.address.set_port(flags.port);
    let tls = tls(flags, &server.host)?;
    let outputs = Outputs::open(flags.json.as_deref(), flags.html.as_deref())?;
    let stop = stop_flag();
    let session = Arc::new(session_config(flags)?);
    if flags.load_mode == Some(LoadMode::Alloc) {
        let finished =
            alloc_flood::run(flags, out, &alloc_flood::Way { server: server.address, tls }, session, stop)
                .map_err(|error| describe(&error))?;
        return Ok(if finished { ExitCode::SUCCESS } else { ExitCode::from(crate::modes::EXIT_INTERRUPTED) });
    }
    let plan = plan(flags, server.address, tls, session);
    if flags.tcp_relay {
        return relay_tcp(flags, out, &plan, outputs, &stop);
    }
    announce_threads(flags, out, plan.threads);
    let started = Instant::now();
    let mut engine = Engine::start(plan, stop.clone()).map_err(|error| error.to_string())?;
    let setup = engine.setup(&mut |_| {});
    if let Some(why) = failure(&setup) {
        let left = engine.release(RELEASE_WITHIN, &mut |_| {}).left();
        return Err(left.iter().fold(why, |why, left| format!("{why}; {left}")));
    }
    out.info(&format!("Total connect time is {}", started.elapsed().as_secs()));
    if flags.quick_exit {
        engine.abandon();
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let mut lines = Lines { flags, out, next: Duration::from_secs(1), last: Snapshot::default() };
    let result = engine.trial(trial(flags), &mut |now| lines.each_second(now));
    let total = result.total();
    print_summary(flags, out, &total, begun.elapsed());
    if flags.hang {
        wait_for(&stop);
    }
    let plan = engine.plan().clone();
    let release = if flags.drop_sockets {
        engine.abandon();
        None
    } else {
        Some(engine.release(RELEASE_WITHIN, &mut |_| {}))
    };
    finish(flags, out, outputs, &Ran { plan: &plan, setup: &setup, result: &result, release })
}

/// `-T`.
fn relay_tcp(
    flags: &Flags,
    out: Output,
    plan: &Plan,
    outputs: Outputs,
    stop: &AtomicBool,
) -> Result<ExitCode, String> {
    announce_threads(flags, out, 1);
    let (mut clients, setup) = tcp_relay::Clients::set_up(plan, stop)?;
    if let Some(why) = failure(&setup) {
        let left = clients.release(RELEASE_WITHIN).left();
        return Err(left.iter().fold(why, |why, left| format!("{why}; {left}")));
    }
    out.info(&format!("Total connect time is {}", setup.elapsed.as_secs()));
    if flags.quick_exit {
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let mut lines = Lines { flags, out, next: Duration::from_secs(1), last: Snapshot::default() };
    let (result, ended) = clients.transfer(plan, trial(flags), stop, &mut |now| lines.each_second(now))?;
    print_summary(flags, out, &result.total(), begun.elapsed());
    ended.iter().for_each(|why| out.error(why));
    if flags.hang {
        wait_for(stop);
    }
    let release = Some(clients.release(RELEASE_WITHIN));
    finish(flags, out, outputs, &Ran { plan, setup: &setup, result: &result, release })
}

/// Why a set-up is not what was wanted.
fn failure(setup: &SetupReport) -> Option<String> {
    let failed = setup.failures.first().map(|(error, _)| describe(error));
    failed.or_else(|| setup.interrupted.then(|| "stopped by a signal during the set-up".to_owned()))
}

fn tls(flags: &Flags, host: &str) -> Result<Option<TlsClient>, String> {
    if flags.transport != Transport::Tls {
        return Ok(None);
    }
    let identity = match (&flags.certificate, &flags.key) {
        (Some(certificate), Some(key)) => {
            Identity::Files { certificate: certificate.clone(), key: key.clone() }
        }
        _ => Identity::None,
    };
    let trust = flags.ca_file.as_deref().map_or(Trust::Anybody, Trust::File);
    TlsClient::new(host, trust, identity, None).map(Some)
}

fn session_config(flags: &Flags) -> Result<SessionConfig, String> {
    let credentials = match (&flags.rest_secret, &flags.user, &flags.password) {
        (Some(secret), user, _) => {
            Some(Credentials::from_rest_secret(secret, user.as_deref(), flags.separator, unix_secs()))
        }
        (None, Some(user), password) => Some(Credentials::new(user, password.clone().unwrap_or_default())),
        (None, None, Some(_)) => return Err("-w needs a user name: -u".into()),
        (None, None, None) => None,
    };
    let family = match (flags.dual, flags.relay_v6, flags.relay_v4) {
        (true, ..) => Family::Both,
        (_, true, _) => Family::V6,
        (.., true) => Family::V4,
        _ => Family::Unspecified,
    };
    let alloc = flags.load_mode == Some(LoadMode::Alloc);
    Ok(SessionConfig {
        transport: flags.transport,
        credentials,
        allocate: AllocateOptions {
            relays_tcp: flags.tcp_relay,
            lifetime_secs: if flags.quick_exit { QUICK_LIFETIME_SECS } else { LIFETIME_SECS },
            family,
            dont_fragment: flags.dont_fragment,
            mobility: flags.mobility,
            bandwidth: (flags.bandwidth > 0).then_some(flags.bandwidth),
            origin: flags.origin.clone(),
            ..AllocateOptions::default()
        },
        channel: !flags.indications && !alloc && !flags.tcp_relay,
        random_channel: flags.random_channels,
        // A channel brings its permission (RFC 8656 section 12); all else needs its own.
        permission: !flags.no_permission && (flags.indications || alloc || flags.tcp_relay),
        refresh_first: alloc,
        extra_requests: flags.extra_requests,
        renew_every_ns: RENEW_EVERY_NS,
    })
}

fn plan(
    flags: &Flags,
    server: std::net::SocketAddr,
    tls: Option<TlsClient>,
    session: Arc<SessionConfig>,
) -> Plan {
    let invalid = flags.load_mode == Some(LoadMode::Invalid);
    let per_leg = match (flags.interval_ms, flags.load_mode) {
        (0, Some(_)) => f64::INFINITY,
        (0, None) => BURST_PER_MS * 1000.0,
        (ms, _) => 1000.0 / ms as f64,
    };
    let group = Group {
        name: "legs".into(),
        session,
        framing: match (invalid, flags.indications) {
            (true, _) => Framing::Invalid,
            (_, true) => Framing::Indication,
            _ => Framing::Channel,
        },
        payload_bytes: flags.payload_bytes,
        packets_per_sec: per_leg,
        run: 1,
        fill: if invalid { Fill::Invalid } else { Fill::Sevens },
        pad_channel_data: flags.padding,
        dont_fragment: flags.dont_fragment,
    };
    let legs = flags.legs();
    Plan {
        server,
        transport: flags.transport,
        tls,
        local: flags.local,
        device: flags.device.clone(),
        groups: vec![group],
        flows: (0..legs).map(|index| leg(flags, index)).collect(),
        threads: threads(flags, legs),
        in_flight: SETUPS_AT_ONCE,
        setup_rate: f64::INFINITY,
        setup_deadline: Duration::from_secs(flags.setup_timeout_secs),
        tick_ns: TICK_NS,
        max_lag_ns: None,
        late_ns: LATE_NS,
        gso: false,
        disrupt: flags.disrupt,
        first_byte: false,
        keep_going: false,
        no_setup: invalid,
        peer_bind: None,
        socket_buffer_bytes: socket_buffer(legs),
    }
}

/// 4 MiB as in 4.17, less where thousands of sockets would make that gigabytes.
fn socket_buffer(legs: usize) -> usize {
    const EACH: usize = 4 << 20;
    const TOGETHER: usize = 1 << 30;
    (TOGETHER / legs).clamp(64 << 10, EACH)
}

/// Leg `index`: with RTCP, odd legs are the RTCP legs of the even ones before them.
fn leg(flags: &Flags, index: usize) -> FlowSpec {
    let rtcp = !flags.no_rtcp && index % 2 == 1;
    let peer = match (flags.client_to_client, flags.no_rtcp, flags.peer) {
        (true, true, _) => PeerChoice::Partner(index ^ 1),
        (true, false, _) => PeerChoice::Partner(index ^ 2),
        (false, _, Some(ip)) => {
            let port = flags.peer_port.saturating_add(u16::from(rtcp));
            PeerChoice::Fixed(std::net::SocketAddr::new(ip, port))
        }
        (false, _, None) => PeerChoice::None,
    };
    let unit = match (flags.client_to_client, flags.no_rtcp) {
        (true, false) => index / 4,
        (false, true) => index,
        _ => index / 2,
    };
    let reserve = !flags.no_rtcp && !flags.no_even_port;
    FlowSpec {
        group: 0,
        peer,
        even_port: (reserve && !rtcp).then_some(true),
        token_from: (reserve && rtcp).then(|| index - 1),
        unit,
    }
}

fn threads(flags: &Flags, legs: usize) -> usize {
    let automatic = if legs < 4 { 1 } else { default_threads() };
    let asked = flags.listener_threads.into_iter().chain(flags.sender_threads).max();
    asked.unwrap_or(automatic).clamp(1, legs)
}

/// The lines with which 4.12 and later begin.
fn announce_threads(flags: &Flags, out: Output, threads: usize) {
    if out.style() != Style::V4_17 {
        return;
    }
    let say = |role: &str, asked: Option<usize>, how: &str| {
        let how = asked.map_or("auto", |_| how);
        out.info(&format!("uclient: started {threads} {role} thread(s) ({how})"));
    };
    say("listener", flags.listener_threads, "explicit -K");
    say("sender", flags.sender_threads, "explicit -J");
}

/// coturn's words for a failed set-up, then the reason.
fn describe(error: &SetupError) -> String {
    match error {
        SetupError::Code { request: "ChannelBind", code, reason } => {
            format!("channel bind: error {code} ({reason})")
        }
        SetupError::Code { request: "CreatePermission", code, reason } => {
            format!("create permission error {code} ({reason})")
        }
        SetupError::PeerForbidden(_, reason) => format!("create permission error 403 ({reason}): {error}"),
        SetupError::Code { request: "Allocate", code: 442, .. } => format!(
            "Cannot complete Allocation: {error}: the server relays no TCP (Turnpike does with --allow-tcp-relay)"
        ),
        SetupError::WrongIntegrity => "Wrong integrity in a message received from server".into(),
        _ => format!("Cannot complete Allocation: {error}"),
    }
}

fn trial(flags: &Flags) -> Trial {
    let invalid = flags.load_mode == Some(LoadMode::Invalid);
    Trial {
        number: 1,
        rate_factor: 1.0,
        duration: None,
        count: if flags.drop_sockets {
            flags.messages.map(|n| n.min(DROP_SOCKETS_AFTER))
        } else {
            flags.messages
        },
        drain: if invalid { Duration::ZERO } else { DRAIN },
        spread: None,
    }
}

/// Prints once a second.
struct Lines<'a> {
    flags: &'a Flags,
    out: Output,
    next: Duration,
    last: Snapshot,
}

impl Lines<'_> {
    fn each_second(&mut self, now: &Snapshot) {
        if now.elapsed < self.next {
            return;
        }
        self.next += Duration::from_secs(1);
        if self.flags.load_mode.is_some() {
            let secs = (now.elapsed - self.last.elapsed).as_secs_f64().max(1e-9);
            let pps = |now: u64, before: u64| now.saturating_sub(before) as f64 / secs;
            self.out.info(&rates(
                "start_mclient",
                pps(now.sent, self.last.sent),
                pps(now.received, self.last.received),
                now.sent,
                now.received,
            ));
        }
        self.last = *now;
        let bytes = self.flags.payload_bytes as u64;
        self.out.info(&progress(now.running, now.sent, now.received, bytes));
    }
}

fn print_summary(flags: &Flags, out: Output, total: &GroupStats, elapsed: Duration) {
    let invalid = flags.load_mode == Some(LoadMode::Invalid);
    if flags.load_mode.is_some() {
        let secs = elapsed.as_secs_f64().max(1e-9);
        let (sent, received) = (total.sent, total.received);
        out.info(&rates("start_mclient", sent as f64 / secs, received as f64 / secs, sent, received));
    }
    for line in summary(total, flags.payload_bytes as u64, elapsed.as_secs(), invalid) {
        out.info(&line);
    }
}

fn wait_for(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All that a run came to.
struct Ran<'a> {
    plan: &'a Plan,
    setup: &'a SetupReport,
    result: &'a TrialReport,
    /// `None` if nothing was released.
    release: Option<ReleaseReport>,
}

/// Writes the reports, and decides the exit status.
fn finish(flags: &Flags, out: Output, outputs: Outputs, ran: &Ran<'_>) -> Result<ExitCode, String> {
    let Ran { plan, setup, result, release } = *ran;
    let mut report = Report::new("uclient", format!("uclient, {} legs", flags.legs()), flags.server.clone());
    let offered = crate::modes::offered_pps(plan, 1.0);
    report.setup = (!plan.no_setup).then(|| setup.into());
    let trial = TrialSummary::new("run".into(), offered, plan, result);
    for fault in &trial.generator.faults {
        eprintln!("uclient: {fault}");
    }
    report.trials.push(trial);
    report.interrupted = result.interrupted;
    if let Some(release) = release {
        report.release = Some(release.into());
        release.left().iter().for_each(|left| out.error(left));
    }
    report.verdict = Verdict::of(&report, flags.fail_above_loss);
    if flags.verbose {
        print!("{}", table::render(&report));
    }
    outputs.write(&report)?;
    let loss = result.total().loss_percent();
    if let Some(limit) = flags.fail_above_loss.filter(|limit| loss > *limit) {
        eprintln!("uclient: {loss:.4} % lost, more than the {limit} % allowed");
        return Ok(ExitCode::from(crate::modes::EXIT_LOSS));
    }
    Ok(if result.interrupted { ExitCode::from(crate::modes::EXIT_INTERRUPTED) } else { ExitCode::SUCCESS })
}
