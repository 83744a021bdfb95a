//! The refusals that a worker remembers for whoever asks why calls fail.
//!
//! Equal ones are one entry with a count. The memory is bounded, and no source takes more than its share of
//! it: whoever guesses names pushes nobody else's refusals out.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnpike_proto::{Now, Refusal, RefusalReason, RefusedRequest};

use crate::limits::{MAX_RECENT_REFUSALS, MAX_RECENT_REFUSALS_OF_SOURCE};

/// What makes refusals equal.
type Key = (IpAddr, Option<Arc<str>>, u16, RefusalReason);

/// Equal refusals of one source.
#[derive(Clone, Debug)]
pub struct RecentRefusal {
    /// The latest of them.
    pub request: RefusedRequest,
    /// The first, seconds since 1970.
    pub first_unix_secs: u64,
    /// The latest, seconds since 1970.
    pub last_unix_secs: u64,
    /// How many there were.
    pub count: u64,
    /// Puts those of the same second in order.
    serial: u64,
}

/// A worker's latest refusals.
#[derive(Debug, Default)]
pub(crate) struct RecentRefusals {
    entries: HashMap<Key, RecentRefusal>,
    serial: u64,
    changed: bool,
}

impl RecentRefusal {
    /// One that came just now.
    pub(crate) fn one(request: RefusedRequest, unix_secs: u64) -> Self {
        Self { request, first_unix_secs: unix_secs, last_unix_secs: unix_secs, count: 1, serial: 0 }
    }
}

impl RecentRefusals {
    /// Remembers one.
    pub(crate) fn add(&mut self, now: Now, request: &RefusedRequest) {
        (self.serial, self.changed) = (self.serial + 1, true);
        let key = key(request);
        if let Some(known) = self.entries.get_mut(&key) {
            known.request.client = request.client;
            known.request.refusal = request.refusal;
            known.last_unix_secs = now.unix_secs;
            known.count += 1;
            known.serial = self.serial;
            return;
        }
        self.make_room(key.0);
        let entry = RecentRefusal::one(request.clone(), now.unix_secs);
        self.entries.insert(key, RecentRefusal { serial: self.serial, ..entry });
    }

    /// All of them, if any has come since this was asked last.
    pub(crate) fn take_changed(&mut self) -> Option<Vec<RecentRefusal>> {
        std::mem::take(&mut self.changed).then(|| self.entries.values().cloned().collect())
    }

    /// Forgets the oldest: of the source itself, if it has its share.
    fn make_room(&mut self, source: IpAddr) {
        let own = self.entries.keys().filter(|key| key.0 == source).count();
        let is_candidate = |key: &&Key| match own < MAX_RECENT_REFUSALS_OF_SOURCE {
            true => self.entries.len() >= MAX_RECENT_REFUSALS,
            false => key.0 == source,
        };
        let oldest =
            self.entries.iter().filter(|(key, _)| is_candidate(key)).min_by_key(|(_, entry)| entry.serial);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.entries.remove(&key);
        }
    }
}

/// All workers' refusals, the latest first, at most `limit`; those of a source that came to several workers
/// are one.
pub(crate) fn merged(
    workers: impl IntoIterator<Item = Arc<Vec<RecentRefusal>>>,
    limit: usize,
) -> Vec<RecentRefusal> {
    let mut all: HashMap<Key, RecentRefusal> = HashMap::new();
    for entry in workers.into_iter().flat_map(|worker| worker.to_vec()) {
        let known = all.entry(key(&entry.request));
        known
            .and_modify(|known| {
                known.first_unix_secs = known.first_unix_secs.min(entry.first_unix_secs);
                known.count += entry.count;
                if entry.last_unix_secs >= known.last_unix_secs {
                    known.request = entry.request.clone();
                    known.last_unix_secs = entry.last_unix_secs;
                    known.serial = entry.serial;
                }
            })
            .or_insert(entry);
    }
    let mut list: Vec<RecentRefusal> = all.into_values().collect();
    list.sort_unstable_by_key(|entry| std::cmp::Reverse((entry.last_unix_secs, entry.serial)));
    list.truncate(limit);
    list
}

fn key(RefusedRequest { client, method, user, refusal: Refusal { reason, .. } }: &RefusedRequest) -> Key {
    (SocketAddr::ip(client), user.clone(), *method, *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(client: &str, user: &str) -> RefusedRequest {
        RefusedRequest {
            client: client.parse().expect("an address"),
            method: 3,
            user: Some(user.into()),
            refusal: RefusalReason::WrongKey.into(),
        }
    }

    fn at(unix_secs: u64) -> Now {
        Now { mono_ns: unix_secs * 1_000_000_000, unix_secs }
    }

    #[test]
    fn equal_refusals_are_one_with_a_count() {
        let mut recent = RecentRefusals::default();
        recent.add(at(10), &request("192.0.2.1:1", "alice"));
        recent.add(at(12), &request("192.0.2.1:2", "alice"));
        recent.add(at(11), &request("192.0.2.1:1", "bob"));
        let list = merged([Arc::new(recent.take_changed().expect("something came"))], 10);
        assert!(recent.take_changed().is_none(), "nothing since");
        let alice = &list[0];
        assert_eq!((list.len(), alice.count, alice.first_unix_secs, alice.last_unix_secs), (2, 2, 10, 12));
        assert_eq!(alice.request.client.port(), 2, "the latest");
    }

    #[test]
    fn a_source_that_guesses_names_pushes_nobody_else_out() {
        let mut recent = RecentRefusals::default();
        recent.add(at(1), &request("192.0.2.1:1", "alice"));
        for guess in 0..10_000 {
            recent.add(at(2), &request("192.0.2.66:1", &format!("guess{guess}")));
        }
        assert_eq!(recent.entries.len(), 1 + MAX_RECENT_REFUSALS_OF_SOURCE);
        for host in 0..10_000_u32 {
            recent.add(at(3), &request(&format!("10.0.{}.{}:1", host / 256, host % 256), "x"));
        }
        assert_eq!(recent.entries.len(), MAX_RECENT_REFUSALS);
    }

    #[test]
    fn a_source_on_two_workers_is_one() {
        let worker = |secs| {
            let mut recent = RecentRefusals::default();
            recent.add(at(secs), &request("192.0.2.1:1", "alice"));
            Arc::new(recent.take_changed().expect("something came"))
        };
        let list = merged([worker(5), worker(3)], 10);
        assert_eq!(
            (list.len(), list[0].count, list[0].first_unix_secs, list[0].last_unix_secs),
            (1, 2, 3, 5)
        );
    }
}
