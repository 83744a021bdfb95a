//! Turnpike's core: a TURN server (RFC 8656 over RFC 8489) without any input or output of its own.
//!
//! Bytes and time go in, bytes and commands come out:
//!
//! ```text
//!   forward_client / forward_peer ──► Route | Slow | Drop      data, nothing copied
//!   handle_input(now, Input)      ──► poll_output() -> Output  control, unusual data
//!   poll_timeout()                ──► when to come back, and why
//! ```
//!
//! It decides who may allocate, which peers are reachable, where a datagram goes and when
//! everything ends. It knows no socket, no clock, no thread and no source of randomness:
//! time is the argument [`Now`], randomness a seed. What workers have in common (ports,
//! quotas, reservations, users) is in [`shared`], touched by control messages only.
#![forbid(unsafe_code)]

pub mod addr;
pub mod auth;
mod directory;
mod error;
pub mod inspect;
mod io;

mod limiter;
pub mod limits;
pub mod plane;
pub mod policy;
mod ports;
pub mod quota;
mod refusal;
mod relays;
mod server;
pub mod settings;
pub mod shared;
pub mod stats;
mod table;
pub mod wire;

pub use error::ErrorCode;
pub use inspect::{
    AllocationDetail, AllocationView, ChannelView, InspectCursor, OffloadState, PermissionView, WhyNot,
};
pub use io::*;
pub use plane::{Plane, PlaneMemory, SlotName};
pub use refusal::{Detail, Refusal, RefusalCounts, RefusalReason, RefusedRequest};
pub use server::Server;
pub use stats::TrafficByPath;
pub use table::TableCounts;
pub use turnpike_abi::Verdict;
