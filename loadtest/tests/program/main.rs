//! The program from outside: against a relay that spoils a known share of the packets, and against coturn.
//!
//! ```text
//!   stub: a tiny TURN relay ─► measures: what the harness reports; compat: the drop-in programs
//!   coturn: the real one    ─► streams: clients over TCP and TLS; transports: each mode over both, IPv4 and IPv6;
//!                              compat: the same counts as its own client; tcp_relay: TCP to the peers (RFC 6062)
//! ```

mod compat;
mod coturn;
mod measures;
mod streams;
mod stub;
mod tcp_relay;
mod transports;

use std::process::{Command, Output};

use stub::{PASSWORD, USER};
use turnpike_testkit::process::Process;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike-loadtest"));
    command.args(arguments);
    command
}

/// Runs the program under test to its end.
pub fn loadtest(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program starts")
}

/// The same while it runs.
pub fn started(arguments: &[&str]) -> Process {
    Process::start(command(arguments))
}

/// Runs a mode against a server with the stub's user and returns exit status, report and output.
pub fn measured(arguments: &[&str]) -> (Option<i32>, serde_json::Value, Output) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("report.json");
    let mut all = arguments.to_vec();
    let json = path.display().to_string();
    all.extend(["-u", USER, "-w", PASSWORD, "--json", &json]);
    let output = loadtest(&all);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("no report: {error}\n{}", String::from_utf8_lossy(&output.stderr)));
    assert!(!text.contains(PASSWORD), "a report holds no secrets");
    let report = serde_json::from_str(&text).expect("the report is JSON");
    (output.status.code(), report, output)
}
