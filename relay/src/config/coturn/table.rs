//! Every option of coturn's `turnserver.conf` (4.17, and those of 4.6.1 that are gone), and what takes its place: what
//! `turnpike import-coturn` reports, what `check-config` advises, and the tables of docs/migrate-from-coturn.md.

use super::Fate::{self, Changed, NotNeeded, NotSupported, TakenOver, Unsafe};

/// Options that have one answer.
pub(super) struct Row {
    /// Their names; none for what coturn has no option for.
    pub(super) names: &'static [&'static str],
    /// What becomes of them; a value may make it something else.
    pub(super) fate: Fate,
    /// The option that takes their place, if one does.
    pub(super) key: Option<&'static str>,
    /// The same for the page.
    pub(super) here: &'static str,
    /// What else is to be said.
    pub(super) note: &'static str,
}

const fn row(
    names: &'static [&'static str],
    fate: Fate,
    key: &'static str,
    here: &'static str,
    note: &'static str,
) -> Row {
    Row { names, fate, key: if key.is_empty() { None } else { Some(key) }, here, note }
}

/// What takes an option's place.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows).find(|row| row.names.contains(&name))
}

/// Options about one thing.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) rows: &'static [Row],
}

/// All of them, in the page's order.
pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Listeners", rows: LISTENERS },
    Section { title: "Relaying", rows: RELAYING },
    Section { title: "Credentials", rows: CREDENTIALS },
    Section { title: "Databases", rows: DATABASES },
    Section { title: "TLS", rows: TLS },
    Section { title: "Peers", rows: PEERS },
    Section { title: "Limits", rows: LIMITS },
    Section { title: "Balancing", rows: BALANCING },
    Section { title: "STUN", rows: STUN },
    Section { title: "Performance", rows: PERFORMANCE },
    Section { title: "Process and logs", rows: PROCESS_AND_LOGS },
    Section { title: "Administration and metrics", rows: ADMINISTRATION_AND_METRICS },
    Section { title: "Dead in coturn too", rows: DEAD_IN_COTURN_TOO },
];

const LISTENERS: &[Row] = &[
    row(
        &["listening-ip", "listening-port"],
        TakenOver,
        "listen",
        "`listen = [\"IP:PORT\"]`",
        "default `0.0.0.0:3478` and `[::]:3478`: wildcards answer from the address that was asked",
    ),
    row(&["aux-server"], TakenOver, "listen", "another entry of `listen`", ""),
    row(
        &["tls-listening-port"],
        Changed,
        "listen-tls",
        "`listen-tls = [\"IP:PORT\"]`",
        "default: port 5349 as soon as there is a `tls-cert`; TLS is spoken there alone, while coturn speaks it on `listening-port`, too; one port may be in `listen-tcp` and `listen-tls`",
    ),
    row(
        &["alt-tls-listening-port"],
        NotSupported,
        "",
        "another entry of `listen-tls`",
        "coturn answers there for RFC 5780 only",
    ),
    row(&["no-tls"], TakenOver, "", "no `tls-cert`, no TLS", ""),
    row(&["no-tcp"], TakenOver, "no-tcp", "the same", ""),
    row(&["no-udp"], TakenOver, "no-udp", "the same", ""),
    row(&["dtls"], NotSupported, "", "not yet", ""),
    row(&["no-dtls"], NotNeeded, "", "always", "there is no DTLS yet"),
    row(
        &["no-tcp-relay"],
        NotNeeded,
        "",
        "no `allow-tcp-relay`",
        "off by default: [tcp-relay.md](tcp-relay.md)",
    ),
    row(&["no-udp-relay"], NotSupported, "", "no", "there would be nothing left"),
    row(&["alt-listening-port", "rfc5780"], NotSupported, "", "not yet", ""),
    row(&["listening-device"], NotSupported, "", "no", "give its address to `listen`"),
    row(
        &["tcp-proxy-port"],
        NotSupported,
        "proxy-protocol-from",
        "`proxy-protocol-from = [\"CIDR\"]`",
        "no port of its own: it is the proxy's address that is trusted, on every listener, for UDP as well; version 2 only ([streams.md](streams.md#behind-a-load-balancer))",
    ),
];

const RELAYING: &[Row] = &[
    row(&["relay-ip"], TakenOver, "relay-address", "`relay-address`", "default: the listeners' addresses"),
    row(
        &["external-ip"],
        Changed,
        "external-address",
        "`external-address = [\"PUB\"]`, `[\"PUB=PRIV\"]`",
        "PUB alone is for all relay addresses of its family; PRIV does not become an allowed peer: two clients of one relay reach each other anyway, a service on this host needs `allow-peer`",
    ),
    row(&["min-port", "max-port"], TakenOver, "port-range", "`port-range = \"FIRST-LAST\"`", ""),
    row(&["relay-device"], NotSupported, "", "no", "give its address to `relay-address`"),
    row(
        &["allocation-default-address-family"],
        TakenOver,
        "default-address-family",
        "`default-address-family`",
        "same words",
    ),
    row(
        &["keep-address-family"],
        TakenOver,
        "default-address-family",
        "`default-address-family = \"keep\"`",
        "",
    ),
    row(&["mobility"], NotSupported, "", "not yet", "RFC 8016"),
    row(&["server-relay"], Unsafe, "", "no", "skips permissions: an open door"),
];

const CREDENTIALS: &[Row] = &[
    row(&["lt-cred-mech"], NotNeeded, "", "always", "there is no way without credentials"),
    row(&["no-auth"], Unsafe, "", "no", "Turnpike refuses to start without credentials"),
    row(&["secure-stun"], NotSupported, "", "no", "Binding requests need no credentials"),
    row(&["no-auth-pings"], NotNeeded, "", "always", "Binding requests need no credentials"),
    row(
        &["user"],
        TakenOver,
        "user",
        "`user`, `user-file`, `[user]`",
        "not `NAME:0xMD5HEX`: set the password again; see [Databases](#databases-1)",
    ),
    row(
        &["use-auth-secret", "static-auth-secret"],
        TakenOver,
        "auth-secret",
        "`auth-secret`, `auth-secret-file`",
        "several may match, for rotation; static users stay valid beside them, which coturn's `use-auth-secret` silently turns off",
    ),
    row(
        &["rest-api-separator"],
        NotNeeded,
        "",
        "`:` always",
        "`EXPIRY:USER`, `USER:EXPIRY` and `EXPIRY` are understood",
    ),
    row(&["realm"], TakenOver, "realm", "`realm`", "one; default `turnpike`, not the host's domain"),
    row(
        &["stale-nonce", "stateless-nonce"],
        NotNeeded,
        "",
        "always",
        "stateless, authenticated nonces with an end",
    ),
    row(
        &["stateless-nonce-secret"],
        NotSupported,
        "",
        "not yet",
        "a nonce of a restarted server is answered with 438, and clients go on",
    ),
    row(&["oauth", "server-name"], NotSupported, "", "not yet", "RFC 7635"),
    row(&["check-origin-consistency"], NotSupported, "", "no", "ORIGIN never became a standard"),
];

const DATABASES: &[Row] = &[
    row(
        &["userdb", "db"],
        NotSupported,
        "user-database",
        "`user-database`",
        "own schema, filled through the API",
    ),
    row(&["redis-userdb", "redis-statsdb"], NotSupported, "", "not yet", ""),
    row(
        &["psql-userdb", "sql-userdb", "mysql-userdb", "mongo-userdb", "secret-key-file"],
        NotSupported,
        "",
        "no",
        "hand out REST credentials instead",
    ),
    row(
        &["no-dynamic-ip-list", "no-dynamic-realms"],
        NotNeeded,
        "",
        "always",
        "the peer policy comes from the configuration; SIGHUP reloads it",
    ),
];

const TLS: &[Row] = &[
    row(
        &["cert"],
        TakenOver,
        "tls-cert",
        "`tls-cert`",
        "several pairs, chosen by name; new files are taken without a signal ([tls.md](tls.md))",
    ),
    row(&["pkey"], TakenOver, "tls-key", "`tls-key`", ""),
    row(&["pkey-pwd"], NotSupported, "", "no", "a key that nobody has to unlock: `openssl pkey` writes one"),
    row(&["no-tlsv1_2"], TakenOver, "tls-min-version", "`tls-min-version = \"1.3\"`", ""),
    row(&["tlsv1", "tlsv1_1"], Unsafe, "", "no", "TLS 1.2 and 1.3"),
    row(
        &["cipher-list", "ec-curve-name", "dh-file", "dh566", "dh1066"],
        NotNeeded,
        "",
        "no",
        "those of rustls, all with forward secrecy",
    ),
    row(&["CA-file", "raw-public-keys"], NotSupported, "", "not yet", ""),
];

const PEERS: &[Row] = &[
    row(
        &["denied-peer-ip"],
        TakenOver,
        "deny-peer",
        "`deny-peer = [\"CIDR\"]`",
        "prefixes, not ranges; the most specific prefix wins, of two equal ones the denial, while coturn lets `allowed-peer-ip` win",
    ),
    row(&["allowed-peer-ip"], TakenOver, "allow-peer", "`allow-peer = [\"CIDR\"]`", ""),
    row(
        &["allow-loopback-peers"],
        Unsafe,
        "allow-loopback-peers",
        "`allow-loopback-peers`",
        "for tests on one machine: it opens every local service",
    ),
    row(&["no-multicast-peers"], NotNeeded, "", "always", ""),
    row(
        &[],
        NotNeeded,
        "",
        "always",
        "**private ranges (RFC 1918, ULA) are denied; coturn lets them pass.** So are link-local, cloud metadata, shared and benchmark ranges, and IPv4 inside IPv6",
    ),
];

const LIMITS: &[Row] = &[
    row(
        &["user-quota", "total-quota"],
        TakenOver,
        "user-quota",
        "the same",
        "`user-quota` counts per user, 486 when it is used up",
    ),
    row(
        &["max-bps"],
        TakenOver,
        "max-bitrate",
        "`max-bitrate` (**bits** per second, not bytes), `burst`",
        "a token bucket per allocation and direction; live changes through the API",
    ),
    row(&["bps-capacity"], NotSupported, "", "not yet", "limit each allocation, and their number"),
    row(&["max-allocate-lifetime"], TakenOver, "max-lifetime", "`max-lifetime`", ""),
    row(&["channel-lifetime", "permission-lifetime"], NotNeeded, "", "600 s, 300 s always", "RFC 8656"),
    row(
        &["max-allocate-timeout"],
        NotNeeded,
        "",
        "no",
        "nothing is kept for a client before it has authenticated",
    ),
    row(
        &["unauthorized-ratelimit", "unauthorized-ratelimit-rps"],
        Changed,
        "unauthenticated-rate",
        "`unauthenticated-rate`",
        "on by default, for whoever has not authenticated",
    ),
    row(
        &["drop-invalid-packets", "drop-invalid-packets-log"],
        NotNeeded,
        "",
        "always",
        "and counted by reason",
    ),
];

const BALANCING: &[Row] = &[
    row(
        &["alternate-server", "udp-alternate-server"],
        Changed,
        "alternate-server",
        "`alternate-server`",
        "where clients are sent while this server drains, not round robin",
    ),
    row(&["tls-alternate-server", "tcp-alternate-server"], NotSupported, "", "not yet", ""),
    row(&["udp-self-balance"], NotNeeded, "", "no", "one listener with a worker per core"),
];

const STUN: &[Row] = &[
    row(&["stun-only", "no-stun"], NotSupported, "", "no", "Binding and TURN, both always"),
    row(
        &["stun-backward-compatibility", "rfc3489-compatibility"],
        NotSupported,
        "",
        "no",
        "no MAPPED-ADDRESS, no RFC 3489",
    ),
    row(
        &["fingerprint"],
        NotNeeded,
        "",
        "always",
        "checked if present; answers carry one if the request did",
    ),
    row(&["software-attribute"], TakenOver, "software", "`software`", "`off` sends none"),
    row(&["no-software-attribute"], TakenOver, "software", "`software = \"off\"`", "of older versions"),
    row(&["include-reason-string"], NotNeeded, "", "always", ""),
    row(&["rfc5766-channel-numbers"], TakenOver, "rfc5766-channel-numbers", "`rfc5766-channel-numbers`", ""),
];

const PERFORMANCE: &[Row] = &[
    row(&["relay-threads", "cpus"], Changed, "workers", "`workers`", "one per core"),
    row(
        &["sock-buf-size"],
        NotNeeded,
        "",
        "always",
        "set by the relay within what the kernel allows; see [operations](operations.md#kernel-settings)",
    ),
    row(
        &["udp-recvmmsg", "udp-recvmmsg-log", "udp-sendmmsg-log", "udp-gso"],
        NotNeeded,
        "",
        "`io = \"auto\"`",
        "io_uring or epoll, with receive and send offload where it works",
    ),
    row(&["multiplex-peer", "multiplex-peer-port", "multiplex-peer-max-peers"], NotSupported, "", "no", ""),
];

const PROCESS_AND_LOGS: &[Row] = &[
    row(
        &["daemon", "pidfile", "proc-user", "proc-group"],
        NotNeeded,
        "",
        "systemd",
        "`deploy/systemd/turnpike.service`",
    ),
    row(
        &["log-file", "no-stdout-log", "syslog", "syslog-facility", "simple-log"],
        NotNeeded,
        "",
        "stderr always",
        "the journal, or whatever reads the container's output, keeps and rotates it",
    ),
    row(&["new-log-timestamp", "new-log-timestamp-format"], NotNeeded, "", "RFC 3339 always", ""),
    row(
        &["log-min-level", "Verbose"],
        Changed,
        "log-level",
        "`log-level`",
        "addresses appear from `debug` on",
    ),
    row(&["verbose"], NotNeeded, "", "`log-level = \"info\"`, the default", "one record per allocation"),
    row(&["log-binding"], NotSupported, "", "no", "one record when the allocation ends"),
    row(&[], NotNeeded, "", "`log-format = \"json\"`", ""),
    row(&["drain-min-allocations"], NotSupported, "drain-timeout", "`drain-timeout`", ""),
];

const ADMINISTRATION_AND_METRICS: &[Row] = &[
    row(
        &["cli", "cli-ip", "cli-port", "cli-password", "cli-max-output-sessions"],
        Changed,
        "admin",
        "`admin`, `admin-token-file`",
        "REST API and `turnpike ctl`; no token, no listener",
    ),
    row(
        &["web-admin", "web-admin-ip", "web-admin-port", "web-admin-listen-on-workers"],
        Changed,
        "admin",
        "`admin`",
        "the dashboard is at `/` of that listener",
    ),
    row(&["acme-redirect", "respond-http-unsupported"], NotSupported, "", "no", "no HTTP on TURN ports"),
    row(
        &[
            "prometheus",
            "prometheus-port",
            "prometheus-address",
            "prometheus-path",
            "prometheus-tls",
            "prometheus-cert",
            "prometheus-key",
        ],
        Changed,
        "admin",
        "`admin`, `admin-tls-cert`, `admin-tls-key`",
        "`/metrics` needs a token with the scope `metrics`",
    ),
    row(&["prometheus-username-labels"], NotSupported, "", "no", "unbounded; the API lists users"),
    row(&["no-cli"], NotNeeded, "", "always", "without `admin` there is no listener"),
];

const DEAD_IN_COTURN_TOO: &[Row] = &[row(
    &[
        "no-rfc5780",
        "no-stun-backward-compatibility",
        "response-origin-only-with-rfc5780",
        "prod",
        "no-sslv2",
        "no-sslv3",
        "no-tlsv1",
        "no-tlsv1_1",
        "ne",
        "no-loopback-peers",
        "secret-ts-exp-time",
    ],
    NotNeeded,
    "",
    "leave them out",
    "",
)];
