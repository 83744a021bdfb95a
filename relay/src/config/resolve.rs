//! Which addresses of this host a configuration means, and which of them are not there yet.
//!
//! Wildcards are for sockets; a relayed transport address has to be a real one. This expands the
//! former into the latter and applies the mapping to public addresses. What the host's network may still
//! deliver is [`Awaited`], never a fault: faults are those of the configuration, and `check` finds them all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use turnpike_proto::addr::Family;
use turnpike_proto::settings::RelayIp;

pub use super::host::Host;
use super::host::is_private;
use super::options::Config;
use super::report::{Place, Problem};
use super::streams;
use super::types::{DEFAULT_PORT, DefaultFamily, ExternalAddress, PublicAddress};
use crate::limits::MAX_NEAR_NETWORKS;

/// The addresses to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The addresses and ports to listen on for UDP.
    pub listen: Vec<SocketAddr>,
    /// Where to listen for TCP.
    pub listen_tcp: Vec<SocketAddr>,
    /// Where to listen for TLS.
    pub listen_tls: Vec<SocketAddr>,
    /// Where to relay from now, for every client.
    pub relay: Vec<RelayIp>,
    /// Where to relay from for clients that talk to that very address: those of the host's other networks.
    pub near: Vec<RelayIp>,
    /// What is not there yet, or not there any more.
    pub awaited: Vec<Awaited>,
    /// Every address of this host.
    pub own: Vec<IpAddr>,
    /// Whose public addresses have to be asked for, and of whom.
    pub questions: Vec<(PublicAddress, IpAddr)>,
    /// What is possible but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Something that the configuration wants and the network has not delivered; displayed as the end of "waiting for".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The address of a listener.
    Listener(SocketAddr),
    /// A relay address.
    Relay(IpAddr),
    /// Any address that a wildcard could stand for.
    AnyRelay,
    /// An address of a family that was relayed from before.
    Family(Family),
    /// What a name or a STUN server says that the public address of a relay address is.
    Public(PublicAddress, IpAddr),
}

impl Addresses {
    /// Where clients come, by whatever transport.
    fn listeners(&self) -> Vec<SocketAddr> {
        [&self.listen, &self.listen_tcp, &self.listen_tls].into_iter().flatten().copied().collect()
    }

    /// All that is relayed from now.
    pub fn relays(&self) -> impl Iterator<Item = &RelayIp> {
        self.relay.iter().chain(&self.near)
    }

    /// Families whose relay addresses are awaited: their clients are told to come again.
    pub fn awaited_families(&self) -> Vec<Family> {
        let both = [Family::V4, Family::V6];
        let is_awaited = |family: &Family| {
            self.awaited.iter().any(|awaited| match awaited {
                Awaited::Listener(_) => false,
                Awaited::Relay(ip) | Awaited::Public(_, ip) => Family::of(ip) == *family,
                Awaited::AnyRelay => true,
                Awaited::Family(other) => other == family,
            })
        };
        both.into_iter().filter(is_awaited).collect()
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Awaited::Listener(address) => {
                write!(f, "the listener {address}: no interface of this host has that address")
            }
            Awaited::Relay(ip) => write!(
                f,
                "the relay address {ip}: no interface of this host has it (if a NAT maps it to this host, write it \
                 as external-address)"
            ),
            Awaited::AnyRelay => {
                f.write_str("a relay address: no interface of this host has one that others could reach")
            }
            Awaited::Family(Family::V4) => f.write_str("an IPv4 relay address: the host's has gone"),
            Awaited::Family(Family::V6) => f.write_str("an IPv6 relay address: the host's has gone"),
            Awaited::Public(source, ip) => {
                write!(f, "the public address of {ip}: external-address {source} has not told it")
            }
        }
    }
}

/// The relay addresses that a configuration can ever lead to, whatever the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Possible {
    named: Vec<IpAddr>,
    /// Wildcards of IPv4 and of IPv6 stand for any address of their family.
    any_v4: bool,
    any_v6: bool,
}

impl Possible {
    pub(super) fn of(config: &Config) -> Self {
        if !config.relay_address.is_empty() {
            return Possible { named: config.relay_address.clone(), any_v4: false, any_v6: false };
        }
        let has_wildcard = |v4: bool| {
            let is_one = |listener: &SocketAddr| listener.ip().is_unspecified() && listener.is_ipv4() == v4;
            config.listen.is_empty() || config.listen.iter().any(is_one)
        };
        let named = config.listen.iter().map(|listener| listener.ip()).filter(|ip| !ip.is_unspecified());
        Possible { named: named.collect(), any_v4: has_wildcard(true), any_v6: has_wildcard(false) }
    }

    fn any(&self, v4: bool) -> bool {
        if v4 { self.any_v4 } else { self.any_v6 }
    }

    pub(super) fn includes(&self, ip: IpAddr) -> bool {
        self.named.contains(&ip) || self.any(ip.is_ipv4())
    }

    pub(super) fn has_family(&self, v4: bool) -> bool {
        self.any(v4) || self.named.iter().any(|ip| ip.is_ipv4() == v4)
    }
}

/// The addresses that a configuration means on a host.
pub fn resolve(config: &Config, host: &Host) -> Addresses {
    let listen = listeners(config, host);
    let (listen_tcp, listen_tls) = (streams::tcp(config, &listen), streams::tls(config, &listen));
    let listen = if config.no_udp { Vec::new() } else { listen };
    let mut addresses = Addresses { listen, listen_tcp, listen_tls, ..Addresses::default() };
    for listener in addresses.listeners() {
        let is_missing = !listener.ip().is_unspecified() && !host.can_bind(listener.ip());
        let awaited = Awaited::Listener(listener);
        if is_missing && !addresses.awaited.contains(&awaited) {
            addresses.awaited.push(awaited);
        }
    }
    let general = relay_ips(config, host);
    let near = near_ips(config, host, &general);
    for (ips, is_near) in [(&general, false), (&near, true)] {
        for &local in ips {
            match addresses.relay_address(config, host, local) {
                Ok(relay) if is_near => addresses.near.push(relay),
                Ok(relay) => addresses.relay.push(relay),
                Err(awaited) => addresses.awaited.push(awaited),
            }
        }
    }
    if general.is_empty() {
        addresses.awaited.push(Awaited::AnyRelay);
    }
    for family in &host.had {
        if !general.iter().any(|ip| Family::of(ip) == *family) && !general.is_empty() {
            addresses.awaited.push(Awaited::Family(*family));
        }
    }
    addresses.own = host.addresses.iter().map(|own| own.ip).chain(host.bindable.iter().copied()).collect();
    addresses.own.retain(|ip| !ip.is_unspecified());
    addresses.own.sort_unstable();
    addresses.own.dedup();
    addresses.warnings = warnings(config, &addresses.relay);
    addresses
}

impl Addresses {
    /// What a relay address is to clients, or what it lacks.
    fn relay_address(&mut self, config: &Config, host: &Host, local: IpAddr) -> Result<RelayIp, Awaited> {
        if !host.can_bind(local) {
            return Err(Awaited::Relay(local));
        }
        let public = match external_of(config, local).map(|external| &external.public) {
            None => return Ok(RelayIp::from(local)),
            Some(PublicAddress::Ip(public)) => *public,
            Some(source) => {
                let question = (source.clone(), local);
                self.questions.push(question.clone());
                let known = host.publics.get(&question).copied();
                known.ok_or(Awaited::Public(question.0, local))?
            }
        };
        Ok(RelayIp { local, external: Some(public).filter(|public| *public != local) })
    }
}

/// The listeners that a configuration can mean on any host.
pub(super) fn possible_listeners(config: &Config) -> Vec<SocketAddr> {
    listeners(config, &Host { has_ipv6: true, ..Host::default() })
}

/// The configured listeners, or both wildcards.
fn listeners(config: &Config, host: &Host) -> Vec<SocketAddr> {
    if !config.listen.is_empty() {
        return config.listen.clone();
    }
    let mut listen = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))];
    if host.has_ipv6 {
        listen.push(SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT)));
    }
    listen
}

/// The configured relay addresses, or those that the listeners stand for, whether they are there or not. For a
/// wildcard these are the ones that external addresses name, else the primary address of its family.
pub(super) fn relay_ips(config: &Config, host: &Host) -> Vec<IpAddr> {
    if !config.relay_address.is_empty() {
        return config.relay_address.clone();
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for listener in listeners(config, host) {
        if !listener.ip().is_unspecified() {
            ips.push(listener.ip());
            continue;
        }
        let v4 = listener.is_ipv4();
        let named = config.external_address.iter().filter_map(|external| external.local);
        let before = ips.len();
        ips.extend(named.filter(|local| local.is_ipv4() == v4));
        if ips.len() == before {
            ips.extend(if v4 { host.primary_v4() } else { host.primary_v6() });
        }
    }
    let mut seen = Vec::new();
    ips.retain(|ip| !seen.contains(ip) && (seen.push(*ip), true).1);
    ips
}

/// Addresses of the host's other networks. Whoever talks to one of them is relayed from there, if the address that
/// all others get may be none that this network can reach: a private one, or a public one of another provider.
/// Where an external address is configured, the operator has said which address is meant.
fn near_ips(config: &Config, host: &Host, general: &[IpAddr]) -> Vec<IpAddr> {
    let mut near = Vec::new();
    if !config.relay_address.is_empty() {
        return near;
    }
    for listener in listeners(config, host) {
        let v4 = listener.is_ipv4();
        let is_mapped = config.external_address.iter().any(|external| external.is_for(v4));
        let primary = if v4 { host.primary_v4() } else { host.primary_v6() };
        let Some(primary) = primary.filter(|_| listener.ip().is_unspecified() && !is_mapped) else {
            continue;
        };
        let others = host.reachable(v4).map(|own| own.ip);
        let wanted = others.filter(|ip| !general.contains(ip) && (is_private(primary) || !is_private(*ip)));
        for ip in wanted.take(MAX_NEAR_NETWORKS) {
            if !near.contains(&ip) {
                near.push(ip);
            }
        }
    }
    near
}

/// A mapping for exactly this address, else the one for all of its family.
fn external_of(config: &Config, local: IpAddr) -> Option<&ExternalAddress> {
    let exact = config.external_address.iter().find(|external| external.local == Some(local));
    let fits = |external: &&ExternalAddress| external.local.is_none() && external.is_for(local.is_ipv4());
    exact.or_else(|| config.external_address.iter().find(fits))
}

/// What `check` couldn't see: configured relay addresses are judged there.
fn warnings(config: &Config, relay: &[RelayIp]) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let derived = config.relay_address.is_empty();
    for (index, ip) in relay.iter().enumerate() {
        let public = ip.public();
        if let Some(message) = reach_warning(config, ip.local).filter(|_| derived) {
            warnings.push(at_start("relay-address", message));
        }
        if let Some(other) = relay[..index].iter().find(|other| other.public() == public) {
            let message = format!(
                "{public} stands for both {} and {}: what arrives there goes to only one of them; \
                 write PUBLIC=LOCAL",
                other.local, ip.local
            );
            warnings.push(at_start("external-address", message));
        }
    }
    let ips: Vec<_> = relay.iter().map(|relay| relay.local).collect();
    if let Some(message) = family_warning(config, &ips).filter(|_| derived && !relay.is_empty()) {
        warnings.push(at_start("default-address-family", message));
    }
    warnings
}

/// Who can't reach a relay address, if anybody.
pub(super) fn reach_warning(config: &Config, local: IpAddr) -> Option<String> {
    if external_of(config, local).is_some() || config.quickstart.is_some() {
        return None;
    }
    if local.is_loopback() {
        return Some(format!("\"{local}\": is a loopback address: no other host can reach it"));
    }
    is_private(local).then(|| {
        format!(
            "\"{local}\": is private and has no external-address: only that network's clients and peers \
             can reach it"
        )
    })
}

/// What happens to clients that don't ask for a family, if there is no relay address for them.
pub(super) fn family_warning(config: &Config, relay: &[IpAddr]) -> Option<String> {
    let has = |v4: bool| relay.iter().any(|ip| ip.is_ipv4() == v4);
    let family = match config.default_address_family {
        DefaultFamily::Ipv4 if !has(true) => "IPv4",
        DefaultFamily::Ipv6 if !has(false) => "IPv6",
        _ => return None,
    };
    Some(format!(
        "no relay address is {family}: clients that don't ask for a family get error 440 (RFC 8656 s. 7.2)"
    ))
}

fn at_start(key: &'static str, message: String) -> Problem {
    Problem::new(Place::Start, key, message)
}
