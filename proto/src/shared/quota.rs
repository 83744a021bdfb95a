//! How many allocations a user, and everybody together, may hold.
//!
//! Counted exactly across workers; a [`QuotaGuard`] is given back by dropping it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The quotas and what is used of them. Zero means no limit.
#[derive(Debug, Default)]
pub struct Quotas {
    per_user: AtomicU32,
    total: AtomicU32,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    total: u32,
    by_user: HashMap<Arc<str>, u32>,
}

impl Quotas {
    /// Quotas of allocations per user and in total; 0 is no limit.
    pub fn new(per_user: u32, total: u32) -> Arc<Self> {
        Arc::new(Self { per_user: per_user.into(), total: total.into(), used: Mutex::default() })
    }

    /// Changes the limits; what is held already stays.
    pub fn set_limits(&self, per_user: u32, total: u32) {
        self.per_user.store(per_user, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Takes one allocation's place. `own` is this user's quota, if it is not everybody's.
    ///
    /// # Errors
    /// If the user or everybody together has no more.
    pub fn take(self: &Arc<Self>, user: &Arc<str>, own: Option<u32>) -> Result<QuotaGuard, QuotaFull> {
        let per_user = own.unwrap_or_else(|| self.per_user.load(Ordering::Relaxed));
        let total = self.total.load(Ordering::Relaxed);
        let mut used = self.lock();
        let mine = used.by_user.get(user).copied().unwrap_or(0);
        if per_user != 0 && mine >= per_user {
            return Err(QuotaFull { whose: QuotaOf::User, used: mine, limit: per_user });
        }
        if total != 0 && used.total >= total {
            return Err(QuotaFull { whose: QuotaOf::Everybody, used: used.total, limit: total });
        }
        used.total += 1;
        used.by_user.insert(Arc::clone(user), mine + 1);
        Ok(QuotaGuard { quotas: Arc::clone(self), user: Arc::clone(user) })
    }

    /// Takes a place for an allocation that was there before the quotas: what is held stays.
    pub(crate) fn hold(self: &Arc<Self>, user: &Arc<str>) -> QuotaGuard {
        let mut used = self.lock();
        used.total += 1;
        *used.by_user.entry(Arc::clone(user)).or_default() += 1;
        QuotaGuard { quotas: Arc::clone(self), user: Arc::clone(user) }
    }

    /// Allocations held by everybody together.
    pub fn used(&self) -> u32 {
        self.lock().total
    }

    /// Users that hold at least one allocation.
    pub fn users(&self) -> usize {
        self.lock().by_user.len()
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        // A panic elsewhere can't have left the counts half-changed: each change is two additions.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A quota that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaFull {
    /// Whether it is the user's own or everybody's.
    pub whose: QuotaOf,
    /// Allocations held.
    pub used: u32,
    /// Allocations allowed.
    pub limit: u32,
}

/// Whom a quota is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaOf {
    /// One user.
    User,
    /// All users together.
    Everybody,
}

/// One allocation's place in the quotas.
#[derive(Debug)]
pub struct QuotaGuard {
    quotas: Arc<Quotas>,
    user: Arc<str>,
}

impl Drop for QuotaGuard {
    fn drop(&mut self) {
        let mut used = self.quotas.lock();
        used.total -= 1;
        if let Some(count) = used.by_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                used.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Conformance A9, Q8
    #[test]
    fn a9_counts_per_user_and_in_total_and_forgets_users_without_allocations() {
        let quotas = Quotas::new(2, 3);
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        let first = quotas.take(&alice, None);
        let _second = quotas.take(&alice, None).expect("two are allowed");
        assert!(first.is_ok() && quotas.take(&alice, None).is_err(), "a third is not");
        let third = quotas.take(&bob, None).expect("bob has his own");
        assert!(
            quotas.take(&bob, None).is_err_and(|full| full.whose == QuotaOf::Everybody),
            "three in total"
        );
        drop(first);
        assert!(quotas.take(&alice, None).is_ok());
        drop(third);
        assert_eq!((quotas.used(), quotas.users()), (1, 1));
    }

    #[test]
    fn a9_a_users_own_quota_replaces_everybodys() {
        let quotas = Quotas::new(1, 4);
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        let _first = quotas.take(&alice, Some(2)).expect("the first of two");
        let _second = quotas.take(&alice, Some(2)).expect("the second of two");
        let full = quotas.take(&alice, Some(2)).expect_err("two of two");
        assert_eq!(full, QuotaFull { whose: QuotaOf::User, used: 2, limit: 2 });
        let _free: Vec<_> = (0..2).map(|_| quotas.take(&bob, Some(0)).expect("no limit")).collect();
        assert!(quotas.take(&bob, Some(0)).is_err(), "the total holds for everybody");
    }
}
