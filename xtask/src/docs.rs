//! `cargo xtask docs`: pages that are generated from the sources.

use std::path::Path;
use std::process::Command;

/// The page with coturn's options, and what stands around them there.
const COTURN_PAGE: &str = "docs/migrate-from-coturn.md";
const COTURN_BEGIN: &str =
    "<!-- From here on written by `cargo xtask docs` from relay/src/config/coturn/table.rs -->\n\n";
const COTURN_END: &str = "<!-- Written by `cargo xtask docs` up to here -->\n";

/// Writes docs/configuration.md from what the program says about its own options, and the tables of
/// docs/migrate-from-coturn.md from what it says about coturn's.
///
/// # Errors
/// When the program can't be built or run, or a page can't be read or written.
pub fn run(root: &Path) -> Result<(), String> {
    write(root, "docs/configuration.md", &said(root, "config-reference")?)?;
    let page =
        std::fs::read_to_string(root.join(COTURN_PAGE)).map_err(|error| format!("{COTURN_PAGE}: {error}"))?;
    let parts = page
        .split_once(COTURN_BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(COTURN_END)?.1)));
    let (before, after) =
        parts.ok_or_else(|| format!("{COTURN_PAGE} doesn't say where the tables belong"))?;
    let tables = said(root, "coturn-reference")?;
    write(root, COTURN_PAGE, &[before, COTURN_BEGIN, &tables, COTURN_END, after].concat())
}

/// What a command of the program prints.
fn said(root: &Path, command: &str) -> Result<String, String> {
    let output = Command::new("cargo")
        .args(["run", "--quiet", "--locked", "-p", "turnpike", "--", command])
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() || output.stdout.is_empty() {
        return Err(format!("`turnpike {command}` printed no page ({})", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("`turnpike {command}`: {error}"))
}

fn write(root: &Path, page: &str, text: &str) -> Result<(), String> {
    std::fs::write(root.join(page), text).map_err(|error| format!("{page}: {error}"))?;
    println!("wrote {page}");
    Ok(())
}
