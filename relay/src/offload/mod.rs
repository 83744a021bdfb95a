//! The kernel fast path, seen from userspace.
//!
//! The program forwards what its maps say and passes everything else up, so the maps are a cache of
//! the core's table that may always be empty. Here is what fills and watches them:
//!
//! ```text
//!   probe ─► can this interface be offloaded? ─► xdp: load the object, attach it
//!                                                  │
//!   (core's commands) ───────────────────────────► maps ◄──────── bucket words, counters (workers)
//! ```
//!
//! Not used by `turnpike run` yet: nothing here mirrors the core's table into the maps.
//!
//! Nothing is pinned: when the process ends, however it ends, its programs and maps are gone.

mod mapped;
pub mod maps;
pub mod pinning;
pub mod probe;
pub mod status;
pub mod xdp;

pub use mapped::Mapped;
pub use status::{InterfaceStatus, OffloadStatus, StatusCell};
