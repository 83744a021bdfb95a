//! The XDP program: gives the path its frame, its maps and its clock. All decisions are in the library.
//!
//! Only the eBPF target has anything here; on the host this is an empty program, so that ordinary
//! builds and lints see the whole package.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, unsafe_code),
    feature(core_intrinsics, asm_experimental_arch)
)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
