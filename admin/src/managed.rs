//! What HTTP may ask of a relay: the whole seam on one screen.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::model::{
    AllocationDetail, AllocationId, Config, CredentialRequest, Credentials, Disconnected, DrainRequest,
    DrainState, DropReason, Event, Readiness, Refusals, ReloadReport, Snapshot, Status, Totals, User,
    UserChange,
};

/// What comes later: workers are asked through queues.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, RelayError>> + Send + 'a>>;

/// Why a relay could not do what it was asked. The messages are shown to whoever asked: no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// There is no such allocation or user.
    #[error("there is no {0}")]
    NotFound(&'static str),
    /// The request contradicts the state, or what the configuration says (a user of the file, no
    /// shared secret, no database): 409.
    #[error("{0}")]
    Conflict(String),
    /// A value that can't be: 422.
    #[error("{0}")]
    Invalid(String),
    /// A worker did not answer in time, or its queue is full, or somebody else has the database: 503, worth
    /// another try.
    #[error("{0}")]
    Busy(String),
    /// It can't be kept: the disk is full, or nothing can be written there: 507.
    #[error("{0}")]
    Storage(String),
    /// Something is broken on our side: 500; the message goes to the log only.
    #[error("{0}")]
    Internal(String),
}

/// A relay as its administrators see it.
///
/// Methods without a future answer from memory, at once, and cost the workers nothing: they are asked
/// at each scrape and once a second for each dashboard.
pub trait ManagedRelay: Send + Sync + 'static {
    /// Version, drivers, workers and addresses of the relay that runs here.
    fn status(&self) -> Status;

    /// The configuration in force, secrets masked.
    fn config(&self) -> Config;

    /// Whether new allocations are welcome.
    fn readiness(&self) -> Readiness;

    /// Why those that exist are not served, for people; nothing if they are.
    fn faults(&self) -> Vec<String>;

    /// All counters since the start, at most a second old.
    fn totals(&self) -> Totals;

    /// Every reason for which a datagram may be dropped, and who is to blame.
    fn drop_reasons(&self) -> Vec<DropReason>;

    /// Why requests were refused: the latest, and how many by reason.
    fn refusals(&self) -> Refusals;

    /// All allocations, from a walk over the workers' tables that began at most a second ago. Whoever asks
    /// sooner gets the last one, so that there is about one walk a second, however many ask.
    fn snapshot(&self) -> Answer<'_, Arc<Snapshot>>;

    /// One allocation, as its worker knows it now.
    fn allocation(&self, id: AllocationId) -> Answer<'_, AllocationDetail>;

    /// Ends an allocation: its ports are closed, and its client learns at its next request.
    fn disconnect(&self, id: AllocationId) -> Answer<'_, ()>;

    /// Replaces the bandwidth limit of an allocation, in bits of payload per second and direction; 0: none.
    /// Answers the allocation as its worker knows it afterwards: it is asked once.
    fn limit(&self, id: AllocationId, bits_per_sec: u64) -> Answer<'_, AllocationDetail>;

    /// Ends all allocations of a user, by its full name or by the name that quotas count.
    fn disconnect_user<'a>(&'a self, name: &'a str) -> Answer<'a, Disconnected>;

    /// All users by name: those of the configuration and those of the database.
    fn users(&self) -> Answer<'_, Vec<User>>;

    /// A user, of the configuration or of the database.
    fn user<'a>(&'a self, name: &'a str) -> Answer<'a, User>;

    /// Creates a user of the database, or changes it; answers whether it is new. The relay prepares name
    /// and password (OpaqueString) and keeps keys, never the password.
    fn put_user<'a>(&'a self, name: &'a str, change: UserChange) -> Answer<'a, (User, bool)>;

    /// Removes a user from the database. Its allocations end.
    fn delete_user<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;

    /// Makes time-limited credentials with the first shared secret.
    fn credentials(&self, request: CredentialRequest) -> Answer<'_, Credentials>;

    /// Stops taking new allocations, with an optional deadline after which the rest is ended.
    fn drain(&self, request: DrainRequest) -> Answer<'_, DrainState>;

    /// Takes new allocations again.
    fn resume(&self) -> Answer<'_, DrainState>;

    /// Reads the configuration again, and applies what can change while running.
    fn reload(&self) -> Answer<'_, ReloadReport>;

    /// What happens from now on: allocations created, ended and limited, requests refused. A subscriber that lags loses
    /// the oldest events, and learns how many.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Event>>;
}
