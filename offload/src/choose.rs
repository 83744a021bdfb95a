//! Chooses the interfaces, and fills in the program's configuration. Pure: it judges lists.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use turnpike_abi::{Config, Listener, MAX_INTERFACES, MAX_LISTENER_PORTS, MAX_WAYS_IN};

use super::layers;
use super::limits::{MAX_ALLOCATION_SLOTS, MAX_BINDING_SLOTS, MAX_NEXT_HOPS, MIN_SLOTS};
use super::maps::Sizes;
use super::netlink::Link;
use super::nexthop::Port;
use super::probe::{self, Host, Unfit};

/// What the configuration wants of the kernel data path.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Interfaces by name; none: those that have the addresses below.
    pub named: Vec<String>,
    /// The listeners, with the ports that they got.
    pub listeners: Vec<SocketAddr>,
    /// What relay sockets are bound to.
    pub relays: Vec<IpAddr>,
    /// The ports of relayed addresses.
    pub ports: RangeInclusive<u16>,
    /// The last channel number that may be bound.
    pub last_channel: u16,
    /// Whether garbage at listeners shall be dropped by the program.
    pub shield: bool,
}

/// An interface that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The interface's name.
    pub name: String,
    /// The kernel's index; 0 if there is none.
    pub ifindex: u32,
    /// Whether the program may be tried there, else why not.
    pub fit: Result<Port, String>,
}

/// How large the maps have to be for these ports and addresses. With a total quota there won't be more.
pub fn sizes(ports: RangeInclusive<u16>, relays: usize, total_quota: Option<u32>) -> Sizes {
    let possible = ports.len() * relays.max(1);
    let allowed = total_quota.map_or(possible, |quota| possible.min(quota as usize));
    let allocations = allowed.clamp(MIN_SLOTS, MAX_ALLOCATION_SLOTS);
    // A call has one or two channels.
    let bindings = (2 * allocations).min(MAX_BINDING_SLOTS);
    let next_hops = bindings.min(MAX_NEXT_HOPS);
    Sizes { bindings: bindings as u32, allocations: allocations as u32, next_hops: next_hops as u32 }
}

/// The interfaces to be on, fit or not.
///
/// # Errors
/// Why there is none that could be chosen.
pub fn interfaces(
    wishes: &Wishes,
    links: &[Link],
    addresses: &[(u32, IpAddr)],
    host: &Host,
) -> Result<Vec<Chosen>, String> {
    let names = match wishes.named.as_slice() {
        [] => default_names(wishes, links, addresses)?,
        named => named.to_vec(),
    };
    let mut chosen: Vec<Chosen> =
        names.iter().enumerate().map(|(place, name)| choose(place, name, links, host)).collect();
    let mut ways_in = 0;
    for chosen in &mut chosen {
        let more = chosen.fit.as_ref().map_or(0, |port| port.ways_in.len());
        if ways_in + more > MAX_WAYS_IN {
            chosen.fit = Err(Unfit::TooManyWaysIn(MAX_WAYS_IN).to_string());
        } else {
            ways_in += more;
        }
    }
    Ok(chosen)
}

/// The program's configuration, but for the interfaces.
///
/// # Errors
/// What doesn't fit into it.
pub fn config(wishes: &Wishes) -> Result<Config, String> {
    let mut config = Config {
        enabled: 1,
        last_channel: wishes.last_channel,
        first_relay_port: *wishes.ports.start(),
        last_relay_port: *wishes.ports.end(),
        ..Config::OFF
    };
    let mut listener_ports: Vec<u16> = wishes.listeners.iter().map(SocketAddr::port).collect();
    listener_ports.sort_unstable();
    listener_ports.dedup();
    if listener_ports.len() > MAX_LISTENER_PORTS {
        let count = listener_ports.len();
        return Err(format!(
            "the listeners have {count} ports, the program knows {MAX_LISTENER_PORTS} at most"
        ));
    }
    config.listener_port_count = listener_ports.len() as u16;
    config.listener_ports[..listener_ports.len()].copy_from_slice(&listener_ports);
    if wishes.shield {
        // What does not fit goes to userspace.
        config.shielded.iter_mut().zip(shielded(wishes)).for_each(|(place, listener)| *place = listener);
    }
    Ok(config)
}

/// Where nobody but a listener of ours can be meant. Of one for all addresses those count that are relayed from: others
/// of this host may be somebody else's, behind a rule of its firewall.
fn shielded(wishes: &Wishes) -> impl Iterator<Item = Listener> {
    let addresses = wishes.listeners.iter().flat_map(|listener| {
        let is_any = listener.ip().is_unspecified();
        let relays = wishes.relays.iter().filter(move |ip| is_any && ip.is_ipv4() == listener.is_ipv4());
        let own = Some(listener.ip()).filter(|_| !is_any);
        relays.copied().chain(own).map(|ip| SocketAddr::new(ip, listener.port()))
    });
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().map(|own| Listener { address: own.ip().into(), port: own.port().into() })
}

/// Hardware interfaces that have the relay's addresses, VLANs and bonds of hardware among them.
///
/// Others have to be named: a sender on the same machine leaves a UDP checksum to hardware, which
/// between two ends of a `veth` nobody ever fills in, and the program can't see that.
fn default_names(
    wishes: &Wishes,
    links: &[Link],
    addresses: &[(u32, IpAddr)],
) -> Result<Vec<String>, String> {
    let listeners = wishes.listeners.iter().map(SocketAddr::ip);
    let wanted: Vec<IpAddr> = wishes.relays.iter().copied().chain(listeners).collect();
    let has_one =
        |link: &Link| addresses.iter().any(|(ifindex, ip)| *ifindex == link.ifindex && wanted.contains(ip));
    let (mut names, mut left_out) = (Vec::new(), Vec::new());
    for link in links.iter().filter(|link| has_one(link)) {
        match &link.software {
            _ if link.is_loopback => left_out.push(format!("{} is the loopback interface", link.name)),
            _ if layers::is_hardware(link, links) => names.push(link.name.clone()),
            Some(kind) => left_out
                .push(format!("{} is software ({kind}): it has to be named by offload-interface", link.name)),
            None => names.push(link.name.clone()),
        }
    }
    match (names.is_empty(), left_out.is_empty()) {
        (false, _) => Ok(names),
        (true, false) => Err(left_out.join(", ")),
        (true, true) => Err("no interface has the relay's addresses".to_owned()),
    }
}

fn choose(place: usize, name: &str, links: &[Link], host: &Host) -> Chosen {
    let link = links.iter().find(|link| link.name == name);
    let facts = match link {
        Some(link) => probe::facts_of(link, links, host),
        None => probe::Facts {
            name: name.to_owned(),
            kernel: host.kernel,
            missing_capabilities: host.missing_capabilities.clone(),
            ..probe::Facts::default()
        },
    };
    let fit = if place >= MAX_INTERFACES {
        Err(format!("the program knows {MAX_INTERFACES} interfaces at most"))
    } else {
        probe::verdict(&facts).map_err(|unfit| unfit.to_string())
    };
    let layers = facts.layers.clone();
    let mut device = links.iter().filter(|link| link.ifindex == layers.device);
    // A veth loses what is sent back when its far end has GRO and no program, and a bond sends by the port it likes.
    let is_veth = device.any(|device| device.software.as_deref() == Some("veth"));
    let port = Port {
        ifindex: facts.ifindex,
        mac: facts.mac,
        mtu: facts.mtu.min(layers.device_mtu),
        // What the driver says shows when the program is there.
        redirects: true,
        sends_back: !is_veth && !layers.is_bond,
        device: layers.device,
        vlan: layers.vlan,
        ways_in: layers.ways_in,
    };
    Chosen { name: name.to_owned(), ifindex: facts.ifindex, fit: fit.map(|()| port) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Layer;

    fn wishes() -> Wishes {
        Wishes {
            named: Vec::new(),
            listeners: vec!["192.0.2.1:3478".parse().unwrap(), "[::]:3478".parse().unwrap()],
            relays: vec!["198.51.100.1".parse().unwrap()],
            ports: 49152..=65535,
            last_channel: 0x4fff,
            shield: true,
        }
    }

    fn link(ifindex: u32, name: &str) -> Link {
        let mac = [2, 0, 0, 0, 0, ifindex as u8];
        Link { ifindex, name: name.to_owned(), mac, mtu: 1500, kind: 1, ..Link::default() }
    }

    fn address(ifindex: u32, ip: &str) -> (u32, IpAddr) {
        (ifindex, ip.parse().unwrap())
    }

    fn host() -> Host {
        Host { kernel: (6, 1), missing_capabilities: Vec::new() }
    }

    #[test]
    fn interfaces_with_the_addresses_are_chosen_and_judged() {
        let links = [link(2, "eth0"), link(3, "eth1"), Link { mtu: 9000, ..link(4, "eth2") }];
        let addresses = [address(2, "192.0.2.1"), address(3, "203.0.113.1"), address(4, "198.51.100.1")];
        let chosen = interfaces(&wishes(), &links, &addresses, &host()).unwrap();
        let names: Vec<_> = chosen.iter().map(|chosen| chosen.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth2"]);
        let port = Port {
            ifindex: 2,
            device: 2,
            vlan: 0,
            ways_in: vec![2],
            mac: links[0].mac,
            mtu: 1500,
            redirects: true,
            sends_back: true,
        };
        assert_eq!(chosen[0].fit, Ok(port));
        assert!(chosen[1].fit.as_ref().unwrap_err().contains("MTU of 9000"));
    }

    #[test]
    fn software_and_loopback_are_not_chosen_by_themselves() {
        let veth = Link { software: Some("veth".to_owned()), ..link(2, "eth0") };
        let lo = Link { is_loopback: true, ..link(1, "lo") };
        let addresses = [address(2, "192.0.2.1"), address(1, "198.51.100.1")];
        let why = interfaces(&wishes(), &[lo, veth.clone()], &addresses, &host()).unwrap_err();
        assert!(why.contains("lo is the loopback") && why.contains("eth0 is software (veth)"), "{why}");
        let named = Wishes { named: vec!["eth0".to_owned(), "eth9".to_owned()], ..wishes() };
        let chosen = interfaces(&named, &[veth], &[], &host()).unwrap();
        assert!(chosen[0].fit.is_ok(), "{chosen:?}");
        assert!(chosen[1].fit.as_ref().unwrap_err().contains("no interface eth9"), "{chosen:?}");
        let why = interfaces(&wishes(), &[], &[], &host()).unwrap_err();
        assert_eq!(why, "no interface has the relay's addresses");
    }

    #[test]
    fn vlans_and_bonds_of_hardware_are_chosen_and_lead_to_their_device() {
        let vlan = Layer::Vlan { number: 5, is_provider: false, has_priorities: false };
        let bond = Layer::Bond { mode: "802.3ad".to_owned(), is_by_vlan: false };
        let made = |layer, link| Link { layer, software: Some("made".to_owned()), ..link };
        let links = [
            made(bond, link(2, "bond0")),
            Link { master: 2, ..link(3, "eth0") },
            Link { master: 2, ..link(4, "eth1") },
            Link { below: 2, mtu: 1400, ..made(vlan, link(5, "bond0.5")) },
        ];
        let addresses = [address(2, "192.0.2.1"), address(5, "198.51.100.1")];
        let chosen = interfaces(&wishes(), &links, &addresses, &host()).unwrap();
        let bond0 = Port {
            ifindex: 2,
            device: 2,
            vlan: 0,
            ways_in: vec![3, 4, 2],
            mac: links[0].mac,
            mtu: 1500,
            redirects: true,
            sends_back: false,
        };
        let above = Port { ifindex: 5, vlan: 5, mac: links[3].mac, mtu: 1400, ..bond0.clone() };
        let fit: Vec<_> = chosen.into_iter().map(|chosen| chosen.fit).collect();
        assert_eq!(fit, [Ok(bond0), Ok(above)]);
        let veth = Link { software: Some("veth".to_owned()), ..links[1].clone() };
        let links = [links[0].clone(), veth, links[2].clone(), links[3].clone()];
        let why = interfaces(&wishes(), &links, &addresses, &host()).unwrap_err();
        assert!(why.contains("bond0 is software") && why.contains("bond0.5 is software"), "{why}");
    }

    #[test]
    fn more_ways_in_than_the_program_knows_are_refused() {
        let bond = Layer::Bond { mode: "802.3ad".to_owned(), is_by_vlan: false };
        let mut links = vec![link(1, "eth0"), Link { layer: bond, ..link(2, "bond0") }];
        links.extend(
            (3..).take(MAX_WAYS_IN).map(|port| Link { master: 2, ..link(port, &format!("eth{port}")) }),
        );
        let addresses = [address(2, "192.0.2.1"), address(1, "198.51.100.1")];
        let chosen = interfaces(&wishes(), &links, &addresses, &host()).unwrap();
        assert!(chosen[0].fit.is_ok(), "{chosen:?}");
        assert!(chosen[1].fit.as_ref().unwrap_err().contains("tells 32 ways in apart"), "{chosen:?}");
    }

    #[test]
    fn the_configuration_has_ports_and_limits() {
        let config = config(&wishes()).unwrap();
        assert_eq!((config.enabled, config.last_channel), (1, 0x4fff));
        assert_eq!((config.first_relay_port, config.last_relay_port), (49152, 65535));
        assert_eq!((config.listener_port_count, config.listener_ports[0]), (1, 3478));
        assert_eq!(config.interface_count, 0);
    }

    #[test]
    fn listeners_are_shielded_at_addresses_that_are_theirs() {
        let listener = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            Listener { address: address.ip().into(), port: address.port().into() }
        };
        let relays = ["198.51.100.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec();
        let wishes = Wishes { relays, ..wishes() };
        let shielded = config(&wishes).unwrap().shielded;
        // [::]:3478 takes IPv6 only.
        assert_eq!(shielded[..2], [listener("192.0.2.1:3478"), listener("[2001:db8::1]:3478")]);
        assert_eq!(shielded[2..], Config::OFF.shielded[2..]);
        let down = Wishes { shield: false, ..wishes };
        assert_eq!(config(&down).unwrap().shielded, Config::OFF.shielded);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let listener = |port: u16| SocketAddr::new(IpAddr::from([192, 0, 2, 1]), port);
        let many_ports = Wishes { listeners: (1..=9).map(listener).collect(), ..wishes() };
        assert!(config(&many_ports).unwrap_err().contains("9 ports"));
    }

    #[test]
    fn sizes_follow_the_ports_and_have_bounds() {
        let range = |first: u16, last: u16| first..=last;
        let default = sizes(range(49152, 65535), 1, None);
        assert_eq!((default.allocations, default.bindings), (16_384, 32_768));
        assert_eq!(sizes(range(50000, 50009), 1, None).allocations, 1024);
        assert_eq!(sizes(range(1024, 65535), 9, None).allocations, 131_072);
        assert_eq!(sizes(range(49152, 65535), 2, Some(2000)).allocations, 2000);
    }
}
