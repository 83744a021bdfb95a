//! Why requests were refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The latest refusals, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusals {
    /// The latest first, at most 512. Only of who had credentials and has proved to receive what is sent to its
    /// address; all are in the totals.
    pub refusals: Vec<Refusal>,
    /// How many there were since the start, by method, code and reason.
    pub totals: Vec<RefusalCount>,
}

/// Equal refusals of one source: the same address, user, method and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// The first of them, in seconds since 1970.
    pub first_unix_secs: u64,
    /// The latest of them, in seconds since 1970.
    pub last_unix_secs: u64,
    /// How many there were.
    pub count: u64,
    /// `allocate`, `refresh`, `create_permission` or `channel_bind`.
    #[schema(example = "allocate")]
    pub method: String,
    /// What the client was answered with, 300 to 699.
    #[schema(example = 401)]
    pub code: u16,
    /// Why, in one word for programs.
    #[schema(example = "expired-credential")]
    pub reason: String,
    /// The part of the user's name that quotas count. With code 401 it is what the client calls itself.
    #[schema(value_type = Option<String>, required = true)]
    pub user: Option<Arc<str>>,
    /// The client's address, the latest.
    #[schema(value_type = String, example = "198.51.100.7:50000")]
    pub client: SocketAddr,
    /// The peer that was asked for, where it is the reason.
    #[schema(value_type = Option<String>, required = true)]
    pub peer: Option<IpAddr>,
    /// How far it was off, for people.
    #[schema(required = true, example = "expired 3600 s ago")]
    pub detail: Option<String>,
    /// The option that would allow it.
    #[schema(required = true, example = "--allow-peer 10.0.0.20")]
    pub remedy: Option<String>,
}

/// Refusals of one method for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusalCount {
    /// `allocate`, `refresh`, `create_permission` or `channel_bind`.
    pub method: String,
    /// What clients were answered with, 300 to 699.
    pub code: u16,
    /// Why, in one word for programs.
    pub reason: String,
    /// How many requests were refused for it.
    pub count: u64,
}

impl RefusalCount {
    /// Whether both count the same.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.method, &self.reason) == (&other.method, &other.reason)
    }
}
