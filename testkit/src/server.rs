//! The program under test, from the line that says that it is ready to its end.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Outcome, Process};
use crate::{PASSWORD, PATIENCE};

/// What [`Configured`] writes.
const FILE: &str = "turnpike.toml";

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
        Server::of(Process::start(command))
    }

    /// The same with an input.
    #[track_caller]
    pub fn start_with_input(mut command: Command, input: Stdio) -> Server {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Server::of(Process::with_input(command, input))
    }

    #[track_caller]
    fn of(process: Process) -> Server {
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

    /// Waits until its log has a line with these words; gives the newest one.
    #[track_caller]
    pub fn wait_for_log(&self, words: &str) -> String {
        let found = self.wait_for(PATIENCE, |line| line.contains(words).then(|| line.to_owned()));
        found.unwrap_or_else(|| panic!("the log never says {words:?}"))
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

/// A server that is configured by a file in a folder of its own.
pub struct Configured {
    server: Server,
    folder: TempDir,
}

impl Configured {
    /// Starts it with this configuration; the folder may have other files, which that names.
    ///
    /// # Panics
    /// With all that it printed, if it does not become ready.
    #[track_caller]
    pub fn start(mut command: Command, folder: TempDir, text: &str) -> Configured {
        let file = folder.path().join(FILE);
        std::fs::write(&file, text).expect("the folder is ours");
        command.arg("run").arg("--config").arg(file);
        Configured { server: Server::start(command), folder }
    }

    /// Changes its configuration and tells it so.
    pub fn reload(&self, text: &str) {
        std::fs::write(self.file(), text).expect("the folder is ours");
        self.signal(Signal::HUP);
    }

    /// The process by itself, without the folder.
    pub fn into_process(self) -> Process {
        self.server.into_process()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file that configures it.
    pub fn file(&self) -> PathBuf {
        self.folder().join(FILE)
    }

    /// See [`Server::stop`].
    #[track_caller]
    pub fn stop(self) -> String {
        self.server.stop()
    }
}

impl Deref for Configured {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
