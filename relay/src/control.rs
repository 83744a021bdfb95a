//! Between the workers and everybody else: commands in, status out.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use turnpike_proto::Server;
use turnpike_proto::stats::ServerCounts;

use crate::driver::Waker;

/// Commands that wait for one worker; more than an operator ever sends at once.
const MAX_COMMANDS: usize = 64;

/// What a worker can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Refuse new allocations, or no longer.
    Drain(bool),
    /// The peer policy was replaced.
    PolicyChanged,
    /// End all allocations, close everything, and return.
    Stop,
}

/// What a worker lets others see: brought up to date once per turn.
#[derive(Debug, Default)]
pub struct Status {
    allocations: AtomicUsize,
    relay_sockets: AtomicUsize,
    turns: AtomicU64,
    last: Mutex<ServerCounts>,
}

/// Turns between two copies of all counters: they are for people, not for packets.
const TURNS_PER_COPY: u64 = 256;

impl Status {
    pub(crate) fn publish(&self, server: &Server) {
        let counts = server.table_counts();
        self.allocations.store(counts.allocations, Ordering::Relaxed);
        self.relay_sockets.store(counts.relay_sockets, Ordering::Relaxed);
        if self.turns.fetch_add(1, Ordering::Relaxed).is_multiple_of(TURNS_PER_COPY) {
            self.publish_counts(server);
        }
    }

    pub(crate) fn publish_counts(&self, server: &Server) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = server.counts().clone();
    }

    /// Allocations of this worker.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    /// The counters, at most a few hundred turns old; exact once the worker has stopped.
    pub fn counts(&self) -> ServerCounts {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends commands to one worker and reads its status.
pub struct WorkerHandle {
    sender: SyncSender<Command>,
    waker: Arc<dyn Waker>,
    /// What the worker lets us see.
    pub status: Arc<Status>,
}

impl WorkerHandle {
    /// A handle, with the ends that the worker itself needs.
    pub fn new(waker: Arc<dyn Waker>) -> (Self, Receiver<Command>, Arc<Status>) {
        let (sender, receiver) = sync_channel(MAX_COMMANDS);
        let status = Arc::new(Status::default());
        (Self { sender, waker, status: Arc::clone(&status) }, receiver, status)
    }

    /// Sends a command and wakes the worker.
    ///
    /// # Errors
    /// If the worker is gone, or does not keep up.
    pub fn send(&self, command: Command) -> io::Result<()> {
        let sent = self.sender.try_send(command);
        self.waker.wake();
        sent.map_err(|_| io::Error::other("a worker does not take commands"))
    }
}
