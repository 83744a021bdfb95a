//! `-T`: TCP to the peers, too (RFC 6062).
//!
//! ```text
//!   client ──control──► relay: Allocate, CreatePermission, Connect to its partner's relayed address, or to -e
//!   client ──data─────► relay: ConnectionBind; from then on messages of -l bytes one after the other, as raw bytes
//! ```
//! One thread; the clients are set up one after the other. A connection loses nothing, so each message that is
//! missing, wrong or in another place is the server's fault, or its connection's end.

mod client;
mod set_up;
mod transfer;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use self::client::Client;
use self::transfer::Transfer;
use crate::engine::{Plan, ReleaseReport, SetupReport, Snapshot, Trial, TrialReport, mmsg};

/// Descriptors beside the clients'.
const SPARE_DESCRIPTORS: usize = 64;
/// Descriptors of a client: two connections, and what waits for the first.
const DESCRIPTORS_EACH: usize = 3;

/// Clients that are set up.
pub(super) struct Clients(Vec<Client>);

impl Clients {
    /// Sets all up, or those before the first that can't be: the report says why, and they are to be released.
    ///
    /// # Errors
    /// If there can't be as many connections.
    pub(super) fn set_up(plan: &Plan, stop: &AtomicBool) -> Result<(Self, SetupReport), String> {
        let wanted = plan.flows.len() * DESCRIPTORS_EACH + SPARE_DESCRIPTORS;
        if mmsg::raise_open_files_limit() < wanted as u64 {
            return Err(format!("too few open files allowed: ulimit -n {wanted}"));
        }
        let (clients, report) = set_up::set_up(plan, stop);
        Ok((Self(clients), report))
    }

    /// Sends and receives; gives what was found, and why connections ended.
    ///
    /// # Errors
    /// If the operating system has no poller.
    pub(super) fn transfer(
        &mut self,
        plan: &Plan,
        trial: Trial,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Snapshot),
    ) -> Result<(TrialReport, Vec<String>), String> {
        let transfer = Transfer::new(plan, trial, &mut self.0).map_err(|error| error.to_string())?;
        Ok(transfer.run(stop, progress))
    }

    /// Deletes all allocations.
    pub(super) fn release(self, within: Duration) -> ReleaseReport {
        set_up::release(self.0, within)
    }
}
