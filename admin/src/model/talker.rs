//! Who sends most.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The users with the highest rates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Talkers {
    /// When the allocations were looked at, in milliseconds since 1970.
    pub as_of_unix_millis: u64,
    /// Users with at least one allocation.
    pub total: u64,
    /// Those with the highest rates, the highest first.
    pub talkers: Vec<Talker>,
}

/// A user with all of its allocations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Talker {
    /// The part of the name that quotas count.
    #[schema(value_type = String)]
    pub user: Arc<str>,
    /// Allocations that it has now.
    pub allocations: u64,
    /// Those of them that the kernel forwards for.
    pub allocations_offloaded: u64,
    /// Rate of all together to peers.
    pub to_peer_bits_per_sec: u64,
    /// Rate of all together to clients.
    pub to_client_bits_per_sec: u64,
}
