//! One measurement: a server is started, loaded as the scenario says, and ended.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use turnpike_loadtest::engine::SetupReport;
use turnpike_loadtest::stats::percent;

use crate::certificate::{Certificate, server_address};
use crate::cpu::{self, Reading, Used};
use crate::fault::Fault;
use crate::frames::{Counted, Frames};
use crate::generator::{Ends, Generator, Load, Reflector};
use crate::lab::{Lab, SERVER};
use crate::results::{DIRECT, Sample};
use crate::room::Room;
use crate::scenario::{FrameTraffic, Path, Scenario, Traffic, Work, idle_traffic};
use crate::search::{self, Found, Outcome};
use crate::server::{Program, Programs, Running, Variant, counted_drops};
use crate::xdp::{Counting, Runs};

/// Between the set-up and the load, so that neither is charged to the other.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);
/// How long a server has to give memory back.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// Seconds of one trial of a search, and of the overload.
const SEARCH_TRIAL: Duration = Duration::from_millis(700);
/// Lowest rate of a search, packets per second.
const SEARCH_FROM: f64 = 5_000.0;
/// Clients from which on memory per allocation is more than noise.
const MANY: usize = 1_000;
/// The same for the kernel's memory, which others use, too.
const VERY_MANY: usize = 5_000;
/// Datagrams in a run at most.
const MOST_MERGED: u64 = 64;
/// Processor time of others, per second, that casts doubt on a sample.
const FOREIGN_LIMIT: f64 = 0.1;

/// What all measurements of a run have in common.
pub struct Context<'a> {
    /// The servers' programs.
    pub programs: &'a Programs,
    /// Where logs go.
    pub folder: &'a FilePath,
    /// Threads of the load generator.
    pub threads: usize,
    /// Length of a trial with fixed load.
    pub trial: Duration,
    /// See [`crate::results::Setup::idle_cpu_per_sec`].
    pub idle_cpu_per_sec: f64,
    /// Raised by SIGINT and SIGTERM.
    pub stop: Arc<AtomicBool>,
    /// For TLS.
    pub certificate: Certificate,
}

/// What is measured: a server, or the way without one.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Client to peer through the relay's kernel only.
    Direct,
    /// A server.
    Server(&'static Variant),
}

impl Target {
    /// Name in samples.
    pub fn name(self) -> &'static str {
        match self {
            Target::Direct => DIRECT,
            Target::Server(variant) => variant.name,
        }
    }
}

impl Context<'_> {
    /// Measures a scenario once.
    ///
    /// # Errors
    /// If the server or the generator fails.
    pub fn measure(
        &self,
        lab: &Lab,
        scenario: &Scenario,
        target: Target,
        round: u32,
    ) -> Result<Sample, Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        let mut sample = Sample {
            scenario: scenario.name.to_owned(),
            server: target.name().to_owned(),
            round,
            ..Sample::default()
        };
        let outcome = match (target, scenario.work) {
            (Target::Direct, Work::Paced(traffic)) => self.direct(lab, &traffic, &mut sample),
            (Target::Direct, Work::PacedFrames(traffic)) => self.frames_alone(lab, traffic, &mut sample),
            (Target::Direct, _) => Err("this scenario has no direct path".into()),
            (Target::Server(variant), _)
                if scenario.is_over_streams() && !self.programs.has_streams(variant) =>
            {
                sample.leave_out("this Turnpike serves neither TCP nor TLS");
                Ok(())
            }
            (Target::Server(variant), _) => self.serve(lab, variant, scenario, &mut sample),
        };
        match outcome {
            Ok(()) => Ok(sample),
            Err(Fault::Interrupted) => Err(Fault::Interrupted),
            Err(fault) => Err(fault),
        }
    }

    fn direct(&self, lab: &Lab, traffic: &Traffic, sample: &mut Sample) -> Result<(), Fault> {
        let reflector = Reflector::start(lab)?;
        // The reflector knows ChannelData only; an indication's few bytes more make no difference.
        let traffic = Traffic { path: Path::Channel, ..*traffic };
        let kernel_before = cpu::kernel_kib();
        let mut generator =
            Generator::start(lab, &traffic, reflector.address, Ends::Reflector, self.threads, &self.stop)?;
        generator.setup()?;
        std::thread::sleep(SETTLE);
        note_kernel_memory(sample, &traffic, kernel_before);
        let load = generator.trial(1.0, self.trial, None)?;
        self.note_load(sample, &load);
        generator.release().map(drop)
    }

    fn serve(
        &self,
        lab: &Lab,
        variant: &Variant,
        scenario: &Scenario,
        sample: &mut Sample,
    ) -> Result<(), Fault> {
        let certificate = scenario.is_over_streams().then_some(&self.certificate);
        let (queue_drops, backlog_drops) = (lab.relay_queue_drops(), cpu::backlog_drops());
        let room = match scenario.work {
            Work::Idle { clients } => Room::of(clients),
            _ => Room::default(),
        };
        let server = Running::start(lab, self.programs, variant, self.folder, certificate, room.open_files)?;
        let pid = server.pid();
        note_resident(sample, "rss_start_mib", pid);
        let lost = match scenario.work {
            Work::Paced(traffic) => self.paced(lab, &traffic, pid, sample).map(|()| None),
            Work::Churn { clients } => self.churn(lab, clients, pid, sample).map(|()| None),
            Work::Settle { clients } => self.settle(lab, clients, pid, sample).map(|()| None),
            Work::Video { transport, receiver_mbit_per_sec } => {
                self.video(lab, transport, receiver_mbit_per_sec, pid, sample).map(|()| None)
            }
            Work::BesideStalled { stalled, calls } => {
                self.beside_stalled(lab, stalled, &calls, pid, sample).map(|()| None)
            }
            Work::Handshakes => self.handshakes(lab, pid, sample).map(|()| None),
            Work::Idle { clients } => self.idle(lab, (clients, room), pid, sample).map(|()| None),
            Work::Search(traffic) => self.search(lab, &traffic, pid, sample).map(Some),
            Work::PacedFrames(traffic) => self.paced_frames(lab, traffic, pid, sample).map(|()| None),
            Work::SearchFrames(traffic) => self.search_frames(lab, traffic, pid, sample).map(|()| None),
        }?;
        note_resident(sample, "rss_after_mib", pid);
        let log = server.stop()?;
        if sample.value("lost_packets").is_some() && variant.program == Program::Turnpike {
            sample.set("counted_packets", counted_drops(&log) as f64);
        }
        if let Some(lost) = lost.filter(|&lost| lost > 0) {
            if variant.program == Program::Turnpike {
                sample.set("overload_server_counted_percent", percent(counted_drops(&log).min(lost), lost));
            }
            let in_queues = lab.relay_queue_drops().saturating_sub(queue_drops);
            sample.set("overload_queue_counted_percent", percent(in_queues.min(lost), lost));
            let in_backlog = cpu::backlog_drops().saturating_sub(backlog_drops);
            sample.set("overload_backlog_counted_percent", percent(in_backlog.min(lost), lost));
        }
        Ok(())
    }

    fn paced(&self, lab: &Lab, traffic: &Traffic, pid: u32, sample: &mut Sample) -> Result<(), Fault> {
        let ends = match traffic.path {
            Path::Channel | Path::Indication => Ends::Peer,
            Path::RelayToRelay | Path::Binding => Ends::Nobody,
        };
        let kernel_before = cpu::kernel_kib();
        let mut generator = Generator::start(
            lab,
            traffic,
            server_address(traffic.transport),
            ends,
            self.threads,
            &self.stop,
        )?;
        let setup = generator.setup()?;
        note_refusals(sample, &setup);
        std::thread::sleep(SETTLE);
        note_kernel_memory(sample, traffic, kernel_before);
        if traffic.clients >= MANY {
            sample.set("allocations_per_sec", setup.ready as f64 / setup.elapsed.as_secs_f64());
            let start_kib = sample.value("rss_start_mib").unwrap_or(0.0) * 1024.0;
            let now_kib = cpu::resident_kib(pid).ok_or("the server has ended")? as f64;
            sample.set("rss_kib_per_allocation", (now_kib - start_kib) / traffic.clients as f64);
        }
        let _counting = Counting::switch_on();
        let (runs_before, messages_before) = (Runs::of(pid), lab.relay_messages());
        let load = generator.trial(1.0, self.trial, Some(pid))?;
        self.note_load(sample, &load);
        let messages = lab.relay_messages() - messages_before;
        // Of what an XDP program forwards the server gets only some control messages.
        if !traffic.transport.is_stream() && messages >= load.hops / MOST_MERGED {
            sample.set("datagrams_per_message", load.hops as f64 / messages as f64);
        }
        note_program(sample, &Runs::of(pid).since(&runs_before), load.hops);
        note_resident(sample, "rss_mib", pid);
        generator.release().map(drop)
    }

    /// Allocations alone: no permission, no channel, no data. Once per server's life: coturn answers 437 to
    /// clients whose address and port had an allocation that ended a moment ago.
    fn churn(&self, lab: &Lab, clients: usize, pid: u32, sample: &mut Sample) -> Result<(), Fault> {
        let traffic = idle_traffic(clients);
        let mut generator = Generator::start(lab, &traffic, SERVER, Ends::Nobody, self.threads, &self.stop)?;
        let begin = Reading::begin(Some(pid));
        let setup = generator.setup()?;
        note_resident(sample, "rss_mib", pid);
        generator.release()?;
        let used = begin.end(Some(pid));
        note_refusals(sample, &setup);
        let each = |secs: f64| secs * 1e6 / setup.ready as f64;
        sample.set("allocations_per_sec", setup.ready as f64 / setup.elapsed.as_secs_f64());
        sample.set("server_cpu_us_per_allocation", each(used.server_secs));
        sample.set("system_cpu_us_per_allocation", each(self.without_idle(&used)));
        note_foreign(sample, &used);
        Ok(())
    }

    /// What a crowd leaves behind when it has gone and some time has passed.
    fn settle(&self, lab: &Lab, clients: usize, pid: u32, sample: &mut Sample) -> Result<(), Fault> {
        let traffic = idle_traffic(clients);
        let mut generator = Generator::start(lab, &traffic, SERVER, Ends::Nobody, self.threads, &self.stop)?;
        let setup = generator.setup()?;
        note_refusals(sample, &setup);
        note_resident(sample, "rss_mib", pid);
        generator.release()?;
        self.rest(SETTLED_AFTER)?;
        note_resident(sample, "rss_settled_mib", pid);
        if let (Some(start), Some(settled)) = (sample.value("rss_start_mib"), sample.value("rss_settled_mib"))
        {
            sample.set("rss_settled_ratio", settled / start);
        }
        Ok(())
    }

    /// Returns how many packets were lost in all trials together.
    fn search(&self, lab: &Lab, traffic: &Traffic, pid: u32, sample: &mut Sample) -> Result<u64, Fault> {
        let mut generator = Generator::start(lab, traffic, SERVER, Ends::Peer, self.threads, &self.stop)?;
        generator.setup()?;
        let mut lost = 0;
        let (found, best) = search_for(traffic.packets_per_sec, |rate| {
            let load = generator.trial(rate / traffic.packets_per_sec, SEARCH_TRIAL, Some(pid))?;
            lost += load.stats.lost_elsewhere();
            let outcome = outcome(&load);
            Ok((load, outcome))
        })?;
        let Some(ndr) = found.ndr else {
            sample.doubts.push(format!("packets were lost even at {SEARCH_FROM:.0} packets/s"));
            return generator.release().map(|_| lost);
        };
        note_found(sample, &found, ndr);
        if let Some(load) = &best {
            self.note_load(sample, load);
        }
        note_resident(sample, "rss_mib", pid);
        let overload = generator.trial(2.0 * ndr / traffic.packets_per_sec, SEARCH_TRIAL, Some(pid))?;
        lost += overload.stats.lost_elsewhere();
        let Load { stats, sending, .. } = &overload;
        note_overload(sample, stats.sent, stats.received, *sending, &outcome(&overload));
        generator.release().map(|_| lost)
    }

    fn paced_frames(
        &self,
        lab: &Lab,
        traffic: FrameTraffic,
        pid: u32,
        sample: &mut Sample,
    ) -> Result<(), Fault> {
        let mut frames = Frames::start(lab, traffic)?;
        let (counted, used) =
            self.frames_trial(&mut frames, traffic.frames_per_sec, self.trial, Some(pid))?;
        self.note_frames(sample, &counted, &used);
        frames.release()
    }

    fn frames_alone(&self, lab: &Lab, traffic: FrameTraffic, sample: &mut Sample) -> Result<(), Fault> {
        let mut frames = Frames::start_alone(lab, traffic)?;
        let (counted, used) = self.frames_trial(&mut frames, traffic.frames_per_sec, self.trial, None)?;
        self.note_frames(sample, &counted, &used);
        Ok(())
    }

    fn search_frames(
        &self,
        lab: &Lab,
        traffic: FrameTraffic,
        pid: u32,
        sample: &mut Sample,
    ) -> Result<(), Fault> {
        let mut frames = Frames::start(lab, traffic)?;
        let (found, best) = search_for(traffic.frames_per_sec, |rate| {
            let trial = self.frames_trial(&mut frames, rate, SEARCH_TRIAL, Some(pid))?;
            let outcome = trial.0.outcome();
            Ok((trial, outcome))
        })?;
        let Some(ndr) = found.ndr else {
            sample.doubts.push(format!("frames were lost even at {SEARCH_FROM:.0} per second"));
            return frames.release();
        };
        note_found(sample, &found, ndr);
        if let Some((counted, used)) = &best {
            self.note_frames(sample, counted, used);
        }
        let (overload, _) = self.frames_trial(&mut frames, 2.0 * ndr, SEARCH_TRIAL, Some(pid))?;
        note_overload(sample, overload.sent, overload.received, overload.sending, &overload.outcome());
        frames.release()
    }

    fn frames_trial(
        &self,
        frames: &mut Frames<'_>,
        rate: f64,
        duration: Duration,
        pid: Option<u32>,
    ) -> Result<(Counted, Used), Fault> {
        let begin = Reading::begin(pid);
        let counted = frames.trial(rate, duration)?;
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Fault::Interrupted),
            false => Ok((counted, begin.end(pid))),
        }
    }

    fn note_frames(&self, sample: &mut Sample, counted: &Counted, used: &Used) {
        let secs = counted.sending.as_secs_f64().max(1e-9);
        sample.set("offered_pps", counted.sent as f64 / secs);
        sample.set("delivered_pps", counted.received as f64 / secs);
        sample.set("loss_percent", counted.outcome().loss_percent);
        self.note_cpu(sample, used, counted.received);
    }

    pub(crate) fn note_load(&self, sample: &mut Sample, load: &Load) {
        let Load { stats, used, sending, hops } = load;
        let secs = sending.as_secs_f64().max(1e-9);
        sample.set("offered_pps", stats.sent as f64 / secs);
        sample.set("delivered_pps", stats.received as f64 / secs);
        sample.set("loss_percent", outcome(load).loss_percent);
        self.note_cpu(sample, used, *hops);
        let delays = if stats.round_trip.is_empty() { &stats.one_way } else { &stats.round_trip };
        if let Some(delays) = delays.summary() {
            sample.set("p50_us", delays.p50_us);
            sample.set("p99_us", delays.p99_us);
            sample.set("p999_us", delays.p999_us);
        }
        sample.doubts.extend(stats.generator_faults());
    }

    fn note_cpu(&self, sample: &mut Sample, used: &Used, hops: u64) {
        let each = |secs: f64| secs * 1e6 / hops as f64;
        sample.set("system_cpu_us", each(self.without_idle(used)));
        if sample.server != DIRECT {
            sample.set("server_cpu_us", each(used.server_secs));
            sample.set("server_busy_percent", 100.0 * used.server_secs / used.wall_secs.max(1e-9));
        }
        note_foreign(sample, used);
    }

    pub(crate) fn without_idle(&self, used: &Used) -> f64 {
        (used.system_secs - self.idle_cpu_per_sec * used.wall_secs).max(0.0)
    }
}

/// Searches up to a rate; gives what was found, and the last trial without loss.
fn search_for<T>(
    highest: f64,
    mut trial: impl FnMut(f64) -> Result<(T, Outcome), Fault>,
) -> Result<(Found, Option<T>), Fault> {
    let (mut best, mut fault) = (None, None);
    let found = search::highest_rate(SEARCH_FROM, highest, |rate| {
        let (shown, outcome) = trial(rate).map_err(|error| fault = Some(error)).ok()?;
        if outcome.kept_up && outcome.loss_percent <= 0.0 {
            best = Some(shown);
        }
        Some(outcome)
    });
    match fault {
        Some(fault) => Err(fault),
        None => Ok((found, best)),
    }
}

/// Loss that isn't the generator's own, and whether it could send in time.
fn outcome(load: &Load) -> Outcome {
    let stats = &load.stats;
    Outcome {
        loss_percent: percent(stats.lost_elsewhere(), stats.sent),
        kept_up: search::kept_up(stats.sent, stats.scheduled),
    }
}

fn note_found(sample: &mut Sample, found: &Found, ndr: f64) {
    sample.set("ndr_pps", ndr);
    sample.set("pdr_pps", found.pdr.unwrap_or(ndr));
    if found.is_lower_bound {
        sample.doubts.push("the load generator was at its limit: the server may do more".to_owned());
    }
}

fn note_overload(sample: &mut Sample, sent: u64, received: u64, sending: Duration, outcome: &Outcome) {
    let secs = sending.as_secs_f64().max(1e-9);
    sample.set("overload_offered_pps", sent as f64 / secs);
    sample.set("overload_delivered_pps", received as f64 / secs);
    sample.set("overload_loss_percent", outcome.loss_percent);
}

pub(crate) fn note_resident(sample: &mut Sample, key: &str, pid: u32) {
    if let Some(kib) = cpu::resident_kib(pid) {
        sample.set(key, kib as f64 / 1024.0);
    }
}

fn note_program(sample: &mut Sample, runs: &Runs, hops: u64) {
    if runs.count > 0 && hops > 0 {
        sample.set("xdp_runs_per_hop", runs.count as f64 / hops as f64);
        sample.set("xdp_ns_per_run", runs.ns as f64 / runs.count as f64);
    }
}

fn note_kernel_memory(sample: &mut Sample, traffic: &Traffic, before_kib: Option<u64>) {
    if let (true, Some(before), Some(now)) = (traffic.clients >= VERY_MANY, before_kib, cpu::kernel_kib()) {
        sample.set("kernel_kib_per_allocation", (now as f64 - before as f64) / traffic.clients as f64);
    }
}

pub(crate) fn note_refusals(sample: &mut Sample, setup: &SetupReport) {
    for (reason, count) in &setup.failures {
        sample.doubts.push(format!("{count} of {} allocations failed: {reason}", setup.wanted));
    }
}

pub(crate) fn note_foreign(sample: &mut Sample, used: &Used) {
    let per_sec = used.foreign_secs / used.wall_secs.max(1e-9);
    sample.set("foreign_cpu_per_sec", per_sec);
    if per_sec > FOREIGN_LIMIT {
        sample.doubts.push(format!("other processes used {per_sec:.2} processors"));
    }
}
