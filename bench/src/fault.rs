//! What keeps a comparison from running, in one line each.

use std::io;
use std::path::Path;

/// Why there is no result. Each message is one line and says what to do, if anything can be done.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The options, the machine or a server's start.
    #[error("{0}")]
    Plain(String),
    /// A file or folder.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl Fault {
    /// For `map_err` on what was done with `path`.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Fault + '_ {
        move |source| Fault::File { path: path.display().to_string(), source }
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Fault {
        Fault::Plain(message)
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Fault {
        Fault::Plain(message.to_owned())
    }
}
