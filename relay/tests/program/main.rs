//! The running program on loopback: what its users call, its administration, its listeners, its certificates, and
//! what it does where nobody reads what it says. None of it needs root.
//!
//! ```text
//!   relay: the program, configured by file ─► admin, listeners, certificates, proxied: the tests
//!   cli, nobody_reads: the program by itself
//! ```

mod admin;
mod certificates;
mod cli;
mod listeners;
mod nobody_reads;
mod proxied;
mod relay;
mod takeover;
