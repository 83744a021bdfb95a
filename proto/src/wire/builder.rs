//! Writing a STUN message: answers, indications, and requests for clients and tests.

use std::net::{IpAddr, SocketAddr};

use stun_types::attribute::{AttributeType, XorSocketAddr};

use super::message::fingerprint;
use super::{
    Class, HEADER_LEN, MAGIC_COOKIE, Message, TransactionId, UnknownAttributes, attr, integrity, padded,
};
use crate::ErrorCode;
use crate::addr::Family;
use crate::auth::Key;
use crate::limits::MAX_SOFTWARE;

/// Bytes of a FINGERPRINT attribute.
const FINGERPRINT_LEN: usize = 8;

/// What an answer needs to know of its request, when the request itself can't be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    method: u16,
    transaction: TransactionId,
    fingerprint: bool,
}

impl ReplyTo {
    /// Of a request that another process has got.
    pub(crate) fn new(method: u16, transaction: TransactionId, fingerprint: bool) -> Self {
        Self { method, transaction, fingerprint }
    }

    /// Whether the request had a FINGERPRINT, so that the answer has one.
    pub(crate) fn has_fingerprint(&self) -> bool {
        self.fingerprint
    }

    /// The request's method.
    pub fn method(&self) -> u16 {
        self.method
    }

    /// The request's transaction id.
    pub fn transaction(&self) -> TransactionId {
        self.transaction
    }
}

impl Message<'_> {
    /// What an answer needs to know of this request.
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo {
            method: self.method(),
            transaction: self.transaction_id(),
            fingerprint: self.has_fingerprint(),
        }
    }
}

/// A message being written. Padding is zero (RFC 8489 s. 14; anything else would leak memory).
#[derive(Clone, Debug)]
pub struct MessageBuilder {
    bytes: Vec<u8>,
    transaction_id: TransactionId,
    fingerprint: bool,
    too_long: bool,
}

impl MessageBuilder {
    /// A success answer; it ends with FINGERPRINT if the request did.
    pub fn success(request: &Message<'_>) -> Self {
        Self::success_to(request.reply_to())
    }

    /// An error answer with its ERROR-CODE; it ends with FINGERPRINT if the request did.
    pub fn error(request: &Message<'_>, code: ErrorCode) -> Self {
        Self::error_to(request.reply_to(), code)
    }

    /// [`MessageBuilder::success`] for a request that is gone.
    pub fn success_to(request: ReplyTo) -> Self {
        Self::new(Class::Success, request.method, request.transaction).fingerprint(request.fingerprint)
    }

    /// [`MessageBuilder::error`] for a request that is gone.
    pub fn error_to(request: ReplyTo, code: ErrorCode) -> Self {
        let mut value = vec![0, 0];
        push_code(&mut value, code);
        Self::new(Class::Error, request.method, request.transaction)
            .fingerprint(request.fingerprint)
            .attribute(attr::ERROR_CODE, &value)
    }

    /// An indication, without FINGERPRINT.
    pub fn indication(method: u16, id: TransactionId) -> Self {
        Self::new(Class::Indication, method, id)
    }

    /// A request, without FINGERPRINT: for clients and tests.
    pub fn request(method: u16, id: TransactionId) -> Self {
        Self::new(Class::Request, method, id)
    }

    /// Appends an attribute.
    ///
    /// If the message would outgrow its 16-bit length field, [`Self::finish`] gives nothing.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// Appends an XOR-encoded address: XOR-MAPPED-, XOR-RELAYED- or XOR-PEER-ADDRESS (RFC 8489 s. 14.2).
    pub fn xor_address(mut self, kind: u16, address: SocketAddr) -> Self {
        let encoded = XorSocketAddr::new(address, self.transaction_id.to_stun_types());
        let raw = encoded.to_raw(AttributeType::new(kind));
        self.push(kind, &raw.value);
        self
    }

    /// Appends an address in the clear, as ALTERNATE-SERVER has it (RFC 8489 s. 14.1, 14.15).
    pub fn address(self, kind: u16, address: SocketAddr) -> Self {
        let mut value = vec![0, Family::of(&address.ip()) as u8];
        value.extend_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => value.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => value.extend_from_slice(&ip.octets()),
        }
        self.attribute(kind, &value)
    }

    /// Appends LIFETIME, seconds (RFC 8656 s. 18.2).
    pub fn lifetime(self, secs: u32) -> Self {
        self.attribute(attr::LIFETIME, &secs.to_be_bytes())
    }

    /// Appends UNKNOWN-ATTRIBUTES: goes with error 420 (RFC 8489 s. 14.13).
    pub fn unknown_attributes(self, list: &UnknownAttributes) -> Self {
        let value: Vec<u8> = list.as_slice().iter().flat_map(|kind| kind.to_be_bytes()).collect();
        self.attribute(attr::UNKNOWN_ATTRIBUTES, &value)
    }

    /// Appends ADDRESS-ERROR-CODE: why one half of a dual allocation is missing (RFC 8656 s. 18.12).
    pub fn address_error(self, family: Family, code: ErrorCode) -> Self {
        let mut value = vec![family as u8, 0];
        push_code(&mut value, code);
        self.attribute(attr::ADDRESS_ERROR_CODE, &value)
    }

    /// Appends SOFTWARE, cut at [`MAX_SOFTWARE`] bytes (RFC 8489 s. 14.14).
    pub fn software(self, text: &str) -> Self {
        self.attribute(attr::SOFTWARE, &text.as_bytes()[..text.floor_char_boundary(MAX_SOFTWARE)])
    }

    /// Whether FINGERPRINT is to be the last attribute (RFC 8489 s. 14.7).
    pub fn fingerprint(mut self, on: bool) -> Self {
        self.fingerprint = on;
        self
    }

    /// Bytes of what [`Self::finish`] would give now.
    pub(crate) fn finished_len(&self) -> usize {
        self.bytes.len() + if self.fingerprint { FINGERPRINT_LEN } else { 0 }
    }

    /// The message without integrity; empty if it doesn't fit into the 16-bit length field.
    pub fn finish(self) -> Vec<u8> {
        self.close()
    }

    /// The message with MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256, whichever the key is for
    /// (RFC 8489 s. 9.2.4); empty if it doesn't fit into the 16-bit length field.
    pub fn finish_signed(mut self, key: &Key) -> Vec<u8> {
        if !self.too_long {
            let (kind, tag) = integrity::sign(&self.bytes, key);
            self.push(kind, tag.as_slice());
        }
        self.close()
    }

    fn new(class: Class, method: u16, transaction_id: TransactionId) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&message_type(class, method).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction_id.0);
        Self { bytes, transaction_id, fingerprint: false, too_long: false }
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let len = self.bytes.len() + 4 + padded(value.len());
        let (Ok(value_len), true) = (u16::try_from(value.len()), fits(len)) else {
            self.too_long = true;
            return;
        };
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&value_len.to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(len, 0);
    }

    fn close(mut self) -> Vec<u8> {
        if self.fingerprint && fits(self.bytes.len() + FINGERPRINT_LEN) {
            let crc = fingerprint(&self.bytes);
            self.push(attr::FINGERPRINT, &crc.to_be_bytes());
        } else if self.fingerprint {
            self.too_long = true;
        }
        match u16::try_from(self.bytes.len() - HEADER_LEN) {
            Ok(len) if !self.too_long => self.bytes[2..4].copy_from_slice(&len.to_be_bytes()),
            _ => self.bytes.clear(),
        }
        self.bytes
    }
}

/// Whether a message of `len` bytes, header included, can say its length.
fn fits(len: usize) -> bool {
    len <= HEADER_LEN + usize::from(u16::MAX)
}

/// The first 16 bits: two class bits among twelve method bits (RFC 8489 s. 5, figure 3).
fn message_type(class: Class, method: u16) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    class | (method & 0x00F) | (method & 0x070) << 1 | (method & 0xF80) << 2
}

/// Reserved and class bits, number and reason phrase: the common end of ERROR-CODE (RFC 8489 s. 14.8)
/// and ADDRESS-ERROR-CODE (RFC 8656 s. 18.12).
fn push_code(value: &mut Vec<u8>, code: ErrorCode) {
    let class = code.code() / 100;
    let number = code.code() % 100;
    value.extend([class as u8, number as u8]);
    value.extend_from_slice(code.reason().as_bytes());
}
