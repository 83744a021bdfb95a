//! Can an interface be offloaded, and if not, why? Asked before anything is loaded.
//!
//! [`Facts`] are gathered from the kernel's list of interfaces and from `/proc`, nothing is changed;
//! [`verdict`] judges them and is pure. What only the kernel can say, whether the driver takes the program, shows when it
//! is attached.

use std::fs;
use std::path::Path;

use super::layers::{self, Layers};
use super::netlink::{Link, Netlink};

/// Atomic instructions in eBPF came with 5.12; 5.15 is the oldest long-term release with them.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
/// Capabilities that loading and attaching need (`linux/capability.h`). Without CAP_PERFMON the verifier
/// takes no loop over a table that ends just where the table does, and nothing may watch tracepoints.
pub const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Above it a native frame doesn't fit into one page on x86-64 with any driver, bytes.
const LARGEST_MTU: u32 = 3_506;
/// Interfaces that have ports, bonds apart.
const MASTERS: [&str; 3] = ["bridge", "team", "vrf"];
/// `ARPHRD_ETHER`: frames have an Ethernet header.
const ETHERNET: u32 = 1;

/// What an interface and its host are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The interface's name.
    pub name: String,
    /// Its index; 0 if there is no such interface.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, bytes.
    pub mtu: u32,
    /// `ARPHRD_*`: what its frames look like (`linux/if_arp.h`).
    pub kind: u32,
    /// The loopback interface.
    pub is_loopback: bool,
    /// The driver, where the device has one.
    pub driver: Option<String>,
    /// What software makes it, if it isn't hardware: `veth`, `tun`, `bond`.
    pub software: Option<String>,
    /// How many receive queues there are.
    pub receive_queues: usize,
    /// The device that the program would be on, and what its frames are known by there.
    pub layers: Layers,
    /// What about its layers forbids that.
    pub misbuilt: Option<Unfit>,
    /// The kernel's release, major and minor.
    pub kernel: (u32, u32),
    /// Capabilities that are needed and missing.
    pub missing_capabilities: Vec<&'static str>,
}

/// Why an interface can't be offloaded, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is no interface of that name.
    #[error("there is no interface {0}")]
    Missing(String),
    /// The process may not load programs.
    #[error("this process lacks {}", .0.join(" and "))]
    Capabilities(Vec<&'static str>),
    /// The kernel is too old.
    #[error("Linux {}.{} is too old: at least {}.{} is needed", .0.0, .0.1, OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    Kernel((u32, u32)),
    /// The program was written for another byte order.
    #[error("this machine is big-endian, the program isn't")]
    ByteOrder,
    /// Segmentation offload hands whole runs of packets to programs on loopback.
    #[error("it is the loopback interface, where packets arrive merged")]
    Loopback,
    /// A tunnel, for instance: frames without the header that the program reads.
    #[error("its frames have no Ethernet header")]
    NotEthernet,
    /// Frames arrive at its ports, not at itself.
    #[error("it is a {0}, whose frames arrive at its ports")]
    Master(String),
    /// Addresses and neighbours belong to the master, frames to its ports.
    #[error("it is a port of {0}")]
    Port(String),
    /// The same of a bond, which can be named.
    #[error("it is a port of {0}: name that instead")]
    BondPort(String),
    /// What is in a VLAN would look as if it were in none.
    #[error("VLANs are on top of it, and hardware takes their tags off before the program sees them: `{}`", commands(.0))]
    Stripped(Vec<String>),
    /// The program reads one tag.
    #[error("it is made of more than a macvlan on one 802.1Q VLAN on a device")]
    Layers,
    /// What is sent would have other priorities than the stack gives it.
    #[error("it has an egress-qos-map, and the program writes priority 0: make it a VLAN without one")]
    Priorities,
    /// What it is made of can't be seen from here.
    #[error("the interface that it is on top of is in another network namespace")]
    Elsewhere,
    /// A neighbour may be another macvlan of this host, which no frame on the wire reaches.
    #[error(
        "macvlan in {0} mode may have neighbours in this host: `ip link set {1} type macvlan mode private`"
    )]
    Macvlan(String, String),
    /// The kernel runs programs on bonds of some modes.
    #[error(
        "a bond in {0} mode takes no XDP program: make it one in 802.3ad, active-backup, balance-xor or balance-rr mode"
    )]
    BondMode(String),
    /// Nor with this way to choose a port.
    #[error(
        "its xmit_hash_policy takes no XDP program: `ip link set {0} type bond xmit_hash_policy layer3+4`"
    )]
    BondHash(String),
    /// Then the kernel attaches nothing.
    #[error("it is a bond without ports: `ip link set PORT master {0}`")]
    NoPorts(String),
    /// A bond's ports are ways in, as are its VLANs.
    #[error("the program tells {0} ways in apart at most")]
    TooManyWaysIn(usize),
    /// Frames of that size don't fit into the one page that a program gets.
    #[error("its MTU of {0} is above {LARGEST_MTU}, the most that XDP takes in one piece")]
    Mtu(u32),
}

/// What the host is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The kernel's release, major and minor.
    pub kernel: (u32, u32),
    /// Capabilities that are needed and missing.
    pub missing_capabilities: Vec<&'static str>,
}

impl Host {
    /// Asks the kernel what this process may do here, and which kernel it is.
    pub fn detect() -> Host {
        host(Path::new("/"))
    }
}

/// Gathers what there is to know about an interface. What can't be read counts as absent.
pub fn facts(name: &str) -> Facts {
    let links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
    let host = Host::detect();
    match links.iter().find(|link| link.name == name) {
        Some(link) => facts_of(link, &links, &host),
        None => Facts { name: name.to_owned(), ..absent(&host) },
    }
}

/// Whether the program may be tried on such an interface.
///
/// # Errors
/// The first reason against it; the host's reasons come before the interface's.
pub fn verdict(facts: &Facts) -> Result<(), Unfit> {
    if cfg!(target_endian = "big") {
        return Err(Unfit::ByteOrder);
    }
    if facts.kernel < OLDEST_KERNEL {
        return Err(Unfit::Kernel(facts.kernel));
    }
    if !facts.missing_capabilities.is_empty() {
        return Err(Unfit::Capabilities(facts.missing_capabilities.clone()));
    }
    if facts.ifindex == 0 {
        return Err(Unfit::Missing(facts.name.clone()));
    }
    if facts.is_loopback {
        return Err(Unfit::Loopback);
    }
    if facts.kind != ETHERNET {
        return Err(Unfit::NotEthernet);
    }
    if let Some(kind) = facts.software.as_ref().filter(|kind| MASTERS.contains(&kind.as_str())) {
        return Err(Unfit::Master(kind.clone()));
    }
    if let Some(unfit) = &facts.misbuilt {
        return Err(unfit.clone());
    }
    let mtu = facts.mtu.max(facts.layers.device_mtu);
    if mtu > LARGEST_MTU {
        return Err(Unfit::Mtu(mtu));
    }
    Ok(())
}

/// What makes the hardware of each leave tags alone.
fn commands(devices: &[String]) -> String {
    let commands: Vec<String> =
        devices.iter().map(|device| format!("ethtool -K {device} rxvlan off")).collect();
    commands.join(" && ")
}

/// The same for one of the interfaces that the kernel has listed.
pub fn facts_of(link: &Link, links: &[Link], host: &Host) -> Facts {
    let (layers, misbuilt) = match layers::resolve(link, links) {
        Ok(layers) => (layers, None),
        Err(unfit) => (Layers::default(), Some(unfit)),
    };
    Facts {
        name: link.name.clone(),
        ifindex: link.ifindex,
        mac: link.mac,
        mtu: link.mtu,
        kind: u32::from(link.kind),
        is_loopback: link.is_loopback,
        driver: driver(&link.name).or_else(|| link.software.clone()),
        software: link.software.clone(),
        receive_queues: link.receive_queues as usize,
        layers,
        misbuilt,
        ..absent(host)
    }
}

fn absent(host: &Host) -> Facts {
    let Host { kernel, missing_capabilities } = host.clone();
    Facts { kernel, missing_capabilities, ..Facts::default() }
}

/// Processors that are running; 1 if nobody says.
pub fn processors() -> u32 {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    count_of(&list).max(1)
}

/// How many numbers a list like `0-3,6` has.
fn count_of(list: &str) -> u32 {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let ranges = list.split(',').filter_map(|range| match range.split_once('-') {
        Some((first, last)) => Some(number(last)?.checked_sub(number(first)?)?.saturating_add(1)),
        None => number(range).map(|_| 1),
    });
    ranges.fold(0, u32::saturating_add)
}

/// For people only: `/sys` may show another network namespace.
fn driver(name: &str) -> Option<String> {
    let target = fs::read_link(Path::new("/sys/class/net").join(name).join("device/driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn host(root: &Path) -> Host {
    let status = line_of(&root.join("proc/self/status"), "CapEff:");
    let held = status.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease")).ok();
    let missing = CAPABILITIES.iter().filter(|(bit, _)| held >> bit & 1 == 0).map(|(_, name)| *name);
    Host {
        kernel: release.and_then(|text| parse_release(&text)).unwrap_or((0, 0)),
        missing_capabilities: missing.collect(),
    }
}

fn line_of(path: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Facts {
        Facts {
            name: "eth0".to_owned(),
            ifindex: 2,
            mtu: 1500,
            kind: ETHERNET,
            kernel: (6, 1),
            ..Facts::default()
        }
    }

    #[test]
    fn an_ordinary_interface_is_fit() {
        assert_eq!(verdict(&fit()), Ok(()));
    }

    #[test]
    fn each_reason_against_it_is_named() {
        type Edit = fn(&mut Facts);
        let cases: [(Edit, &str); 9] = [
            (|f| f.kernel = (5, 10), "Linux 5.10 is too old"),
            (|f| f.missing_capabilities = vec!["CAP_BPF"], "lacks CAP_BPF"),
            (|f| f.ifindex = 0, "no interface eth0"),
            (|f| f.is_loopback = true, "loopback"),
            (|f| f.kind = 65534, "no Ethernet header"),
            (|f| f.misbuilt = Some(Unfit::Port("br0".to_owned())), "a port of br0"),
            (|f| f.software = Some("bridge".to_owned()), "it is a bridge"),
            (|f| f.mtu = 9000, "MTU of 9000"),
            (|f| f.layers.device_mtu = 9000, "MTU of 9000"),
        ];
        for (edit, words) in cases {
            let mut facts = fit();
            edit(&mut facts);
            let why = verdict(&facts).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn an_interface_is_judged_with_what_is_below_it() {
        let eth0 = Link {
            ifindex: 7,
            name: "eth0".to_owned(),
            mtu: 1400,
            kind: 1,
            master: 8,
            receive_queues: 2,
            ..Link::default()
        };
        let br0 = Link {
            ifindex: 8,
            name: "br0".to_owned(),
            software: Some("bridge".to_owned()),
            ..Link::default()
        };
        let host = Host { kernel: (6, 12), missing_capabilities: vec!["CAP_BPF"] };
        let facts = facts_of(&eth0, &[eth0.clone(), br0], &host);
        assert_eq!((facts.ifindex, facts.mtu, facts.kind, facts.receive_queues), (7, 1400, 1, 2));
        assert_eq!(facts.misbuilt, Some(Unfit::Port("br0".to_owned())));
        assert_eq!((facts.kernel, facts.missing_capabilities), ((6, 12), vec!["CAP_BPF"]));
        let alone = facts_of(&Link { master: 0, ..eth0 }, &[], &host);
        assert_eq!((alone.misbuilt, alone.layers.device, alone.layers.ways_in), (None, 7, vec![7]));
    }

    #[test]
    fn lists_of_processors_are_counted() {
        for (list, count) in [("0-3,6\n", 5), ("0\n", 1), ("", 0), ("7-3", 0), ("x,2", 1)] {
            assert_eq!(count_of(list), count, "{list:?}");
        }
        assert!(processors() >= 1);
    }

    #[test]
    fn the_host_is_read_from_the_system_files() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
        fs::write(root.path().join("proc/sys/kernel/osrelease"), "6.12.9-amd64\n").unwrap();
        fs::write(root.path().join("proc/self/status"), "Name:\tx\nCapEff:\t0000000000001000\n").unwrap();
        let expected = Host { kernel: (6, 12), missing_capabilities: vec!["CAP_PERFMON", "CAP_BPF"] };
        assert_eq!(host(root.path()), expected);
    }

    #[test]
    fn loopback_and_nonsense_are_refused_on_this_machine() {
        let facts = facts("lo");
        assert!(facts.is_loopback && facts.ifindex == 1, "{facts:?}");
        verdict(&facts).unwrap_err();
        for name in ["", "..", "no/such", "nosuch0"] {
            assert_eq!(super::facts(name).ifindex, 0, "{name}");
        }
    }
}
