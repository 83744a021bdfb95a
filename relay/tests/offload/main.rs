//! The kernel data path with real sockets: the program itself in network namespaces, forwarding by XDP.
//!
//! ```text
//!   testkit's lab, processes, talker ─► server: the program on both interfaces of its namespace
//!                                  ├─ forwarding, life, limits, load, routed, stall, fate, effect, refused, restart, capacity, administration: the tests
//!                                  ├─ reach: the same on network cards, in a virtual machine (cargo xtask kernels)
//!                                  └─ call: an allocation with a channel, and its peer
//! ```
//!
//! They need root and are ignored by a plain `cargo test`; `cargo xtask offload` runs them against the
//! release binary. Interfaces are `veth`, in native mode: a sender has to compute checksums itself
//! (`ethtool -K DEV tx off`), and a receiver without a program of its own needs GRO.

mod administration;
mod capacity;
mod effect;
mod fate;
mod forwarding;
mod life;
mod limits;
mod load;
mod reach;
mod refused;
mod restart;
mod routed;
mod server;
mod stall;

use turnpike_testkit::{call, http, lab, process, talker, uclient};
