//! The addresses that are relayed from: they come, change and go with the host's network while allocations live.
//!
//! An address keeps its ports for as long as any is held, also while it is gone: an allocation is never moved, and
//! a port never given away twice. Read on the data path, replaced by the operator's side of the relay.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::addr::{Family, PeerAddr};
use crate::shared::ports::{Parity, PortLease, PortPool};

/// An address that is relayed from, and how clients and peers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// The address that sockets are bound to.
    pub local: IpAddr,
    /// The address that clients are told, if another one (a NAT is in front of us).
    pub external: Option<IpAddr>,
}

impl From<IpAddr> for RelayAddress {
    /// An address that clients can reach as it is.
    fn from(local: IpAddr) -> Self {
        Self { local, external: None }
    }
}

/// What may be relayed from at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelaySet {
    /// For every client: the one that the client talks to first, else a random one.
    pub general: Vec<RelayAddress>,
    /// Only for clients that talk to this very address: those of a host's other networks.
    pub near: Vec<RelayAddress>,
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

#[derive(Clone, Debug)]
struct Relay {
    address: RelayAddress,
    ports: Arc<PortPool>,
    serves: Serves,
}

#[derive(Debug, Default)]
struct Current {
    relays: Vec<Relay>,
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

/// The relay addresses with their ports.
#[derive(Debug)]
pub(crate) struct Relays {
    current: ArcSwap<Current>,
    ports: RangeInclusive<u16>,
}

impl Relays {
    /// All addresses have all ports of `ports`.
    pub(crate) fn new(set: &RelaySet, ports: RangeInclusive<u16>) -> Self {
        let relays = Self { current: ArcSwap::default(), ports };
        relays.replace(set);
        relays
    }

    /// Puts other addresses in force. One that was there before, or comes back, goes on with its ports.
    pub(crate) fn replace(&self, set: &RelaySet) {
        let old = self.current.load_full();
        let wanted = (set.general.iter().map(|address| (address, Serves::Everybody)))
            .chain(set.near.iter().map(|address| (address, Serves::Near)));
        let mut relays: Vec<Relay> = Vec::new();
        for (&address, serves) in wanted {
            if relays.iter().any(|relay| relay.address.local == address.local) {
                continue;
            }
            let before = old.relays.iter().find(|relay| relay.address.local == address.local);
            let ports =
                before.map_or_else(|| PortPool::new(self.ports.clone()), |relay| Arc::clone(&relay.ports));
            relays.push(Relay { address, ports, serves });
        }
        for relay in &old.relays {
            let is_back = relays.iter().any(|new| new.address.local == relay.address.local);
            // A worker may be taking a port at this moment: an address is forgotten at the change after the next.
            let is_held = relay.serves != Serves::Nobody || relay.ports.taken() > 0;
            if !is_back && is_held {
                relays.push(Relay { serves: Serves::Nobody, ..relay.clone() });
            }
        }
        self.current.store(Arc::new(Current { relays, awaited: set.awaited.clone() }));
    }

    /// Whether addresses of this family are relayed from, or will be.
    pub(crate) fn offers(&self, family: Family) -> bool {
        let current = self.current.load();
        let has_one =
            |relay: &Relay| relay.serves != Serves::Nobody && Family::of(&relay.address.local) == family;
        current.awaited.contains(&family) || current.relays.iter().any(has_one)
    }

    /// Takes a port: on the address the client talks to if that is a relay address, else on a random one
    /// of the family, and on the others when that one has none left.
    /// Ports that other programs were found to have count as taken, until `now_ns` is late enough to try again.
    pub(crate) fn take_port(&self, wanted: PortWish, random: [u32; 2], now_ns: u64) -> Option<TakenPort> {
        let current = self.current.load();
        let count = current.relays.len();
        let offset = random[0] as usize % count.max(1);
        let by_preference = |same_address: bool| {
            (0..count).map(move |i| (i + offset) % count).map(|i| &current.relays[i]).filter(move |relay| {
                let local = relay.address.local;
                let serves = match relay.serves {
                    Serves::Everybody => true,
                    Serves::Near => same_address,
                    Serves::Nobody => false,
                };
                serves && Family::of(&local) == wanted.family && (local == wanted.near) == same_address
            })
        };
        by_preference(true).chain(by_preference(false)).find_map(|relay| {
            let local = relay.address.local;
            relay.ports.retry_foreign(now_ns);
            if wanted.pair {
                let (lease, sibling) = relay.ports.take_pair(random[1])?;
                return Some(TakenPort { relay: local, lease, sibling: Some(sibling) });
            }
            let lease = relay.ports.take(wanted.parity, random[1])?;
            Some(TakenPort { relay: local, lease, sibling: None })
        })
    }

    /// Whether an address and port, as sockets see it, may be a relayed transport address.
    pub(crate) fn is_relayed(&self, peer: PeerAddr) -> bool {
        self.ports.contains(&peer.port())
            && self.current.load().relays.iter().any(|relay| relay.address.local == peer.ip())
    }

    /// Whether it is one at this moment: a socket of ours is bound to it. Other programs' ports in the same range,
    /// and ports that are only reserved, are none.
    pub(crate) fn is_open(&self, ip: IpAddr, port: u16) -> bool {
        let current = self.current.load();
        let mut relays = current.relays.iter();
        relays.any(|relay| relay.has(ip) && relay.ports.is_open(port))
    }

    /// The local address that an address of ours stands for: itself, or the one that a NAT maps it to.
    pub(crate) fn local_of(&self, ip: IpAddr) -> Option<IpAddr> {
        let current = self.current.load();
        let public = current.relays.iter().find(|relay| relay.address.external == Some(ip));
        let own = public.or_else(|| current.relays.iter().find(|relay| relay.address.local == ip));
        own.map(|relay| relay.address.local)
    }

    /// The public address in front of a local one, if there is another one.
    pub(crate) fn public_of(&self, ip: IpAddr) -> Option<IpAddr> {
        let current = self.current.load();
        current.relays.iter().find(|relay| relay.address.local == ip)?.address.external
    }

    /// What has become of the ports of a family's addresses that are relayed from: held by us, by other programs,
    /// and all of them.
    pub(crate) fn ports_of(&self, family: Family) -> [usize; 3] {
        let current = self.current.load();
        let serving = current.relays.iter().filter(|relay| relay.serves != Serves::Nobody);
        let of_family = serving.filter(|relay| Family::of(&relay.address.local) == family);
        of_family.fold([0; 3], |[held, foreign, all], relay| {
            let ports = &relay.ports;
            [held + ports.taken(), foreign + ports.foreign(), all + ports.capacity()]
        })
    }

    /// Ports taken on each address, in its local form.
    pub(crate) fn ports_used(&self) -> Vec<(IpAddr, usize)> {
        let current = self.current.load();
        current.relays.iter().map(|relay| (relay.address.local, relay.ports.taken())).collect()
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

impl Relay {
    fn has(&self, ip: IpAddr) -> bool {
        self.address.local == ip || self.address.external == Some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: RangeInclusive<u16> = 50_000..=50_003;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an IP")
    }

    fn relay(local: &str) -> RelayAddress {
        RelayAddress { local: ip(local), external: None }
    }

    fn set(general: &[&str], near: &[&str]) -> RelaySet {
        let all = |list: &[&str]| list.iter().map(|local| relay(local)).collect();
        RelaySet { general: all(general), near: all(near), awaited: vec![] }
    }

    fn take(relays: &Relays, near: &str) -> Option<TakenPort> {
        let wish = PortWish { family: Family::V4, parity: Parity::Any, pair: false, near: ip(near) };
        relays.take_port(wish, [7, 9], 0)
    }

    #[test]
    fn an_address_that_comes_back_has_the_ports_that_are_still_held() {
        let relays = Relays::new(&set(&["192.0.2.1"], &[]), PORTS);
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
    fn an_address_without_ports_is_forgotten_after_it_has_gone() {
        let relays = Relays::new(&set(&["192.0.2.1"], &[]), PORTS);
        for day in 2..200 {
            relays.replace(&set(&[&format!("192.0.2.{day}")], &[]));
        }
        assert!(relays.ports_used().len() <= 3, "{:?}", relays.ports_used());
    }

    #[test]
    fn an_awaited_family_is_offered_without_an_address() {
        let relays = Relays::new(&RelaySet { awaited: vec![Family::V6], ..set(&["192.0.2.1"], &[]) }, PORTS);
        assert!(relays.offers(Family::V6) && relays.offers(Family::V4));
        relays.replace(&RelaySet::default());
        assert!(!relays.offers(Family::V6) && !relays.offers(Family::V4));
        assert!(take(&relays, "192.0.2.1").is_none());
    }

    #[test]
    fn addresses_of_other_networks_are_for_those_who_talk_to_them() {
        let relays = Relays::new(&set(&["192.0.2.1"], &["198.51.100.1"]), PORTS);
        for _ in 0..4 {
            assert_eq!(take(&relays, "203.0.113.1").map(|taken| taken.relay), Some(ip("192.0.2.1")));
            assert_eq!(take(&relays, "198.51.100.1").map(|taken| taken.relay), Some(ip("198.51.100.1")));
        }
    }

    #[test]
    fn only_a_bound_port_is_open() {
        let relays = Relays::new(&set(&["192.0.2.1"], &[]), PORTS);
        let taken = take(&relays, "192.0.2.1").expect("free");
        let port = taken.lease.port();
        assert!(!relays.is_open(taken.relay, port), "reserved only");
        taken.lease.set_open(true);
        assert!(relays.is_open(taken.relay, port));
        assert!((50_000..=50_003).filter(|port| relays.is_open(taken.relay, *port)).eq([port]));
        assert!(!relays.is_open(taken.relay, 22) && !relays.is_open(ip("192.0.2.2"), port));
        drop(taken);
        assert!(!relays.is_open(ip("192.0.2.1"), port));
    }
}
