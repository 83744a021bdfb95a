//! The servers under comparison: how each is started, known to be ready, and ended.

use std::fs::{self, File};
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::certificate::Certificate;
use crate::fault::Fault;
use crate::lab::{self, Lab, RELAYED, SERVER, SERVER_TLS};
use turnpike_testkit::process::find;

/// The user that every server knows.
pub const USER: &str = "bench";
/// The password of [`USER`]; it opens nothing outside of the namespaces.
pub const PASSWORD: &str = "bench";
/// Everybody's realm.
pub const REALM: &str = "bench.example";
/// First and last relay port: enough for the scenario with most allocations.
const RELAY_PORTS: (u16, u16) = (20_000, 65_535);

/// How long a server may take to answer its first request.
const START: Duration = Duration::from_secs(10);
/// How long it may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(10);
/// Lines of a log that a failed start shows.
const SHOWN_LINES: usize = 3;

/// Whose program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Ours.
    Turnpike,
    /// coturn's `turnserver`.
    Coturn,
}

/// A server in one of its modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// The program.
    pub program: Program,
    /// Its arguments beyond those that all variants of the program have.
    pub extra: &'static [&'static str],
    /// Whether a comparison without it makes no sense; others are left out where they can't start.
    pub required: bool,
}

impl Variant {
    /// Whether it is there for the kernel's data path.
    pub fn is_kernel_path(&self) -> bool {
        self.extra.contains(&"--offload=require")
    }
}

/// Every variant, Turnpike's first. A new data path is one more line.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "turnpike-epoll",
        program: Program::Turnpike,
        extra: &["--io=epoll", "--offload=off"],
        required: true,
    },
    Variant {
        name: "turnpike-io-uring",
        program: Program::Turnpike,
        extra: &["--io=io-uring", "--offload=off"],
        required: false,
    },
    Variant {
        name: "turnpike-xdp",
        program: Program::Turnpike,
        // veth is a software interface: the program goes there only if told so.
        extra: &["--offload=require", "--offload-interface=client0", "--offload-interface=peer0"],
        required: false,
    },
    Variant { name: "coturn", program: Program::Coturn, extra: &[], required: true },
    Variant {
        name: "coturn-multiplex",
        program: Program::Coturn,
        // Its own default is a queue of 64 KiB, too short for some milliseconds of load.
        extra: &["--multiplex-peer", "--udp-gso", "--sock-buf-size=4194304"],
        required: false,
    },
];

/// The programs, and the processors that they may use.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Ours.
    pub turnpike: PathBuf,
    /// coturn's.
    pub turnserver: PathBuf,
    /// Processors for the server, as `taskset -c` reads them.
    pub cpus: String,
    /// How many these are: each server gets as many threads for its clients.
    pub threads: usize,
    /// Keep Turnpike's limits on strangers, which coturn doesn't have.
    pub limits: bool,
    /// Turnpike serves TCP and TLS.
    pub turnpike_has_streams: bool,
}

impl Programs {
    /// Finds both; no path means Turnpike beside this program, and `turnserver` where the shell finds it.
    ///
    /// # Errors
    /// One line that says which is missing and how to get it.
    pub fn find(
        turnpike: Option<PathBuf>,
        turnserver: Option<PathBuf>,
        cpus: String,
        threads: usize,
    ) -> Result<Programs, Fault> {
        let beside = || std::env::current_exe().ok().map(|path| path.with_file_name("turnpike"));
        let turnpike = turnpike
            .or_else(beside)
            .filter(|path| path.is_file())
            .ok_or("no turnpike binary: cargo build --release, or name it with --turnpike PATH")?;
        let named = turnserver.is_some();
        let turnserver = turnserver.or_else(|| find("turnserver")).filter(|path| path.is_file());
        let turnserver = turnserver.ok_or(match named {
            true => "--turnserver: no such file",
            false => {
                "no turnserver to compare with: apt-get install coturn, or name it with --turnserver PATH"
            }
        })?;
        let turnpike_has_streams = knows(&turnpike, "--listen-tls");
        Ok(Programs { turnpike, turnserver, cpus, threads, limits: false, turnpike_has_streams })
    }

    /// A program's version as it prints it, in one line.
    pub fn version(&self, program: Program) -> String {
        let path = self.path(program);
        let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let line = text.unwrap_or_default().lines().next_back().unwrap_or("unknown").trim().to_owned();
        match program {
            Program::Turnpike => line,
            Program::Coturn => format!("coturn {line}"),
        }
    }

    fn path(&self, program: Program) -> &Path {
        match program {
            Program::Turnpike => &self.turnpike,
            Program::Coturn => &self.turnserver,
        }
    }

    /// Whether a variant can take part where clients come over TCP and TLS. The kernel's data path has no part
    /// in that.
    pub fn has_streams(&self, variant: &Variant) -> bool {
        variant.program == Program::Coturn || self.turnpike_has_streams
    }

    /// A variant's arguments; over TCP and TLS, too, if a certificate is given.
    pub fn arguments(&self, variant: &Variant, certificate: Option<&Certificate>) -> Vec<String> {
        let (first, last) = RELAY_PORTS;
        let own = match variant.program {
            Program::Turnpike => vec![
                "run".to_owned(),
                format!("--listen={SERVER}"),
                format!("--relay-address={RELAYED}"),
                format!("--port-range={first}-{last}"),
                format!("--realm={REALM}"),
                format!("--user={USER}:{PASSWORD}"),
                format!("--workers={}", self.threads),
                "--allow-peer=10.77.0.0/16".to_owned(),
                // All clients have one address, and coturn has no such limit by default.
                format!("--unauthenticated-rate={}", if self.limits { 100 } else { 0 }),
            ],
            Program::Coturn => vec![
                "-n".to_owned(),
                format!("--listening-ip={}", SERVER.ip()),
                format!("--listening-port={}", SERVER.port()),
                format!("--relay-ip={RELAYED}"),
                format!("--min-port={first}"),
                format!("--max-port={last}"),
                format!("--realm={REALM}"),
                format!("--user={USER}:{PASSWORD}"),
                format!("--relay-threads={}", self.threads),
                "--lt-cred-mech".to_owned(),
                "--no-dtls".to_owned(),
                "--no-cli".to_owned(),
                "--log-file=stdout".to_owned(),
                "--pidfile=".to_owned(),
                "--userdb=".to_owned(),
            ],
        };
        let streams = streams(variant.program, certificate);
        own.into_iter()
            .chain(streams)
            .chain(variant.extra.iter().map(|&argument| argument.to_owned()))
            .collect()
    }
}

/// A program's options about TCP and TLS.
fn streams(program: Program, certificate: Option<&Certificate>) -> Vec<String> {
    let Some(Certificate { chain, key }) = certificate else {
        return match program {
            Program::Turnpike => Vec::new(),
            Program::Coturn => vec!["--no-tcp".to_owned(), "--no-tls".to_owned()],
        };
    };
    let (chain, key) = (chain.display(), key.display());
    match program {
        Program::Turnpike => vec![
            format!("--listen-tcp={SERVER}"),
            format!("--listen-tls={SERVER_TLS}"),
            format!("--tls-cert={chain}"),
            format!("--tls-key={key}"),
        ],
        Program::Coturn => vec![
            format!("--tls-listening-port={}", SERVER_TLS.port()),
            format!("--cert={chain}"),
            format!("--pkey={key}"),
        ],
    }
}

/// Whether a program's help has an option.
fn knows(turnpike: &Path, option: &str) -> bool {
    let output = Command::new(turnpike).args(["run", "--help"]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(option))
}

/// A running server; killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a variant in the relay namespace, waits until it answers; its log goes into `folder`. `open_files` is its
    /// limit on open files, where it is not to be our own.
    ///
    /// # Errors
    /// If it ends, or doesn't answer in time: with the end of its log.
    pub fn start(
        lab: &Lab,
        programs: &Programs,
        variant: &Variant,
        folder: &Path,
        certificate: Option<&Certificate>,
        open_files: Option<u64>,
    ) -> Result<Running, Fault> {
        let log = folder.join(format!("{}.log", variant.name));
        let file = File::create(&log).map_err(Fault::file(&log))?;
        let errors = file.try_clone().map_err(Fault::file(&log))?;
        let mut command =
            lab::command(&lab.relay, &programs.cpus, open_files, programs.path(variant.program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TURNPIKE_") {
                command.env_remove(name);
            }
        }
        command
            .args(programs.arguments(variant, certificate))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors);
        // coturn drops files into its current folder.
        command.current_dir(folder);
        let child = command.spawn().map_err(|error| format!("{}: {error}", variant.name))?;
        let mut running = Running { child, log };
        match running.wait_until_ready(lab, certificate.is_some()) {
            Ok(()) => Ok(running),
            Err(why) => {
                running.kill();
                Err(format!("{} {why}: {}", variant.name, cause(&running.log_text())).into())
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by SIGTERM; returns its log.
    ///
    /// # Errors
    /// If it had ended by itself, or doesn't end in time.
    pub fn stop(mut self) -> Result<String, Fault> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("the server ended by itself ({status})").into());
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may be ending by itself right now; then the wait below sees it.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => return Ok(self.log_text()),
            }
        }
        self.kill();
        Err("the server didn't end after SIGTERM".into())
    }

    fn wait_until_ready(&mut self, lab: &Lab, streams: bool) -> Result<(), String> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => return Err(format!("ended at once ({status})")),
                Err(error) => return Err(error.to_string()),
            }
            let listens = || !streams || TcpStream::connect(SERVER_TLS).is_ok();
            if lab.client.enter(|| answers().unwrap_or(false) && listens()) {
                return Ok(());
            }
        }
        Err(format!("didn't answer within {} s", START.as_secs()))
    }

    fn log_text(&self) -> String {
        fs::read(&self.log).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a log says about a failed start: the first line that sounds like it, else the last ones.
fn cause(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let telling = |line: &&&str| ["unrecognized", "rror", "annot"].iter().any(|word| line.contains(word));
    match lines.iter().find(telling) {
        Some(line) => (*line).to_owned(),
        None => lines[lines.len().saturating_sub(SHOWN_LINES)..].join("; "),
    }
}

/// Whether a Binding request is answered within 100 ms (RFC 8489 section 2).
fn answers() -> io::Result<bool> {
    const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42turnpike-be\x00";
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.send(&BINDING)?;
    let mut answer = [0; 512];
    match socket.recv(&mut answer) {
        Ok(_) => Ok(answer[..2] == [0x01, 0x01]),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::thread::sleep(Duration::from_millis(20));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Datagrams that Turnpike says, in its log's last words, it has dropped: the sum of its `drop_...` counters.
pub fn counted_drops(log: &str) -> u64 {
    let line = log.lines().rev().find(|line| line.contains("datagrams=")).unwrap_or_default();
    line.split(|c: char| c.is_whitespace() || c == '"')
        .filter_map(|word| word.strip_prefix("drop_")?.split_once('=')?.1.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_last_line() {
        let log = "INFO ready\nINFO allocations_created=1 datagrams=\"answered=3 drop_stale=2 drop_send_failed=40\" stopped\n";
        assert_eq!(counted_drops(log), 42);
        assert_eq!(counted_drops("nothing"), 0);
    }

    #[test]
    fn a_failed_start_is_explained_by_the_line_that_says_why() {
        let log = "0: : started\nturnserver: unrecognized option '--udp-gso'\nUsage: turnserver [options]\n-h Help\n";
        assert_eq!(cause(log), "turnserver: unrecognized option '--udp-gso'");
        assert_eq!(cause("a\n\nb\nc\nd\n"), "b; c; d");
    }

    #[test]
    fn every_variant_has_its_own_name_and_each_program_a_required_one() {
        for (index, variant) in VARIANTS.iter().enumerate() {
            assert!(VARIANTS[index + 1..].iter().all(|other| other.name != variant.name));
        }
        for program in [Program::Turnpike, Program::Coturn] {
            assert!(VARIANTS.iter().any(|variant| variant.program == program && variant.required));
        }
    }

    #[test]
    fn a_missing_program_is_one_clear_line() {
        let nowhere = Some(PathBuf::from("/nowhere/turnserver"));
        let this = std::env::current_exe().ok();
        let fault = Programs::find(this, nowhere, "0".into(), 1).expect_err("there is no such file");
        assert_eq!(fault.to_string(), "--turnserver: no such file");
    }
}
