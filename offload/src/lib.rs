//! The kernel fast path, seen from userspace.
//!
//! The program forwards what its maps say and passes everything else up, so the maps are a cache of
//! the core's table that may always be empty. Here is what fills and watches them:
//!
//! ```text
//!   workers ─► hub ─► service ─► mirror ─► maps ◄─ leases, limits, counters (the core itself)
//!                       ▲          ▲  └─ routes, nexthop: what should be in them
//!              netlink ─┴─ choose ─┘ layers: which device an interface is on top of
//! ```
//!
//! [`features`] says what devices can send, `losses` judges what became of what they were given, [`drivers`] and
//! [`refusal`] say why one does not take the program and what to type, `effect` notices when nothing comes of it all.
//!
//! [`service`] has the thread, `mirror` is the only one to write routes and next hops, `choose` and
//! [`probe`] decide about interfaces, [`xdp`] loads the program. The core shares the slots' memory with the
//! program directly, so nobody has to be told of what is renewed or revoked.
//!
//! Nothing is pinned: when the process ends, however it ends, its programs and maps are gone. But for a service manager
//! that keeps the links to the interfaces until the next process ([`link`]): that one puts its program in place of the
//! old one, which has nothing to forward by then.
//!
//! It decides about interfaces, routes and next hops, and nothing about TURN: what a binding is and how long it
//! lives is the core's. Begin with [`Offload::start`], and give each worker its [`Outbox`].

pub mod choose;
pub mod drivers;
mod effect;
pub mod ethtool;
pub mod features;
pub mod hub;
pub mod layers;
pub mod limits;
pub mod link;
mod losses;
mod mapped;
pub mod maps;
mod mirror;
pub mod netlink;
mod nexthop;
pub mod pinning;
pub mod probe;
pub mod refusal;
pub mod routes;
pub mod rss;
pub mod service;
pub mod status;
pub mod trial;
pub mod xdp;

pub use choose::{Wishes, sizes};
pub use hub::{Answer, Outbox};
pub use losses::Sent;
pub use mapped::{Grace, Mapped};
pub use service::{Offload, Settings};
pub use status::{InterfaceStatus, OffloadStatus, StatusCell};
