//! The report as one page.
use super::Report;
use std::io;
use std::path::Path;
/// Writes it.
pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    super::json::replace_file(path, &report.title)
}
