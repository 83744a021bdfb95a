//! Programs in Go, for clients written in it, on libraries that Debian has as packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Where Debian puts the sources of libraries.
const LIBRARIES: &str = "/usr/share/gocode";

/// Builds the program that is the one file `source` into `folder`, unless that was done before; gives its path.
///
/// # Errors
/// One line that says why there is none: Go, or a library in `libraries`, by its import path, is missing, or it does
/// not compile.
pub fn build(source: &Path, folder: &Path, libraries: &[&str]) -> Result<PathBuf, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    if let Some(missing) = libraries.iter().find(|path| !Path::new(LIBRARIES).join("src").join(path).is_dir())
    {
        return Err(format!("{missing} is not in {LIBRARIES} (cargo xtask setup installs it)"));
    }
    let name = source.file_stem().ok_or_else(|| format!("{}: not a file", source.display()))?;
    let program = folder.join(name);
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOPATH", LIBRARIES)
        .env("GOCACHE", folder.join("cache"))
        .output()
        .map_err(|error| format!("go: {error} (cargo xtask setup installs it)"))?;
    match output.status.success() {
        true => Ok(program),
        false => Err(format!("{}: {}", source.display(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}
