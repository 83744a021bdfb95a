//! The server under test: the release binary of Turnpike, or coturn as a control of the tests.
//!
//! `TURNPIKE_BIN` names another binary; `TURNPIKE_TEST_SERVER=coturn` runs Debian's `turnserver`.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use turnpike_testkit::server::{Server, without_options};
pub use turnpike_testkit::{PASSWORD, REALM, USER};
use turnpike_testkit::{PATIENCE, skip};

use super::lab::{Lab, RELAY_V4, RELAY_V6, RELAYED_V4, RELAYED_V6};
use super::process::{self, Outcome, Process};

/// The shared secret of time-limited credentials, if a test asks for one.
pub const SECRET: &str = "north-star";
/// The port that listeners use: everything is in a namespace of its own.
pub const PORT: u16 = 3478;

/// How to start the server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// The relayed addresses.
    pub relay: Vec<IpAddr>,
    /// The first and last port to relay with.
    pub ports: (u16, u16),
    /// Accept time-limited credentials made with [`SECRET`].
    pub secret: bool,
    /// Let clients reach the addresses of the lab.
    pub allow_peers: bool,
    /// Public and local address.
    pub external: Option<(IpAddr, IpAddr)>,
    /// How it moves datagrams: `auto`, `io-uring` or `epoll`.
    pub io: &'static str,
    /// Worker threads; 0 for the default.
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: vec![SocketAddr::new(RELAY_V4, PORT), SocketAddr::new(RELAY_V6, PORT)],
            relay: vec![RELAYED_V4, RELAYED_V6],
            ports: (49152, 65535),
            secret: false,
            allow_peers: true,
            external: None,
            io: "auto",
            workers: 0,
        }
    }
}

/// A server that is ready.
pub struct Relay {
    process: Process,
}

impl Relay {
    /// Starts the server in its namespace and waits until it accepts traffic.
    pub fn start(lab: &Lab, options: &Options) -> Relay {
        if !is_coturn() {
            return Relay::ready(command(lab, options));
        }
        let process = Process::start(command(lab, options));
        wait_for_coturn(lab, options);
        Relay { process }
    }

    /// The same for Turnpike as root without some capabilities, as `setpriv --bounding-set` reads them.
    pub fn start_without(lab: &Lab, options: &Options, capabilities: &str) -> Relay {
        let mut command = program_by(lab, Path::new("setpriv"));
        command.arg("--bounding-set").arg(capabilities).arg(binary()).args(turnpike_arguments(options));
        Relay::ready(command)
    }

    fn ready(command: Command) -> Relay {
        Relay { process: Server::start(command).into_process() }
    }

    /// Stops it by a signal.
    pub fn end_by(self, signal: Signal) -> Outcome {
        self.process.signal(signal);
        self.process.wait(PATIENCE)
    }

    /// Stops it by SIGTERM; it must end with exit code 0. Returns what it printed.
    pub fn stop(self) -> String {
        let Outcome { code, output } = self.end_by(Signal::TERM);
        // coturn dies of the signal.
        assert!(
            code == Some(0) || is_coturn(),
            "the server must end with exit code 0 on SIGTERM, not {code:?}; it printed:\n{output}"
        );
        let told = output.contains(PASSWORD) || output.contains(SECRET);
        assert!(!told || is_coturn(), "a secret is in the output:\n{output}");
        output
    }
}

/// Runs the server with options of which it cannot start, and returns how it ended.
pub fn fails_to_start(lab: &Lab, arguments: &[impl AsRef<OsStr>]) -> Outcome {
    let mut command = program(lab);
    command.args(arguments);
    Process::start(command).wait(PATIENCE)
}

/// Whether coturn is tested instead of Turnpike.
pub fn is_coturn() -> bool {
    std::env::var_os("TURNPIKE_TEST_SERVER").is_some_and(|server| server == "coturn")
}

/// Skips a test that is about Turnpike's own behaviour when coturn is the server.
pub fn is_turnpike(test: &str) -> bool {
    if is_coturn() {
        skip(test, "it is about Turnpike's own behaviour, and coturn is the server");
    }
    !is_coturn()
}

/// The binary under test.
fn binary() -> PathBuf {
    if is_coturn() {
        return process::find("turnserver").expect("coturn is installed");
    }
    turnpike_testkit::binary(env!("CARGO_BIN_EXE_turnpike"))
}

/// The server's command without arguments, in its namespace; no option comes from our environment.
pub fn program(lab: &Lab) -> Command {
    program_by(lab, &binary())
}

fn program_by(lab: &Lab, program: &Path) -> Command {
    without_options(lab.relay.command(program))
}

fn command(lab: &Lab, options: &Options) -> Command {
    let mut command = program(lab);
    if is_coturn() {
        command.args(coturn_arguments(options));
    } else {
        command.args(turnpike_arguments(options));
    }
    command
}

/// The command line that [`Options`] mean.
pub fn turnpike_arguments(options: &Options) -> Vec<String> {
    let mut arguments = vec!["run".to_owned(), format!("--realm={REALM}")];
    arguments.extend(options.listen.iter().map(|address| format!("--listen={address}")));
    arguments.extend(options.relay.iter().map(|address| format!("--relay-address={address}")));
    arguments.push(format!("--port-range={}-{}", options.ports.0, options.ports.1));
    arguments.push(format!("--user={USER}:{PASSWORD}"));
    if options.secret {
        arguments.push(format!("--auth-secret={SECRET}"));
    }
    if options.allow_peers {
        arguments.extend(["--allow-peer=10.77.0.0/16".into(), "--allow-peer=fd77::/16".into()]);
    }
    if let Some((public, local)) = options.external {
        arguments.push(format!("--external-address={public}={local}"));
    }
    arguments.push(format!("--io={}", options.io));
    if options.workers > 0 {
        arguments.push(format!("--workers={}", options.workers));
    }
    // On a busy machine a datagram may wait for longer than a call would want it.
    arguments.push("--max-queue-delay=10000".into());
    // uclient 4.6.1 binds channels up to 0x7FFF, which RFC 8656 s. 12 no longer allows.
    arguments.push("--rfc5766-channel-numbers".into());
    arguments
}

fn coturn_arguments(options: &Options) -> Vec<String> {
    let mut arguments: Vec<String> = ["-n", "--log-file=stdout", "--no-tls", "--no-dtls", "--no-cli"]
        .into_iter()
        .chain(["--no-tcp", "--lt-cred-mech", "--pidfile=", "--userdb="])
        .map(str::to_owned)
        .collect();
    arguments.push(format!("--listening-port={PORT}"));
    arguments.push(format!("--realm={REALM}"));
    arguments.extend(options.listen.iter().map(|address| format!("--listening-ip={}", address.ip())));
    arguments.extend(options.relay.iter().map(|address| format!("--relay-ip={address}")));
    arguments.push(format!("--min-port={}", options.ports.0));
    arguments.push(format!("--max-port={}", options.ports.1));
    if options.secret {
        // It refuses static users then.
        arguments.extend(["--use-auth-secret".into(), format!("--static-auth-secret={SECRET}")]);
    } else {
        arguments.push(format!("--user={USER}:{PASSWORD}"));
    }
    if !options.allow_peers {
        arguments.push("--denied-peer-ip=10.77.0.0-10.77.255.255".into());
    }
    if let Some((public, local)) = options.external {
        arguments.push(format!("--external-ip={public}/{local}"));
    }
    arguments
}

/// coturn doesn't say when it is ready: ask it until it answers.
fn wait_for_coturn(lab: &Lab, options: &Options) {
    let server = options.listen[0];
    let server = if server.ip().is_unspecified() { SocketAddr::new(RELAY_V4, PORT) } else { server };
    assert!(super::stun::binding(&lab.client, server).is_some(), "coturn does not answer");
}
