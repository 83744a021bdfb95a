#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod addr;
pub mod auth;
mod error;
pub mod inspect;
mod io;
pub mod limits;
pub mod migrate;
pub mod policy;
mod refusal;
mod server;
pub mod settings;
pub mod shared;
pub mod stats;
mod table;
pub mod wire;

pub use addr::ClientSocket;
pub use error::ErrorCode;
pub use inspect::{
    AllocationDetail, AllocationView, ChannelView, InspectCursor, OffloadState, PermissionView, WhyNot,
};
pub use io::*;
pub use refusal::{Detail, Refusal, RefusalCounts, RefusalReason, RefusedRequest};
pub use server::{ExportCursor, Server};
pub use shared::plane::{Plane, PlaneMemory, SlotName, UserNumber};
pub use stats::TrafficByPath;
pub use table::TableCounts;
pub use turnpike_abi::Verdict;
