//! Which peers may be reached: the relay must be no way into its operator's network (Q1 to Q3).
//!
//! ```text
//!   mapped, unspecified, port 0 ─► never │ our listeners ─► never │ our relayed addresses ─► always, while leased
//!   our other addresses and ports ─► only by a rule │ most specific rule wins │ nothing matches ─► allowed
//!   IPv4 inside IPv6 (NAT64, 6to4, Teredo, ...): the inner address has to pass as well
//! ```
//!
//! Knows no allocation and no socket; addresses are those our own sockets see.

use std::cmp::Reverse;
use std::fmt;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::shared::addresses::RelayIps;

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The peer may be reached.
    Allow,
    /// It may not.
    Deny,
}

/// What the operator says of peers, and what of this host is none.
#[derive(Clone, Debug, Default)]
pub struct PeerRules {
    /// Networks that may be reached.
    pub allow: Vec<IpNet>,
    /// Networks that may not be reached.
    pub deny: Vec<IpNet>,
    /// Loopback addresses may be reached, except for listeners.
    pub allow_loopback: bool,
    /// Every listener, wildcards expanded to the host's addresses, the admin API's included.
    pub listeners: Vec<SocketAddr>,
    /// All addresses of this host; those that are relayed from need not be among them.
    pub local_ips: Vec<IpAddr>,
}

/// What belongs to this server: neither its services nor its host are peers.
#[derive(Clone, Debug)]
struct OwnAddresses {
    /// Relay addresses in their local and external form.
    relay_ips: Vec<IpAddr>,
    relay_ports: RangeInclusive<u16>,
    listeners: Vec<SocketAddr>,
    local_ips: Vec<IpAddr>,
}

/// The rules, ours and the operator's.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    /// In the order of precedence: the first that matches decides.
    rules: Vec<Rule>,
    allow_loopback: bool,
    own: OwnAddresses,
}

/// A peer may not be reached (answered with 403).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the operator could do to allow it; `None` if nothing would, or if it was the operator's own wish.
    pub remedy: Option<Remedy>,
}

/// The option that would allow a refused peer; displayed as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// `--allow-peer` with this address.
    AllowPeer(IpAddr),
    /// `--allow-loopback-peers`.
    AllowLoopbackPeers,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    net: IpNet,
    action: Action,
    /// The operator's, not a default.
    operator: bool,
}

/// Denied unless a rule at least as specific says otherwise; single addresses are clouds' metadata
/// services and the like, so only a rule for exactly that address opens them.
const DEFAULT_DENY: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "100.100.100.200/32",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "169.254.169.254/32",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    // Translation prefixes for local use lead wherever the operator's translator leads (RFC 8215).
    "64:ff9b:1::/48",
    "fc00::/7",
    "fd00:ec2::254/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

impl PeerPolicy {
    /// The policy of a server that relays from these addresses and ports.
    pub(crate) fn of(peers: &PeerRules, relays: &RelayIps, relay_ports: &RangeInclusive<u16>) -> PeerPolicy {
        let relays = relays.general.iter().chain(&relays.near);
        let own = OwnAddresses {
            relay_ips: relays.flat_map(|relay| iter::once(relay.local).chain(relay.external)).collect(),
            relay_ports: relay_ports.clone(),
            listeners: peers.listeners.clone(),
            local_ips: peers.local_ips.clone(),
        };
        Self::new(&peers.allow, &peers.deny, peers.allow_loopback, own)
    }

    /// The default rules plus the operator's.
    ///
    /// The most specific prefix decides; among equals the operator's rule beats a default and
    /// `deny` beats `allow`.
    fn new(allow: &[IpNet], deny: &[IpNet], allow_loopback: bool, own: OwnAddresses) -> PeerPolicy {
        let defaults = DEFAULT_DENY.iter().map(|text| Rule {
            net: text.parse().expect("the default networks are well-formed: a test reads them all"),
            action: Action::Deny,
            operator: false,
        });
        let operator = |action| move |net: &IpNet| Rule { net: net.trunc(), action, operator: true };
        let mut rules: Vec<Rule> = defaults
            .filter(|rule| !(allow_loopback && rule.net.addr().is_loopback()))
            .chain(allow.iter().map(operator(Action::Allow)))
            .chain(deny.iter().map(operator(Action::Deny)))
            .collect();
        rules.sort_by_key(|rule| {
            (Reverse(rule.net.prefix_len()), Reverse(rule.operator), rule.action == Action::Allow)
        });
        PeerPolicy { rules, allow_loopback, own: own.canonical() }
    }

    /// Whether data may go to a peer: ChannelBind, Send, and everything that has a port. `is_open` says whether a
    /// port of a relay address is a relayed transport address at this moment: in the same range may be services of
    /// this host.
    ///
    /// # Errors
    /// [`Refused`], with the option that would allow it.
    pub fn check(
        &self,
        peer: SocketAddr,
        is_open: impl Fn(IpAddr, u16) -> bool + Copy,
    ) -> Result<(), Refused> {
        if peer.port() == 0 {
            return Err(Refused::NEVER);
        }
        self.check_forms(peer.ip(), Some(peer.port()), is_open)
    }

    /// Whether a permission may be made for an address, whatever the port: CreatePermission.
    ///
    /// Our own relay addresses pass, because another client's relayed address is a peer like any other;
    /// their other ports are refused by [`Self::check`].
    ///
    /// # Errors
    /// [`Refused`], with the option that would allow it.
    pub fn check_ip(&self, ip: IpAddr) -> Result<(), Refused> {
        self.check_forms(ip, None, |_, _| false)
    }

    /// Checks an address and every IPv4 address that is inside (Q2).
    fn check_forms(
        &self,
        ip: IpAddr,
        port: Option<u16>,
        is_open: impl Fn(IpAddr, u16) -> bool + Copy,
    ) -> Result<(), Refused> {
        if let IpAddr::V6(v6) = ip {
            if v6.to_ipv4_mapped().is_some() {
                // No peer has a reason to be named like this, attackers do.
                return Err(Refused::NEVER);
            }
            for inner in embedded(v6).into_iter().flatten() {
                self.check_one(IpAddr::V4(inner), port, is_open)?;
            }
        }
        self.check_one(ip, port, is_open)
    }

    fn check_one(
        &self,
        ip: IpAddr,
        port: Option<u16>,
        is_open: impl Fn(IpAddr, u16) -> bool,
    ) -> Result<(), Refused> {
        // On this host the unspecified address means loopback (CVE-2020-26262).
        if ip.is_unspecified() || port.is_some_and(|port| self.own.listens_on(ip, port)) {
            return Err(Refused::NEVER);
        }
        if self.own.is_relayed(ip, port) && port.is_none_or(|port| is_open(ip, port)) {
            return Ok(());
        }
        match self.rules.iter().find(|rule| rule.net.contains(&ip)) {
            Some(Rule { action: Action::Allow, .. }) => Ok(()),
            Some(Rule { operator: true, .. }) => Err(Refused::NEVER),
            Some(_) if ip.is_loopback() => Err(Refused { remedy: Some(Remedy::AllowLoopbackPeers) }),
            // No wider rule than for that address is proposed.
            Some(_) => Err(Refused { remedy: Some(Remedy::AllowPeer(ip)) }),
            None if self.is_own_host(ip) => Err(Refused { remedy: Some(Remedy::AllowPeer(ip)) }),
            None => Ok(()),
        }
    }

    fn is_own_host(&self, ip: IpAddr) -> bool {
        let local = self.own.local_ips.contains(&ip) || self.own.relay_ips.contains(&ip);
        local && !(self.allow_loopback && ip.is_loopback())
    }
}

impl OwnAddresses {
    /// Dual-stack sockets name IPv4 addresses in their mapped form; peers are never named so.
    fn canonical(mut self) -> Self {
        for ip in self.relay_ips.iter_mut().chain(&mut self.local_ips) {
            *ip = ip.to_canonical();
        }
        for listener in &mut self.listeners {
            listener.set_ip(listener.ip().to_canonical());
        }
        self
    }

    fn listens_on(&self, ip: IpAddr, port: u16) -> bool {
        self.listeners.iter().any(|listener| {
            // A wildcard listener answers on all of 127.0.0.0/8, not only on the address it was expanded to.
            let same_ip = listener.ip() == ip || listener.ip().is_loopback() && ip.is_loopback();
            same_ip && listener.port() == port
        })
    }

    /// Whether it may be a relayed transport address.
    fn is_relayed(&self, ip: IpAddr, port: Option<u16>) -> bool {
        self.relay_ips.contains(&ip) && port.is_none_or(|port| self.relay_ports.contains(&port))
    }
}

impl Refused {
    const NEVER: Refused = Refused { remedy: None };
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::AllowPeer(ip) => write!(f, "--allow-peer {ip}"),
            Remedy::AllowLoopbackPeers => f.write_str("--allow-loopback-peers"),
        }
    }
}

/// IPv4 addresses to which a translator or tunnel may send what is addressed to an IPv6 address.
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let o = ip.octets();
    let v4 = |a: usize, b: usize, c: usize, d: usize| Some(Ipv4Addr::new(o[a], o[b], o[c], o[d]));
    let last = v4(12, 13, 14, 15);
    match ip.segments() {
        // :: and ::1 have rules of their own; the rest of ::/96 is IPv4-compatible (RFC 4291 s. 2.5.5.1).
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 4],
        [0, 0, 0, 0, 0, 0, _, _] => [last, None, None, None],
        // NAT64, the well-known prefix (RFC 6052 s. 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => [last, None, None, None],
        // NAT64, local use: its prefix may have any of four lengths (RFC 8215, RFC 6052 s. 2.2). A layout
        // that gives 0.x.x.x isn't the one in use.
        [0x64, 0xff9b, 1, ..] => {
            let used = |ip: &Ipv4Addr| ip.octets()[0] != 0;
            [
                last,
                v4(6, 7, 9, 10).filter(used),
                v4(7, 9, 10, 11).filter(used),
                v4(9, 10, 11, 12).filter(used),
            ]
        }
        // 6to4 (RFC 3056 s. 2).
        [0x2002, ..] => [v4(2, 3, 4, 5), None, None, None],
        // Teredo: the server, and the client with all bits inverted (RFC 4380 s. 4).
        [0x2001, 0, ..] => {
            let client = Ipv4Addr::new(!o[12], !o[13], !o[14], !o[15]);
            [v4(4, 5, 6, 7), Some(client), None, None]
        }
        _ => [None; 4],
    }
}

#[cfg(test)]
mod tests;
