//! The leaf that the kernel plane and the userspace plane share.
//!
//! It decides the *names* of what can happen to a packet ([`Verdict`]), how a bandwidth limit is
//! charged (`bucket`), how a route is found (`table`), and the layout of the maps between the two planes:
//!
//! ```text
//!   Switch ───► Config         ports, interfaces, lease       what may be ours at all
//!   RouteKey ──► Bucket ──► Entry of a Binding                where it goes
//!                  │           lease, generation               whether it still may
//!                  ├─► Allocation  bucket, counters, lease     how much of it
//!                  └─► NextHop     device, MTU, MAC addresses  by which way
//!   Books                         what became of what was sent
//!   Pinning, Pin                                              which worker's which socket gets what a client sends
//! ```
//!
//! It knows no packet format, no table of the core's and no operating system, allocates nothing, and builds
//! without `std`, so that the same code is compiled into the relay and into the eBPF object.
//!
//! Numbers from the wire (addresses, ports, channels, MAC addresses) are kept in network byte order
//! in memory, which is how the program finds them in a frame; everything else is native.
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod books;
mod bucket;
mod config;
mod pinning;
mod route;
mod state;
mod table;
mod verdict;
#[cfg(not(target_arch = "bpf"))]
mod write;

pub use address::Address;
pub use books::{Books, Charge, Devices, Ledger, place_of};
#[cfg(not(target_arch = "bpf"))]
pub use bucket::Store;
pub use bucket::{Rate, Word, charge};
pub use config::{
    Config, Interface, Listener, MAX_INTERFACES, MAX_LISTENER_PORTS, MAX_SHIELDED, MAX_WAYS_IN, NextHop,
};
pub use pinning::{KNOWN_BUCKETS, Pin, Pinning};
pub use route::{Route, RouteFlags, RouteKey, RouteTarget, Slots};
pub use state::{Allocation, Binding, Direction, LEASE_MARGIN_NS, Switch};
pub use table::{BUCKET_WORDS, Bucket, Entry, Lead, Place};
pub use verdict::Verdict;
#[cfg(not(target_arch = "bpf"))]
pub use write::{NoInsert, RouteTable, buckets_for};
