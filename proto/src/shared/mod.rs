//! What all workers have in common: relay addresses and their ports, quotas, reservations,
//! users, nonces and the peer policy.
//!
//! Touched by control messages only, never by data. Each part can be used from any worker;
//! what is taken from it comes back by dropping the lease.

pub(crate) mod addresses;
mod directory;
pub(crate) mod limiter;
mod migrate;
pub mod plane;
pub(crate) mod ports;
pub mod quota;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use self::addresses::{PortWish, RelayIps, RelayPorts, TakenPort};
use self::directory::Directory;
use self::limiter::Limiter;
use self::plane::Plane;
use self::ports::PortLease;
use self::quota::Quotas;
use crate::addr::{Family, PeerAddr, RelayedAddr, RelayedTransport};
use crate::auth::Authenticator;
use crate::io::ReservedPort;
use crate::limits::{MAX_RESERVATIONS, MAX_RESERVATIONS_PER_USER};
use crate::policy::{PeerPolicy, PeerRules, Refused};
use crate::settings::{ServerConfig, Settings};

/// What the operator allows one user, other than everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserLimits {
    /// Allocations at once; 0 is no limit, `None` what everybody has.
    pub quota: Option<u32>,
    /// Bandwidth limit of each of the user's allocations and directions, bits of payload per second; 0 is no
    /// limit, `None` what everybody has.
    pub bitrate_bits: Option<u64>,
}

/// Servers that clients are sent to while this one takes no new allocations.
#[derive(Clone, Copy, Debug, Default)]
struct Alternates {
    v4: Option<SocketAddr>,
    v6: Option<SocketAddr>,
}

/// The state that workers share.
pub struct Shared {
    /// The operator's decisions.
    pub config: ServerConfig,
    /// Users, secrets, nonces.
    pub auth: Authenticator,
    policy: ArcSwap<PeerPolicy>,
    relays: RelayPorts,
    relay_ports: RangeInclusive<u16>,
    /// Allocations per user and in total.
    pub quotas: Arc<Quotas>,
    pub(crate) limiter: Limiter,
    pub(crate) reservations: Reservations,
    pub(crate) directory: Directory,
    plane: Option<Arc<Plane>>,
    user_limits: ArcSwap<HashMap<Arc<str>, UserLimits>>,
    alternates: ArcSwap<Alternates>,
}

impl Shared {
    /// The state of a server as its operator wants it; each worker makes a [`Server`](crate::Server) of it.
    pub fn new(settings: Settings) -> Arc<Self> {
        let Settings { config, relay_ports, seed, .. } = settings;
        let auth = Authenticator::new(settings.credentials, settings.strict_credential_expiry, seed);
        let policy = PeerPolicy::of(&settings.peers, &settings.relays, &relay_ports);
        let limiter = Limiter::new(auth.derive_key(b"turnpike limiter key"), config.unauthenticated_per_sec);
        let seed = auth.derive_key(b"turnpike directory key");
        let seed = u64::from_ne_bytes(*seed.first_chunk().expect("a key has more than eight bytes"));
        Arc::new(Self {
            config,
            auth,
            policy: ArcSwap::from_pointee(policy),
            relays: RelayPorts::new(&settings.relays, relay_ports.clone()),
            relay_ports,
            quotas: Quotas::new(settings.user_quota, settings.total_quota),
            limiter,
            reservations: Reservations::default(),
            directory: Directory::new(seed),
            plane: settings.plane,
            user_limits: ArcSwap::default(),
            alternates: ArcSwap::default(),
        })
    }

    /// The slots shared with the kernel program, if there is one.
    pub fn plane(&self) -> Option<&Arc<Plane>> {
        self.plane.as_ref()
    }

    /// Replaces all users' own limits, by the name that quotas go by; they hold for the allocations made from
    /// now on.
    pub fn set_user_limits(&self, limits: HashMap<Arc<str>, UserLimits>) {
        self.user_limits.store(Arc::new(limits));
    }

    pub(crate) fn user_limits(&self, quota_user: &str) -> UserLimits {
        self.user_limits.load().get(quota_user).copied().unwrap_or_default()
    }

    /// Names the server that clients of that address family are sent to while this one drains; `None` takes
    /// those of both families away.
    pub fn set_alternate(&self, server: Option<SocketAddr>) {
        let old = *self.alternates.load_full();
        self.alternates.store(Arc::new(match server {
            Some(SocketAddr::V4(_)) => Alternates { v4: server, ..old },
            Some(SocketAddr::V6(_)) => Alternates { v6: server, ..old },
            None => Alternates::default(),
        }));
    }

    /// The alternate server for a client: of its address family (RFC 8489 s. 10).
    pub(crate) fn alternate(&self, client: IpAddr) -> Option<SocketAddr> {
        let alternates = self.alternates.load();
        if client.is_ipv4() { alternates.v4 } else { alternates.v6 }
    }

    /// 5-tuples that some worker has an allocation for.
    pub fn directory_len(&self) -> usize {
        self.directory.len()
    }

    /// Relays from these addresses, to the peers that these rules allow, from now on; each worker has to be told by
    /// `Input::PolicyChanged`. What lives on other addresses goes on there until it ends, and comes to life again
    /// with them.
    pub fn set_network(&self, relays: &RelayIps, peers: &PeerRules) {
        // First the policy: it closes what is new.
        self.policy.store(Arc::new(PeerPolicy::of(peers, relays, &self.relay_ports)));
        self.relays.replace(relays);
    }

    /// Whether a peer's address, as sockets see it, is one that we relay from.
    pub(crate) fn is_relayed(&self, peer: PeerAddr) -> bool {
        self.relays.is_relayed(peer)
    }

    /// [`Shared::to_public`] for an address without a port.
    pub(crate) fn to_public_ip(&self, ip: IpAddr) -> IpAddr {
        self.relays.public_of(ip).unwrap_or(ip)
    }

    /// The peer policy in force.
    pub fn policy(&self) -> Arc<PeerPolicy> {
        self.policy.load_full()
    }

    /// Asks the policy in force about one destination. Of our own addresses, both forms count: what is allowed in
    /// one of them is allowed in the other, unless the operator denies either.
    ///
    /// For the data path, too, where taking a share of the policy for each packet would make the workers fight
    /// over its count.
    ///
    /// # Errors
    /// [`Refused`], with the option that would allow it.
    pub fn check_peer(&self, peer: PeerAddr) -> Result<(), Refused> {
        self.check_both_forms(peer, |ip, port| self.relays.is_open(RelayedTransport::Udp, ip, port))
    }

    /// The same about a connection with a peer (RFC 6062): a relayed address of ours has to relay TCP.
    ///
    /// # Errors
    /// As [`Shared::check_peer`].
    pub(crate) fn check_tcp_peer(&self, peer: PeerAddr) -> Result<(), Refused> {
        self.check_both_forms(peer, |ip, port| self.relays.is_open(RelayedTransport::Tcp, ip, port))
    }

    /// Whether the policy alone allows it: of our relayed addresses also those that have no allocation just now.
    pub fn may_be_peer(&self, peer: PeerAddr) -> bool {
        self.check_both_forms(peer, |_, _| true).is_ok()
    }

    fn check_both_forms(
        &self,
        peer: PeerAddr,
        is_open: impl Fn(IpAddr, u16) -> bool + Copy,
    ) -> Result<(), Refused> {
        let policy = self.policy.load();
        let local = policy.check(peer.0, is_open);
        let Some(public) = self.relays.public_of(peer.ip()) else { return local };
        match (local, policy.check(SocketAddr::new(public, peer.port()), is_open)) {
            // Without a remedy nothing may open it: a listener, or the operator's own wish.
            (Err(Refused { remedy: None }), _) | (_, Err(Refused { remedy: None })) => {
                Err(Refused { remedy: None })
            }
            (Ok(()), _) | (_, Ok(())) => Ok(()),
            (refused, _) => refused,
        }
    }

    /// Whether a permission may be made for a peer, as the client names it: the policy's answer for every port of
    /// its address, for that is what a permission holds for (RFC 8656 s. 9).
    ///
    /// Our own relay addresses pass, for other clients are there. A port that can't be theirs is asked about on its
    /// own: a permission for what no data could reach would be a promise without effect.
    ///
    /// # Errors
    /// [`Refused`], with the option that would allow it.
    pub(crate) fn check_permission(&self, peer: SocketAddr) -> Result<(), Refused> {
        let is_own = self.relays.local_of(peer.ip()).is_some();
        if is_own && peer.port() != 0 && !self.relay_ports.contains(&peer.port()) {
            return self.check_peer(self.to_local(peer));
        }
        self.policy.load().check_ip(peer.ip())
    }

    pub(crate) fn permits(&self, peer: PeerAddr) -> bool {
        self.check_peer(peer).is_ok()
    }

    /// Changes the rate of answers to each source that has not authenticated; 0 lifts this limit and that of
    /// Binding.
    pub fn set_unauthenticated_rate(&self, per_sec: u32) {
        self.limiter.set_unauthenticated_rate(per_sec);
    }

    /// Relay ports taken on all addresses: 0 when there is neither allocation nor reservation.
    pub fn ports_taken(&self) -> usize {
        self.relays.ports_used().iter().map(|(_, used)| used).sum()
    }

    /// The same for each relay address, in its local form.
    pub fn ports_used(&self) -> Vec<(IpAddr, usize)> {
        self.relays.ports_used()
    }

    /// Ports reserved for a RESERVATION-TOKEN that has not come yet.
    pub fn reservations(&self) -> usize {
        self.reservations.lock().by_token.len()
    }

    /// Whether addresses of this family are relayed from here.
    pub fn offers(&self, family: Family) -> bool {
        self.relays.offers(family)
    }

    /// Takes a port that another process has had; see [`RelayPorts::claim_port`].
    pub(crate) fn claim_port(&self, relay: IpAddr, port: u16) -> Option<PortLease> {
        self.relays.claim_port(relay, port)
    }

    /// Takes a port; see [`RelayPorts::take_port`].
    pub(crate) fn take_port(&self, wanted: PortWish, random: [u32; 2], now_ns: u64) -> Option<TakenPort> {
        self.relays.take_port(wanted, random, now_ns)
    }

    /// See [`RelayPorts::ports_of`].
    pub(crate) fn ports_of(&self, family: Family) -> [usize; 3] {
        self.relays.ports_of(family)
    }

    /// A peer's address as our own sockets see it.
    pub fn to_local(&self, peer: SocketAddr) -> PeerAddr {
        self.relays.to_local(peer)
    }

    /// [`Shared::to_local`] for a permission, which holds for all ports of an address.
    pub(crate) fn to_local_ip(&self, ip: IpAddr) -> IpAddr {
        self.relays.local_of(ip).unwrap_or(ip)
    }

    /// How clients are told of a peer on one of our own addresses; any other stays as it is.
    pub(crate) fn to_public(&self, peer: PeerAddr) -> SocketAddr {
        self.relays.to_public(peer)
    }

    /// The relayed transport address that clients are told.
    pub(crate) fn relayed_to_public(&self, relayed: RelayedAddr) -> SocketAddr {
        self.to_public(PeerAddr(relayed.0))
    }
}

/// Ports held for the owners of RESERVATION-TOKENs. They are often redeemed from another 5-tuple,
/// so on another worker than the one that made them.
#[derive(Debug, Default)]
pub(crate) struct Reservations(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    by_token: HashMap<[u8; 8], Reservation>,
    by_user: HashMap<Arc<str>, usize>,
}

impl Reservation {
    /// The port, to be given back.
    pub(crate) fn into_port(self) -> ReservedPort {
        ReservedPort { address: self.address(), _lease: self.lease }
    }

    /// What the socket that keeps it is bound to.
    fn address(&self) -> RelayedAddr {
        RelayedAddr(SocketAddr::new(self.relay, self.lease.port()))
    }
}

/// A port that waits for its token.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// The address, in its local form.
    pub(crate) relay: IpAddr,
    pub(crate) lease: PortLease,
    pub(crate) user: Arc<str>,
    pub(crate) expires_ns: u64,
}

impl Reservations {
    /// Holds a port; `false` if the user, or the server, holds too many already.
    pub(crate) fn hold(&self, token: [u8; 8], reservation: Reservation) -> bool {
        let mut held = self.lock();
        let mine = held.by_user.get(&reservation.user).copied().unwrap_or(0);
        if held.by_token.len() >= MAX_RESERVATIONS || mine >= MAX_RESERVATIONS_PER_USER {
            return false;
        }
        held.by_user.insert(Arc::clone(&reservation.user), mine + 1);
        held.by_token.insert(token, reservation);
        true
    }

    /// Whether a port is held for this token.
    pub(crate) fn has(&self, token: [u8; 8]) -> bool {
        self.lock().by_token.contains_key(&token)
    }

    /// Redeems a token: once, in time, and only for the user it was given to (conformance A4, Q9).
    pub(crate) fn redeem(&self, token: [u8; 8], user: &Arc<str>, now_ns: u64) -> Option<Reservation> {
        let mut held = self.lock();
        let reservation = held.by_token.get(&token)?;
        if reservation.user != *user || reservation.expires_ns <= now_ns {
            return None;
        }
        held.take(token)
    }

    /// Takes a port back that nobody asked for in time, or whose allocation failed, if it is still held.
    pub(crate) fn take(&self, token: [u8; 8]) -> Option<Reservation> {
        self.lock().take(token)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn take(&mut self, token: [u8; 8]) -> Option<Reservation> {
        let reservation = self.by_token.remove(&token)?;
        if let Some(count) = self.by_user.get_mut(&reservation.user) {
            *count -= 1;
            if *count == 0 {
                self.by_user.remove(&reservation.user);
            }
        }
        Some(reservation)
    }
}
