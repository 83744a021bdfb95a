//! Traffic for benchmarks: a sender that makes frames in the kernel, and a sink that counts them there.
//!
//! A relay that forwards in the kernel is faster than sockets can send and receive. The sender runs by
//! BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES; the sink is attached to the interface where the
//! frames have to arrive.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", allow(unsafe_code))]

#[cfg(target_arch = "bpf")]
mod generator;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
