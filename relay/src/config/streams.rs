//! Listeners for TCP and TLS: which a configuration means, and whether they fit together.

use std::net::SocketAddr;

use super::options::Config;
use super::report::{Problem, Report};
use super::settings::Settings;
use super::types::{DEFAULT_TLS_PORT, Offload, overlap};

/// Where TURN over TCP is offered, with these listeners for UDP: on the same addresses (RFC 8656 s. 4).
pub(super) fn tcp(config: &Config, udp: &[SocketAddr]) -> Vec<SocketAddr> {
    match (config.no_tcp, config.listen_tcp.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => udp.to_vec(),
        (false, false) => config.listen_tcp.clone(),
    }
}

/// Where TURN over TLS is offered.
pub(super) fn tls(config: &Config, udp: &[SocketAddr]) -> Vec<SocketAddr> {
    if !config.listen_tls.is_empty() || config.tls_cert.is_empty() {
        return config.listen_tls.clone();
    }
    let mut found: Vec<SocketAddr> = Vec::new();
    for listener in udp {
        let port = if listener.port() == 0 { 0 } else { DEFAULT_TLS_PORT };
        let listener = SocketAddr::new(listener.ip(), port);
        if port == 0 || !found.contains(&listener) {
            found.push(listener);
        }
    }
    found
}

/// Adds what is wrong with them; `udp` are all listeners that the configuration may mean.
pub(super) fn check(config: &Config, udp: &[SocketAddr], settings: &Settings, report: &mut Report) {
    check_switches(config, settings, report);
    check_pairs(config, settings, report);
    check_lists(config, settings, report);
    check_overlaps(config, udp, settings, report);
    check_fallback(config, udp, settings, report);
    check_proxies(config, settings, report);
    check_caps(config, settings, report);
}

fn check_switches(config: &Config, settings: &Settings, report: &mut Report) {
    let mut fault = |key, message: &str| report.fault(Problem::new(settings.place(key, 0), key, message));
    if config.no_tcp && !config.listen_tcp.is_empty() {
        fault("listen-tcp", "contradicts no-tcp: leave one of them out");
    }
    let has_tls = !config.tls_cert.is_empty() || !config.listen_tls.is_empty();
    if config.no_udp && config.no_tcp && !has_tls {
        fault("no-udp", "nobody could reach the relay: there is neither TCP nor a tls-cert");
    }
    let is_offered = !config.no_tcp || has_tls;
    if config.no_udp && config.offload == Offload::Require {
        fault(
            "offload",
            "the kernel forwards for clients over UDP only, and no-udp says that there are none",
        );
    }
    if config.allow_tcp_relay && !is_offered {
        let message = "has no effect: TCP is relayed for clients over TCP and TLS only, and there is neither";
        report.warn(Problem::new(settings.place("allow-tcp-relay", 0), "allow-tcp-relay", message));
    }
}

fn check_pairs(config: &Config, settings: &Settings, report: &mut Report) {
    // One that was not understood is missing here.
    if report.blames("tls-cert") || report.blames("tls-key") {
        return;
    }
    let (certs, keys) = (config.tls_cert.len(), config.tls_key.len());
    if certs != keys {
        let key = if certs > keys { "tls-cert" } else { "tls-key" };
        let message =
            format!("there are {certs} tls-cert and {keys} tls-key: each needs the other, in the same order");
        report.fault(Problem::new(settings.place(key, certs.min(keys)), key, message));
    } else if certs == 0 {
        if !config.listen_tls.is_empty() {
            let message = "needs a tls-cert and its tls-key";
            report.fault(Problem::new(settings.place("listen-tls", 0), "listen-tls", message));
        }
        if settings.has("tls-min-version") {
            let message = "has no effect without tls-cert";
            report.warn(Problem::new(settings.place("tls-min-version", 0), "tls-min-version", message));
        }
    }
}

fn check_lists(config: &Config, settings: &Settings, report: &mut Report) {
    for (key, list) in [("listen-tcp", &config.listen_tcp), ("listen-tls", &config.listen_tls)] {
        if settings.has(key) && list.is_empty() && !report.blames(key) {
            let message = "is empty: name at least one address, or leave it out for the default";
            report.fault(Problem::new(settings.home.clone(), key, message));
        }
        for (index, later) in list.iter().enumerate() {
            let Some(earlier) = list[..index].iter().find(|earlier| overlap(earlier, later)) else {
                continue;
            };
            let message = match earlier == later {
                true => format!("\"{later}\": is given twice"),
                false => format!(
                    "\"{later}\": overlaps with {earlier}: a wildcard covers every address of its family"
                ),
            };
            report.fault(Problem::new(settings.place(key, index), key, message));
        }
    }
}

/// What listens for TCP needs its port for itself; but TCP and TLS may share one.
fn check_overlaps(config: &Config, udp: &[SocketAddr], settings: &Settings, report: &mut Report) {
    if ["listen", "listen-tcp", "listen-tls"].iter().any(|key| report.blames(key)) {
        return;
    }
    let (tcp, tls) = (tcp(config, udp), tls(config, udp));
    for (index, own) in tls.iter().enumerate() {
        if let Some(other) = tcp.iter().find(|other| overlap(other, own) && *other != own) {
            let message =
                format!("\"{own}\": overlaps with {other} of TCP: write one address for both, or two ports");
            report.fault(Problem::new(settings.place("listen-tls", index), "listen-tls", message));
        }
    }
    let Some(admin) = config.admin else { return };
    if let Some(other) = tcp.iter().chain(&tls).find(|other| overlap(other, &admin)) {
        let message = format!("\"{admin}\": clients have that port over TCP ({other}): take another one");
        report.fault(Problem::new(settings.place("admin", 0), "admin", message));
    }
}

fn check_fallback(config: &Config, udp: &[SocketAddr], settings: &Settings, report: &mut Report) {
    let Some(fallback) = config.tls_fallback else {
        const KEY: &str = "tls-fallback-proxy-protocol";
        if config.tls_fallback_proxy_protocol && !report.blames("tls-fallback") {
            report.warn(Problem::new(settings.place(KEY, 0), KEY, "has no effect without tls-fallback"));
        }
        return;
    };
    if ["listen", "listen-tcp", "listen-tls", "tls-cert"].iter().any(|key| report.blames(key)) {
        return;
    }
    let place = settings.place("tls-fallback", 0);
    let (tcp, tls) = (tcp(config, udp), tls(config, udp));
    if tls.is_empty() {
        report.fault(Problem::new(place, "tls-fallback", "needs a tls-cert: there is no listener for TLS"));
        return;
    }
    let is_reached_by = |listener: &&SocketAddr| {
        let is_wildcard = listener.ip().is_unspecified() && listener.is_ipv4() == fallback.is_ipv4();
        let is_here = listener.ip() == fallback.ip() || is_wildcard && fallback.ip().is_loopback();
        listener.port() == fallback.port() && is_here
    };
    if let Some(own) = tls.iter().chain(&tcp).find(is_reached_by) {
        let message = format!("\"{fallback}\": is this relay's own listener ({own}): it would call itself");
        report.fault(Problem::new(place, "tls-fallback", message));
    }
}

fn check_proxies(config: &Config, settings: &Settings, report: &mut Report) {
    const KEY: &str = "proxy-protocol-udp";
    let has_none = config.proxy_protocol_from.is_empty() && !report.blames("proxy-protocol-from");
    if has_none && settings.has(KEY) {
        report.warn(Problem::new(settings.place(KEY, 0), KEY, "has no effect without proxy-protocol-from"));
    }
    for (index, proxies) in config.proxy_protocol_from.iter().enumerate() {
        if let Some(relay) = config.relay_address.iter().find(|relay| proxies.contains(*relay)) {
            let place = settings.place("proxy-protocol-from", index);
            let message = format!(
                "\"{proxies}\": covers the relay address {relay}: what clients relay would be believed as a proxy's"
            );
            report.warn(Problem::new(place, "proxy-protocol-from", message));
        }
    }
}

fn check_caps(config: &Config, settings: &Settings, report: &mut Report) {
    let all = ("max-connections", config.max_connections);
    let half_open = ("max-half-open", config.max_half_open);
    for ((key, own), (of, most)) in [
        (("max-connections-per-source", config.max_connections_per_source), all),
        (half_open, all),
        (("max-half-open-per-source", config.max_half_open_per_source), half_open),
    ] {
        // A default is only a bound that is never reached.
        if own > most && settings.has(key) {
            let message = format!("\"{own}\": is above {of} ({most}), so it bounds nothing");
            report.warn(Problem::new(settings.place(key, 0), key, message));
        }
    }
}
