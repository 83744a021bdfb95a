//! The last minutes, for charts that have something to show at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Totals, TrafficByPath};

/// Counters of the last minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// How often they are read.
    pub period_secs: u64,
    /// The oldest first. A restart begins with none.
    pub samples: Vec<Sample>,
}

/// What the [`Totals`] were at one time, without what no chart needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// When they were read, in milliseconds since 1970.
    pub as_of_unix_millis: u64,
    /// From clients to peers, by who forwarded.
    pub to_peer: TrafficByPath,
    /// From peers to clients, by who forwarded.
    pub to_client: TrafficByPath,
    /// Datagrams that went nowhere, in userspace and kernel together, by the name of the reason.
    pub drops: BTreeMap<String, u64>,
    /// Allocations at that time.
    pub allocations: u64,
    /// Allocations created since the start.
    pub allocations_created: u64,
}

impl From<&Totals> for Sample {
    fn from(totals: &Totals) -> Self {
        let mut drops = BTreeMap::new();
        for (name, &count) in totals.sum.verdicts.iter().chain(&totals.offload.verdicts) {
            if name.starts_with("drop_") && count > 0 {
                *drops.entry(name.clone()).or_default() += count;
            }
        }
        Self {
            as_of_unix_millis: totals.as_of_unix_millis,
            to_peer: totals.sum.to_peer,
            to_client: totals.sum.to_client,
            drops,
            allocations: totals.sum.allocations,
            allocations_created: totals.sum.allocations_created,
        }
    }
}
