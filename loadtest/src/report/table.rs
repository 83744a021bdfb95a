//! The report as text for a terminal.

use std::fmt::Write as _;

use super::{GroupSummary, Report, SearchSummary, SetupSummary, TrialSummary, command_line, percent_text};
use crate::stats::DelaySummary;

/// The whole report, lines ending in newlines.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("{} against {}", report.title, report.server));
    line(&mut out, format_args!("started {}: {}", report.started, command_line(&report.command)));
    let Report { machine, .. } = report;
    line(
        &mut out,
        format_args!("generator: {} CPUs, {}, Linux {}", machine.cpus, machine.cpu, machine.kernel),
    );
    if let Some(setup) = &report.setup {
        out.push('\n');
        render_setup(&mut out, setup);
    }
    for trial in &report.trials {
        out.push('\n');
        render_trial(&mut out, trial);
    }
    if let Some(video) = &report.video {
        out.push('\n');
        out.push_str(&video.render());
        render_delays(
            &mut out,
            &[("packet, added", &video.added_delay), ("frame, added", &video.frame_delay)],
        );
    }
    if let Some(search) = &report.search {
        out.push('\n');
        render_search(&mut out, search);
    }
    if let Some(release) = &report.release {
        out.push('\n');
        let (confirmed, held) = (release.confirmed, release.held);
        line(
            &mut out,
            format_args!(
                "released: {confirmed} of {held} allocations confirmed gone in {:.2} s",
                release.seconds
            ),
        );
    }
    for note in &report.notes {
        line(&mut out, format_args!("note: {note}"));
    }
    if report.interrupted {
        line(&mut out, format_args!("note: stopped by a signal; the numbers are of the part that ran"));
    }
    line(&mut out, format_args!("verdict: {}", report.verdict.text));
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String doesn't fail");
}

fn render_search(out: &mut String, search: &SearchSummary) {
    line(
        out,
        format_args!("{:<6} {:>10} {:>14} {:>12} {:>14}", "", "max loss", "packets/s", "loss", "payload"),
    );
    for found in &search.results {
        let rate = found.rate_pps.map_or("none".into(), |rate| format!("{rate:.0}"));
        let at_least = if found.is_lower_bound { ">= " } else { "" };
        let loss = found.loss_percent.map_or("-".into(), |loss| format!("{loss:.4} %"));
        let payload = found.payload_mbit_per_sec.map_or("-".into(), |rate| format!("{rate:.1} Mbit/s"));
        let bound = format!("{} %", found.max_loss_percent);
        let rate = format!("{at_least}{rate}");
        line(out, format_args!("{:<6} {bound:>10} {rate:>14} {loss:>12} {payload:>14}", found.name));
    }
}

fn render_setup(out: &mut String, setup: &SetupSummary) {
    let SetupSummary { ready, wanted, seconds, per_second, .. } = setup;
    line(
        out,
        format_args!(
            "set-up: {ready} of {wanted} clients ready in {seconds:.2} s ({per_second:.0} per second)"
        ),
    );
    for failure in &setup.failures {
        line(out, format_args!("  {} failed: {}", failure.count, failure.reason));
    }
    let delays = [
        ("connect", &setup.connect),
        ("allocate", &setup.allocate),
        ("ready", &setup.ready_delay),
        ("first byte", &setup.first_byte),
    ];
    render_delays(out, &delays);
}

fn render_trial(out: &mut String, trial: &TrialSummary) {
    let TrialSummary { label, offered_pps, sent_pps, seconds, total, generator, .. } = trial;
    let offered = if offered_pps.is_finite() { format!("{offered_pps:.0}") } else { "unlimited".into() };
    line(
        out,
        format_args!("{label}: offered {offered} packets/s, sent {sent_pps:.0} packets/s for {seconds:.2} s"),
    );
    render_group(out, total);
    for group in &trial.groups {
        line(out, format_args!("  {} ({} clients, {} B)", group.name, group.clients, group.payload_bytes));
        render_group(out, group);
    }
    let lag = generator.send_lag.map_or("-".into(), |lag| format!("{:.0} µs", lag.p99_us));
    line(
        out,
        format_args!(
            "  generator: {:.2} CPU s, {:.2} µs per packet, p99 of due-to-sent {lag}",
            generator.cpu_secs, generator.cpu_us_per_packet
        ),
    );
    for fault in &generator.faults {
        line(out, format_args!("  WARNING: {fault}"));
    }
    if trial.connections_lost > 0 {
        line(out, format_args!("  WARNING: {} connections ended during the trial", trial.connections_lost));
    }
    if trial.renewal_failures > 0 {
        line(out, format_args!("  WARNING: {} renewals failed during the trial", trial.renewal_failures));
    }
}

fn render_group(out: &mut String, group: &GroupSummary) {
    let count = |out: &mut String, name: &str, value: u64| {
        line(out, format_args!("  {name:<14} {value:>12}  {:>12}", percent_text(value, group.sent)));
    };
    line(out, format_args!("  {:<14} {:>12}", "sent", group.sent));
    count(out, "received", group.received);
    count(out, "lost", group.lost);
    if let (Some(to_peer), Some(from_peer)) = (group.lost_to_peer, group.lost_from_peer) {
        count(out, "  to peer", to_peer);
        count(out, "  from peer", from_peer);
    }
    if group.stalled > 0 {
        count(out, "  not taken", group.stalled);
    }
    count(out, "duplicated", group.duplicated);
    count(out, "reordered", group.reordered);
    count(out, "late", group.late);
    count(out, "corrupted", group.corrupted);
    if group.stray > 0 {
        count(out, "stray", group.stray);
    }
    let delays =
        [("round trip", &group.round_trip), ("one way", &group.one_way), ("return way", &group.return_way)];
    render_delays(out, &delays);
    let (mean, max) = (group.jitter_mean_us, group.jitter_max_us);
    line(out, format_args!("  jitter (RFC 3550): {mean:.1} µs, worst flow {max:.1} µs"));
}

fn render_delays(out: &mut String, delays: &[(&str, &Option<DelaySummary>)]) {
    if delays.iter().all(|(_, delay)| delay.is_none()) {
        return;
    }
    line(
        out,
        format_args!(
            "  {:<14} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "µs", "p50", "p90", "p99", "p99.9", "max", "mean"
        ),
    );
    for (name, delay) in delays {
        let Some(delay) = delay else { continue };
        let DelaySummary { p50_us, p90_us, p99_us, p999_us, max_us, mean_us, .. } = delay;
        line(
            out,
            format_args!(
                "  {name:<14} {p50_us:>10.1} {p90_us:>10.1} {p99_us:>10.1} {p999_us:>10.1} {max_us:>10.1} {mean_us:>10.1}"
            ),
        );
    }
}
