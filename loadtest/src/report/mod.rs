//! What a run found, in the form in which it is printed, stored and drawn.

pub mod html;
pub mod json;
pub mod output;
pub mod svg;
pub mod table;
pub mod verdict;
mod video;

pub use video::VideoSummary;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::engine::{Plan, ReleaseReport, SetupReport, TrialReport};
use crate::stats::{DelaySummary, Delays, GroupStats, percent};
use verdict::{Verdict, VerdictKind};

/// Version of the JSON form; raised when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// One run of the harness.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// Program and version.
    pub tool: String,
    /// `loss`, `ndr`, ...
    pub mode: String,
    /// Title for people.
    pub title: String,
    /// The command line without secrets.
    pub command: Vec<String>,
    /// The machine of the generator.
    pub machine: Machine,
    /// Start, UTC: `2026-01-31T12:00:00Z`.
    pub started: String,
    /// The same in seconds since 1970.
    pub started_unix_secs: u64,
    /// What came of it, in a sentence.
    pub verdict: Verdict,
    /// The server's address and port.
    pub server: String,
    /// Set-up, where there was one.
    pub setup: Option<SetupSummary>,
    /// Each trial in order.
    pub trials: Vec<TrialSummary>,
    /// Result of a rate search.
    pub search: Option<SearchSummary>,
    /// Result of `video`.
    pub video: Option<VideoSummary>,
    /// Release of the allocations.
    pub release: Option<ReleaseSummary>,
    /// Remarks that a reader of the numbers must know.
    pub notes: Vec<String>,
    /// Stopped by a signal before the end.
    pub interrupted: bool,
}

impl Report {
    /// An empty report of a run that starts now.
    pub fn new(mode: &str, title: String, server: String) -> Self {
        let started_unix_secs = unix_secs();
        let started = UNIX_EPOCH + Duration::from_secs(started_unix_secs);
        Self {
            format: FORMAT,
            tool: concat!("turnpike-loadtest ", env!("CARGO_PKG_VERSION")).into(),
            mode: mode.into(),
            title,
            command: redact(std::env::args().collect()),
            machine: Machine::this(),
            started: humantime::format_rfc3339_seconds(started).to_string(),
            started_unix_secs,
            verdict: Verdict { kind: VerdictKind::Nothing, text: "not finished".into() },
            server,
            setup: None,
            trials: Vec::new(),
            search: None,
            video: None,
            release: None,
            notes: Vec::new(),
            interrupted: false,
        }
    }
}

/// Seconds since 1970.
pub fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Where the generator ran.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processor.
    pub cpu: String,
    /// Usable processors.
    pub cpus: usize,
}

impl Machine {
    fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Set-up of all sessions.
#[derive(Debug, Clone, Serialize)]
pub struct SetupSummary {
    /// Sessions asked for.
    pub wanted: usize,
    /// Sessions ready for data.
    pub ready: usize,
    /// Wall time, seconds.
    pub seconds: f64,
    /// Sessions ready per second.
    pub per_second: f64,
    /// First step of a connection to its being open, TLS included; none over UDP.
    pub connect: Option<DelaySummary>,
    /// First Allocate sent, or connection begun, to Allocate success.
    pub allocate: Option<DelaySummary>,
    /// First Allocate sent to session ready (permission, channel).
    pub ready_delay: Option<DelaySummary>,
    /// First Allocate sent to first relayed byte received.
    pub first_byte: Option<DelaySummary>,
    /// Failures by reason.
    pub failures: Vec<Failure>,
}

/// Clients that failed for one reason.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Why clients failed.
    pub reason: String,
    /// How many clients failed for it.
    pub count: usize,
}

impl From<&SetupReport> for SetupSummary {
    fn from(from: &SetupReport) -> Self {
        let seconds = from.elapsed.as_secs_f64();
        Self {
            wanted: from.wanted,
            ready: from.ready,
            seconds,
            per_second: if seconds > 0.0 { from.ready as f64 / seconds } else { 0.0 },
            connect: from.connect.summary(),
            allocate: from.allocate.summary(),
            ready_delay: from.ready_delay.summary(),
            first_byte: from.first_byte.summary(),
            failures: from
                .failures
                .iter()
                .map(|(reason, count)| Failure { reason: reason.to_string(), count: *count })
                .collect(),
        }
    }
}

/// Release of all allocations.
#[derive(Debug, Clone, Serialize)]
pub struct ReleaseSummary {
    /// Allocations that existed.
    pub held: usize,
    /// Confirmed gone by the server.
    pub confirmed: usize,
    /// Wall time, seconds.
    pub seconds: f64,
}

impl From<ReleaseReport> for ReleaseSummary {
    fn from(from: ReleaseReport) -> Self {
        Self { held: from.held, confirmed: from.confirmed, seconds: from.elapsed.as_secs_f64() }
    }
}

/// What one trial has measured.
#[derive(Debug, Clone, Serialize)]
pub struct TrialSummary {
    /// What distinguishes it.
    pub label: String,
    /// Packets per second asked of the generator, all flows.
    pub offered_pps: f64,
    /// Packets per second that it sent.
    pub sent_pps: f64,
    /// Seconds from the first packet to the last.
    pub seconds: f64,
    /// All groups together.
    pub total: GroupSummary,
    /// Each group, if there is more than one.
    pub groups: Vec<GroupSummary>,
    /// The generator's own work.
    pub generator: GeneratorSummary,
    /// (seconds, sent, received) running totals.
    pub series: Vec<(f64, u64, u64)>,
    /// Stopped by a signal.
    pub interrupted: bool,
    /// Renewals that failed during the trial.
    pub renewal_failures: u64,
    /// Connections that ended during the trial.
    pub connections_lost: u64,
}

/// How well the generator did.
#[derive(Debug, Clone, Serialize)]
pub struct GeneratorSummary {
    /// Whether it, not the server, limited the trial: more than 1 % of the packets were not sent.
    pub is_bottleneck: bool,
    /// One line per reason.
    pub faults: Vec<String>,
    /// CPU seconds of its workers (without the built-in peer).
    pub cpu_secs: f64,
    /// CPU µs per packet sent and received.
    pub cpu_us_per_packet: f64,
    /// Time from due to sent.
    pub send_lag: Option<DelaySummary>,
}

/// Counters of one group.
#[derive(Debug, Clone, Serialize)]
pub struct GroupSummary {
    /// The group's name.
    pub name: String,
    /// Clients of the group.
    pub clients: usize,
    /// Application bytes per packet.
    pub payload_bytes: usize,
    /// Due by the schedule.
    pub scheduled: u64,
    /// Handed to the kernel.
    pub sent: u64,
    /// Distinct packets received.
    pub received: u64,
    /// Sent and never received.
    pub lost: u64,
    /// Of these, lost in the generator's own receive queues.
    pub lost_in_generator: u64,
    /// Lost between client and built-in peer.
    pub lost_to_peer: Option<u64>,
    /// Lost between built-in peer and client.
    pub lost_from_peer: Option<u64>,
    /// `lost` in percent of `sent`.
    pub loss_percent: f64,
    /// Not sent because the generator was late.
    pub skipped: u64,
    /// Refused by the generator's own sockets.
    pub send_dropped: u64,
    /// Of those lost, never handed to the kernel since the client's connection took no more.
    pub stalled: u64,
    /// Received again.
    pub duplicated: u64,
    /// Received out of order (RFC 4737).
    pub reordered: u64,
    /// Received after the lateness limit.
    pub late: u64,
    /// Wrong content or length.
    pub corrupted: u64,
    /// Not of this trial or flow.
    pub stray: u64,
    /// Round trip.
    pub round_trip: Option<DelaySummary>,
    /// One way: client to peer, or client to client.
    pub one_way: Option<DelaySummary>,
    /// One way: peer to client.
    pub return_way: Option<DelaySummary>,
    /// RFC 3550 jitter, mean of the flows, µs.
    pub jitter_mean_us: f64,
    /// RFC 3550 jitter, the worst flow, µs.
    pub jitter_max_us: f64,
    /// (quantile, µs) of the round trip, or of the one way where there is no round trip.
    pub delay_curve: Vec<(f64, f64)>,
}

impl GroupSummary {
    /// Reduces counters to what is reported.
    pub fn new(name: &str, clients: usize, payload_bytes: usize, stats: &GroupStats) -> Self {
        let main: &Delays = if stats.round_trip.is_empty() { &stats.one_way } else { &stats.round_trip };
        let with_peer = stats.peer_received > 0;
        Self {
            name: name.into(),
            clients,
            payload_bytes,
            scheduled: stats.scheduled,
            sent: stats.sent,
            received: stats.received,
            lost: stats.lost(),
            lost_in_generator: stats.own_drops.min(stats.lost()),
            lost_to_peer: with_peer.then(|| stats.sent.saturating_sub(stats.peer_received)),
            lost_from_peer: with_peer.then(|| stats.peer_received.saturating_sub(stats.received)),
            loss_percent: stats.loss_percent(),
            skipped: stats.skipped,
            send_dropped: stats.send_dropped,
            stalled: stats.stalled,
            duplicated: stats.duplicated,
            reordered: stats.reordered,
            late: stats.late,
            corrupted: stats.corrupted,
            stray: stats.stray,
            round_trip: stats.round_trip.summary(),
            one_way: stats.one_way.summary(),
            return_way: stats.return_way.summary(),
            jitter_mean_us: if stats.jitter_flows > 0 {
                stats.jitter_sum_ns / stats.jitter_flows as f64 / 1000.0
            } else {
                0.0
            },
            jitter_max_us: stats.jitter_max_ns / 1000.0,
            delay_curve: main.curve(),
        }
    }
}

impl TrialSummary {
    /// Reduces a trial's counters. `offered_pps` is what the schedule asked for.
    pub fn new(label: String, offered_pps: f64, plan: &Plan, report: &TrialReport) -> Self {
        let total = report.total();
        let seconds = report.sending.as_secs_f64();
        let clients_of = |group: usize| plan.flows.iter().filter(|flow| flow.group == group).count();
        let groups = plan.groups.iter().zip(&report.groups).enumerate().map(|(index, (group, stats))| {
            GroupSummary::new(&group.name, clients_of(index), group.payload_bytes, stats)
        });
        let faults = total.generator_faults();
        let packets = (total.sent + total.received).max(1) as f64;
        Self {
            label,
            offered_pps,
            sent_pps: if seconds > 0.0 { total.sent as f64 / seconds } else { 0.0 },
            seconds,
            total: GroupSummary::new(
                "all",
                plan.flows.len(),
                plan.groups.first().map_or(0, |group| group.payload_bytes),
                &total,
            ),
            groups: if plan.groups.len() > 1 { groups.collect() } else { Vec::new() },
            generator: GeneratorSummary {
                is_bottleneck: total.is_generator_bottleneck(),
                faults,
                cpu_secs: report.cpu_secs,
                cpu_us_per_packet: report.cpu_secs * 1e6 / packets,
                send_lag: total.send_lag.summary(),
            },
            series: report.series.clone(),
            interrupted: report.interrupted,
            renewal_failures: report.renewal_failures,
            connections_lost: report.connections_lost,
        }
    }
}

/// Result of a search for the highest rate.
#[derive(Debug, Clone, Serialize)]
pub struct SearchSummary {
    /// One result per bound of loss.
    pub results: Vec<SearchResult>,
    /// Seconds of one trial.
    pub trial_seconds: f64,
    /// The search ends when the interval is smaller than this percentage of the rate.
    pub resolution_percent: f64,
}

/// The highest rate for one bound.
#[derive(Debug, Clone, Serialize)]
pub struct SearchResult {
    /// NDR (RFC 2544: throughput) or PDR.
    pub name: String,
    /// Loss allowed, percent.
    pub max_loss_percent: f64,
    /// Highest rate found that keeps the bound, packets/s over all flows; none if even the lowest failed.
    pub rate_pps: Option<f64>,
    /// Loss measured at that rate, percent.
    pub loss_percent: Option<f64>,
    /// The same in application payload, Mbit/s.
    pub payload_mbit_per_sec: Option<f64>,
    /// The generator or the upper limit of the search ended it: the server may do more.
    pub is_lower_bound: bool,
}

/// Replaces the values of options that hold secrets, also those of getopt's clusters (`-ycw secret`).
fn redact(command: Vec<String>) -> Vec<String> {
    let mut hide_next = false;
    let hide = |argument: String| {
        if std::mem::take(&mut hide_next) {
            return "***".to_owned();
        }
        let Some(end) = secret_option_end(&argument) else { return argument };
        if end == argument.len() {
            hide_next = true;
            return argument;
        }
        format!("{}***", &argument[..end])
    };
    command.into_iter().map(hide).collect()
}

/// Where an option that takes a secret ends, and an attached value begins.
fn secret_option_end(argument: &str) -> Option<usize> {
    /// turnutils_uclient's flags without a value: they may stand before the `w` of a cluster.
    const PLAIN: &str = "tbTPSUvsyhcxXgDNROMIGBZJ";
    for long in ["--password", "--rest-secret"] {
        match argument.strip_prefix(long) {
            Some("") => return Some(long.len()),
            Some(rest) if rest.starts_with('=') => return Some(long.len() + 1),
            _ => {}
        }
    }
    let cluster = argument.strip_prefix('-').filter(|rest| !rest.starts_with('-'))?;
    let at = cluster.find(|letter| !PLAIN.contains(letter))?;
    cluster[at..].starts_with(['w', 'W']).then_some(1 + at + 1)
}

/// Share of `part` in `whole` as text.
/// A command as a shell takes it: quoted where that is needed.
pub fn command_line(words: &[String]) -> String {
    shlex::try_join(words.iter().map(String::as_str)).expect("arguments have no NUL")
}

pub(crate) fn percent_text(part: u64, whole: u64) -> String {
    format!("{:.4} %", percent(part, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_is_the_command_that_was_run() {
        let words = ["turnpike-loadtest", "ndr", "--title", "it's 1 & 2"].map(str::to_owned);
        assert_eq!(shlex::split(&command_line(&words)).as_deref(), Some(&words[..]));
    }

    #[test]
    fn secrets_of_the_command_line_stay_out_of_reports() {
        let command = [
            "x",
            "-w",
            "pw1",
            "-Wpw2",
            "--password=pw3",
            "--rest-secret",
            "pw4",
            "-u",
            "bob",
            "-ycw",
            "pw5",
            "-ywpw6",
            "--width",
            "-n",
            "w",
        ];
        let text = redact(command.map(str::to_owned).to_vec()).join(" ");
        assert_eq!(
            text,
            "x -w *** -W*** --password=*** --rest-secret *** -u bob -ycw *** -yw*** --width -n w"
        );
    }
}
