//! Waiting for what has to come, on a machine that may be busy with something else.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long what has to come may take. Many times what a busy machine needs: only a failure waits for all of it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Tries again and again until there is something, for [`PATIENCE`] at most.
pub fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = attempt();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        sleep(PAUSE);
    }
}

/// Repeats a call that a signal has interrupted: io_uring wakes the thread that has made its ring like one, and the
/// kernel begins no receiving with a timeout again (signal(7)).
///
/// # Errors
/// Those of the call, other than that.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Whether something becomes true within [`PATIENCE`].
pub fn becomes_true(mut holds: impl FnMut() -> bool) -> bool {
    eventually(|| holds().then_some(())).is_some()
}
