//! Keys of coturn's `turnserver.conf` where a key of ours was expected, and what to write instead. The table of
//! docs/migrate-from-coturn.md says the same at more length.

/// Keys with another name here.
const RENAMED: &[(&str, &str)] = &[
    ("listening-ip", "listen"),
    ("listening-port", "listen"),
    ("aux-server", "listen"),
    ("tls-listening-port", "listen-tls"),
    ("tcp-proxy-port", "proxy-protocol-from"),
    ("cert", "tls-cert"),
    ("pkey", "tls-key"),
    ("no-tlsv1_2", "tls-min-version"),
    ("relay-ip", "relay-address"),
    ("external-ip", "external-address"),
    ("min-port", "port-range"),
    ("max-port", "port-range"),
    ("allocation-default-address-family", "default-address-family"),
    ("use-auth-secret", "auth-secret-file"),
    ("static-auth-secret", "auth-secret"),
    ("userdb", "user-database"),
    ("db", "user-database"),
    ("denied-peer-ip", "deny-peer"),
    ("allowed-peer-ip", "allow-peer"),
    ("max-bps", "max-bitrate"),
    ("max-allocate-lifetime", "max-lifetime"),
    ("unauthorized-ratelimit", "unauthenticated-rate"),
    ("udp-alternate-server", "alternate-server"),
    ("software-attribute", "software"),
    ("relay-threads", "workers"),
    ("cpus", "workers"),
    ("log-min-level", "log-level"),
    ("verbose", "log-level"),
    ("Verbose", "log-level"),
    ("drain-min-allocations", "drain-timeout"),
    ("cli", "admin"),
    ("cli-ip", "admin"),
    ("cli-port", "admin"),
    ("cli-password", "admin-token-file"),
    ("web-admin", "admin"),
    ("prometheus", "admin"),
];

/// Keys for what is always so here.
const ALWAYS: &[&str] = &[
    "no-tcp-relay",
    "lt-cred-mech",
    "stale-nonce",
    "stateless-nonce",
    "no-dynamic-ip-list",
    "no-dynamic-realms",
    "no-multicast-peers",
    "channel-lifetime",
    "permission-lifetime",
    "drop-invalid-packets",
    "fingerprint",
    "include-reason-string",
    "sock-buf-size",
    "new-log-timestamp",
    "no-stdout-log",
    "simple-log",
    "no-cli",
];

/// Keys for what Turnpike doesn't do, or leaves to others.
const MISSING: &[&str] = &[
    "alt-tls-listening-port",
    "alt-listening-port",
    "dtls",
    "no-tls",
    "no-dtls",
    "no-udp-relay",
    "rfc5780",
    "listening-device",
    "relay-device",
    "mobility",
    "server-relay",
    "no-auth",
    "secure-stun",
    "rest-api-separator",
    "oauth",
    "server-name",
    "check-origin-consistency",
    "redis-userdb",
    "redis-statsdb",
    "psql-userdb",
    "mysql-userdb",
    "mongo-userdb",
    "secret-key-file",
    "pkey-pwd",
    "cipher-list",
    "CA-file",
    "dh-file",
    "bps-capacity",
    "stun-only",
    "no-stun",
    "rfc3489-compatibility",
    "multiplex-peer",
    "daemon",
    "pidfile",
    "proc-user",
    "proc-group",
    "log-file",
    "syslog",
    "log-binding",
    "prometheus-username-labels",
];

/// What to do about a key, if it is coturn's.
pub(super) fn advice(key: &str) -> Option<String> {
    if let Some((_, here)) = RENAMED.iter().find(|(theirs, _)| *theirs == key) {
        return Some(format!("is coturn's; here it is `{here}`"));
    }
    if ALWAYS.contains(&key) {
        return Some("is coturn's; here it is always so: leave it out".to_owned());
    }
    let is_missing = MISSING.contains(&key);
    is_missing.then(|| "is coturn's; nothing here does it: see docs/migrate-from-coturn.md".to_owned())
}

/// The lines of a text that are coturn's, numbered from 1, with the key of each. For a text that isn't TOML.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let key = |line: &'_ str| line.split_once('=').map_or(line.len(), |(key, _)| key.len());
    let keys = text.lines().map(move |line| line[..key(line)].trim());
    keys.enumerate().filter(|(_, key)| advice(key).is_some()).map(|(index, key)| (index + 1, key))
}

#[cfg(test)]
mod tests {
    use super::super::options::OPTIONS;
    use super::*;

    fn page() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/migrate-from-coturn.md");
        std::fs::read_to_string(path).expect("docs/migrate-from-coturn.md")
    }

    /// The lines of the page that name a key of coturn's.
    fn rows<'a>(page: &'a str, key: &str) -> Vec<&'a str> {
        let (name, with_value) = (format!("`{key}`"), format!("`{key}="));
        page.lines().filter(|line| line.contains(&name) || line.contains(&with_value)).collect()
    }

    #[test]
    fn the_page_about_coturn_says_the_same() {
        let page = page();
        for (theirs, ours) in RENAMED {
            assert!(OPTIONS.iter().any(|spec| spec.key == *ours), "{ours} is an option");
            let named = rows(&page, theirs).into_iter().any(|row| row.contains(ours));
            assert!(named, "docs/migrate-from-coturn.md names {ours} beside `{theirs}`");
        }
        for key in ALWAYS.iter().chain(MISSING) {
            assert!(!rows(&page, key).is_empty(), "docs/migrate-from-coturn.md has `{key}`");
        }
    }

    #[test]
    fn no_key_of_ours_is_called_coturns() {
        for spec in OPTIONS {
            assert_eq!(advice(spec.key), None, "{}", spec.key);
        }
    }
}
