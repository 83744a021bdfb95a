//! Time-limited credentials, as a web service would hand them out ("REST API for access to TURN
//! services", draft-uberti-behave-turn-rest-00).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use turnpike_proto::limits::MAX_USERNAME;
use zeroize::Zeroizing;

use crate::config::Secret;

/// A user name with an expiry, and the password that goes with it.
#[derive(Clone)]
pub struct Credential {
    /// `EXPIRY:USER`, the expiry in seconds since 1970.
    pub username: String,
    /// base64(HMAC-SHA1(secret, username)).
    pub password: Zeroizing<String>,
}

/// Makes the credential of a user that is valid until the second `expiry` since 1970.
///
/// # Errors
/// If the name can't be a user's; the message says why.
pub fn issue(secret: &Secret, user: &str, expiry: u64) -> Result<Credential, String> {
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return Err("a user name is not empty and has neither a colon nor control characters".to_owned());
    }
    let username = format!("{expiry}:{user}");
    if username.len() > MAX_USERNAME {
        return Err(format!("the user name with its expiry has more than {MAX_USERNAME} bytes"));
    }
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes any key");
    mac.update(username.as_bytes());
    let password = Zeroizing::new(STANDARD.encode(mac.finalize().into_bytes()));
    Ok(Credential { username, password })
}

impl Credential {
    /// Two lines for people.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("username: {}\npassword: {}\n", self.username, self.password.as_str()))
    }

    /// One JSON object with the field names of the API, for programs.
    pub fn to_json(&self, ttl_secs: u64) -> Zeroizing<String> {
        let object = serde_json::json!({
            "username": self.username,
            "password": self.password.as_str(),
            "ttl_secs": ttl_secs,
        });
        Zeroizing::new(format!("{object}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn the_password_is_the_hmac_of_the_name() {
        // Computed with Python's hmac module: base64(HMAC-SHA1("north", "1714000000:alice")).
        let credential = issue(&secret("north"), "alice", 1_714_000_000).unwrap();
        assert_eq!(credential.username, "1714000000:alice");
        assert_eq!(*credential.password, "/UgHaIyBgleCfpMeL42QOZLZ+JY=");
    }

    #[test]
    fn json_has_the_fields_of_the_api() {
        let credential = issue(&secret("north"), "al\"ice", 1_714_000_000).unwrap();
        let object: serde_json::Value = serde_json::from_str(&credential.to_json(3600)).unwrap();
        assert_eq!(object["username"], "1714000000:al\"ice");
        assert_eq!(object["password"], credential.password.as_str());
        assert_eq!(object["ttl_secs"], 3600);
    }

    #[test]
    fn names_that_no_server_would_take_are_refused() {
        let long = "x".repeat(MAX_USERNAME);
        for name in ["", "a:b", "a\nb", &long] {
            assert!(issue(&secret("north"), name, 1).is_err(), "{name:?}");
        }
    }
}
