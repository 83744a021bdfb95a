//! MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 (RFC 8489 s. 14.5 and 14.6).
//!
//! Ours, since keys must neither be printable nor outlive their use.

use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;

use super::message::header_ending;
use super::{Message, attr};
use crate::auth::Key;

/// Which attribute protects a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256, 16 to 32 bytes in steps of four.
    Sha256,
}

/// An HMAC of either mechanism.
pub(super) struct Tag {
    bytes: [u8; 32],
    len: usize,
}

impl Tag {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The attribute kind and value that protect what has been written so far, by the key's own mechanism.
pub(super) fn sign(before: &[u8], key: &Key) -> (u16, Tag) {
    let mut bytes = [0; 32];
    match key.mechanism() {
        Mechanism::Sha1 => {
            bytes[..20].copy_from_slice(&keyed::<Hmac<Sha1>>(before, 20, key).finalize().into_bytes());
            (attr::MESSAGE_INTEGRITY, Tag { bytes, len: 20 })
        }
        Mechanism::Sha256 => {
            bytes.copy_from_slice(&keyed::<Hmac<Sha256>>(before, 32, key).finalize().into_bytes());
            (attr::MESSAGE_INTEGRITY_SHA256, Tag { bytes, len: 32 })
        }
    }
}

/// Whether a message carries the mechanism's attribute, well-sized and made with this key; in constant time.
pub(crate) fn verify(message: &Message<'_>, mechanism: Mechanism, key: &Key) -> bool {
    let kind = match mechanism {
        Mechanism::Sha1 => attr::MESSAGE_INTEGRITY,
        Mechanism::Sha256 => attr::MESSAGE_INTEGRITY_SHA256,
    };
    let Some((before, tag)) = message.integrity(kind) else { return false };
    match mechanism {
        Mechanism::Sha1 => tag.len() == 20 && keyed::<Hmac<Sha1>>(before, 20, key).verify_slice(tag).is_ok(),
        // It may be truncated, but not below 16 bytes (RFC 8489 s. 14.6).
        Mechanism::Sha256 => {
            matches!(tag.len(), 16 | 20 | 24 | 28 | 32)
                && keyed::<Hmac<Sha256>>(before, tag.len(), key).verify_truncated_left(tag).is_ok()
        }
    }
}

/// HMAC over the message up to the attribute, its length field counting the attribute (RFC 8489 s. 14.5).
fn keyed<M: Mac + hmac::digest::KeyInit>(before: &[u8], tag_len: usize, key: &Key) -> M {
    let mut mac = <M as Mac>::new_from_slice(key.bytes()).expect("HMAC takes keys of any length");
    mac.update(&header_ending(before, 4 + tag_len));
    mac.update(before.get(4..).unwrap_or_default());
    mac
}
