//! Who may have how many connections: all together, and each source, so that one of them can't keep the
//! others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::strangers::one_of_its_network;

/// Connections that may still come.
pub struct Slots {
    all: Arc<Semaphore>,
    total: u16,
    per_source: u16,
    /// Sources with connections: never more entries than connections.
    taken: Arc<Mutex<HashMap<IpAddr, u16>>>,
}

/// A connection's place, free again when dropped.
pub struct Slot {
    source: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, u16>>>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// So many in all, and so many for each source.
    pub fn new(total: u16, per_source: u16) -> Self {
        Self { all: Arc::new(Semaphore::new(total.into())), total, per_source, taken: Arc::default() }
    }

    /// A place for a connection, if there is one.
    pub fn take(&self, source: IpAddr) -> Option<Slot> {
        let source = one_of_its_network(source);
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(source).or_default();
        if *count >= self.per_source {
            return None;
        }
        *count += 1;
        Some(Slot { source, taken: Arc::clone(&self.taken), _permit: permit })
    }

    /// Waits until all are free again, for so long.
    pub async fn wait_until_free(&self, patience: Duration) {
        // Whoever needs longer is cut off.
        let _ = timeout(patience, self.all.acquire_many(self.total.into())).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_share_and_no_more() {
        let slots = Slots::new(5, 2);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = slots.take(one).expect("there is room");
        let second = slots.take(one).expect("there is room");
        assert!(slots.take(one).is_none());
        let of_other = slots.take(other).expect("others have theirs");
        drop(first);
        assert!(slots.take(one).is_some());
        drop((second, of_other));
        assert!(slots.taken.lock().expect("nobody panicked").is_empty());
    }

    #[test]
    fn all_together_have_no_more_than_all() {
        let slots = Slots::new(3, 2);
        let taken: Vec<Slot> =
            (1..=5).filter_map(|host| slots.take(IpAddr::from([192, 0, 2, host]))).collect();
        assert_eq!(taken.len(), 3);
        assert_eq!(slots.taken.lock().expect("nobody panicked").len(), 3);
    }
}
