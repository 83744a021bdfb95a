//! Three network namespaces in a row, made for one test and removed with it.
//!
//! ```text
//!   client ns                    relay ns                    peer ns
//!   10.77.1.10 ──── veth ──── 10.77.1.2, .3
//!   fd77:1::10                fd77:1::2, ::3
//!                             10.77.2.2   ──── veth ──── 10.77.2.10
//!                             fd77:2::2                  fd77:2::10
//! ```
//!
//! The same addresses in every lab: namespaces do not see each other. The relay's relayed
//! addresses are those towards the peer.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::skip;

/// The client's address.
pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 10));
/// The client's IPv6 address.
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 0x10));
/// The relay's address towards the client.
pub const RELAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2));
/// The relay's second address on the same interface.
pub const RELAY_V4_SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 3));
/// The relay's IPv6 address towards the client.
pub const RELAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2));
/// The relay's second IPv6 address on the same interface.
pub const RELAY_V6_SECOND: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 3));
/// The relay's address towards the peer: the relayed address of allocations.
pub const RELAYED_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 2));
/// The relay's IPv6 address towards the peer.
pub const RELAYED_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 2));
/// The peer's address.
pub const PEER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 10));
/// The peer's IPv6 address.
pub const PEER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 0x10));

/// Programs without which no lab is of use.
const PROGRAMS: &[&str] = &["ip", "setpriv", "turnutils_uclient", "turnutils_peer", "turnutils_stunclient"];

/// Names are `turnpike-PID-N-ROLE`: a later run can tell whose they are.
const PREFIX: &str = "turnpike-";

/// The namespaces of one test.
pub struct Lab {
    /// Where clients run.
    pub client: Namespace,
    /// Where the server runs.
    pub relay: Namespace,
    /// Where peers run.
    pub peer: Namespace,
}

impl Lab {
    /// Makes the namespaces, or says loudly why the test `name` is skipped and returns `None`.
    ///
    /// Panics instead of skipping if the environment has `CI=true`.
    pub fn new(name: &str) -> Option<Lab> {
        static REMOVE_LEFTOVERS: Once = Once::new();
        if let Err(why) = prerequisites() {
            skip(name, &why);
            return None;
        }
        REMOVE_LEFTOVERS.call_once(remove_leftovers);
        match Lab::build() {
            Ok(lab) => Some(lab),
            Err(why) => {
                skip(name, &why);
                None
            }
        }
    }

    fn build() -> Result<Lab, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Lab {
            client: Namespace::add(format!("{name}-client"))?,
            relay: Namespace::add(format!("{name}-relay"))?,
            peer: Namespace::add(format!("{name}-peer"))?,
        };
        lab.client.connect("relay0", &lab.relay, "client0")?;
        lab.relay.connect("peer0", &lab.peer, "relay0")?;
        lab.client.configure("relay0", &["10.77.1.10/24", "fd77:1::10/64", "fe80::10/64"])?;
        lab.relay.configure(
            "client0",
            &["10.77.1.2/24", "10.77.1.3/24", "fd77:1::2/64", "fd77:1::3/64", "fe80::2/64"],
        )?;
        lab.relay.configure("peer0", &["10.77.2.2/24", "fd77:2::2/64", "fe80::2/64"])?;
        lab.peer.configure("relay0", &["10.77.2.10/24", "fd77:2::10/64", "fe80::10/64"])?;
        Ok(lab)
    }
}

/// A network namespace; everything in it ends when this is dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn add(name: String) -> Result<Namespace, String> {
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// What `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Joins this namespace and another one by a pair of interfaces.
    fn connect(&self, device: &str, other: &Namespace, other_device: &str) -> Result<(), String> {
        ip(&[
            "-n",
            &self.name,
            "link",
            "add",
            device,
            "type",
            "veth",
            "peer",
            "name",
            other_device,
            "netns",
            &other.name,
        ])
    }

    /// Gives an interface its addresses and brings it up. The link-local one is among them: one that the
    /// kernel made would appear up to a second later, a change of what the relay calls its own.
    fn configure(&self, device: &str, addresses: &[&str]) -> Result<(), String> {
        ip(&["-n", &self.name, "link", "set", device, "addrgenmode", "none"])?;
        for address in addresses {
            let mut arguments = vec!["-n", &self.name, "address", "add", *address, "dev", device];
            if address.contains(':') {
                // Without duplicate address detection, it can be bound at once.
                arguments.push("nodad");
            }
            ip(&arguments)?;
        }
        ip(&["-n", &self.name, "link", "set", device, "up"])
    }

    /// A command that will run in here, and die with the thread that starts it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL"]).arg(program);
        command
    }

    /// Runs `work` on a thread in here: a socket that it opens stays in this namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(Path::new("/run/netns").join(&self.name)).expect("the namespace has a file");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a namespace");
                work()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove_namespace(&self.name);
    }
}

/// Ends what runs in a namespace of ours, and removes it. Never panics: it also runs while panicking.
fn remove_namespace(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = ip(&["netns", "del", name]);
}

/// Removes the namespaces of test runs that were killed before they could do so.
fn remove_leftovers() {
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return };
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.and_then(|pid| pid.parse().ok()).is_some_and(|pid| !is_running(pid)) {
            remove_namespace(&name);
        }
    }
}

/// Whether there is such a process, and not only its exit code that nobody fetched yet.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

/// Whether labs can be made here; else why not.
fn prerequisites() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may make network namespaces".into());
    }
    match PROGRAMS.iter().find(|program| find(program).is_none()) {
        Some(missing) => Err(format!("{missing} is not installed (cargo xtask setup installs it)")),
        None => Ok(()),
    }
}

/// Where a program is, as the shell would find it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("`ip {}` failed: {}", arguments.join(" "), error.trim()))
}
