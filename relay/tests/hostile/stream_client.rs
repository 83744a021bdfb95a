//! A client over TCP or TLS, from any address, and a server for it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use turnpike_proto::wire::framer::{self, Frame};
use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};
use turnpike_testkit::http::{TOKEN, exchange};
use turnpike_testkit::message::{Answer, Login, UDP, bare_allocate, binding, channel_data};
use turnpike_testkit::{PASSWORD, PATIENCE, USER};

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
    pub trust: Arc<ClientConfig>,
    lab: &'a Lab,
    _folder: TempDir,
}

impl<'a> StreamServer<'a> {
    /// Starts it, with room for so many descriptors.
    pub fn start(lab: &'a Lab, descriptors: usize, lines: &str) -> StreamServer<'a> {
        lab.client.ip(&["route", "add", "local", MANY, "dev", "lo"]).expect("the namespace is ours");
        lab.relay.ip(&["route", "add", MANY, "via", "10.77.1.10"]).expect("the namespace is ours");
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            path.display().to_string()
        };
        let (cert, key) =
            (file("cert.pem", made.cert.pem()), file("key.pem", made.signing_key.serialize_pem()));
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let mut trust = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // Each handshake is a whole one.
        trust.resumption = rustls::client::Resumption::disabled();
        let lines = format!(
            "{ALLOW_PEERS}workers = 1\nlisten-tls = [\"{SERVER_TLS}\"]\ntls-cert = [{cert:?}]\n\
             tls-key = [{key:?}]\nadmin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n{lines}"
        );
        let server = Server::start_with_descriptors(lab, descriptors, &lines);
        StreamServer { server, trust: Arc::new(trust), lab, _folder: folder }
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
}

/// Bytes both ways, with or without TLS.
trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// A client of a stream. All of its methods are called in its namespace, or after it has connected.
pub struct StreamClient {
    stream: Box<dyn ReadWrite>,
    unread: Vec<u8>,
    login: Login,
    next_id: u64,
}

impl StreamClient {
    /// Connects from an address; over TLS if it is told whom to trust. Its receive buffer is as small as can be if
    /// it shall be slow.
    pub fn connect(from: IpAddr, trust: Option<&Arc<ClientConfig>>, is_slow: bool) -> io::Result<Self> {
        Self::connect_within(PATIENCE, from, trust, is_slow)
    }

    /// The same within a time of the caller's.
    pub fn connect_within(
        time: Duration,
        from: IpAddr,
        trust: Option<&Arc<ClientConfig>>,
        is_slow: bool,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        if is_slow {
            socket.set_recv_buffer_size(4096)?;
        }
        socket.bind(&SocketAddr::new(from, 0).into())?;
        let server = if trust.is_some() { SERVER_TLS } else { SERVER };
        socket.connect_timeout(&server.into(), time)?;
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let stream: Box<dyn ReadWrite> = match trust {
            Some(trust) => {
                let name = ServerName::try_from("localhost").expect("a name");
                let connection = ClientConnection::new(Arc::clone(trust), name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, socket))
            }
            None => Box::new(socket),
        };
        Ok(Self { stream, unread: Vec::new(), login: Login::new(USER, PASSWORD), next_id: 0 })
    }

    /// Another user.
    pub fn named(mut self, user: &str, password: &str) -> Self {
        self.login = Login::new(user, password);
        self
    }

    /// A transaction id: a connection has its own.
    fn id(&mut self) -> TransactionId {
        self.next_id += 1;
        let mut id = [0x55; 12];
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        TransactionId(id)
    }

    /// Sends bytes as they are.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next message with its padding; `None` at the end.
    pub fn hear(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match framer::next(&self.unread) {
                Frame::Message { consumed, .. } => return Ok(Some(self.unread.drain(..consumed).collect())),
                Frame::Need(_) => {}
                Frame::Invalid => panic!("not a message: {:02x?}", self.unread),
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request; gives its answer.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.say(request)?;
        loop {
            let message = self.hear()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            // RFC 7983 s. 7: data, which may come at any time.
            if message[0] < 0x40 {
                return Ok(Answer::of(message));
            }
        }
    }

    /// Asks for its own address, without credentials.
    pub fn binding(&mut self) -> io::Result<Answer> {
        let request = MessageBuilder::request(method::BINDING, self.id()).finish();
        self.ask(&request)
    }

    /// A signed request and its answer.
    pub fn request(
        &mut self,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> io::Result<Answer> {
        if self.login.nonce.is_empty() {
            let bare = bare_allocate(self.id());
            let challenge = self.ask(&bare)?;
            self.login.heed(&challenge);
        }
        let request = build(MessageBuilder::request(method, self.id()));
        self.ask(&self.login.sign(request))
    }

    /// Allocates; gives the relayed address, if there is one.
    pub fn allocate(&mut self) -> io::Result<SocketAddr> {
        let answer = self.request(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &UDP))?;
        match answer.code {
            None => Ok(answer.relayed()),
            Some(code) => Err(io::Error::other(format!("Allocate was answered with {code}"))),
        }
    }

    /// Binds channel 0x4000.
    pub fn bind(&mut self, peer: SocketAddr) -> io::Result<()> {
        let answer = self.request(method::CHANNEL_BIND, |builder| binding(builder, 0x4000, peer))?;
        assert_eq!(answer.code, None);
        Ok(())
    }

    /// ChannelData on channel 0x4000.
    pub fn channel_data(&mut self, data: &[u8]) -> io::Result<()> {
        let mut frame = channel_data(0x4000, data);
        frame.resize(frame.len().next_multiple_of(4), 0);
        self.say(&frame)
    }

    /// Refreshes the allocation, or deletes it with 0.
    pub fn refresh(&mut self, lifetime_secs: u32) -> io::Result<Answer> {
        self.request(method::REFRESH, |builder| builder.lifetime(lifetime_secs))
    }
}
