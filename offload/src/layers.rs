//! What an interface is on top of: the device that the program is attached to, and what the interface's frames are known
//! by there. Pure: it judges lists.
//!
//! ```text
//!   macvlan ──► VLAN ──► device: hardware, or a bond ──► ports, on which the program sees frames
//!   its MAC     its tag  frames are sent by it
//! ```
//!
//! Invariant: what the program takes for an interface's is what the network stack would give to that interface. So
//! hardware must leave tags in frames where there are VLANs, and of a bond only those ports count that it takes from.

use super::netlink::{Layer, Link};
use super::probe::Unfit;

/// Modes of bonds in which the kernel runs programs (`bond_xdp_check`).
const BOND_MODES: [&str; 4] = ["balance-rr", "active-backup", "balance-xor", "802.3ad"];
/// Modes of a macvlan in which everything that is sent goes out, even to others on the same device.
const MACVLAN_MODES: [&str; 2] = ["private", "vepa"];

/// Where an interface's frames are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Index of the device that the program is on, and frames are sent by.
    pub device: u32,
    /// Its MTU, bytes: of an IP packet, as everywhere; a tag is not part of it.
    pub device_mtu: u32,
    /// The VLAN that its frames are in; 0 for none.
    pub vlan: u16,
    /// Indices of the devices on which the program sees its frames come in.
    pub ways_in: Vec<u32>,
    /// The device is a bond.
    pub is_bond: bool,
}

/// Takes an interface apart.
///
/// # Errors
/// Why the program can't serve such an interface.
pub fn resolve(link: &Link, links: &[Link]) -> Result<Layers, Unfit> {
    let (mut lowest, mut vlan) = (link, 0);
    if let Layer::Macvlan(mode) = &link.layer {
        if !MACVLAN_MODES.contains(&mode.as_str()) {
            return Err(Unfit::Macvlan(mode.clone(), link.name.clone()));
        }
        check_master(lowest, links)?;
        lowest = below(lowest, links)?;
    }
    if let Layer::Vlan { number, is_provider, has_priorities } = lowest.layer {
        if is_provider {
            return Err(Unfit::Layers);
        }
        if has_priorities {
            return Err(Unfit::Priorities);
        }
        check_master(lowest, links)?;
        (lowest, vlan) = (below(lowest, links)?, number);
    }
    check_master(lowest, links)?;
    let ports = match &lowest.layer {
        Layer::None => vec![lowest],
        Layer::Bond { mode, is_by_vlan } => ports_of(lowest, mode, *is_by_vlan, links)?,
        Layer::Vlan { .. } | Layer::Macvlan(_) => return Err(Unfit::Layers),
    };
    let has_vlans = links.iter().any(|upper| is_vlan(upper) && upper.below == lowest.ifindex);
    let strip = ports.iter().filter(|port| (vlan != 0 || has_vlans) && port.takes_tags_off);
    let strip: Vec<String> = strip.map(|port| port.name.clone()).collect();
    if !strip.is_empty() {
        return Err(Unfit::Stripped(strip));
    }
    let is_bond = matches!(lowest.layer, Layer::Bond { .. });
    // Copies that a switch sends to a port in waiting are nobody's. The stack's own hook sees a bond's frames on itself.
    let in_use = ports.iter().filter(|port| !port.is_backup).map(|port| port.ifindex);
    let ways_in = in_use.chain(is_bond.then_some(lowest.ifindex)).collect();
    Ok(Layers { device: lowest.ifindex, device_mtu: lowest.mtu, vlan, ways_in, is_bond })
}

/// Whether all of it is hardware, in the end.
pub fn is_hardware(link: &Link, links: &[Link]) -> bool {
    match &link.layer {
        Layer::None => link.software.is_none(),
        Layer::Bond { .. } => {
            links.iter().filter(|port| port.master == link.ifindex).all(|port| port.software.is_none())
        }
        Layer::Vlan { .. } | Layer::Macvlan(_) => {
            below(link, links).is_ok_and(|lower| lower.ifindex != link.ifindex && is_hardware(lower, links))
        }
    }
}

/// Asks which devices take tags off, where VLANs are on top of them. Who doesn't say is taken at its worst.
pub(super) fn ask_for_tags(links: &mut [Link], takes_tags_off: impl Fn(&str) -> Option<bool>) {
    let below: Vec<u32> = links.iter().filter(|link| is_vlan(link)).map(|link| link.below).collect();
    for link in links.iter_mut().filter(|link| link.layer == Layer::None) {
        if below.contains(&link.ifindex) || below.contains(&link.master) {
            link.takes_tags_off = takes_tags_off(&link.name).unwrap_or(true);
        }
    }
}

fn is_vlan(link: &Link) -> bool {
    matches!(link.layer, Layer::Vlan { .. })
}

fn below<'l>(link: &Link, links: &'l [Link]) -> Result<&'l Link, Unfit> {
    let lower = links.iter().find(|lower| link.below != 0 && lower.ifindex == link.below);
    lower.ok_or(Unfit::Elsewhere)
}

/// Nothing on the way down may be anybody's port: whose it is would take the frames.
fn check_master(link: &Link, links: &[Link]) -> Result<(), Unfit> {
    if link.master == 0 {
        return Ok(());
    }
    match links.iter().find(|other| other.ifindex == link.master) {
        Some(bond) if matches!(bond.layer, Layer::Bond { .. }) => Err(Unfit::BondPort(bond.name.clone())),
        Some(other) => Err(Unfit::Port(other.name.clone())),
        None => Err(Unfit::Port(format!("interface number {}", link.master))),
    }
}

fn ports_of<'l>(
    bond: &Link,
    mode: &str,
    is_by_vlan: bool,
    links: &'l [Link],
) -> Result<Vec<&'l Link>, Unfit> {
    if !BOND_MODES.contains(&mode) {
        return Err(Unfit::BondMode(mode.to_owned()));
    }
    if is_by_vlan && ["balance-xor", "802.3ad"].contains(&mode) {
        return Err(Unfit::BondHash(bond.name.clone()));
    }
    let ports: Vec<&Link> = links.iter().filter(|port| port.master == bond.ifindex).collect();
    if ports.is_empty() { Err(Unfit::NoPorts(bond.name.clone())) } else { Ok(ports) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ifindex: u32, name: &str) -> Link {
        Link { ifindex, name: name.to_owned(), mtu: 1500, kind: 1, ..Link::default() }
    }

    fn on_top(ifindex: u32, name: &str, below: u32, layer: Layer) -> Link {
        Link { below, layer, software: Some("made".to_owned()), ..device(ifindex, name) }
    }

    fn vlan(ifindex: u32, name: &str, below: u32, number: u16) -> Link {
        on_top(ifindex, name, below, Layer::Vlan { number, is_provider: false, has_priorities: false })
    }

    fn macvlan(ifindex: u32, name: &str, below: u32, mode: &str) -> Link {
        on_top(ifindex, name, below, Layer::Macvlan(mode.to_owned()))
    }

    fn bond(ifindex: u32, mode: &str) -> Link {
        on_top(ifindex, "bond0", 0, Layer::Bond { mode: mode.to_owned(), is_by_vlan: false })
    }

    fn port(ifindex: u32, name: &str, is_backup: bool) -> Link {
        Link { master: 10, is_backup, ..device(ifindex, name) }
    }

    /// eth0 with two VLANs and a macvlan on one of them; bond0 of eth1 and eth2 with a VLAN.
    fn host() -> Vec<Link> {
        vec![
            device(2, "eth0"),
            vlan(3, "eth0.5", 2, 5),
            vlan(4, "eth0.6", 2, 6),
            macvlan(5, "private0", 4, "private"),
            bond(10, "active-backup"),
            port(11, "eth1", false),
            port(12, "eth2", true),
            vlan(13, "bond0.7", 10, 7),
        ]
    }

    fn of(links: &[Link], ifindex: u32) -> Result<Layers, String> {
        let link = links.iter().find(|link| link.ifindex == ifindex).expect("it is in the list");
        resolve(link, links).map_err(|unfit| unfit.to_string())
    }

    /// Edits one of the links.
    fn with(ifindex: u32, edit: impl Fn(&mut Link)) -> Vec<Link> {
        let mut links = host();
        links.iter_mut().filter(|link| link.ifindex == ifindex).for_each(edit);
        links
    }

    #[test]
    fn an_interface_has_a_device_a_vlan_and_ways_in() {
        let links = host();
        let layers = |device, vlan, ways_in: &[u32], is_bond| {
            Ok(Layers { device, device_mtu: 1500, vlan, ways_in: ways_in.to_vec(), is_bond })
        };
        assert_eq!(of(&links, 2), layers(2, 0, &[2], false));
        assert_eq!(of(&links, 3), layers(2, 5, &[2], false));
        assert_eq!(of(&links, 5), layers(2, 6, &[2], false));
        assert_eq!(of(&links, 10), layers(10, 0, &[11, 10], true));
        assert_eq!(of(&links, 13), layers(10, 7, &[11, 10], true));
        // Another port is active.
        let mut links = with(11, |eth1| eth1.is_backup = true);
        links.iter_mut().filter(|link| link.ifindex == 12).for_each(|eth2| eth2.is_backup = false);
        assert_eq!(of(&links, 13), layers(10, 7, &[12, 10], true));
    }

    #[test]
    fn where_hardware_takes_tags_off_nothing_with_vlans_is_used() {
        let links = with(2, |eth0| eth0.takes_tags_off = true);
        for ifindex in [2, 3, 4, 5] {
            let why = of(&links, ifindex).unwrap_err();
            assert!(why.contains("`ethtool -K eth0 rxvlan off`"), "{why}");
        }
        assert!(of(&links, 13).is_ok(), "another device");
        let why = of(&with(12, |eth2| eth2.takes_tags_off = true), 10).unwrap_err();
        assert!(why.contains("`ethtool -K eth2 rxvlan off`"), "also of a port in waiting: {why}");
        let alone = [Link { takes_tags_off: true, ..device(2, "eth0") }];
        assert!(of(&alone, 2).is_ok(), "no VLAN to be mistaken for anything");
    }

    #[test]
    fn only_devices_with_vlans_are_asked_for_tags() {
        let mut links = host();
        links.push(device(20, "eth9"));
        ask_for_tags(&mut links, |name| (name != "eth2").then_some(name == "eth0"));
        let strip: Vec<&str> =
            links.iter().filter(|link| link.takes_tags_off).map(|link| link.name.as_str()).collect();
        assert_eq!(strip, ["eth0", "eth2"], "and who doesn't say may do so");
        ask_for_tags(&mut [device(20, "eth9")], |_| panic!("no VLAN"));
    }

    #[test]
    fn what_cannot_be_served_is_named_with_what_to_type() {
        type Edit = fn(&mut Link);
        let cases: [(u32, u32, Edit, &str); 11] = [
            (11, 11, |_| (), "a port of bond0: name that instead"),
            (3, 3, |vlan| vlan.below = 0, "another network namespace"),
            (3, 3, |vlan| vlan.below = 4, "more than a macvlan"),
            (5, 4, |vlan| vlan.below = 99, "another network namespace"),
            (3, 2, |eth0| eth0.master = 77, "a port of interface number 77"),
            (
                3,
                3,
                |vlan| vlan.layer = Layer::Vlan { number: 5, is_provider: true, has_priorities: false },
                "802.1Q VLAN",
            ),
            (
                3,
                3,
                |vlan| vlan.layer = Layer::Vlan { number: 5, is_provider: false, has_priorities: true },
                "egress-qos-map",
            ),
            (
                5,
                5,
                |it| it.layer = Layer::Macvlan("bridge".into()),
                "`ip link set private0 type macvlan mode private`",
            ),
            (5, 4, |lower| lower.layer = Layer::Macvlan("private".into()), "more than a macvlan"),
            (
                13,
                10,
                |it| it.layer = Layer::Bond { mode: "balance-tlb".into(), is_by_vlan: false },
                "balance-tlb mode",
            ),
            (
                10,
                10,
                |it| it.layer = Layer::Bond { mode: "802.3ad".into(), is_by_vlan: true },
                "`ip link set bond0 type bond xmit_hash_policy layer3+4`",
            ),
        ];
        for (judged, edited, edit, words) in cases {
            let why = of(&with(edited, edit), judged).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        let why = of(&[bond(10, "802.3ad")], 10).unwrap_err();
        assert!(why.contains("without ports: `ip link set PORT master bond0`"), "{why}");
    }

    #[test]
    fn what_is_on_top_of_hardware_is_hardware() {
        let links = host();
        assert!(links.iter().all(|link| is_hardware(link, &links)));
        let links = with(12, |eth2| eth2.software = Some("veth".to_owned()));
        let software: Vec<u32> =
            links.iter().filter(|link| !is_hardware(link, &links)).map(|link| link.ifindex).collect();
        assert_eq!(software, [10, 12, 13]);
    }
}
