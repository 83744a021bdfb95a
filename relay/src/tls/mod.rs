//! Certificates: read, checked, chosen, replaced while the relay runs.
//!
//! ```text
//!   files ─► certificate (can it be used?) ─► store (what changes?) ─► whoever shows it, for new connections
//!     └► watch (has something changed?) ─► Control::reload_certificates ─┘ ◄─ SIGHUP, POST /v1/reload
//! ```
//!
//! It decides which certificate is in force: the last that could be used. It knows no connection.

pub mod certificate;
pub mod server;
pub mod store;
pub mod watch;

#[cfg(test)]
mod testing;
