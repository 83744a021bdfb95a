//! `cargo xtask deny`: what the dependencies may be; with the `cargo-deny` of a known version.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::target_folder;

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
    let program = find_or_install(root)?;
    let status = Command::new(program)
        .args(["--workspace", "--locked", "check", "--hide-inclusion-graph"])
        .args(checks)
        .current_dir(root)
        .status()
        .map_err(|error| format!("cannot run cargo-deny: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo-deny ended with {status}")) }
}

/// The program of the wanted version: ours, the system's, or freshly built into target/tools.
fn find_or_install(root: &Path) -> Result<PathBuf, String> {
    let tools = target_folder(root).join("tools");
    let ours = tools.join("bin/cargo-deny");
    for program in [ours.clone(), PathBuf::from("cargo-deny")] {
        if has_version(&program) {
            return Ok(program);
        }
    }
    println!("installing cargo-deny {VERSION} into {} (minutes, once)", tools.display());
    let status = Command::new("cargo")
        // Unoptimized: it runs for a second and builds in a fraction of the time.
        .args(["install", "--debug", "--locked", "--version", VERSION, "cargo-deny", "--root"])
        .arg(&tools)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_DIR", tools.join("build"))
        .status()
        .map_err(|error| format!("cannot start cargo install: {error}"))?;
    // Some 500 MB that nobody needs again.
    let _ = std::fs::remove_dir_all(tools.join("build"));
    if status.success() { Ok(ours) } else { Err(format!("cargo install cargo-deny ended with {status}")) }
}

fn has_version(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deny {VERSION}"))
}
