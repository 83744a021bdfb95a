//! Signals as messages.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop; the second one at once.
    Stop,
    /// SIGHUP: load the configuration again.
    Reload,
}

/// Catches signals from now on; a thread delivers them in order until the receiver is dropped.
///
/// # Errors
/// If the handlers or the thread can't be set up.
pub fn listen() -> io::Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let signal = if signal == SIGHUP { Signal::Reload } else { Signal::Stop };
            if sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn each_signal_arrives_as_its_message() {
        let signals = listen().expect("handlers can be set");
        for (number, expected) in [
            (SIGHUP, Signal::Reload),
            (SIGTERM, Signal::Stop),
            (SIGINT, Signal::Stop),
            (SIGHUP, Signal::Reload),
        ] {
            raise(number).expect("a process may signal itself");
            assert_eq!(signals.recv_timeout(Duration::from_secs(10)), Ok(expected), "signal {number}");
        }
    }
}
