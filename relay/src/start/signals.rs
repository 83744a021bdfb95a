//! Signals as messages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use libc::SIGPWR;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;
use tracing::{error, warn};

use crate::logging;

/// How long the main thread may take to notice a signal to stop: seven times its longest sleep.
const LAST_RESORT: Duration = Duration::from_millis(1400);

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT, SIGQUIT or SIGPWR, which supervisors send instead: stop; the second one at once.
    Stop,
    /// SIGHUP or SIGUSR2: load the configuration again, certificates included.
    Reload,
}

/// Everything that hooks and supervisors send: what is not caught ends the process with all its calls.
const CAUGHT: [i32; 10] =
    [SIGTERM, SIGINT, SIGQUIT, SIGPWR, SIGHUP, SIGUSR2, SIGUSR1, SIGALRM, SIGPIPE, SIGXFSZ];

/// What a signal means, if anything.
fn meaning(number: i32) -> Option<Signal> {
    match number {
        SIGTERM | SIGINT | SIGQUIT | SIGPWR => Some(Signal::Stop),
        // Hooks that renew certificates for coturn send SIGUSR2.
        SIGHUP | SIGUSR2 => Some(Signal::Reload),
        _ => None,
    }
}

/// Says that a signal did nothing, where somebody may have expected it to.
fn explain(number: i32) {
    match number {
        // To rotate logs, programs send the signal by which coturn drains; it had better be neither.
        SIGUSR1 => warn!(
            "SIGUSR1 does nothing: to drain use `turnpike ctl drain`, to drain and end SIGTERM with a \
             drain-timeout; the log needs no signal to be rotated"
        ),
        // A reader went away, or a file is full: whoever writes gets an error.
        SIGPIPE | SIGXFSZ => {}
        _ => warn!("signal {number} does nothing"),
    }
}

/// Signals as they come.
pub struct SignalSource {
    receiver: Receiver<Signal>,
    stop_seen: Arc<AtomicBool>,
}

impl SignalSource {
    /// The next signal, if one comes within `limit`.
    ///
    /// # Errors
    /// If none comes, or the thread that catches them has ended.
    pub fn next(&self, limit: Duration) -> Result<Signal, RecvTimeoutError> {
        let signal = self.receiver.recv_timeout(limit)?;
        if signal == Signal::Stop {
            self.stop_seen.store(true, Ordering::Relaxed);
        }
        Ok(signal)
    }
}

/// Catches signals from now on; a thread delivers them in order. If nobody takes the first [`Signal::Stop`]
/// within a second and a half, that thread ends the process itself.
///
/// # Errors
/// If the handlers or the thread can't be set up.
pub fn listen() -> io::Result<SignalSource> {
    let mut signals = Signals::new(CAUGHT)?;
    let (sender, receiver) = channel();
    let source = SignalSource { receiver, stop_seen: Arc::default() };
    let stop_seen = Arc::clone(&source.stop_seen);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut is_first = true;
        for signal in signals.forever() {
            let Some(signal) = meaning(signal) else {
                explain(signal);
                continue;
            };
            if sender.send(signal).is_err() {
                return;
            }
            if signal == Signal::Stop && std::mem::take(&mut is_first) {
                let watch = watch(LAST_RESORT, Arc::clone(&stop_seen), give_up);
                if let Err(error) = watch {
                    error!("no thread sees to it that the process ends: {error}");
                }
            }
        }
    })?;
    Ok(source)
}

/// Calls `otherwise` if nobody has seen the signal within `limit`.
fn watch(
    limit: Duration,
    stop_seen: Arc<AtomicBool>,
    otherwise: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let watch = move || {
        thread::sleep(limit);
        if !stop_seen.load(Ordering::Relaxed) {
            otherwise();
        }
    };
    thread::Builder::new().name("last-resort".to_owned()).spawn(watch).map(drop)
}

/// Whatever the main thread waits for: a signal to stop is obeyed.
fn give_up() {
    error!("told to stop while the main thread stands still: giving up");
    logging::flush();
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn each_signal_arrives_as_its_message() {
        let signals = listen().expect("handlers can be set");
        // They end nothing, and nobody is told.
        for number in [SIGUSR1, SIGALRM, SIGPIPE, SIGXFSZ] {
            raise(number).expect("a process may signal itself");
        }
        for (number, expected) in [
            (SIGHUP, Signal::Reload),
            (SIGTERM, Signal::Stop),
            (SIGINT, Signal::Stop),
            (SIGUSR2, Signal::Reload),
            (SIGQUIT, Signal::Stop),
            (SIGPWR, Signal::Stop),
            (SIGHUP, Signal::Reload),
        ] {
            raise(number).expect("a process may signal itself");
            assert_eq!(signals.next(Duration::from_secs(10)), Ok(expected), "signal {number}");
        }
    }

    #[test]
    fn a_main_thread_that_stands_still_is_given_up_and_only_then() {
        let (given_up, outcome) = sync_channel::<()>(1);
        let give_up = move || given_up.send(()).expect("the test waits");
        watch(Duration::from_millis(10), Arc::default(), give_up).expect("a thread");
        assert!(outcome.recv_timeout(Duration::from_secs(30)).is_ok());

        let (given_up, outcome) = sync_channel::<()>(1);
        let give_up = move || given_up.send(()).expect("the test waits");
        watch(Duration::from_millis(10), Arc::new(AtomicBool::new(true)), give_up).expect("a thread");
        assert!(outcome.recv_timeout(Duration::from_secs(30)).is_err(), "dropped without a word");
    }
}
