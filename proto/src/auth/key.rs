//! Keys of the long-term credential mechanism (RFC 8489 s. 9.2.2 and 18.5.1).

use std::borrow::Cow;

use hmac::digest::Digest;
use md5::Md5;
use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::limits::MAX_USERNAME;
use crate::wire::integrity::Mechanism;

/// How a key is made from user, realm and password; the values are PASSWORD-ALGORITHM's (RFC 8489 s. 18.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Algorithm {
    /// What every client knows.
    Md5 = 1,
    /// What RFC 8489 added.
    Sha256 = 2,
}

/// A key, wiped when dropped; deliberately neither printable nor comparable.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key {
    bytes: [u8; 32],
    #[zeroize(skip)]
    algorithm: Algorithm,
    #[zeroize(skip)]
    mechanism: Mechanism,
}

/// A user name, realm or password that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCredential {
    /// It is empty.
    #[error("empty")]
    Empty,
    /// It is longer than the attribute that has to carry it.
    #[error("longer than {MAX_USERNAME} bytes")]
    TooLong,
    /// It has control characters or others that RFC 8265 doesn't allow.
    #[error("contains a character that is not allowed (RFC 8265, OpaqueString)")]
    Disallowed,
}

impl Key {
    /// MD5 over `user:realm:password` (RFC 8489 s. 9.2.2); answers carry MESSAGE-INTEGRITY.
    ///
    /// # Errors
    /// If one of the three is no OpaqueString.
    pub fn md5(user: &str, realm: &str, password: &str) -> Result<Key, BadCredential> {
        Ok(Self::from_md5_bytes(digest::<Md5>(user, realm, password)?.into()))
    }

    /// SHA-256 over `user:realm:password` (RFC 8489 s. 9.2.2); answers carry MESSAGE-INTEGRITY-SHA256.
    ///
    /// # Errors
    /// If one of the three is no OpaqueString.
    pub fn sha256(user: &str, realm: &str, password: &str) -> Result<Key, BadCredential> {
        Ok(Self::from_sha256_bytes(digest::<Sha256>(user, realm, password)?.into()))
    }

    /// A key that was made before, as user databases store it.
    pub fn from_md5_bytes(key: [u8; 16]) -> Key {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&key);
        Key { bytes, algorithm: Algorithm::Md5, mechanism: Mechanism::Sha1 }
    }

    /// How it was made.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A short-term credential's key: the password itself, as RFC 5769 uses it. HMAC pads keys with zeros.
    #[cfg(test)]
    pub(crate) fn short_term(password: &str) -> Key {
        let mut bytes = [0; 32];
        bytes[..password.len()].copy_from_slice(password.as_bytes());
        Key { bytes, algorithm: Algorithm::Sha256, mechanism: Mechanism::Sha1 }
    }

    /// The key of a user whose name has been through OpaqueString already. That is the costly part for a name
    /// that a stranger chose, and it isn't done again for each secret.
    pub(super) fn derive(
        algorithm: Algorithm,
        user: &str,
        realm: &str,
        password: &str,
    ) -> Result<Key, BadCredential> {
        Ok(match algorithm {
            Algorithm::Md5 => Self::from_md5_bytes(digest_of_prepared::<Md5>(user, realm, password)?.into()),
            Algorithm::Sha256 => {
                Self::from_sha256_bytes(digest_of_prepared::<Sha256>(user, realm, password)?.into())
            }
        })
    }

    pub(super) fn from_sha256_bytes(bytes: [u8; 32]) -> Key {
        Key { bytes, algorithm: Algorithm::Sha256, mechanism: Mechanism::Sha256 }
    }

    /// The same key for answers that the other attribute protects: a client of RFC 8489 that chose MD5
    /// still wants MESSAGE-INTEGRITY-SHA256 (s. 9.2.4).
    pub(super) fn with_mechanism(&self, mechanism: Mechanism) -> Key {
        Key { mechanism, ..self.clone() }
    }

    pub(crate) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self.algorithm {
            Algorithm::Md5 => &self.bytes[..16],
            Algorithm::Sha256 => &self.bytes,
        }
    }
}

/// Whether a realm can be used: clients run it through OpaqueString before they make their key, so it has
/// to be what OpaqueString makes of it (RFC 8489 s. 14.9).
///
/// # Errors
/// If it is empty, too long, has control characters, or isn't in that form.
pub fn check_realm(realm: &str) -> Result<(), BadCredential> {
    if opaque(realm)? == realm { Ok(()) } else { Err(BadCredential::Disallowed) }
}

/// A user's name in the form in which it is compared (OpaqueString, RFC 8265 s. 4.2).
///
/// # Errors
/// If it can't be a name.
pub fn prepare_name(name: &str) -> Result<Cow<'_, str>, BadCredential> {
    opaque(name)
}

/// OpaqueString (RFC 8265 s. 4.2), bounded; control characters such as NUL are refused, never cut off.
pub(super) fn opaque(text: &str) -> Result<Cow<'_, str>, BadCredential> {
    if text.is_empty() {
        return Err(BadCredential::Empty);
    }
    if text.len() > MAX_USERNAME {
        return Err(BadCredential::TooLong);
    }
    // Printable ASCII is what nearly everybody uses, and OpaqueString leaves it as it is.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(Cow::Borrowed(text));
    }
    OpaqueString::enforce(text).map_err(|_| BadCredential::Disallowed)
}

fn digest<D: Digest>(
    user: &str,
    realm: &str,
    password: &str,
) -> Result<hmac::digest::Output<D>, BadCredential> {
    digest_of_prepared::<D>(&opaque(user)?, realm, password)
}

/// [`digest`] of a name that is in the form of OpaqueString.
fn digest_of_prepared<D: Digest>(
    user: &str,
    realm: &str,
    password: &str,
) -> Result<hmac::digest::Output<D>, BadCredential> {
    let mut digest = D::new();
    digest.update(user.as_bytes());
    digest.update(b":");
    digest.update(opaque(realm)?.as_bytes());
    digest.update(b":");
    let mut password = opaque(password)?;
    digest.update(password.as_bytes());
    if let Cow::Owned(text) = &mut password {
        text.zeroize();
    }
    Ok(digest.finalize())
}
