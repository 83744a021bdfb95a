//! Network namespaces made for one run and removed with it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::eventually;

/// Names are `turnpike-PID-ROLE`: a later run can tell whose they are.
const PREFIX: &str = "turnpike-";

/// A network namespace; everything in it ends when this is dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one whose loopback is up; `ip netns` knows it as `turnpike-PID-ROLE`.
    ///
    /// # Errors
    /// One line, if `ip` is missing or the kernel refuses.
    pub fn add(role: &str) -> Result<Namespace, String> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// What `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Joins this namespace and another one by a pair of interfaces.
    ///
    /// # Errors
    /// One line, if the kernel refuses.
    pub fn connect(&self, device: &str, other: &Namespace, other_device: &str) -> Result<(), String> {
        let far = ["type", "veth", "peer", "name", other_device, "netns", &other.name];
        self.ip(&[&["link", "add", device][..], &far].concat())
    }

    /// Gives an interface its addresses and brings it up. A link-local one has to be among them if one is
    /// wanted: the kernel's own would appear up to a second later, a change of what the relay calls its own.
    ///
    /// # Errors
    /// One line, if the kernel refuses.
    pub fn configure(&self, device: &str, addresses: &[&str]) -> Result<(), String> {
        self.ip(&["link", "set", device, "addrgenmode", "none"])?;
        for address in addresses {
            // Without duplicate address detection, it can be bound at once.
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            self.ip(&[&["address", "add", address, "dev", device], nodad].concat())?;
        }
        self.ip(&["link", "set", device, "up"])
    }

    /// Waits until every interface carries and every address is local: `ip` returns before either is so, and what
    /// is sent meanwhile is lost.
    ///
    /// # Errors
    /// One line, if the kernel refuses, or takes longer than anybody waits.
    pub fn settle(&self) -> Result<(), String> {
        let outcome = eventually(|| match self.is_settled() {
            Ok(false) => None,
            decided => Some(decided.map(drop)),
        });
        outcome.unwrap_or_else(|| Err(format!("the interfaces of {} do not come up", self.name)))
    }

    fn is_settled(&self) -> Result<bool, String> {
        let about = |question: &[&str]| printed(&[&["-n", &self.name], question].concat());
        let links = about(&["-brief", "link"])?;
        let state = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        if links.lines().any(|line| !state(line).is_some_and(|state| state == "UP" || state == "UNKNOWN")) {
            return Ok(false);
        }
        let local = about(&["-6", "route", "show", "table", "local"])?;
        let local: Vec<&str> = local.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        let addresses = about(&["-6", "-oneline", "address"])?;
        let mut addresses = addresses.lines().filter_map(|line| line.split_whitespace().nth(3));
        Ok(addresses.all(|address| local.contains(&address.split('/').next().unwrap_or_default())))
    }

    /// `ip` with these arguments, about this namespace.
    ///
    /// # Errors
    /// One line, if it fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<(), String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Runs a program in here to its end.
    ///
    /// # Errors
    /// One line, if it can't be started or fails.
    pub fn run(&self, line: &[&str]) -> Result<(), String> {
        ip(&[&["netns", "exec", &self.name], line].concat())
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
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
    let own = std::process::id().cast_signed();
    let others = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != own);
    for pid in others.filter_map(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = ip(&["netns", "del", name]);
}

/// Removes the namespaces of runs that were killed before they could do so.
pub fn remove_leftovers() {
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return };
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !is_running(pid)) {
            remove_namespace(&name);
        }
    }
}

/// Whose namespace it is, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether there is such a process, and not only its exit code that nobody fetched yet.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    printed(arguments).map(drop)
}

/// What `ip` prints.
fn printed(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("`ip {}` failed: {}", arguments.join(" "), error.trim()))
}

#[test]
fn a_namespace_of_ours_names_its_owner() {
    assert_eq!(owner("turnpike-4711-0-relay"), Some(4711));
    assert_eq!(owner("turnpike-x-relay"), None);
    assert_eq!(owner("mine"), None);
}
