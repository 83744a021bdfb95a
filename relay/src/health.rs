//! `turnpike health`: asks the relay's own listener for an answer, as a client does. For containers, whose
//! engine wants a command, and for whoever has no administration.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, method};

use crate::config::Config;
use crate::config::resolve::{Host, resolve};

/// Requests that are sent at most: a relay under a flood answers some of them.
const ATTEMPTS: u32 = 4;
/// How long each waits for its answer; the first retransmission timeout of RFC 8489 s. 6.2.1.
const PATIENCE: Duration = Duration::from_millis(500);
const SOFTWARE: &str = concat!("turnpike-health ", env!("CARGO_PKG_VERSION"));

/// Where a relay with this configuration answers its own machine: its first listener.
///
/// # Errors
/// If it would have none.
pub fn listener(config: &Config) -> Result<SocketAddr, String> {
    let addresses = resolve(config, &Host::detect());
    let first = addresses.listen.first().ok_or("there is no listener")?;
    Ok(reachable(*first))
}

/// A wildcard is reached over loopback.
fn reachable(listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, listener.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, listener.port()).into(),
        _ => listener,
    }
}

/// Sends Binding requests (RFC 8489 s. 3) until one is answered; gives the time to the answer.
///
/// # Errors
/// If none is answered: one line with the reason.
pub fn check(server: SocketAddr) -> Result<Duration, String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{server}: nothing listens there"),
        _ => format!("{server}: {error}"),
    };
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(server).map(|()| socket));
    let socket = socket.map_err(told)?;
    for _ in 0..ATTEMPTS {
        let mut id = [0; 12];
        OsRng.try_fill_bytes(&mut id).map_err(|error| error.to_string())?;
        let sent = Instant::now();
        let request = MessageBuilder::request(method::BINDING, TransactionId(id)).software(SOFTWARE);
        socket.send(&request.fingerprint(true).finish()).map_err(told)?;
        if receives(&socket, TransactionId(id), sent + PATIENCE).map_err(told)? {
            return Ok(sent.elapsed());
        }
    }
    Err(format!("{server}: no answer to {ATTEMPTS} Binding requests"))
}

/// Whether the answer comes in time; anything else that comes is passed over.
fn receives(socket: &UdpSocket, id: TransactionId, until: Instant) -> io::Result<bool> {
    let mut buffer = [0; 1500];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let is_answer =
            |message: &Message<'_>| message.class() == Class::Success && message.transaction_id() == id;
        if Message::parse(&buffer[..length]).is_ok_and(|message| is_answer(&message)) {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_is_asked_over_loopback() {
        let at = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(at("0.0.0.0:3478"), "127.0.0.1:3478");
        assert_eq!(at("[::]:443"), "[::1]:443");
        assert_eq!(at("192.0.2.1:3478"), "192.0.2.1:3478");
    }

    #[test]
    fn who_listens_without_answering_is_unhealthy_and_so_is_nobody() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let server = silent.local_addr().expect("bound");
        assert!(check(server).is_err_and(|why| why.contains("no answer to 4")));
        drop(silent);
        assert!(check(server).is_err_and(|why| why.contains("nothing listens")));
    }
}
