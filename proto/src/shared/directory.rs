//! Which worker has the allocation of a 5-tuple, for datagrams that the kernel brings to another one.
//!
//! It does so when the set of sockets that share a listener's address has changed, or the hash it goes by. A stream's
//! connection, and all that comes by it, is one worker's from the beginning: there is nothing to note.
//! Touched when an allocation begins or ends, and by a worker that does not know a 5-tuple itself; never by
//! data that arrives where it should.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::FixedState;

use crate::addr::FiveTuple;
use crate::io::WorkerId;

/// Locks: strangers' datagrams on several workers rarely ask for the same one.
const SHARDS: usize = 64;

/// Entries are as many as allocations, which the workers bound.
pub(crate) struct Directory {
    /// Keyed: clients choose their ports.
    hasher: FixedState,
    shards: Box<[Shard]>,
    workers: AtomicU32,
}

struct Shard {
    /// Lets a miss in an empty shard go without the lock.
    len: AtomicUsize,
    owners: RwLock<HashMap<FiveTuple, WorkerId, FixedState>>,
}

impl Directory {
    /// `seed` must be secret.
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = || FixedState::with_seed(seed);
        let shard =
            || Shard { len: AtomicUsize::new(0), owners: RwLock::new(HashMap::with_hasher(hasher())) };
        Self { hasher: hasher(), shards: (0..SHARDS).map(|_| shard()).collect(), workers: AtomicU32::new(0) }
    }

    /// There is one more worker.
    pub(crate) fn add_worker(&self) {
        self.workers.fetch_add(1, Ordering::Relaxed);
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed) as usize
    }

    /// Notes that `worker` has the 5-tuple's allocation; `false` if another one has.
    pub(crate) fn claim(&self, five_tuple: &FiveTuple, worker: WorkerId) -> bool {
        if five_tuple.transport.is_stream() {
            return true;
        }
        let shard = self.shard(five_tuple);
        let mut owners = write(shard);
        let owner = *owners.entry(*five_tuple).or_insert(worker);
        shard.len.store(owners.len(), Ordering::Relaxed);
        owner == worker
    }

    /// The 5-tuple has no allocation any more.
    pub(crate) fn release(&self, five_tuple: &FiveTuple) {
        if five_tuple.transport.is_stream() {
            return;
        }
        let shard = self.shard(five_tuple);
        let mut owners = write(shard);
        owners.remove(five_tuple);
        if owners.capacity() > SMALL && owners.len() < owners.capacity() / 8 {
            let smaller = owners.capacity() / 4;
            owners.shrink_to(smaller);
        }
        shard.len.store(owners.len(), Ordering::Relaxed);
    }

    /// The other worker that has the 5-tuple's allocation.
    pub(crate) fn other_owner(&self, five_tuple: &FiveTuple, worker: WorkerId) -> Option<WorkerId> {
        if five_tuple.transport.is_stream() || self.workers.load(Ordering::Relaxed) < 2 {
            return None;
        }
        let shard = self.shard(five_tuple);
        if shard.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        read(shard).get(five_tuple).copied().filter(|owner| *owner != worker)
    }

    /// How many 5-tuples there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, five_tuple: &FiveTuple) -> &Shard {
        // The maps use the lower bits of the same hash.
        &self.shards[(self.hasher.hash_one(five_tuple) >> 32) as usize % SHARDS]
    }
}

/// Maps up to this size are kept whatever they hold.
const SMALL: usize = 8;

fn read(shard: &Shard) -> RwLockReadGuard<'_, HashMap<FiveTuple, WorkerId, FixedState>> {
    shard.owners.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &Shard) -> RwLockWriteGuard<'_, HashMap<FiveTuple, WorkerId, FixedState>> {
    shard.owners.write().unwrap_or_else(PoisonError::into_inner)
}
