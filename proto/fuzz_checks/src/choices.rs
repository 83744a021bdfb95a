//! What the operator chose: bits of one number.

use std::net::IpAddr;

use turnpike_proto::auth::Credentials;
use turnpike_proto::policy::PeerRules;
use turnpike_proto::settings::{DefaultFamily, RelayIp, RelayIps, ServerConfig, Settings};

use super::people::{REALM, STATIC_USERS};

/// Few ports, so that they run out.
pub const PORTS: std::ops::RangeInclusive<u16> = 50_001..=50_012;

/// What is relayed from.
pub fn relays(bit: impl Fn(u8) -> bool) -> Vec<RelayIp> {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an IP");
    let mut relays = vec![
        RelayIp { local: ip("192.0.2.1"), external: None },
        RelayIp { local: ip("2001:db8::1"), external: None },
    ];
    if bit(2) {
        relays[0] = RelayIp { local: ip("10.9.9.9"), external: Some(ip("192.0.2.1")) };
    }
    if bit(3) {
        relays.pop();
    }
    relays
}

/// What the operator chose, but for what is relayed from and the kernel's memory.
pub fn settings(bit: impl Fn(u8) -> bool) -> Settings {
    let mut credentials = Credentials::new(REALM);
    for (name, password) in STATIC_USERS {
        credentials.add_user(name, password).expect("good credentials");
    }
    if bit(4) {
        credentials.add_secret("north".to_owned());
    }
    let config = ServerConfig {
        rfc5766_channels: bit(5),
        default_family: if bit(6) { DefaultFamily::Keep } else { DefaultFamily::Ipv4 },
        max_bitrate_bits: if bit(0) { 80_000 } else { 0 },
        icmp_errors: true,
        ..ServerConfig::default()
    };
    let (user_quota, total_quota) = if bit(1) { (2, 3) } else { (0, 0) };
    Settings {
        config,
        strict_credential_expiry: bit(7),
        relay_ports: PORTS,
        peers: peers(false),
        user_quota,
        total_quota,
        ..Settings::new(credentials, [7; 32])
    }
}

/// All of them for everybody.
pub fn relay_ips(relays: &[RelayIp]) -> RelayIps {
    RelayIps { general: relays.to_vec(), ..RelayIps::default() }
}

/// Which peers are allowed.
pub fn peers(strict: bool) -> PeerRules {
    let net = |text: &str| text.parse().expect("a network");
    let deny = [net("198.51.100.8/32"), net("2001:db8:ffff::8/128")];
    let listeners = ["192.0.2.1:3478", "[2001:db8::1]:3478"].map(|text| text.parse().expect("an address"));
    PeerRules {
        deny: if strict { deny.to_vec() } else { vec![] },
        listeners: listeners.to_vec(),
        ..PeerRules::default()
    }
}
