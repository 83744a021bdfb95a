//! The addresses that are relayed from: they come, change and go with the host's network while allocations live.
//!
//! An address keeps its ports for as long as any is held, also while it is gone: an allocation is never moved, and
//! a port never given away twice. Read on the data path, replaced by the operator's side of the relay.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::addr::{Family, PeerAddr, RelayedTransport};
use crate::limits::{FOREIGN_PORT_EXHAUSTED_SECS, FOREIGN_PORT_SECS, SECOND_NS};
use crate::shared::ports::{Parity, PortLease, PortPool};

/// An IP address that is relayed from, and how clients and peers see it. With a port of it, it makes a relayed
/// transport address ([`RelayedAddr`](crate::addr::RelayedAddr)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayIp {
    /// The address that sockets are bound to.
    pub local: IpAddr,
    /// The address that clients are told, if another one (a NAT is in front of us).
    pub external: Option<IpAddr>,
}

impl RelayIp {
    /// The address that clients are told.
    pub fn public(&self) -> IpAddr {
        self.external.unwrap_or(self.local)
    }
}

impl fmt::Display for RelayIp {
    /// `LOCAL`, or `EXTERNAL=LOCAL`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.external {
            None => self.local.fmt(f),
            Some(external) => write!(f, "{external}={}", self.local),
        }
    }
}

impl From<IpAddr> for RelayIp {
    /// An address that clients can reach as it is.
    fn from(local: IpAddr) -> Self {
        Self { local, external: None }
    }
}

/// The IP addresses that are relayed from at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayIps {
    /// For every client: the one that the client talks to first, else a random one.
    pub general: Vec<RelayIp>,
    /// Only for clients that talk to this very address: those of a host's other networks.
    pub near: Vec<RelayIp>,
    /// Families that are meant to be offered although no address of theirs may be there: their clients are told
    /// to come again (508), not that there is no such thing (440).
    pub awaited: Vec<Family>,
}

/// Who may be given ports of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serves {
    Everybody,
    /// Clients that talk to that very address.
    Near,
    /// Nobody: the address is gone, its allocations may still live.
    Nobody,
}

/// One of the addresses with its ports.
#[derive(Clone, Debug)]
struct IpPorts {
    ip: RelayIp,
    ports: Arc<PortPool>,
    serves: Serves,
}

#[derive(Debug, Default)]
struct Current {
    ips: Vec<IpPorts>,
    awaited: Vec<Family>,
}

/// What kind of port an Allocate needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortWish {
    pub(crate) family: Family,
    pub(crate) parity: Parity,
    /// Also take the odd sibling.
    pub(crate) pair: bool,
    /// The address that the client talks to.
    pub(crate) near: IpAddr,
}

/// A port on one of the relay addresses.
#[derive(Debug)]
pub(crate) struct TakenPort {
    /// The address, in its local form.
    pub(crate) relay: IpAddr,
    pub(crate) lease: PortLease,
    pub(crate) sibling: Option<PortLease>,
}

/// The ports of all addresses that are relayed from.
#[derive(Debug)]
pub(crate) struct RelayPorts {
    current: ArcSwap<Current>,
    ports: RangeInclusive<u16>,
}

impl RelayPorts {
    /// All addresses have all ports of `ports`.
    pub(crate) fn new(set: &RelayIps, ports: RangeInclusive<u16>) -> Self {
        let all = Self { current: ArcSwap::default(), ports };
        all.replace(set);
        all
    }

    /// Puts other addresses in force. One that was there before, or comes back, goes on with its ports.
    pub(crate) fn replace(&self, set: &RelayIps) {
        let old = self.current.load_full();
        let wanted = (set.general.iter().map(|ip| (ip, Serves::Everybody)))
            .chain(set.near.iter().map(|ip| (ip, Serves::Near)));
        let mut ips: Vec<IpPorts> = Vec::new();
        for (&ip, serves) in wanted {
            if ips.iter().any(|entry| entry.ip.local == ip.local) {
                continue;
            }
            let before = old.ips.iter().find(|entry| entry.ip.local == ip.local);
            let ports =
                before.map_or_else(|| PortPool::new(self.ports.clone()), |entry| Arc::clone(&entry.ports));
            ips.push(IpPorts { ip, ports, serves });
        }
        for entry in &old.ips {
            let is_back = ips.iter().any(|new| new.ip.local == entry.ip.local);
            // A worker may be taking a port at this moment: an address is forgotten at the change after the next.
            let is_held = entry.serves != Serves::Nobody || entry.ports.taken() > 0;
            if !is_back && is_held {
                ips.push(IpPorts { serves: Serves::Nobody, ..entry.clone() });
            }
        }
        self.current.store(Arc::new(Current { ips, awaited: set.awaited.clone() }));
    }

    /// Whether addresses of this family are relayed from, or will be.
    pub(crate) fn offers(&self, family: Family) -> bool {
        let current = self.current.load();
        let has_one =
            |entry: &IpPorts| entry.serves != Serves::Nobody && Family::of(&entry.ip.local) == family;
        current.awaited.contains(&family) || current.ips.iter().any(has_one)
    }

    /// Takes a port: on the address the client talks to if that is a relay address, else on a random one
    /// of the family, and on the others when that one has none left.
    /// Ports that other programs were found to have count as taken, until `now_ns` is late enough to try again; that
    /// is earlier when there are no others.
    pub(crate) fn take_port(&self, wanted: PortWish, random: [u32; 2], now_ns: u64) -> Option<TakenPort> {
        let current = self.current.load();
        let count = current.ips.len();
        let offset = random[0] as usize % count.max(1);
        let by_preference = |same_address: bool| {
            (0..count).map(move |i| (i + offset) % count).map(|i| &current.ips[i]).filter(move |entry| {
                let local = entry.ip.local;
                let serves = match entry.serves {
                    Serves::Everybody => true,
                    Serves::Near => same_address,
                    Serves::Nobody => false,
                };
                serves && Family::of(&local) == wanted.family && (local == wanted.near) == same_address
            })
        };
        let take = |entry: &IpPorts, now_ns| {
            let local = entry.ip.local;
            entry.ports.retry_foreign(now_ns);
            if wanted.pair {
                let (lease, sibling) = entry.ports.take_pair(random[1])?;
                return Some(TakenPort { relay: local, lease, sibling: Some(sibling) });
            }
            let lease = entry.ports.take(wanted.parity, random[1])?;
            Some(TakenPort { relay: local, lease, sibling: None })
        };
        let all = || by_preference(true).chain(by_preference(false));
        let sooner_ns = u64::from(FOREIGN_PORT_SECS - FOREIGN_PORT_EXHAUSTED_SECS) * SECOND_NS;
        all()
            .find_map(|entry| take(entry, now_ns))
            .or_else(|| all().find_map(|entry| take(entry, now_ns + sooner_ns)))
    }

    /// Takes a port that was held before, by another process; `None` if its address is not relayed from now, or the
    /// port is not among those that are.
    pub(crate) fn claim_port(&self, relay: IpAddr, port: u16) -> Option<PortLease> {
        let current = self.current.load();
        let mut serving = current.ips.iter().filter(|entry| entry.serves != Serves::Nobody);
        serving.find(|entry| entry.ip.local == relay)?.ports.claim_port(port)
    }

    /// Ports of each address that other programs have.
    pub(crate) fn foreign_ports(&self) -> Vec<(IpAddr, Vec<(u64, u16)>)> {
        let current = self.current.load();
        current.ips.iter().map(|entry| (entry.ip.local, entry.ports.foreign_ports())).collect()
    }

    /// Whether an address and port, as sockets see it, may be a relayed transport address.
    pub(crate) fn is_relayed(&self, peer: PeerAddr) -> bool {
        self.ports.contains(&peer.port())
            && self.current.load().ips.iter().any(|entry| entry.ip.local == peer.ip())
    }

    /// Whether it is one of that transport at this moment: a socket of ours is bound to it. Other programs' ports in the same range,
    /// and ports that are only reserved, are none.
    pub(crate) fn is_open(&self, transport: RelayedTransport, ip: IpAddr, port: u16) -> bool {
        let current = self.current.load();
        let mut ips = current.ips.iter();
        ips.any(|entry| entry.has(ip) && entry.ports.is_open(transport, port))
    }

    /// The local address that an address of ours stands for: itself, or the one that a NAT maps it to.
    pub(crate) fn local_of(&self, ip: IpAddr) -> Option<IpAddr> {
        let current = self.current.load();
        let public = current.ips.iter().find(|entry| entry.ip.external == Some(ip));
        let own = public.or_else(|| current.ips.iter().find(|entry| entry.ip.local == ip));
        own.map(|entry| entry.ip.local)
    }

    /// The public address in front of a local one, if there is another one.
    pub(crate) fn public_of(&self, ip: IpAddr) -> Option<IpAddr> {
        let current = self.current.load();
        current.ips.iter().find(|entry| entry.ip.local == ip)?.ip.external
    }

    /// What has become of the ports of a family's addresses that are relayed from: held by us, by other programs,
    /// and all of them.
    pub(crate) fn ports_of(&self, family: Family) -> [usize; 3] {
        let current = self.current.load();
        let serving = current.ips.iter().filter(|entry| entry.serves != Serves::Nobody);
        let of_family = serving.filter(|entry| Family::of(&entry.ip.local) == family);
        of_family.fold([0; 3], |[held, foreign, all], entry| {
            let ports = &entry.ports;
            [held + ports.taken(), foreign + ports.foreign(), all + ports.capacity()]
        })
    }

    /// Ports taken on each address, in its local form.
    pub(crate) fn ports_used(&self) -> Vec<(IpAddr, usize)> {
        let current = self.current.load();
        current.ips.iter().map(|entry| (entry.ip.local, entry.ports.taken())).collect()
    }

    /// A peer's address as our own sockets see it. Our public addresses become local ones, whatever the port:
    /// the NAT in front of us need not let us reach them from inside.
    pub(crate) fn to_local(&self, peer: SocketAddr) -> PeerAddr {
        PeerAddr(SocketAddr::new(self.local_of(peer.ip()).unwrap_or(peer.ip()), peer.port()))
    }

    /// How clients are told of a peer on an address of ours; any other stays as it is.
    pub(crate) fn to_public(&self, peer: PeerAddr) -> SocketAddr {
        SocketAddr::new(self.public_of(peer.ip()).unwrap_or(peer.ip()), peer.port())
    }
}

impl IpPorts {
    fn has(&self, ip: IpAddr) -> bool {
        self.ip.local == ip || self.ip.external == Some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: RangeInclusive<u16> = 50_000..=50_003;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an IP")
    }

    fn relay(local: &str) -> RelayIp {
        RelayIp { local: ip(local), external: None }
    }

    fn set(general: &[&str], near: &[&str]) -> RelayIps {
        let all = |list: &[&str]| list.iter().map(|local| relay(local)).collect();
        RelayIps { general: all(general), near: all(near), awaited: vec![] }
    }

    fn take(relays: &RelayPorts, near: &str) -> Option<TakenPort> {
        let wish = PortWish { family: Family::V4, parity: Parity::Any, pair: false, near: ip(near) };
        relays.take_port(wish, [7, 9], 0)
    }

    #[test]
    fn an_address_that_comes_back_has_the_ports_that_are_still_held() {
        let relays = RelayPorts::new(&set(&["192.0.2.1"], &[]), PORTS);
        let held = take(&relays, "192.0.2.1").expect("free");
        relays.replace(&set(&["192.0.2.2"], &[]));
        assert_eq!(take(&relays, "192.0.2.1").expect("free").relay, ip("192.0.2.2"), "the other one is gone");
        for _ in 0..3 {
            relays.replace(&set(&["192.0.2.2"], &[]));
        }
        assert!(relays.is_relayed(PeerAddr(SocketAddr::new(held.relay, held.lease.port()))));
        relays.replace(&set(&["192.0.2.1"], &[]));
        let rest: Vec<_> = std::iter::from_fn(|| take(&relays, "192.0.2.1")).collect();
        assert_eq!(rest.len(), 3, "the fourth port is still held");
        assert!(rest.iter().all(|taken| taken.lease.port() != held.lease.port()));
    }

    #[test]
    fn a_port_of_others_is_tried_sooner_when_no_other_is_left() {
        let relays = RelayPorts::new(&set(&["192.0.2.1"], &[]), PORTS);
        let until_ns = u64::from(FOREIGN_PORT_SECS) * SECOND_NS;
        let foreign = take(&relays, "192.0.2.1").expect("free").lease;
        let port = foreign.port();
        foreign.leave_to_others(until_ns);
        let wish = PortWish { family: Family::V4, parity: Parity::Any, pair: false, near: ip("192.0.2.1") };
        let take_at = |now_ns| relays.take_port(wish, [7, 9], now_ns).map(|taken| taken.lease);
        let others: Vec<_> = (0..3).filter_map(|_| take_at(until_ns - 1)).collect();
        assert!(others.len() == 3 && others.iter().all(|lease| lease.port() != port));
        let sooner_ns = u64::from(FOREIGN_PORT_EXHAUSTED_SECS) * SECOND_NS;
        assert!(take_at(sooner_ns - 1).is_none());
        assert_eq!(take_at(sooner_ns).expect("tried again").port(), port);
    }

    #[test]
    fn an_address_without_ports_is_forgotten_after_it_has_gone() {
        let relays = RelayPorts::new(&set(&["192.0.2.1"], &[]), PORTS);
        for day in 2..200 {
            relays.replace(&set(&[&format!("192.0.2.{day}")], &[]));
        }
        assert!(relays.ports_used().len() <= 3, "{:?}", relays.ports_used());
    }

    #[test]
    fn an_awaited_family_is_offered_without_an_address() {
        let relays =
            RelayPorts::new(&RelayIps { awaited: vec![Family::V6], ..set(&["192.0.2.1"], &[]) }, PORTS);
        assert!(relays.offers(Family::V6) && relays.offers(Family::V4));
        relays.replace(&RelayIps::default());
        assert!(!relays.offers(Family::V6) && !relays.offers(Family::V4));
        assert!(take(&relays, "192.0.2.1").is_none());
    }

    #[test]
    fn addresses_of_other_networks_are_for_those_who_talk_to_them() {
        let relays = RelayPorts::new(&set(&["192.0.2.1"], &["198.51.100.1"]), PORTS);
        for _ in 0..4 {
            assert_eq!(take(&relays, "203.0.113.1").map(|taken| taken.relay), Some(ip("192.0.2.1")));
            assert_eq!(take(&relays, "198.51.100.1").map(|taken| taken.relay), Some(ip("198.51.100.1")));
        }
    }

    #[test]
    fn only_a_bound_port_is_open() {
        let relays = RelayPorts::new(&set(&["192.0.2.1"], &[]), PORTS);
        let taken = take(&relays, "192.0.2.1").expect("free");
        let port = taken.lease.port();
        let is_open = |ip, port| relays.is_open(RelayedTransport::Udp, ip, port);
        assert!(!is_open(taken.relay, port), "reserved only");
        taken.lease.set_open(Some(RelayedTransport::Tcp));
        assert!(!is_open(taken.relay, port), "for connections only");
        assert!(relays.is_open(RelayedTransport::Tcp, taken.relay, port));
        taken.lease.set_open(Some(RelayedTransport::Udp));
        assert!(!relays.is_open(RelayedTransport::Tcp, taken.relay, port));
        assert!((50_000..=50_003).filter(|port| is_open(taken.relay, *port)).eq([port]));
        assert!(!is_open(taken.relay, 22) && !is_open(ip("192.0.2.2"), port));
        drop(taken);
        assert!(!is_open(ip("192.0.2.1"), port));
    }
}
