//! Tests that can't run here.

use std::io::Write;

/// Says on the terminal, past the test runner's capture, that a test did not run.
pub fn skip(name: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name} because {why}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{name} may not be skipped in CI: {why}");
}
