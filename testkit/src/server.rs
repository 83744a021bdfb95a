//! The program under test, from the line that says that it is ready to its end.

use std::ops::Deref;
use std::process::Command;

use rustix::process::Signal;

use crate::process::{Outcome, Process};
use crate::{PASSWORD, PATIENCE};

/// Takes away from a command what our own environment would tell the program: `TURNPIKE_…`.
pub fn without_options(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TURNPIKE_")) {
        command.env_remove(name);
    }
    command
}

/// A server that is ready; as a [`Process`], killed when dropped.
pub struct Server {
    process: Process,
    ready: String,
}

impl Server {
    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    /// With all that it printed, if it does not become ready.
    #[track_caller]
    pub fn start(command: Command) -> Server {
        let process = Process::start(command);
        match process.wait_for_line("turnpike ready", PATIENCE) {
            Ok(ready) => Server { process, ready },
            Err(output) => panic!("the server did not become ready; it printed:\n{output}"),
        }
    }

    /// The line that says that it is ready.
    pub fn ready_line(&self) -> &str {
        &self.ready
    }

    /// What that line says after `name`, up to the next space.
    #[track_caller]
    pub fn field(&self, name: &str) -> &str {
        let found = self.ready.split_whitespace().find_map(|word| word.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} is in {}", self.ready))
    }

    /// The process by itself.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// Ends it by a signal.
    pub fn end_by(self, signal: Signal) -> Outcome {
        self.process.signal(signal);
        self.process.wait(PATIENCE)
    }

    /// Ends it by SIGTERM; gives what it printed, among which is no panic and no password.
    #[track_caller]
    pub fn stop(self) -> String {
        let Outcome { code, output } = self.end_by(Signal::TERM);
        assert_eq!(code, Some(0), "{output}");
        assert!(!output.contains("panicked") && !output.contains(PASSWORD), "{output}");
        output
    }
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}
