//! STUN messages and ChannelData on the wire (RFC 8489 s. 5 and 14, RFC 8656 s. 12.4 and 18).
//!
//! Decides whether bytes are a well-formed message, what its attributes say, and which of
//! them count at all; writes answers. It doesn't decide whether a message is welcome: no
//! users, no allocations, no policy.
//!
//! ```text
//!   header │ attributes that count │ MESSAGE-INTEGRITY[-SHA256] │ ignored │ FINGERPRINT
//!          └── Message::attributes ┘ └── integrity ──┘                     └ checked by parse
//! ```

mod builder;
pub mod channel;
pub mod framer;
pub(crate) mod integrity;
mod message;
pub mod proxy;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use builder::{MessageBuilder, ReplyTo};
pub use message::{Message, UnknownAttributes};

/// STUN methods (RFC 8489 s. 18.2, RFC 8656 s. 17, RFC 6062 s. 6.1).
pub mod method {
    /// Binding.
    pub const BINDING: u16 = 0x001;
    /// Allocate.
    pub const ALLOCATE: u16 = 0x003;
    /// Refresh.
    pub const REFRESH: u16 = 0x004;
    /// Send, an indication.
    pub const SEND: u16 = 0x006;
    /// Data, an indication.
    pub const DATA: u16 = 0x007;
    /// CreatePermission.
    pub const CREATE_PERMISSION: u16 = 0x008;
    /// ChannelBind.
    pub const CHANNEL_BIND: u16 = 0x009;
    /// Connect (RFC 6062).
    pub const CONNECT: u16 = 0x00A;
    /// ConnectionBind (RFC 6062).
    pub const CONNECTION_BIND: u16 = 0x00B;
    /// ConnectionAttempt, an indication (RFC 6062).
    pub const CONNECTION_ATTEMPT: u16 = 0x00C;
    /// One more than the highest number that a request has.
    pub(crate) const COUNT: usize = 12;
}

/// Declares attribute numbers together with the names they have in the RFCs.
macro_rules! attributes {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// STUN attribute types (RFC 8489 s. 18.3, RFC 8656 s. 18 and the extensions named by IANA).
        pub mod attr {
            $(#[doc = concat!($text, ".")] pub const $name: u16 = $value;)*
        }
    };
}

attributes! {
    MAPPED_ADDRESS = 0x0001, "MAPPED-ADDRESS";
    CHANGE_REQUEST = 0x0003, "CHANGE-REQUEST (RFC 5780)";
    USERNAME = 0x0006, "USERNAME";
    MESSAGE_INTEGRITY = 0x0008, "MESSAGE-INTEGRITY";
    ERROR_CODE = 0x0009, "ERROR-CODE";
    UNKNOWN_ATTRIBUTES = 0x000A, "UNKNOWN-ATTRIBUTES";
    CHANNEL_NUMBER = 0x000C, "CHANNEL-NUMBER";
    LIFETIME = 0x000D, "LIFETIME";
    XOR_PEER_ADDRESS = 0x0012, "XOR-PEER-ADDRESS";
    DATA = 0x0013, "DATA";
    REALM = 0x0014, "REALM";
    NONCE = 0x0015, "NONCE";
    XOR_RELAYED_ADDRESS = 0x0016, "XOR-RELAYED-ADDRESS";
    REQUESTED_ADDRESS_FAMILY = 0x0017, "REQUESTED-ADDRESS-FAMILY";
    EVEN_PORT = 0x0018, "EVEN-PORT";
    REQUESTED_TRANSPORT = 0x0019, "REQUESTED-TRANSPORT";
    DONT_FRAGMENT = 0x001A, "DONT-FRAGMENT";
    ACCESS_TOKEN = 0x001B, "ACCESS-TOKEN (RFC 7635)";
    MESSAGE_INTEGRITY_SHA256 = 0x001C, "MESSAGE-INTEGRITY-SHA256";
    PASSWORD_ALGORITHM = 0x001D, "PASSWORD-ALGORITHM";
    USERHASH = 0x001E, "USERHASH";
    XOR_MAPPED_ADDRESS = 0x0020, "XOR-MAPPED-ADDRESS";
    RESERVATION_TOKEN = 0x0022, "RESERVATION-TOKEN";
    PRIORITY = 0x0024, "PRIORITY (RFC 8445)";
    USE_CANDIDATE = 0x0025, "USE-CANDIDATE (RFC 8445)";
    PADDING = 0x0026, "PADDING (RFC 5780)";
    RESPONSE_PORT = 0x0027, "RESPONSE-PORT (RFC 5780)";
    CONNECTION_ID = 0x002A, "CONNECTION-ID (RFC 6062)";
    ADDITIONAL_ADDRESS_FAMILY = 0x8000, "ADDITIONAL-ADDRESS-FAMILY";
    ADDRESS_ERROR_CODE = 0x8001, "ADDRESS-ERROR-CODE";
    PASSWORD_ALGORITHMS = 0x8002, "PASSWORD-ALGORITHMS";
    ALTERNATE_DOMAIN = 0x8003, "ALTERNATE-DOMAIN";
    ICMP = 0x8004, "ICMP";
    SOFTWARE = 0x8022, "SOFTWARE";
    ALTERNATE_SERVER = 0x8023, "ALTERNATE-SERVER";
    FINGERPRINT = 0x8028, "FINGERPRINT";
    RESPONSE_ORIGIN = 0x802B, "RESPONSE-ORIGIN (RFC 5780)";
    OTHER_ADDRESS = 0x802C, "OTHER-ADDRESS (RFC 5780)";
    THIRD_PARTY_AUTHORIZATION = 0x802E, "THIRD-PARTY-AUTHORIZATION (RFC 7635)";
    ORIGIN = 0x802F, "ORIGIN";
    MOBILITY_TICKET = 0x8030, "MOBILITY-TICKET (RFC 8016)";
}

/// Bytes of a STUN header (RFC 8489 s. 5).
pub const HEADER_LEN: usize = 20;
/// The magic cookie: bytes 4 to 7 of each message (RFC 8489 s. 5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// The class of a message (RFC 8489 s. 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// An answer that says yes.
    Success,
    /// An answer that says no.
    Error,
}

/// What ties an answer to its request: 96 bits that the client chose (RFC 8489 s. 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

/// An attribute is present, but its value isn't well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl TransactionId {
    fn to_stun_types(self) -> stun_types::message::TransactionId {
        let mut wide = [0; 16];
        wide[4..].copy_from_slice(&self.0);
        u128::from_be_bytes(wide).into()
    }
}

/// Length on the wire of an attribute with a value of `len` bytes.
pub(crate) const fn attribute_len(len: usize) -> usize {
    4 + padded(len)
}

/// Length on the wire of a value of `len` bytes: attributes are padded to 4 bytes (RFC 8489 s. 14).
const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}
