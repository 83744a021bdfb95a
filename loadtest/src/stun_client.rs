//! STUN and TURN messages as a client sends and reads them: bytes only, no state, no socket.

use std::net::SocketAddr;

use stun_types::attribute::{
    AlternateServer, AttributeType, AttributeWrite, ErrorCode, Nonce, RawAttribute, Realm, Username,
};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, IntegrityKey, LongTermCredentials, Message, MessageClass, MessageType,
    MessageWrite, MessageWriteExt, MessageWriteVec, Method, TransactionId,
};
use turn_types::AddressFamily;
use turn_types::attribute::{
    AdditionalAddressFamily, ChannelNumber, ConnectionId, DontFragment, EvenPort, Lifetime,
    RequestedAddressFamily, RequestedTransport, ReservationToken, XorPeerAddress, XorRelayedAddress,
};
use turn_types::message::{
    ALLOCATE, CHANNEL_BIND, CONNECT, CONNECTION_ATTEMPT, CONNECTION_BIND, CREATE_PERMISSION, REFRESH,
};

use crate::credentials::Credentials;

/// Protocol numbers in REQUESTED-TRANSPORT (RFC 8656 section 18.7, RFC 6062 section 4.1).
const UDP: u8 = 17;
const TCP: u8 = 6;
/// MOBILITY-TICKET (RFC 8016 section 4).
const MOBILITY_TICKET: AttributeType = AttributeType::new(0x8030);
/// coturn's BANDWIDTH (from a draft that never became an RFC).
const BANDWIDTH: AttributeType = AttributeType::new(0x8010);
/// coturn's ORIGIN (likewise).
const ORIGIN: AttributeType = AttributeType::new(0x802f);
/// Longest REALM and NONCE accepted from a server: 763 bytes (RFC 8489 sections 14.9, 14.10).
const MAX_NONCE_BYTES: usize = 763;

/// Which address families an Allocate asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// Whatever the server gives by default.
    #[default]
    Unspecified,
    /// REQUESTED-ADDRESS-FAMILY IPv4.
    V4,
    /// REQUESTED-ADDRESS-FAMILY IPv6.
    V6,
    /// ADDITIONAL-ADDRESS-FAMILY IPv6: one of each (RFC 8656 section 7.1).
    Both,
}

/// The optional attributes of an Allocate.
#[derive(Debug, Clone, Default)]
pub struct AllocateOptions {
    /// LIFETIME, seconds.
    pub lifetime_secs: u32,
    /// TCP is to be relayed instead of UDP (RFC 6062).
    pub relays_tcp: bool,
    /// Which families are to be relayed.
    pub family: Family,
    /// EVEN-PORT; `true`: with the R bit, which reserves the next port.
    pub even_port: Option<bool>,
    /// RESERVATION-TOKEN from an earlier EVEN-PORT R=1.
    pub reservation_token: Option<u64>,
    /// DONT-FRAGMENT.
    pub dont_fragment: bool,
    /// An empty MOBILITY-TICKET.
    pub mobility: bool,
    /// coturn's BANDWIDTH attribute, in its unit.
    pub bandwidth: Option<u32>,
    /// coturn's ORIGIN attribute.
    pub origin: Option<String>,
}

/// One request, before authentication is added.
#[derive(Debug, Clone)]
pub enum Request {
    /// Binding (RFC 8489 section 3).
    Binding,
    /// Allocate (RFC 8656 section 7).
    Allocate(Box<AllocateOptions>),
    /// Refresh with a lifetime in seconds; 0 deletes (RFC 8656 section 8).
    Refresh(u32),
    /// CreatePermission (RFC 8656 section 10).
    Permission(SocketAddr),
    /// ChannelBind (RFC 8656 section 12).
    ChannelBind(u16, SocketAddr),
    /// Connect (RFC 6062 section 4.3).
    Connect(SocketAddr),
    /// ConnectionBind with a CONNECTION-ID, on a connection of its own (RFC 6062 section 4.3).
    ConnectionBind(u32),
}

impl Request {
    /// The method's name in the RFC.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Binding => "Binding",
            Self::Allocate(_) => "Allocate",
            Self::Refresh(_) => "Refresh",
            Self::Permission(_) => "CreatePermission",
            Self::ChannelBind(..) => "ChannelBind",
            Self::Connect(_) => "Connect",
            Self::ConnectionBind(_) => "ConnectionBind",
        }
    }

    fn method(&self) -> Method {
        match self {
            Self::Binding => BINDING,
            Self::Allocate(_) => ALLOCATE,
            Self::Refresh(_) => REFRESH,
            Self::Permission(_) => CREATE_PERMISSION,
            Self::ChannelBind(..) => CHANNEL_BIND,
            Self::Connect(_) => CONNECT,
            Self::ConnectionBind(_) => CONNECTION_BIND,
        }
    }

    /// The datagram: attributes, then credentials and integrity once the server has challenged
    /// (RFC 8489 section 9.2.3), then FINGERPRINT.
    pub fn encode(&self, transaction: u128, auth: Option<&Authentication>) -> Vec<u8> {
        let id = TransactionId::from(transaction);
        let kind = MessageType::from_class_method(MessageClass::Request, self.method());
        let mut message = Message::builder(kind, id, MessageWriteVec::with_capacity(256));
        match self {
            Self::Binding => {}
            Self::Allocate(options) => add_allocate(&mut message, options),
            Self::Refresh(secs) => add(&mut message, &Lifetime::new(*secs)),
            Self::Permission(peer) | Self::Connect(peer) => {
                add(&mut message, &XorPeerAddress::new(*peer, id));
            }
            Self::ConnectionBind(connection) => add(&mut message, &ConnectionId::new(*connection)),
            Self::ChannelBind(channel, peer) => {
                add(&mut message, &ChannelNumber::new(*channel));
                add(&mut message, &XorPeerAddress::new(*peer, id));
            }
        }
        if let Some(auth) = auth {
            auth.add_to(&mut message);
        }
        message.add_fingerprint().expect("the message has no FINGERPRINT yet");
        message.finish()
    }
}

/// Adds without the builder's check for repeated types: coturn's ORIGIN is sent three times.
fn add(message: &mut MessageWriteVec, attribute: &dyn AttributeWrite) {
    message.push_attribute_unchecked(attribute);
}

fn add_allocate(message: &mut MessageWriteVec, options: &AllocateOptions) {
    add(message, &RequestedTransport::new(if options.relays_tcp { TCP } else { UDP }));
    add(message, &Lifetime::new(options.lifetime_secs));
    if let Some(token) = options.reservation_token {
        // RFC 8656 section 7.2: a token goes without EVEN-PORT and without an address family.
        add(message, &ReservationToken::new(token));
    } else {
        if let Some(reserve) = options.even_port {
            add(message, &EvenPort::new(reserve));
        }
        match options.family {
            Family::Unspecified => {}
            Family::V4 => add(message, &RequestedAddressFamily::new(AddressFamily::IPV4)),
            Family::V6 => add(message, &RequestedAddressFamily::new(AddressFamily::IPV6)),
            Family::Both => add(message, &AdditionalAddressFamily::new(AddressFamily::IPV6)),
        }
    }
    if options.dont_fragment {
        add(message, &DontFragment::new());
    }
    if options.mobility {
        add(message, &RawAttribute::new(MOBILITY_TICKET, &[]));
    }
    if let Some(bandwidth) = options.bandwidth {
        add(message, &RawAttribute::new(BANDWIDTH, &bandwidth.to_be_bytes()));
    }
    if let Some(origin) = &options.origin {
        for value in ["http://carleon.gov:443", origin, "ftp://uffo.edu"] {
            add(message, &RawAttribute::new(ORIGIN, value.as_bytes()));
        }
    }
}

/// What a client knows after the server's challenge: USERNAME, REALM, NONCE and the key.
#[derive(Clone)]
pub struct Authentication {
    username: String,
    realm: String,
    nonce: String,
    key: IntegrityKey,
}

impl Authentication {
    /// Derives the key for the realm (RFC 8489 section 9.2.2).
    pub fn new(credentials: &Credentials, realm: &str, nonce: &str) -> Self {
        let long_term =
            LongTermCredentials::new(credentials.username.clone(), credentials.password().to_owned());
        let key = long_term.to_key(realm.to_owned()).make_key(IntegrityAlgorithm::Sha1);
        Self { username: credentials.username.clone(), realm: realm.into(), nonce: nonce.into(), key }
    }

    /// The realm the key was made for.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Replaces the nonce, after 438 (Stale Nonce).
    pub fn set_nonce(&mut self, nonce: &str) {
        nonce.clone_into(&mut self.nonce);
    }

    fn add_to(&self, message: &mut MessageWriteVec) {
        add(message, &RawAttribute::new(Username::TYPE_ID, self.username.as_bytes()));
        add(message, &RawAttribute::new(Realm::TYPE_ID, self.realm.as_bytes()));
        add(message, &RawAttribute::new(Nonce::TYPE_ID, self.nonce.as_bytes()));
        message
            .add_message_integrity_with_key(&self.key, IntegrityAlgorithm::Sha1)
            .expect("the message has no integrity yet");
    }
}

/// Attribute numbers by a shorter name.
trait TypeId {
    const TYPE_ID: AttributeType;
}
impl<T: stun_types::attribute::AttributeStaticType> TypeId for T {
    const TYPE_ID: AttributeType = T::TYPE;
}

/// A response, reduced to what the client acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The transaction it answers.
    pub transaction: u128,
    /// Whether it was granted, and with what, or why not.
    pub outcome: Outcome,
}

/// A response's meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A success response, with what it grants.
    Success {
        /// XOR-RELAYED-ADDRESS, every one in order.
        relayed: Vec<SocketAddr>,
        /// LIFETIME, seconds.
        lifetime_secs: Option<u32>,
        /// RESERVATION-TOKEN.
        reservation_token: Option<u64>,
        /// CONNECTION-ID.
        connection: Option<u32>,
    },
    /// An error response.
    Error {
        /// ERROR-CODE (0 if it was missing).
        code: u16,
        /// Its reason phrase.
        reason: String,
        /// REALM and NONCE, if both are present.
        challenge: Option<(String, String)>,
        /// ALTERNATE-SERVER.
        alternate: Option<SocketAddr>,
    },
    /// A success response whose MESSAGE-INTEGRITY is missing or wrong.
    WrongIntegrity,
}

/// Reads a response. `None` if the bytes are no STUN response. Success responses are held to
/// `auth` once there is one (RFC 8489 section 9.2.5).
pub fn parse_response(data: &[u8], auth: Option<&Authentication>) -> Option<Response> {
    let message = Message::from_bytes(data).ok()?;
    let transaction = message.transaction_id().into();
    let outcome = match message.class() {
        MessageClass::Success => {
            let verified = auth.is_none_or(|auth| message.validate_integrity_with_key(&auth.key).is_ok());
            if verified { success(&message) } else { Outcome::WrongIntegrity }
        }
        MessageClass::Error => error(&message),
        MessageClass::Request | MessageClass::Indication => return None,
    };
    Some(Response { transaction, outcome })
}

fn success(message: &Message<'_>) -> Outcome {
    let id = message.transaction_id();
    let relayed = (0..2)
        .filter_map(|n| message.nth_attribute::<XorRelayedAddress>(n).ok())
        .map(|a| a.addr(id))
        .collect();
    Outcome::Success {
        relayed,
        lifetime_secs: message.attribute::<Lifetime>().ok().map(|a| a.seconds()),
        reservation_token: message.attribute::<ReservationToken>().ok().map(|a| a.token()),
        connection: message.attribute::<ConnectionId>().ok().map(|a| a.id()),
    }
}

/// Reads a ConnectionAttempt (RFC 6062 section 4.4): who has connected to the relayed address, and the CONNECTION-ID.
/// `None` if the bytes are no such indication.
pub fn connection_attempt(data: &[u8]) -> Option<(SocketAddr, u32)> {
    let message = Message::from_bytes(data).ok()?;
    if message.class() != MessageClass::Indication || message.method() != CONNECTION_ATTEMPT {
        return None;
    }
    let peer = message.attribute::<XorPeerAddress>().ok()?.addr(message.transaction_id());
    Some((peer, message.attribute::<ConnectionId>().ok()?.id()))
}

fn error(message: &Message<'_>) -> Outcome {
    let error = message.attribute::<ErrorCode>().ok();
    let realm = message.attribute::<Realm>().ok().map(|a| a.realm().to_owned());
    let nonce = message.attribute::<Nonce>().ok().map(|a| a.nonce().to_owned());
    let usable = |text: &String| text.len() <= MAX_NONCE_BYTES;
    Outcome::Error {
        code: error.as_ref().map_or(0, ErrorCode::code),
        reason: error.as_ref().map_or_else(String::new, |e| printable(e.reason())),
        challenge: realm.filter(usable).zip(nonce.filter(usable)),
        alternate: message.attribute::<AlternateServer>().ok().map(|a| a.server()),
    }
}

/// A server's text for a terminal: no control characters, no trailing space, not long.
fn printable(text: &str) -> String {
    const MAX_CHARACTERS: usize = 128;
    let clean: String = text.chars().filter(|c| !c.is_control()).take(MAX_CHARACTERS).collect();
    clean.trim().to_owned()
}
