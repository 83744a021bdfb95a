//! Follows the host's addresses: they come after the start, change, and go.
//!
//! ```text
//!   netlink ─► follow ┐                                     ┌─► peer policy, relay addresses
//!   names, STUN ─► publics ─► Control::follow_network ──────┴─► workers: PolicyChanged
//! ```
//!
//! Both threads only ever wait for the network, and nobody waits for them. What follows from an address is decided
//! in `config/resolve`.

mod follow;
mod publics;

pub use follow::{AddressNews, follow};
pub use publics::Publics;
