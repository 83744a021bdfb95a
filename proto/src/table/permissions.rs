//! Permissions (RFC 8656 s. 9): one for each allocation and IP address of a peer.

use std::net::IpAddr;

use super::timer::{Expiry, Timed};
use super::{AllocationId, Map, Table, shrink_map};
use crate::limits::{PERMISSION_LIFETIME_SECS, SECOND_NS};

/// The ends of permissions, by the place of the allocation and the peer's address. Which ones an allocation has,
/// it lists itself.
pub(super) type Permissions = Map<(u32, IpAddr), Expiry>;

impl Table {
    /// Creates or refreshes a permission (RFC 8656 s. 9: 300 s, whatever it had).
    pub(crate) fn permit(&mut self, id: AllocationId, ip: IpAddr, now_ns: u64) {
        let ends_ns = now_ns + u64::from(PERMISSION_LIFETIME_SECS) * SECOND_NS;
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        if let Some(expiry) = self.permissions.get_mut(&(id.index, ip)) {
            return expiry.move_to(ends_ns, Timed::Permission(id, ip), &mut self.timers);
        }
        allocation.permitted.push(ip);
        self.permissions.insert((id.index, ip), Expiry::at(ends_ns));
        self.timers.add(ends_ns, Timed::Permission(id, ip));
    }

    /// Whether there is room for permissions to these addresses besides those that exist, with `max` in all.
    pub(crate) fn has_room(&self, id: AllocationId, peers: &[IpAddr], max: usize) -> bool {
        let Some(allocation) = self.get(id) else { return false };
        let is_new = |ip: &IpAddr| !self.permissions.contains_key(&(id.index, *ip));
        let new = peers.iter().enumerate().filter(|(i, ip)| is_new(ip) && !peers[..*i].contains(ip)).count();
        allocation.permitted.len() + new <= max
    }

    #[inline]
    pub(crate) fn has_permission(&self, id: AllocationId, ip: IpAddr, now_ns: u64) -> bool {
        self.permissions.get(&(id.index, ip)).is_some_and(|expiry| expiry.lives(now_ns))
    }

    /// An allocation's permissions with their ends.
    pub(crate) fn permissions(&self, id: AllocationId) -> impl Iterator<Item = (IpAddr, u64)> {
        let ips = self.get(id).map_or(&[][..], |allocation| &allocation.permitted);
        ips.iter().filter_map(move |ip| Some((*ip, self.permissions.get(&(id.index, *ip))?.ends_ns)))
    }

    /// Takes back the permissions that `keep`, which is told their ends, doesn't name, in one pass over them.
    pub(crate) fn retain_permissions(&mut self, id: AllocationId, keep: impl Fn(IpAddr, u64) -> bool) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        allocation.permitted.retain(|&ip| {
            let Some(expiry) = self.permissions.get(&(id.index, ip)).copied() else { return false };
            let stays = keep(ip, expiry.ends_ns);
            if !stays {
                self.permissions.remove(&(id.index, ip));
                self.timers.remove(expiry.timer_ns, Timed::Permission(id, ip));
            }
            stays
        });
        shrink_map(&mut self.permissions);
    }

    /// A permission's timer fired: it goes if its end has come, else the timer is set again.
    pub(super) fn permission_due(&mut self, id: AllocationId, ip: IpAddr, now_ns: u64) {
        let Some(expiry) = self.permissions.get_mut(&(id.index, ip)) else { return };
        if !expiry.is_due(now_ns, Timed::Permission(id, ip), &mut self.timers) {
            return;
        }
        self.permissions.remove(&(id.index, ip));
        if let Some(allocation) = self.allocations.get_mut(id) {
            allocation.permitted.retain(|permitted| *permitted != ip);
        }
        shrink_map(&mut self.permissions);
    }
}
