//! A client that says exactly what a test wants it to say, made of the core's codec and a real socket.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use turnpike_proto::auth::Key;
use turnpike_proto::wire::{Message, MessageBuilder, TransactionId, attr, channel, method};

use crate::lab::{CLIENT_V4, CLIENT_V6, Namespace};
use crate::{PASSWORD, PATIENCE, REALM, USER};

/// Clients so far: keeps their transaction ids apart.
static TALKERS: AtomicU64 = AtomicU64::new(1);
/// How long an answer is waited for before a request is sent again.
const RESEND: Duration = Duration::from_secs(2);

/// REQUESTED-TRANSPORT: UDP.
pub const UDP: [u8; 4] = [17, 0, 0, 0];
/// PASSWORD-ALGORITHMS as the server sends it, and the choice of SHA-256 (RFC 8489 s. 14.11, 14.12).
const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
const SHA256: [u8; 4] = [0, 2, 0, 0];

/// How a client names itself and signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    /// USERNAME and MESSAGE-INTEGRITY with the MD5 key.
    Md5,
    /// USERNAME and MESSAGE-INTEGRITY-SHA256 with the SHA-256 key.
    Sha256,
    /// USERHASH with this value, otherwise as before.
    UserHash(Vec<u8>),
}

/// A client.
pub struct Talker {
    /// Its socket, in the client's namespace.
    pub socket: UdpSocket,
    server: SocketAddr,
    /// Its user name.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The realm that it was given.
    pub realm: String,
    /// The nonce that it was given.
    pub nonce: Vec<u8>,
    /// How it authenticates.
    pub style: Style,
    next_id: u64,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// All of it.
    pub bytes: Vec<u8>,
    /// The error code.
    pub code: Option<u16>,
}

impl Answer {
    /// The answer as a message.
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("it was parsed before")
    }

    /// The value of an attribute that it must have.
    #[track_caller]
    pub fn attribute(&self, kind: u16) -> Vec<u8> {
        self.message().attribute(kind).unwrap_or_else(|| panic!("no {kind:#06x} in {self:?}")).to_vec()
    }

    /// The relayed address that it grants.
    #[track_caller]
    pub fn relayed(&self) -> SocketAddr {
        assert_eq!(self.code, None, "{self:?}");
        self.message().xor_address(attr::XOR_RELAYED_ADDRESS).expect("present").expect("well-formed")
    }

    /// Reads an answer, which must be well-formed.
    pub fn of(bytes: Vec<u8>) -> Answer {
        let message = Message::parse(&bytes).expect("the server's answers are well-formed");
        let code = message.attribute(attr::ERROR_CODE).map(|v| u16::from(v[2]) * 100 + u16::from(v[3]));
        Answer { code, bytes }
    }
}

impl Talker {
    /// A client of the usual user.
    pub fn new(namespace: &Namespace, server: SocketAddr) -> Talker {
        let own: IpAddr = if server.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        Talker::on(namespace.enter(|| UdpSocket::bind((own, 0))).expect("a port is free"), server)
    }

    /// The same on any socket.
    pub fn on(socket: UdpSocket, server: SocketAddr) -> Talker {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
        // A port comes back before the server has forgotten the transactions of who had it before.
        let next_id = TALKERS.fetch_add(1, Ordering::Relaxed) << 32;
        Talker {
            socket,
            server,
            user: USER.into(),
            password: PASSWORD.into(),
            realm: REALM.into(),
            nonce: Vec::new(),
            style: Style::Md5,
            next_id,
        }
    }

    /// Another user.
    pub fn named(mut self, user: &str, password: &str) -> Talker {
        (self.user, self.password) = (user.into(), password.into());
        self
    }

    /// A transaction id that was not used before.
    pub fn id(&mut self) -> TransactionId {
        self.next_id += 1;
        let mut id = [0x77; 12];
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        TransactionId(id)
    }

    /// Sends bytes as they are.
    pub fn say(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.server).expect("the namespace has a route");
    }

    /// The next datagram.
    pub fn hear(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let (length, _) = self.socket.recv_from(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// Sends a request until it is answered, as clients do (RFC 8489 s. 6.2.1).
    #[track_caller]
    pub fn ask(&self, bytes: &[u8]) -> Answer {
        let usual = self.socket.read_timeout().expect("an option of every socket");
        let answer = self.ask_again(bytes, Instant::now() + PATIENCE);
        self.patient_for(usual.unwrap_or(PATIENCE));
        answer.unwrap_or_else(|| panic!("{} was not answered", self.user))
    }

    fn ask_again(&self, bytes: &[u8], deadline: Instant) -> Option<Answer> {
        self.patient_for(RESEND);
        while Instant::now() < deadline {
            self.say(bytes);
            while let Some(heard) = self.hear() {
                // RFC 7983 s. 7: data, which may come at any time.
                if heard.first().is_some_and(|first| *first >= 0x40) {
                    continue;
                }
                let answer = Answer::of(heard);
                // Another one is the answer to an earlier request that was sent twice.
                if answer.message().transaction_id().0 == bytes[8..20] {
                    return Some(answer);
                }
            }
        }
        None
    }

    /// Waits this long for what it hears next.
    pub fn patient_for(&self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).expect("a timeout that is not zero");
    }

    /// A signed request.
    pub fn signed(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Vec<u8> {
        let id = self.id();
        let builder = build(MessageBuilder::request(method, id));
        let builder = match &self.style {
            Style::UserHash(hash) => builder.attribute(attr::USERHASH, hash),
            _ => builder.attribute(attr::USERNAME, self.user.as_bytes()),
        };
        let builder =
            builder.attribute(attr::REALM, self.realm.as_bytes()).attribute(attr::NONCE, &self.nonce);
        if self.style == Style::Md5 {
            let key = Key::md5(&self.user, &self.realm, &self.password).expect("good credentials");
            return builder.finish_signed(&key);
        }
        let key = Key::sha256(&self.user, &self.realm, &self.password).expect("good credentials");
        builder
            .attribute(attr::PASSWORD_ALGORITHMS, &ALGORITHMS)
            .attribute(attr::PASSWORD_ALGORITHM, &SHA256)
            .finish_signed(&key)
    }

    /// Gets a nonce by an Allocate without credentials.
    #[track_caller]
    pub fn challenge(&mut self) -> Answer {
        let bare = self.bare_allocate();
        let answer = self.ask(&bare);
        self.heed(&answer);
        answer
    }

    /// An Allocate without credentials.
    pub fn bare_allocate(&mut self) -> Vec<u8> {
        let bare = MessageBuilder::request(method::ALLOCATE, self.id());
        bare.attribute(attr::REQUESTED_TRANSPORT, &UDP).attribute(attr::SOFTWARE, b"client").finish()
    }

    /// Signs with the realm and the nonce of a challenge from now on.
    #[track_caller]
    pub fn heed(&mut self, challenge: &Answer) {
        assert_eq!(challenge.code, Some(401));
        self.nonce = challenge.attribute(attr::NONCE);
        self.realm = String::from_utf8(challenge.attribute(attr::REALM)).expect("UTF-8");
    }

    /// A signed request and its answer.
    #[track_caller]
    pub fn request(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Answer {
        if self.nonce.is_empty() {
            self.challenge();
        }
        let bytes = self.signed(method, build);
        self.ask(&bytes)
    }

    /// Allocates; gives the answer, whatever it is.
    #[track_caller]
    pub fn try_allocate(&mut self) -> Answer {
        self.request(method::ALLOCATE, |builder| builder.attribute(attr::REQUESTED_TRANSPORT, &UDP))
    }

    /// Allocates; gives the relayed address.
    #[track_caller]
    pub fn allocate(&mut self) -> SocketAddr {
        self.try_allocate().relayed()
    }

    /// Refreshes the allocation, or deletes it with 0.
    #[track_caller]
    pub fn refresh(&mut self, lifetime_secs: u32) -> Answer {
        self.request(method::REFRESH, |builder| builder.lifetime(lifetime_secs))
    }

    /// Installs a permission.
    #[track_caller]
    pub fn permit(&mut self, peer: SocketAddr) -> Answer {
        self.request(method::CREATE_PERMISSION, |builder| builder.xor_address(attr::XOR_PEER_ADDRESS, peer))
    }

    /// Binds channel 0x4000.
    #[track_caller]
    pub fn bind(&mut self, peer: SocketAddr) -> Answer {
        self.request(method::CHANNEL_BIND, |builder| {
            builder
                .attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, peer)
        })
    }

    /// ChannelData on channel 0x4000.
    pub fn channel_data(&self, data: &[u8]) {
        let header = channel::header(0x4000, u16::try_from(data.len()).expect("it fits"));
        self.say(&[&header[..], data].concat());
    }

    /// A Send indication.
    pub fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        let indication = MessageBuilder::indication(method::SEND, self.id())
            .xor_address(attr::XOR_PEER_ADDRESS, peer)
            .attribute(attr::DATA, data);
        self.say(&indication.finish());
    }
}

/// A socket of a peer, which waits as long as what it hears may take.
pub fn peer_socket(namespace: &Namespace, ip: IpAddr) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((ip, 0))).expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    socket
}
