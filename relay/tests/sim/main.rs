//! The whole relay minus sockets, on a simulated network in virtual time.
//!
//! ```text
//!   seeds: which runs ─► world: network, workers, clients, peers, the clock
//!                          ├─ client: a TURN client with retransmission and upkeep
//!                          └─ ledger: what was sent to whom, and whether exactly that arrives
//! ```
//!
//! Everything random comes from one seed, which is printed when a test fails;
//! `TURNPIKE_SIM_SEED=… cargo test --test sim` runs that one again.

mod abuse;
mod addresses;
mod calls;
mod churn;
mod client;
mod commands;
mod crowd;
mod expiry;
mod handover;
mod ledger;
mod liveness;
mod ports;
mod proxied;
mod seeds;
mod world;
