//! Why the relay did not start.

use std::io;

use turnpike_proto::auth::BadCredential;

use crate::config::Problems;
use crate::takeover::TakeoverError;

/// Why the relay couldn't start, or had to give up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration doesn't fit this host.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A user's name or password can't be used.
    #[error(transparent)]
    Credential(#[from] BadCredential),
    /// Another process runs, and this one can't take over.
    #[error("takeover: {0}; the process that runs goes on")]
    Takeover(#[from] TakeoverError),
    /// The folder where another process would find this one.
    #[error("state-directory: {0}")]
    StateDirectory(TakeoverError),
    /// Something the relay needs from the operating system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried, for the operator.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code: 2 for the configuration, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Config(_) | StartError::Credential(_) => 2,
            StartError::System { .. } | StartError::Takeover(_) | StartError::StateDirectory(_) => 1,
        }
    }

    pub(super) fn other<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> StartError + '_ {
        move |why| Self::system(what)(io::Error::other(why.to_string()))
    }

    pub(super) fn system(what: &str) -> impl FnOnce(io::Error) -> StartError + '_ {
        move |source| StartError::System { what: what.to_owned(), source }
    }
}
