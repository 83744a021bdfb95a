//! Black-box tests of what a hostile network, a careless operator and unusual clients do to the program.
//!
//! ```text
//!   interop's lab and processes ─► server: the program, configured by file ─► talker | raw: who talks to it
//!                                   flood, reflection, shapes, reload, records, clients: the tests
//! ```
//!
//! Like the interoperability tests they need root and are ignored by a plain `cargo test`;
//! `cargo xtask interop` runs them against the release binary.

mod clients;
mod flood;
#[path = "../interop/lab.rs"]
#[allow(dead_code)]
mod lab;
#[path = "../interop/process.rs"]
#[allow(dead_code)]
mod process;
mod raw;
mod records;
mod reflection;
mod reload;
mod server;
mod shapes;
mod talker;
