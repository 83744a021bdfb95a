//! The end of the process: everything has a chance to finish, and nothing that stands still can hold it up
//! for longer than two seconds together.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::error;

use crate::kernel::KernelPath;
use crate::patience::within;
use crate::worker::{Order, WorkerHandle};

/// How long a worker may do nothing at all on its way to the end. One that has much to do turns.
const STANDSTILL: Duration = Duration::from_millis(700);
/// How long the kernel data path may take once the workers have ended.
const KERNEL_PATH: Duration = Duration::from_millis(800);
/// How often workers are looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// For places in the workers' queues.
const QUEUE: Duration = Duration::from_millis(200);

/// A worker's thread.
pub(crate) type WorkerThread = JoinHandle<io::Result<()>>;

/// Ends all workers; answers whether all did. Those that stand still are left behind.
pub(crate) fn end_workers(workers: &[WorkerHandle], threads: Vec<WorkerThread>) -> bool {
    let deadline = Instant::now() + QUEUE;
    for worker in workers {
        // The thread's own outcome says why it has ended before.
        let _ = worker.insist(Order::Stop, deadline.saturating_duration_since(Instant::now()));
    }
    let left_behind = wait(workers, &threads);
    for (number, thread) in threads.into_iter().enumerate() {
        if left_behind.contains(&number) {
            error!(worker = number, "a worker stands still: left behind");
            continue;
        }
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!("a worker failed: {error}"),
            Err(_) => error!("a worker panicked"),
        }
    }
    left_behind.is_empty()
}

/// Waits for the workers as long as they turn; gives the numbers of those that don't.
fn wait(workers: &[WorkerHandle], threads: &[WorkerThread]) -> Vec<usize> {
    let mut last_turns: Vec<_> =
        workers.iter().map(|worker| (worker.status.turned_ns(), Instant::now())).collect();
    let mut left_behind = Vec::new();
    let mut pending: Vec<usize> = (0..threads.len()).collect();
    loop {
        pending.retain(|number| !threads[*number].is_finished());
        if pending.is_empty() {
            return left_behind;
        }
        thread::sleep(GLANCE);
        for number in std::mem::take(&mut pending) {
            let (turned_ns, turned_at) = &mut last_turns[number];
            let now_ns = workers[number].status.turned_ns();
            if now_ns != *turned_ns {
                (*turned_ns, *turned_at) = (now_ns, Instant::now());
            }
            match turned_at.elapsed() > STANDSTILL {
                true => left_behind.push(number),
                false => pending.push(number),
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use turnpike_driver::Waker;

    use super::*;

    struct NoWaker;

    impl Waker for NoWaker {
        fn wake(&self) {}
    }

    #[test]
    fn workers_that_stand_still_are_left_behind_all_at_the_same_time() {
        let mut receivers = Vec::new();
        let mut spawn = |stuck: bool| {
            let (handle, messages, _) = WorkerHandle::new(Arc::new(NoWaker));
            receivers.push(messages);
            let (stop, stopped) = channel::<()>();
            let stop = if stuck { Some(stop) } else { None };
            let thread = thread::spawn(move || {
                let _ = stopped.recv();
                Ok(())
            });
            ((handle, stop), thread)
        };
        let (handles, threads): (Vec<_>, Vec<_>) = (0..40).map(|number| spawn(number > 0)).unzip();
        let (handles, stuck): (Vec<_>, Vec<_>) = handles.into_iter().unzip();
        for handle in &handles[1..] {
            // A full queue is no reason to wait, either.
            while handle.send(Order::PolicyChanged).is_ok() {}
        }
        let start = Instant::now();
        assert!(!end_workers(&handles, threads));
        // One after the other they would take half a minute.
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        drop(stuck);
    }

    #[test]
    fn workers_that_end_are_waited_for() {
        let (handle, _messages, _) = WorkerHandle::new(Arc::new(NoWaker));
        let thread = thread::spawn(|| {
            thread::sleep(Duration::from_millis(50));
            Ok(())
        });
        assert!(end_workers(&[handle], vec![thread]));
    }
}
