//! Datagrams that came to another worker than their allocation's.
//!
//! The kernel picks a worker by a client's address and port; when what it picks by changes, clients arrive
//! elsewhere. The core says whose they are, and the bytes go there through a bounded queue:
//!
//! ```text
//!   worker 0: Forward::Elsewhere(1) ─► give ─► queue of worker 1 ─► take ─► worker 1 asks its own core
//!                                      └ one wake per turn, not per datagram
//! ```
//!
//! Each worker has a listener for each address, in the same order, so answers leave as if the datagram had
//! come there. Connections of clients go the same way where what they ask for is another worker's, by a queue of
//! their own.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};

use turnpike_proto::addr::ClientAddr;
use turnpike_proto::limits::MAX_FORWARDED;
use turnpike_proto::{ClientPath, WorkerId};

use turnpike_driver::Waker;
use turnpike_driver::streams::Detached;

use crate::limits::MAX_HANDED_CONNECTIONS;

/// A client's datagram with a copy of its bytes.
#[derive(Debug)]
pub struct Handed {
    /// Who sent it, and the listener it came to.
    pub path: ClientPath,
    /// Whose it is, if a trusted proxy has said so.
    pub client: Option<ClientAddr>,
    /// The whole datagram, copied, without a proxy's header.
    pub bytes: Vec<u8>,
    /// Its DSCP and ECN.
    pub tos: u8,
}

/// A client's connection on its way to another worker, with the request that is to be answered there.
pub struct HandedConnection {
    /// The connection.
    pub connection: Detached,
    /// What its client has asked.
    pub request: Vec<u8>,
}

/// One worker's end: its own queue, and the way to those of the others.
pub struct Handover {
    own: usize,
    queue: Receiver<Handed>,
    connections: Receiver<Box<HandedConnection>>,
    inboxes: Arc<[Inbox]>,
    /// Workers that were given something in this turn.
    to_wake: Vec<usize>,
}

struct Inbox {
    sender: SyncSender<Handed>,
    connections: SyncSender<Box<HandedConnection>>,
    waker: OnceLock<Arc<dyn Waker>>,
}

impl Handover {
    /// An end for each of so many workers.
    pub fn between(workers: usize) -> Vec<Handover> {
        let (mut inboxes, mut queues) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (sender, queue) = sync_channel(MAX_FORWARDED);
            let (to_connections, connections) = sync_channel(MAX_HANDED_CONNECTIONS);
            inboxes.push(Inbox { sender, connections: to_connections, waker: OnceLock::new() });
            queues.push((queue, connections));
        }
        let inboxes: Arc<[Inbox]> = inboxes.into();
        let end = |(own, (queue, connections))| Handover {
            own,
            queue,
            connections,
            inboxes: Arc::clone(&inboxes),
            to_wake: Vec::new(),
        };
        queues.into_iter().enumerate().map(end).collect()
    }

    /// How this worker is woken; without it nobody gives it anything.
    pub fn set_waker(&self, waker: Arc<dyn Waker>) {
        // Only a worker itself knows its waker, and tells it once.
        let _ = self.inboxes[self.own].waker.set(waker);
    }

    /// Gives a datagram to another worker; `false` if that one's queue is full, or it is gone.
    pub fn give(&mut self, worker: WorkerId, handed: Handed) -> bool {
        let worker = worker.index();
        let Some(inbox) = self.inboxes.get(worker).filter(|inbox| inbox.waker.get().is_some()) else {
            return false;
        };
        let is_given = inbox.sender.try_send(handed).is_ok();
        if !self.to_wake.contains(&worker) {
            self.to_wake.push(worker);
        }
        is_given
    }

    /// Gives a client's connection to another worker.
    ///
    /// # Errors
    /// The same again if that one's queue is full, or it is gone.
    pub fn give_connection(
        &mut self,
        worker: WorkerId,
        handed: Box<HandedConnection>,
    ) -> Result<(), Box<HandedConnection>> {
        let worker = worker.index();
        let Some(inbox) = self.inboxes.get(worker).filter(|inbox| inbox.waker.get().is_some()) else {
            return Err(handed);
        };
        if !self.to_wake.contains(&worker) {
            self.to_wake.push(worker);
        }
        inbox.connections.try_send(handed).map_err(|error| match error {
            TrySendError::Full(handed) | TrySendError::Disconnected(handed) => handed,
        })
    }

    /// The next connection that another worker has given to this one.
    pub fn take_connection(&mut self) -> Option<Box<HandedConnection>> {
        self.connections.try_recv().ok()
    }

    /// Wakes the workers that were given something since the last call.
    pub fn wake(&mut self) {
        for worker in self.to_wake.drain(..) {
            if let Some(waker) = self.inboxes[worker].waker.get() {
                waker.wake();
            }
        }
    }

    /// The next datagram that another worker has given to this one.
    pub fn take(&mut self) -> Option<Handed> {
        self.queue.try_recv().ok()
    }

    /// There may be more for this worker in its next turn.
    pub fn wake_self(&mut self) {
        self.to_wake.push(self.own);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use turnpike_proto::ClientSocket;
    use turnpike_proto::addr::{ClientAddr, FiveTuple, Transport};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Waker for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn handed(number: usize) -> Handed {
        let client = ClientAddr("203.0.113.5:1000".parse().expect("an address"));
        let server = "192.0.2.1:3478".parse().expect("an address");
        let five_tuple = FiveTuple { client, server, transport: Transport::Udp };
        let path = ClientPath::new(five_tuple, ClientSocket::listener(0));
        Handed { path, client: None, bytes: number.to_be_bytes().to_vec(), tos: 0 }
    }

    #[test]
    fn a_batch_wakes_its_worker_once_and_keeps_its_order() {
        let mut ends = Handover::between(2);
        let woken = Arc::new(Counter::default());
        assert!(!ends[0].give(WorkerId(1), handed(0)), "nobody is there yet");
        ends[1].set_waker(Arc::<Counter>::clone(&woken));
        for number in 0..MAX_FORWARDED {
            assert!(ends[0].give(WorkerId(1), handed(number)));
        }
        assert!(!ends[0].give(WorkerId(1), handed(9999)), "the queue is bounded");
        assert!(!ends[0].give(WorkerId(7), handed(9999)), "there is no such worker");
        ends[0].wake();
        ends[0].wake();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        for number in 0..MAX_FORWARDED {
            assert_eq!(ends[1].take().expect("it was given").bytes, number.to_be_bytes());
        }
        assert!(ends[1].take().is_none());
    }

    #[test]
    fn a_worker_that_is_gone_takes_nothing() {
        let mut ends = Handover::between(2);
        ends[1].set_waker(Arc::new(Counter::default()));
        ends.pop();
        assert!(!ends[0].give(WorkerId(1), handed(0)));
        ends[0].wake();
    }
}
