//! Between the workers and everybody else.
//!
//! ```text
//!   signals ─────► Control ──► WorkerHandle ── bounded queue, one wake ──► Worker
//!   API ─► managed ─►  │  ◄── answers, by a channel of each question ◄───────┤
//!                     ├─ Status ◄── gauges each turn, Reports while anything happens
//!                     └─ EventSource ◄── events, while somebody listens ────┘
//! ```
//!
//! A worker never waits for anybody: what it can't hand over, it drops and counts. Whoever asks a worker
//! waits a bounded time.

mod ask;
mod certificates;
mod convert;
mod credentials;
mod database;
mod drops;
mod follow;
mod liveness;
mod loads;
mod lock;
mod managed;
mod network;
mod operate;
mod reload;
mod snapshots;
mod state;
mod totals;
mod users;

pub use certificates::{follow_certificates, wanted};
pub use database::Users;
pub use follow::{follow_addresses, follow_publics};
pub use liveness::LOOK_PERIOD;
pub use state::{Control, Parts};
