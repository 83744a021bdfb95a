//! Between the workers and everybody else.
//!
//! ```text
//!   signals, API ──► WorkerHandle ── bounded queue, one wake ──► Shard
//!                    Status ◄── gauges each turn, a Report when anything happened ──┘
//! ```
//!
//! Whoever asks a worker gets the answer by a channel of its own; a worker never waits for anybody.

mod command;
mod status;

pub use command::{Command, WorkerHandle};
pub(crate) use status::Reporter;
pub use status::{Load, Report, Status, TURN_BOUNDS_NS};
