//! What the path needs to know and to count.

use turnpike_abi::{Allocation, Binding, Config, NextHop, Route, RouteKey, Verdict, Word};

/// The maps, the clock, and the way out.
pub trait Maps {
    /// A word that both planes write.
    type Word: Word;

    /// The configuration, if there is one.
    fn config(&self) -> Option<&Config>;
    /// An entry of `ROUTES`.
    fn route(&self, key: &RouteKey) -> Option<&Route>;
    /// An entry of `BINDINGS`.
    fn binding(&self, slot: u32) -> Option<&Binding<Self::Word>>;
    /// An entry of `ALLOCATIONS`.
    fn allocation(&self, slot: u32) -> Option<&Allocation<Self::Word>>;
    /// An entry of `NEXT_HOPS`.
    fn next_hop(&self, slot: u32) -> Option<&NextHop>;
    /// The coarse monotonic clock, nanoseconds; may be two ticks late, never early.
    fn now_ns(&self) -> u64;
    /// Adds one to a verdict's count.
    fn count(&self, verdict: Verdict);
}
