//! From a checked configuration to a running relay, and back to the end of the process.
//!
//! ```text
//!   run ─► descriptors ─► workers ─► admin ─► signals ─► stop
//!            each glance meanwhile: watch
//! ```
//!
//! It decides in which order things begin and end. What they are is decided below: `config`, `setup`, `control`.

mod admin;
mod descriptors;
mod error;
mod inherit;
mod run;
mod signals;
mod stop;
mod streams;
mod watch;

pub use error::StartError;
pub use run::run;
