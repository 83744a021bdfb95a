//! A planned restart: a new process goes on with the clients over UDP of the one that runs, and with its listeners.
//!
//! ```text
//!   new                              old
//!   Hello ────────────────────────►  same user? (SO_PEERCRED) same format?
//!         ◄──────────── Accepted / Refused
//!   (configuration, database, certificates, kernel)
//!   Begin ────────────────────────►  workers let go of their sockets, then export (worker/leaving.rs)
//!         ◄──────────── Sockets, by SCM_RIGHTS: listeners, relay sockets, reserved ports
//!         ◄──────────── State, in a sealed memfd
//!   (everything is adopted, workers stand ready)
//!   Adopted ──────────────────────►  nothing here is touched any more
//!         ◄──────────── Yours
//! ```
//!
//! The socket is in `state-directory`, for its owner alone. Datagrams wait in their sockets meanwhile. Until `Yours` the
//! old process takes everything up again where anything fails; without it the new one serves nobody. So no datagram is
//! ever read by both.
//!
//! Clients over TCP and TLS stay where their connections are, as long as `drain-timeout` allows.

mod channel;
mod folder;
mod give;
mod take;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use turnpike_driver::SocketName;
use turnpike_proto::RelaySocket;

pub use channel::Channel;
pub use folder::Folder;
pub(crate) use give::{Door, give};
pub use take::{Inheritance, Invitation, knock};

/// How long either side waits for the other where it has nothing else to do, and clients wait with it.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long the old process waits for the new one to be prepared: its clients don't notice.
pub const PREPARING: Duration = Duration::from_secs(60);
/// Descriptors in one message; the kernel takes no more (SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;
/// Bytes of a message: the names of so many descriptors are below that.
pub const MAX_MESSAGE: usize = 32 << 10;
/// Largest state, bytes: a million allocations with all that is usual.
const MAX_STATE: u64 = 4 << 30;

/// What the two processes tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Who wants to take over, and which formats of the state it reads: up to this one.
    Hello {
        /// Its version.
        version: String,
        /// The newest format.
        format: u16,
    },
    /// It may, from so many workers.
    Accepted {
        /// The version that runs.
        version: String,
        /// Its workers.
        workers: u16,
    },
    /// It may not.
    Refused {
        /// Why, for the operator.
        why: String,
    },
    /// It is prepared.
    Begin,
    /// One for each descriptor that comes along.
    Sockets(Vec<Moved>),
    /// All sockets have come; the state is in the memory whose descriptor comes along.
    State {
        /// Its length, bytes.
        bytes: u64,
        /// How many sockets there were.
        sockets: u64,
        /// Allocations that have ended, by reason.
        ended: Vec<(String, u64)>,
    },
    /// All of it is in use as soon as it may be.
    Adopted,
    /// It may: nobody else touches it any more.
    Yours,
}

/// A socket on its way, with what the kernel had dropped at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moved {
    /// A worker's listener for UDP: its worker, its number, datagrams lost.
    Listener(u16, u32, u32),
    /// The second socket of a worker's listener, for strangers: its worker, its number, datagrams lost.
    Strangers(u16, u32, u32),
    /// What the kernel knows of the clients of all workers' listeners of a number: seed and number of sockets.
    Known(u32, u64, u32),
    /// A worker's relay socket: its worker, index, generation, datagrams lost.
    Relay(u16, u32, u32, u32),
    /// A worker's listener for streams: its worker, whether it takes plain TCP, and TLS.
    Streams(u16, bool, bool),
    /// A port that is kept for the owner of a RESERVATION-TOKEN.
    Reserved(SocketAddr),
}

impl Moved {
    /// Of a worker's socket for datagrams.
    pub(crate) fn of(worker: u16, name: SocketName, lost: u32) -> Moved {
        match name {
            SocketName::Listener(number) => Moved::Listener(worker, number, lost),
            SocketName::Strangers(number) => Moved::Strangers(worker, number, lost),
            SocketName::Relay(RelaySocket { index, generation }) => {
                Moved::Relay(worker, index, generation, lost)
            }
        }
    }
}

/// Why there is no taking over, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The other process does not want to.
    #[error("the process that runs refuses: {0}")]
    Refused(String),
    /// The other process said something else than it should have, or nothing.
    #[error("the other process {0}")]
    Confused(String),
    /// Something does not fit.
    #[error("{0}")]
    Unfit(String),
    /// The system.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

impl TakeoverError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> TakeoverError {
        move |error| TakeoverError::System(what, error)
    }
}
