//! `cargo xtask openapi`: the document of the administration, from its code.

use std::path::Path;
use std::process::Command;

/// Writes docs/openapi.json.
///
/// # Errors
/// When the document can't be made or written.
pub fn run(root: &Path) -> Result<(), String> {
    let output = Command::new("cargo")
        .args(["run", "--quiet", "--locked", "-p", "turnpike-admin", "--example", "openapi"])
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() || output.stdout.is_empty() {
        return Err(format!("the example `openapi` printed no document ({})", output.status));
    }
    let path = root.join("docs/openapi.json");
    std::fs::write(&path, output.stdout).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
