//! `cargo xtask deny`: what the dependencies may be; with the `cargo-deny` of a known version.

use std::path::Path;
use std::process::Command;

use crate::tool;

/// Reads version 4 lock files and edition 2024; older releases panic on today's package ids.
const VERSION: &str = "0.20.2";

/// Bans, licenses and sources; needs no network once the dependencies are downloaded.
///
/// # Errors
/// When a rule of deny.toml is broken, or cargo-deny can't be installed.
pub fn check(root: &Path) -> Result<(), String> {
    run(root, &["bans", "licenses", "sources"])
}

/// Known vulnerabilities and yanked releases; downloads the advisory database.
///
/// # Errors
/// When there is one, or the database can't be had.
pub fn advisories(root: &Path) -> Result<(), String> {
    run(root, &["advisories"])
}

fn run(root: &Path, checks: &[&str]) -> Result<(), String> {
    let program = tool::find_or_install(root, "cargo-deny", VERSION)?;
    let status = Command::new(program)
        .args(["--workspace", "--locked", "check", "--hide-inclusion-graph"])
        .args(checks)
        .current_dir(root)
        .status()
        .map_err(|error| format!("cannot run cargo-deny: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo-deny ended with {status}")) }
}
