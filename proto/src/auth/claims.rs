//! What a request says about its sender, before any of it is believed.

use std::borrow::Cow;

use super::key::{Algorithm, opaque};
use super::nonce::Features;
use crate::ErrorCode;
use crate::wire::integrity::Mechanism;
use crate::wire::{Message, attr};

/// The value of PASSWORD-ALGORITHMS that goes with feature bit 0: SHA-256, then MD5, neither with
/// parameters (RFC 8489 s. 14.11 and 18.5). It never varies, so what was sent with a nonce is known from its bit.
pub(super) const PASSWORD_ALGORITHMS: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];

/// The parts of a request that authenticate it.
pub(super) struct Claims<'a> {
    pub name: Name<'a>,
    pub realm: &'a [u8],
    pub nonce: &'a [u8],
    pub choice: Choice,
}

/// How the sender names itself.
pub(super) enum Name<'a> {
    /// USERNAME as it is compared: UTF-8 in the form of OpaqueString; `None` if it isn't that, for instance
    /// because of control characters (Q17). Then it is nobody's name, and gets the same answer as any unknown one.
    Plain(Option<Cow<'a, str>>),
    /// USERHASH: SHA-256 of `user:realm` (RFC 8489 s. 14.4).
    Hashed(&'a [u8]),
}

/// Which key and which attributes protect the exchange.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    /// How the key is made.
    pub algorithm: Algorithm,
    /// What the request is to be checked with.
    pub request: Mechanism,
    /// What the answer is to be signed with.
    pub answer: Mechanism,
}

impl<'a> Claims<'a> {
    /// The second and third check of RFC 8489 s. 9.2.4; the first, that there is any integrity, is the caller's.
    pub fn read(request: &Message<'a>) -> Result<Claims<'a>, ErrorCode> {
        let name = match (request.attribute(attr::USERNAME), request.attribute(attr::USERHASH)) {
            (Some(name), _) => Name::Plain(read_name(name)),
            (None, Some(hash)) => Name::Hashed(hash),
            (None, None) => return Err(ErrorCode::BadRequest),
        };
        let realm = request.attribute(attr::REALM).ok_or(ErrorCode::BadRequest)?;
        let nonce = request.attribute(attr::NONCE).ok_or(ErrorCode::BadRequest)?;
        Ok(Claims { name, realm, nonce, choice: choose(request, nonce)? })
    }
}

fn read_name(name: &[u8]) -> Option<Cow<'_, str>> {
    opaque(std::str::from_utf8(name).ok()?).ok()
}

/// Protection against bidding down (RFC 8489 s. 9.2.4, third check, and s. 16.1).
fn choose(request: &Message<'_>, nonce: &[u8]) -> Result<Choice, ErrorCode> {
    let list = request.attribute(attr::PASSWORD_ALGORITHMS);
    let single = request.attribute(attr::PASSWORD_ALGORITHM);
    let offered = Features::claimed_by(nonce).password_algorithms;
    let chosen = match (list, single) {
        (None, None) => None,
        (Some(PASSWORD_ALGORITHMS), Some(single)) => {
            Some(parse_algorithm(single).ok_or(ErrorCode::BadRequest)?)
        }
        _ if offered => return Err(ErrorCode::BadRequest),
        // Nothing was offered with this nonce, so there is nothing to agree with.
        (_, single) => single.and_then(parse_algorithm),
    };
    let has_sha256 = request.has_integrity_sha256();
    let strongest = if has_sha256 { Mechanism::Sha256 } else { Mechanism::Sha1 };
    Ok(Choice {
        algorithm: chosen.unwrap_or(Algorithm::Md5),
        request: strongest,
        // Who names no algorithm is answered with MESSAGE-INTEGRITY (RFC 8489 s. 9.2.4, last paragraph).
        answer: if chosen.is_some() { strongest } else { Mechanism::Sha1 },
    })
}

/// PASSWORD-ALGORITHM: a number and no parameters (RFC 8489 s. 14.12).
fn parse_algorithm(value: &[u8]) -> Option<Algorithm> {
    match value {
        [0, 1, 0, 0] => Some(Algorithm::Md5),
        [0, 2, 0, 0] => Some(Algorithm::Sha256),
        _ => None,
    }
}
