//! Draining: by signal and by API on the same path.

use std::time::Duration;

use tracing::{info, warn};
use turnpike_admin::RelayError;
use turnpike_admin::limits::MAX_DEADLINE_SECS;
use turnpike_admin::model;

use super::convert::Moment;
use super::lock::lock;
use super::state::{Control, Drain};
use crate::worker::Order;

impl Control {
    /// From now on the relay is on its way to the end: it drains, with this deadline at the latest, nobody
    /// can end that, and nothing is reloaded.
    ///
    /// # Errors
    /// If the deadline can't be, or a worker can't be told.
    pub fn begin_stop(&self, deadline: Duration) -> Result<model::DrainState, RelayError> {
        lock(&self.drain).stopping = true;
        self.begin_drain(Some(deadline))
    }

    /// Whether the process was told to end.
    pub(super) fn is_stopping(&self) -> bool {
        lock(&self.drain).stopping
    }

    /// Refuses new allocations from now on; after the deadline, if any, the rest is ended. Asked again, it
    /// only moves the deadline.
    ///
    /// # Errors
    /// If the deadline can't be, or a worker can't be told.
    pub fn begin_drain(&self, deadline: Option<Duration>) -> Result<model::DrainState, RelayError> {
        if deadline.is_some_and(|deadline| deadline.as_secs() > MAX_DEADLINE_SECS) {
            return Err(RelayError::Invalid(format!("a deadline is at most {MAX_DEADLINE_SECS} seconds")));
        }
        let now = Moment::now();
        let deadline_ns = deadline.map(|deadline| {
            let deadline_ns = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
            now.mono_ns.saturating_add(deadline_ns)
        });
        {
            let mut drain = lock(&self.drain);
            self.tell(Order::Drain(true))?;
            drain.since.get_or_insert(now);
            drain.deadline_ns = match drain.deadline_ns.filter(|_| drain.stopping) {
                Some(last_ns) => deadline_ns.map(|deadline_ns| deadline_ns.min(last_ns)).or(Some(last_ns)),
                None => deadline_ns,
            };
        }
        info!(allocations = self.allocations(), deadline_secs = deadline.map(|d| d.as_secs()), "draining");
        Ok(self.drain_state())
    }

    /// Takes new allocations again.
    ///
    /// # Errors
    /// If the process was told to end, or a worker can't be told.
    pub fn end_drain(&self) -> Result<model::DrainState, RelayError> {
        {
            let mut drain = lock(&self.drain);
            if drain.stopping {
                let why = "the relay was told to stop: it drains until it ends";
                return Err(RelayError::Conflict(why.to_owned()));
            }
            self.tell(Order::Drain(false))?;
            *drain = Drain::default();
        }
        info!("no longer draining");
        Ok(self.drain_state())
    }

    /// Ends what still lives if the deadline of a drain has passed. To be called now and then.
    pub fn enforce_deadline(&self) {
        let mut drain = lock(&self.drain);
        let is_over = |deadline_ns: &u64| *deadline_ns <= Moment::now().mono_ns;
        if drain.deadline_ns.as_ref().is_some_and(is_over) && self.allocations() > 0 {
            warn!(allocations = self.allocations(), "the deadline of the drain has passed: ending the rest");
            // Without a worker's attention it is tried again at the next call.
            if self.tell(Order::EndAll).is_ok() {
                drain.deadline_ns = None;
            }
        }
    }

    /// Whether the deadline of a drain, if there is one, has passed.
    pub fn deadline_has_passed(&self) -> bool {
        let is_over = |deadline_ns: &u64| *deadline_ns <= Moment::now().mono_ns;
        lock(&self.drain).deadline_ns.as_ref().is_some_and(is_over)
    }

    /// How long allocations may live on after the signal to stop.
    pub fn drain_timeout(&self) -> Duration {
        self.config.load().drain_timeout
    }

    /// Whether no new allocations are taken.
    pub(crate) fn drains(&self) -> bool {
        lock(&self.drain).since.is_some()
    }

    pub(super) fn drain_state(&self) -> model::DrainState {
        let (now, drain) = (Moment::now(), lock(&self.drain));
        model::DrainState {
            draining: drain.since.is_some(),
            since_unix_secs: drain.since.map(Moment::unix_secs),
            deadline_unix_secs: drain.deadline_ns.map(|deadline_ns| now.unix_secs_of(deadline_ns)),
            allocations: self.allocations() as u64,
            alternate_servers: self.config.load().alternate_server.clone(),
        }
    }
}
