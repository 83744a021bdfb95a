//! Programs of a known version that chores use: the system's, or built once into target/tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::target_folder;

/// The program `name` of the wanted version: ours, the system's, or freshly built from its crate.
///
/// # Errors
/// When it has to be built and that fails.
pub fn find_or_install(root: &Path, name: &str, version: &str) -> Result<PathBuf, String> {
    let tools = target_folder(root).join("tools");
    let ours = tools.join("bin").join(name);
    for program in [ours.clone(), PathBuf::from(name)] {
        if has_version(&program, &format!("{name} {version}")) {
            return Ok(program);
        }
    }
    println!("installing {name} {version} into {} (minutes, once)", tools.display());
    let status = Command::new("cargo")
        // Unoptimized: it runs for a second and builds in a fraction of the time.
        .args(["install", "--debug", "--locked", "--version", version, name, "--root"])
        .arg(&tools)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_DIR", tools.join("build"))
        .status()
        .map_err(|error| format!("cannot start cargo install: {error}"))?;
    // Some 500 MB that nobody needs again.
    let _ = std::fs::remove_dir_all(tools.join("build"));
    if status.success() { Ok(ours) } else { Err(format!("cargo install {name} ended with {status}")) }
}

fn has_version(program: &Path, expected: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == expected)
}
