//! Three network namespaces in a row, joined by veth, and removed when dropped.
//!
//! ```text
//!   client ns                  relay ns                       peer ns
//!   10.77.1.10 ──── veth ──── 10.77.1.2
//!                             10.77.2.2  ──── veth ──── 10.77.2.10
//! ```
//!
//! The relay namespace also routes, so that the same packets can go from client to peer without any
//! relay: that direct path is what a relay's delay is compared with.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::fault::Fault;

/// Where clients are.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 10));
/// Where servers listen.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2)), 3478);
/// What servers relay from.
pub const RELAYED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 2));
/// Where peers are.
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 10));

/// Names are `turnpike-bench-PID-LAB-ROLE`: a later run can tell whose they are.
const PREFIX: &str = "turnpike-bench-";
/// Programs that make a lab.
const PROGRAMS: &[&str] = &["ip", "ethtool", "setpriv", "taskset", "sysctl"];

/// What the relay's interfaces do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// As veth does by default: each datagram by itself.
    Plain,
    /// Datagrams of one flow that arrive within 50 µs are merged on receipt (GRO), as a NIC's driver would.
    Merging,
    /// Each datagram by itself, from a sender that is an XDP program, too.
    Frames,
}

/// An interface, as frames name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number in its namespace.
    pub index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// A client, a relay and a peer namespace.
pub struct Lab {
    /// Where clients run.
    pub client: Namespace,
    /// Where the server runs.
    pub relay: Namespace,
    /// Where peers run.
    pub peer: Namespace,
}

impl Lab {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// If a program is missing or the kernel refuses.
    pub fn new(name: &str, link: Link) -> Result<Lab, Fault> {
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        let lab = Lab {
            client: Namespace::add(format!("{name}-client"))?,
            relay: Namespace::add(format!("{name}-relay"))?,
            peer: Namespace::add(format!("{name}-peer"))?,
        };
        lab.client.connect("relay0", &lab.relay, "client0")?;
        lab.relay.connect("peer0", &lab.peer, "relay0")?;
        lab.client.configure("relay0", "10.77.1.10/24", Some("10.77.1.2"))?;
        lab.relay.configure("client0", "10.77.1.2/24", None)?;
        lab.relay.configure("peer0", "10.77.2.2/24", None)?;
        lab.peer.configure("relay0", "10.77.2.10/24", Some("10.77.2.2"))?;
        lab.relay.run(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
        // A sender's partial checksums would reach an XDP program unfinished; a real link has none.
        lab.client.run(&["ethtool", "-K", "relay0", "tx", "off"])?;
        lab.peer.run(&["ethtool", "-K", "relay0", "tx", "off"])?;
        // Frames that an XDP program sends reach a veth only if it polls, which GRO makes it do.
        lab.client.run(&["ethtool", "-K", "relay0", "gro", "on"])?;
        lab.peer.run(&["ethtool", "-K", "relay0", "gro", "on"])?;
        for device in ["client0", "peer0"] {
            match link {
                Link::Plain => {}
                Link::Merging => lab.relay.merge(device)?,
                Link::Frames => lab.relay.run(&["ethtool", "-K", device, "gro", "on"])?,
            }
        }
        Ok(lab)
    }

    /// Datagrams that the relay's kernel dropped because a socket's queue was full, since the lab was made.
    pub fn relay_queue_drops(&self) -> u64 {
        self.relay_udp("RcvbufErrors")
    }

    /// Messages that servers took out of their sockets: a merged run is one.
    pub fn relay_messages(&self) -> u64 {
        self.relay_udp("InDatagrams")
    }

    fn relay_udp(&self, counter: &str) -> u64 {
        let text = self.relay.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
        text.ok().and_then(|text| snmp_value(&text, "Udp", counter)).unwrap_or(0)
    }
}

/// Everything that must be there before the first lab; also removes what killed runs left behind.
///
/// # Errors
/// One line that says what is missing.
pub fn prepare() -> Result<(), Fault> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root: run this as root".into());
    }
    if let Some(missing) = PROGRAMS.iter().find(|program| find(program).is_none()) {
        return Err(format!(
            "{missing} is not installed: apt-get install iproute2 ethtool util-linux procps"
        )
        .into());
    }
    remove_leftovers();
    Ok(())
}

/// A network namespace; everything in it ends when this is dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn add(name: String) -> Result<Namespace, Fault> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Namespace { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn connect(&self, device: &str, other: &Namespace, other_device: &str) -> Result<(), Fault> {
        let end = ["type", "veth", "peer", "name", other_device, "netns", &other.name];
        self.ip(&[&["link", "add", device][..], &end].concat())
    }

    fn configure(&self, device: &str, address: &str, gateway: Option<&str>) -> Result<(), Fault> {
        self.ip(&["address", "add", address, "dev", device])?;
        self.ip(&["link", "set", device, "up"])?;
        gateway.map_or(Ok(()), |gateway| self.ip(&["route", "add", "default", "via", gateway]))
    }

    /// Makes GRO happen on veth: by itself it merges nothing, since each datagram is polled at once.
    fn merge(&self, device: &str) -> Result<(), Fault> {
        self.run(&["ethtool", "-K", device, "gro", "on", "rx-udp-gro-forwarding", "on"])?;
        let folder = format!("/sys/class/net/{device}");
        let script =
            format!("echo 50000 > {folder}/gro_flush_timeout && echo 2 > {folder}/napi_defer_hard_irqs");
        self.run(&["sh", "-c", &script])
    }

    /// An interface in here.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn device(&self, name: &str) -> Result<Device, Fault> {
        let output = Command::new("ip").args(["-n", &self.name, "-o", "link", "show", "dev", name]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let device = text.ok().and_then(|text| parse_device(&text));
        device.ok_or_else(|| format!("{name} in {} has no number or hardware address", self.name).into())
    }

    /// A command that will run in here on the processors `cpus`, and die with the thread that starts it.
    pub fn command(&self, cpus: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL"]);
        command.args(["taskset", "-c", cpus]).arg(program);
        command
    }

    /// Runs `work` on a thread in here: its sockets, and the threads that it starts, stay in this namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(path).expect("the namespace has a file as long as this lives");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn ip(&self, arguments: &[&str]) -> Result<(), Fault> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    fn run(&self, arguments: &[&str]) -> Result<(), Fault> {
        run(Command::new("ip").args(["netns", "exec", &self.name]).args(arguments))
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
    let strangers = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|&pid| pid != own);
    for pid in strangers.filter_map(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = run(Command::new("ip").args(["netns", "del", name]));
}

/// Removes the namespaces of runs that were killed before they could do so.
fn remove_leftovers() {
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return };
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !is_running(pid)) {
            remove_namespace(&name);
        }
    }
}

/// Whose namespace it is, if it is one of this program.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether there is such a process, and not only its exit code that nobody fetched yet.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

/// Where a program is, as the shell would find it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

fn run(command: &mut Command) -> Result<(), Fault> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|error| format!("`{shown}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{shown}` failed: {}", error.trim().replace('\n', "; ")).into())
}

/// `ip -o link show`: `7: relay0@if6: <...> ... link/ether 0a:... brd ...`.
fn parse_device(text: &str) -> Option<Device> {
    let index = text.split(':').next()?.trim().parse().ok()?;
    let address = text.split_once("link/ether ")?.1.split_whitespace().next()?;
    let bytes: Vec<u8> = address.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some(Device { index, mac: bytes.try_into().ok()? })
}

/// A value of /proc/net/snmp: a line of names and a line of numbers, both starting with the protocol.
fn snmp_value(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| *key == protocol);
    let (names, values) = (lines.next()?.1, lines.next()?.1);
    let column = names.split_whitespace().position(|column| column == name)?;
    values.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_of_this_program_names_its_owner() {
        assert_eq!(owner("turnpike-bench-4711-plain-relay"), Some(4711));
        assert_eq!(owner("turnpike-4711-0-relay"), None, "another program's");
        assert_eq!(owner("turnpike-bench-x-relay"), None);
        assert_eq!(owner("mine"), None);
    }

    #[test]
    fn an_interface_has_a_number_and_a_hardware_address() {
        let text = "7: relay0@if6: <UP> mtu 1500 qlen 1000\\    link/ether 0a:1b:00:ff:02:03 brd ff:ff:ff:ff:ff:ff link-netns x";
        assert_eq!(parse_device(text), Some(Device { index: 7, mac: [0x0a, 0x1b, 0, 0xff, 2, 3] }));
        assert_eq!(parse_device("1: lo: <UP> link/loopback 00:00:00:00:00:00"), None);
        assert_eq!(parse_device(""), None);
    }

    #[test]
    fn a_counter_of_the_kernel_is_found_by_its_column() {
        let text = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams RcvbufErrors SndbufErrors\nUdp: 10 7 3\n";
        assert_eq!(snmp_value(text, "Udp", "RcvbufErrors"), Some(7));
        assert_eq!(snmp_value(text, "Udp", "Unknown"), None);
        assert_eq!(snmp_value(text, "Tcp", "RcvbufErrors"), None);
    }
}
