//! From what a turn wants sent to as few system calls as possible: `batch` decides what travels together, `queue`
//! makes the kernel's structures of it and sends, `refusals` remembers who takes no joined datagrams.

pub mod batch;
pub(crate) mod queue;
pub(crate) mod refusals;
