//! `cargo xtask api`: schemathesis asks an invented relay what docs/openapi.json allows, and what it
//! doesn't, and compares the answers with the document.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::step::{Counts, cargo};
use crate::target_folder;

const FOLDER: &str = "admin/tests/schemathesis";
const TOKEN: &str = "token-of-the-api-tests";
/// Requests of each kind to each operation; a thousand in all, in some 20 seconds.
const EXAMPLES: &str = "20";

/// Starts the relay that exists in memory only, and lets schemathesis loose on it.
///
/// # Errors
/// When an answer is not what the document says, or something can't be built or started.
pub fn run(root: &Path) -> Result<(), String> {
    let schemathesis = install(root)?;
    cargo(root, &["build", "--locked", "--workspace", "--example", "fake"], &[], &mut Counts::default())?;
    let relay = Relay::start(&target_folder(root).join("debug/examples/fake"))?;
    let reports = target_folder(root).join("schemathesis");
    std::fs::create_dir_all(&reports).map_err(|error| format!("{}: {error}", reports.display()))?;
    let status = Command::new(schemathesis)
        .arg("--config-file")
        .arg(root.join(FOLDER).join("schemathesis.toml"))
        .arg("run")
        .arg(root.join("docs/openapi.json"))
        .args(["--url", &relay.url, "--header", &format!("Authorization: Bearer {TOKEN}")])
        // The same requests each time: a red build must mean that something was changed.
        .args(["--seed", "1", "--max-examples", EXAMPLES, "--request-timeout", "5", "--continue-on-failure"])
        // It leaves a cache where it runs.
        .current_dir(&reports)
        .status()
        .map_err(|error| format!("cannot start schemathesis: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("schemathesis ended with {status}")) }
}

/// An environment of Python's with the pinned packages, made once into target/tools.
fn install(root: &Path) -> Result<PathBuf, String> {
    let folder = target_folder(root).join("tools/schemathesis");
    let program = folder.join("bin/schemathesis");
    let wanted = root.join(FOLDER).join("requirements.txt");
    let installed = folder.join("requirements.txt");
    let same = |one: &Path, other: &Path| {
        std::fs::read(one).is_ok_and(|one| std::fs::read(other).is_ok_and(|other| one == other))
    };
    if program.is_file() && same(&wanted, &installed) {
        return Ok(program);
    }
    println!("installing schemathesis into {} (once)", folder.display());
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&folder);
    finish(venv, "python3 -m venv (Debian has it in python3-venv)")?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&wanted);
    finish(pip, "pip install")?;
    std::fs::copy(&wanted, &installed).map_err(|error| format!("{}: {error}", installed.display()))?;
    Ok(program)
}

fn finish(mut command: Command, name: &str) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot start {name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name} ended with {status}")) }
}

/// The relay that exists in memory only; it ends with this.
struct Relay {
    process: Child,
    url: String,
}

impl Relay {
    fn start(program: &Path) -> Result<Self, String> {
        let mut process = Command::new(program)
            .args(["127.0.0.1:0", TOKEN])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let output = process.stdout.take().expect("was piped");
        let mut relay = Self { process, url: String::new() };
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(|error| format!("the relay said nothing: {error}"))?;
        let url = line.trim().strip_prefix("fake relay: ").ok_or("the relay did not start")?;
        url.trim_end_matches('/').clone_into(&mut relay.url);
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
