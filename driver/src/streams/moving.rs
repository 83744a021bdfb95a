//! Clients' connections that leave the table: bound to one with a peer (RFC 6062 s. 5.4), or given to another worker.

use rustix::event::epoll::EventFlags;
use turnpike_proto::addr::ClientAddr;
use turnpike_proto::{ClientPath, ClientSocket, ConnectionId};

use super::connection::{Connection, Phase};
use super::counters::CloseReason;
use super::{Streams, poller};

/// A client's connection with its TLS, and all that has come and not been looked at. It can go to another worker.
pub struct Detached {
    connection: Connection,
    /// What has come behind the last message.
    rest: Vec<u8>,
    /// Nothing more comes.
    has_finished: bool,
}

impl Streams {
    /// Lets a client's connection carry what one with a peer does, from now on; both know nothing of messages any more.
    /// `false` if either is gone.
    pub fn bind(&mut self, now_ns: u64, socket: ClientSocket, peer: ConnectionId) -> bool {
        let Some(Detached { connection, rest, has_finished }) = self.detach(now_ns, socket) else {
            return false;
        };
        let Some(client) = connection.take_end(has_finished) else { return false };
        self.relayed.bind(peer, client, &rest)
    }

    /// Takes a connection out that has sent a message: it is somebody else's now, and [`StreamEvent::Closed`] is not told.
    ///
    /// [`StreamEvent::Closed`]: super::StreamEvent::Closed
    pub fn detach(&mut self, now_ns: u64, socket: ClientSocket) -> Option<Detached> {
        self.table.get_mut(socket).filter(|known| known.phase == Phase::Open)?;
        let mut connection = self.table.remove(socket)?;
        self.poller.remove(&connection);
        self.queued -= connection.outbound.len();
        self.unfinished -= std::mem::take(&mut connection.unfinished);
        self.forget_backlog(now_ns, connection.backlog.take());
        *self.counters.open_of(connection.tls.is_some()) -= 1;
        let mut rest = std::mem::take(&mut connection.partial);
        let mut has_finished = false;
        if let Some(reading) = self.reading.take_if(|reading| reading.socket == socket) {
            rest = self.inbox[reading.cursor..].to_vec();
            has_finished = reading.end == Some(CloseReason::ByClient);
        }
        Some(Detached { connection, rest, has_finished })
    }

    /// Closes a connection that nobody takes over.
    pub fn give_up(&mut self, detached: Detached, reason: CloseReason) {
        self.counters.closed.count(reason);
        drop(detached);
    }

    /// Takes over a connection that another worker has detached; what it has sent since is looked at in this turn. Gives
    /// its new name, and the client's own address.
    ///
    /// # Errors
    /// If there are too many: then it is closed.
    pub fn adopt(
        &mut self,
        now_ns: u64,
        detached: Detached,
    ) -> Result<(ClientPath, ClientAddr), CloseReason> {
        let Detached { mut connection, rest, .. } = detached;
        let client = connection.apparent();
        let admitted = self.table.admit(Some(client.ip()), &self.options.limits);
        admitted.inspect_err(|reason| self.counters.closed.count(*reason))?;
        connection.partial = rest;
        connection.unfinished = connection.held();
        (connection.is_dirty, connection.waits_for_room) = (false, false);
        self.unfinished += connection.unfinished;
        self.queued += connection.outbound.len();
        *self.counters.open_of(connection.tls.is_some()) += 1;
        let due_ns = now_ns + self.options.limits.idle_time.as_nanos() as u64;
        let socket = self.table.insert(connection, Some(client.ip()), due_ns);
        self.table.set_open(socket, due_ns);
        let connection = self.table.get_mut(socket).expect("it was put there just now");
        let path = connection.path(socket);
        if self.poller.add(&*connection, poller::connection(socket), EventFlags::IN).is_err() {
            self.close(now_ns, socket, CloseReason::NoDescriptor);
            return Err(CloseReason::NoDescriptor);
        }
        self.mark_dirty(socket);
        self.ready.push_back(socket);
        Ok((path, client))
    }
}
