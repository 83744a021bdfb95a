//! What the path needs to know and to count.

use turnpike_abi::{Allocation, Bucket, Charge, Config, Entry, NextHop, Switch, Verdict, Word};

/// The maps, the clock, and the way out.
pub trait Maps {
    /// A word that both planes write.
    type Word: Word;

    /// The entry of `SWITCH`.
    fn switch(&self) -> Option<&Switch<Self::Word>>;
    /// An entry of `CONFIG`.
    fn config(&self, place: u32) -> Option<&Config>;
    /// An entry of `INDEX`.
    fn bucket(&self, place: u32) -> Option<&Bucket<Self::Word>>;
    /// An entry of `ROUTES`.
    fn entry(&self, place: u32) -> Option<&Entry<Self::Word>>;
    /// An entry of `ALLOCATIONS`.
    fn allocation(&self, slot: u32) -> Option<&Allocation<Self::Word>>;
    /// An entry of `NEXT_HOPS`.
    fn next_hop(&self, slot: u32) -> Option<&NextHop>;
    /// The coarse monotonic clock, nanoseconds; may be two ticks late, never early.
    fn now_ns(&self) -> u64;
    /// A frame, with what it was charged, is going to be redirected to the interface at this place.
    fn queue(&self, place: u32, first: Charge, second: Charge);
    /// The same for one that is sent back by the interface it came in on.
    fn send_back(&self, place: u32, first: Charge, second: Charge);
    /// Adds one to a verdict's count.
    fn count(&self, verdict: Verdict);
}
