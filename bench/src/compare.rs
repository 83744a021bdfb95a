//! The comparison: every scenario with every server in turn, round after round, within a budget of time.
//!
//! Rounds go over everything (A B C, A B C, ...), so that a machine that gets slower or busier with time
//! treats all alike; and a run that is over its budget ends with whole rounds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use turnpike_loadtest::engine::mmsg::raise_open_files_limit;
use turnpike_loadtest::modes::stop_flag;
use turnpike_loadtest::report::command_line;

use crate::certificate::Certificate;
use crate::fault::Fault;
use crate::lab::{self, Lab, Link};
use crate::machine::{self, Machine};
use crate::measure::{Context, Target};
use crate::results::{DIRECT, FORMAT, LeftOut, Results, Sample, ScenarioInfo, ServerInfo, Setup, summarise};
use crate::scenario::{SCENARIOS, Scenario};
use crate::server::{Program, Programs, Running, VARIANTS, Variant};
use crate::{affinity, cpu};

/// How long the idle machine is watched.
const IDLE_WATCH: Duration = Duration::from_secs(2);

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// Turnpike's binary; else the one beside this program.
    pub turnpike: Option<PathBuf>,
    /// coturn's binary; else the one that the shell finds.
    pub turnserver: Option<PathBuf>,
    /// Names of scenarios; none = all.
    pub scenarios: Vec<String>,
    /// Names of servers; none = all that can start.
    pub servers: Vec<String>,
    /// Rounds at most.
    pub rounds: u32,
    /// A round is begun only if it will probably end within this time from the start.
    pub budget: Duration,
    /// Length of a trial with fixed load.
    pub trial: Duration,
}

/// Runs the comparison.
///
/// # Errors
/// If it can't run here, a server that has to take part doesn't, or a measurement fails.
pub fn run(options: &Options) -> Result<Results, Fault> {
    let begun = Instant::now();
    let started = machine::utc_now();
    let machine = Machine::here();
    let mut scenarios = select(SCENARIOS, |scenario| scenario.name, &options.scenarios, "scenario")?;
    scenarios.retain(|scenario| !scenario.only_if_named || !options.scenarios.is_empty());
    let variants = select(VARIANTS, |variant| variant.name, &options.servers, "server")?;
    let stop = stop_flag();
    raise_open_files_limit();
    let split = affinity::split(cpu::processors());
    let programs = Programs::find(
        options.turnpike.clone(),
        options.turnserver.clone(),
        split.server.clone(),
        split.server_threads,
    )?;
    lab::prepare()?;
    let _precedence = affinity::Precedence::take();
    affinity::keep_to(&split.generator_list)?;
    let labs = Labs::new()?;
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let (servers, left_out) =
        try_all(&labs.plain, &programs, &variants, !options.servers.is_empty(), folder.path(), &stop)?;
    let idle_cpu_per_sec = cpu::idle_baseline(IDLE_WATCH);
    let context = Context {
        programs: &programs,
        folder: folder.path(),
        threads: split.generator_threads,
        trial: options.trial,
        idle_cpu_per_sec,
        stop,
        certificate: Certificate::make(folder.path())?,
    };
    let (rounds, samples) = all_rounds(&context, &labs, &scenarios, &servers, options, begun)?;
    let setup = Setup {
        rounds,
        trial_secs: options.trial.as_secs_f64(),
        server_cpus: split.server,
        generator_cpus: split.generator,
        idle_cpu_per_sec,
        notes: NOTES.iter().map(|&note| note.to_owned()).collect(),
    };
    let mut results = Results {
        format: FORMAT,
        started,
        commit: machine::commit(),
        machine,
        command: std::env::args().collect(),
        setup,
        servers: servers.iter().map(|variant| describe(&programs, variant)).collect(),
        left_out,
        scenarios: scenarios.iter().map(|scenario| info(scenario)).collect(),
        samples,
        summaries: Vec::new(),
    };
    results.summaries = summarise(&results);
    Ok(results)
}

fn info(scenario: &Scenario) -> ScenarioInfo {
    ScenarioInfo { name: scenario.name.into(), title: scenario.title.into() }
}

/// What holds for all servers.
const NOTES: &[&str] = &[
    "Client, server and peer are in network namespaces of their own, joined by veth. The senders' transmit offloads are off (`ethtool -K DEV tx off`), and the far ends of the server's links have `gro on`, without which a frame that an XDP program sends there is lost.",
    "In the scenarios where receive interfaces merge, both interfaces of the server's namespace have `ethtool -K DEV gro on rx-udp-gro-forwarding on`, `gro_flush_timeout` 50000 and `napi_defer_hard_irqs` 2: without them veth merges nothing, where a network card does. It is so for all servers and for the direct path. The generator sends datagrams one by one, without GSO, and receives merged runs (UDP_GRO), which a server sends with GSO or the generator's own interfaces make.",
    "Server and load generator have processors of their own, go before other processes there (nice −15), and each server has as many threads for its clients as it has processors. Interrupt work of the server's namespace may run on either.",
    "System CPU is the busy time of the whole machine (/proc/stat), less that of processes that have nothing to do with the measurement, less that of the idle machine: the kernel's work for the server counts, and so does the load generator's, which is the same for all. Without the direct path's it is what the server adds.",
    "A hop is one datagram in and out of the server. Echoed packets make two hops, packets from one relayed address to another as well.",
    "The server process's CPU contains what veth makes a sender do: the receiver's part of the network stack up to its socket, and waking it. What the server's own receiving costs is the generator's, and an XDP program's work as well; so system CPU is the fairer measure. XDP programs are counted by `kernel.bpf_stats_enabled`, which is on for all servers while the load is fixed and comes from sockets.",
    "Where frames are made in the kernel (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES) they leave the client's or the peer's interface with the addresses and ports of real allocations; an XDP program counts them where they have to arrive, and drops them. It is so for all servers, and the direct path is the same with the sink where the server would be. In a socket's queue such a frame takes a page, as with many network cards; coturn-multiplex gets queues as long as Turnpike's for that, by `--sock-buf-size`.",
    "Each server starts anew for each sample. Logs go to a file at the default level. Turnpike's limit on unauthenticated answers, which coturn lacks by default, is off.",
    "Where clients come over TCP or TLS, each server listens there, too, with the same ECDSA P-256 certificate, which clients don't check. A hop is a message in and a datagram out, or the reverse; nothing is subtracted. Turnpike's options are --listen-tcp, --listen-tls, --tls-cert and --tls-key, coturn's --tls-listening-port, --cert and --pkey. Video reaches its client through a proxy in the client's namespace that makes a round trip of 40 ms with a window of 256 KiB; delays are those that server and queues add. Clients that never read have a receive buffer of 4 KiB and get 200 packets each before the call beside them begins. Idle clients come from four addresses, since Turnpike bounds the connections of one; kernel memory is the growth of SUnreclaim in /proc/meminfo, the generator's sockets included.",
    "The load is an open loop: what a slow server does not take is lost, not postponed. Delays are of round trips, between two clients of one way.",
];

struct Labs {
    plain: Lab,
    merging: Lab,
    frames: Lab,
}

impl Labs {
    fn new() -> Result<Labs, Fault> {
        Ok(Labs {
            plain: Lab::new("plain", Link::Plain)?,
            merging: Lab::new("merging", Link::Merging)?,
            frames: Lab::new("frames", Link::Frames)?,
        })
    }

    fn of(&self, scenario: &Scenario) -> &Lab {
        match scenario.link {
            Link::Plain => &self.plain,
            Link::Merging => &self.merging,
            Link::Frames => &self.frames,
        }
    }
}

/// Those of `all` that are named, or all if none is.
fn select<T>(
    all: &'static [T],
    name: fn(&T) -> &str,
    wanted: &[String],
    what: &str,
) -> Result<Vec<&'static T>, Fault> {
    if let Some(unknown) = wanted.iter().find(|wanted| all.iter().all(|item| name(item) != wanted.as_str())) {
        let known: Vec<&str> = all.iter().map(name).collect();
        return Err(format!("no {what} is called {unknown}: there are {}", known.join(", ")).into());
    }
    Ok(all
        .iter()
        .filter(|item| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name(item)))
        .collect())
}

/// Starts and ends each variant once: those that can't start here are left out, unless they were asked for.
fn try_all(
    lab: &Lab,
    programs: &Programs,
    variants: &[&'static Variant],
    asked_for: bool,
    folder: &std::path::Path,
    stop: &Arc<AtomicBool>,
) -> Result<(Vec<&'static Variant>, Vec<LeftOut>), Fault> {
    let (mut servers, mut left_out) = (Vec::new(), Vec::new());
    for &variant in variants {
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        match Running::start(lab, programs, variant, folder, None, None).and_then(Running::stop) {
            Ok(_) => servers.push(variant),
            Err(fault) if variant.required || asked_for => return Err(fault),
            Err(fault) => {
                eprintln!("left out: {fault}");
                left_out.push(LeftOut { name: variant.name.to_owned(), reason: fault.to_string() });
            }
        }
    }
    Ok((servers, left_out))
}

fn all_rounds(
    context: &Context<'_>,
    labs: &Labs,
    scenarios: &[&'static Scenario],
    servers: &[&'static Variant],
    options: &Options,
    begun: Instant,
) -> Result<(u32, Vec<Sample>), Fault> {
    let mut samples = Vec::new();
    let mut done = 0;
    let mut took: BTreeMap<&str, Duration> = BTreeMap::new();
    for round in 1..=options.rounds {
        let due: Vec<_> = scenarios.iter().filter(|scenario| round <= scenario.max_rounds).collect();
        let expected: Duration = due.iter().filter_map(|scenario| took.get(scenario.name)).sum();
        if due.is_empty() || (round > 1 && begun.elapsed() + expected > options.budget) {
            break;
        }
        for scenario in due {
            let mut group = Vec::new();
            let scenario_begun = Instant::now();
            for target in targets(scenario, servers) {
                let sample = match context.measure(labs.of(scenario), scenario, target, round) {
                    Err(Fault::Interrupted) => return Err(Fault::Interrupted),
                    Err(fault) => Sample::failed(scenario.name, target.name(), round, &fault),
                    Ok(sample) => sample,
                };
                eprintln!("round {round}/{}  {}", options.rounds, progress(&sample));
                group.push(sample);
            }
            subtract_direct_path(&mut group);
            samples.append(&mut group);
            took.insert(scenario.name, scenario_begun.elapsed());
        }
        done = round;
    }
    Ok((done, samples))
}

fn targets(scenario: &Scenario, servers: &[&'static Variant]) -> Vec<Target> {
    let direct = scenario.has_direct_path().then_some(Target::Direct);
    // What comes over a stream never goes the kernel's way.
    let takes_part = |variant: &&Variant| !(scenario.is_over_streams() && variant.is_kernel_path());
    let servers = servers.iter().copied().filter(takes_part).map(Target::Server);
    direct.into_iter().chain(servers).collect()
}

fn progress(sample: &Sample) -> String {
    const SHOWN: [(&str, &str); 9] = [
        ("ndr_pps", "NDR/s"),
        ("allocations_per_sec", "allocations/s"),
        ("system_cpu_us", "µs/hop"),
        ("server_cpu_us_per_allocation", "µs/allocation"),
        ("handshakes_per_sec", "handshakes/s"),
        ("rss_kib_per_client", "KiB/client"),
        ("frozen_percent", "% frozen"),
        ("p99_us", "µs p99"),
        ("loss_percent", "% lost"),
    ];
    let values: Vec<String> = SHOWN
        .iter()
        .filter_map(|(key, unit)| sample.value(key).map(|value| format!("{value:.2} {unit}")))
        .collect();
    let doubts =
        if sample.doubts.is_empty() { String::new() } else { format!("  ({})", sample.doubts.join("; ")) };
    format!("{:<16} {:<18} {}{doubts}", sample.scenario, sample.server, values.join(", "))
}

/// What each server adds to the way without it, measured in the same round.
fn subtract_direct_path(group: &mut [Sample]) {
    let Some(direct) = group.iter().find(|sample| sample.server == DIRECT).cloned() else { return };
    const ADDED: [(&str, &str); 3] =
        [("system_cpu_us", "added_cpu_us"), ("p50_us", "added_p50_us"), ("p99_us", "added_p99_us")];
    for sample in group.iter_mut().filter(|sample| sample.server != DIRECT) {
        for (whole, added) in ADDED {
            if let (Some(with), Some(without)) = (sample.value(whole), direct.value(whole)) {
                sample.set(added, with - without);
            }
        }
        let memory = "kernel_kib_per_allocation";
        if let (Some(with), Some(without)) = (sample.value(memory), direct.value(memory)) {
            sample.set(memory, with - without);
        }
    }
}

fn describe(programs: &Programs, variant: &Variant) -> ServerInfo {
    let program = match variant.program {
        Program::Turnpike => "turnpike",
        Program::Coturn => "turnserver",
    };
    ServerInfo {
        name: variant.name.to_owned(),
        version: programs.version(variant.program),
        command: format!("{program} {}", command_line(&programs.arguments(variant, None))),
        is_reference: variant.program == Program::Coturn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let wanted = vec!["smal".to_owned()];
        let fault = select(SCENARIOS, |s| s.name, &wanted, "scenario").expect_err("unknown").to_string();
        assert!(fault.starts_with("no scenario is called smal: there are small, in-step, video"), "{fault}");
        assert!(!fault.contains('\n'));
    }

    #[test]
    fn without_names_everything_takes_part() {
        let all = select(SCENARIOS, |s| s.name, &[], "scenario").expect("all");
        assert_eq!(all.len(), SCENARIOS.len());
        let one = select(SCENARIOS, |s| s.name, &["churn".to_owned()], "scenario").expect("one");
        assert_eq!(one.iter().map(|s| s.name).collect::<Vec<_>>(), ["churn"]);
    }

    #[test]
    fn the_direct_path_is_subtracted_from_servers_only() {
        let sample = |server: &str, cost: f64| {
            let mut sample = Sample { server: server.into(), ..Sample::default() };
            sample.set("system_cpu_us", cost);
            sample.set("p99_us", cost * 100.0);
            sample
        };
        let mut group = vec![sample(DIRECT, 2.0), sample("ours", 5.0)];
        subtract_direct_path(&mut group);
        assert_eq!(
            (group[1].value("added_cpu_us"), group[1].value("added_p99_us")),
            (Some(3.0), Some(300.0))
        );
        assert_eq!(group[0].value("added_cpu_us"), None);
    }
}
