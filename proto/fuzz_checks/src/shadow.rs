//! What clients were promised: kept from the server's answers alone, and asked what data may pass.
//!
//! Knows the lifetimes of RFC 8656 (s. 7.2, 9, 12) and nothing of how the server keeps them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use turnpike_proto::addr::{Family, PeerAddr};
use turnpike_proto::limits::{
    CHANNEL_LIFETIME_SECS, PERMISSION_LIFETIME_SECS, RETRANSMISSION_SECS, SECOND_NS,
};
use turnpike_proto::shared::Shared;

/// A relayed transport address that was granted.
#[derive(Clone, Copy, Debug)]
pub struct Half {
    /// As sockets see it.
    pub local: SocketAddr,
    /// As clients see it.
    pub public: SocketAddr,
    /// Its end, monotonic nanoseconds.
    pub ends_ns: u64,
}

/// What one client holds.
#[derive(Debug, Default)]
pub struct Allocation {
    /// USERNAME of the Allocate.
    pub owner: Vec<u8>,
    /// IPv4 and IPv6.
    pub halves: [Option<Half>; 2],
    /// End of each permission.
    pub permissions: HashMap<IpAddr, u64>,
    /// Peer and end of each channel.
    pub channels: HashMap<u16, (SocketAddr, u64)>,
}

/// What all clients hold.
#[derive(Debug, Default)]
pub struct Shadow {
    allocations: HashMap<usize, Allocation>,
    deletions: Vec<(usize, [u8; 12], u64)>,
}

const fn slot(family: Family) -> usize {
    family as usize - 1
}

impl Allocation {
    /// The relayed address of a family.
    pub fn half(&self, family: Family) -> Option<&Half> {
        self.halves[slot(family)].as_ref()
    }

    /// The channel bound to exactly this peer.
    pub fn channel_to(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.iter().find(|(_, (bound, _))| *bound == peer).map(|(number, _)| *number)
    }

    /// A permission, or a channel to exactly this peer, which outlives its permission (conformance C3).
    pub fn admits(&self, peer: SocketAddr) -> bool {
        self.permissions.contains_key(&peer.ip()) || self.channel_to(peer).is_some()
    }

    fn remove_half(&mut self, family: Family) {
        self.halves[slot(family)] = None;
        self.permissions.retain(|ip, _| Family::of(ip) != family);
        self.channels.retain(|_, (peer, _)| Family::of(&peer.ip()) != family);
    }
}

impl Shadow {
    /// Forgets what has ended.
    pub fn expire(&mut self, now_ns: u64) {
        for allocation in self.allocations.values_mut() {
            for family in [Family::V4, Family::V6] {
                if allocation.half(family).is_some_and(|half| half.ends_ns <= now_ns) {
                    allocation.remove_half(family);
                }
            }
            allocation.permissions.retain(|_, ends_ns| *ends_ns > now_ns);
            allocation.channels.retain(|_, (_, ends_ns)| *ends_ns > now_ns);
        }
        self.forget_empty();
        self.deletions.retain(|(.., ends_ns)| *ends_ns > now_ns);
    }

    /// What a client holds.
    pub fn get(&self, client: usize) -> Option<&Allocation> {
        self.allocations.get(&client)
    }

    /// Everything that is held, with its client.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Allocation)> {
        self.allocations.iter().map(|(client, allocation)| (*client, allocation))
    }

    /// An Allocate has succeeded; `false` if the client had an allocation already.
    pub fn create(&mut self, client: usize, owner: &[u8], halves: &[Half]) -> bool {
        if self.allocations.contains_key(&client) {
            return false;
        }
        let mut allocation = Allocation { owner: owner.to_vec(), ..Allocation::default() };
        for half in halves {
            let place = &mut allocation.halves[slot(Family::of(&half.local.ip()))];
            assert!(place.is_none(), "one relayed address of each family");
            *place = Some(*half);
        }
        self.allocations.insert(client, allocation);
        true
    }

    /// A Refresh has succeeded (RFC 8656 s. 8.2).
    pub fn refresh(&mut self, client: usize, only: Option<Family>, ends_ns: u64) {
        let allocation = self.allocations.get_mut(&client).expect("only an allocation can be refreshed");
        let halves = allocation.halves.iter_mut().flatten();
        let named = halves.filter(|half| only.is_none_or(|only| only == Family::of(&half.local.ip())));
        assert_ne!(named.map(|half| half.ends_ns = ends_ns).count(), 0, "443 if there is no such half");
    }

    /// A Refresh with LIFETIME 0 has succeeded; repeated within 40 s it has no effect (RFC 8489 s. 6.3.1).
    pub fn delete(&mut self, client: usize, transaction: [u8; 12], only: Option<Family>, now_ns: u64) {
        if self.was_deletion(client, transaction) {
            return;
        }
        let ends_ns = now_ns + u64::from(RETRANSMISSION_SECS) * SECOND_NS;
        self.deletions.push((client, transaction, ends_ns));
        let allocation = self.allocations.get_mut(&client).expect("only an allocation can be deleted");
        for family in [Family::V4, Family::V6] {
            if only.is_none_or(|only| only == family) {
                allocation.remove_half(family);
            }
        }
        self.forget_empty();
    }

    /// Whether a transaction deleted something within the last 40 s.
    pub fn was_deletion(&self, client: usize, transaction: [u8; 12]) -> bool {
        self.deletions.iter().any(|(by, id, _)| (*by, *id) == (client, transaction))
    }

    /// A permission was given or refreshed (RFC 8656 s. 9).
    pub fn permit(&mut self, client: usize, ip: IpAddr, now_ns: u64) {
        let allocation = self.allocations.get_mut(&client).expect("permissions belong to an allocation");
        assert!(allocation.half(Family::of(&ip)).is_some(), "443 for the other family");
        allocation.permissions.insert(ip, now_ns + u64::from(PERMISSION_LIFETIME_SECS) * SECOND_NS);
    }

    /// A channel was bound or refreshed (RFC 8656 s. 12.2).
    pub fn bind(&mut self, client: usize, number: u16, peer: SocketAddr, now_ns: u64) {
        self.permit(client, peer.ip(), now_ns);
        let allocation = self.allocations.get_mut(&client).expect("channels belong to an allocation");
        let by_number = allocation.channels.get(&number).map(|(bound, _)| *bound);
        assert!(by_number.is_none_or(|bound| bound == peer), "the channel is another peer's");
        assert!(allocation.channel_to(peer).is_none_or(|bound| bound == number), "the peer has another");
        allocation.channels.insert(number, (peer, now_ns + u64::from(CHANNEL_LIFETIME_SECS) * SECOND_NS));
    }

    /// A stricter policy takes back what it wouldn't give.
    pub fn revoke(&mut self, shared: &Shared) {
        let policy = shared.policy();
        for allocation in self.allocations.values_mut() {
            allocation.permissions.retain(|ip, _| policy.check_ip(*ip).is_ok());
            allocation.channels.retain(|_, (peer, _)| shared.may_be_peer(PeerAddr(*peer)));
        }
    }

    /// The operator has ended it.
    pub fn remove(&mut self, client: usize) {
        self.allocations.remove(&client);
    }

    /// The server has stopped.
    pub fn clear(&mut self) {
        self.allocations.clear();
    }

    fn forget_empty(&mut self) {
        self.allocations.retain(|_, allocation| allocation.halves.iter().any(Option::is_some));
    }
}
