//! What the network tells of this host: its addresses, which come after the start, change, and go, and its public
//! ones.
//!
//! ```text
//!   netlink ─► news ───────┐                                                ┌─► peer policy, relay addresses
//!   names, STUN ─► publics ┴─► control/follow ─► Control::follow_network ───┴─► workers: PolicyChanged
//! ```
//!
//! Whoever waits here only ever waits for the network, on a thread of its own, and nobody waits for it. What follows
//! from an address is decided in `config/resolve`.

mod news;
mod publics;

pub use news::AddressNews;
pub use publics::{Publics, Question};
