//! Nonces that need no memory (RFC 8489 s. 9.2 and 14.10).
//!
//! ```text
//!   obMatJos2 │ feature bits, 4 characters │ base64(timestamp u16 │ random u8 │ HMAC 12 bytes)
//!   13 characters in the clear, or none    │ 20 characters
//! ```
//!
//! The HMAC covers the client's address, port and transport, the feature bits, timestamp and
//! random: a nonce is of use only to whom it was sent, and only as it was sent. Without the first
//! part it announces nothing, as RFC 5389 has it: where an answer has to be small (Q4).

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

// An age has to fit into 15 bits.
const _: () = assert!(NONCE_LIFETIME_SECS < 1 << 15);

/// What a nonce begins with if the server speaks RFC 8489 (s. 9.2).
const COOKIE: &str = "obMatJos2";
/// Characters of cookie and feature bits.
const PREFIX_LEN: usize = COOKIE.len() + 4;
/// Bytes of the truncated HMAC: 96 bits, more than can be guessed within a nonce's life.
const TAG_LEN: usize = 12;
/// Bytes in front of the HMAC: timestamp, random.
const STAMP_LEN: usize = 2 + 1;
/// Bytes behind the prefix: a multiple of three, so that base64 needs no padding and has one form only.
const BODY_LEN: usize = STAMP_LEN + TAG_LEN;
/// Characters of a nonce that announces nothing.
const COMPACT_LEN: usize = BODY_LEN / 3 * 4;
/// Characters of a nonce that announces features.
pub(super) const NONCE_LEN: usize = PREFIX_LEN + COMPACT_LEN;
/// Seconds that a nonce may seem to come from the future: another worker's clock, or a clock set back.
const MAX_SKEW_SECS: i16 = 5;
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
            .strip_prefix(COOKIE.as_bytes())
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

    pub(super) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// A fresh nonce for one client, that announces `features` or nothing. The random part keeps two of the
    /// same second apart.
    pub fn make(&self, now: Now, to: &FiveTuple, features: Option<Features>, random: u32) -> String {
        // Seconds modulo 2^16, 18 hours, are enough to tell an hour; the key of the hour tells the rest.
        let mut body = [0; BODY_LEN];
        body[..2].copy_from_slice(&(now.unix_secs as u16).to_be_bytes());
        body[2] = random as u8;
        let mut text = String::with_capacity(NONCE_LEN);
        if let Some(features) = features {
            push_prefix(&mut text, features);
        }
        let mac = self.mac(to, text.as_bytes(), &body[..STAMP_LEN], now.unix_secs as u32);
        body[STAMP_LEN..].copy_from_slice(&mac.finalize().into_bytes()[..TAG_LEN]);
        STANDARD_NO_PAD.encode_string(body, &mut text);
        text
    }

    /// Whether a nonce was made here, for this client, within its lifetime.
    pub fn is_valid(&self, now: Now, from: &FiveTuple, nonce: &[u8]) -> bool {
        let (prefix, text) = match nonce.len() {
            NONCE_LEN => nonce.split_at(PREFIX_LEN),
            COMPACT_LEN => nonce.split_at(0),
            _ => return false,
        };
        let mut body = [0; BODY_LEN];
        if STANDARD_NO_PAD.decode_slice(text, &mut body) != Ok(BODY_LEN) {
            return false;
        }
        let (stamp, tag) = body.split_at(STAMP_LEN);
        let age_secs = (now.unix_secs as u16).wrapping_sub(u16::from_be_bytes([stamp[0], stamp[1]])) as i16;
        if !(-MAX_SKEW_SECS..=NONCE_LIFETIME_SECS as i16).contains(&age_secs) {
            // The timestamp is in the clear: who learns from the time taken that it is old knew that before.
            return false;
        }
        let timestamp = (now.unix_secs as u32).wrapping_sub_signed(age_secs.into());
        self.mac(from, prefix, stamp, timestamp).verify_truncated_left(tag).is_ok()
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

fn push_prefix(text: &mut String, features: Features) {
    text.push_str(COOKIE);
    STANDARD.encode_string(features.to_bits(), text);
}
