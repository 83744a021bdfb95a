//! What tests share, each thing once. It decides nothing about what is right: that is the tests' own.
//!
//! ```text
//!   rig         the core with virtual time, a driver made of a hash map, clients that can authenticate
//!   namespace   one network of the kernel, removed when dropped; lab: client, relay and peer in a row
//!   process     programs with outputs and deadlines; server: the program under test, once it is ready
//!   message     what clients say and are told, whatever carries it: log-ins, requests, answers
//!   python      with packages of its own, for clients written in it; golang, node: the same
//!   talker      a client that says what a test wants; call: one with a channel to a peer; uclient, http
//!   stream      the same over TCP and TLS; certificate: what TLS needs on both sides
//!   in_own_namespace    one namespace for one test's thread
//!   full_pipe           one that nobody reads
//!   eventually          tries again until there is something, as long as a busy machine may need
//!   occupied    an interface on which somebody else's XDP program is
//!   skip        a test that can't run says so, and fails where CI=true promises that everything runs
//! ```
//!
//! Begin with [`rig`] for a rule of the protocol, with [`lab`] for what only real sockets show.

pub mod call;
pub mod certificate;
pub mod golang;
pub mod http;
pub mod lab;
pub mod message;
pub mod namespace;
pub mod node;
pub mod occupied;
mod own_namespace;
mod pipe;
pub mod process;
pub mod python;
pub mod rig;
pub mod server;
mod skip;
pub mod stream;
pub mod talker;
pub mod uclient;
mod wait;

use std::path::PathBuf;

pub use own_namespace::in_own_namespace;
pub use pipe::full_pipe;
pub use skip::skip;
pub use wait::{PATIENCE, becomes_true, eventually, uninterrupted};

/// The realm of the servers under test.
pub const REALM: &str = "example.org";
/// The user that they know.
pub const USER: &str = "alice";
/// The password of [`USER`].
pub const PASSWORD: &str = "correct horse";

/// The program under test: `TURNPIKE_BIN`, or the one that cargo has built for the test.
pub fn binary(built: &str) -> PathBuf {
    std::env::var_os("TURNPIKE_BIN").map_or_else(|| PathBuf::from(built), PathBuf::from)
}
