//! A worker that gives what it has to another process, in its own loop.
//!
//! ```text
//!   Question::Leave ─► driver.pause ─► turns, until it is paused ─► Paused
//!   Step::Export    ─► what other workers have handed over ─► sockets, state ─► Exported      nothing else happens
//!   Step::Leave     ─► only clients over TCP and TLS are left │ Step::Resume, or silence ─► as before
//! ```

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use tracing::error;
use turnpike_driver::streams::StreamListener;
use turnpike_driver::{Driver, HeldSocket, SocketName};
use turnpike_proto::migrate::{Scope, SnapshotBytes};
use turnpike_proto::{Input, Now, Reason};

use super::Worker;
use crate::takeover::{Channel, MAX_DESCRIPTORS, Message, Moved, PATIENCE};

/// What a worker that leaves is to do next.
pub enum Step {
    /// All workers are paused: give sockets to the other process, and the state back.
    Export(Arc<Channel>),
    /// The other process has it all.
    Leave,
    /// It has not.
    Resume,
}

/// How far a worker has come.
pub enum Told {
    /// It takes nothing out of its sockets any more.
    Paused,
    /// It has sent its sockets, so many; this is its state.
    Exported {
        /// Parts of a snapshot.
        parts: Vec<SnapshotBytes>,
        /// Sockets that were sent.
        sockets: usize,
        /// Allocations that have ended, by reason.
        ended: Vec<(String, u64)>,
    },
    /// It can't; it goes on.
    Failed(String),
}

/// How long a wait may be while the driver lets go of its sockets.
pub(super) const GLANCE: Duration = Duration::from_millis(1);

/// A worker's end of the talk about its leaving.
pub struct Leaving {
    /// The worker's number.
    number: u16,
    steps: Receiver<Step>,
    told: Sender<Told>,
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaving")
    }
}

impl Leaving {
    /// Hears of steps, and tells how far it has come.
    pub fn new(number: u16, steps: Receiver<Step>, told: Sender<Told>) -> Self {
        Self { number, steps, told }
    }
}

impl<D: Driver> Worker<D> {
    /// Begins to leave.
    pub(super) fn begin_leaving(&mut self, leaving: Leaving) {
        if let Err(error) = self.driver.pause() {
            // Whoever asked may have gone: then it is told to nobody.
            let _ = leaving.told.send(Told::Failed(format!("a worker can't let go of its sockets: {error}")));
            return self.resume();
        }
        self.leaving = Some(leaving);
    }

    /// Goes on with leaving, once nothing is under way any more.
    pub(super) fn pursue_leaving(&mut self, now: Now) {
        if !self.driver.is_paused() {
            return;
        }
        let Some(leaving) = self.leaving.take() else { return };
        let _ = leaving.told.send(Told::Paused);
        loop {
            match leaving.steps.recv_timeout(3 * PATIENCE) {
                Ok(Step::Export(channel)) => {
                    let told = match self.export(now, leaving.number, &channel) {
                        Ok(told) => told,
                        Err(error) => Told::Failed(format!("a worker can't send its sockets: {error}")),
                    };
                    let _ = leaving.told.send(told);
                }
                Ok(Step::Leave) => return self.leave(now),
                Ok(Step::Resume) | Err(_) => return self.resume(),
            }
        }
    }

    /// Receives again, but for what is another process' now.
    fn resume(&mut self) {
        if let Err(error) = self.driver.resume(!self.has_left) {
            error!("a worker could not take up its sockets again: {error}");
        }
    }

    fn leave(&mut self, now: Now) {
        self.has_left = true;
        self.server.leave();
        // Before anything is received again: what has gone is no longer ours to read.
        while self.server.poll_timeout().is_some_and(|(_, why)| why == Reason::Sweep) {
            self.handle(now, Input::Tick);
        }
        self.resume();
        if let Some(streams) = &mut self.streams {
            streams.leave_listeners();
        }
    }

    fn export(&mut self, now: Now, number: u16, channel: &Channel) -> std::io::Result<Told> {
        self.handle_handed(now);
        let parts = self.server.export_all(now, Scope::Datagrams);
        self.carry_out(now);
        self.driver.flush();
        let server = &self.server;
        let is_meant = |held: &HeldSocket<'_>| match held.name {
            SocketName::Listener(_) | SocketName::Strangers(_) => true,
            SocketName::Relay(relay) => server.is_exported(Scope::Datagrams, relay),
        };
        let held = self.driver.held_sockets().into_iter().filter(is_meant);
        let mut sockets: Vec<(Moved, BorrowedFd<'_>)> =
            held.map(|held| (Moved::of(number, held.name, held.lost), held.socket)).collect();
        let listeners = self.streams.as_ref().map_or(&[][..], |streams| streams.listeners());
        let moved =
            |listener: &StreamListener| Moved::Streams(number, listener.offer().plain, listener.offer().tls);
        sockets.extend(listeners.iter().map(|listener| (moved(listener), listener.as_fd())));
        for batch in sockets.chunks(MAX_DESCRIPTORS) {
            let (names, descriptors): (Vec<_>, Vec<_>) = batch.iter().copied().unzip();
            channel.send(&Message::Sockets(names), &descriptors)?;
        }
        let ended =
            self.reporter.ended().iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        Ok(Told::Exported { parts, sockets: sockets.len(), ended })
    }
}
