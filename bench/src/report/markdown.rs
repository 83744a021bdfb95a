//! Results as `docs/benchmarks.md` and its pictures.

use std::fmt::Write as _;
use std::path::Path;

use super::{LEGEND, PICTURES, Table, cell, delay_note, doubts, glance, table};
use crate::fault::Fault;
use crate::results::{Results, write_file};

/// Writes the page to `path`, and the pictures into the folder beside it that has its name without `.md`.
/// `source` is the file with all samples, to be named in the page.
///
/// # Errors
/// If a file can't be written.
pub fn write(results: &Results, path: &Path, source: &Path) -> Result<(), Fault> {
    let folder = path.with_extension("");
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut drawn = Vec::new();
    for picture in PICTURES {
        if let Some(svg) = picture.draw(results) {
            write_file(&folder.join(picture.name).with_extension("svg"), &svg)?;
            drawn.push(picture.name);
        }
    }
    write_file(path, &page(results, &name, &source.display().to_string(), &drawn))
}

/// The page; `drawn` are the pictures that exist in `folder`.
pub fn page(results: &Results, folder: &str, source: &str, drawn: &[&str]) -> String {
    let mut out = String::from("# Benchmarks\n\n");
    out.push_str("Turnpike against coturn, measured in one run by `make bench` (`turnpike-bench compare`), which also writes this page. The core by itself: [microbenchmarks.md](microbenchmarks.md).\n\n");
    write_facts(&mut out, results, source);
    let _ = writeln!(
        out,
        "\n{LEGEND} Below 1 a cost is lower than coturn's, above 1 a rate is higher. On a shared virtual machine differences under 15 % mean little.\n"
    );
    write_glance(&mut out, results);
    for picture in PICTURES.iter().filter(|picture| drawn.contains(&picture.name)) {
        let _ = writeln!(out, "![{}]({folder}/{}.svg)\n", picture.title, picture.name);
    }
    for scenario in &results.scenarios {
        let table = table(results, &scenario.name);
        if table.rows.is_empty() {
            continue;
        }
        let _ = writeln!(out, "## {}\n\n{}.\n", scenario.name, scenario.title.replace('<', "&lt;"));
        write_table(&mut out, &table);
        if let Some(note) = delay_note(&table, &scenario.name) {
            let _ = writeln!(out, "\n{note}");
        }
        for doubt in doubts(results, &scenario.name) {
            let _ = writeln!(out, "\nDoubt: {doubt}.");
        }
        out.push('\n');
    }
    write_method(&mut out, results);
    out
}

fn write_facts(out: &mut String, results: &Results, source: &str) {
    let setup = &results.setup;
    let _ = writeln!(out, "| | |\n| --- | --- |");
    let _ = writeln!(out, "| Machine | {} |", results.machine.line());
    let _ = writeln!(out, "| When, commit | {}, {} |", results.started, results.commit);
    let _ = writeln!(
        out,
        "| Run | at most {} rounds, trials of {} s; server on processor {}, generator and peer on {} |",
        setup.rounds, setup.trial_secs, setup.server_cpus, setup.generator_cpus
    );
    if !source.is_empty() {
        let _ = writeln!(out, "| All samples | `{source}` |");
    }
    for server in &results.servers {
        let _ = writeln!(out, "| {} | {}: `{}` |", server.name, server.version, server.command);
    }
    for left_out in &results.left_out {
        let _ = writeln!(out, "| {} | left out: {} |", left_out.name, left_out.reason.replace('|', "/"));
    }
}

fn write_glance(out: &mut String, results: &Results) {
    let (servers, rows) = glance(results);
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "## At a glance\n\nRatios to coturn.\n");
    let _ = writeln!(out, "| | {} |\n| --- |{}", servers.join(" | "), " --- |".repeat(servers.len()));
    rows.iter().for_each(|(title, cells)| {
        let _ = writeln!(out, "| {title} | {} |", cells.join(" | "));
    });
    out.push('\n');
}

fn write_table(out: &mut String, table: &Table<'_>) {
    let _ = writeln!(out, "| | {} |", table.servers.join(" | "));
    let _ = writeln!(out, "| --- |{}", " --- |".repeat(table.servers.len()));
    for row in &table.rows {
        let cells: Vec<String> =
            row.cells.iter().map(|summary| summary.map_or(String::new(), |s| cell(row.metric, s))).collect();
        let _ = writeln!(out, "| {} | {} |", row.metric.title, cells.join(" | "));
    }
}

fn write_method(out: &mut String, results: &Results) {
    out.push_str("## How it was measured\n\n");
    for note in &results.setup.notes {
        let _ = writeln!(out, "- {note}");
    }
    let _ = writeln!(
        out,
        "- The idle machine used {:.3} processor seconds per second; that is subtracted.",
        results.setup.idle_cpu_per_sec
    );
}
