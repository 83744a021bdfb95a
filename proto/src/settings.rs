//! What the operator decides, each thing once: all that a relay is made of.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::auth::Credentials;
use crate::limits;
use crate::policy::PeerRules;
use crate::shared::plane::Plane;

pub use crate::shared::addresses::{RelayIp, RelayIps};

/// What [`Shared`](crate::shared::Shared) is made from: who may come, what is relayed from, whom it may reach.
pub struct Settings {
    /// How requests are answered.
    pub config: ServerConfig,
    /// Who may come, and the realm that they log in to.
    pub credentials: Credentials,
    /// A REST credential's expiry ends its allocations too, else only new ones are refused.
    pub strict_credential_expiry: bool,
    /// The addresses that are relayed from.
    pub relays: RelayIps,
    /// The ports of relayed transport addresses, the same on each address.
    pub relay_ports: RangeInclusive<u16>,
    /// Which peers may be reached.
    pub peers: PeerRules,
    /// Allocations that one user may have at once; 0 is no limit.
    pub user_quota: u32,
    /// Allocations that all users together may have at once; 0 is no limit.
    pub total_quota: u32,
    /// The memory of a kernel program, if there is one: channels are offloaded then.
    pub plane: Option<Arc<Plane>>,
    /// Must come from a CSPRNG and stay secret: whoever knows it can make nonces.
    pub seed: [u8; 32],
}

impl Settings {
    /// The defaults: the ports that RFC 8656 s. 7.2 recommends, the default peer rules, no quotas. Nothing is
    /// relayed before there are `relays`, and the host isn't protected before `peers` names its addresses.
    pub fn new(credentials: Credentials, seed: [u8; 32]) -> Self {
        Self {
            config: ServerConfig::default(),
            credentials,
            strict_credential_expiry: false,
            relays: RelayIps::default(),
            relay_ports: 49_152..=65_535,
            peers: PeerRules::default(),
            user_quota: 0,
            total_quota: 0,
            plane: None,
            seed,
        }
    }

    /// Adds a listener that clients come to: they are relayed from its IP address, and nobody may reach it as a peer.
    pub fn serve_at(&mut self, listener: SocketAddr) {
        self.relays.general.push(listener.ip().into());
        self.peers.listeners.push(listener);
    }
}

/// Which family is relayed when a request names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultFamily {
    /// IPv4, also for IPv6 clients: what RFC 8656 s. 7.2 asks for.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
    /// The family the client is using.
    Keep,
}

/// What the operator decides about the server's behaviour.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Which family is relayed when a request names none.
    pub default_family: DefaultFamily,
    /// The longest lifetime that is granted, seconds; at least 600 (RFC 8656 s. 7.2).
    pub max_lifetime_secs: u32,
    /// Accept RFC 5766's channel numbers, up to 0x7FFF, for old clients.
    pub rfc5766_channels: bool,
    /// Relay TCP, too, for clients that ask for it (RFC 6062).
    pub tcp_relay: bool,
    /// Tell clients of ICMP errors about their peers (RFC 8656 s. 11.5). Some clients can't bear that: pion/turn stops
    /// reading at the first.
    pub icmp_errors: bool,
    /// SOFTWARE in authenticated success answers, or none.
    pub software: Option<String>,
    /// Bandwidth limit of each allocation and direction, bits of payload per second; 0 is none.
    pub max_bitrate_bits: u64,
    /// How much may be sent at once under the limit, milliseconds' worth.
    pub burst_ms: u32,
    /// Answers per second to each source that has not authenticated; 0 lifts this limit and that of Binding.
    pub unauthenticated_per_sec: u32,
    /// Permissions that one allocation may have; at most [`MOST_PER_ALLOCATION`](crate::limits::MOST_PER_ALLOCATION).
    pub max_permissions: usize,
    /// Channels that one allocation may have; at most [`MOST_PER_ALLOCATION`](crate::limits::MOST_PER_ALLOCATION).
    pub max_channels: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            default_family: DefaultFamily::Ipv4,
            max_lifetime_secs: limits::MAX_LIFETIME_SECS,
            rfc5766_channels: false,
            tcp_relay: false,
            icmp_errors: false,
            software: Some("Turnpike".into()),
            max_bitrate_bits: 0,
            burst_ms: 100,
            unauthenticated_per_sec: limits::UNAUTHENTICATED_PER_SEC,
            max_permissions: limits::MAX_PERMISSIONS,
            max_channels: limits::MAX_CHANNELS,
        }
    }
}
