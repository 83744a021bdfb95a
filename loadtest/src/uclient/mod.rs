//! turnutils_uclient's flags, output and exit status on this program's engine.
//!
//! The numbers mean what they mean there, without the defects: a duplicate doesn't hide a loss,
//! delays are measured on a ns clock over all packets, clients are set up at the same time, and every
//! allocation is released and confirmed.

pub mod flags;
pub mod output;

mod alloc_flood;
mod run;
mod tcp_relay;

pub use run::main;
