//! What a process that takes over does differently on its way to running workers.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use turnpike_driver::clock;
use turnpike_driver::reserved::Reserved;
use turnpike_proto::migrate::{SnapshotError, WorkerSection};
use turnpike_proto::shared::Shared;
use turnpike_proto::{RelaySocket, Server};

use super::error::StartError;
use crate::config::Config;
use crate::takeover::{Folder, Inheritance, Invitation, TakeoverError, knock as ask};

/// How long the port of the administration may take to be free; the process before has let go of it.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
const GLANCE: Duration = Duration::from_millis(5);

/// Asks the process that runs, where that is wanted.
pub(super) fn knock(config: &Config, folder: Option<&Folder>) -> Result<Option<Invitation>, StartError> {
    let Some(folder) = folder.filter(|_| config.takeover) else { return Ok(None) };
    let invitation = ask(folder)?;
    if invitation.is_none() {
        info!("nobody runs with this state-directory: there is nothing to take over");
    }
    Ok(invitation)
}

/// The configuration with as many workers as there are: each client stays with its own.
pub(super) fn with_workers(config: &Config, invitation: Option<&Invitation>) -> Config {
    let mut config = config.clone();
    let there = invitation.and_then(|invitation| NonZeroUsize::new(usize::from(invitation.workers)));
    if let Some(there) = there.filter(|there| *there != config.workers) {
        warn!(
            "{there} workers go on: workers = {} takes effect with a start without takeover",
            config.workers
        );
        config.workers = there;
    }
    config
}

/// A worker's share of what was taken over.
#[derive(Default)]
pub(super) struct Inherited {
    /// Its relay sockets, with what was lost at each.
    pub(super) relays: Vec<(RelaySocket, OwnedFd, u32)>,
    /// Allocations that had ended before, by reason.
    pub(super) ended: Vec<(String, u64)>,
}

/// The state of all workers, on its way to their successors.
#[derive(Default)]
pub(super) struct Heirs {
    sections: Vec<WorkerSection>,
    ended: Vec<(String, u64)>,
    kept: u64,
    lost: u64,
    is_taking_over: bool,
}

/// What the workers share goes on here.
pub(super) fn adopt_shared(
    inheritance: Option<&mut Inheritance>,
    shared: &Shared,
    reserved: &Reserved,
) -> Result<Heirs, StartError> {
    let Some(inheritance) = inheritance else { return Ok(Heirs::default()) };
    let kept = &inheritance.reserved;
    shared.adopt(&inheritance.snapshot, |address| kept.contains_key(&address.0)).map_err(unfit)?;
    let kept = std::mem::take(&mut inheritance.reserved);
    reserved.adopt(kept).map_err(StartError::system("reserved ports"))?;
    Ok(Heirs {
        sections: inheritance.snapshot.take_sections(),
        ended: std::mem::take(&mut inheritance.ended),
        is_taking_over: true,
        ..Heirs::default()
    })
}

impl Heirs {
    /// A worker goes on with what the one with its number had.
    pub(super) fn adopt(
        &mut self,
        inheritance: Option<&mut Inheritance>,
        server: &mut Server,
        number: u16,
    ) -> Result<Inherited, StartError> {
        let mut inherited = Inherited::default();
        let Some(inheritance) = inheritance else { return Ok(inherited) };
        let mine = self.sections.iter().filter(|section| section.worker().0 == number);
        for section in mine {
            let adopted = server.adopt(clock::now(), section, &inheritance.ground(number)).map_err(unfit)?;
            self.kept += adopted.kept;
            self.lost += adopted.without_client + adopted.without_relay;
            for relay in adopted.relays {
                let (socket, lost) = inheritance.take_relay(number, relay.was)?;
                inherited.relays.push((relay.relay, socket, lost));
            }
        }
        // The sum of all is one worker's as well as another's.
        inherited.ended = std::mem::take(&mut self.ended);
        Ok(inherited)
    }

    /// Every worker stands ready: returns when they may begin.
    pub(super) fn confirm(&self, inheritance: Option<Inheritance>) -> Result<(), StartError> {
        let Some(inheritance) = inheritance else { return Ok(()) };
        inheritance.confirm()?;
        info!(
            allocations = self.kept,
            ended = self.lost,
            "taken over; what ended has no listener or relay address here any more"
        );
        Ok(())
    }

    /// Whether there is another process to take over from.
    pub(super) fn is_taking_over(&self) -> bool {
        self.is_taking_over
    }
}

fn unfit(why: SnapshotError) -> TakeoverError {
    TakeoverError::Unfit(why.to_string())
}

/// Waits for a port that the process before has just let go of. Whether it has, binding it says.
pub(super) fn await_port(address: Option<SocketAddr>) {
    let Some(address) = address.filter(|address| address.port() != 0) else { return };
    let deadline = Instant::now() + PORT_PATIENCE;
    while TcpListener::bind(address).is_err() && Instant::now() < deadline {
        thread::sleep(GLANCE);
    }
}

/// Holds workers back until all of them may begin, or none.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<GateState>);

#[derive(Default)]
struct GateState {
    is_open: Mutex<Option<bool>>,
    changed: Condvar,
}

/// Decides for all of them: nobody may begin, unless it has said so.
pub(super) struct GateKeeper(Gate);

impl GateKeeper {
    /// All may begin.
    pub(super) fn open(self) {
        self.0.decide(true);
    }
}

impl Drop for GateKeeper {
    fn drop(&mut self) {
        // The first decision counts.
        self.0.decide(false);
    }
}

impl Gate {
    /// Who decides.
    pub(super) fn keeper(&self) -> GateKeeper {
        GateKeeper(self.clone())
    }

    fn decide(&self, is_open: bool) {
        self.0.is_open.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(is_open);
        self.0.changed.notify_all();
    }

    /// Whether to begin.
    pub(super) fn pass(&self) -> bool {
        let mut is_open = self.0.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *is_open {
                Some(is_open) => return is_open,
                None => is_open = self.0.changed.wait(is_open).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
