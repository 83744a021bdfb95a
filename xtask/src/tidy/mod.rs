//! `cargo xtask tidy`: rules that no compiler checks.
//!
//! ```text
//!   git ls-files ──► source: comments and strings blanked ──► rules: faults (fail), notes (listed)
//! ```
//!
//! Faults: an impure core, `unsafe` outside its places, offload commands emitted outside their
//! module, secrets that can be printed, leftovers (`todo!`), paths of somebody's machine, an
//! `ARCHITECTURE.md` that leaves out a source or names what is not there.
//! Notes: functions and files that are longer than our habit.

mod map;
mod rules;
mod source;

use std::path::Path;
use std::process::Command;

use source::Source;

/// Something found at a line of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path below the repository's root.
    pub path: String,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// Checks all files that git tracks.
///
/// # Errors
/// When there is a fault, or git can't be asked.
pub fn run(root: &Path) -> Result<(), String> {
    let paths = tracked_files(root)?;
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    let offload_exists = paths.iter().any(|path| path == rules::OFFLOAD_MODULE);
    for path in &paths {
        // Not UTF-8 or deleted since: nothing to read here.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        faults.extend(rules::text_faults(path, &text));
        if path == map::ARCHITECTURE {
            faults.extend(map::faults(&text, &paths));
        }
        if path.ends_with(".rs") {
            let source = Source::new(path, &text);
            faults.extend(rules::source_faults(&source, offload_exists));
            notes.extend(rules::lengths(&source));
        }
    }
    show("note", &notes);
    show("fault", &faults);
    println!("tidy: {} files, {} faults, {} notes", paths.len(), faults.len(), notes.len());
    if faults.is_empty() { Ok(()) } else { Err(format!("{} faults in the tree", faults.len())) }
}

fn show(kind: &str, findings: &[Finding]) {
    for Finding { path, line, what } in findings {
        println!("{path}:{line}: {kind}: {what}");
    }
}

/// Tracked files, and new ones that are not ignored: what the next commit may hold.
///
/// # Errors
/// When git can't be asked.
pub fn tracked_files(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run git: {error}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files ended with {}", output.status));
    }
    let listing = String::from_utf8(output.stdout).map_err(|_| "a file name is not UTF-8")?;
    let mut paths: Vec<String> = listing.split_terminator('\0').map(str::to_owned).collect();
    paths.sort_unstable();
    paths.dedup();
    Ok(paths)
}
