//! From text to type, one value at a time. A fault says what would be right and never repeats
//! the text: the caller does, unless it is a secret.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use turnpike_admin::limits::MAX_BITS_PER_SEC;
use turnpike_proto::auth::prepare_name;
use turnpike_proto::limits::{DEFAULT_LIFETIME_SECS, MAX_USERNAME, MOST_PER_ALLOCATION};
use zeroize::Zeroizing;

use super::types::{
    AdminScope, AdminToken, DEFAULT_PORT, DefaultFamily, ExternalAddress, IoBackend, LogFormat, LogLevel,
    Offload, OffloadMode, PortRange, ProxyUdp, PublicAddress, Secret, TlsVersion, User,
};
use crate::limits::{
    MAX_BURST_MS, MAX_COALESCE_US, MAX_CONNECTIONS, MAX_HANDSHAKE_SECS, MAX_HOST_BYTES, MAX_PERIOD_SECS,
    MAX_QUEUE_DELAY_MS, MAX_REALM_BYTES, MAX_SECRET_BYTES, MAX_WORKERS,
};

/// Lowest port of a relayed address: those below belong to privileged services.
const MIN_RELAY_PORT: u16 = 1024;
/// SOFTWARE has fewer characters than this (RFC 8489 s. 14.14).
const SOFTWARE_CHARS: usize = 128;
/// Shortest token of the administration, characters: too many to guess at the rate that it allows.
const MIN_TOKEN_CHARS: usize = 16;

type Parsed<T> = Result<T, String>;

pub(super) fn listen(text: &str) -> Parsed<SocketAddr> {
    let address: SocketAddr =
        text.parse().map_err(|_| "is not IP:PORT, such as 0.0.0.0:3478 or [2001:db8::1]:3478".to_owned())?;
    usable(address.ip())?;
    Ok(address)
}

pub(super) fn relay_address(text: &str) -> Parsed<IpAddr> {
    let ip = ip(text)?;
    usable(ip)?;
    if ip.is_unspecified() {
        return Err("is a wildcard: name an address of this host".to_owned());
    }
    Ok(ip)
}

pub(super) fn external_address(text: &str) -> Parsed<ExternalAddress> {
    let (public, local) = match text.split_once('=') {
        Some((public, local)) => (public_address(public.trim())?, Some(relay_address(local.trim())?)),
        None => (public_address(text)?, None),
    };
    if let (PublicAddress::Ip(public), Some(local)) = (&public, local)
        && local.is_ipv4() != public.is_ipv4()
    {
        return Err("maps between IPv4 and IPv6: both addresses must have one family".to_owned());
    }
    Ok(ExternalAddress { public, local })
}

fn public_address(text: &str) -> Parsed<PublicAddress> {
    if let Some(server) = text.strip_prefix("stun:") {
        return stun_server(server);
    }
    // What looks like an address is meant as one.
    if text.contains(':') || text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return relay_address(text).map(PublicAddress::Ip);
    }
    named_host(text).map(PublicAddress::Name)
}

/// As in a `stun:` URI (RFC 7064 s. 3.1).
fn stun_server(text: &str) -> Parsed<PublicAddress> {
    let port_number = |text: &str| {
        let port =
            plain_number::<u32>(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        port.ok_or_else(|| "has no port between 1 and 65535 after the last colon".to_owned())
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("has no closing bracket")?;
            ip(host)?;
            (host, rest.strip_prefix(':').map(port_number).transpose()?)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port_number(port)?)),
            None => (text, None),
        },
    };
    let host = if host.parse::<IpAddr>().is_ok() { host.to_owned() } else { named_host(host)? };
    Ok(PublicAddress::Stun { host, port: port.unwrap_or(DEFAULT_PORT) })
}

fn named_host(text: &str) -> Parsed<String> {
    host_name(text).map_err(|_| "is no IP address, host name or stun:HOST[:PORT]".to_owned())
}

pub(super) fn port_range(text: &str) -> Parsed<PortRange> {
    let shape = || "is not FIRST-LAST, such as 49152-65535".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(shape)?;
    let number = |text: &str| -> Parsed<u16> {
        let port: u32 = plain_number(text.trim()).ok_or_else(shape)?;
        u16::try_from(port)
            .ok()
            .filter(|port| *port >= MIN_RELAY_PORT)
            .ok_or_else(|| format!("port {port} is outside {MIN_RELAY_PORT}-65535"))
    };
    let range = PortRange { first: number(first)?, last: number(last)? };
    if range.first > range.last {
        return Err("the first port is above the last".to_owned());
    }
    // EVEN-PORT with a reservation needs a pair (RFC 8656 s. 7.2).
    if range.first == range.last {
        return Err("has fewer than 2 ports".to_owned());
    }
    Ok(range)
}

pub(super) fn realm(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > MAX_REALM_BYTES {
        return Err(format!("has {} bytes, at most {MAX_REALM_BYTES} are allowed", text.len()));
    }
    no_control(text, "it")?;
    // Clients and peers must make the same key of it (RFC 8489 s. 9.2.2, OpaqueString of RFC 8265).
    match prepare_name(text) {
        Ok(prepared) if prepared == text => Ok(text.to_owned()),
        Ok(prepared) => {
            Err(format!("is not in its normal form (RFC 8265, OpaqueString): write {prepared:?}"))
        }
        Err(why) => Err(why.to_string()),
    }
}

pub(super) fn user(text: &str) -> Parsed<User> {
    let (name, password) =
        text.split_once(':').ok_or("has no colon: write NAME:PASSWORD (the value is not shown)")?;
    user_name(name)?;
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if is_coturn_key(password) {
        return Err(
            "the password looks like a key that coturn has made of it (0x and digits): a key can't be used, \
                    write the password itself"
                .to_owned(),
        );
    }
    if password.len() > MAX_USERNAME {
        return Err(format!("the password has more than {MAX_USERNAME} bytes"));
    }
    let secret = bounded_secret(password, "the password")?;
    prepare_name(password).map_err(|why| format!("the password {why}"))?;
    Ok(User { name: name.to_owned(), password: secret })
}

/// Checks a user's name alone: of `user`, and of the keys of the file's table.
pub(super) fn user_name(name: &str) -> Parsed<()> {
    if name.is_empty() {
        return Err("the user name is empty".to_owned());
    }
    if name.len() > MAX_USERNAME {
        return Err(format!("the user name has {} bytes, at most {MAX_USERNAME} are allowed", name.len()));
    }
    if name.contains(':') {
        return Err("the user name contains a colon".to_owned());
    }
    no_control(name, "the user name")?;
    prepare_name(name).map_err(|why| format!("the user name {why}")).map(drop)
}

/// `user=NAME:0x...` of turnserver.conf: MD5, or SHA-256, in hexadecimal digits.
fn is_coturn_key(password: &str) -> bool {
    let digits = password.strip_prefix("0x").unwrap_or_default();
    digits.len() >= 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn secret(text: &str) -> Parsed<Secret> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    bounded_secret(text, "the secret")
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

pub(super) fn optional_path(text: &str) -> Parsed<Option<PathBuf>> {
    path(text).map(Some)
}

pub(super) fn admin(text: &str) -> Parsed<Option<SocketAddr>> {
    let shape = |_| "is not IP:PORT, such as 127.0.0.1:8080 or [::1]:8080".to_owned();
    let address: SocketAddr = text.parse().map_err(shape)?;
    usable(address.ip())?;
    Ok(Some(address))
}

/// A token that may do everything.
pub(super) fn admin_token(text: &str) -> Parsed<AdminToken> {
    // What can stand in an Authorization header (RFC 6750 s. 2.1).
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !text.bytes().all(fits) {
        return Err("the token contains another character than letters, digits and -._~+/=".to_owned());
    }
    if text.len() < MIN_TOKEN_CHARS {
        return Err(format!("the token has fewer than {MIN_TOKEN_CHARS} characters"));
    }
    Ok(AdminToken { scopes: vec![AdminScope::Admin], token: bounded_secret(text, "the token")? })
}

/// A line of `admin-token-file`: a token, perhaps with its scopes in front.
pub(super) fn scoped_token(line: &str) -> Parsed<AdminToken> {
    let Some((scopes, token)) = line.split_once(':') else { return admin_token(line.trim()) };
    let scope = |name: &str| word(name.trim(), AdminScope::WORDS).map_err(|why| format!("the scope {why}"));
    let scopes = scopes.split(',').map(scope).collect::<Parsed<Vec<_>>>()?;
    Ok(AdminToken { scopes, ..admin_token(token.trim())? })
}

pub(super) fn host_name(text: &str) -> Parsed<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty() || text.len() > MAX_HOST_BYTES || !text.bytes().all(fits) {
        return Err("is not a host name, such as turn.example.org (no scheme, no port)".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

pub(super) fn alternate_server(text: &str) -> Parsed<SocketAddr> {
    let shape = |_| "is not IP:PORT, such as 192.0.2.7:3478 or [2001:db8::7]:3478".to_owned();
    let address: SocketAddr = text.parse().map_err(shape)?;
    usable(address.ip())?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err("is not a server's address: clients must be able to reach it".to_owned());
    }
    Ok(address)
}

pub(super) fn network(text: &str) -> Parsed<IpNet> {
    let shape = || "is not a prefix or address, such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32".to_owned();
    let network = match text.split_once('/') {
        None => IpNet::from(text.parse::<IpAddr>().map_err(|_| shape())?),
        Some((ip, length)) => {
            let ip: IpAddr = ip.parse().map_err(|_| shape())?;
            let longest = if ip.is_ipv4() { 32 } else { 128 };
            let length: u8 = plain_number(length).ok_or_else(shape)?;
            IpNet::new(ip, length).map_err(|_| format!("the prefix length is above {longest}"))?
        }
    };
    // A typing error of one octet would silently open or close something else.
    if network.addr() != network.network() {
        return Err(format!("has bits set after the prefix: write {}", network.trunc()));
    }
    if let IpAddr::V6(ip) = network.addr()
        && is_mapped(ip)
        && network.prefix_len() >= 96
    {
        return Err("is IPv4 written as IPv6: write the IPv4 prefix".to_owned());
    }
    Ok(network)
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

pub(super) fn default_family(text: &str) -> Parsed<DefaultFamily> {
    word(text, DefaultFamily::WORDS)
}

pub(super) fn io(text: &str) -> Parsed<IoBackend> {
    word(text, IoBackend::WORDS)
}

pub(super) fn offload(text: &str) -> Parsed<Offload> {
    word(text, Offload::WORDS)
}

pub(super) fn tls_version(text: &str) -> Parsed<TlsVersion> {
    word(text, TlsVersion::WORDS)
}

pub(super) fn proxy_udp(text: &str) -> Parsed<ProxyUdp> {
    word(text, ProxyUdp::WORDS)
}

/// Proxies that are trusted to speak for others: not everybody.
pub(super) fn proxies(text: &str) -> Parsed<IpNet> {
    match network(text)? {
        all if all.prefix_len() == 0 => {
            Err("is everybody: whoever asks could claim any address; name the proxies".to_owned())
        }
        proxies => Ok(proxies),
    }
}

pub(super) fn fallback(text: &str) -> Parsed<Option<SocketAddr>> {
    let shape = |_| "is not IP:PORT, such as 127.0.0.1:8443 or [::1]:8443".to_owned();
    let address: SocketAddr = text.parse().map_err(shape)?;
    usable(address.ip())?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err("is not a server's address: nothing could be passed to it".to_owned());
    }
    Ok(Some(address))
}

pub(super) fn connections(text: &str) -> Parsed<NonZeroUsize> {
    let count = number(text)?;
    let count = usize::try_from(count).ok().filter(|_| count <= MAX_CONNECTIONS).and_then(NonZeroUsize::new);
    count.ok_or_else(|| format!("is outside 1-{MAX_CONNECTIONS}"))
}

pub(super) fn handshake_timeout(text: &str) -> Parsed<Duration> {
    match number(text)? {
        seconds @ 1..=MAX_HANDSHAKE_SECS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("is outside 1-{MAX_HANDSHAKE_SECS} seconds")),
    }
}

pub(super) fn offload_mode(text: &str) -> Parsed<OffloadMode> {
    word(text, OffloadMode::WORDS)
}

/// A network interface's name (`dev_valid_name` in the kernel).
pub(super) fn interface(text: &str) -> Parsed<String> {
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    match text {
        "." | ".." | "" => Err("is no interface's name".to_owned()),
        name if name.len() > 15 => Err("is longer than an interface's name can be".to_owned()),
        name if !name.chars().all(is_plain) => Err("has characters that no interface's name has".to_owned()),
        name => Ok(name.to_owned()),
    }
}

pub(super) fn log_level(text: &str) -> Parsed<LogLevel> {
    word(text, LogLevel::WORDS)
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    word(text, LogFormat::WORDS)
}

/// One per core that this process may use.
pub(super) fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

pub(super) fn workers(text: &str) -> Parsed<NonZeroUsize> {
    let workers = number(text)?;
    NonZeroUsize::new(usize::try_from(workers).unwrap_or(usize::MAX))
        .filter(|workers| workers.get() <= MAX_WORKERS)
        .ok_or_else(|| format!("is outside 1-{MAX_WORKERS}"))
}

pub(crate) fn bitrate(text: &str) -> Parsed<Option<NonZeroU64>> {
    let shape = || "is not a rate in bits per second, such as 500k, 2M, 1G or 0 for none".to_owned();
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let number: u64 = plain_number(digits).ok_or_else(shape)?;
    match number.checked_mul(factor).filter(|bits| *bits <= MAX_BITS_PER_SEC) {
        // Nobody means that: most likely a forgotten unit.
        Some(1..1_000) => Err("is below 1k bits per second: is the unit missing?".to_owned()),
        Some(bits) => Ok(NonZeroU64::new(bits)),
        None => Err("is above 1000G".to_owned()),
    }
}

pub(super) fn burst(text: &str) -> Parsed<Duration> {
    match number(text)? {
        ms @ 1..=MAX_BURST_MS => Ok(Duration::from_millis(ms)),
        _ => Err(format!("is outside 1-{MAX_BURST_MS} milliseconds")),
    }
}

pub(super) fn coalesce(text: &str) -> Parsed<Duration> {
    match number(text)? {
        us @ 0..=MAX_COALESCE_US => Ok(Duration::from_micros(us)),
        _ => Err(format!("is outside 0-{MAX_COALESCE_US} microseconds")),
    }
}

pub(super) fn max_queue_delay(text: &str) -> Parsed<Duration> {
    match number(text)? {
        ms @ 0..=MAX_QUEUE_DELAY_MS => Ok(Duration::from_millis(ms)),
        _ => Err(format!("is outside 0-{MAX_QUEUE_DELAY_MS} milliseconds")),
    }
}

pub(super) fn limit(text: &str) -> Parsed<Option<NonZeroU32>> {
    let number = number(text)?;
    u32::try_from(number).map(NonZeroU32::new).map_err(|_| format!("is above {}", u32::MAX))
}

pub(super) fn drain_timeout(text: &str) -> Parsed<Duration> {
    match number(text)? {
        seconds if seconds <= u64::from(MAX_PERIOD_SECS) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("is above {MAX_PERIOD_SECS} seconds")),
    }
}

pub(super) fn max_lifetime(text: &str) -> Parsed<u32> {
    u32::try_from(number(text)?)
        .ok()
        .filter(|seconds| (DEFAULT_LIFETIME_SECS..=MAX_PERIOD_SECS).contains(seconds))
        .ok_or_else(|| format!("is outside {DEFAULT_LIFETIME_SECS}-{MAX_PERIOD_SECS} seconds"))
}

/// A number of permissions or channels.
pub(super) fn per_allocation(text: &str) -> Parsed<u32> {
    let most = MOST_PER_ALLOCATION as u64;
    match number(text)? {
        count if (1..=most).contains(&count) => Ok(count as u32),
        _ => Err(format!("is outside 1-{most}")),
    }
}

pub(super) fn software(text: &str) -> Parsed<Option<String>> {
    if text == "off" {
        return Ok(None);
    }
    if text.is_empty() {
        return Err("is empty: write off to send none".to_owned());
    }
    if text.chars().count() >= SOFTWARE_CHARS {
        return Err(format!("has {SOFTWARE_CHARS} or more characters"));
    }
    no_control(text, "it")?;
    Ok(Some(text.to_owned()))
}

/// A duration such as `1h`, `30m`, `90s`, `2d` or plain seconds, in seconds.
pub(crate) fn duration_secs(text: &str) -> Parsed<u64> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let number: u64 = plain_number(digits).ok_or("is not a duration, such as 90s, 30m, 1h or 2d")?;
    number.checked_mul(factor).filter(|seconds| *seconds > 0).ok_or_else(|| "is zero or too long".to_owned())
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("is none of {}", names.join(", "))
    })
}

fn ip(text: &str) -> Parsed<IpAddr> {
    text.parse().map_err(|_| "is not an IP address, such as 192.0.2.7 or 2001:db8::7".to_owned())
}

/// Refuses what no socket of ours can have as its own address.
fn usable(ip: IpAddr) -> Parsed<()> {
    if ip.is_multicast() {
        return Err("is a multicast address".to_owned());
    }
    match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => Err("is the broadcast address".to_owned()),
        IpAddr::V6(ip) if is_mapped(ip) => Err("is IPv4 written as IPv6: write the IPv4 address".to_owned()),
        _ => Ok(()),
    }
}

fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

fn number(text: &str) -> Parsed<u64> {
    plain_number(text).ok_or_else(|| "is not a whole number of at most 20 digits".to_owned())
}

/// Digits only: the standard parser would also take a sign.
fn plain_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn no_control(text: &str, what: &str) -> Parsed<()> {
    if text.chars().any(char::is_control) {
        return Err(format!("{what} contains a control character"));
    }
    Ok(())
}

/// Formats of text that nobody sees and no keyboard has: they come from copying.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn bounded_secret(text: &str, what: &str) -> Parsed<Secret> {
    if text.len() > MAX_SECRET_BYTES {
        return Err(format!("{what} has more than {MAX_SECRET_BYTES} bytes"));
    }
    no_control(text, what)?;
    if text.chars().any(is_invisible) {
        return Err(format!("{what} contains an invisible character, such as a byte order mark"));
    }
    Ok(Secret::new(Zeroizing::new(text.to_owned())))
}
