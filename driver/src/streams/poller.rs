//! The descriptors of streams: epoll, and what it reports.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use turnpike_proto::ClientSocket;

use super::READY;

/// The poller of new connections.
pub(super) const NEW: u64 = u64::MAX;
/// The poller of those that TLS has answered, before their first message.
pub(super) const ANSWERED: u64 = u64::MAX - 1;
/// Listener `i` has this token less `i`: connections have an index in the lower half that is never as large.
const LISTENER: u64 = u64::MAX - 2;
/// Listeners of a worker.
const MAX_LISTENERS: u64 = 1024;
/// The poller of connections that are passed to the fallback.
pub(super) const PASSING: u64 = LISTENER - MAX_LISTENERS;
/// The poller of connections with peers.
pub(super) const RELAYED: u64 = PASSING - 1;

const EMPTY: Event = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };

/// What is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    New,
    Answered,
    Passing,
    Relayed,
    Listener(usize),
    Connection(ClientSocket),
}

pub(super) fn listener(place: usize) -> u64 {
    LISTENER - place as u64
}

pub(super) fn connection(socket: ClientSocket) -> u64 {
    u64::from(socket.generation) << 32 | u64::from(socket.index)
}

pub(super) fn source(token: u64) -> Source {
    match token {
        NEW => Source::New,
        ANSWERED => Source::Answered,
        PASSING => Source::Passing,
        RELAYED => Source::Relayed,
        token if token > LISTENER - MAX_LISTENERS => Source::Listener((LISTENER - token) as usize),
        token => Source::Connection(ClientSocket { index: token as u32, generation: (token >> 32) as u32 }),
    }
}

/// An epoll instance; level-triggered, so what one turn leaves behind is reported by the next.
pub(super) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches a descriptor until it is closed.
    pub(super) fn add(&self, source: &impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token), flags)?)
    }

    /// Watches it for something else.
    pub(super) fn change(&self, source: &impl AsFd, token: u64, flags: EventFlags) {
        // It can't fail: the descriptor is there, and nothing is allocated.
        let _ = epoll::modify(&self.epoll, source, EventData::new_u64(token), flags);
    }

    /// Watches it no longer.
    pub(super) fn remove(&self, source: &impl AsFd) {
        let _ = epoll::delete(&self.epoll, source);
    }

    /// What is ready now, at most `limit` (no more than [`READY`]).
    pub(super) fn ready(&self, limit: usize) -> io::Result<impl Iterator<Item = (u64, EventFlags)> + use<>> {
        let mut room = [EMPTY; READY];
        let ready = epoll::wait(&self.epoll, &mut room[..limit], Some(&Timespec::default()));
        let count = match ready {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(room.into_iter().take(count).map(|event| (event.data.u64(), event.flags)))
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
