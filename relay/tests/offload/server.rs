//! The program under test, with its XDP program on both interfaces of the lab.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
pub use turnpike_testkit::{PASSWORD, USER};
use turnpike_testkit::{becomes_true, server};

use super::lab::{Lab, Namespace, RELAY_V4, RELAY_V6};

/// The listener.
pub const SERVER: SocketAddr = SocketAddr::new(RELAY_V4, 3478);
/// The IPv6 listener.
pub const SERVER_V6: SocketAddr = SocketAddr::new(RELAY_V6, 3478);

/// What every server is started with.
const ARGUMENTS: [&str; 13] = [
    "run",
    "--listen=10.77.1.2:3478",
    "--listen=[fd77:1::2]:3478",
    "--relay-address=10.77.2.2",
    "--relay-address=fd77:2::2",
    "--realm=example.org",
    "--user=alice:correct horse",
    "--allow-peer=10.77.0.0/16",
    "--allow-peer=fd77::/16",
    "--unauthenticated-rate=0",
    "--rfc5766-channel-numbers",
    // On a busy machine a datagram may wait for longer than a call would want it.
    "--max-queue-delay=10000",
    "--log-level=debug",
];
/// The interfaces of the relay's namespace.
const BOTH: [&str; 2] = ["--offload-interface=client0", "--offload-interface=peer0"];

/// A running server.
pub struct Server {
    running: server::Server,
}

/// What the program in the kernel did, by name, and the whole log.
pub struct Frames {
    counts: BTreeMap<String, u64>,
    /// Both outputs.
    pub log: String,
}

impl Server {
    /// Starts it; the kernel data path has to be there.
    pub fn start(lab: &Lab, arguments: &[&str]) -> Server {
        let server = Server::start_anyhow(lab, &[&["--offload=require"], arguments].concat());
        let path = server.ready_line();
        assert!(path.contains("data-path=kernel (native XDP on client0,peer0)"), "{path}");
        server
    }

    /// Starts it, wherever it forwards.
    pub fn start_anyhow(lab: &Lab, arguments: &[&str]) -> Server {
        Server::start_on(lab, &[&BOTH, arguments].concat())
    }

    /// Starts it with no interface but those that are named here.
    pub fn start_on(lab: &Lab, arguments: &[&str]) -> Server {
        Server { running: server::Server::start(command(&lab.relay, arguments)) }
    }

    /// Starts it by a command of the test's own.
    pub fn start_by(command: std::process::Command) -> Server {
        Server { running: server::Server::start(command) }
    }

    /// The same with an input.
    pub fn start_with_input(command: std::process::Command, input: std::process::Stdio) -> Server {
        Server { running: server::Server::start_with_input(command, input) }
    }

    /// Waits until that many routes are in the kernel: two for each channel.
    #[track_caller]
    pub fn wait_for_routes(&self, routes: u64) {
        let latest = |line: &str| number_after(line, "kernel_routes=");
        let mut now = None;
        let come = becomes_true(|| {
            now = self.running.wait_for(Duration::from_millis(20), latest);
            now == Some(routes)
        });
        assert!(come, "{routes} routes are expected in the kernel, there are {now:?}");
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(self) {
        self.running.end_by(Signal::KILL);
    }

    /// Stops it; gives what the program in the kernel did. Nothing may have gone wrong meanwhile.
    pub fn stop(self) -> Frames {
        let output = self.running.stop();
        assert!(!output.contains("ERROR"), "{output}");
        let line = output.lines().find(|line| line.contains("what the kernel's program did"));
        let counts = line.map(frames).unwrap_or_default();
        Frames { counts, log: output }
    }
}

impl Deref for Server {
    type Target = server::Server;

    fn deref(&self) -> &server::Server {
        &self.running
    }
}

impl Frames {
    /// How often this happened.
    pub fn count(&self, verdict: &str) -> u64 {
        self.counts.get(verdict).copied().unwrap_or(0)
    }

    /// Frames that were lost after they had been counted as forwarded.
    pub fn lost(&self) -> u64 {
        ["drop_redirect", "drop_device_queue", "drop_rewrite"].map(|verdict| self.count(verdict)).iter().sum()
    }

    /// Asserts that at least this many datagrams went each way in the kernel, and none was lost there.
    #[track_caller]
    pub fn assert_forwarded(&self, to_peer: u64, to_client: u64) {
        self.assert_forwarded_but(to_peer, to_client, 0);
    }

    /// The same where so many may be lost.
    #[track_caller]
    pub fn assert_forwarded_but(&self, to_peer: u64, to_client: u64, lost: u64) {
        let forwarded = (self.count("channel_to_peer"), self.count("channel_to_client"));
        assert!(forwarded.0 >= to_peer && forwarded.1 >= to_client, "{forwarded:?} in {:?}", self.counts);
        assert!(self.lost() <= lost, "{:?}", self.counts);
    }
}

/// Namespaces in which the program can forward: senders compute checksums, receivers have GRO.
pub fn lab(test: &str) -> Option<Lab> {
    let lab = Lab::new(test)?;
    for namespace in [&lab.client, &lab.peer] {
        run(namespace, "ethtool -K relay0 tx off gro on");
    }
    if !has_native_xdp(&lab) {
        turnpike_testkit::skip(test, "the kernel takes no XDP program");
        return None;
    }
    Some(lab)
}

/// Runs a command line in a namespace; it has to succeed. Gives what it prints.
#[track_caller]
pub fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    let mut command = namespace.command(Path::new(program));
    command.args(words);
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The server's command line in a namespace.
pub fn command(namespace: &Namespace, arguments: &[&str]) -> std::process::Command {
    let mut command = server::without_options(namespace.command(&binary()));
    complete(&mut command, arguments);
    command
}

/// The same with only these capabilities, as `setpriv` writes them.
pub fn command_with(namespace: &Namespace, capabilities: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = server::without_options(namespace.command(Path::new("setpriv")));
    command.arg(format!("--bounding-set=-all,{capabilities}"));
    command.arg(format!("--inh-caps=-all,{capabilities}")).arg(binary());
    complete(&mut command, arguments);
    command
}

/// The same where membarrier(2) is refused, as the kernel does with `nohz_full`: EINVAL by a filter of system calls.
#[cfg(target_arch = "x86_64")]
pub fn command_without_membarrier(namespace: &Namespace, arguments: &[&str]) -> std::process::Command {
    const FILTER: &str = "
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 324), (0x06, 0, 0, 0x00050016), (0x06, 0, 0, 0x7fff0000)]
text = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
program = Program(len(code), ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
";
    let mut command = server::without_options(namespace.command(Path::new("python3")));
    command.args(["-c", FILTER]).arg(binary());
    complete(&mut command, arguments);
    command
}

fn complete(command: &mut std::process::Command, arguments: &[&str]) {
    command.args(ARGUMENTS).args(arguments);
}

/// Whether BPF programs may be loaded at all here.
fn has_native_xdp(lab: &Lab) -> bool {
    let status = run(&lab.relay, "grep CapEff /proc/self/status");
    let held =
        status.split_whitespace().nth(1).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    held >> 39 & 1 == 1 && held >> 12 & 1 == 1
}

fn frames(line: &str) -> BTreeMap<String, u64> {
    let Some((_, counts)) = line.split_once("frames=\"") else { return BTreeMap::new() };
    let pairs = counts.trim_end_matches('"').split(' ').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

fn number_after(line: &str, label: &str) -> Option<u64> {
    let (_, rest) = line.split_once(label)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The program.
pub fn binary() -> PathBuf {
    turnpike_testkit::binary(env!("CARGO_BIN_EXE_turnpike"))
}
