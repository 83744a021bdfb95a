//! Relaying TCP (RFC 6062): connections with peers, from either side, and the clients' connections that they are bound
//! to.
//!
//! ```text
//!   Connect ─► Output::Connect ─► PeerConnected ─► success ┐
//!                             └─► PeerConnectFailed ─► 447 ├─► ConnectionBind ─► Output::Bind
//!   a peer connects ─► admit_peer ─► ConnectionAttempt ────┘
//! ```
//!
//! A ConnectionBind comes by a connection of its own, so perhaps to another worker: the name says whose it is, and that
//! one gets the connection (`Output::HandOver`). Bytes never come here; [`Server::allowance`] says how many may be
//! carried, and [`Server::count_stream`] counts them.

use rand_chacha::rand_core::RngCore;

use super::{Request, Server};
use crate::addr::{Family, PeerAddr, RelayedTransport};
use crate::io::{ClientPath, ConnectionId, Now, Output, RelaySocket, Way, WorkerId};
use crate::limits::{MAX_CONNECTIONS, MAX_CONNECTIONS_PER_ALLOCATION, MAX_UNBOUND_PER_ALLOCATION, SECOND_NS};
use crate::refusal::{Refusal, RefusalReason};
use crate::stats::{ConnectionEvent, TcpRelayCounts};
use crate::table::{AllocationId, ConnectionState};
use crate::wire::{Message, MessageBuilder, ReplyTo, attr, method};

/// With the bandwidth limit used up a stream's way is looked at again after a part of the burst, at least.
const LONGEST_PAUSE_NS: u64 = SECOND_NS / 20;
const SHORTEST_PAUSE_NS: u64 = SECOND_NS / 200;

impl Server {
    /// What an Allocate wants relayed (RFC 6062 s. 5.1).
    pub(super) fn asked_transport(&self, request: &Request<'_>) -> Result<RelayedTransport, RefusalReason> {
        let message = request.message;
        let relayed = match message.requested_transport() {
            Some(Ok(number)) => RelayedTransport::from_protocol(number),
            Some(Err(_)) | None => return Err(RefusalReason::Malformed),
        };
        match relayed {
            Some(RelayedTransport::Udp) => Ok(RelayedTransport::Udp),
            Some(RelayedTransport::Tcp) if self.shared.config.tcp_relay => {
                if !request.sender.path.five_tuple.transport.is_stream() {
                    return Err(RefusalReason::StreamNeeded);
                }
                let of_datagrams = [attr::EVEN_PORT, attr::RESERVATION_TOKEN, attr::DONT_FRAGMENT];
                match of_datagrams.iter().any(|kind| message.has(*kind)) {
                    true => Err(RefusalReason::Malformed),
                    false => Ok(RelayedTransport::Tcp),
                }
            }
            _ => Err(RefusalReason::UnsupportedTransport),
        }
    }

    /// Connect (RFC 6062 s. 5.2). It needs no permission: the client itself names the peer, as with ChannelBind.
    pub(super) fn handle_connect(&mut self, now: Now, request: &Request<'_>) -> Result<(), Refusal> {
        let id = self.owned_allocation(request)?;
        let peer = match request.message.xor_address(attr::XOR_PEER_ADDRESS) {
            Some(Ok(peer)) => self.shared.to_local(peer),
            Some(Err(_)) | None => return Err(RefusalReason::Malformed.into()),
        };
        let allocation = self.table.get(id).ok_or(RefusalReason::NoAllocation)?;
        if allocation.relayed_transport() != RelayedTransport::Tcp {
            return Err(RefusalReason::OtherTransport.into());
        }
        let half = *allocation.half(Family::of(&peer.ip())).ok_or(RefusalReason::FamilyMismatch)?;
        if self.table.is_connected(id, peer) {
            return Err(RefusalReason::ConnectionExists.into());
        }
        self.shared.check_tcp_peer(peer).map_err(|refused| Refusal::of_peer(peer.ip(), refused))?;
        if peer.0 == half.relayed().0 {
            // A socket that is connected with itself.
            return Err(Refusal { peer: Some(peer.ip()), ..RefusalReason::PeerDenied.into() });
        }
        if !self.has_room_for_connection(id) {
            self.counts.tcp_relay.count(ConnectionEvent::TooMany);
            return Err(RefusalReason::TooManyConnections.into());
        }
        let connection = self.new_connection_id();
        let state = ConnectionState::Connecting(request.message.reply_to());
        self.table.add_connection(connection, id, peer, state, now.mono_ns);
        self.outputs.push_back(Output::Connect { connection, relay: half.socket(), peer });
        Ok(())
    }

    pub(super) fn handle_peer_connected(&mut self, now: Now, id: ConnectionId) {
        let Some((reply_to, allocation)) = self.connecting(id) else { return };
        self.table.set_connected(id, now.mono_ns);
        self.counts.tcp_relay.count(ConnectionEvent::Connected);
        let Some(allocation) = self.table.get(allocation) else { return };
        let (path, identity) = (*allocation.path(), allocation.identity().clone());
        let reply = MessageBuilder::success_to(reply_to).attribute(attr::CONNECTION_ID, &id.0.to_be_bytes());
        self.succeed(&path, &identity, reply);
    }

    pub(super) fn handle_connect_failed(&mut self, id: ConnectionId) {
        self.fail_connect(id, RefusalReason::ConnectFailed, ConnectionEvent::Failed);
    }

    fn fail_connect(&mut self, id: ConnectionId, reason: RefusalReason, event: ConnectionEvent) {
        let Some((reply_to, allocation)) = self.connecting(id) else { return };
        let peer = self.table.remove_connection(id).map(|connection| connection.peer().ip());
        self.counts.tcp_relay.count(event);
        let Some(allocation) = self.table.get(allocation) else { return };
        let (sender, identity) = (allocation.sender(), allocation.identity().clone());
        self.refuse(&sender, &identity, reply_to, Refusal { peer, ..reason.into() });
    }

    /// A connection whose Connect is not answered yet.
    fn connecting(&self, id: ConnectionId) -> Option<(ReplyTo, AllocationId)> {
        let connection = self.table.connection(id)?;
        match connection.state() {
            ConnectionState::Connecting(reply_to) => Some((reply_to, connection.allocation())),
            _ => None,
        }
    }

    /// A peer has connected to a relayed address (RFC 6062 s. 5.3): the name that its connection gets, or `None` if it
    /// is to be closed at once, which is counted.
    pub fn admit_peer(&mut self, now: Now, relay: RelaySocket, peer: PeerAddr) -> Option<ConnectionId> {
        let (id, _) = self.table.live_owner(relay, now.mono_ns)?;
        let refused = if !self.table.has_permission(id, peer.ip(), now.mono_ns) {
            Some(ConnectionEvent::NoPermission)
        } else if self.shared.check_tcp_peer(peer).is_err() {
            Some(ConnectionEvent::Denied)
        } else if !self.has_room_for_connection(id) || self.table.is_connected(id, peer) {
            Some(ConnectionEvent::TooMany)
        } else {
            None
        };
        self.counts.tcp_relay.count(refused.unwrap_or(ConnectionEvent::Accepted));
        if refused.is_some() {
            return None;
        }
        let connection = self.new_connection_id();
        self.table.add_connection(connection, id, peer, ConnectionState::Unbound, now.mono_ns);
        let path = *self.table.get(id)?.path();
        let indication = MessageBuilder::indication(method::CONNECTION_ATTEMPT, self.transaction_id())
            .xor_address(attr::XOR_PEER_ADDRESS, self.shared.to_public(peer))
            .attribute(attr::CONNECTION_ID, &connection.0.to_be_bytes());
        self.send_to_client(&path, indication.finish(), 0);
        Some(connection)
    }

    /// ConnectionBind (RFC 6062 s. 5.4).
    pub(super) fn handle_connection_bind(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        let path = &request.sender.path;
        if !path.five_tuple.transport.is_stream() {
            return Err(RefusalReason::StreamNeeded.into());
        }
        let id = match request.message.connection_id() {
            // A connection that carries an allocation can't be given away.
            Some(Ok(id)) if request.allocation.is_none() => id,
            _ => return Err(RefusalReason::Malformed.into()),
        };
        if id.worker() != self.worker {
            return self.hand_over(path, id.worker(), request.message);
        }
        let connection = self.table.connection(id).ok_or(RefusalReason::NoConnection)?;
        let (peer, state, owner) = (connection.peer(), connection.state(), connection.allocation());
        let allocation = self.table.get(owner).ok_or(RefusalReason::NoConnection)?;
        if allocation.identity().user != request.identity.user {
            return Err(RefusalReason::WrongUser.into());
        }
        if !matches!(state, ConnectionState::Unbound) {
            return Err(RefusalReason::NoConnection.into());
        }
        if let Err(refused) = self.shared.check_tcp_peer(peer) {
            self.deny_connection(id);
            return Err(Refusal::of_peer(peer.ip(), refused));
        }
        self.table.set_bound(id);
        self.counts.tcp_relay.count(ConnectionEvent::Bound);
        self.succeed(path, request.identity, MessageBuilder::success(request.message));
        self.outputs.push_back(Output::Bind { connection: id, client: *path });
        Ok(())
    }

    fn hand_over(
        &mut self,
        client: &ClientPath,
        worker: WorkerId,
        request: &Message<'_>,
    ) -> Result<(), Refusal> {
        if worker.index() >= self.shared.directory.workers() {
            return Err(RefusalReason::NoConnection.into());
        }
        let request = request.bytes().to_vec();
        self.outputs.push_back(Output::HandOver { client: *client, worker, request });
        Ok(())
    }

    /// A connection is over.
    pub(super) fn handle_connection_closed(&mut self, id: ConnectionId) {
        match self.connecting(id) {
            Some(_) => self.handle_connect_failed(id),
            None => {
                self.table.remove_connection(id);
            }
        }
    }

    /// A connection has not come further in time (RFC 6062 s. 5.2 and 5.3).
    pub(super) fn connection_timed_out(&mut self, id: ConnectionId) {
        self.outputs.push_back(Output::CloseConnection(id));
        match self.connecting(id) {
            Some(_) => self.fail_connect(id, RefusalReason::ConnectTimedOut, ConnectionEvent::TimedOut),
            None => {
                self.table.remove_connection(id);
                self.counts.tcp_relay.count(ConnectionEvent::Unbound);
            }
        }
    }

    /// Closes those of an allocation's connections whose peers are of a family.
    pub(super) fn close_connections(&mut self, id: AllocationId, family: Family) {
        let gone = self.table.retain_connections(id, |peer| Family::of(&peer.ip()) != family);
        self.outputs.extend(gone.into_iter().map(Output::CloseConnection));
    }

    /// Closes those of an allocation's connections whose peers the policy in force refuses.
    pub(super) fn recheck_connections(&mut self, id: AllocationId) {
        let shared = &self.shared;
        let gone = self.table.retain_connections(id, |peer| shared.check_tcp_peer(peer).is_ok());
        for connection in gone {
            self.counts.tcp_relay.count(ConnectionEvent::Denied);
            self.outputs.push_back(Output::CloseConnection(connection));
        }
    }

    fn deny_connection(&mut self, id: ConnectionId) {
        self.table.remove_connection(id);
        self.counts.tcp_relay.count(ConnectionEvent::Denied);
        self.outputs.push_back(Output::CloseConnection(id));
    }

    /// How many of `wanted` bytes a bound connection may carry one way now, at least one; or when to ask again, on the
    /// monotonic clock.
    ///
    /// # Errors
    /// The time to ask again, while the bandwidth limit is used up.
    pub fn allowance(
        &self,
        now: Now,
        connection: ConnectionId,
        way: Way,
        wanted: usize,
    ) -> Result<usize, u64> {
        let allocation = self.table.connection(connection).and_then(|it| self.table.get(it.allocation()));
        // Of an allocation that has ended nothing is carried: its connections are being closed.
        let bytes = allocation.map_or(0, |allocation| allocation.allowance(now.mono_ns, way, wanted));
        if bytes > 0 {
            return Ok(bytes);
        }
        let burst_ns = allocation.map_or(LONGEST_PAUSE_NS, |allocation| allocation.burst_ns());
        Err(now.mono_ns + (burst_ns / 4).clamp(SHORTEST_PAUSE_NS, LONGEST_PAUSE_NS))
    }

    /// Counts bytes that a bound connection has carried.
    pub fn count_stream(&mut self, now: Now, connection: ConnectionId, way: Way, bytes: usize) {
        let bytes = bytes as u64;
        let owner = self.table.connection(connection).map(|connection| connection.allocation());
        if let Some(allocation) = owner.and_then(|owner| self.table.get_mut(owner)) {
            allocation.count_stream(now.mono_ns, way, bytes);
        }
        let counts = &mut self.counts;
        match way {
            Way::ToPeer => {
                counts.bytes_to_peer += bytes;
                counts.tcp_relay.bytes_to_peer += bytes;
            }
            Way::ToClient => {
                counts.bytes_to_client += bytes;
                counts.tcp_relay.bytes_to_client += bytes;
            }
        }
    }

    /// What was relayed by TCP, and what there is of it.
    pub fn tcp_relay_counts(&self) -> TcpRelayCounts {
        let bound = self.table.bound_connections();
        TcpRelayCounts {
            bound: bound as u64,
            unbound: (self.table.connections() - bound) as u64,
            ..self.counts.tcp_relay
        }
    }

    fn has_room_for_connection(&self, id: AllocationId) -> bool {
        let held = self.table.get(id).map_or(usize::MAX, |allocation| allocation.connections().len());
        held < MAX_CONNECTIONS_PER_ALLOCATION
            && self.table.unbound_connections(id) < MAX_UNBOUND_PER_ALLOCATION
            && self.table.connections() < MAX_CONNECTIONS
    }

    /// One that means nothing else, now or until lately: there are far more than may be in use.
    pub(super) fn new_connection_id(&mut self) -> ConnectionId {
        loop {
            let id = ConnectionId::new(self.worker, self.rng.next_u32());
            if !self.table.is_connection_known(id) {
                return id;
            }
        }
    }
}
