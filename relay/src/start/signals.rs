//! Signals as wishes of the operator, counted or remembered: there is no queue that many could fill.

use std::io;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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

/// What was asked for and not yet taken.
#[derive(Default)]
struct Wishes {
    /// A second one means more than the first.
    stops: u32,
    stop_was_taken: bool,
    /// Several are one: a reload reads what is there when it begins.
    reload: bool,
    /// The thread that catches signals has ended.
    no_more: bool,
}

impl Wishes {
    fn add(&mut self, signal: Signal) {
        match signal {
            Signal::Stop => self.stops = self.stops.saturating_add(1),
            Signal::Reload => self.reload = true,
        }
    }

    /// The most urgent one.
    fn take(&mut self) -> Option<Signal> {
        if self.stops > 0 {
            self.stops -= 1;
            self.stop_was_taken = true;
            return Some(Signal::Stop);
        }
        std::mem::take(&mut self.reload).then_some(Signal::Reload)
    }

    fn is_none(&self) -> bool {
        self.stops == 0 && !self.reload
    }
}

/// Where the catching thread leaves wishes, and the main thread waits for them.
#[derive(Default)]
struct Board {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Wishes> {
        // Each change is one store: there is no half of it.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Signals as they come.
pub struct SignalSource(Arc<Board>);

impl SignalSource {
    /// The next signal, if one comes within `limit`; to stop comes first.
    ///
    /// # Errors
    /// If none comes, or the thread that catches them has ended.
    pub fn next(&self, limit: Duration) -> Result<Signal, RecvTimeoutError> {
        let is_idle = |wishes: &mut Wishes| wishes.is_none() && !wishes.no_more;
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), limit, is_idle);
        let (mut wishes, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match wishes.take() {
            Some(signal) => Ok(signal),
            None if wishes.no_more => Err(RecvTimeoutError::Disconnected),
            None => Err(RecvTimeoutError::Timeout),
        }
    }
}

/// Catches signals from now on. If nobody takes the first [`Signal::Stop`] within a second and a half, the thread
/// that watches over it ends the process itself.
///
/// # Errors
/// If the handlers or the thread can't be set up.
pub fn listen() -> io::Result<SignalSource> {
    let mut signals = Signals::new(CAUGHT)?;
    let board = Arc::<Board>::default();
    let source = SignalSource(Arc::clone(&board));
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut is_first = true;
        for number in signals.forever() {
            let Some(signal) = meaning(number) else {
                explain(number);
                continue;
            };
            board.change(|wishes| wishes.add(signal));
            if signal == Signal::Stop && std::mem::take(&mut is_first) {
                let watch = watch(LAST_RESORT, Arc::clone(&board), give_up);
                if let Err(error) = watch {
                    error!("no thread sees to it that the process ends: {error}");
                }
            }
        }
        board.change(|wishes| wishes.no_more = true);
    })?;
    Ok(source)
}

/// Calls `otherwise` if nobody has taken a wish to stop within `limit`.
fn watch(limit: Duration, board: Arc<Board>, otherwise: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let watch = move || {
        thread::sleep(limit);
        if !board.lock().stop_was_taken {
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
    fn many_reloads_are_one_and_to_stop_comes_first_and_counts() {
        let source = SignalSource(Arc::default());
        assert_eq!(source.next(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        for _ in 0..100_000 {
            source.0.change(|wishes| wishes.add(Signal::Reload));
        }
        source.0.change(|wishes| wishes.add(Signal::Stop));
        source.0.change(|wishes| wishes.add(Signal::Stop));
        source.0.change(|wishes| wishes.no_more = true);
        assert_eq!(source.next(Duration::ZERO), Ok(Signal::Stop));
        assert_eq!(source.next(Duration::ZERO), Ok(Signal::Stop));
        assert_eq!(source.next(Duration::ZERO), Ok(Signal::Reload));
        assert_eq!(source.next(Duration::from_secs(30)), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_main_thread_that_stands_still_is_given_up_and_only_then() {
        let (given_up, outcome) = sync_channel::<()>(1);
        let give_up = move || given_up.send(()).expect("the test waits");
        let board = Arc::<Board>::default();
        board.change(|wishes| wishes.add(Signal::Stop));
        watch(Duration::from_millis(10), Arc::clone(&board), give_up).expect("a thread");
        assert!(outcome.recv_timeout(Duration::from_secs(30)).is_ok());

        let (given_up, outcome) = sync_channel::<()>(1);
        let give_up = move || given_up.send(()).expect("the test waits");
        assert_eq!(board.lock().take(), Some(Signal::Stop));
        watch(Duration::from_millis(10), board, give_up).expect("a thread");
        assert!(outcome.recv_timeout(Duration::from_secs(30)).is_err(), "dropped without a word");
    }
}
