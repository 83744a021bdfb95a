//! Where and of what a result is.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cpu;

/// The machine and the time: a number without them means nothing.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Machine {
    /// Processor's model.
    pub processor: String,
    /// Processors that are online.
    pub processors: usize,
    /// Kernel release.
    pub kernel: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Whether it is a virtual machine, as far as the processor tells.
    pub is_virtual: bool,
    /// Load average of the last minute before the run: how busy others kept it.
    pub load_before: f64,
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let field = |key: &str| {
            let line = info.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let memory = read("/proc/meminfo");
        let memory_kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        Machine {
            processor: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            processors: cpu::processors(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            is_virtual: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// One line for reports.
    pub fn line(&self) -> String {
        let kind = if self.is_virtual { ", virtual machine" } else { "" };
        format!(
            "{} × {}, {} MiB, Linux {}{kind}, load {:.1} before the run",
            self.processors, self.processor, self.memory_mib, self.kernel, self.load_before
        )
    }
}

/// The commit that this program was built from, with a `+` if files have changed since; `unknown` outside git.
pub fn commit() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", "*.rs", "*.toml"]);
    if changed.is_none_or(|files| !files.is_empty()) { commit + "+" } else { commit }
}

/// Now in UTC, as `date` prints it: `2026-01-31T12:00:00Z`.
pub fn utc_now() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
