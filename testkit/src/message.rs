//! What clients say and what they are told, whatever carries it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use turnpike_proto::auth::Key;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, channel, method};

use crate::REALM;

/// REQUESTED-TRANSPORT: UDP.
pub const UDP: [u8; 4] = [17, 0, 0, 0];
/// REQUESTED-TRANSPORT: TCP (RFC 6062 s. 4.1).
pub const TCP: [u8; 4] = [6, 0, 0, 0];
/// PASSWORD-ALGORITHMS as the server sends it, and the choice of SHA-256 (RFC 8489 s. 14.11, 14.12).
const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
const SHA256: [u8; 4] = [0, 2, 0, 0];

/// Clients so far: keeps their transaction ids apart.
static CLIENTS: AtomicU64 = AtomicU64::new(1);

/// Transaction ids of one client.
pub struct Transactions(u64);

impl Transactions {
    /// Those of a new client. A port comes back before the server has forgotten the transactions of who had it before.
    #[expect(clippy::new_without_default, reason = "no two are alike")]
    pub fn new() -> Transactions {
        Transactions(CLIENTS.fetch_add(1, Ordering::Relaxed) << 32)
    }

    /// One that was not used before.
    pub fn next_id(&mut self) -> TransactionId {
        self.0 += 1;
        let mut id = [0x77; 12];
        id[4..].copy_from_slice(&self.0.to_be_bytes());
        TransactionId(id)
    }
}

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

/// What a client logs in with.
#[derive(Clone)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: String,
    /// The realm that it signs for.
    pub realm: String,
    /// The nonce that it was given; empty before the first challenge.
    pub nonce: Vec<u8>,
    /// How it authenticates.
    pub style: Style,
}

impl Login {
    /// A user's, in the realm of the servers under test, before any challenge.
    pub fn new(user: &str, password: &str) -> Login {
        let (user, password) = (user.to_owned(), password.to_owned());
        Login { user, password, realm: REALM.to_owned(), nonce: Vec::new(), style: Style::Md5 }
    }

    /// The key of its long-term credentials (RFC 8489 s. 9.2.2).
    pub fn key(&self) -> Key {
        let key = if self.style == Style::Md5 { Key::md5 } else { Key::sha256 };
        key(&self.user, &self.realm, &self.password).expect("good credentials")
    }

    /// A request with its credentials, signed.
    pub fn sign(&self, request: MessageBuilder) -> Vec<u8> {
        let named = match &self.style {
            Style::UserHash(hash) => request.attribute(attr::USERHASH, hash),
            _ => request.attribute(attr::USERNAME, self.user.as_bytes()),
        };
        let whole = named.attribute(attr::REALM, self.realm.as_bytes()).attribute(attr::NONCE, &self.nonce);
        let whole = match self.style {
            Style::Md5 => whole,
            _ => whole
                .attribute(attr::PASSWORD_ALGORITHMS, &ALGORITHMS)
                .attribute(attr::PASSWORD_ALGORITHM, &SHA256),
        };
        whole.finish_signed(&self.key())
    }

    /// Signs with the realm and the nonce of a challenge from now on.
    #[track_caller]
    pub fn heed(&mut self, challenge: &Answer) {
        challenge.expect_error(401);
        self.nonce = challenge.attribute(attr::NONCE);
        self.realm = String::from_utf8(challenge.attribute(attr::REALM)).expect("UTF-8");
    }
}

/// An answer, parsed as far as tests want to know.
#[derive(Clone, Debug)]
pub struct Answer {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Success or error.
    pub class: Class,
    /// The error code.
    pub code: Option<u16>,
}

impl Answer {
    /// Reads an answer, which must be well-formed.
    #[track_caller]
    pub fn of(bytes: Vec<u8>) -> Self {
        let message = Message::parse(&bytes).expect("the server's answers are well-formed");
        let class = message.class();
        let code = message.attribute(attr::ERROR_CODE).map(|v| u16::from(v[2]) * 100 + u16::from(v[3]));
        Self { class, code, bytes }
    }

    /// The answer as a message.
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("it was parsed before")
    }

    /// The value of an attribute that it must have.
    #[track_caller]
    pub fn attribute(&self, kind: u16) -> Vec<u8> {
        self.message().attribute(kind).unwrap_or_else(|| panic!("no {kind:#06x} in {self:?}")).to_vec()
    }

    /// It must be a success.
    #[track_caller]
    pub fn expect_success(&self) -> &Self {
        assert_eq!((self.class, self.code), (Class::Success, None));
        self
    }

    /// It must be this error.
    #[track_caller]
    pub fn expect_error(&self, code: u16) -> &Self {
        assert_eq!((self.class, self.code), (Class::Error, Some(code)));
        self
    }

    /// The first relayed address, which it must have.
    #[track_caller]
    pub fn relayed(&self) -> SocketAddr {
        decode_xor(&self.attribute(attr::XOR_RELAYED_ADDRESS), self.message().transaction_id())
    }

    /// The address that the client is told it has.
    #[track_caller]
    pub fn mapped(&self) -> SocketAddr {
        decode_xor(&self.attribute(attr::XOR_MAPPED_ADDRESS), self.message().transaction_id())
    }

    /// All relayed addresses, in their order.
    pub fn all_relayed(&self) -> Vec<SocketAddr> {
        let message = self.message();
        let relayed = message.attributes().filter(|(kind, _)| *kind == attr::XOR_RELAYED_ADDRESS);
        relayed.map(|(_, value)| decode_xor(value, message.transaction_id())).collect()
    }

    /// LIFETIME, seconds.
    pub fn lifetime(&self) -> u32 {
        self.message().lifetime().expect("present").expect("well-formed")
    }

    /// RESERVATION-TOKEN.
    pub fn token(&self) -> [u8; 8] {
        self.message().reservation_token().expect("present").expect("well-formed")
    }
}

/// An Allocate without credentials.
pub fn bare_allocate(id: TransactionId) -> Vec<u8> {
    let bare = MessageBuilder::request(method::ALLOCATE, id);
    bare.attribute(attr::REQUESTED_TRANSPORT, &UDP).attribute(attr::SOFTWARE, b"client").finish()
}

/// What a ChannelBind has of its own.
pub fn binding(request: MessageBuilder, number: u16, peer: SocketAddr) -> MessageBuilder {
    let [high, low] = number.to_be_bytes();
    request.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0]).xor_address(attr::XOR_PEER_ADDRESS, peer)
}

/// ChannelData.
pub fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let header = channel::header(number, u16::try_from(data.len()).expect("it fits"));
    [&header[..], data].concat()
}

/// A Send indication.
pub fn send_indication(id: TransactionId, peer: SocketAddr, data: &[u8]) -> MessageBuilder {
    let indication = MessageBuilder::indication(method::SEND, id).xor_address(attr::XOR_PEER_ADDRESS, peer);
    indication.attribute(attr::DATA, data)
}

/// XOR address decoding of our own, so that the tests don't trust the code under test (RFC 8489 s. 14.2).
pub fn decode_xor(value: &[u8], transaction: TransactionId) -> SocketAddr {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    mask[4..].copy_from_slice(&transaction.0);
    let port = u16::from_be_bytes([value[2] ^ 0x21, value[3] ^ 0x12]);
    let ip: Vec<u8> = value[4..].iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    match value[1] {
        1 => SocketAddr::new(IpAddr::from(<[u8; 4]>::try_from(&ip[..]).expect("4 bytes")), port),
        _ => SocketAddr::new(IpAddr::from(<[u8; 16]>::try_from(&ip[..]).expect("16 bytes")), port),
    }
}

/// Bytes of one attribute, padded.
pub fn raw_attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message with more attributes behind its last one, whatever that is.
pub fn append(mut message: Vec<u8>, attributes: &[u8]) -> Vec<u8> {
    message.extend_from_slice(attributes);
    let len = (message.len() - 20) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
    message
}
