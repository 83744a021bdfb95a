//! Fuzzing of the core: what the targets do with their input, without the fuzzer.
//!
//! ```text
//!   bytes ─► wire        parse, compare with a reference, write again
//!         ─► framer      a stream in any pieces, compared with a plain reading of the whole
//!         ─► proxy       headers of the PROXY protocol, whole and in part
//!         ─► frame       an Ethernet frame to the kernel program, built for the host
//!         ─► request     datagrams to two workers, signed so that they get past authentication  ─┐
//!         ─► operations  allocations, permissions, data, time, failures                          ─┼─► world
//!         ─► migrate     snapshots of their state, whole and damaged, adopted by other servers   ─┘
//!
//!   world: a driver without sockets, a kernel without routes ─► shadow: what the answers promised
//!                                                            ─► expect: so what data has to pass
//! ```
//!
//! A target is a module with `run`. The fuzzer's binaries (`proto/fuzz`, a workspace of its own) call it with what they
//! invent, and `proto/tests/fuzz_corpus.rs` with the committed corpora, so every find stays found.
//!
//! It decides what no input may bring about, and what a good one must; which inputs there are is the fuzzer's. Begin
//! with [`operations`], which has the most to check, or with [`wire`], which has the least.

mod choices;
mod expect;
pub mod frame;
pub mod framer;
mod input;
mod kernel;
pub mod migrate;
pub mod operations;
mod people;
pub mod proxy;
mod reference;
pub mod request;
mod shadow;
pub mod wire;
mod world;
