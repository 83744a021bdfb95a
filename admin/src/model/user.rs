//! Users, and credentials for them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroize;

/// A password on its way in or out: wiped when dropped, and without `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, Zeroize)]
#[zeroize(drop)]
#[serde(transparent)]
#[schema(value_type = String, format = Password)]
pub struct Password(String);

impl Password {
    /// From here on the text is wiped when it is dropped.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The password, for those who check or store it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Where a user is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserSource {
    /// In the configuration: the API can't change it.
    Configuration,
    /// In the user database: the API made it, and can change it.
    Database,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// The name, prepared (OpaqueString, RFC 8265).
    pub name: String,
    /// Where it is kept, and so whether the API can change it.
    pub source: UserSource,
    /// Allocations that it may have at once; absent: the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u32>,
    /// Limit of each of its allocations in each direction, bits of payload per second; absent: the
    /// server's default; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bits_per_sec: Option<u64>,
    /// When it was created, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_unix_secs: Option<u64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_unix_secs: Option<u64>,
}

/// What `PUT` says of a user: the whole truth, so what is left out goes back to the default. Only the
/// password may be left out to keep it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// The password; a new user needs one, another one keeps its own when this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1024)]
    pub password: Option<Password>,
    /// Allocations that it may have at once; absent: the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 4_294_967_295_i64)]
    pub quota: Option<u32>,
    /// Limit of each of its allocations in each direction, bits of payload per second; absent: the
    /// server's default; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    pub max_bits_per_sec: Option<u64>,
}

/// One page of a list of users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserPage {
    /// How many users there are that the filter lets pass.
    pub matching: u64,
    /// Where this page starts in those.
    pub offset: u64,
    /// The page, by name.
    pub users: Vec<User>,
}

/// A request for time-limited credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialRequest {
    /// For whom: any name without a colon. Quotas count it.
    #[schema(
        min_length = 1,
        max_length = 400,
        pattern = r"^[^:\u0000-\u001F\u007F-\u009F]+$",
        example = "alice"
    )]
    pub user: String,
    /// How long a new allocation may be made with them; absent: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub ttl_secs: Option<u64>,
}

/// Time-limited credentials: what a signaling server hands to its clients as an entry of `iceServers`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Credentials {
    /// `EXPIRY:USER`, the expiry in seconds since 1970.
    pub username: String,
    /// base64(HMAC-SHA1(secret, username)).
    pub password: Password,
    /// How long they are good for.
    pub ttl_secs: u64,
    /// `turn:` addresses of the listeners.
    pub uris: Vec<String>,
}
