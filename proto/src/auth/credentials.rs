//! Whom we know: static users by their keys, REST users by a shared secret.

use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foldhash::quality::FixedState;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::claims::{Choice, Claims, Name};
use super::key::{Algorithm, BadCredential, Key, opaque};
use crate::Now;
use crate::limits::MAX_USERNAME;
use crate::refusal::RefusalReason;
use crate::wire::Message;
use crate::wire::integrity::verify;

/// Someone whose request was authentic, with the key for the answer.
#[derive(Clone)]
pub struct Identity {
    /// The full name.
    pub user: Arc<str>,
    /// Whose quota counts: the user part of a REST name, the whole name where there is none.
    pub quota_user: Arc<str>,
    pub(super) expires_unix: Option<u64>,
    pub(super) keys: Arc<Keys>,
    pub(super) key: Key,
}

/// Static users and REST secrets: built once, replaced as a whole.
pub struct Credentials {
    realm: String,
    /// Looked up by names that strangers choose, filled by the operator only: no random hash is needed.
    accounts: HashMap<Arc<str>, Arc<Account>, FixedState>,
    by_userhash: HashMap<[u8; 32], Arc<Account>, FixedState>,
    secrets: Vec<Zeroizing<String>>,
    /// Some user's password isn't known, only its MD5 key.
    md5_only: bool,
    /// Stands in for the key of users that don't exist.
    dummy: Key,
}

struct Account {
    user: Arc<str>,
    keys: Arc<Keys>,
}

/// What is kept of a password (RFC 8656 s. 6: keys, not passwords).
pub(super) struct Keys {
    pub(super) md5: Key,
    pub(super) sha256: Option<Key>,
    pub(super) userhash: [u8; 32],
}

/// A user's keys for being stored: as good as the password within its realm, so wiped when dropped and without
/// `Debug`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StoredKeys {
    /// MD5 over `user:realm:password`.
    pub md5: [u8; 16],
    /// SHA-256 over the same.
    pub sha256: [u8; 32],
}

impl StoredKeys {
    /// The keys of a password, which isn't needed any more afterwards.
    ///
    /// # Errors
    /// If name, realm or password are no OpaqueString (RFC 8265).
    pub fn derive(name: &str, realm: &str, password: &str) -> Result<StoredKeys, BadCredential> {
        let (md5, sha256) = (Key::md5(name, realm, password)?, Key::sha256(name, realm, password)?);
        let mut keys = StoredKeys { md5: [0; 16], sha256: [0; 32] };
        keys.md5.copy_from_slice(md5.bytes());
        keys.sha256.copy_from_slice(sha256.bytes());
        Ok(keys)
    }
}

/// The password that belongs to a REST user name: base64 of HMAC-SHA1 over the full name
/// (draft-uberti-behave-turn-rest s. 2.2).
pub fn rest_password(secret: &str, username: &str) -> Zeroizing<String> {
    let mut mac =
        <Hmac<Sha1> as Mac>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    Zeroizing::new(STANDARD.encode(mac.finalize().into_bytes()))
}

impl Identity {
    /// The key for answers: it knows which attribute the client expects (RFC 8489 s. 9.2.4).
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// When a REST credential expires, seconds since 1970; `None` for static users.
    pub fn expires_unix(&self) -> Option<u64> {
        self.expires_unix
    }

    /// Whether both come from the same password.
    pub(crate) fn has_keys_of(&self, other: &Identity) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys)
    }

    /// How long ago it has expired; `None` while it is valid.
    pub(super) fn expired_secs_ago(&self, now: Now) -> Option<u64> {
        self.expires_unix.and_then(|expires| now.unix_secs.checked_sub(expires)).filter(|secs| *secs > 0)
    }

    pub(super) fn is_named(&self, name: &Name<'_>) -> bool {
        match name {
            Name::Plain(name) => name.as_deref() == Some(&*self.user),
            Name::Hashed(hash) => *hash == self.keys.userhash,
        }
    }

    /// Checks a later request of the same user against the keys that are held.
    pub(super) fn reverify(self: &Arc<Self>, request: &Message<'_>, choice: Choice) -> Option<Arc<Identity>> {
        let key = self.keys.get(choice.algorithm)?;
        if !verify(request, choice.request, key) {
            return None;
        }
        let same = self.key.algorithm() == choice.algorithm && self.key.mechanism() == choice.answer;
        Some(if same {
            Arc::clone(self)
        } else {
            Arc::new(Identity { key: key.with_mechanism(choice.answer), ..Identity::clone(self) })
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// An empty set for one realm; see [`super::check_realm`].
    pub fn new(realm: &str) -> Self {
        Self {
            realm: realm.to_owned(),
            accounts: HashMap::default(),
            by_userhash: HashMap::default(),
            secrets: Vec::new(),
            md5_only: false,
            dummy: Key::from_md5_bytes([0; 16]),
        }
    }

    /// Adds a static user, or replaces the one of that name. The password itself isn't kept.
    ///
    /// # Errors
    /// If name, password or realm are no OpaqueString (RFC 8265).
    pub fn add_user(&mut self, name: &str, password: &str) -> Result<(), BadCredential> {
        let keys = Keys::derive(name, &self.realm, password)?;
        self.insert(&opaque(name)?, keys);
        Ok(())
    }

    /// Adds a static user by the keys that were stored, or replaces the one of that name.
    ///
    /// # Errors
    /// If the name is no OpaqueString (RFC 8265).
    pub fn add_user_keys(&mut self, name: &str, keys: &StoredKeys) -> Result<(), BadCredential> {
        let name = opaque(name)?;
        let (md5, sha256) = (Key::from_md5_bytes(keys.md5), Key::from_sha256_bytes(keys.sha256));
        let userhash = userhash(&name, &self.realm);
        self.insert(&name, Keys { md5, sha256: Some(sha256), userhash });
        Ok(())
    }

    /// Whether there is a static user of this name, which has been through OpaqueString.
    pub fn has_user(&self, name: &str) -> bool {
        self.accounts.contains_key(name)
    }

    /// The keys of a static user.
    pub(super) fn keys_of(&self, name: &str) -> Option<&Arc<Keys>> {
        self.accounts.get(name).map(|account| &account.keys)
    }

    /// Adds a static user of whom only the MD5 key is known. From then on SHA-256 isn't offered to
    /// anybody, because not every user could use it.
    ///
    /// # Errors
    /// If the name is no OpaqueString (RFC 8265).
    pub fn add_user_md5(&mut self, name: &str, key: [u8; 16]) -> Result<(), BadCredential> {
        let name = opaque(name)?;
        let userhash = userhash(&name, &self.realm);
        self.insert(&name, Keys { md5: Key::from_md5_bytes(key), sha256: None, userhash });
        self.md5_only = true;
        Ok(())
    }

    /// Adds a REST secret. With several, any may have made a password: secrets can be rotated.
    ///
    /// An empty one isn't added: everybody knows it.
    pub fn add_secret(&mut self, secret: impl Into<Zeroizing<String>>) {
        let secret = secret.into();
        if !secret.is_empty() {
            self.secrets.push(secret);
        }
    }

    /// Whether nobody could ever authenticate.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.secrets.is_empty()
    }

    /// How many static users there are.
    pub fn users(&self) -> usize {
        self.accounts.len()
    }

    /// How many REST secrets there are.
    pub fn secrets(&self) -> usize {
        self.secrets.len()
    }

    /// Whether all users are known by name; only then can a USERHASH be found (RFC 8489 s. 9.2).
    pub fn enumerable(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Whether every user has a SHA-256 key.
    pub(super) fn derives_sha256(&self) -> bool {
        !self.md5_only
    }

    pub(super) fn realm(&self) -> &str {
        &self.realm
    }

    /// Finds who sent a request. The same work is done for a user that exists and for one that doesn't,
    /// for a right and a wrong password, and whichever secret matches (Q6).
    pub(super) fn verify(&self, request: &Message<'_>, claims: &Claims<'_>) -> Option<Identity> {
        let by_account = self.verify_account(request, claims);
        let by_secret = self.verify_secrets(request, claims);
        by_account.or(by_secret)
    }

    /// Why a request that did not verify has failed.
    pub(super) fn why_not(&self, claims: &Claims<'_>) -> RefusalReason {
        let is_known = match &claims.name {
            Name::Plain(None) => false,
            Name::Plain(Some(name)) => {
                let is_rest = !self.secrets.is_empty() && split_rest_name(name).is_some();
                self.accounts.contains_key(&**name) | is_rest
            }
            Name::Hashed(hash) => self.enumerable() && self.by_userhash.contains_key(*hash),
        };
        if is_known { RefusalReason::WrongKey } else { RefusalReason::UnknownUser }
    }

    fn verify_account(&self, request: &Message<'_>, claims: &Claims<'_>) -> Option<Identity> {
        let account = match &claims.name {
            Name::Plain(name) => name.as_deref().and_then(|name| self.accounts.get(name)),
            Name::Hashed(hash) if self.enumerable() => self.by_userhash.get(*hash),
            Name::Hashed(_) => None,
        };
        let key = account.and_then(|account| account.keys.get(claims.choice.algorithm));
        let authentic = black_box(verify(request, claims.choice.request, key.unwrap_or(&self.dummy)));
        let (account, key) = account.zip(key).filter(|_| authentic)?;
        Some(Identity {
            user: Arc::clone(&account.user),
            quota_user: Arc::clone(&account.user),
            expires_unix: None,
            keys: Arc::clone(&account.keys),
            key: key.with_mechanism(claims.choice.answer),
        })
    }

    fn verify_secrets(&self, request: &Message<'_>, claims: &Claims<'_>) -> Option<Identity> {
        let name = match &claims.name {
            Name::Plain(name) => name.as_deref(),
            Name::Hashed(_) => None,
        };
        let mut found = None;
        for secret in &self.secrets {
            // Without a usable name the same is done for another one.
            let user = name.unwrap_or("-");
            let password = rest_password(secret, user);
            let key = Key::derive(claims.choice.algorithm, user, &self.realm, &password).ok();
            let key = key.as_ref().unwrap_or(&self.dummy);
            if black_box(verify(request, claims.choice.request, key)) {
                found = Some(password);
            }
        }
        self.rest_identity(name?, &found?, claims.choice)
    }

    fn rest_identity(&self, name: &str, password: &str, choice: Choice) -> Option<Identity> {
        let (expires, quota_user) = split_rest_name(name)?;
        let keys = Keys::derive(name, &self.realm, password).ok()?;
        let key = keys.get(choice.algorithm)?.with_mechanism(choice.answer);
        Some(Identity {
            user: name.into(),
            quota_user: quota_user.into(),
            expires_unix: Some(expires),
            keys: Arc::new(keys),
            key,
        })
    }

    fn insert(&mut self, name: &str, keys: Keys) {
        let userhash = keys.userhash;
        let account = Arc::new(Account { user: name.into(), keys: Arc::new(keys) });
        self.accounts.insert(Arc::clone(&account.user), Arc::clone(&account));
        self.by_userhash.insert(userhash, account);
    }
}

impl Keys {
    fn derive(user: &str, realm: &str, password: &str) -> Result<Keys, BadCredential> {
        Ok(Keys {
            md5: Key::md5(user, realm, password)?,
            sha256: Some(Key::sha256(user, realm, password)?),
            userhash: userhash(&opaque(user)?, realm),
        })
    }

    pub(super) fn get(&self, algorithm: Algorithm) -> Option<&Key> {
        match algorithm {
            Algorithm::Md5 => Some(&self.md5),
            Algorithm::Sha256 => self.sha256.as_ref(),
        }
    }
}

/// USERHASH of a name that has been through OpaqueString (RFC 8489 s. 14.4).
pub(super) fn userhash(name: &str, realm: &str) -> [u8; 32] {
    Sha256::new().chain_update(name).chain_update(":").chain_update(realm).finalize().into()
}

/// What a sender calls itself, as quotas would count it and as long as a name may be: nothing is proven.
pub(crate) fn claimed_user(username: &[u8]) -> Arc<str> {
    let name = String::from_utf8_lossy(&username[..username.len().min(MAX_USERNAME)]);
    match split_rest_name(&name) {
        Some((_, user)) => user.into(),
        None => (*name).into(),
    }
}

/// Expiry and user part of a REST name: `expiry`, `expiry:user` or `user:expiry`; digits only, seconds since 1970.
fn split_rest_name(name: &str) -> Option<(u64, &str)> {
    if let Some(expires) = parse_expiry(name) {
        return Some((expires, name));
    }
    let first = name.split_once(':').and_then(|(expiry, user)| Some((parse_expiry(expiry)?, user)));
    let last = name.rsplit_once(':').and_then(|(user, expiry)| Some((parse_expiry(expiry)?, user)));
    let (expires, user) = first.or(last)?;
    Some((expires, if user.is_empty() { name } else { user }))
}

fn parse_expiry(text: &str) -> Option<u64> {
    // `parse` alone would take a plus sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
