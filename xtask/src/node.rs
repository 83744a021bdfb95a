//! Tests written for node: the dashboard in a real browser, and the files of `deploy/` with the programs that
//! read them.
//!
//! ```text
//!   dashboard: node --test ─► playwright-core ─► chromium ─► admin listener ─► example `fake`, or turnpike under load
//!   deploy:    node --test ─► systemd-analyze, promtool, prometheus ─► admin listener ─► turnpike
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::{FONTS, is_installed};
use crate::step::{Counts, cargo, run_command, skip};
use crate::target_folder;

/// One set of tests.
struct Suite {
    name: &'static str,
    /// Where its `*.test.js` lie.
    folder: &'static str,
    /// Without these there is nothing to test with.
    programs: &'static [&'static str],
}

const DASHBOARD: Suite = Suite {
    name: "dashboard",
    folder: "admin/dashboard/tests",
    programs: &["node", "npm", "chromium", FONTS[0], FONTS[1]],
};
const DEPLOY: Suite = Suite {
    name: "deploy",
    folder: "deploy/tests",
    programs: &["node", "systemd-analyze", "promtool", "prometheus"],
};

/// What both start. The CI has built them before: the release binary, and the rest for its tests.
const PROGRAMS: [&[&str]; 2] = [
    &["build", "--release", "--locked"],
    &["build", "--locked", "--workspace", "--example", "fake", "--bin", "turnpike-loadtest"],
];

/// The dashboard in a browser.
///
/// # Errors
/// When building or installing fails, or a test does.
pub fn dashboard(root: &Path, counts: &mut Counts) -> Result<(), String> {
    run(root, &DASHBOARD, counts)
}

/// The systemd unit, the alert rules and the Grafana dashboard.
///
/// # Errors
/// When building fails, or a test does.
pub fn deploy(root: &Path, counts: &mut Counts) -> Result<(), String> {
    run(root, &DEPLOY, counts)
}

fn run(root: &Path, suite: &Suite, counts: &mut Counts) -> Result<(), String> {
    if let Some(missing) = suite.programs.iter().find(|program| !is_installed(program)) {
        return skip(
            &format!("the tests of {} need {missing} (cargo xtask setup installs it)", suite.name),
            counts,
        );
    }
    for programs in PROGRAMS {
        cargo(root, programs, &[], counts)?;
    }
    let mut command = Command::new("node");
    command
        // A file waits most of the time, for a page or for a program: one more than node takes on two cores.
        .args(["--test", "--test-reporter=spec", "--test-concurrency=2"])
        .args(test_files(&root.join(suite.folder))?)
        .env("TARGET", target_folder(root))
        .current_dir(root.join(suite.folder));
    if suite.programs.contains(&"npm") {
        command.env("MODULES", install_modules(root, suite)?);
    }
    run_command(&mut command, "node --test", counts)
}

/// The folder with `node_modules` as the lock file says, below the target folder; renewed when that changed.
fn install_modules(root: &Path, suite: &Suite) -> Result<PathBuf, String> {
    let tests = root.join(suite.folder);
    let folder = target_folder(root).join(suite.name);
    let stamp = folder.join("node_modules/.lock-of-the-tests");
    let lock = tests.join("package-lock.json");
    let wanted = fs::read_to_string(&lock).map_err(told(&lock))?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).map_err(told(&folder))?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(tests.join(name), folder.join(name)).map_err(told(&tests.join(name)))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder);
    run_command(&mut npm, "npm ci", &mut Counts::default())?;
    fs::write(&stamp, wanted).map_err(told(&stamp))?;
    Ok(folder)
}

fn test_files(folder: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(folder).map_err(told(folder))?;
    let mut files: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".test.js"))
        .collect();
    files.sort_unstable();
    if files.is_empty() { Err(format!("{}: no test here", folder.display())) } else { Ok(files) }
}

fn told(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}
