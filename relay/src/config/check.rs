//! Whether the values fit together: what no single value shows.

use std::collections::HashSet;
use std::net::SocketAddr;

use turnpike_proto::auth::prepare_name;

use super::options::Config;
use super::report::{Place, Problem, Report};
use super::resolve::{Possible, family_warning, possible_listeners, reach_warning};
use super::settings::Settings;
use super::streams;
use super::strength::Strength;
use super::types::{ExternalAddress, PublicAddress, Secret, overlap};

/// Adds what is wrong (faults) or probably not meant (warnings) to the report. Values that already are
/// faults aren't in `config`, so what would depend on them isn't judged.
pub(super) fn check(config: &Config, settings: &Settings, report: &mut Report) {
    check_credentials(config, settings, report);
    check_listeners(config, settings, report);
    streams::check(config, &possible_listeners(config), settings, report);
    check_relay_addresses(config, settings, report);
    check_external_addresses(config, settings, report);
    check_peers(config, settings, report);
    check_admin(config, settings, report);
    check_alternates(config, settings, report);
    check_quotas(config, settings, report);
    check_takeover(config, settings, report);
}

/// Never an open relay: somebody must be named who may use it.
fn check_credentials(config: &Config, settings: &Settings, report: &mut Report) {
    warn_of_weak("user", &config.users, settings, report);
    warn_of_weak("auth-secret", &config.auth_secrets, settings, report);
    let mut names = HashSet::new();
    for (index, user) in config.users.iter().enumerate() {
        if is_placeholder(&user.password) {
            report.placeholder(settings.place("user", index), "user");
        }
        // Two ways to write one name (RFC 8265) are one user.
        let name = prepare_name(&user.name).unwrap_or_else(|_| user.name.as_str().into());
        if !names.insert(name) {
            let message = format!("the user {:?} is given twice", user.name);
            report.fault(Problem::new(settings.place("user", index), "user", message));
        }
    }
    for (index, secret) in config.auth_secrets.iter().enumerate() {
        if is_placeholder(secret) {
            report.placeholder(settings.place("auth-secret", index), "auth-secret");
        }
    }
    // After a fault in one of them nobody knows whether anything is missing.
    let sources = ["user", "user-file", "auth-secret", "auth-secret-file"];
    let unclear = report.incomplete || sources.iter().any(|key| report.blames(key));
    let none = config.users.is_empty() && config.auth_secrets.is_empty() && config.user_database.is_none();
    if none && !unclear {
        let message = match settings.home {
            Place::File(..) => {
                "missing, and no auth-secret either: nobody could use the relay; set user, user-file, \
                 auth-secret or auth-secret-file"
            }
            _ => {
                "missing, and no --auth-secret either: nobody could use the relay; give --user, --user-file, \
                 --auth-secret, --auth-secret-file or a --config with them, or --quickstart for a trial"
            }
        };
        report.fault(Problem::new(settings.home.clone(), "user", message));
    }
}

/// Of values that stand in a source itself; those of files are judged with the file.
fn warn_of_weak<T: Strength>(key: &'static str, values: &[T], settings: &Settings, report: &mut Report) {
    let weak = |(place, value): (&Place, &T)| Some(Problem::new(place.clone(), key, value.weakness()?));
    report.warn_once(settings.places(key).zip(values).filter_map(weak).collect());
}

/// The passwords and secrets of the examples all start like this.
fn is_placeholder(secret: &Secret) -> bool {
    secret.expose().starts_with("change-me")
}

/// Two listeners that overlap would share clients by chance.
fn check_listeners(config: &Config, settings: &Settings, report: &mut Report) {
    if settings.has("listen") && config.listen.is_empty() && !report.blames("listen") {
        let message = "is empty: name at least one address, or leave it out for the default";
        report.fault(Problem::new(settings.home.clone(), "listen", message));
    }
    let has_v4 = config.listen.iter().any(SocketAddr::is_ipv4);
    if let Some(index) = config.listen.iter().position(|it| it.is_ipv6() && it.ip().is_unspecified())
        && !has_v4
    {
        let wildcard = config.listen[index];
        let message = format!(
            "\"{wildcard}\": covers IPv6 only, so IPv4 clients hear nothing: add \"0.0.0.0:{}\"",
            wildcard.port()
        );
        report.warn(Problem::new(settings.place("listen", index), "listen", message));
    }
    for (index, later) in config.listen.iter().enumerate() {
        let place = || settings.place("listen", index);
        if let Some(earlier) = config.listen[..index].iter().find(|earlier| overlap(earlier, later)) {
            let message = if earlier == later {
                format!("\"{later}\": is given twice")
            } else {
                format!("\"{later}\": overlaps with {earlier}: a wildcard covers every address of its family")
            };
            report.fault(Problem::new(place(), "listen", message));
        }
        if config.port_range.contains(later.port()) && !config.no_udp {
            let range = config.port_range;
            let message =
                format!("\"{later}\": the port is within port-range ({range}), one relayed port less");
            report.warn(Problem::new(place(), "listen", message));
        }
    }
}

fn check_relay_addresses(config: &Config, settings: &Settings, report: &mut Report) {
    for (index, ip) in config.relay_address.iter().enumerate() {
        if config.relay_address[..index].contains(ip) {
            let message = format!("\"{ip}\": is given twice");
            report.fault(Problem::new(settings.place("relay-address", index), "relay-address", message));
        }
    }
    if report.blames("relay-address") {
        return;
    }
    if config.relay_address.is_empty() {
        return;
    }
    for (index, local) in config.relay_address.iter().enumerate() {
        if let Some(message) = reach_warning(config, *local) {
            report.warn(Problem::new(settings.place("relay-address", index), "relay-address", message));
        }
    }
    if let Some(message) = family_warning(config, &config.relay_address) {
        let place = settings.place("default-address-family", 0);
        report.warn(Problem::new(place, "default-address-family", message));
    }
}

fn check_external_addresses(config: &Config, settings: &Settings, report: &mut Report) {
    const KEY: &str = "external-address";
    // An address that wasn't understood may be the one that is missing here.
    if report.blames("relay-address") || report.blames("listen") {
        return;
    }
    let possible = Possible::of(config);
    for (index, external) in config.external_address.iter().enumerate() {
        let earlier = &config.external_address[..index];
        if let Some(message) = external_fault(external, earlier, &possible) {
            report.fault(Problem::new(settings.place(KEY, index), KEY, message));
        }
    }
}

/// What is wrong with an external address, whatever the host's network delivers.
fn external_fault(
    external: &ExternalAddress,
    earlier: &[ExternalAddress],
    possible: &Possible,
) -> Option<String> {
    let is_known = matches!(external.public, PublicAddress::Ip(_));
    if is_known && earlier.iter().any(|other| other.public == external.public) {
        return Some(format!("\"{}\": is given twice", external.public));
    }
    let v4 = external.is_for(true);
    let family = if v4 { "IPv4" } else { "IPv6" };
    match external.local {
        Some(local) if earlier.iter().any(|other| other.local == Some(local)) => {
            Some(format!("\"{external}\": {local} has another public address already"))
        }
        Some(local) if !possible.includes(local) => {
            Some(format!("\"{external}\": {local} is not a relay-address"))
        }
        None if earlier.iter().any(|other| other.local.is_none() && other.is_for(v4)) => {
            Some(format!("\"{external}\": a second one for all {family} relay addresses: write PUBLIC=LOCAL"))
        }
        None if !possible.has_family(v4) => {
            Some(format!("\"{external}\": there is no {family} relay-address for it"))
        }
        _ => None,
    }
}

/// A tie is denied, so an equal allowance is without effect.
fn check_peers(config: &Config, settings: &Settings, report: &mut Report) {
    for (index, network) in config.allow_peer.iter().enumerate() {
        if config.deny_peer.contains(network) {
            let message = format!("\"{network}\": has no effect, deny-peer names the same prefix and wins");
            report.warn(Problem::new(settings.place("allow-peer", index), "allow-peer", message));
        }
    }
}

/// No token, no listener: whoever reaches it could end every call.
fn check_admin(config: &Config, settings: &Settings, report: &mut Report) {
    for (index, token) in config.admin_tokens.iter().enumerate() {
        if is_placeholder(&token.token) {
            report.placeholder(settings.place("admin-token", index), "admin-token");
        }
        if config.admin_tokens[..index].iter().any(|other| other.token == token.token) {
            let message = "a token is given twice";
            report.fault(Problem::new(settings.place("admin-token", index), "admin-token", message));
        }
    }
    match (&config.admin_tls_cert, &config.admin_tls_key) {
        (Some(_), None) => {
            let message = "is set without admin-tls-key: HTTPS needs both";
            report.fault(Problem::new(settings.place("admin-tls-cert", 0), "admin-tls-cert", message));
        }
        (None, Some(_)) => {
            let message = "is set without admin-tls-cert: HTTPS needs both";
            report.fault(Problem::new(settings.place("admin-tls-key", 0), "admin-tls-key", message));
        }
        _ => {}
    }
    let Some(address) = config.admin else { return check_unused_admin(settings, report) };
    let unclear =
        report.incomplete || ["admin-token", "admin-token-file"].iter().any(|key| report.blames(key));
    if config.admin_tokens.is_empty() && !unclear {
        let message = format!(
            "\"{address}\": there is no admin-token and no admin-token-file: without a token anybody who \
             reaches it could end every call, so there is no listener without one"
        );
        report.fault(Problem::new(settings.place("admin", 0), "admin", message));
    }
    if !address.ip().is_loopback() && config.admin_tls_cert.is_none() {
        let message = format!(
            "\"{address}\": is plain HTTP on an address that isn't loopback: tokens can be read on the way; \
             set admin-tls-cert, or put something with TLS in front of a loopback address"
        );
        report.warn(Problem::new(settings.place("admin", 0), "admin", message));
    }
}

/// A token in the environment is fine: `turnpike ctl` reads the same variable.
fn check_unused_admin(settings: &Settings, report: &mut Report) {
    let is_for_ctl = |key: &str| matches!(settings.place(key, 0), Place::Environment(_));
    for key in ["admin-token", "admin-token-file", "admin-tls-cert", "admin-tls-key", "admin-host"] {
        if settings.has(key) && !is_for_ctl(key) {
            report.warn(Problem::new(settings.place(key, 0), key, "has no effect without admin"));
        }
    }
}

/// A client learns one address, of its own family.
fn check_alternates(config: &Config, settings: &Settings, report: &mut Report) {
    const KEY: &str = "alternate-server";
    for (index, later) in config.alternate_server.iter().enumerate() {
        let same_family = |earlier: &&SocketAddr| earlier.is_ipv4() == later.is_ipv4();
        if let Some(earlier) = config.alternate_server[..index].iter().find(same_family) {
            let message = format!("\"{later}\": {earlier} is the one of this family already");
            report.fault(Problem::new(settings.place(KEY, index), KEY, message));
        }
        if config.listen.contains(later) {
            let message = format!("\"{later}\": is this relay's own listener");
            report.fault(Problem::new(settings.place(KEY, index), KEY, message));
        }
    }
}

/// Each allocation takes a port of a relay address, so no quota can be used beyond them. Without configured
/// relay addresses there is one of each family at the most.
/// Where nobody can be found, nobody is.
fn check_takeover(config: &Config, settings: &Settings, report: &mut Report) {
    if config.takeover && config.state_directory.is_none() && !report.blames("state-directory") {
        let message = "does nothing without a state-directory: the process that runs is found there";
        report.warn(Problem::new(settings.place("takeover", 0), "takeover", message));
    }
}

fn check_quotas(config: &Config, settings: &Settings, report: &mut Report) {
    let addresses = if config.relay_address.is_empty() { 2 } else { config.relay_address.len() };
    let ports = config.port_range.count() * addresses;
    for (key, quota) in [("user-quota", config.user_quota), ("total-quota", config.total_quota)] {
        if let Some(quota) = quota.filter(|quota| quota.get() as usize > ports) {
            let message = format!(
                "\"{quota}\": is above what the relay has ports for: port-range ({}) gives {ports}",
                config.port_range
            );
            report.warn(Problem::new(settings.place(key, 0), key, message));
        }
    }
}
