//! Reading a STUN message: one bounds-checked pass, then views over the same bytes.

use std::net::SocketAddr;

use stun_types::attribute::{AttributeExt, AttributeType, Fingerprint, RawAttribute, XorSocketAddr};
use stun_types::data::Data;
use stun_types::message::{MessageClass, MessageHeader};
use turnpike_abi::Verdict;

use super::{Class, HEADER_LEN, Malformed, TransactionId, attr};
use crate::io::ConnectionId;
use crate::limits::{MAX_ATTRIBUTES, MAX_UNKNOWN_ATTRIBUTES};

/// XORed onto the CRC in FINGERPRINT, so that it differs from other protocols' CRCs (RFC 8489 s. 14.7).
pub(super) const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// A well-formed STUN message over borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: u16,
    transaction_id: TransactionId,
    tail: Tail,
}

/// Where the attributes that close a message stand, as offsets of their headers.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    /// The first of the three: what comes before it counts, what comes after doesn't (RFC 8489 s. 14.5).
    start: Option<usize>,
    integrity: Option<usize>,
    integrity_sha256: Option<usize>,
    fingerprint: bool,
}

/// Comprehension-required attributes that nobody here knows (RFC 8489 s. 14.13).
#[derive(Clone, Copy, Debug, Default)]
pub struct UnknownAttributes {
    kinds: [u16; MAX_UNKNOWN_ATTRIBUTES],
    len: usize,
}

impl<'a> Message<'a> {
    /// Parses one message that fills `bytes` exactly (RFC 8489 s. 5 and 6.3).
    ///
    /// # Errors
    /// [`Verdict::DropFingerprint`] if FINGERPRINT is present and wrong, [`Verdict::DropMalformed`]
    /// if header, length or any attribute's bounds are.
    pub fn parse(bytes: &'a [u8]) -> Result<Message<'a>, Verdict> {
        let header = MessageHeader::from_bytes(bytes).map_err(|_| Verdict::DropMalformed)?;
        // The length field doesn't count the header and is a multiple of four, since attributes are padded.
        let len = usize::from(header.data_length());
        if HEADER_LEN + len != bytes.len() || !len.is_multiple_of(4) {
            return Err(Verdict::DropMalformed);
        }
        let mut id = [0; 12];
        id.copy_from_slice(&bytes[8..HEADER_LEN]);
        Ok(Message {
            bytes,
            class: match header.get_type().class() {
                MessageClass::Request => Class::Request,
                MessageClass::Indication => Class::Indication,
                MessageClass::Success => Class::Success,
                MessageClass::Error => Class::Error,
            },
            method: header.get_type().method().value(),
            transaction_id: TransactionId(id),
            tail: check_attributes(bytes)?,
        })
    }

    /// All of it, as it came.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the whole message.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Request, indication or answer.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The method, one of [`super::method`] or any other up to 0xFFF.
    pub fn method(&self) -> u16 {
        self.method
    }

    /// The transaction id.
    pub fn transaction_id(&self) -> TransactionId {
        self.transaction_id
    }

    /// The first attribute of a kind (RFC 8489 s. 14: duplicates are ignored), unless it stands after
    /// MESSAGE-INTEGRITY, where nobody vouches for it (s. 14.5).
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|&(k, _)| k == kind).map(|(_, value)| value)
    }

    /// Every attribute before the first of MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT, in order.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let end = self.tail.start.unwrap_or(self.bytes.len());
        Attributes { bytes: &self.bytes[..end], offset: HEADER_LEN }
            .map_while(Result::ok)
            .map(|found| (found.kind, found.value))
    }

    /// Whether there is an attribute of a kind among those that count.
    pub fn has(&self, kind: u16) -> bool {
        self.attribute(kind).is_some()
    }

    /// Whether it had a FINGERPRINT: then its answer has one too (RFC 8489 s. 7).
    pub fn has_fingerprint(&self) -> bool {
        self.tail.fingerprint
    }

    /// Whether it has MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256; says nothing about whether it is right.
    pub fn has_integrity(&self) -> bool {
        self.tail.integrity.is_some() || self.tail.integrity_sha256.is_some()
    }

    /// Whether it has MESSAGE-INTEGRITY-SHA256.
    pub(crate) fn has_integrity_sha256(&self) -> bool {
        self.tail.integrity_sha256.is_some()
    }

    /// Comprehension-required attributes (below 0x8000) that are not in `known`; each once, up to
    /// [`MAX_UNKNOWN_ATTRIBUTES`] of them (RFC 8489 s. 6.3.1).
    pub fn unknown_required(&self, known: &[u16]) -> UnknownAttributes {
        let mut unknown = UnknownAttributes::default();
        for (kind, _) in self.attributes() {
            if kind < 0x8000 && !known.contains(&kind) {
                unknown.insert(kind);
            }
        }
        unknown
    }

    /// The first XOR-encoded address of a kind (RFC 8489 s. 14.2).
    pub fn xor_address(&self, kind: u16) -> Option<Result<SocketAddr, Malformed>> {
        self.attribute(kind).map(|value| self.decode_address(value))
    }

    /// Every XOR-PEER-ADDRESS: CreatePermission may have several (RFC 8656 s. 10.1).
    pub fn peer_addresses(&self) -> impl Iterator<Item = Result<SocketAddr, Malformed>> + use<'a> {
        let message = *self;
        self.attributes()
            .filter(|&(kind, _)| kind == attr::XOR_PEER_ADDRESS)
            .map(move |(_, value)| message.decode_address(value))
    }

    /// LIFETIME, seconds (RFC 8656 s. 18.2).
    pub fn lifetime(&self) -> Option<Result<u32, Malformed>> {
        Some(self.fixed(attr::LIFETIME)?.map(u32::from_be_bytes))
    }

    /// CHANNEL-NUMBER; the two bytes after it are reserved and ignored (RFC 8656 s. 18.1).
    pub fn channel_number(&self) -> Option<Result<u16, Malformed>> {
        Some(self.fixed(attr::CHANNEL_NUMBER)?.map(|[n0, n1, _, _]| u16::from_be_bytes([n0, n1])))
    }

    /// The protocol number in REQUESTED-TRANSPORT; the rest is reserved and ignored (RFC 8656 s. 18.8).
    pub fn requested_transport(&self) -> Option<Result<u8, Malformed>> {
        Some(self.fixed(attr::REQUESTED_TRANSPORT)?.map(|[protocol, _, _, _]| protocol))
    }

    /// REQUESTED-ADDRESS-FAMILY as it stands there; the rest is reserved and ignored (RFC 8656 s. 18.6).
    pub fn requested_family(&self) -> Option<Result<u8, Malformed>> {
        Some(self.fixed(attr::REQUESTED_ADDRESS_FAMILY)?.map(|[family, _, _, _]| family))
    }

    /// ADDITIONAL-ADDRESS-FAMILY as it stands there (RFC 8656 s. 18.11).
    pub fn additional_family(&self) -> Option<Result<u8, Malformed>> {
        Some(self.fixed(attr::ADDITIONAL_ADDRESS_FAMILY)?.map(|[family, _, _, _]| family))
    }

    /// The R bit of EVEN-PORT: reserve the next port too (RFC 8656 s. 18.7).
    pub fn even_port(&self) -> Option<Result<bool, Malformed>> {
        Some(self.fixed(attr::EVEN_PORT)?.map(|[flags]| flags & 0x80 != 0))
    }

    /// RESERVATION-TOKEN (RFC 8656 s. 18.10).
    pub fn reservation_token(&self) -> Option<Result<[u8; 8], Malformed>> {
        self.fixed(attr::RESERVATION_TOKEN)
    }

    /// CONNECTION-ID (RFC 6062 s. 6.2.1).
    pub fn connection_id(&self) -> Option<Result<ConnectionId, Malformed>> {
        Some(self.fixed(attr::CONNECTION_ID)?.map(|id| ConnectionId(u32::from_be_bytes(id))))
    }

    /// DATA: opaque, and empty is a value too (RFC 8656 s. 18.4).
    pub fn data(&self) -> Option<&'a [u8]> {
        self.attribute(attr::DATA)
    }

    /// The value of MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 and the message in front of it.
    pub(super) fn integrity(&self, kind: u16) -> Option<(&'a [u8], &'a [u8])> {
        let offset = match kind {
            attr::MESSAGE_INTEGRITY => self.tail.integrity?,
            attr::MESSAGE_INTEGRITY_SHA256 => self.tail.integrity_sha256?,
            _ => return None,
        };
        let found = Attributes { bytes: self.bytes, offset }.next()?.ok()?;
        Some((&self.bytes[..offset], found.value))
    }

    fn decode_address(&self, value: &[u8]) -> Result<SocketAddr, Malformed> {
        let raw = RawAttribute::new(AttributeType::new(attr::XOR_MAPPED_ADDRESS), value);
        let address = XorSocketAddr::from_raw(&raw).map_err(|_| Malformed)?;
        Ok(address.addr(self.transaction_id.to_stun_types()))
    }

    fn fixed<const N: usize>(&self, kind: u16) -> Option<Result<[u8; N], Malformed>> {
        self.attribute(kind).map(|value| value.try_into().map_err(|_| Malformed))
    }
}

impl UnknownAttributes {
    /// Whether every comprehension-required attribute was known.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The attribute types, in the message's order.
    pub fn as_slice(&self) -> &[u16] {
        &self.kinds[..self.len]
    }

    fn insert(&mut self, kind: u16) {
        if self.len < self.kinds.len() && !self.as_slice().contains(&kind) {
            self.kinds[self.len] = kind;
            self.len += 1;
        }
    }
}

/// Checks the bounds of all attributes, also of those that will be ignored, and finds the closing ones.
fn check_attributes(bytes: &[u8]) -> Result<Tail, Verdict> {
    let mut tail = Tail::default();
    for (count, found) in (Attributes { bytes, offset: HEADER_LEN }).enumerate() {
        let found = found.map_err(|Malformed| Verdict::DropMalformed)?;
        if count >= MAX_ATTRIBUTES {
            return Err(Verdict::DropMalformed);
        }
        // FINGERPRINT is the last attribute (RFC 8489 s. 14.7): nothing behind it is looked at.
        if !tail.fingerprint {
            tail.note(bytes, &found)?;
        }
    }
    Ok(tail)
}

impl Tail {
    fn note(&mut self, bytes: &[u8], found: &Found<'_>) -> Result<(), Verdict> {
        match found.kind {
            // Behind MESSAGE-INTEGRITY-SHA256 only FINGERPRINT has a meaning (RFC 8489 s. 14.6).
            attr::MESSAGE_INTEGRITY if self.start.is_none() => self.integrity = Some(found.offset),
            attr::MESSAGE_INTEGRITY_SHA256 if self.integrity_sha256.is_none() => {
                self.integrity_sha256 = Some(found.offset);
            }
            attr::FINGERPRINT => {
                let value = found.value.try_into().map_err(|_| Verdict::DropMalformed)?;
                if u32::from_be_bytes(value) != fingerprint(&bytes[..found.offset]) {
                    return Err(Verdict::DropFingerprint);
                }
                self.fingerprint = true;
            }
            _ => return Ok(()),
        }
        self.start.get_or_insert(found.offset);
        Ok(())
    }
}

/// FINGERPRINT of the message in front of it, as if the message ended with it (RFC 8489 s. 14.7).
pub(super) fn fingerprint(before: &[u8]) -> u32 {
    let header = header_ending(before, 8);
    let crc = Fingerprint::compute(&[&header, before.get(4..).unwrap_or_default()]);
    u32::from_be_bytes(crc) ^ FINGERPRINT_XOR
}

/// The first four header bytes with the length that the message has once `extra` bytes are appended.
pub(super) fn header_ending(before: &[u8], extra: usize) -> [u8; 4] {
    let len = (before.len() + extra).saturating_sub(HEADER_LEN);
    let [l0, l1] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let [t0, t1] = [before.first(), before.get(1)].map(|byte| byte.copied().unwrap_or(0));
    [t0, t1, l0, l1]
}

/// Walks over attributes; each step is bounds-checked, the first broken one ends it.
struct Attributes<'a> {
    bytes: &'a [u8],
    offset: usize,
}

struct Found<'a> {
    offset: usize,
    kind: u16,
    value: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Found<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let found = self.step(rest);
        if found.is_err() {
            self.offset = self.bytes.len();
        }
        Some(found)
    }
}

impl<'a> Attributes<'a> {
    fn step(&mut self, rest: &'a [u8]) -> Result<Found<'a>, Malformed> {
        let raw = RawAttribute::from_bytes(rest).map_err(|_| Malformed)?;
        let offset = self.offset;
        // Never beyond the end: the message's length is a multiple of four like every attribute's.
        self.offset += raw.padded_len();
        let kind = raw.header.get_type().value();
        let Data::Borrowed(value) = raw.value else { return Err(Malformed) };
        Ok(Found { offset, kind, value: value.take() })
    }
}
