//! The leaf that the kernel plane and the userspace plane share.
//!
//! It decides the *names* of what can happen to a packet ([`Verdict`]) and how a
//! bandwidth limit is charged (`bucket`). It knows no packet format, no table and
//! no operating system, allocates nothing, and builds without `std`, so that the
//! same code is compiled into the relay and into the eBPF object.
#![no_std]
#![forbid(unsafe_code)]

mod bucket;
mod verdict;

pub use bucket::{Rate, Word, charge};
pub use verdict::Verdict;
