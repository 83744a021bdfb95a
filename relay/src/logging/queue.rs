//! Between whoever logs and stderr: a bounded queue, and one thread that writes.
//!
//! ```text
//!   workers, mirror, administration ─► Queue (full: dropped and counted) ─► log thread ─► stderr
//! ```
//!
//! Nobody but that thread ever waits for the reader of stderr, which may be a pipe that is full. Once the
//! reader is back, what was lost is said.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Dispatch, warn};

use crate::limits::MAX_RECORDS;

/// Losses are said at most this often.
const SAY_PERIOD: Duration = Duration::from_secs(1);
/// How often a flush looks for a place in a full queue.
const FLUSH_GLANCE: Duration = Duration::from_millis(5);

enum Entry {
    Record(Box<[u8]>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// The writing end; a clone is another end of the same queue.
#[derive(Clone)]
pub(super) struct Queue {
    sender: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Starts the thread that writes to `sink`. `formatted` makes the log through which that thread says
    /// what was lost, past the queue.
    pub(super) fn start<W: Write + Send + 'static>(
        sink: W,
        formatted: impl FnOnce(Sink<W>) -> Dispatch,
    ) -> io::Result<Queue> {
        let (sender, receiver) = sync_channel(MAX_RECORDS);
        let dropped = Arc::new(AtomicU64::new(0));
        let sink = Sink(Arc::new(Mutex::new(sink)));
        let losses = formatted(sink.clone());
        let writer = Writer { receiver, sink, dropped: Arc::clone(&dropped), losses, said: 0, said_at: None };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Queue { sender, dropped })
    }

    /// Records that are lost: the queue was full, or stderr could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what is queued by now is written, `limit` at the most.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, flushed) = sync_channel(1);
        while let Err(TrySendError::Full(_)) = self.sender.try_send(Entry::Flush(done.clone())) {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(FLUSH_GLANCE);
        }
        // Too late is as good as never.
        let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Takes one whole record per `write`.
impl Write for Queue {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Entry::Record(record.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written to, by the one thread only.
pub(super) struct Sink<W>(Arc<Mutex<W>>);

impl<W> Clone for Sink<W> {
    fn clone(&self) -> Self {
        Sink(Arc::clone(&self.0))
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writer<W> {
    receiver: Receiver<Entry>,
    sink: Sink<W>,
    dropped: Arc<AtomicU64>,
    losses: Dispatch,
    /// Losses that were said, and when.
    said: u64,
    said_at: Option<Instant>,
}

impl<W: Write> Writer<W> {
    /// Until nobody is left who could log.
    fn run(mut self) {
        loop {
            match self.next() {
                Ok(Entry::Record(record)) => {
                    if self.sink.write_all(&record).is_err() {
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // Whoever asked may have gone.
                Ok(Entry::Flush(done)) => drop(done.try_send(())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.say_losses();
        }
    }

    fn next(&self) -> Result<Entry, RecvTimeoutError> {
        if self.said == self.dropped.load(Ordering::Relaxed) {
            return self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected);
        }
        self.receiver.recv_timeout(SAY_PERIOD)
    }

    fn say_losses(&mut self) {
        let lost = self.dropped.load(Ordering::Relaxed);
        if lost == self.said || self.said_at.is_some_and(|at| at.elapsed() < SAY_PERIOD) {
            return;
        }
        tracing::dispatcher::with_default(&self.losses, || {
            warn!(
                lost_since_start = lost,
                "records of this log were lost: whoever reads stderr did not keep up"
            );
        });
        (self.said, self.said_at) = (lost, Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A pipe that is full until the other end is dropped.
    struct Pipe {
        opened: Receiver<()>,
        read: Sender<Vec<u8>>,
        fails: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.opened.recv();
            if self.fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let _ = self.read.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(fails: bool) -> (Queue, Sender<()>, Receiver<Vec<u8>>) {
        let (open, opened) = channel();
        let (read, reader) = channel();
        let plain = |sink: Sink<Pipe>| {
            let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || sink.clone());
            Dispatch::new(tracing_subscriber::registry().with(layer))
        };
        let queue = Queue::start(Pipe { opened, read, fails }, plain).expect("a thread");
        (queue, open, reader)
    }

    #[test]
    fn a_full_pipe_makes_nobody_wait_and_what_is_lost_is_counted_and_said() {
        let (mut queue, open, reader) = queue(false);
        // One that the thread holds, a full queue, and some more.
        let records = MAX_RECORDS as u64 + 10;
        for number in 0..records {
            queue.write_all(format!("{number}\n").as_bytes()).expect("never an error");
        }
        let dropped = queue.dropped();
        assert!((9..=10).contains(&dropped), "{dropped}");
        Queue::flush(&queue, Duration::from_millis(20));
        drop(open);
        Queue::flush(&queue, LONG);
        let written: Vec<String> = reader.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        let numbers: Vec<u64> = written.iter().filter_map(|line| line.trim().parse().ok()).collect();
        assert_eq!(numbers, (0..records - dropped).collect::<Vec<_>>(), "in order, the rest is lost");
        let said: Vec<_> = written.iter().filter(|line| line.contains("were lost")).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&format!("lost_since_start={dropped}")), "{said:?}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_ends_nothing() {
        let (mut queue, open, reader) = queue(true);
        drop(open);
        for _ in 0..3 {
            queue.write_all(b"record\n").expect("never an error");
        }
        Queue::flush(&queue, LONG);
        assert_eq!(queue.dropped(), 3);
        assert!(reader.try_recv().is_err());
    }

    #[test]
    fn a_flush_waits_no_longer_than_it_may() {
        let (mut queue, _open, _reader) = queue(false);
        for _ in 0..=MAX_RECORDS + 1 {
            queue.write_all(b"record\n").expect("never an error");
        }
        let start = Instant::now();
        Queue::flush(&queue, Duration::from_millis(30));
        assert!(start.elapsed() >= Duration::from_millis(30) && start.elapsed() < LONG);
    }
}
