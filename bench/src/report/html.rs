//! Results as one self-contained page: no script, nothing loaded from elsewhere.

use std::fmt::Write as _;
use std::path::Path;

use turnpike_loadtest::report::svg::escape;

use super::{LEGEND, PICTURES, Table, cell, delay_note, doubts, table};
use crate::fault::Fault;
use crate::results::{Results, write_file};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#24292f;background:#fff}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .8rem .25rem 0;text-align:left;border-bottom:1px solid #d0d7de;font-variant-numeric:tabular-nums}\
.wide{overflow-x:auto}svg{max-width:48rem;width:100%;display:block;margin:1.5rem 0}.doubt{color:#9a6700}code{font-size:.85em;overflow-wrap:anywhere}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}td,th{border-color:#3d444d}.doubt{color:#d29922}}";

/// Writes the page.
///
/// # Errors
/// If the file can't be written.
pub fn write(results: &Results, path: &Path) -> Result<(), Fault> {
    write_file(path, &page(results))
}

/// The page.
pub fn page(results: &Results) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Turnpike benchmarks</title><style>{STYLE}</style><h1>Turnpike against coturn</h1>"
    );
    let _ = write!(
        out,
        "<p>{}<br>{}, commit {}, {} rounds</p><p>{}</p>",
        escape(&results.machine.line()),
        escape(&results.started),
        escape(&results.commit),
        results.setup.rounds,
        escape(LEGEND)
    );
    PICTURES.iter().filter_map(|picture| picture.draw(results)).for_each(|svg| out.push_str(&svg));
    for scenario in &results.scenarios {
        let table = table(results, &scenario.name);
        if table.rows.is_empty() {
            continue;
        }
        let _ = write!(out, "<h2>{}</h2><p>{}</p>", escape(&scenario.name), escape(&scenario.title));
        write_table(&mut out, &table);
        if let Some(note) = delay_note(&table, &scenario.name) {
            let _ = write!(out, "<p>{}</p>", escape(&note));
        }
        for doubt in doubts(results, &scenario.name) {
            let _ = write!(out, "<p class=\"doubt\">Doubt: {}</p>", escape(&doubt));
        }
    }
    write_method(&mut out, results);
    out
}

fn write_table(out: &mut String, table: &Table<'_>) {
    out.push_str("<div class=\"wide\"><table><tr><th></th>");
    for server in &table.servers {
        let _ = write!(out, "<th>{}</th>", escape(server));
    }
    out.push_str("</tr>");
    for row in &table.rows {
        let _ = write!(out, "<tr><td>{}</td>", escape(row.metric.title));
        for summary in &row.cells {
            let _ =
                write!(out, "<td>{}</td>", summary.map_or(String::new(), |s| escape(&cell(row.metric, s))));
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div>");
}

fn write_method(out: &mut String, results: &Results) {
    out.push_str("<h2>How it was measured</h2><ul>");
    for note in &results.setup.notes {
        let _ = write!(out, "<li>{}</li>", escape(note));
    }
    out.push_str("</ul><h2>Servers</h2><ul>");
    for server in &results.servers {
        let (name, version, command) =
            (escape(&server.name), escape(&server.version), escape(&server.command));
        let _ = write!(out, "<li>{name} ({version}): <code>{command}</code></li>");
    }
    for left_out in &results.left_out {
        let _ = write!(out, "<li>left out: {}</li>", escape(&left_out.reason));
    }
    out.push_str("</ul></html>\n");
}
