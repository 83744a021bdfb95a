//! Words of the command line that need more than `FromStr`: durations and servers.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Default port of STUN and TURN (RFC 8489 section 8.1).
const DEFAULT_PORT: u16 = 3478;

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
/// `turn:HOST:PORT?transport=udp` (RFC 7065), `stun:HOST` (RFC 7064).
pub fn resolve_server(text: &str) -> Result<SocketAddr, String> {
    let place = host_of_url(text)?;
    if let Ok(ip) = place.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DEFAULT_PORT));
    }
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let with_port = if has_port { place.to_owned() } else { format!("{place}:{DEFAULT_PORT}") };
    let mut addresses =
        with_port.to_socket_addrs().map_err(|error| format!("cannot resolve server {text}: {error}"))?;
    addresses.next().ok_or_else(|| format!("cannot resolve server {text}: no address"))
}

/// What follows a URL's scheme, without its transport; anything that is no URL as it is.
fn host_of_url(text: &str) -> Result<&str, String> {
    const UDP_ONLY: &str = "this program speaks plain UDP only";
    let Some((scheme, rest)) = text.split_once(':') else { return Ok(text) };
    match scheme.to_ascii_lowercase().as_str() {
        "turn" | "stun" => {}
        "turns" | "stuns" => return Err(format!("{text}: that is TLS, and {UDP_ONLY}")),
        _ => return Ok(text),
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    if place.is_empty() || place.starts_with('/') {
        return Err(format!("{text}: a TURN URL is turn:HOST:PORT?transport=udp, without slashes"));
    }
    match query {
        "" | "transport=udp" => Ok(place),
        "transport=tcp" => Err(format!("{text}: that is TCP, and {UDP_ONLY}")),
        other => Err(format!("{text}: ?{other} is unknown: a TURN URL ends with ?transport=udp or nothing")),
    }
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
        let at = |text: &str| resolve_server(text).map(|address| address.to_string());
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
    fn a_url_for_another_transport_is_refused_with_the_reason() {
        for (text, reason) in [
            ("turns:192.0.2.1", "TLS"),
            ("turn:192.0.2.1?transport=tcp", "TCP"),
            ("turn:192.0.2.1?transport=sctp", "?transport=sctp is unknown"),
            ("turn://192.0.2.1", "without slashes"),
        ] {
            let fault = resolve_server(text).expect_err(text);
            assert!(fault.contains(reason), "{fault}");
        }
    }
}
