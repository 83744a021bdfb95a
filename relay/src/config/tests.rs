//! Tests of the whole way from texts to [`Config`].

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

mod admin;
mod coturn;
mod documents;
mod hosts;
mod reload;
mod secrets;
mod streams;

const CREDENTIALS: &str = "user = [\"alice:wonderland\"]\n";

/// A configuration file in a folder of its own.
struct Given {
    folder: tempfile::TempDir,
    environment: Vec<(OsString, OsString)>,
    flags: Vec<String>,
}

impl Given {
    fn file(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_private(&folder.path().join("turnpike.toml"), text);
        Given { folder, environment: Vec::new(), flags: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("turnpike.toml")
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    fn load(&self) -> Result<Loaded, Problems> {
        let command_line = std::iter::once("turnpike".to_owned()).chain(self.flags.clone());
        let matches = crate::cli::command().try_get_matches_from(command_line).expect("clap takes the flags");
        Loader::new(Some(self.path()), self.environment.clone()).with_flags(&matches).load()
    }

    fn config(&self) -> Config {
        self.load().expect("a good configuration").config
    }

    /// The lines of the faults; the file is called by its name alone.
    fn faults(&self) -> Vec<String> {
        let problems = self.load().expect_err("a bad configuration");
        problems.to_string().lines().map(|line| self.shorten(line)).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let warnings = self.load().expect("a good configuration").warnings;
        warnings.iter().map(|warning| self.shorten(&warning.to_string())).collect()
    }

    fn shorten(&self, line: &str) -> String {
        line.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn write_private(path: &Path, text: impl AsRef<[u8]>) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn nothing_but_credentials_gives_the_documented_defaults() {
    let config = Given::file(CREDENTIALS).config();
    assert!(config.listen.is_empty() && config.relay_address.is_empty());
    assert_eq!(config.port_range, PortRange { first: 49152, last: 65535 });
    assert_eq!(config.port_range.count(), 16384);
    assert_eq!(config.realm, "turnpike");
    assert_eq!(config.max_lifetime_secs, 3600);
    assert_eq!(config.burst, Duration::from_millis(100));
    assert_eq!(config.unauthenticated_rate.map(u32::from), Some(100));
    assert_eq!((config.max_permissions, config.max_channels), (512, 1024));
    assert_eq!(config.drain_timeout, Duration::ZERO);
    assert_eq!((config.max_bitrate, config.user_quota, config.total_quota), (None, None, None));
    assert_eq!(config.default_address_family, DefaultFamily::Ipv4);
    assert_eq!((config.log_level, config.log_format), (LogLevel::Info, LogFormat::Text));
    assert_eq!(config.workers, std::thread::available_parallelism().unwrap());
    assert!(!config.allow_loopback_peers && !config.rfc5766_channel_numbers);
    assert_eq!(config.software.as_deref(), Some("Turnpike"));
}

#[test]
fn the_documented_defaults_are_the_real_ones() {
    let real = format!("{:?}", Given::file(CREDENTIALS).config());
    for spec in OPTIONS.iter().filter(|spec| !spec.is_list()) {
        let Some(shown) = spec.default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else {
            continue;
        };
        let value = match spec.kind {
            Kind::Text => format!("{shown:?}"),
            _ => shown.to_owned(),
        };
        let explicit = Given::file(&format!("{CREDENTIALS}{} = {value}\n", spec.key)).config();
        assert_eq!(format!("{explicit:?}"), real, "{}", spec.key);
    }
}

/// Each row: key, value in TOML, the same as text, and what the field then shows.
const ACCEPTED: &[(&str, &str, &str, &str)] = &[
    (
        "listen",
        r#"["127.0.0.1:0", "[::1]:5000"]"#,
        "127.0.0.1:0,[::1]:5000",
        "listen: [127.0.0.1:0, [::1]:5000]",
    ),
    ("listen", r#""127.0.0.1:1""#, "127.0.0.1:1", "listen: [127.0.0.1:1]"),
    ("listen-tcp", r#"["127.0.0.1:443"]"#, "127.0.0.1:443", "listen_tcp: [127.0.0.1:443]"),
    ("no-tcp", "true", "yes", "no_tcp: true"),
    ("no-udp", "true", "yes", "no_udp: true"),
    ("tls-min-version", r#""1.3""#, "1.3", "tls_min_version: V13"),
    (
        "proxy-protocol-from",
        r#"["10.0.0.0/24", "2001:db8::1"]"#,
        "10.0.0.0/24,2001:db8::1",
        "proxy_protocol_from: [10.0.0.0/24, 2001:db8::1/128]",
    ),
    ("proxy-protocol-udp", r#""first""#, "first", "proxy_protocol_udp: First"),
    ("proxy-protocol-udp", r#""off""#, "off", "proxy_protocol_udp: Off"),
    ("max-connections", "1", "1", "max_connections: 1"),
    ("max-connections-per-source", "1000000", "1000000", "max_connections_per_source: 1000000"),
    ("max-half-open", "64", "64", "max_half_open: 64"),
    ("max-half-open-per-source", "8", "8", "max_half_open_per_source: 8"),
    ("handshake-timeout", "60", "60", "handshake_timeout: 60s"),
    ("tls-fallback-proxy-protocol", "true", "yes", "tls_fallback_proxy_protocol: true"),
    ("relay-address", r#"["192.0.2.1"]"#, "192.0.2.1", "relay_address: [192.0.2.1]"),
    ("external-address", r#"["192.0.2.1"]"#, "192.0.2.1", "{ public: Ip(192.0.2.1), local: None }"),
    ("external-address", r#"["192.0.2.1=10.0.0.1"]"#, "192.0.2.1=10.0.0.1", "local: Some(10.0.0.1) }"),
    ("port-range", r#""1024-65535""#, "1024-65535", "PortRange { first: 1024, last: 65535 }"),
    ("port-range", r#""50000-50001""#, "50000 - 50001", "PortRange { first: 50000, last: 50001 }"),
    ("realm", r#""réalm""#, "réalm", "realm: \"réalm\""),
    (
        "allow-peer",
        r#"["10.0.0.0/8", "2001:db8::1"]"#,
        "10.0.0.0/8,2001:db8::1",
        "[10.0.0.0/8, 2001:db8::1/128]",
    ),
    ("deny-peer", r#"["192.0.2.7"]"#, "192.0.2.7", "deny_peer: [192.0.2.7/32]"),
    ("deny-peer", "[]", ",", "deny_peer: []"),
    ("allow-loopback-peers", "true", "yes", "allow_loopback_peers: true"),
    ("allow-tcp-relay", "true", "1", "allow_tcp_relay: true"),
    ("icmp-errors", "true", "on", "icmp_errors: true"),
    ("no-stranger-queue", "true", "on", "no_stranger_queue: true"),
    ("rfc5766-channel-numbers", "true", "1", "rfc5766_channel_numbers: true"),
    ("strict-credential-expiry", "true", "on", "strict_credential_expiry: true"),
    ("default-address-family", r#""keep""#, "keep", "default_address_family: Keep"),
    ("workers", "0x10", "16", "workers: 16"),
    ("io", r#""epoll""#, "epoll", "io: Epoll"),
    ("io", r#""io-uring""#, "io-uring", "io: IoUring"),
    ("coalesce", "200", "200", "coalesce: 200µs"),
    ("max-queue-delay", "50", "50", "max_queue_delay: 50ms"),
    ("max-queue-delay", "0", "0", "max_queue_delay: 0ns"),
    ("offload", r#""off""#, "off", "offload: Off"),
    ("offload", r#""require""#, "require", "offload: Require"),
    ("offload-interface", r#"["eth0", "eth1.5"]"#, "eth0,eth1.5", r#"offload_interface: ["eth0", "eth1.5"]"#),
    ("offload-mode", r#""generic""#, "generic", "offload_mode: Generic"),
    ("no-offload-shield", "true", "true", "no_offload_shield: true"),
    ("max-bitrate", r#""2M""#, "2M", "max_bitrate: Some(2000000)"),
    ("max-bitrate", "64_000", "64k", "max_bitrate: Some(64000)"),
    ("max-bitrate", r#""1G""#, "1000M", "max_bitrate: Some(1000000000)"),
    ("max-bitrate", "0", "0", "max_bitrate: None"),
    ("burst", "10000", "10000", "burst: 10s"),
    ("user-quota", "8", "8", "user_quota: Some(8)"),
    ("total-quota", "4294967295", "4294967295", "total_quota: Some(4294967295)"),
    ("max-permissions", "4096", "4096", "max_permissions: 4096"),
    ("max-channels", "1", "1", "max_channels: 1"),
    ("unauthenticated-rate", "0", "0", "unauthenticated_rate: None"),
    ("state-directory", r#""/run/turnpike""#, "/run/turnpike", r#"state_directory: Some("/run/turnpike")"#),
    ("takeover", "true", "yes", "takeover: true"),
    ("drain-timeout", "86400", "86400", "drain_timeout: 86400s"),
    (
        "alternate-server",
        r#"["192.0.2.1:3478", "[2001:db8::1]:3478"]"#,
        "192.0.2.1:3478,[2001:db8::1]:3478",
        "alternate_server: [192.0.2.1:3478, [2001:db8::1]:3478]",
    ),
    ("admin-host", r#"["Turn.example.org"]"#, "Turn.example.org", r#"admin_host: ["turn.example.org"]"#),
    ("user-database", r#""users.sqlite""#, "users.sqlite", r#"user_database: Some("users.sqlite")"#),
    ("max-lifetime", "600", "600", "max_lifetime_secs: 600"),
    ("software", r#""off""#, "off", "software: None"),
    ("log-level", r#""trace""#, "trace", "log_level: Trace"),
    ("log-format", r#""json""#, "json", "log_format: Json"),
];

#[test]
fn good_values_mean_the_same_from_every_source() {
    for (key, toml, text, expected) in ACCEPTED {
        let spec = OPTIONS.iter().find(|spec| spec.key == *key).expect("a known key");
        let mut flags: Vec<String> = text.split(',').map(|part| format!("--{key}={part}")).collect();
        if *text == "," {
            flags.clear();
        }
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        for given in [
            Given::file(&format!("{CREDENTIALS}{key} = {toml}\n")),
            Given::file(CREDENTIALS).variable(&spec.variable(), text),
            Given::file(CREDENTIALS).flags(&flags),
        ] {
            let config = format!("{:?}", given.config());
            assert!(config.contains(expected), "{key} = {toml} gives {config}");
        }
    }
}

#[test]
fn every_option_has_an_accepted_value_in_the_tests() {
    let apart = ["user", "user-file", "auth-secret", "auth-secret-file"];
    let apart = [&apart[..], streams::TESTED].concat();
    for spec in OPTIONS {
        let tested = apart.contains(&spec.key)
            || admin::TESTED.contains(&spec.key)
            || ACCEPTED.iter().any(|(key, ..)| *key == spec.key);
        assert!(tested, "{}", spec.key);
    }
}

/// Each row: a line of TOML, and the fault it is. The line is the second of its file.
const REFUSED: &[(&str, &str)] = &[
    (r#"port-range = "60000-50000""#, r#"14: port-range: "60000-50000": the first port is above the last"#),
    (r#"port-range = "1023-50000""#, r#"14: port-range: "1023-50000": port 1023 is outside 1024-65535"#),
    (r#"port-range = "50000-65536""#, r#"14: port-range: "50000-65536": port 65536 is outside 1024-65535"#),
    (r#"port-range = "50000-50000""#, r#"14: port-range: "50000-50000": has fewer than 2 ports"#),
    (
        r#"port-range = "+5000-6000""#,
        r#"14: port-range: "+5000-6000": is not FIRST-LAST, such as 49152-65535"#,
    ),
    (r#"port-range = 50000"#, "14: port-range: has a value of type integer: write a string in quotes"),
    (r#"prot-range = "1-2""#, r#"1: unknown key "prot-range": did you mean port-range?"#),
    (r#"Realm = "x""#, r#"1: unknown key "Realm": did you mean realm?"#),
    (r#"frobnicate = 1"#, "1: unknown key \"frobnicate\": `turnpike run --help` lists the keys"),
    (
        r#"listen = ["localhost:3478"]"#,
        r#"11: listen: "localhost:3478": is not IP:PORT, such as 0.0.0.0:3478 or [2001:db8::1]:3478"#,
    ),
    (r#"listen = ["224.0.0.1:3478"]"#, r#"11: listen: "224.0.0.1:3478": is a multicast address"#),
    (r#"listen = ["255.255.255.255:1"]"#, r#"11: listen: "255.255.255.255:1": is the broadcast address"#),
    (
        r#"listen = ["[::ffff:10.0.0.1]:1"]"#,
        r#"11: listen: "[::ffff:10.0.0.1]:1": is IPv4 written as IPv6: write the IPv4 address"#,
    ),
    (r#"listen = ["10.0.0.1:1", "10.0.0.1:1"]"#, r#"25: listen: "10.0.0.1:1": is given twice"#),
    (
        r#"listen = ["10.0.0.1:1", "0.0.0.0:1"]"#,
        r#"25: listen: "0.0.0.0:1": overlaps with 10.0.0.1:1: a wildcard covers every address of its family"#,
    ),
    (r#"listen = []"#, "listen: is empty: name at least one address, or leave it out for the default"),
    (
        r#"listen = [3478]"#,
        r#"11: listen: has a value of type integer: write a list of strings, such as ["...", "..."]"#,
    ),
    (
        r#"relay-address = ["0.0.0.0"]"#,
        r#"18: relay-address: "0.0.0.0": is a wildcard: name an address of this host"#,
    ),
    (
        r#"proxy-protocol-from = ["0.0.0.0/0"]"#,
        r#"24: proxy-protocol-from: "0.0.0.0/0": is everybody: whoever asks could claim any address; name the proxies"#,
    ),
    (
        r#"proxy-protocol-from = ["10.0.0.1/8"]"#,
        r#"24: proxy-protocol-from: "10.0.0.1/8": has bits set after the prefix: write 10.0.0.0/8"#,
    ),
    (r#"proxy-protocol-udp = "on""#, r#"22: proxy-protocol-udp: "on": is none of each, first, off"#),
    (
        r#"tls-fallback = "0.0.0.0:80""#,
        r#"16: tls-fallback: "0.0.0.0:80": is not a server's address: nothing could be passed to it"#,
    ),
    (
        r#"tls-fallback = "localhost:80""#,
        r#"16: tls-fallback: "localhost:80": is not IP:PORT, such as 127.0.0.1:8443 or [::1]:8443"#,
    ),
    (r#"max-connections = 0"#, r#"19: max-connections: "0": is outside 1-1000000"#),
    (r#"handshake-timeout = 61"#, r#"21: handshake-timeout: "61": is outside 1-60 seconds"#),
    (r#"relay-address = ["192.0.2.1", "192.0.2.1"]"#, r#"31: relay-address: "192.0.2.1": is given twice"#),
    (
        r#"relay-address = ["host"]"#,
        r#"18: relay-address: "host": is not an IP address, such as 192.0.2.7 or 2001:db8::7"#,
    ),
    (
        r#"external-address = ["192.0.2.1=2001:db8::1"]"#,
        r#"21: external-address: "192.0.2.1=2001:db8::1": maps between IPv4 and IPv6: both addresses must have one family"#,
    ),
    (
        r#"external-address = ["192.0.2.1", "192.0.2.2"]"#,
        r#"34: external-address: "192.0.2.2": a second one for all IPv4 relay addresses: write PUBLIC=LOCAL"#,
    ),
    (
        r#"external-address = ["192.0.2.1=10.0.0.1", "192.0.2.2=10.0.0.1"]"#,
        r#"43: external-address: "192.0.2.2=10.0.0.1": 10.0.0.1 has another public address already"#,
    ),
    (r#"realm = """#, r#"9: realm: "": is empty"#),
    (r#"realm = "a\u0007b""#, r#"9: realm: "a\u{7}b": it contains a control character"#),
    (
        r#"allow-peer = ["10.0.0.5/8"]"#,
        r#"15: allow-peer: "10.0.0.5/8": has bits set after the prefix: write 10.0.0.0/8"#,
    ),
    (r#"allow-peer = ["10.0.0.0/33"]"#, r#"15: allow-peer: "10.0.0.0/33": the prefix length is above 32"#),
    (
        r#"deny-peer = ["10.0.0.0-10.0.0.9"]"#,
        r#"14: deny-peer: "10.0.0.0-10.0.0.9": is not a prefix or address, such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"#,
    ),
    (
        r#"deny-peer = ["::ffff:10.0.0.0/104"]"#,
        r#"14: deny-peer: "::ffff:10.0.0.0/104": is IPv4 written as IPv6: write the IPv4 prefix"#,
    ),
    (
        r#"allow-loopback-peers = "yes""#,
        "24: allow-loopback-peers: has a value of type string: write true or false, without quotes",
    ),
    (
        r#"default-address-family = "IPv4""#,
        r#"26: default-address-family: "IPv4": is none of ipv4, ipv6, keep"#,
    ),
    (r#"workers = 0"#, r#"11: workers: "0": is outside 1-1024"#),
    (r#"workers = -1"#, r#"11: workers: "-1": is not a whole number of at most 20 digits"#),
    (r#"workers = 1.5"#, "11: workers: has a value of type float: write a whole number"),
    (r#"tls-min-version = "1.1""#, r#"19: tls-min-version: "1.1": is none of 1.2, 1.3"#),
    (r#"io = "uring""#, r#"6: io: "uring": is none of auto, io-uring, epoll"#),
    (r#"coalesce = 1001"#, r#"12: coalesce: "1001": is outside 0-1000 microseconds"#),
    (r#"max-queue-delay = 10001"#, r#"19: max-queue-delay: "10001": is outside 0-10000 milliseconds"#),
    (r#"offload = "yes""#, r#"11: offload: "yes": is none of auto, off, require"#),
    (
        r#"max-bitrate = "2Mbit""#,
        r#"15: max-bitrate: "2Mbit": is not a rate in bits per second, such as 500k, 2M, 1G or 0 for none"#,
    ),
    (r#"max-bitrate = 2"#, r#"15: max-bitrate: "2": is below 1k bits per second: is the unit missing?"#),
    (r#"max-bitrate = "99999999999999G""#, r#"15: max-bitrate: "99999999999999G": is above 1000G"#),
    (
        r#"max-bitrate = "é""#,
        r#"15: max-bitrate: "é": is not a rate in bits per second, such as 500k, 2M, 1G or 0 for none"#,
    ),
    (r#"burst = 0"#, r#"9: burst: "0": is outside 1-10000 milliseconds"#),
    (r#"user-quota = 4294967296"#, r#"14: user-quota: "4294967296": is above 4294967295"#),
    (r#"drain-timeout = 86401"#, r#"17: drain-timeout: "86401": is above 86400 seconds"#),
    (r#"max-lifetime = 599"#, r#"16: max-lifetime: "599": is outside 600-86400 seconds"#),
    (r#"max-permissions = 0"#, r#"19: max-permissions: "0": is outside 1-4096"#),
    (r#"max-channels = 4097"#, r#"16: max-channels: "4097": is outside 1-4096"#),
    (r#"software = """#, r#"12: software: "": is empty: write off to send none"#),
    (r#"log-level = "verbose""#, r#"13: log-level: "verbose": is none of error, warn, info, debug, trace"#),
    (r#"log-format = "xml""#, r#"14: log-format: "xml": is none of text, json"#),
    (r#"user-file = [""]"#, r#"14: user-file: "": is empty"#),
];

#[test]
fn each_bad_value_is_one_line_with_its_place() {
    for (line, expected) in REFUSED {
        // The credentials come second where the line isn't about the file as a whole.
        let given = Given::file(&format!("# turnpike\n{line}\n{CREDENTIALS}"));
        let expected = match expected.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("turnpike.toml:2:{expected}"),
            false => format!("turnpike.toml: {expected}"),
        };
        assert_eq!(given.faults(), [expected], "{line}");
    }
}

#[test]
fn limits_on_lengths_hold_to_the_byte() {
    let load = |line: String| Given::file(&format!("{CREDENTIALS}{line}\n")).load().is_ok();
    assert!(load(format!("realm = {:?}", "r".repeat(127))));
    assert!(!load(format!("realm = {:?}", "r".repeat(128))));
    assert!(load(format!("software = {:?}", "é".repeat(127))));
    assert!(!load(format!("software = {:?}", "é".repeat(128))));
    // RFC 8489 s. 14.3: USERNAME has fewer than 509 bytes.
    let user = |bytes: usize| Given::file(&format!("user = [\"{}:pw\"]", "u".repeat(bytes))).load().is_ok();
    assert!(user(508));
    assert!(!user(509));
}

#[test]
fn all_faults_of_a_file_are_reported_in_its_order() {
    let given = Given::file("burst = 0\nlisten = [\"a\", \"b\"]\nnonsense = 1\nworkers = 0\n");
    let faults = given.faults();
    let places: Vec<_> = faults.iter().map(|line| line.rsplit("turnpike.toml").next().unwrap()).collect();
    let starts = [
        ":1:9: burst",
        ":2:11: listen",
        ":2:16: listen",
        ":3:1: unknown",
        ":4:11: workers",
        ": user: missing",
    ];
    assert_eq!(places.len(), starts.len(), "{faults:#?}");
    for (place, start) in places.iter().zip(starts) {
        assert!(place.starts_with(start), "{place} should start with {start}");
    }
}

#[test]
fn broken_syntax_is_reported_without_guessing_what_follows() {
    let given = Given::file("burst = 0\nrealm = \"x\nuser = [\"alice:hush-hush\n");
    let faults = given.faults();
    assert!(faults[0].starts_with("turnpike.toml:1:9: burst"), "{faults:?}");
    assert!(faults[1].starts_with("turnpike.toml:2:") && faults[1].contains("not TOML"), "{faults:?}");
    assert!(!faults.iter().any(|line| line.contains("missing, and no")), "{faults:?}");
    assert!(!faults.iter().any(|line| line.contains("hush-hush")), "{faults:?}");
}

#[test]
fn what_was_guessed_behind_broken_syntax_is_not_judged() {
    // The parser takes what follows the open bracket for a list, which a realm can't be.
    let faults = Given::file("realm = [\"x\nburst = 0\n").faults();
    assert!(faults.iter().all(|line| line.contains("not TOML")), "{faults:?}");
}

#[test]
fn several_listeners_may_leave_their_port_to_the_kernel() {
    let given = Given::file(&format!("{CREDENTIALS}listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n"));
    assert_eq!(given.config().listen.len(), 2);
    let families = Given::file(&format!("{CREDENTIALS}listen = [\"0.0.0.0:3478\", \"[::]:3478\"]\n"));
    assert_eq!(families.config().listen.len(), 2, "an IPv6 wildcard is IPv6 only");
}

#[test]
fn duplicate_keys_are_refused() {
    let faults = Given::file("user = [\"a:b\"]\nrealm = \"x\"\nrealm = \"y\"\n").faults();
    assert_eq!(faults, ["turnpike.toml:3:1: not TOML: duplicate key"]);
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let given = Given::file("");
    fs::remove_file(given.path()).unwrap();
    let faults = given.faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("turnpike.toml: can't be read: No such file"), "{faults:?}");
}

#[test]
fn without_credentials_nothing_starts() {
    let faults = Given::file("realm = \"x\"\n").faults();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("turnpike.toml: user: missing, and no auth-secret either"), "{faults:?}");
    // An empty list is no credential, neither is an empty variable.
    assert!(Given::file("user = []\n").load().is_err());
    assert!(Given::file("").variable("TURNPIKE_USER", "").load().is_err());
    let nowhere = Loader::new(None, []).load().expect_err("no credentials");
    assert!(nowhere.to_string().starts_with("command line: --user: missing"), "{nowhere}");
}

#[test]
fn later_sources_win() {
    let given = || {
        Given::file(&format!("{CREDENTIALS}realm = \"file\"\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n"))
    };
    assert_eq!(given().config().realm, "file");
    let given =
        || given().variable("TURNPIKE_REALM", "environment").variable("TURNPIKE_LISTEN", "127.0.0.1:3");
    assert_eq!(given().config().realm, "environment");
    assert_eq!(given().config().listen, ["127.0.0.1:3".parse().unwrap()]);
    let config =
        given().flags(&["--realm", "flag", "--listen", "127.0.0.1:4", "--listen", "127.0.0.1:5"]).config();
    assert_eq!(config.realm, "flag");
    assert_eq!(config.listen, ["127.0.0.1:4".parse().unwrap(), "127.0.0.1:5".parse().unwrap()]);
}

#[test]
fn switches_can_be_turned_off_again() {
    let given = || Given::file(&format!("{CREDENTIALS}allow-loopback-peers = true\n"));
    assert!(given().config().allow_loopback_peers);
    assert!(!given().flags(&["--allow-loopback-peers=false"]).config().allow_loopback_peers);
    let off = given().variable("TURNPIKE_ALLOW_LOOPBACK_PEERS", "false");
    assert!(!off.config().allow_loopback_peers);
    assert!(off.flags(&["--allow-loopback-peers"]).config().allow_loopback_peers);
}

#[test]
fn faults_of_environment_and_flags_name_them() {
    let given = Given::file(CREDENTIALS).variable("TURNPIKE_WORKERS", "0").flags(&["--burst", "0"]);
    assert_eq!(
        given.faults(),
        [
            "environment: TURNPIKE_WORKERS: \"0\": is outside 1-1024",
            "command line: --burst: \"0\": is outside 1-10000 milliseconds",
        ]
    );
}

#[test]
fn a_mistyped_variable_is_a_warning_and_a_strange_one_nothing() {
    let given = Given::file(CREDENTIALS)
        .variable("TURNPIKE_REALMS", "x")
        .variable("TURNPIKE_PORT_3478_UDP_ADDR", "10.0.0.1")
        .variable("TURNPIKE_SERVICE_HOST", "10.0.0.1")
        .variable("TURNPIKE_CONFIG", "elsewhere.toml");
    assert_eq!(
        given.warnings(),
        ["environment: TURNPIKE_REALMS: unknown, ignored; did you mean TURNPIKE_REALM?"]
    );
    let faults = Given::file("").variable("TURNPIKE_USRE", "a:b").faults();
    assert!(faults[1].ends_with("did you mean TURNPIKE_USER?"), "{faults:?}");
}

#[test]
fn users_come_from_lists_tables_files_and_variables() {
    let names = |given: Given| -> Vec<(String, String)> {
        let users = given.config().users;
        users.iter().map(|user| (user.name.clone(), user.password.expose().to_owned())).collect()
    };
    let pair = |name: &str, password: &str| (name.to_owned(), password.to_owned());
    let both = vec![pair("alice", "a:b"), pair("bob", "c")];
    assert_eq!(names(Given::file("user = [\"alice:a:b\", \"bob:c\"]")), both);
    assert_eq!(names(Given::file("[user]\nalice = \"a:b\"\nbob = \"c\"\n")), both);
    assert_eq!(names(Given::file("").variable("TURNPIKE_USER", "alice:a:b\nbob:c\n")), both);
    let given = Given::file("");
    let file = given.folder.path().join("users");
    fs::write(&file, "# users\n\nalice:a:b\r\nbob:c\n").unwrap();
    let file = file.to_str().unwrap().to_owned();
    assert_eq!(names(given.variable("TURNPIKE_USER_FILE", &file)), both);
}

#[test]
fn secrets_of_a_later_source_replace_files_too() {
    let exposed = |given: &Given| -> Vec<String> {
        given.config().auth_secrets.iter().map(|secret| secret.expose().to_owned()).collect()
    };
    let given = Given::file("auth-secret = [\"from-the-file\"]\n");
    assert_eq!(exposed(&given), ["from-the-file"]);
    let file = given.folder.path().join("secrets");
    fs::write(&file, "new\nold\n").unwrap();
    let given = given.variable("TURNPIKE_AUTH_SECRET_FILE", file.to_str().unwrap());
    assert_eq!(exposed(&given), ["new", "old"]);
    let given = given.flags(&["--auth-secret", "flag"]);
    assert_eq!(exposed(&given), ["flag"]);
}

#[test]
fn bad_users_and_secrets_are_refused_without_showing_them() {
    for (text, expected) in [
        (
            "user = [\"hush-hush\"]",
            "turnpike.toml:1:9: user: has no colon: write NAME:PASSWORD (the value is not shown)",
        ),
        ("user = [\":hush-hush\"]", "turnpike.toml:1:9: user: the user name is empty"),
        ("user = [\"a:\"]", "turnpike.toml:1:9: user: the password is empty"),
        (
            "user = [\"a\\n:hush-hush\"]",
            "turnpike.toml:1:9: user: the user name contains a control character",
        ),
        (
            "user = [\"a:hush-hush\\u0000\"]",
            "turnpike.toml:1:9: user: the password contains a control character",
        ),
        ("user = [\"a:b\", \"a:hush-hush\"]", "turnpike.toml:1:16: user: the user \"a\" is given twice"),
        ("[user]\n\"a:b\" = \"hush-hush\"", "turnpike.toml:2:1: user: the user name contains a colon"),
        ("[user]\na = 5", "turnpike.toml:2:1: user: the password is not a string in quotes"),
        ("auth-secret = [\"\"]", "turnpike.toml:1:16: auth-secret: is empty"),
        (
            "auth-secret = [\"hush-hush\\t\"]",
            "turnpike.toml:1:16: auth-secret: the secret contains a control character",
        ),
        (
            "auth-secret = { hush-hush = 1 }",
            "turnpike.toml:1:15: auth-secret: has a value of type table: write a list of strings, such as [\"...\", \"...\"]",
        ),
        (
            "auth-secret = [\"change-me-please\"]",
            "turnpike.toml:1:16: auth-secret: is the placeholder of an example, which everybody knows: write a secret of your own",
        ),
    ] {
        assert_eq!(Given::file(text).faults(), [expected], "{text}");
    }
}

#[test]
fn faults_within_a_file_of_users_name_its_line() {
    let given = Given::file("");
    let folder = given.folder.path().to_owned();
    fs::write(folder.join("users"), "alice:pw\nhush-hush\n").unwrap();
    fs::write(folder.join("empty"), "# nothing\n").unwrap();
    let text = format!("user-file = [{:?}, {:?}]", folder.join("users"), folder.join("missing"));
    fs::write(given.path(), text).unwrap();
    let faults = given.faults();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults.iter().any(|line| line.starts_with("users:2:1: user-file: has no colon")), "{faults:?}");
    assert!(faults.iter().any(|line| line.contains("missing\" can't be read: No such file")), "{faults:?}");
    fs::write(given.path(), format!("auth-secret-file = {:?}", folder.join("empty"))).unwrap();
    assert!(given.faults()[0].ends_with("empty\" has no entry"), "{:?}", given.faults());
}

#[test]
fn no_secret_is_in_debug_or_in_any_message() {
    let given = Given::file("user = [\"alice:hush-1\"]\nauth-secret = [\"hush-2\"]\n")
        .variable("TURNPIKE_USER", "alice:hush-3")
        .flags(&["--auth-secret", "hush-4"]);
    let loaded = given.load().unwrap();
    let shown = format!("{loaded:?} {loaded:#?}");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("users: <hidden>") && shown.contains("auth_secrets: <hidden>"), "{shown}");
    let quickstart = Quickstart::generate().unwrap();
    let password = quickstart.generated.as_ref().unwrap().password.expose().to_owned();
    assert!(!format!("{quickstart:?}").contains(&password));
}

#[test]
fn doubtful_combinations_are_warnings() {
    for (text, expected) in [
        (
            "listen = [\"127.0.0.1:50000\"]",
            "turnpike.toml:2:11: listen: \"127.0.0.1:50000\": the port is within port-range (49152-65535), one relayed port less",
        ),
        (
            "relay-address = [\"2001:db8::1\"]",
            "turnpike.toml: default-address-family: no relay address is IPv4: clients that don't ask for a family get error 440 (RFC 8656 s. 7.2)",
        ),
        (
            "relay-address = [\"10.0.0.1\"]",
            "turnpike.toml:2:18: relay-address: \"10.0.0.1\": is private and has no external-address: only that network's clients and peers can reach it",
        ),
        (
            "relay-address = [\"127.0.0.1\"]",
            "turnpike.toml:2:18: relay-address: \"127.0.0.1\": is a loopback address: no other host can reach it",
        ),
        (
            "allow-peer = [\"10.0.0.0/8\"]\ndeny-peer = [\"10.0.0.0/8\"]",
            "turnpike.toml:2:15: allow-peer: \"10.0.0.0/8\": has no effect, deny-peer names the same prefix and wins",
        ),
    ] {
        assert_eq!(Given::file(&format!("{CREDENTIALS}{text}\n")).warnings(), [expected], "{text}");
    }
    let mapped = "relay-address = [\"10.0.0.1\"]\nexternal-address = [\"192.0.2.1\"]\n";
    assert!(Given::file(&format!("{CREDENTIALS}{mapped}")).warnings().is_empty());
}

#[test]
fn external_addresses_need_a_relay_address() {
    for (external, expected) in [
        (
            "192.0.2.1=10.0.0.2",
            "turnpike.toml:3:21: external-address: \"192.0.2.1=10.0.0.2\": 10.0.0.2 is not a relay-address",
        ),
        (
            "2001:db8::1",
            "turnpike.toml:3:21: external-address: \"2001:db8::1\": there is no IPv6 relay-address for it",
        ),
    ] {
        let text =
            format!("{CREDENTIALS}relay-address = [\"10.0.0.1\"]\nexternal-address = [\"{external}\"]\n");
        assert_eq!(Given::file(&text).faults(), [expected]);
    }
}

#[test]
fn a_reload_reads_files_again_and_keeps_the_trial_user() {
    let given = Given::file("realm = \"one\"\n");
    let loader = Loader::new(Some(given.path()), []).with_quickstart(Quickstart::generate().unwrap());
    let first = loader.load().unwrap().config;
    fs::write(given.path(), "realm = \"two\"\n").unwrap();
    let second = loader.load().unwrap().config;
    assert_eq!((first.realm.as_str(), second.realm.as_str()), ("one", "two"));
    assert!(first.users == second.users, "the same user and password");
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

#[test]
fn the_reference_page_is_up_to_date() {
    let page = fs::read_to_string(repository().join("docs/configuration.md")).expect("docs/configuration.md");
    assert!(
        page == reference_markdown(),
        "docs/configuration.md is out of date: run `cargo xtask docs`, or `turnpike config-reference > \
         docs/configuration.md`"
    );
}

#[test]
fn every_example_is_good_but_for_its_placeholders() {
    let mut count = 0;
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            count += 1;
            for loader in
                [Loader::new(Some(path.clone()), []), Loader::new(Some(path.clone()), []).only_to_check()]
            {
                let Problems(faults) = loader.load().expect_err("nobody runs with a published secret");
                assert!(faults.iter().all(|fault| fault.message.contains("placeholder")), "{faults:?}");
            }
        }
    }
    assert!(count >= 5, "{count} examples found");
}

#[test]
fn one_example_shows_every_option() {
    let text = fs::read_to_string(repository().join("examples/all-options.toml")).unwrap();
    for spec in OPTIONS {
        let line = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{} = ", spec.key));
        assert!(text.lines().any(line), "{} is missing", spec.key);
    }
}
