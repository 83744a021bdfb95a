//! Results as text, Markdown with pictures, and one HTML page.

pub mod html;
pub mod markdown;
pub mod text;

use turnpike_loadtest::report::svg::bars;

use crate::results::{DIRECT, METRICS, Metric, Results, Summary, is_comparable, is_over_streams, is_search};

/// A picture that every report has.
pub struct Picture {
    /// File name without extension, and anchor.
    pub name: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Which value.
    pub metric: &'static str,
    /// Of which scenarios.
    pub scenarios: &'static [&'static str],
}

const PACED: &[&str] =
    &["small", "in-step", "video", "video-busy", "video-full", "relay-to-relay", "indications", "binding"];
const SEARCHES: &[&str] = &["ndr-small", "ndr-video", "ndr-frames", "ndr-frames-back"];

/// Every picture, in order.
pub const PICTURES: &[Picture] = &[
    Picture {
        name: "system-cpu",
        title: "System CPU per hop, µs: the whole machine with generator and peer (less is better)",
        metric: "system_cpu_us",
        scenarios: PACED,
    },
    Picture {
        name: "server-cpu",
        title: "Server process CPU per hop, µs (less is better)",
        metric: "server_cpu_us",
        scenarios: PACED,
    },
    Picture {
        name: "delay-p99",
        title: "Delay, 99th percentile, µs (less is better)",
        metric: "p99_us",
        scenarios: PACED,
    },
    Picture {
        name: "streams-cpu",
        title: "Server process CPU per hop where clients come over TCP and TLS, µs (less is better)",
        metric: "server_cpu_us",
        scenarios: &["tcp-small", "tls-small", "tcp-busy", "tls-busy"],
    },
    Picture {
        name: "ndr",
        title: "Highest rate without loss, packets/s (more is better)",
        metric: "ndr_pps",
        scenarios: SEARCHES,
    },
    Picture {
        name: "overload",
        title: "Delivered at twice that rate, packets/s (more is better)",
        metric: "overload_delivered_pps",
        scenarios: SEARCHES,
    },
    Picture {
        name: "allocation-cpu",
        title: "Server process CPU per allocation, µs (less is better)",
        metric: "server_cpu_us_per_allocation",
        scenarios: &["churn"],
    },
    Picture {
        name: "allocation-memory",
        title: "Server's resident memory per allocation, KiB (less is better)",
        metric: "rss_kib_per_allocation",
        scenarios: &["allocations-1k", "allocations-5k", "allocations-16k"],
    },
];

impl Picture {
    /// The picture as SVG; `None` if nothing of it was measured.
    pub fn draw(&self, results: &Results) -> Option<String> {
        let servers = server_names(results);
        let groups: Vec<bars::Group> = self
            .scenarios
            .iter()
            .map(|&scenario| bars::Group {
                name: scenario.to_owned(),
                bars: servers
                    .iter()
                    .enumerate()
                    .filter_map(|(series, server)| {
                        let summary = results.summary(scenario, server, self.metric)?;
                        Some(bars::Bar { series, value: summary.median, from: summary.min, to: summary.max })
                    })
                    .collect(),
            })
            .filter(|group| !group.bars.is_empty())
            .collect();
        (!groups.is_empty()).then(|| bars::render(self.title, &servers, &groups))
    }
}

/// The servers and then the direct path.
fn server_names(results: &Results) -> Vec<String> {
    let direct = results.samples.iter().any(|sample| sample.server == DIRECT).then(|| DIRECT.to_owned());
    results.servers.iter().map(|server| server.name.clone()).chain(direct).collect()
}

/// The values that matter most: scenario, value, and how to say it.
const GLANCE: &[(&str, &str, &str)] = &[
    ("small", "system_cpu_us", "system CPU per hop, small packets evenly spaced"),
    ("small", "added_cpu_us", "the same less the direct path"),
    ("small", "server_cpu_us", "server process CPU per hop, small packets evenly spaced"),
    ("in-step", "system_cpu_us", "system CPU per hop, small packets in step"),
    ("in-step", "added_cpu_us", "the same less the direct path"),
    ("in-step", "server_cpu_us", "server process CPU per hop, small packets in step"),
    ("video", "system_cpu_us", "system CPU per hop, runs of 8 × 1200 B"),
    ("video", "added_cpu_us", "the same less the direct path"),
    ("video", "server_cpu_us", "server process CPU per hop, runs of 8 × 1200 B"),
    ("video-busy", "added_cpu_us", "system CPU per hop less direct path, busier runs"),
    ("video-busy", "server_cpu_us", "server process CPU per hop, busier runs"),
    ("video-full", "added_cpu_us", "system CPU per hop less direct path, the busiest runs"),
    ("video-full", "server_cpu_us", "server process CPU per hop, the busiest runs"),
    ("relay-to-relay", "system_cpu_us", "system CPU per hop, relay to relay"),
    ("small", "added_p99_us", "added delay p99, small packets"),
    ("in-step", "added_p99_us", "added delay p99, small packets in step"),
    ("ndr-small", "ndr_pps", "highest rate without loss, small packets (more is better)"),
    ("ndr-small", "server_cpu_us", "server process CPU per hop at that rate"),
    ("ndr-video", "ndr_pps", "highest rate without loss, runs (more is better)"),
    ("ndr-video", "server_cpu_us", "server process CPU per hop at that rate"),
    ("ndr-small", "overload_delivered_pps", "delivered at twice its own highest rate (more is better)"),
    ("ndr-frames", "ndr_pps", "highest rate without loss, frames made in the kernel (more is better)"),
    ("ndr-frames-back", "ndr_pps", "the same from peers to clients (more is better)"),
    ("ndr-frames", "system_cpu_us", "system CPU per hop at the highest rate of frames to peers"),
    ("frames", "added_cpu_us", "system CPU per hop less the sender's, frames made in the kernel"),
    ("tcp-small", "system_cpu_us", "system CPU per hop over TCP, small packets"),
    ("tcp-small", "server_cpu_us", "server process CPU per hop over TCP, small packets"),
    ("tls-small", "system_cpu_us", "system CPU per hop over TLS, small packets"),
    ("tls-small", "server_cpu_us", "server process CPU per hop over TLS, small packets"),
    ("tcp-busy", "server_cpu_us", "server process CPU per hop over TCP, small packets at a busier rate"),
    ("tls-busy", "server_cpu_us", "server process CPU per hop over TLS, small packets at a busier rate"),
    ("tcp-small", "p99_us", "delay p99 over TCP, small packets"),
    ("tls-small", "p99_us", "delay p99 over TLS, small packets"),
    ("tcp-video", "p99_us", "delay p99 that a call over TCP gets added"),
    ("tcp-video-half", "p99_us", "the same to a receiver at half rate"),
    ("tls-handshakes", "handshakes_per_sec", "TLS handshakes per second (more is better)"),
    ("tls-handshakes", "server_cpu_us_per_handshake", "server process CPU per TLS handshake"),
    ("udp-beside-stalled", "p99_us", "delay p99 over UDP beside 1000 clients over TCP that never read"),
    ("tls-idle", "rss_kib_per_client", "resident memory per idle client over TLS"),
    ("tls-idle", "kernel_kib_per_client", "kernel memory per idle client over TLS"),
    ("churn", "server_cpu_us_per_allocation", "server process CPU per allocation"),
    ("churn", "system_cpu_us_per_allocation", "system CPU per allocation"),
    ("allocations-16k", "rss_kib_per_allocation", "resident memory per allocation"),
];

/// Ratios at a glance: the servers that are compared with the reference, and a row of text for each value.
fn glance(results: &Results) -> (Vec<&str>, Vec<(&'static str, Vec<String>)>) {
    let compared = results.servers.iter().filter(|server| !server.is_reference);
    let servers: Vec<&str> = compared.map(|server| server.name.as_str()).collect();
    let ratio = |scenario, metric, server| {
        let ratio = results.summary(scenario, server, metric).and_then(|summary| summary.ratio);
        ratio.map_or(String::new(), |ratio| format!("×{ratio:.2}"))
    };
    let row = |&(scenario, metric, title): &(&'static str, &'static str, &'static str)| {
        (title, servers.iter().map(|server| ratio(scenario, metric, server)).collect::<Vec<_>>())
    };
    let rows =
        GLANCE.iter().map(row).filter(|(_, cells)| cells.iter().any(|cell| !cell.is_empty())).collect();
    (servers, rows)
}

/// One table: a scenario's values, a row each.
struct Table<'a> {
    servers: Vec<String>,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    metric: &'static Metric,
    /// As many as there are servers.
    cells: Vec<Option<&'a Summary>>,
}

fn table<'a>(results: &'a Results, scenario: &str) -> Table<'a> {
    let of = |server: &str, metric: &Metric| results.summary(scenario, server, metric.key);
    let servers: Vec<String> = server_names(results)
        .into_iter()
        .filter(|server| METRICS.iter().any(|metric| of(server, metric).is_some()))
        .collect();
    let rows = METRICS
        .iter()
        .map(|metric| Row { metric, cells: servers.iter().map(|server| of(server, metric)).collect() })
        .filter(|row| row.cells.iter().any(Option::is_some))
        .collect();
    Table { servers, rows }
}

/// `median (min to max)`, and the ratio to the reference where there is one.
fn cell(metric: &Metric, summary: &Summary) -> String {
    let digits = metric.digits;
    let number = |value: f64| format!("{value:.digits$}");
    let spread = match summary.rounds {
        0 | 1 => String::new(),
        _ => format!(" ({} to {})", number(summary.min), number(summary.max)),
    };
    // Kept results may have ratios that were made before they were known to mean nothing.
    let ratio = summary.ratio.filter(|_| is_comparable(&summary.scenario, metric));
    let ratio = ratio.map_or(String::new(), |ratio| format!(" ×{ratio:.2}"));
    format!("{}{spread}{ratio}", number(summary.median))
}

/// What explains the delays in a table: without it they look like a fault, or like a comparison.
fn delay_note(table: &Table<'_>, scenario: &str) -> Option<String> {
    let has = |key: &str| table.rows.iter().any(|row| row.metric.key == key);
    // What is waited for more datagrams is about sockets of the clients' own.
    if !has("p50_us") || is_over_streams(scenario) {
        return None;
    }
    if is_search(scenario) {
        return Some(
            "The delays are those at each server's own highest rate, just before it loses packets: queues are \
             full then. They belong to different loads, so they are not compared."
                .to_owned(),
        );
    }
    let mut note =
        "Delays: where a worker of Turnpike's uses more than half of a processor (see the server process's \
                    CPU) it waits for more datagrams, where several came within such a wait before: up to \
                    150 µs in each direction, which pays for a lower CPU. Below that, and with \
                    `--coalesce 0`, it never waits. What the kernel forwards (turnpike-xdp) waits for \
                    nothing, as long as it is ChannelData."
            .to_owned();
    if has("added_p50_us") {
        note += " Added is what is more than on the direct path in the same round.";
    }
    let below_zero = |row: &Row<'_>| row.cells.iter().flatten().any(|summary| summary.median < 0.0);
    if table.rows.iter().any(|row| row.metric.key == "added_p50_us" && below_zero(row)) {
        note += " Below zero the direct path was the slower one: its interfaces wait for runs to merge, and a \
                 relay in between changes what they wait for.";
    }
    Some(note)
}

/// Distinct doubts about a scenario's samples, with how often each was had.
fn doubts(results: &Results, scenario: &str) -> Vec<String> {
    let samples: Vec<_> = results.samples.iter().filter(|sample| sample.scenario == scenario).collect();
    server_names(results)
        .iter()
        .filter_map(|server| {
            let own: Vec<_> = samples.iter().filter(|sample| &sample.server == server).collect();
            let doubtful: Vec<_> = own.iter().filter(|sample| !sample.doubts.is_empty()).collect();
            let last = doubtful.last()?.doubts.join("; ");
            Some(format!("{server}, {} of {} rounds: {last}", doubtful.len(), own.len()))
        })
        .collect()
}

/// What one has to know to read any of the tables.
const LEGEND: &str = "Each value is the median of the rounds (smallest to largest); × is the median of its ratios, round by round, to coturn in the mode that was best there.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;
    use crate::results::{Sample, ScenarioInfo, summarise};
    use crate::scenario::SCENARIOS;

    #[test]
    fn pictures_show_values_and_scenarios_that_exist() {
        for picture in PICTURES {
            assert!(METRICS.iter().any(|metric| metric.key == picture.metric), "{}", picture.metric);
            for name in picture.scenarios {
                assert!(SCENARIOS.iter().any(|scenario| scenario.name == *name), "{name}");
            }
        }
    }

    #[test]
    fn a_glance_shows_ratios_of_values_that_exist_and_leaves_out_the_reference() {
        for (scenario, metric, _) in GLANCE {
            assert!(SCENARIOS.iter().any(|known| known.name == *scenario), "{scenario}");
            assert!(METRICS.iter().any(|known| known.key == *metric), "{metric}");
        }
        let results = example();
        let (servers, rows) = glance(&results);
        assert_eq!(servers, ["ours"]);
        assert_eq!(rows, [(GLANCE[0].2, vec!["×0.50".to_owned()])]);
    }

    #[test]
    fn a_cell_has_median_spread_and_ratio() {
        let results = example();
        let metric = METRICS.iter().find(|metric| metric.key == "system_cpu_us").expect("known");
        let summary = results.summary("small", "ours", metric.key).expect("measured");
        assert_eq!(cell(metric, summary), "3.00 (2.00 to 50.00) ×0.50");
        let direct = results.summary("small", DIRECT, metric.key).expect("measured");
        assert_eq!(cell(metric, direct), "1.00 (1.00 to 1.00)");
    }

    #[test]
    fn delays_at_different_rates_are_not_compared_and_all_delays_are_explained() {
        let mut results = example();
        let delay = |scenario: &str, server: &str, value: f64| Sample {
            scenario: scenario.into(),
            server: server.into(),
            round: 1,
            values: [("p50_us".to_owned(), value), ("system_cpu_us".to_owned(), value)].into(),
            ..Sample::default()
        };
        results.samples = ["small", "ndr-small"]
            .iter()
            .flat_map(|scenario| [delay(scenario, "ours", 6.0), delay(scenario, "theirs-fast", 3.0)])
            .collect();
        results.scenarios.push(ScenarioInfo { name: "ndr-small".into(), title: "search".into() });
        results.summaries = summarise(&results);
        let page = markdown::page(&results, "benchmarks", "", &[]);
        let (small, search) = page.split_once("## ndr-small").expect("both scenarios");
        assert!(small.contains("| delay p50, µs | 6 ×2.00 |") && small.contains("`--coalesce 0`"), "{small}");
        assert!(search.contains("| delay p50, µs | 6 |") && search.contains("own highest rate"), "{search}");
        assert!(search.contains("6.00 ×2.00"), "costs per hop are compared");
    }

    #[test]
    fn every_report_names_servers_values_and_machine() {
        let mut results = example();
        results.samples[0].doubts.push("noise".into());
        let pages = [
            text::render(&results),
            html::page(&results),
            markdown::page(&results, "benchmarks", "results/x.json", &[]),
        ];
        for page in pages {
            for wanted in [
                "theirs-fast",
                "3.00 (2.00 to 50.00) ×0.50",
                "Linux 6.0",
                "abc",
                "ours, 1 of 3 rounds: noise",
            ] {
                assert!(page.contains(wanted), "{wanted} is missing in {page}");
            }
        }
        assert!(html::page(&results).contains("Small &lt;packets&gt;"));
    }
}
