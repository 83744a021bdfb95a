//! Programs that tests start: their output by lines, their end by a deadline, never left behind.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::PATIENCE;

/// A running program; killed when dropped.
pub struct Process {
    child: Child,
    output: Arc<Output>,
}

/// How a program ended.
pub struct Outcome {
    /// Its exit code; `None` if a signal or our deadline ended it.
    pub code: Option<i32>,
    /// Both its outputs.
    pub output: String,
}

#[derive(Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// How many of the two streams have ended.
    ended: u32,
}

impl Process {
    /// Starts a program and collects what it prints.
    pub fn start(mut command: Command) -> Process {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::with_outputs(command)
    }

    /// Starts a program whose outputs go where the command says; those that are piped are collected.
    pub fn with_outputs(command: Command) -> Process {
        Process::with_input(command, Stdio::null())
    }

    /// The same with an input.
    pub fn with_input(mut command: Command, input: Stdio) -> Process {
        let child = command.stdin(input).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let output = Arc::new(Output::default());
        collect(child.stdout.take(), &output, |state| &mut state.stdout);
        collect(child.stderr.take(), &output, |state| &mut state.stderr);
        Process { child, output }
    }

    /// Waits for a line on stdout that starts with `prefix`.
    ///
    /// # Errors
    /// All output so far, if the program ends or `timeout` passes before there is such a line.
    pub fn wait_for_line(&self, prefix: &str, timeout: Duration) -> Result<String, String> {
        let find = |state: &State| state.stdout.iter().find(|line| line.starts_with(prefix)).cloned();
        let state = self.output.state.lock().expect("no reader panics");
        let (state, _) = self
            .output
            .changed
            .wait_timeout_while(state, timeout, |state| find(state).is_none() && state.ended < 2)
            .expect("no reader panics");
        find(&state).ok_or_else(|| state.all())
    }

    /// Waits until `find` finds something in a line of either output, the newest first.
    pub fn wait_for<T>(&self, timeout: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let newest =
            |state: &State| state.stderr.iter().chain(&state.stdout).rev().find_map(|line| find(line));
        let state = self.output.state.lock().expect("no reader panics");
        let (state, _) = self
            .output
            .changed
            .wait_timeout_while(state, timeout, |state| newest(state).is_none() && state.ended < 2)
            .expect("no reader panics");
        newest(&state)
    }

    /// Waits for the end; kills it when `timeout` has passed.
    pub fn wait(mut self, timeout: Duration) -> Outcome {
        let status = self.wait_for_status(timeout);
        if status.is_none() {
            self.kill();
        }
        // What it printed last may still be in the pipes.
        let state = self.output.state.lock().expect("no reader panics");
        let (state, _) = self
            .output
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.ended < 2)
            .expect("no reader panics");
        Outcome { code: status.and_then(|status| status.code()), output: state.all() }
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid is positive");
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn wait_for_status(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.child.try_wait().expect("our own child can be waited for") {
                Some(status) => return Some(status),
                None if Instant::now() >= deadline => return None,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl State {
    fn all(&self) -> String {
        let mut all = String::new();
        for line in self.stdout.iter().chain(&self.stderr) {
            all.push_str(line);
            all.push('\n');
        }
        all
    }
}

fn collect(
    stream: Option<impl Read + Send + 'static>,
    output: &Arc<Output>,
    lines: fn(&mut State) -> &mut Vec<String>,
) {
    let Some(stream) = stream else {
        output.state.lock().expect("no reader panics").ended += 1;
        return;
    };
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lines(&mut output.state.lock().expect("no reader panics")).push(text);
            output.changed.notify_all();
            line.clear();
        }
        output.state.lock().expect("no reader panics").ended += 1;
        output.changed.notify_all();
    });
}

/// Where a program is, as the shell of an administrator would find it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
