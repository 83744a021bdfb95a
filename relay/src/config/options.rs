//! The one table of options.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::parse;
use super::report::Report;
use super::settings::Settings;
use super::show::{Shown, ToShown};
use super::types::{
    AdminToken, DefaultFamily, ExternalAddress, Hidden, IoBackend, LogFormat, LogLevel, Offload, OffloadMode,
    PortRange, ProxyUdp, Quickstart, Secret, TlsVersion, User,
};

/// What kind of value an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One text or word.
    Text,
    /// One number, perhaps with a unit.
    Number,
    /// `true` or `false`; the bare flag means `true`.
    Switch,
    /// Any number of texts.
    List,
    /// Any number of secrets: never shown in any message.
    Secrets,
}

/// One option as the flags, the file, the environment and the reference know it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The key in the file and, after `--`, the flag.
    pub key: &'static str,
    /// How its value is read and shown.
    pub kind: Kind,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// The default, in words.
    pub default: &'static str,
    /// What it does: the doc comment of the field in [`Config`].
    pub doc: &'static str,
    /// When a change of it takes effect.
    pub changes: Changes,
}

/// When a changed option takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// With a reload, while the relay runs.
    OnReload,
    /// With the next start.
    OnRestart,
}

impl Spec {
    /// The environment variable: `TURNPIKE_AUTH_SECRET` for `auth-secret`.
    pub fn variable(&self) -> String {
        format!("TURNPIKE_{}", self.key.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether a reload applies a change of it.
    pub fn is_reloadable(&self) -> bool {
        self.changes == Changes::OnReload
    }

    /// Whether several values may be given.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Secrets)
    }
}

const fn connections(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("more than none")
}

/// Declares [`Config`] and [`OPTIONS`] side by side: `doc, "key" Kind("VALUE") field: type = default,
/// shown "default in words", parser, on reload|restart`.
macro_rules! options {
    ($(
        $(#[doc = $doc:literal])+
        $key:literal $kind:ident($value:literal) $field:ident: $type:ty = $default:expr,
        shown $shown:literal, $parse:expr, on $changes:ident;
    )+) => {
        /// Everything that can be configured, checked. Where `listen` and `relay_address` are empty,
        /// [`resolve`](super::resolve) tells what they mean on this host.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nDefault: ", $shown, ".")] pub $field: $type,)+
            /// Set by `--quickstart`: a trial on this machine, see [`Quickstart`].
            pub quickstart: Option<Quickstart>,
        }

        impl Default for Config {
            /// The documented defaults. They have no credentials, so they serve nobody.
            fn default() -> Self {
                Config { $($field: $default,)+ quickstart: None }
            }
        }

        impl Config {
            /// Every option's value in force, in the order of [`OPTIONS`]; secrets are only counted.
            pub fn shown(&self) -> Vec<Shown> {
                vec![$(self.$field.to_shown($value),)*]
            }

            /// The keys of the options that differ, in the order of [`OPTIONS`]: secrets as well, which no text
            /// shows.
            pub fn differences(&self, other: &Config) -> Vec<&'static str> {
                let mut keys = Vec::new();
                $(if self.$field != other.$field { keys.push($key); })+
                keys
            }

            /// This one with whatever a reload applies of `new`.
            pub fn reloaded(&self, new: &Config) -> Config {
                let mut config = self.clone();
                $(options!(@reload $changes config.$field, new.$field);)+
                config
            }
        }

        /// Every option, in the order of the reference.
        pub const OPTIONS: &[Spec] = &[$(Spec {
            key: $key,
            kind: Kind::$kind,
            value: $value,
            default: $shown,
            doc: concat!($($doc, "\n"),+),
            changes: options!(@changes $changes),
        },)+];

        /// Turns texts into types; each that can't be is a fault, and its field keeps the default.
        pub(super) fn assign(settings: &mut Settings, report: &mut Report) -> Config {
            let mut config = Config::default();
            $(options!(@store $kind settings, report, config.$field, $key, $parse);)+
            config
        }
    };
    (@changes reload) => { Changes::OnReload };
    (@changes restart) => { Changes::OnRestart };
    (@reload reload $slot:expr, $new:expr) => { $slot = $new.clone(); };
    (@reload restart $slot:expr, $new:expr) => {};
    (@store List $settings:ident, $report:ident, $slot:expr, $key:literal, $parse:expr) => {
        if let Some(values) = $settings.list($key, $parse, $report) { $slot = values; }
    };
    (@store Secrets $settings:ident, $report:ident, $slot:expr, $key:literal, $parse:expr) => {
        if let Some(values) = $settings.secrets($key, $parse, $report) { $slot = Hidden(values); }
    };
    (@store $kind:ident $settings:ident, $report:ident, $slot:expr, $key:literal, $parse:expr) => {
        if let Some(value) = $settings.one($key, $parse, $report) { $slot = value; }
    };
}

options! {
    /// Address and port where clients reach the relay by UDP. An IPv6 wildcard covers IPv6 only, so
    /// write both wildcards for both families. Port 0 lets the kernel choose. An address that isn't there yet is
    /// waited for.
    "listen" List("IP:PORT") listen: Vec<SocketAddr> = Vec::new(),
    shown "`0.0.0.0:3478`, and `[::]:3478` where the host has IPv6", parse::listen, on restart;

    /// Address and port where clients reach the relay by TCP, for those whose networks let no UDP pass; peers are
    /// reached by UDP all the same. Together with `listen-tls` on one port, the first byte decides.
    "listen-tcp" List("IP:PORT") listen_tcp: Vec<SocketAddr> = Vec::new(),
    shown "the addresses of `listen`, as RFC 8656 has it", parse::listen, on restart;

    /// Take no TURN over TCP without TLS.
    "no-tcp" Switch("BOOL") no_tcp: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Address and port where clients reach the relay by TLS over TCP (`turns:`). Port 443 passes most firewalls.
    "listen-tls" List("IP:PORT") listen_tls: Vec<SocketAddr> = Vec::new(),
    shown "with a `tls-cert`, port 5349 of the addresses of `listen`; else none", parse::listen, on restart;

    /// File with a certificate chain (PEM) for clients, the server's own certificate first. Of several, the name
    /// that a client looks for (SNI) decides; the first is for everybody else. The files are read again when they
    /// change and with a reload, without dropping a connection; if they can't be used, the certificate from before
    /// stays in force.
    "tls-cert" List("FILE") tls_cert: Vec<PathBuf> = Vec::new(),
    shown "none", parse::path, on restart;

    /// File with the private key (PEM) of each `tls-cert`, in the same order. It may be the same file.
    "tls-key" List("FILE") tls_key: Vec<PathBuf> = Vec::new(),
    shown "none", parse::path, on restart;

    /// Oldest version of TLS that clients may speak.
    "tls-min-version" Text("1.2|1.3") tls_min_version: TlsVersion = TlsVersion::V12,
    shown "`1.2`", parse::tls_version, on restart;

    /// Address and port of a server, most often a website's, that takes what comes to `listen-tls` and is not TURN's: TLS
    /// for other names (SNI) or protocols (ALPN), and whatever is neither TLS nor STUN. It is passed on as it is.
    /// docs/tls.md has the rules, and a complete example for port 443.
    "tls-fallback" Text("IP:PORT") tls_fallback: Option<SocketAddr> = None,
    shown "none: it is refused", parse::fallback, on restart;

    /// Begin each connection to `tls-fallback` with a header of the PROXY protocol, version 2, so that it knows the
    /// client's address (nginx: `listen ... ssl proxy_protocol`).
    "tls-fallback-proxy-protocol" Switch("BOOL") tls_fallback_proxy_protocol: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Proxies that are trusted to say by the PROXY protocol, version 2, which client they speak for: a prefix or one
    /// address. Each of their connections, before TLS, and of their datagrams has to begin with a header; quotas,
    /// limits, nonces, XOR-MAPPED-ADDRESS, log and API then go by the client's own address. From anybody else a header
    /// is refused.
    "proxy-protocol-from" List("CIDR") proxy_protocol_from: Vec<IpNet> = Vec::new(),
    shown "none", parse::proxies, on reload;

    /// Where proxies write the header over UDP: in front of `each` datagram, of the `first` of each client's 5-tuple
    /// (and perhaps of later ones), or nowhere, `off`, if what they send by UDP is their own.
    "proxy-protocol-udp" Text("each|first|off") proxy_protocol_udp: ProxyUdp = ProxyUdp::Each,
    shown "`each`", parse::proxy_udp, on restart;

    /// Connections over TCP and TLS that each worker takes, 1 to 1000000; those of `tls-fallback` count, too. No more
    /// than half of the limit on open files, for all workers together.
    "max-connections" Number("N") max_connections: NonZeroUsize = connections(16_384),
    shown "`16384`", parse::connections, on restart;

    /// Of these, those from one source (IPv4 address or IPv6 /64).
    "max-connections-per-source" Number("N") max_connections_per_source: NonZeroUsize = connections(4096),
    shown "`4096`", parse::connections, on restart;

    /// Connections of each worker that have not sent a message yet; beyond them an old one makes room for a new one.
    "max-half-open" Number("N") max_half_open: NonZeroUsize = connections(1024),
    shown "`1024`", parse::connections, on restart;

    /// Of these, those from one source; beyond them new ones are refused.
    "max-half-open-per-source" Number("N") max_half_open_per_source: NonZeroUsize = connections(256),
    shown "`256`", parse::connections, on restart;

    /// Seconds for a TLS handshake, with the PROXY protocol's header before it, and then for the first message, 1 to
    /// 60 each.
    "handshake-timeout" Number("S") handshake_timeout: Duration = Duration::from_secs(5),
    shown "`5`", parse::handshake_timeout, on restart;

    /// Take no TURN over UDP: clients come by TCP or TLS only. `listen` still says on which addresses.
    "no-udp" Switch("BOOL") no_udp: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Address of this host that relayed transport addresses are taken from. One that isn't there yet is waited
    /// for. Without any, clients that talk to another address of the host than its primary one are relayed from
    /// that one, unless the primary one is public and it is not.
    "relay-address" List("IP") relay_address: Vec<IpAddr> = Vec::new(),
    shown "the addresses of the listeners; for a wildcard, the host's primary address of that family",
    parse::relay_address, on restart;

    /// Public address that clients and peers are told, when a NAT in front of this host maps it to a
    /// relay address. `PUBLIC` alone stands for every relay address of its family, `PUBLIC=LOCAL` for one.
    /// `PUBLIC` is an IP address, a host name that resolves to it, or `stun:HOST[:PORT]`, a STUN server that
    /// sees it; both are asked again each minute and when the host's addresses change. A name without `LOCAL`
    /// stands for the IPv4 relay addresses.
    "external-address" List("PUBLIC[=LOCAL]") external_address: Vec<ExternalAddress> = Vec::new(),
    shown "none", parse::external_address, on reload;

    /// First and last port of relayed transport addresses, between 1024 and 65535. Each allocation
    /// needs one, so the range bounds the number of allocations per relay address.
    "port-range" Text("FIRST-LAST") port_range: PortRange = PortRange { first: 49152, last: 65535 },
    shown "`49152-65535`", parse::port_range, on restart;

    /// Realm of the credentials (RFC 8489 s. 14.9), at most 127 bytes. Clients show it to their users;
    /// changing it makes every stored key invalid.
    "realm" Text("TEXT") realm: String = "turnpike".to_owned(),
    shown "`turnpike`", parse::realm, on restart;

    /// User with a fixed password; the name can't contain a colon. In the file also a table: `[user]`
    /// with lines `NAME = "PASSWORD"`. Other processes can see the command line: prefer `user-file`,
    /// the configuration file or the environment.
    "user" Secrets("NAME:PASSWORD") users: Hidden<Vec<User>> = Hidden(Vec::new()),
    shown "none", parse::user, on reload;

    /// File with one `NAME:PASSWORD` per line; empty lines and lines that start with `#` don't count. Passwords
    /// with fewer than 8 characters, and files that everybody can read, are warned of.
    "user-file" List("FILE") user_file: Vec<PathBuf> = Vec::new(),
    shown "none", parse::path, on reload;

    /// Secret shared with the service that hands out time-limited credentials: user name
    /// `EXPIRY:USER`, password base64(HMAC-SHA1(secret, user name)). Any of several may match, so
    /// that they can be rotated. Use at least 32 random characters, and prefer `auth-secret-file`,
    /// the configuration file or the environment to the command line, which other processes can see.
    "auth-secret" Secrets("SECRET") auth_secrets: Hidden<Vec<Secret>> = Hidden(Vec::new()),
    shown "none", parse::secret, on reload;

    /// File with one such secret per line; empty lines and comments (`#` and a space in the first column) don't
    /// count. A secret stands there as it is, without quotes and without spaces around it. Secrets with fewer
    /// than 16 characters, and files that everybody can read, are warned of.
    "auth-secret-file" List("FILE") auth_secret_file: Vec<PathBuf> = Vec::new(),
    shown "none", parse::path, on reload;

    /// Peers that may be reached although a rule denies them: a prefix or one address. The most specific
    /// prefix decides; of two equal ones, the denial. Loopback, link-local, private, multicast, cloud
    /// metadata and other special addresses are denied unless allowed here; metadata addresses only
    /// by their exact address.
    "allow-peer" List("CIDR") allow_peer: Vec<IpNet> = Vec::new(),
    shown "none", parse::network, on reload;

    /// Peers that must not be reached: a prefix or one address.
    "deny-peer" List("CIDR") deny_peer: Vec<IpNet> = Vec::new(),
    shown "none beyond the built-in ones", parse::network, on reload;

    /// Allow peers on loopback addresses. For tests on one machine: it opens every local service that
    /// listens on UDP to every user of the relay.
    "allow-loopback-peers" Switch("BOOL") allow_loopback_peers: bool = false,
    shown "`false`", parse::switch, on reload;

    /// Relay TCP, too, for clients that ask for it (RFC 6062): they come by TCP or TLS, and reach their peers by TCP.
    /// Which peers, the same rules say. docs/tcp-relay.md says more.
    "allow-tcp-relay" Switch("BOOL") allow_tcp_relay: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Tell clients that a peer can't be reached, by a Data indication that has ICMP and no DATA (RFC 8656 s. 11.5).
    /// Not by default: clients made with pion/turn hear nothing any more after the first.
    "icmp-errors" Switch("BOOL") icmp_errors: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Accept channel numbers 0x5000 to 0x7FFF, which RFC 5766 allowed and RFC 8656 s. 12 reserves.
    /// Old clients need it, for example `turnutils_uclient` 4.6.
    "rfc5766-channel-numbers" Switch("BOOL") rfc5766_channel_numbers: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Family of the relayed address when the client doesn't ask for one: `ipv4` (RFC 8656 s. 7.2),
    /// `ipv6`, or `keep` for the family that the client itself uses.
    "default-address-family" Text("ipv4|ipv6|keep") default_address_family: DefaultFamily = DefaultFamily::Ipv4,
    shown "`ipv4`", parse::default_family, on restart;

    /// Number of worker threads.
    "workers" Number("N") workers: NonZeroUsize = parse::cores(),
    shown "one per core", parse::workers, on restart;

    /// How datagrams reach the process: `io-uring` (Linux 6.1, and where no sandbox forbids it), `epoll`,
    /// or `auto` for io_uring where it works and epoll elsewhere. `turnpike probe` says what works.
    "io" Text("auto|epoll|io-uring") io: IoBackend = IoBackend::Auto,
    shown "`auto`", parse::io, on restart;

    /// Microseconds for which a busy worker waits for more datagrams when none is there, 0 to 1000; 0 never
    /// waits. Fewer wake-ups then cost less CPU, for a delay of at most this time. A worker that uses less than
    /// half of a processor does not wait; the wait grows with its load, up to this time at three quarters, and
    /// is made only while several datagrams arrive in it, one by one.
    "coalesce" Number("US") coalesce: Duration = Duration::from_micros(150),
    shown "`150`", parse::coalesce, on restart;

    /// Let those that have no allocation wait in the same queue as those that have. Otherwise they have a short one of
    /// their own, which is read last, so that a flood of theirs fills no other: by an eBPF program, where the kernel
    /// permits it (CAP_BPF).
    "no-stranger-queue" Switch("BOOL") no_stranger_queue: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Milliseconds for which data may wait in a socket, 0 to 10000; 0 is no bound. What has waited longer, because
    /// the process or the machine stood still, is dropped and counted as `drop_late`: a call has long gone on
    /// without it. Requests are answered however late they are. The kernel fast path has no queue.
    "max-queue-delay" Number("MS") max_queue_delay: Duration = Duration::from_millis(200),
    shown "`200`", parse::max_queue_delay, on restart;

    /// Whether the kernel may forward ChannelData by itself (XDP): `auto` where that is possible, and in
    /// userspace elsewhere; `off` never; `require` refuses to start unless every interface asked for takes
    /// the program. It needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. `turnpike probe` and the ready line
    /// say what came of it, and why; docs/offload.md says more.
    "offload" Text("auto|off|require") offload: Offload = Offload::Auto,
    shown "`auto`", parse::offload, on restart;

    /// Interface on which the kernel may forward: the one that has the address, a VLAN or a bond for instance
    /// (docs/offload.md). Loopback, bridges, and their ports never do. Software interfaces such as `veth`
    /// only do if they are named here: their far end must not leave checksums to hardware (`ethtool -K DEV tx
    /// off` there).
    "offload-interface" List("IF") offload_interface: Vec<String> = Vec::new(),
    shown "the hardware interfaces that have the relay's addresses", parse::interface, on restart;

    /// How the kernel's program gets its frames: `native`, from the driver, or `generic`, from the network
    /// stack, which is slow and for tests only.
    "offload-mode" Text("native|generic") offload_mode: OffloadMode = OffloadMode::Native,
    shown "`native`", parse::offload_mode, on restart;

    /// Let userspace see all that comes to a listener. Without this the kernel's program drops what is neither STUN nor
    /// ChannelData there, and counts it as `drop_not_turn`.
    "no-offload-shield" Switch("BOOL") no_offload_shield: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Limit for each allocation and direction, bits per second of payload, with `k`, `M` or `G` for powers
    /// of 1000; 0 means none. Datagrams above it are dropped and counted; clients over TCP and TLS are made to
    /// wait instead.
    "max-bitrate" Number("BITS") max_bitrate: Option<NonZeroU64> = None,
    shown "`0`", parse::bitrate, on restart;

    /// Milliseconds for which an allocation may exceed its `max-bitrate` after a pause, 1 to 10000.
    "burst" Number("MS") burst: Duration = Duration::from_millis(100),
    shown "`100`", parse::burst, on restart;

    /// Allocations that one user may hold at once; 0 means any number. With time-limited credentials the
    /// part behind the expiry names the user.
    "user-quota" Number("N") user_quota: Option<NonZeroU32> = None,
    shown "`0`", parse::limit, on reload;

    /// Allocations that all users may hold at once; 0 means any number.
    "total-quota" Number("N") total_quota: Option<NonZeroU32> = None,
    shown "`0`", parse::limit, on reload;

    /// Permissions that one allocation may have, 1 to 4096: one for each peer's IP address. Beyond them
    /// CreatePermission and ChannelBind get 508.
    "max-permissions" Number("N") max_permissions: u32 = 512,
    shown "`512`", parse::per_allocation, on restart;

    /// Channels that one allocation may have, 1 to 4096: one for each peer's IP address and port. Beyond them
    /// ChannelBind gets 508.
    "max-channels" Number("N") max_channels: u32 = 1024,
    shown "`1024`", parse::per_allocation, on restart;

    /// Answers per second to each source (IPv4 address or IPv6 /64) that hasn't authenticated; 0
    /// means no limit. Bounds what a spoofed source address can reflect.
    "unauthenticated-rate" Number("N") unauthenticated_rate: Option<NonZeroU32> = NonZeroU32::new(100),
    shown "`100`", parse::limit, on reload;

    /// End allocations whose time-limited credentials have expired at their next request. Otherwise
    /// the expiry counts when an allocation is made, and a long call outlives it.
    "strict-credential-expiry" Switch("BOOL") strict_credential_expiry: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Seconds that existing allocations may live on after SIGTERM, up to 86400; a second signal
    /// stops at once.
    "drain-timeout" Number("S") drain_timeout: Duration = Duration::ZERO,
    shown "`0`", parse::drain_timeout, on reload;

    /// Folder of this relay alone, where the process that is started in its place finds it: see `takeover`. It is
    /// made if it isn't there, and nobody else may write to it.
    "state-directory" Text("DIR") state_directory: Option<PathBuf> = None,
    shown "none: a restart ends all calls", parse::optional_path, on restart;

    /// Go on with the clients over UDP of the process that runs with the same `state-directory`, and with its
    /// listeners; it ends then. Without such a process this is a start like any other.
    "takeover" Switch("BOOL") takeover: bool = false,
    shown "`false`", parse::switch, on restart;

    /// Where clients are sent (300 with ALTERNATE-SERVER, RFC 8489 s. 10) whose new allocations this relay
    /// refuses while it drains: at most one address of each family. Without one they get 508.
    "alternate-server" List("IP:PORT") alternate_server: Vec<SocketAddr> = Vec::new(),
    shown "none", parse::alternate_server, on reload;

    /// Longest lifetime of an allocation between two refreshes, seconds, 600 to 86400
    /// (RFC 8656 s. 7.2).
    "max-lifetime" Number("S") max_lifetime_secs: u32 = 3600,
    shown "`3600`", parse::max_lifetime, on restart;

    /// SOFTWARE attribute of authenticated answers (RFC 8489 s. 14.14), fewer than 128 characters;
    /// `off` sends none.
    "software" Text("TEXT|off") software: Option<String> = Some("Turnpike".to_owned()),
    shown "`Turnpike`", parse::software, on restart;

    /// Address and port of the administration by HTTP: REST API, metrics, dashboard. It is only there
    /// if a token is configured, on loopback addresses too. Use TLS, here or in front of it, on others.
    "admin" Text("IP:PORT") admin: Option<SocketAddr> = None,
    shown "none", parse::admin, on restart;

    /// Token that may do everything the administration can, at least 16 characters. Other processes
    /// can see the command line: prefer `admin-token-file`, the configuration file or the environment.
    "admin-token" Secrets("TOKEN") admin_tokens: Hidden<Vec<AdminToken>> = Hidden(Vec::new()),
    shown "none", parse::admin_token, on reload;

    /// File with one `[SCOPE,...:]TOKEN` per line; the scopes are `metrics` (scrape), `read` (look at
    /// everything), `credentials` (hand out credentials) and `admin` (everything, also without a scope).
    "admin-token-file" List("FILE") admin_token_file: Vec<PathBuf> = Vec::new(),
    shown "none", parse::path, on reload;

    /// File with the certificate chain (PEM) for the administration by HTTPS. It and its key are read again with
    /// a reload, and when they change; if they can't be used, the certificate from before stays in force.
    "admin-tls-cert" Text("FILE") admin_tls_cert: Option<PathBuf> = None,
    shown "none: plain HTTP", parse::optional_path, on restart;

    /// File with the private key (PEM) of `admin-tls-cert`.
    "admin-tls-key" Text("FILE") admin_tls_key: Option<PathBuf> = None,
    shown "none", parse::optional_path, on restart;

    /// Name by which browsers and programs reach the administration, as in the Host header, without a
    /// port; any other is refused, against DNS rebinding. IP addresses and `localhost` always count.
    "admin-host" List("NAME") admin_host: Vec<String> = Vec::new(),
    shown "none", parse::host_name, on restart;

    /// SQLite database with further users, which the administration writes: keys of passwords, quota and
    /// bitrate. It is created if it doesn't exist. A user of the configuration wins over one in it.
    "user-database" Text("FILE") user_database: Option<PathBuf> = None,
    shown "none: users of the configuration only", parse::optional_path, on restart;

    /// Least severe log records that are written: `error`, `warn`, `info`, `debug` or `trace`. From
    /// `debug` on they contain the addresses of clients and peers.
    "log-level" Text("LEVEL") log_level: LogLevel = LogLevel::Info,
    shown "`info`", parse::log_level, on restart;

    /// Format of the log, which goes to stderr: `text` or `json`, one record per line.
    "log-format" Text("text|json") log_format: LogFormat = LogFormat::Text,
    shown "`text`", parse::log_format, on restart;
}
