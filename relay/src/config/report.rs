//! Faults and warnings of the configuration: one line each, saying where, what, and what would be right.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest quoted value in a message, characters: a message stays one readable line.
const MAX_QUOTED_CHARS: usize = 80;

/// What is said of a placeholder for a secret.
pub(super) const PLACEHOLDER: &str =
    "is the placeholder of an example, which everybody knows: write a secret of your own";

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, at a line and column counted from 1; (0, 0) means the file as a whole.
    File(Arc<PathBuf>, usize, usize),
    /// In this environment variable.
    Environment(String),
    /// In a flag of the command line.
    CommandLine,
    /// Nowhere in particular: found out at the start.
    Start,
}

/// One fault or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file and line, variable or option that it is about.
    pub place: Place,
    /// Which option it is about, if a known one.
    pub key: Option<&'static str>,
    /// What is wrong and what would be right; never a secret.
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: Place, key: &'static str, message: impl Into<String>) -> Self {
        Problem { place, key: Some(key), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path, 0, _) => write!(f, "{}: ", printable(&path.display().to_string()))?,
            Place::File(path, line, column) => {
                write!(f, "{}:{line}:{column}: ", printable(&path.display().to_string()))?;
            }
            // The variable and the flag name the key already.
            Place::Environment(variable) => {
                return write!(f, "environment: {}: {}", printable(variable), self.message);
            }
            Place::CommandLine => {
                f.write_str("command line: ")?;
                return match self.key {
                    Some(key) => write!(f, "--{key}: {}", self.message),
                    None => f.write_str(&self.message),
                };
            }
            Place::Start => {}
        }
        match self.key {
            Some(key) => write!(f, "{key}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Why there is no configuration: all faults that were found, at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects faults and warnings while a configuration is put together.
#[derive(Default)]
pub(super) struct Report {
    pub(super) faults: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// The file couldn't be read in full: nobody knows what is missing.
    pub(super) incomplete: bool,
}

impl Report {
    pub(super) fn fault(&mut self, problem: Problem) {
        self.faults.push(problem);
    }

    pub(super) fn warn(&mut self, problem: Problem) {
        self.warnings.push(problem);
    }

    /// Of several warnings of one kind and source the first, which then says how many there are.
    pub(super) fn warn_once(&mut self, warnings: Vec<Problem>) {
        let others = warnings.len().saturating_sub(1);
        if let Some(mut first) = warnings.into_iter().next() {
            if others > 0 {
                first.message.push_str(&format!("; so it is with {others} more"));
            }
            self.warn(first);
        }
    }

    /// A placeholder for a secret.
    pub(super) fn placeholder(&mut self, place: Place, key: &'static str) {
        self.fault(Problem::new(place, key, PLACEHOLDER));
    }

    /// All faults in the order of the file, then those of other places; or nothing.
    pub(super) fn into_faults(self) -> Option<Problems> {
        let mut faults = self.faults;
        faults.sort_by_key(|fault| match fault.place {
            Place::File(_, line, column) if line > 0 => (line, column),
            _ => (usize::MAX, 0),
        });
        if faults.is_empty() {
            return None;
        }
        // A mistyped variable is often why something is missing.
        faults.extend(self.warnings.into_iter().filter(|warning| warning.key.is_none()));
        Some(Problems(faults))
    }

    /// Whether an option already has a fault: then what depends on it isn't judged.
    pub(super) fn blames(&self, key: &str) -> bool {
        self.faults.iter().any(|fault| fault.key == Some(key))
    }
}

/// A value as it is shown in a message: quoted, escaped, of bounded length.
pub(super) fn quoted(text: &str) -> String {
    if text.chars().count() <= MAX_QUOTED_CHARS {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    format!("{start:?}...")
}

/// A name with its control characters escaped, so that a message stays one line.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}
