//! What a worker can be told, and the queue that carries it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Status;
use crate::driver::Waker;

/// Commands that wait for one worker; above it the asker is told to come again.
const MAX_COMMANDS: usize = 256;

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

    /// Sends a command that must arrive, and waits for a place in the queue if there is none.
    ///
    /// # Errors
    /// If the worker is gone.
    pub fn insist(&self, command: Command) -> io::Result<()> {
        // A worker whose queue is full may sleep: its driver was woken for what is in there, but not for this.
        self.waker.wake();
        let sent = self.sender.send(command);
        self.waker.wake();
        sent.map_err(|_| io::Error::other("a worker has ended"))
    }
}
