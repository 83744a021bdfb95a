//! A server for clients over TCP and TLS, and those clients, from any address.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use turnpike_testkit::PATIENCE;
use turnpike_testkit::certificate::{Certificate, tls};
use turnpike_testkit::http::{TOKEN, exchange};
use turnpike_testkit::stream::StreamClient;

use super::lab::{Lab, RELAY_V4};
use super::server::{ALLOW_PEERS, SERVER, Server};

/// Where TLS is spoken.
pub const SERVER_TLS: SocketAddr = SocketAddr::new(RELAY_V4, 5349);
const ADMIN: &str = "127.0.0.1:8080";
/// Addresses that the client's namespace has besides its own: a storm comes from many.
const MANY: &str = "10.96.0.0/12";
/// Of `MANY`, by number.
pub fn source(number: u32) -> IpAddr {
    const COUNT: u32 = 1 << 20;
    // Neighbours in number are far apart, and no number is another one's.
    let spread = number.wrapping_mul(0x9e37_79b1) % COUNT;
    IpAddr::V4(((10 << 24 | 96 << 16) + spread).into())
}

/// A server with one worker, TCP, TLS and the administration.
pub struct StreamServer<'a> {
    pub server: Server,
    tls: Arc<ClientConfig>,
    lab: &'a Lab,
    _folder: TempDir,
}

impl<'a> StreamServer<'a> {
    /// Starts it, with room for so many descriptors.
    pub fn start(lab: &'a Lab, descriptors: usize, lines: &str) -> StreamServer<'a> {
        lab.client.ip(&["route", "add", "local", MANY, "dev", "lo"]).expect("the namespace is ours");
        lab.relay.ip(&["route", "add", MANY, "via", "10.77.1.10"]).expect("the namespace is ours");
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let certificate = Certificate::new(&["localhost"]);
        let [cert, key] = certificate.write(folder.path(), "turn");
        let mut tls = certificate.client();
        // Each handshake is a whole one.
        tls.resumption = rustls::client::Resumption::disabled();
        let lines = format!(
            "{ALLOW_PEERS}workers = 1\nlisten-tls = [\"{SERVER_TLS}\"]\ntls-cert = [{cert:?}]\n\
             tls-key = [{key:?}]\nadmin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n{lines}"
        );
        let server = Server::start_with_descriptors(lab, descriptors, &lines);
        StreamServer { server, tls: Arc::new(tls), lab, _folder: folder }
    }

    /// All counters together.
    pub fn totals(&self) -> Value {
        let stream = self.lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("the administration listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let (status, body) = exchange(stream, "GET", "/v1/totals", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).expect("JSON")["sum"].clone()
    }

    /// How many datagrams were dropped for a reason.
    pub fn drops(&self, name: &str) -> u64 {
        self.totals()["verdicts"][name].as_u64().unwrap_or(0)
    }

    /// A client that connects from an address, over TLS if it shall.
    pub fn connect(&self, from: IpAddr, is_tls: bool) -> io::Result<StreamClient> {
        self.connect_as(from, is_tls, PATIENCE, None)
    }

    /// The same within a time of the caller's.
    pub fn connect_within(&self, time: Duration, from: IpAddr) -> io::Result<StreamClient> {
        self.connect_as(from, true, time, None)
    }

    /// One over TCP whose receive buffer is as small as can be.
    pub fn connect_slow(&self, from: IpAddr) -> io::Result<StreamClient> {
        self.connect_as(from, false, PATIENCE, Some(4096))
    }

    fn connect_as(
        &self,
        from: IpAddr,
        is_tls: bool,
        time: Duration,
        receive_buffer: Option<usize>,
    ) -> io::Result<StreamClient> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        receive_buffer.map_or(Ok(()), |bytes| socket.set_recv_buffer_size(bytes))?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        let server = if is_tls { SERVER_TLS } else { SERVER };
        socket.connect_timeout(&server.into(), time)?;
        StreamClient::on(socket.into(), is_tls.then(|| tls(Arc::clone(&self.tls), "localhost")))
    }
}
