//! Nonces that need no memory (RFC 8489 s. 9.2 and 14.10).
//!
//! ```text
//!   obMatJos2 │ feature bits, 4 characters │ base64(timestamp u32 │ random u32 │ HMAC 12 bytes)
//!   13 characters in the clear             │ 27 characters
//! ```
//!
//! The HMAC covers the client's address, port and transport, the feature bits, timestamp and
//! random: a nonce is of use only to whom it was sent, and only as it was sent.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Now;
use crate::addr::FiveTuple;
use crate::limits::NONCE_LIFETIME_SECS;

/// What a nonce begins with if the server speaks RFC 8489 (s. 9.2).
const COOKIE: &[u8] = b"obMatJos2";
/// Characters of cookie and feature bits.
const PREFIX_LEN: usize = COOKIE.len() + 4;
/// Bytes of the truncated HMAC: 96 bits, more than can be guessed within a nonce's life.
const TAG_LEN: usize = 12;
/// Bytes behind the prefix: timestamp, random, HMAC.
const BODY_LEN: usize = 4 + 4 + TAG_LEN;
/// Bytes of a nonce (Q4: an unauthenticated answer stays small).
pub(super) const NONCE_LEN: usize = 40;
/// Seconds that a nonce may seem to come from the future: another worker's clock, or a clock set back.
const MAX_SKEW_SECS: u32 = 5;
/// How long one HMAC key is used, seconds.
const KEY_EPOCH_SECS: u32 = 3600;

/// The security features of RFC 8489 s. 18.1, 24 bits; bit 0 is the least significant one (verified errata).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Bit 0: PASSWORD-ALGORITHMS was sent along.
    pub password_algorithms: bool,
    /// Bit 1: USERHASH is understood.
    pub username_anonymity: bool,
}

impl Features {
    fn to_bits(self) -> [u8; 3] {
        [0, 0, u8::from(self.password_algorithms) | u8::from(self.username_anonymity) << 1]
    }

    /// What a nonce claims, before it is known whether it is ours.
    pub fn claimed_by(nonce: &[u8]) -> Features {
        let bits = nonce
            .strip_prefix(COOKIE)
            .and_then(|rest| rest.get(..4))
            .and_then(|text| STANDARD.decode(text).ok())
            .and_then(|bytes| bytes.last().copied())
            .unwrap_or(0);
        Features { password_algorithms: bits & 1 != 0, username_anonymity: bits & 2 != 0 }
    }
}

/// Makes and checks nonces.
pub(super) struct Nonces {
    seed: Zeroizing<[u8; 32]>,
    /// The keyed HMACs of this hour and another one, by parity: making one costs more than using it.
    keyed: [ArcSwapOption<Keyed>; 2],
}

/// The HMAC of one hour's key, before anything went in.
struct Keyed {
    epoch: u32,
    mac: Hmac<Sha256>,
}

impl Nonces {
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), keyed: Default::default() }
    }

    /// A fresh nonce for one client. The random part keeps two of the same second apart.
    pub fn make(&self, now: Now, to: &FiveTuple, features: Features, random: u32) -> String {
        // Seconds modulo 2^32 are enough to tell an hour; ages are computed modulo 2^32 as well.
        let timestamp = now.unix_secs as u32;
        let mut body = [0; BODY_LEN];
        body[..4].copy_from_slice(&timestamp.to_be_bytes());
        body[4..8].copy_from_slice(&random.to_be_bytes());
        let prefix = prefix(features);
        let tag = self.mac(to, prefix.as_bytes(), &body[..8], timestamp).finalize().into_bytes();
        body[8..].copy_from_slice(&tag[..TAG_LEN]);
        prefix + &STANDARD_NO_PAD.encode(body)
    }

    /// Whether a nonce was made here, for this client, within its lifetime.
    pub fn is_valid(&self, now: Now, from: &FiveTuple, nonce: &[u8]) -> bool {
        let Some((prefix, text)) = nonce.split_at_checked(PREFIX_LEN) else { return false };
        // The decoder wants room for whole groups of three bytes.
        let mut body = [0; BODY_LEN.next_multiple_of(3)];
        if nonce.len() != NONCE_LEN || STANDARD_NO_PAD.decode_slice(text, &mut body) != Ok(BODY_LEN) {
            return false;
        }
        let body = &body[..BODY_LEN];
        let timestamp = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
        let age = (now.unix_secs as u32).wrapping_sub(timestamp);
        let fresh = u64::from(age) <= NONCE_LIFETIME_SECS || age.wrapping_neg() <= MAX_SKEW_SECS;
        // The timestamp is in the clear: who learns from the time taken that it is old knew that before.
        fresh && self.mac(from, prefix, &body[..8], timestamp).verify_truncated_left(&body[8..]).is_ok()
    }

    /// A key for another purpose: nothing about nonces follows from it, nor the other way round.
    pub fn derive_key(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut mac = hmac(&*self.seed);
        mac.update(purpose);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    fn mac(&self, client: &FiveTuple, prefix: &[u8], stamp: &[u8], timestamp: u32) -> Hmac<Sha256> {
        let mut mac = self.epoch_mac(timestamp / KEY_EPOCH_SECS);
        match client.client.ip() {
            IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        mac.update(&client.client.port().to_be_bytes());
        mac.update(&[client.transport as u8]);
        mac.update(prefix);
        mac.update(stamp);
        mac
    }

    fn epoch_mac(&self, epoch: u32) -> Hmac<Sha256> {
        let kept = &self.keyed[epoch as usize % 2];
        if let Some(keyed) = &*kept.load()
            && keyed.epoch == epoch
        {
            return keyed.mac.clone();
        }
        let mac = hmac(&*self.epoch_key(epoch));
        kept.store(Some(Arc::new(Keyed { epoch, mac: mac.clone() })));
        mac
    }

    /// The key of one hour: derived, so that every worker has it without telling the others.
    fn epoch_key(&self, epoch: u32) -> Zeroizing<[u8; 32]> {
        let mut mac = hmac(&*self.seed);
        mac.update(b"turnpike nonce key");
        mac.update(&epoch.to_be_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn prefix(features: Features) -> String {
    let mut text = String::with_capacity(NONCE_LEN);
    text.push_str("obMatJos2");
    STANDARD.encode_string(features.to_bits(), &mut text);
    text
}
