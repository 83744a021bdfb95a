//! Connections with peers (RFC 6062): each found by its name, and by allocation and peer.

use std::collections::VecDeque;

use foldhash::fast::FixedState;

use super::timer::{Expiry, Timed};
use super::{AllocationId, Map, Table, shrink_map};
use crate::addr::PeerAddr;
use crate::io::ConnectionId;
use crate::limits::{CONNECTION_WAIT_SECS, MAX_ENDED_CONNECTIONS, SECOND_NS};
use crate::wire::ReplyTo;

/// How far a connection has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConnectionState {
    /// It is being made; the Connect that asked for it is not answered yet.
    Connecting(ReplyTo),
    /// It waits for a ConnectionBind.
    Unbound,
    /// It carries data.
    Bound,
}

/// A connection with a peer.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) allocation: AllocationId,
    pub(super) peer: PeerAddr,
    pub(super) state: ConnectionState,
    pub(super) expiry: Expiry,
}

impl Connection {
    pub(crate) fn allocation(&self) -> AllocationId {
        self.allocation
    }

    pub(crate) fn peer(&self) -> PeerAddr {
        self.peer
    }

    pub(crate) fn state(&self) -> ConnectionState {
        self.state
    }

    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.state, ConnectionState::Bound)
    }
}

/// The connections with peers of one worker.
pub(super) struct Connections {
    pub(super) by_id: Map<ConnectionId, Connection>,
    pub(super) by_peer: Map<(AllocationId, PeerAddr), ConnectionId>,
    pub(super) bound: usize,
    /// The last names whose connections have ended: a client may still use them.
    pub(super) ended: VecDeque<ConnectionId>,
}

impl Connections {
    pub(super) fn new(hasher: &FixedState) -> Self {
        let (by_id, by_peer) = (Map::with_hasher(hasher.clone()), Map::with_hasher(hasher.clone()));
        Self { by_id, by_peer, bound: 0, ended: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn bound(&self) -> usize {
        self.bound
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.by_id.remove(&id)?;
        let by_peer = (connection.allocation, connection.peer);
        if self.by_peer.get(&by_peer) == Some(&id) {
            self.by_peer.remove(&by_peer);
        }
        self.bound -= usize::from(connection.is_bound());
        if self.ended.len() >= MAX_ENDED_CONNECTIONS {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
        shrink_map(&mut self.by_id);
        shrink_map(&mut self.by_peer);
        Some(connection)
    }
}

impl Table {
    /// Whether a name means a connection, or meant one until lately.
    pub(crate) fn is_connection_known(&self, id: ConnectionId) -> bool {
        self.connections.by_id.contains_key(&id) || self.connections.ended.contains(&id)
    }

    /// Adds a connection, which has its time from now to get on.
    pub(crate) fn add_connection(
        &mut self,
        id: ConnectionId,
        allocation: AllocationId,
        peer: PeerAddr,
        state: ConnectionState,
        now_ns: u64,
    ) {
        let Some(owner) = self.allocations.get_mut(allocation) else { return };
        owner.connections.push(id);
        let expiry = Expiry::at(now_ns + WAIT_NS);
        self.timers.add(expiry.timer_ns, Timed::Connection(id));
        self.connections.by_peer.insert((allocation, peer), id);
        self.connections.by_id.insert(id, Connection { allocation, peer, state, expiry });
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.by_id.get(&id)
    }

    /// Whether an allocation has a connection with a peer, or makes one.
    pub(crate) fn is_connected(&self, allocation: AllocationId, peer: PeerAddr) -> bool {
        self.connections.by_peer.contains_key(&(allocation, peer))
    }

    /// How many of an allocation's connections carry no data yet.
    pub(crate) fn unbound_connections(&self, allocation: AllocationId) -> usize {
        let ids = self.get(allocation).map_or(&[][..], |allocation| allocation.connections());
        ids.iter().filter(|id| self.connection(**id).is_some_and(|connection| !connection.is_bound())).count()
    }

    /// All connections of this worker.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// It is made, and waits for a ConnectionBind.
    pub(crate) fn set_connected(&mut self, id: ConnectionId, now_ns: u64) {
        let Some(connection) = self.connections.by_id.get_mut(&id) else { return };
        connection.state = ConnectionState::Unbound;
        connection.expiry.move_to(now_ns + WAIT_NS, Timed::Connection(id), &mut self.timers);
    }

    /// It carries data from now on, as long as its allocation lives.
    pub(crate) fn set_bound(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.by_id.get_mut(&id) else { return };
        self.timers.remove(connection.expiry.timer_ns, Timed::Connection(id));
        connection.expiry = Expiry::NEVER;
        self.connections.bound += usize::from(!connection.is_bound());
        connection.state = ConnectionState::Bound;
    }

    /// Takes a connection away that is over, or has to be.
    pub(crate) fn remove_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(id)?;
        self.timers.remove(connection.expiry.timer_ns, Timed::Connection(id));
        if let Some(allocation) = self.allocations.get_mut(connection.allocation) {
            allocation.connections.retain(|known| *known != id);
        }
        Some(connection)
    }

    /// Takes away those of an allocation's connections whose peers `keep` doesn't name.
    pub(crate) fn retain_connections(
        &mut self,
        allocation: AllocationId,
        keep: impl Fn(PeerAddr) -> bool,
    ) -> Vec<ConnectionId> {
        let Some(owner) = self.get(allocation).filter(|owner| !owner.connections().is_empty()) else {
            return Vec::new();
        };
        let is_gone = |id: &ConnectionId| self.connection(*id).is_some_and(|known| !keep(known.peer()));
        let gone: Vec<ConnectionId> = owner.connections().iter().copied().filter(is_gone).collect();
        for id in &gone {
            self.remove_connection(*id);
        }
        gone
    }

    /// A connection's timer fired: `true` if it has not come further in time, else the timer is set again.
    pub(super) fn connection_due(&mut self, id: ConnectionId, now_ns: u64) -> bool {
        let connection = self.connections.by_id.get_mut(&id);
        connection.is_some_and(|it| it.expiry.is_due(now_ns, Timed::Connection(id), &mut self.timers))
    }
}

const WAIT_NS: u64 = CONNECTION_WAIT_SECS as u64 * SECOND_NS;
