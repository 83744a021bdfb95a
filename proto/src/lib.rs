#![doc = include_str!("../README.md")]
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
