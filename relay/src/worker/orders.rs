//! What a worker can be told and asked, and the queue that carries it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use turnpike_driver::Waker;
use turnpike_proto::{AllocationDetail, AllocationView};

use super::leaving::Leaving;
use super::status::Status;
use crate::limits::MAX_TOLD;

/// Between two attempts to reach a worker whose queue is full.
const INSIST_PAUSE: Duration = Duration::from_millis(2);

/// What a worker can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Refuse new allocations, or no longer.
    Drain(bool),
    /// The peer policy was replaced.
    PolicyChanged,
    /// End all allocations, and go on draining.
    EndAll,
    /// End all allocations, close everything, and return.
    Stop,
}

/// How a worker answers: without waiting, and perhaps to nobody.
pub type Reply<T> = oneshot::Sender<T>;

/// What a worker can be asked. Allocations go by their numbers; `None` says that there is no such one.
#[derive(Debug)]
pub enum Question {
    /// All allocations, gathered over as many turns as it takes.
    Snapshot(Reply<Vec<AllocationView>>),
    /// Everything about one allocation.
    Inspect(u64, Reply<Option<Box<AllocationDetail>>>),
    /// Another bandwidth limit, bits of payload per second and direction; 0 is none. Answers the
    /// allocation as it is afterwards.
    SetRate(u64, u64, Reply<Option<Box<AllocationDetail>>>),
    /// End an allocation.
    Disconnect(u64, Reply<Option<()>>),
    /// Give everything to another process: the talk goes on by channels of its own.
    Leave(Box<Leaving>),
    /// End all allocations of a user; answers how many there were, or `None` if too many users wait for that.
    DisconnectUser(Arc<str>, Reply<Option<u64>>),
}

/// What travels to a worker.
#[derive(Debug)]
pub enum ToWorker {
    /// Something to do, without an answer.
    Tell(Order),
    /// Something to do and to answer.
    Ask(Question),
}

/// Why a worker was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Too much waits for it already.
    #[error("a worker does not keep up with what it is asked")]
    Full,
    /// It has ended: nothing reaches it any more.
    #[error("a worker has ended")]
    Ended,
}

/// Tells and asks one worker and reads its status.
pub struct WorkerHandle {
    sender: SyncSender<ToWorker>,
    waker: Arc<dyn Waker>,
    /// What the worker lets us see.
    pub status: Arc<Status>,
}

impl WorkerHandle {
    /// A handle, with the ends that the worker itself needs.
    pub fn new(waker: Arc<dyn Waker>) -> (Self, Receiver<ToWorker>, Arc<Status>) {
        let (sender, receiver) = sync_channel(MAX_TOLD);
        let status = Arc::new(Status::default());
        (Self { sender, waker, status: Arc::clone(&status) }, receiver, status)
    }

    /// Sends an order and wakes the worker.
    ///
    /// # Errors
    /// If the worker is gone, or does not keep up.
    pub fn send(&self, order: Order) -> Result<(), Unreachable> {
        self.push(ToWorker::Tell(order))
    }

    /// Asks a question and wakes the worker; the answer comes by the question's own channel, which is
    /// closed without one if the worker ends.
    ///
    /// # Errors
    /// If the worker is gone, or does not keep up.
    pub fn ask(&self, question: Question) -> Result<(), Unreachable> {
        self.push(ToWorker::Ask(question))
    }

    /// Sends an order that should arrive, and waits for a place in the queue if there is none, for
    /// `limit` at the most.
    ///
    /// # Errors
    /// If the worker is gone, or takes nothing.
    pub fn insist(&self, order: Order, limit: Duration) -> Result<(), Unreachable> {
        let deadline = Instant::now() + limit;
        loop {
            match self.send(order) {
                Err(Unreachable::Full) if Instant::now() < deadline => thread::sleep(INSIST_PAUSE),
                sent => return sent,
            }
        }
    }

    /// Makes it turn, if it can.
    pub fn wake(&self) {
        self.waker.wake();
    }

    fn push(&self, told: ToWorker) -> Result<(), Unreachable> {
        let sent = self.sender.try_send(told);
        self.waker.wake();
        sent.map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => Unreachable::Full,
            std::sync::mpsc::TrySendError::Disconnected(_) => Unreachable::Ended,
        })
    }
}
