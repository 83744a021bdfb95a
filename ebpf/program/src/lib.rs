//! The kernel fast path, as a pure function of a frame and some maps.
//!
//! It forwards ChannelData to peers, and peers' datagrams as ChannelData, between all families, for
//! routes that userspace has put into its maps. It creates nothing, remembers nothing and answers
//! nothing: whatever it is not sure of goes up to userspace, unchanged and uncharged.
//!
//! ```text
//!   parse ─► ours? ─► sane? ─► classify ─► look up ─► leases ─► next hop, MTU ─► room  | PASS up to here
//!                                                                                 │
//!                                       redirect ◄─ rewrite ◄─ count ◄─ bucket ◄──┘  | DROP from here on
//! ```
//!
//! Invariant: XDP runs before the network stack's own checks, so everything that the stack would
//! refuse is passed to it.
//! Invariant: a frame is dropped only for its allocation's bandwidth limit, for a fault that is counted by name, or
//! where userspace would do nothing but drop it: garbage at a listener.
//!
//! The same code runs on the host, where its tests are, and in the kernel, where `main.rs` gives it
//! the frame and the maps.
#![no_std]
#![forbid(unsafe_code)]

mod forward;
mod frame;
mod maps;
mod packet;
mod rewrite;

pub use forward::{Action, handle};
pub use frame::Frame;
pub use maps::Maps;
