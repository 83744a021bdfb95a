//! `cargo xtask fuzz`: runs one of the core's fuzz targets for a while.
//!
//! What the fuzzer collects goes to target/fuzz/TARGET; the committed corpus is read, never written:
//! a find is copied there by hand, minimized and named.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

use crate::{target_folder, tool};

/// What can be fuzzed: the modules of proto/fuzz_checks/src.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Target {
    /// The parser, against a reference.
    Wire,
    /// Streams, cut into messages.
    Framer,
    /// Headers of the PROXY protocol.
    Proxy,
    /// Frames, to the kernel program as built for the host.
    Frame,
    /// Arbitrary datagrams, signed.
    Request,
    /// Sequences of operations.
    Operations,
    /// Snapshots of a server's state, whole and damaged.
    Migrate,
}

/// The release with which the targets were last run.
const VERSION: &str = "0.13.2";
/// Longer inputs are slower and show nothing else.
const MAX_INPUT_BYTES: u32 = 2048;

/// Builds the target and runs it for `minutes`.
///
/// # Errors
/// When it found something, or can't be built.
pub fn run(root: &Path, target: Target, minutes: u32) -> Result<(), String> {
    let name = format!("{target:?}").to_lowercase();
    let program = tool::find_or_install(root, "cargo-fuzz", VERSION)?;
    let collected = target_folder(root).join("fuzz").join(&name);
    std::fs::create_dir_all(&collected).map_err(|error| format!("{}: {error}", collected.display()))?;
    let status = Command::new(program)
        // No sanitizer: the core has no `unsafe`. What is left to find are panics, and those are caught.
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir", "proto/fuzz", &name])
        .arg(&collected)
        .arg(format!("proto/fuzz/corpus/{name}"))
        .arg("--")
        .arg(format!("-max_total_time={}", u64::from(minutes) * 60))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg("-timeout=10")
        .current_dir(root)
        // Coverage instrumentation is not stable yet; nothing else here needs it.
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .map_err(|error| format!("cannot start cargo-fuzz: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name} ended with {status}: if it found something, fix it and keep the minimized input \
             (`cargo fuzz tmin --fuzz-dir proto/fuzz {name} FILE`) in proto/fuzz/corpus/{name}"
        )),
    }
}
