//! The report as one page that needs nothing else: style and charts are inside, no scripts, no hosts.

use super::svg::lines::{Chart, Series, render};
use super::svg::{escape, push};
use super::{Report, TrialSummary, command_line, table};
use crate::limits::MAX_LINES;
use crate::stats::DelaySummary;

/// Light and dark by the reader's preference; series colours differ in lightness too.
const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#59636e;--grid:#d9dee3;--card:#f6f8fa;--warn:#9a3412;\
--c0:#0b6bcb;--c1:#c2410c;--c2:#15803d;--c3:#7e22ce;--c4:#be185d;--c5:#57606a}\
@media(prefers-color-scheme:dark){:root{--bg:#101418;--fg:#e6e9ec;--dim:#98a2ad;--grid:#2b333b;--card:#181e24;--warn:#fdba74;\
--c0:#66b2ff;--c1:#ff9a5c;--c2:#5fd38a;--c3:#cf9bff;--c4:#ff8ac2;--c5:#aab4be}}\
*{box-sizing:border-box}body{margin:0 auto;padding:1.5rem;max-width:82rem;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.25rem 0;color:var(--dim)}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:1rem}\
figure{margin:0;padding:.75rem;background:var(--card);border-radius:8px}figcaption{font-weight:600;margin-bottom:.25rem}\
svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);font:11px system-ui,sans-serif}svg .axis{fill:var(--fg)}\
.grid{stroke:var(--grid);stroke-width:1;fill:none}.line{fill:none;stroke-width:2}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}\
.mark.c0{fill:var(--c0)}.mark.c1{fill:var(--c1)}.mark.c2{fill:var(--c2)}.mark.c3{fill:var(--c3)}.mark.c4{fill:var(--c4)}.mark.c5{fill:var(--c5)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.25rem .75rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}\
th:first-child,td:first-child{text-align:left}th{color:var(--dim);font-weight:600}.warn{color:var(--warn)}.verdict{margin:1rem 0;color:var(--fg);font-size:1.15rem;font-weight:600}\
pre{padding:.75rem;background:var(--card);border-radius:8px;overflow-x:auto;font-size:13px}";

/// The report as one HTML page, with its charts.
pub fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head><body>\n"
    );
    let machine = &report.machine;
    push(&mut out, format_args!("<h1>{title}</h1>"));
    push(
        &mut out,
        format_args!(
            "<p>Server {}. Generator: {}, {} CPUs, {}, Linux {}.</p>",
            escape(&report.server),
            escape(&report.tool),
            machine.cpus,
            escape(&machine.cpu),
            escape(&machine.kernel)
        ),
    );
    push(&mut out, format_args!("<p>Started {}.</p>", escape(&report.started)));
    push(&mut out, format_args!("<p><code>{}</code></p>", escape(&command_line(&report.command))));
    push(&mut out, format_args!("<p class=\"verdict\">{}</p>", escape(&report.verdict.text)));
    for trial in &report.trials {
        for fault in &trial.generator.faults {
            push(&mut out, format_args!("<p class=\"warn\">{}: {}</p>", escape(&trial.label), escape(fault)));
        }
    }
    search_table(&mut out, report);
    charts(&mut out, report);
    trial_table(&mut out, report);
    delay_table(&mut out, report);
    push(
        &mut out,
        format_args!("<h2>As text</h2><pre>{}</pre></body></html>\n", escape(&table::render(report))),
    );
    out
}

fn figure(out: &mut String, caption: &str, chart: &Chart<'_>) {
    push(
        out,
        format_args!("<figure><figcaption>{}</figcaption>{}</figure>\n", escape(caption), render(chart)),
    );
}

fn charts(out: &mut String, report: &Report) {
    let mut trials: Vec<&TrialSummary> = report.trials.iter().collect();
    if trials.is_empty() {
        return;
    }
    out.push_str("<div class=\"charts\">");
    trials.sort_by(|a, b| a.offered_pps.total_cmp(&b.offered_pps));
    if trials.len() > 1 {
        rate_charts(out, &trials);
    }
    let shown = spread(&trials);
    throughput_chart(out, &shown);
    curve_chart(out, &shown);
    out.push_str("</div>");
}

fn rate_charts(out: &mut String, trials: &[&TrialSummary]) {
    let points = |value: &dyn Fn(&TrialSummary) -> Option<f64>| -> Vec<(f64, f64)> {
        trials.iter().filter_map(|trial| Some((trial.offered_pps, value(trial)?))).collect()
    };
    let line = |name: &str, points| Series { name: name.into(), points };
    let loss = line("loss", points(&|trial| Some(trial.total.loss_percent)));
    let x = "offered packets/s";
    figure(
        out,
        "Loss against offered rate",
        &Chart { x, y: "% lost", log_y: false, x_labels: Vec::new(), series: vec![loss] },
    );
    let delay = |pick: fn(&DelaySummary) -> f64| points(&|trial| main_delay(trial).map(|delay| pick(&delay)));
    let series = vec![
        line("p50", delay(|d| d.p50_us)),
        line("p99", delay(|d| d.p99_us)),
        line("p99.9", delay(|d| d.p999_us)),
    ];
    figure(
        out,
        "Delay against offered rate",
        &Chart { x, y: "µs", log_y: true, x_labels: Vec::new(), series },
    );
}

/// Round trip, or the one way where there is no round trip.
fn main_delay(trial: &TrialSummary) -> Option<DelaySummary> {
    trial.total.round_trip.or(trial.total.one_way)
}

/// At most [`MAX_LINES`] trials, evenly chosen from lowest to highest rate.
fn spread<'a>(trials: &[&'a TrialSummary]) -> Vec<&'a TrialSummary> {
    if trials.len() <= MAX_LINES {
        return trials.to_vec();
    }
    (0..MAX_LINES).map(|n| trials[n * (trials.len() - 1) / (MAX_LINES - 1)]).collect()
}

fn throughput_chart(out: &mut String, trials: &[&TrialSummary]) {
    let single = trials.len() == 1;
    let mut series = Vec::new();
    for trial in trials {
        let received = rates(&trial.series, |sample| sample.2);
        if single {
            series.push(Series { name: "sent".into(), points: rates(&trial.series, |sample| sample.1) });
            series.push(Series { name: "received".into(), points: received });
        } else {
            series.push(Series { name: format!("{:.0}/s", trial.offered_pps), points: received });
        }
    }
    let caption = if single { "Throughput over time" } else { "Received over time, by offered rate" };
    figure(out, caption, &Chart { x: "seconds", y: "packets/s", log_y: false, x_labels: Vec::new(), series });
}

/// Differences of running totals.
fn rates(samples: &[(f64, u64, u64)], pick: fn(&(f64, u64, u64)) -> u64) -> Vec<(f64, f64)> {
    /// Shorter steps, as at the end of a trial, would make spikes.
    const SHORTEST_SECS: f64 = 0.05;
    let mut points = Vec::new();
    let mut last: Option<&(f64, u64, u64)> = None;
    for sample in samples {
        let Some(before) = last else {
            last = Some(sample);
            continue;
        };
        let secs = sample.0 - before.0;
        if secs >= SHORTEST_SECS {
            points.push((sample.0, pick(sample).saturating_sub(pick(before)) as f64 / secs));
            last = Some(sample);
        }
    }
    points
}

fn curve_chart(out: &mut String, trials: &[&TrialSummary]) {
    // Nines on the axis: 1 = 90 %, 2 = 99 %, 3 = 99.9 %.
    let nines = |quantile: f64| (-(1.0 - quantile).max(0.000_05).log10()).min(4.3);
    let single = trials.len() == 1;
    let series = trials
        .iter()
        .filter(|trial| !trial.total.delay_curve.is_empty())
        .map(|trial| Series {
            name: if single { "delay".into() } else { format!("{:.0}/s", trial.offered_pps) },
            points: trial.total.delay_curve.iter().map(|&(quantile, us)| (nines(quantile), us)).collect(),
        })
        .collect();
    let labels =
        [(0.0, "0"), (0.301, "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")];
    let x_labels = labels.map(|(at, label)| (at, label.to_owned())).to_vec();
    figure(
        out,
        "Delay by percentile",
        &Chart { x: "share of packets", y: "µs", log_y: true, x_labels, series },
    );
}

fn search_table(out: &mut String, report: &Report) {
    let Some(search) = &report.search else { return };
    out.push_str("<h2>Highest rate</h2><div class=\"scroll\"><table><tr><th></th><th>max loss</th><th>packets/s</th><th>payload</th><th>measured loss</th></tr>");
    for found in &search.results {
        let at_least = if found.is_lower_bound { "&ge; " } else { "" };
        let rate = found.rate_pps.map_or("none".into(), |rate| format!("{at_least}{rate:.0}"));
        let payload = found.payload_mbit_per_sec.map_or("-".into(), |rate| format!("{rate:.1} Mbit/s"));
        let loss = found.loss_percent.map_or("-".into(), |loss| format!("{loss:.4} %"));
        push(
            out,
            format_args!(
                "<tr><td>{}</td><td>{} %</td><td>{rate}</td><td>{payload}</td><td>{loss}</td></tr>",
                escape(&found.name),
                found.max_loss_percent
            ),
        );
    }
    out.push_str("</table></div>");
}

fn trial_table(out: &mut String, report: &Report) {
    if report.trials.is_empty() {
        return;
    }
    out.push_str("<h2>Packets</h2><div class=\"scroll\"><table><tr><th>trial</th><th>offered/s</th><th>sent</th><th>received</th><th>lost</th><th>loss</th><th>duplicated</th><th>reordered</th><th>late</th><th>corrupted</th><th>not sent</th></tr>");
    for trial in &report.trials {
        let all = std::iter::once((&trial.label, &trial.total));
        for (name, group) in all.chain(trial.groups.iter().map(|group| (&group.name, group))) {
            push(
                out,
                format_args!(
                    "<tr><td>{}</td><td>{:.0}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.4} %</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                    escape(name),
                    trial.offered_pps,
                    group.sent,
                    group.received,
                    group.lost,
                    group.loss_percent,
                    group.duplicated,
                    group.reordered,
                    group.late,
                    group.corrupted,
                    group.skipped + group.send_dropped
                ),
            );
        }
    }
    out.push_str("</table></div>");
}

fn delay_table(out: &mut String, report: &Report) {
    let mut rows: Vec<(String, DelaySummary)> = Vec::new();
    if let Some(setup) = &report.setup {
        let delays =
            [("allocate", setup.allocate), ("ready", setup.ready_delay), ("first byte", setup.first_byte)];
        rows.extend(delays.into_iter().filter_map(|(name, delay)| Some((format!("set-up: {name}"), delay?))));
    }
    for trial in &report.trials {
        let total = &trial.total;
        let delays =
            [("round trip", total.round_trip), ("one way", total.one_way), ("return way", total.return_way)];
        rows.extend(
            delays.into_iter().filter_map(|(name, delay)| Some((format!("{}: {name}", trial.label), delay?))),
        );
    }
    out.push_str("<h2>Delays, µs</h2><div class=\"scroll\"><table><tr><th></th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th><th>mean</th></tr>");
    for (name, delay) in rows {
        let DelaySummary { p50_us, p90_us, p99_us, p999_us, max_us, mean_us, .. } = delay;
        push(
            out,
            format_args!(
                "<tr><td>{}</td><td>{p50_us:.1}</td><td>{p90_us:.1}</td><td>{p99_us:.1}</td><td>{p999_us:.1}</td><td>{max_us:.1}</td><td>{mean_us:.1}</td></tr>",
                escape(&name)
            ),
        );
    }
    out.push_str("</table></div>");
}
