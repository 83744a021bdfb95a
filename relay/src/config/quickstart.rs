//! `--quickstart`: a relay to try out on this machine and its network, without a configuration.
//!
//! What it changes, each only where nothing was configured:
//! - credentials: one user with a random password, printed on stdout and kept nowhere;
//! - `rfc5766-channel-numbers`: on, since the `turnutils_uclient` that distributions ship needs it;
//! - `allow-peer`: the private networks that this host is attached to, so that two browsers on the same
//!   LAN reach each other even if only one of them uses the relay;
//! - on a host that has only loopback addresses: listener and relay address 127.0.0.1, with
//!   `allow-loopback-peers`;
//! - the administration, on a loopback port that the kernel chooses, with a random token that is printed;
//! - `offload`: off, since a trial attaches nothing to the machine's network interfaces.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand::TryRngCore;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::host::{Host, is_private};
use super::options::Config;
use super::resolve::relay_ips;
use super::settings::Settings;
use super::types::{AdminScope, AdminToken, DEFAULT_PORT, Hidden, Offload, Quickstart, Secret, User};

/// Random bytes in the generated password, and in the generated token.
const PASSWORD_BYTES: usize = 16;

impl Quickstart {
    /// Generates a user and a token.
    ///
    /// # Errors
    /// If the operating system has no random bytes.
    pub fn generate() -> std::io::Result<Self> {
        let user = User { name: "quickstart".to_owned(), password: random_hex()? };
        Ok(Quickstart { generated: Some(Hidden(user)), admin_token: Some(Hidden(random_hex()?)) })
    }

    /// Fills in what isn't configured.
    pub(super) fn apply(&self, config: &mut Config, settings: &Settings) {
        self.apply_on(config, settings, &Host::detect());
    }

    pub(super) fn apply_on(&self, config: &mut Config, settings: &Settings, host: &Host) {
        let mut quickstart = self.clone();
        let configured = ["user", "user-file", "auth-secret", "auth-secret-file"];
        if configured.iter().any(|key| settings.has(key)) {
            quickstart.generated = None;
        } else if let Some(user) = &quickstart.generated {
            config.users.0.push(User::clone(user));
        }
        if settings.has("admin-token") || settings.has("admin-token-file") {
            quickstart.admin_token = None;
        } else if let Some(token) = &quickstart.admin_token {
            let token = Secret::clone(token);
            config.admin_tokens.0.push(AdminToken { scopes: vec![AdminScope::Admin], token });
        }
        config.quickstart = Some(quickstart);
        if !settings.has("admin") {
            config.admin = Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0));
        }
        if !settings.has("rfc5766-channel-numbers") {
            config.rfc5766_channel_numbers = true;
        }
        if !settings.has("offload") {
            config.offload = Offload::Off;
        }
        let only_loopback = host.primary_v4().or(host.primary_v6()).is_none();
        if only_loopback && !settings.has("listen") && !settings.has("relay-address") {
            let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
            config.listen = vec![SocketAddr::new(loopback, DEFAULT_PORT)];
            config.relay_address = vec![loopback];
        }
        allow_neighbours(config, settings, host);
    }
}

/// A secret of hexadecimal digits.
pub(crate) fn random_hex() -> std::io::Result<Secret> {
    let mut bytes = Zeroizing::new([0u8; PASSWORD_BYTES]);
    OsRng.try_fill_bytes(bytes.as_mut()).map_err(std::io::Error::other)?;
    let mut text = Zeroizing::new(String::with_capacity(PASSWORD_BYTES * 2));
    for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        text.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a digit"));
    }
    Ok(Secret::new(text))
}

fn allow_neighbours(config: &mut Config, settings: &Settings, host: &Host) {
    let relay = relay_ips(config, host);
    if relay.iter().any(IpAddr::is_loopback) && !settings.has("allow-loopback-peers") {
        config.allow_loopback_peers = true;
    }
    if settings.has("allow-peer") || settings.has("deny-peer") {
        return;
    }
    let attached = host.addresses.iter().filter(|address| relay.contains(&address.ip));
    config.allow_peer = attached.filter(|address| is_private(address.ip)).map(|a| a.network).collect();
}
