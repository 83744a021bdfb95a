//! What workers tell as it happens, for whoever listens just now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;
use turnpike_proto::stats::AllocationRecord;
use turnpike_proto::{AllocationView, RefusedRequest};

use crate::limits::MAX_EVENTS;

/// What a worker tells.
#[derive(Debug)]
pub enum WorkerEvent {
    /// An allocation was answered.
    Created(Box<AllocationView>),
    /// An allocation has ended.
    Ended(Box<AllocationRecord>),
    /// A request was refused; as often as the log says so.
    Refused(Box<RefusedRequest>),
}

/// A worker's end of the queue.
#[derive(Clone, Debug)]
pub struct EventSink {
    queue: mpsc::Sender<WorkerEvent>,
    listening: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

/// The other end.
#[derive(Debug)]
pub struct EventSource {
    queue: mpsc::Receiver<WorkerEvent>,
    listening: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

/// A queue for all workers together. Nothing is put in it until somebody listens.
pub fn event_queue() -> (EventSink, EventSource) {
    let (sender, receiver) = mpsc::channel(MAX_EVENTS);
    let listening = Arc::new(AtomicBool::new(false));
    let dropped = Arc::new(AtomicU64::new(0));
    let sink = EventSink { queue: sender, listening: Arc::clone(&listening), dropped: Arc::clone(&dropped) };
    (sink, EventSource { queue: receiver, listening, dropped })
}

impl EventSink {
    /// Tells an event, if anybody wants to know.
    pub(crate) fn tell(&self, event: impl FnOnce() -> WorkerEvent) {
        if self.listening.load(Ordering::Relaxed) && self.queue.try_send(event()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl EventSource {
    /// Says whether anybody wants to know.
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Relaxed);
    }

    /// Counts events that found the queue full.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// The next event; `None` when no worker is left.
    pub async fn next(&mut self) -> Option<WorkerEvent> {
        self.queue.recv().await
    }
}

#[cfg(test)]
mod tests {
    use turnpike_proto::stats::EndReason;

    use super::*;

    fn ended() -> WorkerEvent {
        let any = "192.0.2.1:1".parse().expect("an address");
        let five_tuple = turnpike_proto::addr::FiveTuple {
            client: turnpike_proto::addr::ClientAddr(any),
            server: any,
            transport: turnpike_proto::addr::Transport::Udp,
        };
        WorkerEvent::Ended(Box::new(AllocationRecord {
            id: 1,
            user: "alice".into(),
            quota_user: "alice".into(),
            five_tuple,
            client: five_tuple.client,
            socket: turnpike_proto::ClientSocket::listener(0),
            tls: None,
            relayed: Vec::new(),
            relayed_public: Vec::new(),
            relayed_transport: Default::default(),
            bitrate_bits: 0,
            duration_ns: 0,
            to_peer: Default::default(),
            to_client: Default::default(),
            stream_drops: Default::default(),
            reason: EndReason::Deleted,
        }))
    }

    #[test]
    fn a_worker_neither_waits_nor_fills_memory_when_events_are_not_taken() {
        let (sink, source) = event_queue();
        sink.tell(|| unreachable!("nobody listens"));
        source.set_listening(true);
        (0..MAX_EVENTS + 3).for_each(|_| sink.tell(ended));
        assert_eq!(source.lost().load(Ordering::Relaxed), 3);
    }
}
