//! What the reasons of drops say about the relay.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Every reason for which a datagram may be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropReasons {
    /// In the order of the metrics' documentation.
    pub reasons: Vec<DropReason>,
}

/// A reason for which a datagram may be dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropReason {
    /// The name in totals and metrics.
    pub name: String,
    /// Whose fault it is, if anybody's.
    pub cause: DropCause,
}

/// Who is to blame for a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DropCause {
    /// Nobody: a limit or a rule of the configuration did what it is for.
    Policy,
    /// Whoever sent it: it is malformed, late, or nobody had asked for it.
    Sender,
    /// Whoever it was for: it took too little of what came, or was gone.
    Receiver,
    /// This host: it could not receive, hand over or send it. Worth a look.
    Relay,
}
