//! Whether the values fit together: what no single value shows.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::layers::Settings;
use super::options::Config;
use super::report::{Place, Problem, Report};
use super::types::{DefaultFamily, ExternalAddress};

/// Adds what is wrong (faults) or probably not meant (warnings) to the report. An option that already
/// has a fault isn't judged further.
pub(super) fn check(config: &Config, settings: &Settings, report: &mut Report) {
    check_credentials(config, settings, report);
    check_listeners(config, settings, report);
    check_relay_addresses(config, settings, report);
    check_external_addresses(config, settings, report);
    check_peers(config, settings, report);
}

/// Never an open relay: somebody must be named who may use it.
fn check_credentials(config: &Config, settings: &Settings, report: &mut Report) {
    let mut names = HashSet::new();
    for (index, user) in config.users.iter().enumerate() {
        if !names.insert(user.name.as_str()) && !report.blames("user") {
            let message = format!("the user {:?} is given twice", user.name);
            report.fault(Problem::new(settings.place("user", index), "user", message));
        }
    }
    // After a fault in one of them, or in the file's syntax, nobody knows what is really missing.
    let unclear = report.faults.iter().any(|fault| match fault.key {
        None => true,
        Some(key) => matches!(key, "user" | "user-file" | "auth-secret" | "auth-secret-file"),
    });
    if config.users.is_empty() && config.auth_secrets.is_empty() && !unclear {
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

/// Two listeners that overlap would share clients by chance.
fn check_listeners(config: &Config, settings: &Settings, report: &mut Report) {
    if report.blames("listen") {
        return;
    }
    if settings.has("listen") && config.listen.is_empty() {
        let message = "is empty: name at least one address, or leave it out for the default";
        report.fault(Problem::new(settings.home.clone(), "listen", message));
    }
    for (index, later) in config.listen.iter().enumerate() {
        let place = || settings.place("listen", index);
        if let Some(earlier) = config.listen[..index].iter().find(|earlier| overlap(earlier, later)) {
            let what = if earlier == later { "is given twice" } else { "overlaps with" };
            let message = match earlier == later {
                true => format!("\"{later}\": {what}"),
                false => {
                    format!("\"{later}\": {what} {earlier}: a wildcard covers every address of its family")
                }
            };
            report.fault(Problem::new(place(), "listen", message));
        }
        if config.port_range.contains(later.port()) {
            let range = config.port_range;
            let message =
                format!("\"{later}\": the port is within port-range ({range}), one relayed port less");
            report.warn(Problem::new(place(), "listen", message));
        }
    }
}

/// Each port 0 becomes a port of its own.
fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let one_covers = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && one_covers
}

fn check_relay_addresses(config: &Config, settings: &Settings, report: &mut Report) {
    if report.blames("relay-address") {
        return;
    }
    for (index, ip) in config.relay_address.iter().enumerate() {
        if config.relay_address[..index].contains(ip) {
            let message = format!("\"{ip}\": is given twice");
            report.fault(Problem::new(settings.place("relay-address", index), "relay-address", message));
        }
    }
    let has = |v4: bool| config.relay_address.iter().any(|ip| ip.is_ipv4() == v4);
    let missing = match config.default_address_family {
        _ if config.relay_address.is_empty() => None,
        DefaultFamily::Ipv4 => (!has(true)).then_some("IPv4"),
        DefaultFamily::Ipv6 => (!has(false)).then_some("IPv6"),
        DefaultFamily::Keep => None,
    };
    if let Some(family) = missing {
        let message = format!(
            "no relay-address is {family}: clients that don't ask for a family get error 440 \
             (RFC 8656 s. 7.2)"
        );
        let place = settings.place("default-address-family", 0);
        report.warn(Problem::new(place, "default-address-family", message));
    }
}

fn check_external_addresses(config: &Config, settings: &Settings, report: &mut Report) {
    const KEY: &str = "external-address";
    if report.blames(KEY) || report.blames("relay-address") {
        return;
    }
    for (index, external) in config.external_address.iter().enumerate() {
        let earlier = &config.external_address[..index];
        if let Some(message) = external_fault(external, earlier, &config.relay_address) {
            report.fault(Problem::new(settings.place(KEY, index), KEY, message));
        }
    }
}

/// What is wrong with an external address; `relay` is empty while the relay addresses aren't known yet.
pub(super) fn external_fault(
    external: &ExternalAddress,
    earlier: &[ExternalAddress],
    relay: &[IpAddr],
) -> Option<String> {
    let public = external.public;
    let family = if public.is_ipv4() { "IPv4" } else { "IPv6" };
    if earlier.iter().any(|other| other.public == public) {
        return Some(format!("\"{public}\": is given twice"));
    }
    match external.local {
        Some(local) if earlier.iter().any(|other| other.local == Some(local)) => {
            Some(format!("\"{public}={local}\": {local} has another public address already"))
        }
        Some(local) if !relay.is_empty() && !relay.contains(&local) => {
            Some(format!("\"{public}={local}\": {local} is not a relay-address"))
        }
        None if earlier
            .iter()
            .any(|other| other.local.is_none() && other.public.is_ipv4() == public.is_ipv4()) =>
        {
            Some(format!("\"{public}\": a second one for all {family} relay addresses: write PUBLIC=LOCAL"))
        }
        None if !relay.is_empty() && !relay.iter().any(|ip| ip.is_ipv4() == public.is_ipv4()) => {
            Some(format!("\"{public}\": there is no {family} relay-address for it"))
        }
        _ => None,
    }
}

/// A tie is denied, so an equal allowance is without effect.
fn check_peers(config: &Config, settings: &Settings, report: &mut Report) {
    if report.blames("allow-peer") || report.blames("deny-peer") {
        return;
    }
    for (index, network) in config.allow_peer.iter().enumerate() {
        if config.deny_peer.contains(network) {
            let message = format!("\"{network}\": has no effect, deny-peer names the same prefix and wins");
            report.warn(Problem::new(settings.place("allow-peer", index), "allow-peer", message));
        }
    }
}
