//! Wraps the XDP program for benchmarks; never attached to an interface.
//!
//! BPF_PROG_TEST_RUN repeats a program on one packet and doesn't restore it in between. This program
//! does: it writes the original headers back, optionally for another of many flows, and calls the
//! program under test. What it costs itself is measured by letting it call `nothing`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", allow(unsafe_code), feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod wrapper;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
