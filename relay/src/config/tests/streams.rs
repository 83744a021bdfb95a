//! Listeners for TCP and TLS.

use super::*;
use crate::config::resolve::{Host, resolve};

/// Options that need one another, so that they have no row in the table of single values.
pub(super) const TESTED: &[&str] = &["listen-tls", "tls-cert", "tls-key", "tls-fallback"];

const PAIR: &str = "tls-cert = [\"c.pem\"]\ntls-key = [\"k.pem\"]\n";

fn given(lines: &str) -> Given {
    Given::file(&format!("{CREDENTIALS}{lines}"))
}

/// Where UDP, TCP and TLS are offered.
fn offered(lines: &str) -> [String; 3] {
    let addresses = resolve(&given(lines).config(), &Host { has_ipv6: true, ..Host::default() });
    let text =
        |list: &[std::net::SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    [text(&addresses.listen), text(&addresses.listen_tcp), text(&addresses.listen_tls)]
}

// RFC 8656 s. 4: 3478 for UDP and TCP, 5349 for TLS
#[test]
fn tcp_is_where_udp_is_and_tls_comes_with_a_certificate() {
    let both = "0.0.0.0:3478 [::]:3478";
    assert_eq!(offered(""), [both, both, ""]);
    assert_eq!(offered("no-tcp = true\n"), [both, "", ""]);
    assert_eq!(offered("no-udp = true\n"), ["", both, ""]);
    assert_eq!(offered(PAIR), [both, both, "0.0.0.0:5349 [::]:5349"]);
    let named = format!("listen = [\"192.0.2.1:3478\", \"192.0.2.1:3479\"]\n{PAIR}");
    let udp = "192.0.2.1:3478 192.0.2.1:3479";
    assert_eq!(offered(&named), [udp, udp, "192.0.2.1:5349"]);
    let own = format!("listen-tcp = [\"192.0.2.1:443\"]\nlisten-tls = [\"192.0.2.1:443\"]\n{PAIR}");
    assert_eq!(offered(&own), [both, "192.0.2.1:443", "192.0.2.1:443"], "one port for both");
}

#[test]
fn what_does_not_fit_together_is_a_fault() {
    for (lines, expected) in [
        ("listen-tls = [\"0.0.0.0:443\"]\n", "2:15: listen-tls: needs a tls-cert and its tls-key"),
        (
            "tls-cert = [\"a\", \"b\"]\ntls-key = [\"k\"]\n",
            "2:18: tls-cert: there are 2 tls-cert and 1 tls-key: each needs the other, in the same order",
        ),
        (
            "tls-key = [\"k\"]\n",
            "2:12: tls-key: there are 0 tls-cert and 1 tls-key: each needs the other, in the same order",
        ),
        (
            "listen-tcp = [\"192.0.2.1:443\"]\nno-tcp = true\n",
            "2:15: listen-tcp: contradicts no-tcp: leave one of them out",
        ),
        (
            "no-udp = true\nno-tcp = true\n",
            "2:10: no-udp: nobody could reach the relay: there is neither TCP nor a tls-cert",
        ),
        (
            "no-udp = true\noffload = \"require\"\n",
            "3:11: offload: the kernel forwards for clients over UDP only, and no-udp says that there are none",
        ),
        (
            "listen-tcp = [\"0.0.0.0:443\", \"192.0.2.1:443\"]\n",
            "2:30: listen-tcp: \"192.0.2.1:443\": overlaps with 0.0.0.0:443: a wildcard covers every address of its family",
        ),
        (
            "admin = \"127.0.0.1:3478\"\nadmin-token = [\"0123456789abcdef\"]\n",
            "2:9: admin: \"127.0.0.1:3478\": clients have that port over TCP (0.0.0.0:3478): take another one",
        ),
    ] {
        assert_eq!(given(lines).faults(), [format!("turnpike.toml:{expected}")], "{lines}");
    }
    let overlapping = format!("listen-tcp = [\"0.0.0.0:443\"]\nlisten-tls = [\"192.0.2.1:443\"]\n{PAIR}");
    let expected = "turnpike.toml:3:15: listen-tls: \"192.0.2.1:443\": overlaps with 0.0.0.0:443 of TCP: write one address for both, or two ports";
    assert_eq!(given(&overlapping).faults(), [expected]);
    assert_eq!(given("listen-tcp = []\n").faults().len(), 1);
    let unused = given("tls-min-version = \"1.3\"\n").warnings();
    assert_eq!(unused, ["turnpike.toml:2:19: tls-min-version: has no effect without tls-cert"]);
    let unused = given("allow-tcp-relay = true\nno-tcp = true\n").warnings();
    assert!(unused[0].starts_with("turnpike.toml:2:19: allow-tcp-relay: has no effect"), "{unused:?}");
}

#[test]
fn a_fallback_needs_tls_and_is_nobody_of_ours() {
    let config = given(&format!("{PAIR}tls-fallback = \"127.0.0.1:8443\"\n")).config();
    assert_eq!(config.tls_fallback.map(|to| to.to_string()).as_deref(), Some("127.0.0.1:8443"));
    let alone = given("tls-fallback = \"127.0.0.1:8443\"\n").faults();
    assert_eq!(alone, ["turnpike.toml:2:16: tls-fallback: needs a tls-cert: there is no listener for TLS"]);
    for (listener, fallback, is_loop) in [
        ("0.0.0.0:443", "127.0.0.1:443", true),
        ("192.0.2.1:443", "192.0.2.1:443", true),
        ("192.0.2.1:443", "127.0.0.1:443", false),
        // Another host's, as far as anybody can say.
        ("0.0.0.0:443", "192.0.2.7:443", false),
        ("[::]:443", "127.0.0.1:443", false),
    ] {
        let text = format!("listen-tls = [\"{listener}\"]\n{PAIR}tls-fallback = \"{fallback}\"\n");
        assert_eq!(given(&text).load().is_err(), is_loop, "{text}");
    }
    let tcp = given(&format!("{PAIR}tls-fallback = \"127.0.0.1:3478\"\n")).faults();
    assert!(tcp[0].ends_with("is this relay's own listener (0.0.0.0:3478): it would call itself"), "{tcp:?}");
}

#[test]
fn what_has_no_effect_is_warned_of() {
    for (lines, expected) in [
        (
            "proxy-protocol-udp = \"each\"\n",
            "2:22: proxy-protocol-udp: has no effect without proxy-protocol-from",
        ),
        (
            "relay-address = [\"192.0.2.7\"]\nproxy-protocol-from = [\"10.0.0.0/8\", \"192.0.2.0/24\"]\n",
            "3:38: proxy-protocol-from: \"192.0.2.0/24\": covers the relay address 192.0.2.7: what clients relay would be \
             believed as a proxy's",
        ),
        (
            "tls-fallback-proxy-protocol = true\n",
            "2:31: tls-fallback-proxy-protocol: has no effect without tls-fallback",
        ),
        (
            "max-connections = 100\nmax-connections-per-source = 200\n",
            "3:30: max-connections-per-source: \"200\": is above max-connections (100), so it bounds nothing",
        ),
        (
            "max-half-open-per-source = 2000\n",
            "2:28: max-half-open-per-source: \"2000\": is above max-half-open (1024), so it bounds nothing",
        ),
    ] {
        assert_eq!(given(lines).warnings(), [format!("turnpike.toml:{expected}")], "{lines}");
    }
    assert!(given("max-connections = 100\n").warnings().is_empty(), "a default may be above it");
}
