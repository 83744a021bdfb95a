//! Connections with peers (RFC 6062): what the core wants of them, and what happens to them.
//!
//! ```text
//!   Listen, Connect, Bind, CloseConnection ─► streams.relayed
//!   peers connect, connections are made and end ─► the core; bytes stay below, as many as it lets pass
//!   ConnectionBind for another worker ─► handover: the connection itself, with its request ─► that one's core
//! ```

use std::net::SocketAddr;

use turnpike_driver::Driver;
use turnpike_driver::streams::{CloseReason, Meter, RelayedEvent};
use turnpike_proto::addr::{PeerAddr, RelayedAddr};
use turnpike_proto::limits::MAX_FORWARDED;
use turnpike_proto::{ClientPath, ConnectionId, Input, Now, PortError, RelaySocket, Server, Way, WorkerId};

use super::Worker;
use super::handover::{HandedConnection, Handover};

/// The core's bandwidth limits and counters, for connections that are carried below it.
struct CoreMeter<'a> {
    server: &'a mut Server,
    now: Now,
}

impl Meter for CoreMeter<'_> {
    fn allowance(&self, connection: ConnectionId, way: Way, wanted: usize) -> Result<usize, u64> {
        self.server.allowance(self.now, connection, way, wanted)
    }

    fn count(&mut self, connection: ConnectionId, way: Way, bytes: usize) {
        self.server.count_stream(self.now, connection, way, bytes);
    }
}

impl<D: Driver> Worker<D> {
    /// Listens for peers at a relayed address.
    pub(super) fn listen(&mut self, now: Now, relay: RelaySocket, address: RelayedAddr) {
        let streams = self.streams.as_mut();
        let outcome = streams.map_or(Err(PortError::Exhausted), |it| it.relayed().listen(relay, address));
        let input = match outcome {
            Ok(()) => Input::PortOpened(relay),
            Err(error) => Input::PortFailed(relay, error),
        };
        self.server.handle_input(now, input);
    }

    /// Closes a relay socket, or a listener for peers.
    pub(super) fn close_port(&mut self, now: Now, relay: RelaySocket) {
        match self.streams.as_mut().is_some_and(|streams| streams.relayed().close_listener(relay)) {
            true => self.server.handle_input(now, Input::PortClosed(relay)),
            false => self.driver.close_port(relay),
        }
    }

    /// Connects to a peer, without waiting for it.
    pub(super) fn connect(
        &mut self,
        now: Now,
        connection: ConnectionId,
        relay: RelaySocket,
        peer: SocketAddr,
    ) {
        let begun = self.streams.as_mut().map(|streams| streams.relayed().connect(connection, relay, peer));
        if !matches!(begun, Some(Ok(()))) {
            self.server.handle_input(now, Input::PeerConnectFailed(connection));
        }
    }

    /// Has a client's connection carry what one with a peer does.
    pub(super) fn bind(&mut self, now: Now, connection: ConnectionId, client: &ClientPath) {
        let is_bound =
            self.streams.as_mut().is_some_and(|streams| streams.bind(now.mono_ns, client.socket, connection));
        if !is_bound {
            self.close_connection(connection);
            self.server.handle_input(now, Input::ConnectionClosed(connection));
        }
    }

    /// Closes a connection with a peer.
    pub(super) fn close_connection(&mut self, connection: ConnectionId) {
        if let Some(streams) = &mut self.streams {
            streams.relayed().close(connection);
        }
    }

    /// What has happened to connections with peers; what they carry is carried.
    pub(super) fn handle_relayed(&mut self, now: Now) {
        loop {
            let Some(streams) = &mut self.streams else { return };
            let mut meter = CoreMeter { server: &mut self.server, now };
            let Some(event) = streams.relayed().next_event(now.mono_ns, &mut meter) else { return };
            match event {
                RelayedEvent::Accepted { relay, peer, connection } => {
                    let Some(id) = self.server.admit_peer(now, relay, PeerAddr(peer)) else { continue };
                    if streams.relayed().keep(id, connection).is_err() {
                        self.server.handle_input(now, Input::ConnectionClosed(id));
                    }
                    self.carry_out(now);
                }
                RelayedEvent::Connected(id) => self.handle(now, Input::PeerConnected(id)),
                RelayedEvent::Failed(id) => self.handle(now, Input::PeerConnectFailed(id)),
                RelayedEvent::Closed(id) => self.handle(now, Input::ConnectionClosed(id)),
            }
        }
    }

    /// Gives another worker a client's connection, with the request that is that one's to answer.
    pub(super) fn hand_over(&mut self, now: Now, client: &ClientPath, worker: WorkerId, request: Vec<u8>) {
        let Some(streams) = &mut self.streams else { return };
        let Some(connection) = streams.detach(now.mono_ns, client.socket) else { return };
        let handed = Box::new(HandedConnection { connection, request });
        let given = match &mut self.handover {
            Some(handover) => handover.give_connection(worker, handed),
            None => Err(handed),
        };
        if let Err(handed) = given {
            streams.give_up(handed.connection, CloseReason::NoHandover);
        }
    }

    /// Clients' connections that other workers have given to this one.
    pub(super) fn handle_handed_connections(&mut self, now: Now) {
        for _ in 0..MAX_FORWARDED {
            let handed = self.handover.as_mut().and_then(Handover::take_connection);
            let Some(handed) = handed else { return };
            let HandedConnection { connection, request } = *handed;
            let adopted = self.streams.as_mut().map(|streams| streams.adopt(now.mono_ns, connection));
            if let Some(Ok((path, client))) = adopted {
                self.handle(now, Input::Proxied { path, client, bytes: &request, tos: 0 });
            }
        }
        if let Some(handover) = &mut self.handover {
            handover.wake_self();
        }
    }
}
