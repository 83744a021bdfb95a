//! The tables of docs/migrate-from-coturn.md.

use std::fmt::Write;

use super::table::{Row, SECTIONS};

/// All options, a table for each thing that they are about.
pub fn tables() -> String {
    let mut page = String::new();
    for section in SECTIONS {
        let _ = write!(page, "### {}\n\n| coturn | Turnpike | |\n| --- | --- | --- |\n", section.title);
        section.rows.iter().for_each(|row| write_row(&mut page, row));
        page.push('\n');
    }
    page
}

fn write_row(page: &mut String, row: &Row) {
    let names: Vec<_> = row.names.iter().map(|name| format!("`{name}`")).collect();
    let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let note = if row.note.is_empty() { String::new() } else { format!("{} ", row.note) };
    let _ = writeln!(page, "| {names} | {} | {note}|", row.here);
}
