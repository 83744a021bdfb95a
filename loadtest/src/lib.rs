//! Turnpike's load-test harness: measures what a TURN server loses, delays and refuses.
//!
//! ```text
//!   cli ─► modes (loss, ndr, allocate, stun, video), scenario, uclient ─► engine ─► server
//!                 └► report (table, JSON, HTML) ◄─ stats ◄───────────┘
//! ```
//! It knows the server only from outside: any TURN server over UDP, TCP or TLS will do. `session` and
//! `stun_client` are pure (bytes and time in, bytes out); only `engine`, and `blocking` for
//! clients one by one, have sockets, and only `engine::mmsg` and `engine::receive` unsafe code.
//!
//! It decides what is sent, when, and what of it counts as lost, late or out of order; what a server ought to reach is
//! for whoever reads the report. Begin with [`cli`], which names the modes, or, as a library, with
//! [`engine::Engine`]: it carries out a [`engine::Plan`].
pub mod arguments;
pub mod blocking;
pub mod cli;
pub mod credentials;
pub mod engine;
pub mod limits;
pub mod modes;
pub mod peer;
pub mod peer_tcp;
pub mod reflect;
pub mod report;
pub mod scenario;
pub mod session;
pub mod stalled;
pub mod stats;
pub mod stun_client;
pub mod transport;
pub mod uclient;
pub mod video;
