//! From the configuration to what the core and the administration work on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::TryRngCore;
use rand::rngs::OsRng;
use turnpike_admin::{Scope, Tokens};
use turnpike_proto::Plane;
use turnpike_proto::auth::{BadCredential, Credentials};
use turnpike_proto::policy::PeerRules;
use turnpike_proto::settings::{DefaultFamily, RelayIps, ServerConfig, Settings};
use turnpike_proto::shared::Shared;

use crate::config::resolve::Addresses;
use crate::config::{self, AdminScope, AdminToken, Config};
use crate::worker::proxied::Proxies;

/// 32 bytes from the operating system's generator.
///
/// # Errors
/// If it has none.
pub fn seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    OsRng.try_fill_bytes(&mut seed).map_err(std::io::Error::other)?;
    Ok(seed)
}

/// The state that workers share. `listeners` are the addresses that sockets are bound to, `plane` the slots
/// of the kernel data path, if there is one.
///
/// # Errors
/// If a user's name or password can't be used.
pub fn shared(
    config: &Config,
    addresses: &Addresses,
    listeners: &[SocketAddr],
    seed: [u8; 32],
    plane: Option<Arc<Plane>>,
) -> Result<Arc<Shared>, BadCredential> {
    let (user_quota, total_quota) = quota_limits(config);
    let shared = Shared::new(Settings {
        config: server_config(config),
        strict_credential_expiry: config.strict_credential_expiry,
        relays: relay_ips(addresses),
        relay_ports: config.port_range.first..=config.port_range.last,
        peers: peer_rules(config, addresses, listeners),
        user_quota,
        total_quota,
        plane,
        ..Settings::new(credentials(config)?, seed)
    });
    set_alternates(&shared, config);
    Ok(shared)
}

/// Users and secrets.
///
/// # Errors
/// If a user's name or password can't be used.
pub fn credentials(config: &Config) -> Result<Credentials, BadCredential> {
    let mut credentials = Credentials::new(&config.realm);
    for user in config.users.iter() {
        credentials.add_user(&user.name, user.password.expose())?;
    }
    for secret in config.auth_secrets.iter() {
        credentials.add_secret(secret.expose().to_owned());
    }
    Ok(credentials)
}

/// What is relayed from.
pub fn relay_ips(addresses: &Addresses) -> RelayIps {
    RelayIps {
        general: addresses.relay.clone(),
        near: addresses.near.clone(),
        awaited: addresses.awaited_families(),
    }
}

/// Which peers may be reached.
pub fn peer_rules(config: &Config, addresses: &Addresses, listeners: &[SocketAddr]) -> PeerRules {
    let mut local_ips = addresses.own.clone();
    local_ips.extend(addresses.relays().map(|relay| relay.local));
    let listeners = listeners.iter().chain(&config.admin);
    PeerRules {
        allow: config.allow_peer.to_vec(),
        deny: config.deny_peer.to_vec(),
        allow_loopback: config.allow_loopback_peers,
        listeners: listeners.flat_map(|listener| expand(*listener, &local_ips)).collect(),
        local_ips,
    }
}

/// Proxies that are trusted to speak for clients.
pub fn proxies(config: &Config) -> Proxies {
    Proxies::new(config.proxy_protocol_from.clone(), config.proxy_protocol_udp)
}

/// Allocations per user and in total; 0 is no limit.
pub fn quota_limits(config: &Config) -> (u32, u32) {
    (config.user_quota.map_or(0, u32::from), config.total_quota.map_or(0, u32::from))
}

/// Answers per second to each source that has not authenticated; 0 is no limit.
pub fn unauthenticated_rate(config: &Config) -> u32 {
    config.unauthenticated_rate.map_or(0, u32::from)
}

/// Where clients go whose allocations are refused while draining.
pub fn set_alternates(shared: &Shared, config: &Config) {
    shared.set_alternate(None);
    for server in &config.alternate_server {
        shared.set_alternate(Some(*server));
    }
}

fn server_config(config: &Config) -> ServerConfig {
    ServerConfig {
        default_family: match config.default_address_family {
            config::DefaultFamily::Ipv4 => DefaultFamily::Ipv4,
            config::DefaultFamily::Ipv6 => DefaultFamily::Ipv6,
            config::DefaultFamily::Keep => DefaultFamily::Keep,
        },
        max_lifetime_secs: config.max_lifetime_secs,
        rfc5766_channels: config.rfc5766_channel_numbers,
        tcp_relay: config.allow_tcp_relay,
        icmp_errors: config.icmp_errors,
        software: config.software.clone(),
        max_bitrate_bits: config.max_bitrate.map_or(0, u64::from),
        burst_ms: u32::try_from(config.burst.as_millis()).unwrap_or(u32::MAX),
        unauthenticated_per_sec: unauthenticated_rate(config),
        max_permissions: config.max_permissions as usize,
        max_channels: config.max_channels as usize,
    }
}

/// Every address that a listener can be reached at.
fn expand(listener: SocketAddr, local_ips: &[IpAddr]) -> Vec<SocketAddr> {
    if !listener.ip().is_unspecified() {
        return vec![listener];
    }
    let same_family = local_ips.iter().filter(|ip| ip.is_ipv4() == listener.is_ipv4());
    same_family.map(|ip| SocketAddr::new(*ip, listener.port())).collect()
}

/// Configured tokens as the administration keeps them: only their hashes.
pub(crate) fn admin_tokens(configured: &[AdminToken]) -> Tokens {
    let mut tokens = Tokens::default();
    for AdminToken { scopes, token } in configured {
        tokens.add(token.expose(), scopes.iter().map(|scope| scope_of(*scope)));
    }
    tokens
}

fn scope_of(scope: AdminScope) -> Scope {
    match scope {
        AdminScope::Metrics => Scope::Metrics,
        AdminScope::Read => Scope::Read,
        AdminScope::Credentials => Scope::Credentials,
        AdminScope::Admin => Scope::Admin,
    }
}
