//! Long-term credentials (RFC 8489 section 9.2), static or derived from a REST secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

/// How long a derived REST credential stays valid, seconds: turnutils_uclient's value.
pub const REST_LIFETIME_SECS: u64 = 86_400;

/// A user name and its password. The password is wiped on drop and never printed.
#[derive(Clone)]
pub struct Credentials {
    /// USERNAME as sent.
    pub username: String,
    password: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// A user of the server's own database.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Zeroizing::new(password.into()) }
    }

    /// Time-limited credentials from a shared secret: the name is `<expiry>` or
    /// `<expiry><separator><user>`, the password base64(HMAC-SHA1(secret, name)).
    pub fn from_rest_secret(secret: &str, user: Option<&str>, separator: char, now_unix_secs: u64) -> Self {
        let expiry = now_unix_secs + REST_LIFETIME_SECS;
        let username = match user {
            Some(user) if !user.is_empty() => format!("{expiry}{separator}{user}"),
            _ => expiry.to_string(),
        };
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(username.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        Self::new(username, password)
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_credentials_follow_the_turn_rest_recipe() {
        let got = Credentials::from_rest_secret("north", Some("gorst"), ':', 1_000);
        assert_eq!(got.username, "87400:gorst");
        // printf 87400:gorst | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(got.password(), "cU9nsmDgtzsO70uxqgq7VGO12lM=");
        assert_eq!(Credentials::from_rest_secret("north", None, ':', 0).username, "86400");
    }

    #[test]
    fn debug_output_hides_the_password() {
        let text = format!("{:?}", Credentials::new("alice", "swordfish"));
        assert!(text.contains("alice") && !text.contains("swordfish"));
    }
}
