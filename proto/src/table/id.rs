//! The name of an allocation within its worker, for all that belongs to it.

/// Names an allocation; an old name never means a new allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AllocationId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl AllocationId {
    /// Its place in the table, for a walk.
    pub(crate) fn place(self) -> u32 {
        self.index
    }
}
