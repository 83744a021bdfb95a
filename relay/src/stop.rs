//! The end of the process: everything has a chance to finish, and nothing that stands still can hold it up
//! for longer than two seconds together.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::error;

use crate::control::{Command, WorkerHandle};
use crate::offload::KernelPath;
use crate::patience::within;

/// How long a worker may do nothing at all on its way to the end. One that has much to do turns.
const STANDSTILL: Duration = Duration::from_millis(700);
/// How long the kernel data path may take once the workers have ended.
const KERNEL_PATH: Duration = Duration::from_millis(500);
/// How often workers are looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// For a place in a worker's queue.
const QUEUE: Duration = Duration::from_millis(200);

/// A worker's thread.
pub(crate) type WorkerThread = JoinHandle<io::Result<()>>;

/// Ends all workers; answers whether all did. One that stands still is left behind.
pub(crate) fn end_workers(workers: &[WorkerHandle], threads: Vec<WorkerThread>) -> bool {
    for worker in workers {
        // The thread's own outcome says why it has ended before.
        let _ = worker.insist(Command::Stop, QUEUE);
    }
    let mut all_ended = true;
    for (number, (worker, thread)) in workers.iter().zip(threads).enumerate() {
        if !ends(worker, &thread) {
            error!(worker = number, "a worker stands still: left behind");
            all_ended = false;
            continue;
        }
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!("a worker failed: {error}"),
            Err(_) => error!("a worker panicked"),
        }
    }
    all_ended
}

/// Waits for a worker as long as it turns.
fn ends(worker: &WorkerHandle, thread: &WorkerThread) -> bool {
    let (mut turned_ns, mut turned_at) = (worker.status.turned_ns(), Instant::now());
    while !thread.is_finished() {
        std::thread::sleep(GLANCE);
        let now_turned_ns = worker.status.turned_ns();
        if now_turned_ns != turned_ns {
            (turned_ns, turned_at) = (now_turned_ns, Instant::now());
        } else if turned_at.elapsed() > STANDSTILL {
            return false;
        }
    }
    true
}

/// Ends the kernel data path; gives what it forwarded, datagrams, if it ended in time.
pub(crate) fn end_kernel_path(kernel: KernelPath) -> Option<u64> {
    match within(KERNEL_PATH, "offload-end", || kernel.stop()) {
        Ok(forwarded) => Some(forwarded),
        Err(error) => {
            // The program leaves the interfaces with the process.
            error!("the kernel data path did not end: {error}");
            None
        }
    }
}
