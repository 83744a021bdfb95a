//! What the operator of a laboratory's server has set.

use turnpike_proto::auth::Credentials;
use turnpike_proto::policy::PeerRules;
use turnpike_proto::settings::{RelayIp, RelayIps, ServerConfig, Settings};
use turnpike_proto::shared::Shared;

use super::{REALM, SERVER_V4, SERVER_V6, addr};

/// What the operator of the laboratory's server has set.
pub struct Setup {
    /// What the core takes as it is.
    pub config: ServerConfig,
    /// Addresses to relay with.
    pub relays: Vec<RelayIp>,
    /// First and last relayed port.
    pub ports: (u16, u16),
    /// Names and passwords.
    pub users: Vec<(&'static str, &'static str)>,
    /// Secrets of time-limited credentials.
    pub secrets: Vec<&'static str>,
    /// Networks whose peers are allowed, as CIDR.
    pub allow: Vec<&'static str>,
    /// Networks whose peers are denied, as CIDR.
    pub deny: Vec<&'static str>,
    /// Whether peers may have loopback addresses.
    pub allow_loopback: bool,
    /// Allocations that one user may have; 0 for any number.
    pub user_quota: u32,
    /// Allocations that all together may have; 0 for any number.
    pub total_quota: u32,
    /// Whether the expiry of time-limited credentials ends their allocations, too.
    pub strict_expiry: bool,
    /// Workers.
    pub workers: u16,
    /// Slots of allocations and of bindings in the kernel plane, if there is one.
    pub slots: Option<(usize, usize)>,
}

impl Default for Setup {
    fn default() -> Self {
        let relay = |ip: &str| RelayIp { local: ip.parse().expect("an IP"), external: None };
        Self {
            // All that clients may be told.
            config: ServerConfig { icmp_errors: true, ..ServerConfig::default() },
            relays: vec![relay("192.0.2.1"), relay("2001:db8::1")],
            ports: (49_152, 65_535),
            users: vec![("alice", "wonder"), ("bob", "builder")],
            secrets: vec![],
            // The addresses of documentation are not special to the policy.
            allow: vec![],
            deny: vec![],
            allow_loopback: false,
            user_quota: 0,
            total_quota: 0,
            strict_expiry: false,
            workers: 2,
            slots: None,
        }
    }
}

impl Setup {
    /// The rules for peers that this means.
    pub fn peers(&self) -> PeerRules {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().expect("a CIDR")).collect::<Vec<_>>();
        PeerRules {
            allow: nets(&self.allow),
            deny: nets(&self.deny),
            allow_loopback: self.allow_loopback,
            listeners: vec![addr(SERVER_V4), addr(SERVER_V6)],
            local_ips: vec![],
        }
    }

    /// The addresses to relay from that this means.
    pub fn relay_ips(&self) -> RelayIps {
        RelayIps { general: self.relays.clone(), ..RelayIps::default() }
    }

    /// Puts these relay addresses and peer rules in force on a running server.
    pub fn enforce(&self, shared: &Shared) {
        shared.set_network(&self.relay_ips(), &self.peers());
    }

    /// The credentials that this means.
    pub fn credentials(&self) -> Credentials {
        let mut credentials = Credentials::new(REALM);
        for (name, password) in &self.users {
            credentials.add_user(name, password).expect("good credentials");
        }
        for secret in &self.secrets {
            credentials.add_secret(secret.to_string());
        }
        credentials
    }

    /// All that a server is made of.
    pub fn settings(&self, seed: [u8; 32]) -> Settings {
        Settings {
            config: self.config.clone(),
            strict_credential_expiry: self.strict_expiry,
            relays: self.relay_ips(),
            relay_ports: self.ports.0..=self.ports.1,
            peers: self.peers(),
            user_quota: self.user_quota,
            total_quota: self.total_quota,
            ..Settings::new(self.credentials(), seed)
        }
    }
}
