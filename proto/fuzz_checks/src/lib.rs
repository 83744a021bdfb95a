//! Fuzzing of the core: what the targets do with their input, without the fuzzer.
//!
//! ```text
//!   bytes ─► wire        parse, compare with a reference, write again
//!         ─► framer      a stream in any pieces, compared with a plain reading of the whole
//!         ─► proxy       headers of the PROXY protocol, whole and in part
//!         ─► request     datagrams to two workers, signed so that they get past authentication ─┐
//!         ─► operations  allocations, permissions, data, time, failures                         ─┴─► world
//!
//!   world: a driver without sockets, a kernel without routes ─► shadow: what the answers promised
//!                                                            ─► expect: so what data has to pass
//! ```
//!
//! The fuzzer's binaries call `run` of a module with its input. Ordinary tests include this file
//! and replay the committed corpora (`corpus/`), so every find stays found.

pub mod choices;
pub mod expect;
pub mod framer;
pub mod input;
pub mod kernel;
pub mod operations;
mod people;
pub mod proxy;
pub mod reference;
pub mod request;
pub mod shadow;
pub mod wire;
pub mod world;
