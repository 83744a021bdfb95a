//! What happens, as it happens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Allocation, AllocationId, Refusal, Totals};

/// What `GET /v1/events` sends: the name of the variant is the event's name, the rest its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An allocation was answered with success.
    Created {
        /// The allocation as it began.
        allocation: Allocation,
    },
    /// An allocation has ended.
    Ended {
        /// The allocation as it ended, with its final traffic.
        allocation: Allocation,
        /// Why: `deleted`, `expired`, `disconnected`, `connection_closed`, ...
        reason: String,
        /// How long it lived.
        duration_secs: f64,
    },
    /// The limit of an allocation was changed, or was reached.
    Limited(Limited),
    /// A request was refused; at most once a minute for each source and reason.
    Refused(Refusal),
    /// All counters, each second. Sent by the API itself: a relay never publishes it.
    Totals(Box<Totals>),
}

/// An allocation and its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limited {
    /// The allocation's number.
    pub id: AllocationId,
    /// The allocation's user.
    pub user: String,
    /// What happened to it.
    pub why: LimitedWhy,
    /// The limit in each direction; 0: none.
    pub max_bits_per_sec: u64,
    /// Datagrams that the limit dropped, since the allocation began.
    pub rate_drops: u64,
}

/// What happened to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitedWhy {
    /// An administrator set it.
    Changed,
    /// Datagrams were dropped by it; sent at most once a second for each allocation.
    Reached,
}
