//! What this host has: its addresses, and where its default routes lead.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use turnpike_driver::interfaces::{LocalAddress, local_addresses};
use turnpike_proto::addr::Family;

use super::options::Config;
use super::types::{DEFAULT_PORT, PublicAddress};

/// What is known about this host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The addresses of its interfaces.
    pub addresses: Vec<LocalAddress>,
    /// Addresses of the configuration that sockets can be bound to.
    pub bindable: Vec<IpAddr>,
    /// The source address that its default route gives to IPv4 datagrams.
    pub routed_v4: Option<IpAddr>,
    /// The same for IPv6.
    pub routed_v6: Option<IpAddr>,
    /// Whether there can be IPv6 sockets: addresses may come later.
    pub has_ipv6: bool,
    /// What names and STUN servers have said that a relay address is in public.
    pub publics: HashMap<(PublicAddress, IpAddr), IpAddr>,
    /// Families that there was a relay address of before.
    pub had: Vec<Family>,
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
            has_ipv6: can_bind(Ipv6Addr::UNSPECIFIED.into()),
            ..Host::default()
        }
    }

    /// The same, and which of the addresses that a configuration names sockets can be bound to: an address may be
    /// ours without being an interface's, and it is nobody's yet while it is tentative (RFC 4862 s. 5.4).
    pub fn detect_for(config: &Config) -> Self {
        let listeners = [&config.listen, &config.listen_tcp, &config.listen_tls].into_iter().flatten();
        let named = (listeners.map(|listener| listener.ip()))
            .chain(config.relay_address.iter().copied())
            .chain(config.external_address.iter().filter_map(|external| external.local));
        Host { bindable: named.filter(|ip| can_bind(*ip)).collect(), ..Host::detect() }
    }

    /// Whether a socket can have this address now.
    pub fn can_bind(&self, ip: IpAddr) -> bool {
        self.bindable.contains(&ip) || self.addresses.iter().any(|own| own.ip == ip && own.stable)
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

    /// Addresses of one family that other hosts may see, and that stay.
    pub(super) fn reachable(&self, v4: bool) -> impl Iterator<Item = &LocalAddress> {
        let wanted = move |a: &&LocalAddress| a.ip.is_ipv4() == v4 && a.stable && reaches_beyond_link(a.ip);
        self.addresses.iter().filter(wanted)
    }

    fn primary(&self, v4: bool, routed: Option<IpAddr>) -> Option<IpAddr> {
        let candidates = || self.reachable(v4);
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

fn can_bind(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The source address that the routing table picks. Connecting a UDP socket sends nothing; the
/// destination is an address for documentation, which only a default route leads to.
fn routed_source(any: IpAddr, destination: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, DEFAULT_PORT)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
