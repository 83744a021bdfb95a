//! The log: records to stderr, one line each, whatever is in them.
//!
//! Names and texts in a record may come from a stranger. So every control character, and every character
//! that reorders or breaks lines, is written as an escape: nobody can forge a record or talk to the
//! reader's terminal.
//!
//! Nobody who logs waits for the reader of stderr: see `queue`.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Level};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use self::queue::Queue;
use crate::config::{LogFormat, LogLevel};

/// Libraries that log whole packets, some at WARN: their content belongs to strangers.
const SILENT_TARGETS: &[&str] = &["stun_types", "turn_types"];
/// How long the end of the process waits until what is queued is written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The log of this process.
static LOG: OnceLock<Queue> = OnceLock::new();

/// When dropped, what is queued is written, or given up after half a second.
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        flush();
    }
}

/// Sends the records of the whole process to stderr, panics among them.
///
/// # Errors
/// If there is no thread for it.
///
/// # Panics
/// If called twice.
pub fn init(level: LogLevel, format: LogFormat) -> io::Result<Guard> {
    let stderr = Stderr(io::stderr().as_fd().try_clone_to_owned()?.into());
    let queue = Queue::start(stderr, |sink| dispatch(level, format, move || sink.clone()))?;
    let writer = queue.clone();
    let dispatch = dispatch(level, format, move || writer.clone());
    tracing::dispatcher::set_global_default(dispatch).expect("the log is set up once, at the start");
    LOG.get_or_init(|| queue);
    // The usual hook writes to stderr itself, and waits.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{backtrace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
    Ok(Guard(()))
}

/// Records of this process that are lost, because whoever reads stderr did not keep up.
pub fn records_dropped() -> u64 {
    LOG.get().map_or(0, Queue::dropped)
}

/// Waits until what is queued is written, half a second at the most.
pub(crate) fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(LAST_WORDS);
    }
}

/// Stderr without the lock and the buffers of the standard library.
struct Stderr(File);

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // Whoever shares the pipe with us may have made it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dispatch<W>(level: LogLevel, format: LogFormat, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let targets = Targets::new().with_default(severity(level));
    let targets = targets.with_targets(SILENT_TARGETS.iter().map(|target| (*target, LevelFilter::OFF)));
    // No colours: the escaping below couldn't tell ours from a stranger's.
    let records = fmt::layer().with_ansi(false).log_internal_errors(false).with_writer(Escaping(writer));
    match format {
        LogFormat::Text => Dispatch::new(Registry::default().with(records.with_filter(targets))),
        LogFormat::Json => {
            let records = records.json().flatten_event(true);
            Dispatch::new(Registry::default().with(records.with_filter(targets)))
        }
    }
}

fn severity(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

/// Makes writers that escape what is written.
struct Escaping<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Escaping<W> {
    type Writer = EscapingWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapingWriter(self.0.make_writer())
    }
}

/// Takes one whole record per `write`, as the formatting layer hands them over.
struct EscapingWriter<W>(W);

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if is_plain(record) {
            self.0.write_all(record)?;
        } else {
            self.0.write_all(escape(&String::from_utf8_lossy(record)).as_bytes())?;
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// One line of printable ASCII, as almost all records are: nothing in it has to be escaped.
fn is_plain(record: &[u8]) -> bool {
    let body = record.strip_suffix(b"\n");
    body.is_some_and(|body| body.iter().all(|byte| matches!(byte, b' '..=b'~')))
}

/// Escapes everything in a record but its final line end. The escapes are JSON's, which never has such
/// a character outside a string.
fn escape(record: &str) -> String {
    let body = record.strip_suffix('\n').unwrap_or(record);
    let mut line = String::with_capacity(record.len());
    for character in body.chars() {
        match character {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            _ if is_dangerous(character) => line.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => line.push(character),
        }
    }
    line.push('\n');
    line
}

/// Control characters, line and paragraph separators, and what changes the direction of text. All are
/// below U+10000, so four hex digits do.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a stranger may call himself.
    const HOSTILE: &str = "eve\n2026-01-01T00:00:00Z ERROR turnpike: forged\r\x1b[2J\u{85}\u{2028}\u{202e}\t";

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, records: impl FnOnce()) -> String {
        let sink = Sink::default();
        let handle = sink.clone();
        tracing::dispatcher::with_default(&dispatch(level, format, move || handle.clone()), records);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn only_one_printable_line_is_plain() {
        assert!(is_plain(b"INFO turnpike: ready ~\n") && is_plain(b"\n"));
        for record in ["no end", "two\nlines\n", "\x1b[2J\n", "\x7f\n", "tab\t\n", "caf\u{e9}\n"] {
            assert!(!is_plain(record.as_bytes()), "{record:?}");
        }
    }

    #[test]
    fn a_hostile_name_stays_within_its_line_of_text() {
        let log = logged(LogLevel::Info, LogFormat::Text, || {
            tracing::info!(user = HOSTILE, "allocation ended by {HOSTILE}");
            tracing::info!(user = %HOSTILE, "shown with Display");
        });
        assert_eq!(log.matches('\n').count(), 2, "{log}");
        assert!(log.contains("ended by eve\\n2026"), "{log}");
        assert!(!log.replace('\n', "").chars().any(is_dangerous), "{log}");
    }

    #[test]
    fn a_hostile_name_survives_json_unchanged() {
        let log = logged(LogLevel::Info, LogFormat::Json, || tracing::info!(user = HOSTILE, "ended"));
        assert_eq!(log.matches('\n').count(), 1, "{log}");
        assert!(!log.trim_end_matches('\n').chars().any(is_dangerous), "{log}");
        let record: serde_json::Value = serde_json::from_str(&log).expect("a JSON object");
        assert_eq!(record["user"], HOSTILE);
        assert_eq!(record["message"], "ended");
        assert_eq!(record["level"], "INFO");
    }

    #[test]
    fn the_level_decides_what_is_written() {
        for (level, _) in LogLevel::WORDS.iter().map(|(word, level)| (*level, word)) {
            let log = logged(level, LogFormat::Text, || {
                tracing::error!("record");
                tracing::warn!("record");
                tracing::info!("record");
                tracing::debug!("record");
                tracing::trace!("record");
            });
            let expected = 1 + LogLevel::WORDS.iter().position(|(_, other)| *other == level).unwrap();
            assert_eq!(log.lines().count(), expected, "{level:?}");
        }
    }

    #[test]
    fn libraries_that_log_packets_are_silent() {
        let log = logged(LogLevel::Trace, LogFormat::Text, || {
            tracing::error!(target: "stun_types::message", "packet");
            tracing::warn!(target: "turn_types", "packet");
            tracing::trace!(target: "turnpike::worker", "ours");
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("ours"), "{log}");
    }
}
