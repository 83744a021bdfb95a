//! Who may have how many connections: all together, and each source, so that one of them can't keep the
//! others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::strangers::one_of_its_network;

/// How many connections there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Of all sources together.
    pub total: u16,
    /// Of these, for loopback only: whoever sits at the machine gets in.
    pub kept_for_loopback: u16,
    /// Of one source: an IPv4 address, or an IPv6 /64.
    pub per_source: u16,
    /// Of one loopback address, behind which a proxy may be.
    pub per_loopback: u16,
}

/// Connections that may still come.
pub struct Slots {
    all: Arc<Semaphore>,
    shares: Shares,
    /// Sources with connections: never more entries than connections.
    taken: Arc<Mutex<HashMap<IpAddr, u16>>>,
}

/// A connection's place, free again when dropped.
pub struct Slot {
    source: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, u16>>>,
    _permit: OwnedSemaphorePermit,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// All together have what they may.
    Total,
    /// This source has its share already.
    Source,
}

impl Slots {
    /// So many, for so many.
    pub fn new(shares: Shares) -> Self {
        Self { all: Arc::new(Semaphore::new(shares.total.into())), shares, taken: Arc::default() }
    }

    /// A place for a connection, if there is one.
    pub fn take(&self, source: IpAddr) -> Result<Slot, NoSlot> {
        let is_loopback = source.to_canonical().is_loopback();
        let (kept, share) = match is_loopback {
            true => (0, self.shares.per_loopback),
            false => (self.shares.kept_for_loopback, self.shares.per_source),
        };
        let source = one_of_its_network(source);
        // Only one thread takes: what is there doesn't become less meanwhile.
        if self.all.available_permits() <= kept.into() {
            return Err(NoSlot::Total);
        }
        let permit = Arc::clone(&self.all).try_acquire_owned().map_err(|_| NoSlot::Total)?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(source).or_default();
        if *count >= share {
            return Err(NoSlot::Source);
        }
        *count += 1;
        Ok(Slot { source, taken: Arc::clone(&self.taken), _permit: permit })
    }

    /// Waits until all are free again, for so long.
    pub async fn wait_until_free(&self, patience: Duration) {
        // Whoever needs longer is cut off.
        let _ = timeout(patience, self.all.acquire_many(self.shares.total.into())).await;
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

    const SHARES: Shares = Shares { total: 5, kept_for_loopback: 0, per_source: 2, per_loopback: 4 };

    fn host(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_source_has_its_share_and_no_more() {
        let slots = Slots::new(SHARES);
        let first = slots.take(host(1)).expect("there is room");
        let second = slots.take(host(1)).expect("there is room");
        assert_eq!(slots.take(host(1)).err(), Some(NoSlot::Source));
        let of_other = slots.take(host(2)).expect("others have theirs");
        drop(first);
        assert!(slots.take(host(1)).is_ok());
        drop((second, of_other));
        assert!(slots.taken.lock().expect("nobody panicked").is_empty());
    }

    #[test]
    fn all_together_have_no_more_than_all() {
        let slots = Slots::new(Shares { total: 3, ..SHARES });
        let taken: Vec<_> = (1..=5).map(|last| slots.take(host(last))).collect();
        assert_eq!(taken.iter().filter(|slot| slot.is_ok()).count(), 3);
        assert_eq!(taken[4].as_ref().err(), Some(&NoSlot::Total));
        assert_eq!(slots.taken.lock().expect("nobody panicked").len(), 3);
    }

    #[test]
    fn five_sources_that_take_what_they_can_leave_room_for_others_and_for_loopback() {
        let slots = Slots::new(crate::server::LIMITS.connections);
        let of_five: Vec<_> = (0..2000).filter_map(|n| slots.take(host(n as u8 % 5)).ok()).collect();
        let other = slots.take(host(100)).expect("a sixth source has its share");
        let of_many: Vec<_> = (0..2000)
            .filter_map(|n: u32| slots.take(IpAddr::from(std::net::Ipv4Addr::from_bits(n << 8))).ok())
            .collect();
        assert_eq!(slots.take(host(101)).err(), Some(NoSlot::Total));
        let local = ["127.0.0.1", "::1", "::ffff:127.0.0.1"].map(|ip| ip.parse().expect("an address"));
        let local: Vec<_> = local.into_iter().map(|ip| slots.take(ip)).collect();
        assert!(local.iter().all(Result::is_ok), "some are kept for whoever sits at the machine");
        drop((of_five, other, of_many));
    }
}
