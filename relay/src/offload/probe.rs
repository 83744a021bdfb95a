//! Can an interface be offloaded, and if not, why? Asked before anything is loaded.
//!
//! [`Facts`] are gathered from `/sys/class/net` and `/proc`, nothing is changed; [`verdict`] judges
//! them and is pure. What only the kernel can say, whether the driver takes the program, shows when it
//! is attached.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Atomic instructions in eBPF came with 5.12; 5.15 is the oldest long-term release with them.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
/// Capabilities that loading and attaching need (`linux/capability.h`).
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (39, "CAP_BPF")];
/// Above it a native frame doesn't fit into one page on x86-64 with any driver, bytes.
const LARGEST_MTU: u32 = 3_506;
/// `ARPHRD_ETHER`: frames have an Ethernet header.
const ETHERNET: u32 = 1;

/// What an interface and its host are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its index; 0 if there is no such interface.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, bytes.
    pub mtu: u32,
    /// `ARPHRD_*`.
    pub kind: u32,
    /// The loopback interface.
    pub is_loopback: bool,
    /// The driver, where the device has one.
    pub driver: Option<String>,
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

/// Gathers what there is to know about an interface. What can't be read counts as absent.
pub fn facts(name: &str) -> Facts {
    gather(Path::new("/"), name)
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

fn gather(root: &Path, name: &str) -> Facts {
    let device = root.join("sys/class/net").join(name);
    let number = |file: &str| line(&device.join(file)).and_then(|text| parse_number(&text));
    let link = |file: &str| {
        let target = fs::read_link(device.join(file)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    };
    let status = line_of(&root.join("proc/self/status"), "CapEff:");
    let held = status.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    // A name is one part of a path, or it names no interface.
    let exists = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    Facts {
        name: name.to_owned(),
        ifindex: number("ifindex").filter(|_| exists).unwrap_or(0),
        mac: line(&device.join("address")).and_then(|text| parse_mac(&text)).unwrap_or_default(),
        mtu: number("mtu").unwrap_or(0),
        kind: number("type").unwrap_or(0),
        // IFF_LOOPBACK
        is_loopback: number("flags").is_some_and(|flags| flags & 0x8 != 0),
        driver: link("device/driver"),
        receive_queues: entries(&device.join("queues"), "rx-").unwrap_or_default().len(),
        master: link("master"),
        vlans: vlans(root, &device),
        kernel: line(&root.join("proc/sys/kernel/osrelease"))
            .and_then(|text| parse_release(&text))
            .unwrap_or((0, 0)),
        missing_capabilities: CAPABILITIES
            .iter()
            .filter(|(bit, _)| held >> bit & 1 == 0)
            .map(|(_, name)| *name)
            .collect(),
    }
}

/// Interfaces on top of a device that the kernel's VLAN module lists; none if it isn't loaded.
fn vlans(root: &Path, device: &Path) -> Vec<String> {
    let mut uppers: Vec<String> = entries(device, "upper_").unwrap_or_default();
    uppers.retain(|upper| root.join("proc/net/vlan").join(upper).exists());
    uppers
}

/// The rests of the names in a folder that begin with `prefix`, sorted.
fn entries(folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_prefix(prefix).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn line(path: &PathBuf) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn line_of(path: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

/// Decimal, or hexadecimal after `0x`.
fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
        let cases: [(Edit, &str); 8] = [
            (|f| f.kernel = (5, 10), "Linux 5.10 is too old"),
            (|f| f.missing_capabilities = vec!["CAP_BPF"], "lacks CAP_BPF"),
            (|f| f.ifindex = 0, "no interface eth0"),
            (|f| f.is_loopback = true, "loopback"),
            (|f| f.kind = 65534, "no Ethernet header"),
            (|f| f.master = Some("br0".to_owned()), "a port of br0"),
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
    fn facts_are_read_from_the_system_files() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/class/net/eth0");
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (file, text) in [
            ("ifindex", "7\n"),
            ("address", "02:11:22:33:44:ff\n"),
            ("mtu", "1400\n"),
            ("type", "1\n"),
            ("flags", "0x1003\n"),
            ("queues/rx-0/rps_cpus", ""),
            ("queues/rx-1/rps_cpus", ""),
            ("queues/tx-0/xps_cpus", ""),
            ("upper_eth0.5/x", ""),
            ("upper_macvlan0/x", ""),
        ] {
            write(&device.join(file), text);
        }
        symlink("../br0", device.join("master")).unwrap();
        fs::create_dir_all(device.join("device")).unwrap();
        symlink("../../bus/drivers/virtio_net", device.join("device/driver")).unwrap();
        write(&root.path().join("proc/net/vlan/eth0.5"), "");
        write(&root.path().join("proc/sys/kernel/osrelease"), "6.12.9-amd64\n");
        write(&root.path().join("proc/self/status"), "Name:\tx\nCapEff:\t0000000000001000\n");
        let expected = Facts {
            name: "eth0".to_owned(),
            ifindex: 7,
            mac: [2, 0x11, 0x22, 0x33, 0x44, 0xff],
            mtu: 1400,
            kind: ETHERNET,
            is_loopback: false,
            driver: Some("virtio_net".to_owned()),
            receive_queues: 2,
            master: Some("br0".to_owned()),
            vlans: vec!["eth0.5".to_owned()],
            kernel: (6, 12),
            missing_capabilities: vec!["CAP_BPF"],
        };
        assert_eq!(gather(root.path(), "eth0"), expected);
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
