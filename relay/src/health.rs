//! `turnpike health`: asks the relay's own listener for an answer, as a client does. For containers, whose
//! engine wants a command, and for whoever has no administration.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;
use turnpike_proto::addr::Transport;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, method};

use crate::config::Config;
use crate::config::resolve::{Host, resolve};

/// Requests that are sent at most: a relay under a flood answers some of them.
const ATTEMPTS: u32 = 4;
/// How long each waits for its answer; the first retransmission timeout of RFC 8489 s. 6.2.1.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a connection, and each answer on it, may take.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);
const SOFTWARE: &str = concat!("turnpike-health ", env!("CARGO_PKG_VERSION"));

/// Where a relay answers its own machine, and what it speaks there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// The transport.
    pub transport: Transport,
}

impl Listener {
    /// One that is reached over UDP.
    pub fn udp(address: SocketAddr) -> Self {
        Self { address, transport: Transport::Udp }
    }
}

/// The first listener of a relay with this configuration: for UDP, else for TCP, else for TLS.
///
/// # Errors
/// If it would have none.
pub fn listener(config: &Config) -> Result<Listener, String> {
    let addresses = resolve(config, &Host::detect());
    let all = [
        (Transport::Udp, addresses.listen.first()),
        (Transport::Tcp, addresses.listen_tcp.first()),
        (Transport::Tls, addresses.listen_tls.first()),
    ];
    let first = all.into_iter().find_map(|(transport, first)| Some((transport, *first?)));
    let (transport, address) = first.ok_or("there is no listener")?;
    Ok(Listener { address: reachable(address), transport })
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
pub fn check(listener: Listener) -> Result<Duration, String> {
    let server = listener.address;
    let told = |error: io::Error| told(server, &error);
    match listener.transport {
        Transport::Udp => check_udp(server),
        Transport::Tcp => check_tcp(server).map_err(told),
        Transport::Tls => check_tls(server).map_err(told),
    }
}

fn told(server: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{server}: nothing listens there"),
        io::ErrorKind::WouldBlock => format!("{server}: no answer within {} s", STREAM_PATIENCE.as_secs()),
        _ => format!("{server}: {error}"),
    }
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, STREAM_PATIENCE)?;
    stream.set_read_timeout(Some(STREAM_PATIENCE))?;
    stream.set_write_timeout(Some(STREAM_PATIENCE))?;
    Ok(stream)
}

/// A stream needs no second request (RFC 8489 s. 6.2.2).
fn check_tcp(server: SocketAddr) -> io::Result<Duration> {
    let mut stream = connect(server)?;
    let mut id = [0; 12];
    OsRng.try_fill_bytes(&mut id).map_err(io::Error::other)?;
    let sent = Instant::now();
    let request = MessageBuilder::request(method::BINDING, TransactionId(id)).software(SOFTWARE);
    stream.write_all(&request.fingerprint(true).finish())?;
    let mut header = [0; 20];
    stream.read_exact(&mut header)?;
    match header[8..] == id {
        true => Ok(sent.elapsed()),
        false => Err(io::Error::other("the answer is no answer to a Binding request")),
    }
}

/// Whoever shows a certificate answers; whether clients believe it is another matter.
fn check_tls(server: SocketAddr) -> io::Result<Duration> {
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let connection = rustls::ClientConnection::new(Arc::new(config), server.ip().into());
    let mut connection = connection.map_err(io::Error::other)?;
    let sent = Instant::now();
    let Err(error) = connection.complete_io(&mut connect(server)?) else { return Ok(sent.elapsed()) };
    let fault = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match fault {
        Some(rustls::Error::InvalidCertificate(_)) => Ok(sent.elapsed()),
        _ => Err(error),
    }
}

fn check_udp(server: SocketAddr) -> Result<Duration, String> {
    let told = |error: io::Error| told(server, &error);
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
        assert!(check(Listener::udp(server)).is_err_and(|why| why.contains("no answer to 4")));
        drop(silent);
        assert!(check(Listener::udp(server)).is_err_and(|why| why.contains("nothing listens")));
    }

    #[test]
    fn a_silent_or_missing_listener_of_streams_is_unhealthy() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("bound");
        for transport in [Transport::Tcp, Transport::Tls] {
            let why = check(Listener { address, transport }).expect_err("nobody answers");
            assert!(why.contains("no answer within 2 s"), "{why}");
        }
        drop(silent);
        for transport in [Transport::Tcp, Transport::Tls] {
            let why = check(Listener { address, transport }).expect_err("nobody is there");
            assert!(why.contains("nothing listens"), "{why}");
        }
    }

    #[test]
    fn the_first_listener_that_there_is_is_asked() {
        let listen = vec!["127.0.0.1:3478".parse().expect("an address")];
        let of = |config: Config| listener(&config).map(|own| (own.transport, own.address.port()));
        let config = Config { listen, ..Config::default() };
        assert_eq!(of(config.clone()), Ok((Transport::Udp, 3478)));
        assert_eq!(of(Config { no_udp: true, ..config.clone() }), Ok((Transport::Tcp, 3478)));
        let tls_only = Config { no_udp: true, no_tcp: true, tls_cert: vec!["c".into()], ..config };
        assert_eq!(of(tls_only), Ok((Transport::Tls, 5349)));
    }
}
