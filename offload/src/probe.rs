//! Can an interface be offloaded, and if not, why? Asked before anything is loaded.
//!
//! [`Facts`] are gathered from the kernel's list of interfaces and from `/proc`, nothing is changed;
//! [`verdict`] judges them and is pure. What only the kernel can say, whether the driver takes the program, shows when it
//! is attached.

use std::fs;
use std::path::Path;

use super::netlink::{Link, Netlink};

/// Atomic instructions in eBPF came with 5.12; 5.15 is the oldest long-term release with them.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
/// Capabilities that loading and attaching need (`linux/capability.h`). Without CAP_PERFMON the verifier
/// takes no loop over a table that ends just where the table does, and nothing may watch tracepoints.
pub const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Above it a native frame doesn't fit into one page on x86-64 with any driver, bytes.
const LARGEST_MTU: u32 = 3_506;
/// Interfaces that have ports.
const MASTERS: [&str; 4] = ["bond", "bridge", "team", "vrf"];
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
    /// The bridge, bond or other interface that it is a port of.
    pub master: Option<String>,
    /// VLAN interfaces on top of it.
    pub vlans: Vec<String>,
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
    /// The program reads untagged frames, and hardware may take tags away before it sees them.
    #[error("VLAN interfaces are on top of it: {}", .0.join(", "))]
    Vlans(Vec<String>),
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
    if let Some(master) = &facts.master {
        return Err(Unfit::Port(master.clone()));
    }
    if !facts.vlans.is_empty() {
        return Err(Unfit::Vlans(facts.vlans.clone()));
    }
    if facts.mtu > LARGEST_MTU {
        return Err(Unfit::Mtu(facts.mtu));
    }
    Ok(())
}

/// The same for one of the interfaces that the kernel has listed.
pub fn facts_of(link: &Link, links: &[Link], host: &Host) -> Facts {
    let name_of = |ifindex: u32| {
        let other = links.iter().find(|other| other.ifindex == ifindex);
        other.map_or_else(|| format!("interface number {ifindex}"), |other| other.name.clone())
    };
    let is_vlan = |upper: &&Link| upper.below == link.ifindex && upper.software.as_deref() == Some("vlan");
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
        master: (link.master != 0).then(|| name_of(link.master)),
        vlans: links.iter().filter(is_vlan).map(|upper| upper.name.clone()).collect(),
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
            (|f| f.master = Some("br0".to_owned()), "a port of br0"),
            (|f| f.software = Some("bond".to_owned()), "it is a bond"),
            (|f| f.vlans = vec!["eth0.5".to_owned()], "eth0.5"),
            (|f| f.mtu = 9000, "MTU of 9000"),
        ];
        for (edit, words) in cases {
            let mut facts = fit();
            edit(&mut facts);
            let why = verdict(&facts).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn ports_and_vlans_are_known_by_name() {
        let eth0 = Link {
            ifindex: 7,
            name: "eth0".to_owned(),
            mtu: 1400,
            kind: 1,
            master: 8,
            receive_queues: 2,
            ..Link::default()
        };
        let other = |ifindex, name: &str, software: &str, below| Link {
            ifindex,
            name: name.to_owned(),
            software: Some(software.to_owned()),
            below,
            ..Link::default()
        };
        let links = [
            eth0.clone(),
            other(8, "br0", "bridge", 0),
            other(9, "eth0.5", "vlan", 7),
            other(10, "macvlan0", "macvlan", 7),
            other(11, "eth1.5", "vlan", 3),
        ];
        let facts = facts_of(&eth0, &links, &Host { kernel: (6, 12), missing_capabilities: vec!["CAP_BPF"] });
        assert_eq!((facts.ifindex, facts.mtu, facts.kind, facts.receive_queues), (7, 1400, 1, 2));
        assert_eq!((facts.master.as_deref(), facts.vlans), (Some("br0"), vec!["eth0.5".to_owned()]));
        assert_eq!((facts.kernel, facts.missing_capabilities), ((6, 12), vec!["CAP_BPF"]));
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
