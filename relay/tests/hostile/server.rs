//! The program under test, configured by a file that a test can change while it runs.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use turnpike_testkit::server::{Configured, without_options};
pub use turnpike_testkit::{PASSWORD, REALM, USER};

use super::lab::{Lab, RELAY_V4, RELAY_V6, RELAYED_V4};

/// The listeners' addresses.
pub const SERVER: SocketAddr = SocketAddr::new(RELAY_V4, 3478);
/// The IPv6 listener's address.
pub const SERVER_V6: SocketAddr = SocketAddr::new(RELAY_V6, 3478);

/// Lets clients reach the peers of the lab.
pub const ALLOW_PEERS: &str = "allow-peer = [\"10.77.0.0/16\"]\n";

/// A server that is ready.
pub struct Server {
    running: Configured,
}

impl Server {
    /// Starts it with the usual user, and whatever `lines` add to its configuration.
    pub fn start(lab: &Lab, lines: &str) -> Server {
        Server::start_by(lab.relay.command(&binary()), lines)
    }

    /// The same with so many descriptors at the most.
    pub fn start_with_descriptors(lab: &Lab, limit: usize, lines: &str) -> Server {
        let mut command = lab.relay.command(Path::new("prlimit"));
        command.arg(format!("--nofile={limit}:{limit}")).arg(binary());
        Server::start_by(command, lines)
    }

    fn start_by(command: Command, lines: &str) -> Server {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        Server { running: Configured::start(without_options(command), folder, &config(lines)) }
    }

    /// Changes its configuration and tells it so.
    pub fn reload(&self, lines: &str) {
        self.running.reload(&config(lines));
    }

    /// Whether all of its threads stand still after SIGSTOP.
    pub fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("it is running");
        let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status"));
        tasks.flatten().filter_map(|task| status(task).ok()).all(|text| text.contains("State:\tT"))
    }

    /// Descriptors that it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it is running").count()
    }

    /// Memory that it occupies, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("the server is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// Stops it by SIGTERM; gives its log, in which nothing went wrong and no secret is.
    pub fn stop(self) -> Log {
        Log(self.running.stop())
    }
}

impl Deref for Server {
    type Target = Configured;

    fn deref(&self) -> &Configured {
        &self.running
    }
}

/// What a server has printed.
pub struct Log(pub String);

impl Log {
    /// A counter of the last line: what happened to datagrams since the start.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let stopped = self.0.lines().rfind(|line| line.contains("stopped"));
        let stopped = stopped.unwrap_or_else(|| panic!("no last line:\n{}", self.0));
        let found = stopped.split([' ', '"']).find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.map_or(0, |number| number.parse().expect("counters are numbers"))
    }

    /// The final records of allocations.
    pub fn records(&self) -> Vec<&str> {
        self.0.lines().filter(|line| line.contains("allocation ended")).collect()
    }
}

/// How long a test is to last, if the environment says so, seconds.
pub fn secs_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number of seconds")))
}

fn config(lines: &str) -> String {
    let base = format!(
        "listen = [\"{SERVER}\", \"{SERVER_V6}\"]\nrelay-address = [\"{RELAYED_V4}\"]\nrealm = \"{REALM}\"\n"
    );
    let users =
        if lines.contains("user = ") { String::new() } else { format!("user = [\"{USER}:{PASSWORD}\"]\n") };
    // On a busy machine a datagram may wait for longer than a call would want it.
    let delay = if lines.contains("max-queue-delay") { "" } else { "max-queue-delay = 10000\n" };
    base + &users + delay + lines
}

/// The program under test.
pub fn binary() -> PathBuf {
    turnpike_testkit::binary(env!("CARGO_BIN_EXE_turnpike"))
}
