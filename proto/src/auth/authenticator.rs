//! The checks of RFC 8489 s. 9.2.4, in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use thiserror::Error;
use zeroize::Zeroizing;

use super::claims::{Claims, PASSWORD_ALGORITHMS};
use super::credentials::{Credentials, Identity};
use super::nonce::{Features, NONCE_LEN, Nonces};
use crate::addr::FiveTuple;
use crate::migrate::SnapshotError;
use crate::migrate::images::IdentityImage;
use crate::refusal::{Detail, Refusal, RefusalReason};
use crate::wire::{Message, MessageBuilder, attr, attribute_len};
use crate::{ErrorCode, Now};

/// Why a request isn't accepted, and how to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// 400, 401 or 438.
    pub code: ErrorCode,
    /// Whether the answer carries REALM, NONCE and PASSWORD-ALGORITHMS: see [`Authenticator::challenge`].
    pub challenge: bool,
    /// Why, for the operator; `None` for a request without credentials, with which most clients begin.
    pub refusal: Option<Refusal>,
}

/// Credentials were for another realm than the one that the server was started with: clients know that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the credentials are for another realm")]
pub struct OtherRealm;

/// Authenticates requests. Shared by all workers; control messages only.
pub struct Authenticator {
    realm: String,
    strict_expiry: bool,
    nonces: Nonces,
    credentials: ArcSwap<Credentials>,
    /// How often they were replaced.
    version: AtomicU64,
}

impl Authenticator {
    /// With `strict_expiry` a REST credential's expiry ends its allocations too, else only new ones are refused.
    ///
    /// `seed` must come from a CSPRNG: whoever knows it can make nonces.
    pub fn new(credentials: Credentials, strict_expiry: bool, seed: [u8; 32]) -> Self {
        Self {
            realm: credentials.realm().to_owned(),
            strict_expiry,
            nonces: Nonces::new(seed),
            credentials: ArcSwap::from_pointee(credentials),
            version: AtomicU64::new(0),
        }
    }

    /// The realm that users log in to: that of the first credentials.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// From now on these count. Every worker is to be woken: its next ticks end what belongs
    /// to users with a password that are not among them any more. Everybody else keeps what he has: `held`
    /// identities keep their keys.
    ///
    /// # Errors
    /// [`OtherRealm`]; then nothing has changed.
    pub fn replace_credentials(&self, credentials: Credentials) -> Result<(), OtherRealm> {
        if self.realm != credentials.realm() {
            return Err(OtherRealm);
        }
        self.credentials.store(Arc::new(credentials));
        // Release: who sees the version sees the credentials.
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Changes with each [`Authenticator::replace_credentials`].
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether somebody who was authentic once is still a user. Whoever came by a time-limited credential is:
    /// that has an end of its own, and a secret can be replaced without ending calls (conformance O3).
    pub(crate) fn knows(&self, identity: &Identity) -> bool {
        identity.expires_unix().is_some() || self.credentials.load().has_user(&identity.user)
    }

    /// Who sent a request.
    ///
    /// `held` is the identity stored in the 5-tuple's allocation, if there is one: the same user is checked
    /// against the key held there, so that calls outlive expiry and rotation of what started them, and else
    /// against the key in force, so that a new password works at once: the identity has other keys then, see
    /// `Identity::has_keys_of`. Another user who is known is returned as such; the caller answers that with
    /// 441 (RFC 8656 s. 5).
    ///
    /// # Errors
    /// What to answer instead: 401, 400 or 438, in the order of RFC 8489 s. 9.2.4.
    pub fn authenticate(
        &self,
        now: Now,
        five_tuple: &FiveTuple,
        request: &Message<'_>,
        held: Option<&Arc<Identity>>,
    ) -> Result<Arc<Identity>, Rejection> {
        if !request.has_integrity() {
            return Err(Rejection { code: ErrorCode::Unauthenticated, challenge: true, refusal: None });
        }
        let claims = Claims::read(request).map_err(|_| Rejection::plain(RefusalReason::Malformed))?;
        let identified = self.identify(now, request, &claims, held);
        // A realm that isn't ours is a wrong credential like any other (S17).
        let identity = match claims.realm == self.realm.as_bytes() {
            true => identified,
            false => Err(RefusalReason::WrongRealm.into()),
        };
        let identity = identity.map_err(Rejection::challenge)?;
        // The nonce comes last: a stale one must not hide wrong credentials, nor good ones cause a 401 (S25).
        if !self.nonces.is_valid(now, five_tuple, claims.nonce) {
            return Err(Rejection::challenge(RefusalReason::StaleNonce.into()));
        }
        Ok(identity)
    }

    /// Whether a request carries a nonce that this server gave to this client and that still is valid:
    /// the sender does receive what is sent to its address.
    pub fn has_valid_nonce(&self, now: Now, five_tuple: &FiveTuple, request: &Message<'_>) -> bool {
        request.attribute(attr::NONCE).is_some_and(|nonce| self.nonces.is_valid(now, five_tuple, nonce))
    }

    /// Adds REALM, NONCE and, if every user could use SHA-256, PASSWORD-ALGORITHMS to a 401 or 438.
    ///
    /// What RFC 8489 has added to RFC 5389 (the nonce's announcement of features, PASSWORD-ALGORITHMS) is left out
    /// if the answer would be larger than `room` bytes with it: every client of RFC 8489 takes that for a server
    /// of RFC 5389 (s. 9.2.5). `random` comes from the worker's generator and keeps nonces of the same second
    /// apart.
    pub fn challenge(
        &self,
        now: Now,
        five_tuple: &FiveTuple,
        random: u32,
        room: usize,
        reply: MessageBuilder,
    ) -> MessageBuilder {
        let features = {
            let credentials = self.credentials.load();
            Features {
                password_algorithms: credentials.derives_sha256(),
                username_anonymity: credentials.enumerable(),
            }
        };
        let reply = reply.attribute(attr::REALM, self.realm.as_bytes());
        let algorithms_len =
            if features.password_algorithms { attribute_len(PASSWORD_ALGORITHMS.len()) } else { 0 };
        if reply.finished_len() + attribute_len(NONCE_LEN) + algorithms_len > room {
            let nonce = self.nonces.make(now, five_tuple, None, random);
            return reply.attribute(attr::NONCE, nonce.as_bytes());
        }
        let nonce = self.nonces.make(now, five_tuple, Some(features), random);
        let reply = reply.attribute(attr::NONCE, nonce.as_bytes());
        match features.password_algorithms {
            true => reply.attribute(attr::PASSWORD_ALGORITHMS, PASSWORD_ALGORITHMS),
            false => reply,
        }
    }

    /// What everything secret here is made from, for a snapshot.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.nonces.seed()
    }

    /// Whose an allocation of a snapshot is.
    pub(crate) fn adopt(&self, image: &IdentityImage) -> Result<Arc<Identity>, SnapshotError> {
        Identity::of_image(image, &self.credentials.load()).map(Arc::new)
    }

    /// A secret key for another purpose, made from the seed.
    pub(crate) fn derive_key(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        self.nonces.derive_key(purpose)
    }

    fn identify(
        &self,
        now: Now,
        request: &Message<'_>,
        claims: &Claims<'_>,
        held: Option<&Arc<Identity>>,
    ) -> Result<Arc<Identity>, Refusal> {
        let held = held.filter(|held| held.is_named(&claims.name));
        if let Some(identity) = held.and_then(|held| held.reverify(request, claims.choice)) {
            return if self.strict_expiry { unexpired(now, identity) } else { Ok(identity) };
        }
        let credentials = self.credentials.load();
        let identity = credentials.verify(request, claims);
        // Asked whatever came out, so that success and failure take the same time (Q6).
        let otherwise = credentials.why_not(claims);
        let identity = unexpired(now, Arc::new(identity.ok_or(otherwise)?))?;
        // A time-limited credential never passes for a user with a password of the same name, nor the reverse.
        match held.is_none_or(|held| held.expires_unix() == identity.expires_unix()) {
            true => Ok(identity),
            false => Err(RefusalReason::WrongKey.into()),
        }
    }
}

impl Rejection {
    fn challenge(refusal: Refusal) -> Self {
        Self { code: refusal.reason.code(), challenge: true, refusal: Some(refusal) }
    }

    fn plain(reason: RefusalReason) -> Self {
        Self { code: reason.code(), challenge: false, refusal: Some(reason.into()) }
    }
}

fn unexpired(now: Now, identity: Arc<Identity>) -> Result<Arc<Identity>, Refusal> {
    match identity.expired_secs_ago(now) {
        None => Ok(identity),
        Some(secs) => Err(Refusal::with(RefusalReason::ExpiredCredential, Detail::ExpiredSecsAgo(secs))),
    }
}
