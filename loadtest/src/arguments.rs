//! Words of the command line that need more than `FromStr`: durations and servers.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::transport::Transport;

/// A server as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The server's address and port, resolved.
    pub address: SocketAddr,
    /// Its name or address without port, as given.
    pub host: String,
    /// How clients talk to it.
    pub transport: Transport,
}

/// Seconds: `30`, `0.5`, `1m`, `1m30s`, `500ms`.
pub fn secs(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(secs) => Duration::try_from_secs_f64(secs).map(|_| secs).map_err(|error| error.to_string()),
        Err(_) => with_unit(text, "seconds").map(|duration| duration.as_secs_f64()),
    }
}

/// The same as a duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    secs(text).map(Duration::from_secs_f64)
}

/// Milliseconds: `400`, or with a unit `1s`.
pub fn millis(text: &str) -> Result<u64, String> {
    let long = |duration: Duration| u64::try_from(duration.as_millis()).map_err(|_| "is too long".into());
    text.parse().or_else(|_| with_unit(text, "milliseconds").and_then(long))
}

fn with_unit(text: &str, plain: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("is no duration: write 500ms, 30s, 1m30s, 2h, or {plain} as a plain number"))
}

/// A server as `HOST`, `HOST:PORT`, `IP`, `IP:PORT`, `[IPv6]:PORT`, or a URL as `iceServers` have it:
/// `turn:HOST:PORT?transport=udp`, `turns:HOST` (RFC 7065), `stun:HOST` (RFC 7064). `asked` is the transport
/// that an option names.
///
/// # Errors
/// If it can't be resolved, or the URL and `asked` contradict each other.
pub fn resolve_server(text: &str, asked: Option<Transport>) -> Result<Server, String> {
    let (place, named) = place_of_url(text)?;
    let transport = match (named, asked) {
        (Some(named), Some(asked)) if named != asked => {
            return Err(format!("{text}: that is {named}, and --transport says {asked}"));
        }
        (named, asked) => named.or(asked).unwrap_or_default(),
    };
    let bare = place.trim_matches(['[', ']']);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, transport.default_port());
        return Ok(Server { address, host: bare.to_owned(), transport });
    }
    let port = place.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let host = port.map_or(place, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let with_port =
        if port.is_some() { place.to_owned() } else { format!("{place}:{}", transport.default_port()) };
    let mut addresses =
        with_port.to_socket_addrs().map_err(|error| format!("cannot resolve server {text}: {error}"))?;
    let address = addresses.next().ok_or_else(|| format!("cannot resolve server {text}: no address"))?;
    Ok(Server { address, host, transport })
}

/// What follows a URL's scheme, and the transport it names; anything that is no URL as it is.
fn place_of_url(text: &str) -> Result<(&str, Option<Transport>), String> {
    let Some((scheme, rest)) = text.split_once(':') else { return Ok((text, None)) };
    let is_secure = match scheme.to_ascii_lowercase().as_str() {
        "turn" | "stun" => false,
        "turns" | "stuns" => true,
        _ => return Ok((text, None)),
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    if place.is_empty() || place.starts_with('/') {
        return Err(format!("{text}: a TURN URL is turn:HOST:PORT?transport=udp, without slashes"));
    }
    // RFC 7065 section 3.1; browsers take `turns:` for TLS over TCP.
    let transport = match (is_secure, query) {
        (false, "") => None,
        (false, "transport=udp") => Some(Transport::Udp),
        (false, "transport=tcp") => Some(Transport::Tcp),
        (true, "" | "transport=tcp") => Some(Transport::Tls),
        (true, "transport=udp") => {
            return Err(format!("{text}: that is DTLS, which this program doesn't speak"));
        }
        (_, other) => {
            return Err(format!(
                "{text}: ?{other} is unknown: a TURN URL ends with ?transport=udp, ?transport=tcp or nothing"
            ));
        }
    };
    Ok((place, transport))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_are_plain_numbers() {
        let good =
            [("30", 30.0), ("0.5", 0.5), ("1m", 60.0), ("1m30s", 90.0), ("500ms", 0.5), ("2h", 7200.0)];
        good.iter().for_each(|(text, wanted)| assert_eq!(secs(text), Ok(*wanted), "{text}"));
        for bad in ["", "-1", "NaN", "inf", "1 fortnight", "m"] {
            assert!(secs(bad).is_err(), "{bad:?}");
        }
        assert_eq!((millis("400"), millis("2s")), (Ok(400), Ok(2000)));
        assert!(millis("-1").is_err() && millis("0.5").is_err());
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
    }

    #[test]
    fn a_server_is_an_address_or_a_url() {
        let at = |text: &str| resolve_server(text, None).map(|server| server.address.to_string());
        for (text, wanted) in [
            ("192.0.2.1", "192.0.2.1:3478"),
            ("192.0.2.1:5000", "192.0.2.1:5000"),
            ("2001:db8::1", "[2001:db8::1]:3478"),
            ("[2001:db8::1]", "[2001:db8::1]:3478"),
            ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
            ("turn:192.0.2.1", "192.0.2.1:3478"),
            ("turn:192.0.2.1:5000?transport=udp", "192.0.2.1:5000"),
            ("TURN:[2001:db8::1]:5000", "[2001:db8::1]:5000"),
            ("stun:192.0.2.1:5000", "192.0.2.1:5000"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    // RFC 7065 section 3.1.
    #[test]
    fn a_url_or_an_option_names_the_transport_and_with_it_the_port() {
        for (text, asked, wanted) in [
            ("turn:192.0.2.1", None, (Transport::Udp, 3478)),
            ("turn:192.0.2.1", Some(Transport::Tcp), (Transport::Tcp, 3478)),
            ("turn:192.0.2.1?transport=tcp", None, (Transport::Tcp, 3478)),
            ("turns:192.0.2.1", None, (Transport::Tls, 5349)),
            ("turns:192.0.2.1:443?transport=tcp", Some(Transport::Tls), (Transport::Tls, 443)),
            ("192.0.2.1", Some(Transport::Tls), (Transport::Tls, 5349)),
            ("192.0.2.1:3478", Some(Transport::Tls), (Transport::Tls, 3478)),
        ] {
            let server = resolve_server(text, asked).expect(text);
            assert_eq!((server.transport, server.address.port()), wanted, "{text}");
            assert_eq!(server.host, "192.0.2.1", "{text}");
        }
    }

    #[test]
    fn a_url_that_contradicts_is_refused_with_the_reason() {
        for (text, asked, reason) in [
            ("turns:192.0.2.1", Some(Transport::Tcp), "that is TLS, and --transport says TCP"),
            ("turn:192.0.2.1?transport=tcp", Some(Transport::Udp), "that is TCP, and --transport says UDP"),
            ("turns:192.0.2.1?transport=udp", None, "DTLS"),
            ("turn:192.0.2.1?transport=sctp", None, "?transport=sctp is unknown"),
            ("turn://192.0.2.1", None, "without slashes"),
        ] {
            let fault = resolve_server(text, asked).expect_err(text);
            assert!(fault.contains(reason), "{fault}");
        }
    }
}
