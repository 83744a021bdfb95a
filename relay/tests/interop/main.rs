//! Black-box tests: the program itself, real clients, network namespaces.
//!
//! ```text
//!   lab: namespaces ─► relay: the server ─► uclient | client | stun: who talks to it
//!                                           load, refusals, addresses, startup, streams, fronts, clients, workers,
//!                                           tcp_relay
//! ```
//!
//! They need root, iproute2 and coturn's clients, so they are ignored by a plain `cargo test`;
//! `cargo xtask interop` runs them against the release binary. A test that can't run here says
//! `SKIPPED:` on the terminal, and fails if the environment has `CI=true`.

mod addresses;
mod client;
mod clients;
mod fronts;
mod load;
mod refusals;
mod relay;
mod startup;
mod streams;
mod stun;
mod tcp_relay;
mod workers;

use turnpike_testkit::{lab, process, uclient};
