//! What was measured, as it is kept: raw samples, and the medians made from them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::machine::Machine;
use crate::scenario::{SCENARIOS, Work};

/// Version of the file's layout.
pub const FORMAT: u32 = 1;
/// Name of the pseudo server that stands for the way without any relay.
pub const DIRECT: &str = "direct";

/// How the doubt of a server begins that can't take part in a scenario.
const LEFT_OUT: &str = "left out: ";

/// A whole comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began, UTC.
    pub started: String,
    /// Of which commit the tool was built; `+` = with changes.
    pub commit: String,
    /// Where it ran.
    pub machine: Machine,
    /// The tool's own command line.
    pub command: Vec<String>,
    /// How it was measured.
    pub setup: Setup,
    /// The servers that took part.
    pub servers: Vec<ServerInfo>,
    /// Servers that couldn't, and why.
    pub left_out: Vec<LeftOut>,
    /// The scenarios.
    pub scenarios: Vec<ScenarioInfo>,
    /// One per scenario, server and round.
    pub samples: Vec<Sample>,
    /// Medians over the rounds.
    pub summaries: Vec<Summary>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Whole rounds.
    pub rounds: u32,
    /// Seconds of one trial with a fixed load.
    pub trial_secs: f64,
    /// Processors of the server.
    pub server_cpus: String,
    /// Processors of the load generator and the peer.
    pub generator_cpus: String,
    /// Processor seconds per second of the machine without any load, subtracted from every sample.
    pub idle_cpu_per_sec: f64,
    /// What holds for all servers alike, in sentences.
    pub notes: Vec<String>,
}

/// A server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Name in samples.
    pub name: String,
    /// What its program says it is.
    pub version: String,
    /// Its command line.
    pub command: String,
    /// Whether others are compared with it.
    pub is_reference: bool,
}

/// A server that couldn't take part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScenarioInfo {
    /// Name in samples.
    pub name: String,
    /// What it is.
    pub title: String,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Sample {
    /// Scenario.
    pub scenario: String,
    /// Server, or [`DIRECT`].
    pub server: String,
    /// Round, from 1.
    pub round: u32,
    /// Values by [`Metric::key`].
    pub values: BTreeMap<String, f64>,
    /// What casts doubt on it.
    pub doubts: Vec<String>,
}

impl Sample {
    /// The place of a measurement that came to nothing: one server's fault must not cost all others' samples.
    pub fn failed(scenario: &str, server: &str, round: u32, fault: &Fault) -> Sample {
        Sample {
            scenario: scenario.to_owned(),
            server: server.to_owned(),
            round,
            doubts: vec![format!("failed: {fault}")],
            ..Sample::default()
        }
    }

    /// The place of a measurement in which a server doesn't take part.
    pub fn leave_out(&mut self, reason: &str) {
        self.doubts.push(format!("{LEFT_OUT}{reason}"));
    }

    /// Whether it is such a place: nothing failed.
    pub fn is_left_out(&self) -> bool {
        self.doubts.iter().any(|doubt| doubt.starts_with(LEFT_OUT))
    }

    /// Sets a value; not a number is left out.
    pub fn set(&mut self, key: &str, value: f64) {
        debug_assert!(METRICS.iter().any(|metric| metric.key == key), "{key} is in no report");
        if value.is_finite() {
            self.values.insert(key.to_owned(), value);
        }
    }

    /// A value.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }
}

/// The rounds of one value.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Summary {
    /// Scenario.
    pub scenario: String,
    /// Server.
    pub server: String,
    /// [`Metric::key`].
    pub metric: String,
    /// Median of the rounds.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Rounds.
    pub rounds: usize,
    /// Median of the rounds' ratios to the best reference server of the same round.
    pub ratio: Option<f64>,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Costs.
    Lower,
    /// Yields.
    Higher,
    /// Neither; there is no ratio.
    Neither,
}

/// A value that can be measured.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name in files.
    pub key: &'static str,
    /// Name in reports.
    pub title: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Digits behind the point.
    pub digits: usize,
}

impl Metric {
    /// Whether it is a delay.
    pub fn is_delay(&self) -> bool {
        self.title.contains("delay")
    }
}

/// Whether a value of a scenario can be compared between servers. At the highest rate of each the delays belong
/// to different loads, which says nothing.
pub fn is_comparable(scenario: &str, metric: &Metric) -> bool {
    metric.better != Better::Neither && !(metric.is_delay() && is_search(scenario))
}

/// Whether a scenario looks for the highest rate of each server.
pub fn is_search(scenario: &str) -> bool {
    SCENARIOS
        .iter()
        .any(|known| known.name == scenario && matches!(known.work, Work::Search(_) | Work::SearchFrames(_)))
}

/// Whether a scenario's clients come over TCP or TLS.
pub fn is_over_streams(scenario: &str) -> bool {
    SCENARIOS.iter().any(|known| known.name == scenario && known.is_over_streams())
}

const fn metric(key: &'static str, title: &'static str, better: Better, digits: usize) -> Metric {
    Metric { key, title, better, digits }
}

/// Every value, in the order of reports.
pub const METRICS: &[Metric] = &[
    metric("offered_pps", "offered, packets/s", Better::Neither, 0),
    metric("delivered_pps", "delivered, packets/s", Better::Neither, 0),
    metric("loss_percent", "lost, %", Better::Neither, 3),
    metric("system_cpu_us", "system CPU per hop, µs", Better::Lower, 2),
    metric("added_cpu_us", "system CPU per hop less direct path, µs", Better::Lower, 2),
    metric("server_cpu_us", "server process CPU per hop, µs", Better::Lower, 2),
    metric("server_busy_percent", "server process CPU, % of one processor", Better::Neither, 0),
    metric("datagrams_per_message", "datagrams per message from the kernel", Better::Neither, 2),
    metric("xdp_runs_per_hop", "XDP program, runs per hop", Better::Neither, 2),
    metric("xdp_ns_per_run", "XDP program, ns per run", Better::Neither, 0),
    metric("p50_us", "delay p50, µs", Better::Lower, 0),
    metric("p99_us", "delay p99, µs", Better::Lower, 0),
    metric("p999_us", "delay p99.9, µs", Better::Lower, 0),
    metric("added_p50_us", "added delay p50, µs", Better::Lower, 0),
    metric("added_p99_us", "added delay p99, µs", Better::Lower, 0),
    metric("ndr_pps", "NDR, packets/s", Better::Higher, 0),
    metric("pdr_pps", "rate with at most 0.1 % loss, packets/s", Better::Higher, 0),
    metric("overload_offered_pps", "overload: offered, packets/s", Better::Neither, 0),
    metric("overload_delivered_pps", "overload: delivered, packets/s", Better::Higher, 0),
    metric("overload_loss_percent", "overload: lost, %", Better::Neither, 1),
    metric("overload_server_counted_percent", "losses that the server itself counted, %", Better::Neither, 1),
    metric(
        "overload_queue_counted_percent",
        "losses in the queues of its sockets, as the kernel counts, %",
        Better::Neither,
        1,
    ),
    metric(
        "overload_backlog_counted_percent",
        "losses in the processors' backlogs, as the kernel counts, %",
        Better::Neither,
        1,
    ),
    metric("allocations_per_sec", "allocations made per second", Better::Higher, 0),
    metric("server_cpu_us_per_allocation", "server process CPU per allocation, µs", Better::Lower, 1),
    metric("system_cpu_us_per_allocation", "system CPU per allocation, µs", Better::Lower, 1),
    metric("handshakes_per_sec", "TLS handshakes per second", Better::Higher, 0),
    metric("server_cpu_us_per_handshake", "server process CPU per handshake, µs", Better::Lower, 0),
    metric("system_cpu_us_per_handshake", "system CPU per handshake, µs", Better::Lower, 0),
    metric("lost_packets", "packets that never arrived", Better::Neither, 0),
    metric("counted_packets", "packets that the server says it dropped", Better::Neither, 0),
    metric("frozen_percent", "frames frozen, %", Better::Neither, 1),
    metric("late_percent", "frames late (400 ms), %", Better::Neither, 1),
    metric("rss_start_mib", "RSS at start, MiB", Better::Lower, 1),
    metric("rss_mib", "RSS under load, MiB", Better::Lower, 1),
    metric("rss_after_mib", "RSS after all allocations ended, MiB", Better::Lower, 1),
    metric("rss_settled_mib", "RSS 60 s after all allocations ended, MiB", Better::Lower, 2),
    metric("rss_settled_ratio", "the same, × that at start", Better::Neither, 2),
    metric("rss_kib_per_allocation", "RSS per allocation, KiB", Better::Lower, 2),
    metric("rss_kib_per_client", "RSS per idle client, KiB", Better::Lower, 1),
    metric("rss_given_back_percent", "of that given back 60 s after they left, %", Better::Neither, 0),
    metric("kernel_kib_per_client", "kernel memory per idle client, its own end too, KiB", Better::Lower, 1),
    metric("kernel_given_back_percent", "of that given back 60 s after they left, %", Better::Neither, 0),
    metric(
        "kernel_kib_per_allocation",
        "kernel memory per allocation less direct path, KiB",
        Better::Lower,
        2,
    ),
    metric("foreign_cpu_per_sec", "CPU used by others, s/s", Better::Neither, 2),
];

/// Medians of all samples, in the order of scenarios, metrics and servers.
pub fn summarise(results: &Results) -> Vec<Summary> {
    let reference: Vec<&str> = results
        .servers
        .iter()
        .filter(|server| server.is_reference)
        .map(|server| server.name.as_str())
        .collect();
    let names = || results.servers.iter().map(|server| server.name.as_str()).chain([DIRECT]);
    let mut summaries = Vec::new();
    for scenario in &results.scenarios {
        let samples: Vec<&Sample> =
            results.samples.iter().filter(|sample| sample.scenario == scenario.name).collect();
        for metric in METRICS {
            summaries.extend(names().filter_map(|server| summary(&samples, metric, server, &reference)));
        }
    }
    summaries
}

fn summary(samples: &[&Sample], metric: &Metric, server: &str, reference: &[&str]) -> Option<Summary> {
    let own: Vec<&&Sample> = samples.iter().filter(|sample| sample.server == server).collect();
    let mut values: Vec<f64> = own.iter().filter_map(|sample| sample.value(metric.key)).collect();
    values.sort_by(f64::total_cmp);
    let ratios = own.iter().filter_map(|sample| {
        let value = sample.value(metric.key)?;
        let best = best_reference(samples, metric, sample.round, reference)?;
        // A difference can be negative where noise is larger than it: no ratio then.
        (best > 0.0 && value >= 0.0).then_some(value / best)
    });
    let scenario = &own.first()?.scenario;
    let comparable = server != DIRECT && is_comparable(scenario, metric);
    let ratios = if comparable { ratios.collect() } else { Vec::new() };
    Some(Summary {
        scenario: scenario.clone(),
        server: server.to_owned(),
        metric: metric.key.to_owned(),
        median: median(values.clone())?,
        min: *values.first()?,
        max: *values.last()?,
        rounds: values.len(),
        ratio: median(ratios),
    })
}

/// The best value that a reference server had in a round: a comparison with anything less would flatter.
fn best_reference(samples: &[&Sample], metric: &Metric, round: u32, reference: &[&str]) -> Option<f64> {
    let values = samples
        .iter()
        .filter(|sample| sample.round == round && reference.contains(&sample.server.as_str()))
        .filter_map(|sample| sample.value(metric.key));
    match metric.better {
        Better::Lower => values.reduce(f64::min),
        Better::Higher => values.reduce(f64::max),
        Better::Neither => None,
    }
}

/// The middle value, or the mean of both in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

impl Results {
    /// Reads a file that [`Results::write`] has written.
    ///
    /// # Errors
    /// If it can't be read or isn't one.
    pub fn read(path: &Path) -> Result<Results, Fault> {
        let text = std::fs::read_to_string(path).map_err(Fault::file(path))?;
        let results: Results = serde_json::from_str(&text)
            .map_err(|error| format!("{}: not a result of this program: {error}", path.display()))?;
        match results.format {
            FORMAT => Ok(results),
            other => Err(format!("{}: format {other}, this program reads {FORMAT}", path.display()).into()),
        }
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, path: &Path) -> Result<(), Fault> {
        let text = serde_json::to_string_pretty(self).expect("maps have string keys, numbers are finite");
        write_file(path, &(text + "\n"))
    }

    /// How many measurements came to nothing.
    pub fn failures(&self) -> usize {
        self.samples.iter().filter(|sample| sample.values.is_empty() && !sample.is_left_out()).count()
    }

    /// The summary of one value.
    pub fn summary(&self, scenario: &str, server: &str, metric: &str) -> Option<&Summary> {
        self.summaries.iter().find(|s| s.scenario == scenario && s.server == server && s.metric == metric)
    }
}

/// Writes a file whole, and its folder if there is none.
///
/// # Errors
/// If it can't be written.
pub fn write_file(path: &Path, text: &str) -> Result<(), Fault> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Fault::file(folder))?;
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path)).map_err(Fault::file(path))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two servers and the direct path in three rounds of one scenario.
    pub(crate) fn example() -> Results {
        let machine = Machine {
            processor: "Test".into(),
            processors: 2,
            kernel: "6.0".into(),
            memory_mib: 1,
            is_virtual: true,
            load_before: 0.0,
        };
        let server = |name: &str, is_reference| ServerInfo {
            name: name.into(),
            version: "1".into(),
            command: name.into(),
            is_reference,
        };
        let setup = Setup {
            rounds: 3,
            trial_secs: 2.0,
            server_cpus: "0".into(),
            generator_cpus: "1".into(),
            idle_cpu_per_sec: 0.01,
            notes: vec!["All alike.".into()],
        };
        let mut results = Results {
            format: FORMAT,
            started: "2026-01-01T00:00:00Z".into(),
            commit: "abc".into(),
            machine,
            command: vec!["turnpike-bench".into()],
            setup,
            servers: vec![server("ours", false), server("theirs", true), server("theirs-fast", true)],
            left_out: vec![],
            scenarios: vec![ScenarioInfo { name: "small".into(), title: "Small <packets>".into() }],
            samples: vec![],
            summaries: vec![],
        };
        for (round, ours, theirs, fast) in [(1, 2.0, 4.0, 8.0), (2, 3.0, 9.0, 6.0), (3, 50.0, 100.0, 200.0)] {
            for (server, cost) in [("ours", ours), ("theirs", theirs), ("theirs-fast", fast), (DIRECT, 1.0)] {
                let mut sample =
                    Sample { scenario: "small".into(), server: server.into(), round, ..Sample::default() };
                sample.set("system_cpu_us", cost);
                sample.set("ndr_pps", cost * 10.0);
                sample.set("p50_us", f64::NAN);
                results.samples.push(sample);
            }
        }
        results.summaries = summarise(&results);
        results
    }

    #[test]
    fn medians_and_spreads_ignore_one_bad_round() {
        let results = example();
        let summary = results.summary("small", "ours", "system_cpu_us").expect("measured");
        assert_eq!((summary.median, summary.min, summary.max, summary.rounds), (3.0, 2.0, 50.0, 3));
    }

    #[test]
    fn ratios_are_taken_within_a_round_against_the_best_reference() {
        let results = example();
        let ratio = |server, metric| results.summary("small", server, metric).expect("measured").ratio;
        assert_eq!(ratio("ours", "system_cpu_us"), Some(0.5), "of 2/4, 3/6, 50/100");
        assert_eq!(ratio("ours", "ndr_pps"), Some(0.25), "of 20/80, 30/90, 500/2000");
        assert_eq!(ratio("theirs", "system_cpu_us"), Some(1.0));
        assert_eq!(ratio(DIRECT, "system_cpu_us"), None);
    }

    #[test]
    fn a_server_that_cannot_take_part_has_not_failed() {
        let mut results = example();
        let before = results.failures();
        let mut sample = Sample { scenario: "small".into(), server: "ours".into(), ..Sample::default() };
        sample.leave_out("it serves no TCP");
        results.samples.push(sample);
        assert_eq!(results.failures(), before);
        results.samples.push(Sample::failed("small", "ours", 1, &"it ended".into()));
        assert_eq!(results.failures(), before + 1);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        assert!(example().summary("small", "ours", "p50_us").is_none());
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_nothing_else_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/results.json");
        let results = example();
        results.write(&path).expect("writable");
        assert_eq!(Results::read(&path).expect("readable").samples, results.samples);
        std::fs::write(&path, "{}").expect("writable");
        let fault = Results::read(&path).expect_err("not a result").to_string();
        assert!(fault.contains("not a result of this program") && !fault.contains('\n'), "{fault}");
    }

    #[test]
    fn the_middle_of_an_even_number_is_the_mean_of_two() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
