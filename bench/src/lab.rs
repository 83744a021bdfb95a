//! Three network namespaces in a row, joined by veth, and removed when dropped.
//!
//! ```text
//!   client ns                  relay ns                       peer ns
//!   10.77.1.10-13 ─ veth ──── 10.77.1.2
//!                             10.77.2.2  ──── veth ──── 10.77.2.10
//! ```
//!
//! The relay namespace also routes, so that the same packets can go from client to peer without any
//! relay: that direct path is what a relay's delay is compared with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

pub use turnpike_testkit::namespace::Namespace;
use turnpike_testkit::namespace::remove_leftovers;
use turnpike_testkit::process::find;

use crate::fault::Fault;

/// Where clients are.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 10));
/// Addresses of the clients of scenarios with more of them than servers take from one.
pub const CLIENTS: [IpAddr; 4] = [
    CLIENT,
    IpAddr::V4(Ipv4Addr::new(10, 77, 1, 11)),
    IpAddr::V4(Ipv4Addr::new(10, 77, 1, 12)),
    IpAddr::V4(Ipv4Addr::new(10, 77, 1, 13)),
];
/// Where servers listen.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2)), 3478);
/// Where servers listen for TLS.
pub const SERVER_TLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2)), 5349);
/// What servers relay from.
pub const RELAYED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 2));
/// Where peers are.
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 10));

/// First byte of the addresses that nobody has.
pub const FORGED_NETWORK: u8 = 11;

/// Programs that make a lab.
const PROGRAMS: &[&str] = &["ip", "ethtool", "setpriv", "taskset", "prlimit", "sysctl"];

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
        let lab = Lab {
            client: Namespace::add(&format!("bench-{name}-client"))?,
            relay: Namespace::add(&format!("bench-{name}-relay"))?,
            peer: Namespace::add(&format!("bench-{name}-peer"))?,
        };
        lab.client.connect("relay0", &lab.relay, "client0")?;
        lab.relay.connect("peer0", &lab.peer, "relay0")?;
        let addresses = CLIENTS.map(|ip| format!("{ip}/24"));
        lab.client.configure("relay0", &addresses.each_ref().map(String::as_str))?;
        lab.client.ip(&["route", "add", "default", "via", "10.77.1.2"])?;
        lab.relay.configure("client0", &["10.77.1.2/24"])?;
        lab.relay.configure("peer0", &["10.77.2.2/24"])?;
        lab.peer.configure("relay0", &["10.77.2.10/24"])?;
        lab.peer.ip(&["route", "add", "default", "via", "10.77.2.2"])?;
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
                Link::Merging => merge(&lab.relay, device)?,
                Link::Frames => lab.relay.run(&["ethtool", "-K", device, "gro", "on"])?,
            }
        }
        Ok(lab)
    }

    /// Makes forged sources in [`FORGED_NETWORK`] reachable for the relay: answers go to the client's namespace,
    /// and nowhere from there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn route_forged(&self) -> Result<(), Fault> {
        let network = format!("{FORGED_NETWORK}.0.0.0/8");
        self.relay.run(&["ip", "route", "add", &network, "via", &CLIENT.to_string()])?;
        Ok(self.client.run(&["ip", "route", "add", "blackhole", &network])?)
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

/// Makes GRO happen on veth: by itself it merges nothing, since each datagram is polled at once.
fn merge(namespace: &Namespace, device: &str) -> Result<(), Fault> {
    namespace.run(&["ethtool", "-K", device, "gro", "on", "rx-udp-gro-forwarding", "on"])?;
    let folder = format!("/sys/class/net/{device}");
    let script = format!("echo 50000 > {folder}/gro_flush_timeout && echo 2 > {folder}/napi_defer_hard_irqs");
    Ok(namespace.run(&["sh", "-c", &script])?)
}

/// An interface of a namespace.
///
/// # Errors
/// If there is none of that name.
pub fn device(namespace: &Namespace, name: &str) -> Result<Device, Fault> {
    let output =
        Command::new("ip").args(["-n", namespace.name(), "-o", "link", "show", "dev", name]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let device = text.ok().and_then(|text| parse_device(&text));
    device.ok_or_else(|| format!("{name} in {} has no number or hardware address", namespace.name()).into())
}

/// A command that will run in a namespace on the processors `cpus`, with this limit on open files if one is given, and
/// die with the thread that starts it.
pub fn command(namespace: &Namespace, cpus: &str, open_files: Option<u64>, program: &Path) -> Command {
    let mut command = namespace.command(Path::new("taskset"));
    command.args(["-c", cpus]);
    if let Some(limit) = open_files {
        command.arg("prlimit").arg(format!("--nofile={limit}:{limit}"));
    }
    command.arg(program);
    command
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
