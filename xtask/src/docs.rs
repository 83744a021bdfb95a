//! `cargo xtask docs`: pages that are generated from the sources.

use std::path::Path;
use std::process::Command;

use crate::step::{Counts, cargo};
use crate::target_folder;

/// Writes docs/configuration.md from what the program says about its own options.
///
/// # Errors
/// When the program can't be built or run, or the page can't be written.
pub fn run(root: &Path) -> Result<(), String> {
    cargo(root, &["build", "--release", "--locked"], &[], &mut Counts::default())?;
    let output = Command::new(target_folder(root).join("release/turnpike"))
        .arg("config-reference")
        .output()
        .map_err(|error| format!("cannot start turnpike: {error}"))?;
    if !output.status.success() || output.stdout.is_empty() {
        return Err(format!("`turnpike config-reference` printed no page ({})", output.status));
    }
    let page = root.join("docs/configuration.md");
    std::fs::write(&page, output.stdout).map_err(|error| format!("{}: {error}", page.display()))?;
    println!("wrote {}", page.display());
    Ok(())
}
