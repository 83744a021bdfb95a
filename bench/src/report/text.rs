//! Results for a terminal.

use std::fmt::Write as _;

use super::{LEGEND, Table, cell, delay_note, doubts, table};
use crate::results::Results;

/// All tables.
pub fn render(results: &Results) -> String {
    let mut out = format!("\n{}\n", results.machine.line());
    let _ = writeln!(out, "commit {}, {} rounds, {}", results.commit, results.setup.rounds, results.started);
    for left_out in &results.left_out {
        let _ = writeln!(out, "left out: {}", left_out.reason);
    }
    for scenario in &results.scenarios {
        let table = table(results, &scenario.name);
        if table.rows.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{}: {}", scenario.name, scenario.title);
        write_table(&mut out, &table);
        if let Some(note) = delay_note(&table, &scenario.name) {
            let _ = writeln!(out, "  {note}");
        }
        for doubt in doubts(results, &scenario.name) {
            let _ = writeln!(out, "  doubt: {doubt}");
        }
    }
    let _ = writeln!(out, "\n{LEGEND}");
    out
}

fn write_table(out: &mut String, table: &Table<'_>) {
    let cells: Vec<Vec<String>> = table
        .rows
        .iter()
        .map(|row| row.cells.iter().map(|s| s.map_or(String::new(), |s| cell(row.metric, s))).collect())
        .collect();
    let title_width = table.rows.iter().map(|row| row.metric.title.chars().count()).max().unwrap_or(0);
    let width = |column: usize| {
        let longest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        longest.max(table.servers[column].len())
    };
    let _ = write!(out, "  {:title_width$}", "");
    for (column, server) in table.servers.iter().enumerate() {
        let _ = write!(out, "  {server:<width$}", width = width(column));
    }
    for (row, cells) in table.rows.iter().zip(&cells) {
        let _ = write!(out, "\n  {:<title_width$}", row.metric.title);
        for (column, cell) in cells.iter().enumerate() {
            let _ = write!(out, "  {cell:<width$}", width = width(column));
        }
    }
    out.push('\n');
}
