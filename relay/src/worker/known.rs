//! Which clients the kernel is to know: those that have an allocation, at each listener whose strangers are kept apart.

use std::sync::Arc;

use turnpike_offload::pinning::Pinned;
use turnpike_proto::ClientSocket;
use turnpike_proto::addr::{FiveTuple, Transport};

/// Of each listener, by its number, what the kernel knows; shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<[Option<Pinned>]>);

impl Known {
    /// For the listeners in their order; `None` is one whose strangers are not kept apart.
    pub fn new(listeners: Vec<Option<Pinned>>) -> Known {
        Known(listeners.into())
    }

    /// What another process needs to go on with it: of each listener, by its number, that keeps strangers apart.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (u32, &Pinned)> {
        (0..).zip(self.0.iter()).filter_map(|(number, pinned)| Some((number, pinned.as_ref()?)))
    }

    /// A client has an allocation.
    pub(super) fn enter(&self, client: &FiveTuple, socket: ClientSocket) {
        if let Some(pinned) = self.of(client, socket) {
            pinned.enter(client.client.0, client.server);
        }
    }

    /// It has it no longer.
    pub(super) fn leave(&self, client: &FiveTuple, socket: ClientSocket) {
        if let Some(pinned) = self.of(client, socket) {
            pinned.leave(client.client.0, client.server);
        }
    }

    fn of(&self, client: &FiveTuple, socket: ClientSocket) -> Option<&Pinned> {
        if client.transport != Transport::Udp {
            return None;
        }
        self.0.get(socket.index as usize)?.as_ref()
    }
}
