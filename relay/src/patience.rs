//! What may wait for ever, done on a thread of its own: reading a file from a mount that hangs, writing to
//! a pipe that nobody reads. Whoever asks gets an answer in bounded time; the thread is left behind.

use std::fmt::Display;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// How long stdout and stderr may take for what is printed at the start.
const PRINTING: Duration = Duration::from_millis(500);

/// What `work` gives, if it ends within `limit`; otherwise it goes on alone, and what it gives is lost.
///
/// # Errors
/// `TimedOut`, or why there is no thread.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    thread_name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = sync_channel(1);
    let work = move || {
        // Nobody may wait any more.
        let _ = sender.send(work());
    };
    thread::Builder::new().name(thread_name.to_owned()).spawn(work)?;
    receiver.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => io::Error::from(io::ErrorKind::TimedOut),
        RecvTimeoutError::Disconnected => io::Error::other("the thread panicked"),
    })
}

/// Prints lines on stderr. A reader that takes nothing is not waited for.
pub(crate) fn complain(message: impl Display) {
    let text = format!("{message}\n");
    let write = move || io::Write::write_all(&mut io::stderr(), text.as_bytes());
    // There is no other place to say that nobody listens.
    let _ = within(PRINTING, "stderr", write);
}

/// Prints by `print`, which writes to stdout.
///
/// # Errors
/// If stdout takes nothing in time, or can't be written.
pub(crate) fn print(print: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    match within(PRINTING, "stdout", print) {
        Ok(printed) => printed,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(io::Error::new(error.kind(), "it takes nothing; is it a pipe that nobody reads?"))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_ends_in_time_gives_its_result() {
        assert_eq!(within(Duration::from_secs(60), "test", || 7).expect("in time"), 7);
        let panicked = within(Duration::from_secs(60), "test", || panic!("on purpose"));
        assert!(panicked.is_err_and(|error: io::Error| error.kind() == io::ErrorKind::Other));
    }

    #[test]
    fn what_never_ends_is_left_behind() {
        let (_never, waiting) = channel::<()>();
        let start = Instant::now();
        let outcome = within(Duration::from_millis(20), "test", move || waiting.recv());
        assert!(outcome.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
