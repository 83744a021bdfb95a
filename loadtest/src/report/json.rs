//! The report as JSON.

use super::Report;

/// The whole report, with a newline at its end.
pub fn text(report: &Report) -> String {
    let text =
        serde_json::to_string_pretty(report).expect("maps have string keys, numbers are finite or null");
    text + "\n"
}
