//! Which addresses of this host a configuration means.
//!
//! Wildcards are for sockets; a relayed transport address has to be a real one. This expands the
//! former into the latter and applies the mapping to public addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use super::check::{external_fault, family_warning, reach_warning};
use super::interfaces;
use super::options::Config;
use super::report::{Place, Problem, Problems};

/// The port of TURN over UDP (RFC 8656 s. 4).
pub const DEFAULT_PORT: u16 = 3478;

/// An address that an interface of this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// The network that is attached there.
    pub network: IpNet,
    /// Whether it stays: not a temporary, deprecated or tentative IPv6 address (RFC 8981).
    pub stable: bool,
}

/// All addresses of the interfaces that are up, in the kernel's order.
///
/// # Errors
/// If the kernel doesn't tell.
pub fn local_addresses() -> io::Result<Vec<LocalAddress>> {
    interfaces::addresses()
}

/// What is known about this host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its addresses.
    pub addresses: Vec<LocalAddress>,
    /// The source address that its default route gives to IPv4 datagrams.
    pub routed_v4: Option<IpAddr>,
    /// The same for IPv6.
    pub routed_v6: Option<IpAddr>,
}

impl Host {
    /// Asks the kernel; what it doesn't tell is missing.
    pub fn detect() -> Self {
        Host {
            addresses: local_addresses().unwrap_or_default(),
            routed_v4: routed_source(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
            routed_v6: routed_source(
                Ipv6Addr::UNSPECIFIED.into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            ),
        }
    }

    /// Whether there is IPv6 at all, be it on the loopback interface only.
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|address| address.ip.is_ipv6())
    }

    /// The IPv4 address that other hosts see: that of the default route, else a public one, else any
    /// but loopback and link-local ones.
    pub fn primary_v4(&self) -> Option<IpAddr> {
        self.primary(true, self.routed_v4)
    }

    /// The IPv6 address that other hosts see; never a temporary one, which would go away.
    pub fn primary_v6(&self) -> Option<IpAddr> {
        self.primary(false, self.routed_v6)
    }

    fn primary(&self, v4: bool, routed: Option<IpAddr>) -> Option<IpAddr> {
        let candidates = || {
            let wanted = |a: &&LocalAddress| a.ip.is_ipv4() == v4 && a.stable && reaches_beyond_link(a.ip);
            self.addresses.iter().filter(wanted)
        };
        // A temporary address of the default route at least tells the interface.
        let interface = self.addresses.iter().find(|a| Some(a.ip) == routed).map(|a| &a.interface);
        candidates()
            .find(|a| Some(a.ip) == routed)
            .or_else(|| candidates().find(|a| Some(&a.interface) == interface && !is_private(a.ip)))
            .or_else(|| candidates().find(|a| !is_private(a.ip)))
            .or_else(|| candidates().next())
            .map(|a| a.ip)
    }
}

/// A relay address and what clients are told instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// What relay sockets are bound to.
    pub local: IpAddr,
    /// What XOR-RELAYED-ADDRESS says: the same unless `external-address` maps it.
    pub public: IpAddr,
}

/// The addresses to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Where to relay from, at least one.
    pub relay: Vec<RelayAddress>,
    /// What is possible but probably not meant.
    pub warnings: Vec<Problem>,
}

/// The addresses that a configuration means on this host, checked to be this host's.
///
/// # Errors
/// Faults of the configuration that only this host can show.
pub fn resolve_here(config: &Config) -> Result<Addresses, Problems> {
    let addresses = resolve(config, &Host::detect())?;
    let fault = |relay: &RelayAddress| {
        let error = UdpSocket::bind((relay.local, 0)).err()?;
        Some(at_start("relay-address", unusable(relay.local, &error)))
    };
    let faults: Vec<_> = addresses.relay.iter().filter_map(fault).collect();
    if faults.is_empty() { Ok(addresses) } else { Err(Problems(faults)) }
}

/// The addresses that a configuration means on a host.
///
/// # Errors
/// If there is no relay address, or an external address has none behind it.
pub fn resolve(config: &Config, host: &Host) -> Result<Addresses, Problems> {
    let listen = listeners(config, host);
    let ips = relay_ips(config, host);
    let mut faults = Vec::new();
    if ips.is_empty() {
        faults.push(at_start("relay-address", "none found on this host: name one".to_owned()));
    }
    for (index, external) in config.external_address.iter().enumerate() {
        if let Some(message) = external_fault(external, &config.external_address[..index], &ips) {
            faults.push(at_start("external-address", message));
        }
    }
    if !faults.is_empty() {
        return Err(Problems(faults));
    }
    let relay: Vec<_> =
        ips.into_iter().map(|local| RelayAddress { local, public: public_address(config, local) }).collect();
    let warnings = warnings(config, &relay);
    Ok(Addresses { listen, relay, warnings })
}

/// The configured listeners, or both wildcards.
fn listeners(config: &Config, host: &Host) -> Vec<SocketAddr> {
    if !config.listen.is_empty() {
        return config.listen.clone();
    }
    let mut listen = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))];
    if host.has_ipv6() {
        listen.push(SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT)));
    }
    listen
}

/// The configured relay addresses, or those that the listeners stand for.
pub(super) fn relay_ips(config: &Config, host: &Host) -> Vec<IpAddr> {
    if !config.relay_address.is_empty() {
        return config.relay_address.clone();
    }
    let mut ips = Vec::new();
    for listener in listeners(config, host) {
        let ip = match listener.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => host.primary_v4(),
            IpAddr::V6(ip) if ip.is_unspecified() => host.primary_v6(),
            ip => Some(ip),
        };
        ips.extend(ip.filter(|ip| !ips.contains(ip)));
    }
    // A host that is alone still relays between its own processes.
    if ips.is_empty() && host.addresses.iter().any(|address| address.ip == Ipv4Addr::LOCALHOST) {
        ips.push(Ipv4Addr::LOCALHOST.into());
    }
    ips
}

/// A mapping for exactly this address, else the one for all of its family, else itself.
pub(super) fn public_address(config: &Config, local: IpAddr) -> IpAddr {
    let exact = config.external_address.iter().find(|external| external.local == Some(local));
    let general = || {
        let fits = |public: IpAddr| public.is_ipv4() == local.is_ipv4();
        config.external_address.iter().find(|external| external.local.is_none() && fits(external.public))
    };
    exact.or_else(general).map_or(local, |external| external.public)
}

/// What `check` couldn't see: configured relay addresses are judged there.
fn warnings(config: &Config, relay: &[RelayAddress]) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let derived = config.relay_address.is_empty();
    for (index, RelayAddress { local, public }) in relay.iter().enumerate() {
        if let Some(message) = reach_warning(config, *local).filter(|_| derived) {
            warnings.push(at_start("relay-address", message));
        }
        if let Some(other) = relay[..index].iter().find(|other| other.public == *public) {
            let message = format!(
                "{public} stands for both {} and {local}: what arrives there goes to only one of them; \
                 write PUBLIC=LOCAL",
                other.local
            );
            warnings.push(at_start("external-address", message));
        }
    }
    let ips: Vec<_> = relay.iter().map(|relay| relay.local).collect();
    if let Some(message) = family_warning(config, &ips).filter(|_| derived) {
        warnings.push(at_start("default-address-family", message));
    }
    warnings
}

fn unusable(ip: IpAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => format!(
            "\"{ip}\": no interface of this host has it; if a NAT maps it to this host, write it as \
             external-address"
        ),
        _ => format!("\"{ip}\": no socket can have it: {error}"),
    }
}

fn at_start(key: &'static str, message: String) -> Problem {
    Problem::new(Place::Start, key, message)
}

/// Private use: RFC 1918, RFC 6598, RFC 4193.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Neither loopback nor link-local.
fn reaches_beyond_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

/// The source address that the routing table picks. Connecting a UDP socket sends nothing; the
/// destination is an address for documentation, which only a default route leads to.
fn routed_source(any: IpAddr, destination: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, DEFAULT_PORT)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
