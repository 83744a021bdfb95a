//! Keeps each client on its worker, and strangers out of its queue: chooses the socket of a listener that gets a datagram.
//!
//! The kernel's own choice among sockets that share a port moves clients whenever a socket comes or goes,
//! and their allocations are on the worker they came from. Which slot a client has is decided in
//! `turnpike-abi`, where userspace can compute it too.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", allow(unsafe_code))]

#[cfg(target_arch = "bpf")]
mod select;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
