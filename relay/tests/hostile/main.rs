//! Black-box tests of what a hostile network, a careless operator and unusual clients do to the program.
//!
//! ```text
//!   testkit's lab and processes ─► server, stream_server: the program ─► talker | raw: who talks to it
//!                                   flood, reflection, shapes, pause, refusals, reload, records, clients,
//!                                   standstill, addresses, descriptors, ending, streams, strangers: the tests
//! ```
//!
//! Like the interoperability tests they need root and are ignored by a plain `cargo test`;
//! `cargo xtask interop` runs them against the release binary.

mod addresses;
mod clients;
mod descriptors;
mod ending;
mod flood;
mod pause;
mod raw;
mod records;
mod reflection;
mod refusals;
mod reload;
mod server;
mod shapes;
mod standstill;
mod strangers;
mod stream_server;
mod streams;

use turnpike_testkit::{lab, process, talker};
