//! Whose allocations are, on their way into another process: by keys, as here.

use std::sync::Arc;

use super::credentials::{Credentials, Identity, Keys, userhash};
use super::key::{Algorithm, Key};
use crate::limits::MAX_USERNAME;
use crate::migrate::SnapshotError;
use crate::migrate::images::{IdentityImage, KeysImage};
use crate::wire::integrity::Mechanism;

impl Identity {
    /// For a snapshot.
    pub(crate) fn image(&self) -> IdentityImage {
        IdentityImage {
            user: Arc::clone(&self.user),
            quota_user: (self.quota_user != self.user).then(|| Arc::clone(&self.quota_user)),
            expires_unix: self.expires_unix,
            keys: self.keys.image(),
            algorithm: self.key.algorithm() as u16,
            answers_sha256: self.key.mechanism() == Mechanism::Sha256,
        }
    }

    /// What a snapshot says; `credentials` are those in force.
    pub(super) fn of_image(
        image: &IdentityImage,
        credentials: &Credentials,
    ) -> Result<Identity, SnapshotError> {
        let is_long = |name: &str| name.is_empty() || name.len() > MAX_USERNAME;
        let quota_user = image.quota_user.as_ref().unwrap_or(&image.user);
        if is_long(&image.user) || is_long(quota_user) {
            return Err(SnapshotError::Contradiction("a user's name is too long"));
        }
        let keys = Keys::of_image(&image.keys, &image.user, credentials.realm());
        // Who has logged in by the keys in force shares them.
        let account = credentials.keys_of(&image.user).filter(|known| known.are(&keys));
        let keys = account.map_or_else(|| Arc::new(keys), Arc::clone);
        let algorithm =
            [Algorithm::Md5, Algorithm::Sha256].into_iter().find(|it| *it as u16 == image.algorithm);
        let key = algorithm.and_then(|algorithm| keys.get(algorithm));
        let key = key.ok_or(SnapshotError::Contradiction("a user's key is missing"))?;
        let mechanism = if image.answers_sha256 { Mechanism::Sha256 } else { Mechanism::Sha1 };
        let key = key.with_mechanism(mechanism);
        let (user, quota_user) = (Arc::clone(&image.user), Arc::clone(quota_user));
        Ok(Identity { user, quota_user, expires_unix: image.expires_unix, keys, key })
    }
}

impl Keys {
    fn image(&self) -> KeysImage {
        let mut image = KeysImage { md5: [0; 16], sha256: None };
        image.md5.copy_from_slice(self.md5.bytes());
        if let Some(key) = &self.sha256 {
            image.sha256.insert([0; 32]).copy_from_slice(key.bytes());
        }
        image
    }

    fn of_image(image: &KeysImage, user: &str, realm: &str) -> Keys {
        Keys {
            md5: Key::from_md5_bytes(image.md5),
            sha256: image.sha256.map(Key::from_sha256_bytes),
            userhash: userhash(user, realm),
        }
    }

    /// Whether both are of one password. No stranger learns the answer.
    fn are(&self, other: &Keys) -> bool {
        let sha256 = [self, other].map(|keys| keys.sha256.as_ref().map(Key::bytes));
        self.md5.bytes() == other.md5.bytes() && sha256[0] == sha256[1]
    }
}
