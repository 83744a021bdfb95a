//! The report as a JSON file.

use std::io;
use std::path::Path;

use super::Report;

/// Writes the report to a file, whole or not at all.
pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    let text = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
    replace_file(path, &(text + "\n"))
}

/// Writes beside the target and renames, so that a reader never sees half a file.
pub(super) fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    std::fs::write(&name, text)?;
    std::fs::rename(&name, path)
}
