//! The types of configured values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, RangeInclusive};

use turnpike_driver::choose::Backend;
use zeroize::Zeroizing;

/// The port of TURN over UDP and TCP (RFC 8656 s. 4).
pub const DEFAULT_PORT: u16 = 3478;
/// The port of TURN over TLS (RFC 8656 s. 4).
pub const DEFAULT_TLS_PORT: u16 = 5349;

/// Whether two listeners of a transport would take each other's clients. Each port 0 becomes a port of its own.
pub(super) fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let one_covers = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && one_covers
}

/// The ports that relayed transport addresses are taken from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest port, at least 1024.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// How many ports there are: how many allocations one relay address can carry.
    pub fn count(self) -> usize {
        usize::from(self.last) - usize::from(self.first) + 1
    }

    /// All of them.
    pub fn all(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Whether a port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// What a NAT in front of this host makes of one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAddress {
    /// What clients and peers are told.
    pub public: PublicAddress,
    /// The relay address behind it; `None`: all relay addresses of this family.
    pub local: Option<IpAddr>,
}

/// A public address, or who knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PublicAddress {
    /// The address itself.
    Ip(IpAddr),
    /// A host name that resolves to it.
    Name(String),
    /// A STUN server that sees it (RFC 8489 s. 5).
    Stun {
        /// The server's name or IP address.
        host: String,
        /// Its UDP port.
        port: u16,
    },
}

impl ExternalAddress {
    /// Whether it stands for addresses of this family. A name alone is for IPv4, where NATs are.
    pub fn is_for(&self, v4: bool) -> bool {
        match (&self.local, &self.public) {
            (Some(local), _) => local.is_ipv4() == v4,
            (None, PublicAddress::Ip(public)) => public.is_ipv4() == v4,
            (None, _) => v4,
        }
    }
}

impl fmt::Display for ExternalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local {
            Some(local) => write!(f, "{}={local}", self.public),
            None => self.public.fmt(f),
        }
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublicAddress::Ip(ip) => ip.fmt(f),
            PublicAddress::Name(name) => f.write_str(name),
            PublicAddress::Stun { host, port } if host.contains(':') => write!(f, "stun:[{host}]:{port}"),
            PublicAddress::Stun { host, port } => write!(f, "stun:{host}:{port}"),
        }
    }
}

/// A configured secret: wiped when dropped, neither `Debug` nor `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: Zeroizing<String>) -> Self {
        Secret(text)
    }

    /// The text itself: for computing keys, never for output.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A user with a fixed password (long-term credentials, RFC 8489 s. 9.2).
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// USERNAME as the client sends it, before any string preparation.
    pub name: String,
    /// The password, before any string preparation.
    pub password: Secret,
}

/// A token of the administration, and what it is good for.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken {
    /// What its holder may do.
    pub scopes: Vec<AdminScope>,
    /// The token itself.
    pub token: Secret,
}

/// A value that `Debug` doesn't show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

impl<T> Deref for Hidden<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Hidden<T> {
    fn from(value: T) -> Self {
        Hidden(value)
    }
}

/// Declares an enum whose variants are written as words in the configuration.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every word, as it is written in the configuration.
            pub const WORDS: &'static [(&'static str, $name)] = &[$(($word, $name::$variant),)*];

            /// The word in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// Which family a relayed address has when the client doesn't ask for one.
    DefaultFamily {
        /// IPv4, as RFC 8656 s. 7.2 says.
        Ipv4 = "ipv4",
        /// IPv6.
        Ipv6 = "ipv6",
        /// The family that the client's own address has.
        Keep = "keep",
    }
}

words! {
    /// How datagrams are moved between the kernel and the process.
    IoBackend {
        /// io_uring where it works, else epoll.
        Auto = "auto",
        /// io_uring, Linux 6.1 and newer.
        IoUring = "io-uring",
        /// `epoll` with `recvmmsg` and `sendmmsg`.
        Epoll = "epoll",
    }
}

impl IoBackend {
    /// The driver that has to be, or `None` for what works.
    pub fn wanted(self) -> Option<Backend> {
        match self {
            IoBackend::Auto => None,
            IoBackend::IoUring => Some(Backend::IoUring),
            IoBackend::Epoll => Some(Backend::Epoll),
        }
    }
}

words! {
    /// Whether ChannelData may be forwarded within the kernel.
    Offload {
        /// Where possible, else in userspace.
        Auto = "auto",
        /// Never.
        Off = "off",
        /// On every interface that is asked for, or the relay doesn't start.
        Require = "require",
    }
}

words! {
    /// How the kernel's program gets its frames.
    OffloadMode {
        /// From the driver.
        Native = "native",
        /// From the network stack: slow, for tests only.
        Generic = "generic",
    }
}

words! {
    /// Where trusted proxies write a header of the PROXY protocol over UDP.
    ProxyUdp {
        /// In front of each datagram.
        Each = "each",
        /// In front of the first datagram of each 5-tuple, and of any later one.
        First = "first",
        /// Nowhere: what comes from them by UDP is their own.
        Off = "off",
    }
}

words! {
    /// The oldest version of TLS that clients may speak.
    TlsVersion {
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
}

words! {
    /// What a token of the administration is good for.
    AdminScope {
        /// Scrape the metrics.
        Metrics = "metrics",
        /// Look at everything, metrics included.
        Read = "read",
        /// Hand out time-limited credentials.
        Credentials = "credentials",
        /// Everything.
        Admin = "admin",
    }
}

words! {
    /// The least severe records that are written.
    LogLevel {
        /// Failures only.
        Error = "error",
        /// Also what needs somebody's attention.
        Warn = "warn",
        /// Also starts, stops and one record per allocation.
        Info = "info",
        /// Also single requests, with addresses.
        Debug = "debug",
        /// Also what single packets trigger.
        Trace = "trace",
    }
}

words! {
    /// How log records are written.
    LogFormat {
        /// One line of text each.
        Text = "text",
        /// One JSON object each.
        Json = "json",
    }
}

/// The credentials that a trial uses if none are configured.
#[derive(Clone, Debug)]
pub struct Quickstart {
    /// The generated user, or `None` once configured credentials took its place.
    pub generated: Option<Hidden<User>>,
    /// The generated token of the administration, or `None` once configured tokens took its place.
    pub admin_token: Option<Hidden<Secret>>,
}
