//! Python with packages of its own, for clients written in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A virtual environment in `folder` with what the requirements file `list` names, and nothing else; made
/// once. Gives its `python`.
///
/// # Errors
/// One line that says why there is none.
pub fn with_packages(folder: &Path, list: &Path) -> Result<PathBuf, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let python = folder.join("bin/python");
    if folder.join("complete").exists() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--requirement"])
        .arg(list))?;
    std::fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
