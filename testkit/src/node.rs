//! Packages for clients written for node.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// Installs in `folder` what `package.json` and `package-lock.json` in `manifest` name, and nothing else; once for the
/// same list. `folder` has `node_modules` then.
///
/// # Errors
/// One line that says why it has not.
pub fn install(folder: &Path, manifest: &Path) -> Result<(), String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let lock = fs::read_to_string(manifest.join("package-lock.json")).map_err(told)?;
    let stamp = folder.join("node_modules/.installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(told)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(manifest.join(name), folder.join(name)).map_err(told)?;
    }
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(folder)
        .output()
        .map_err(|error| format!("npm: {error} (cargo xtask setup installs it)"))?;
    match output.status.success() {
        true => fs::write(&stamp, lock).map_err(told),
        false => Err(format!("npm ci: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
