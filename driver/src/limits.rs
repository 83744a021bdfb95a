//! Every bound of the drivers, with its unit and its reason.

/// Listeners per worker: each has buffers of its own in the pool.
pub(crate) const MAX_LISTENERS: usize = 64;
/// Relay sockets per worker: two (one per family) for each of the core's largest number of allocations.
pub(crate) const MAX_RELAY_SOCKETS: usize = 2 * turnpike_proto::limits::MAX_ALLOCATIONS;
/// Relay sockets that have a fixed slot in the ring (io_uring); those beyond work by their descriptor. A slot takes
/// 8 bytes of the kernel's memory.
pub(crate) const FIXED_RELAYS: u32 = 16_384;
