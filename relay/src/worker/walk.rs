//! A worker's walk over its allocations: a part of it in each turn, so that no packet waits for the whole.

use turnpike_proto::{AllocationView, InspectCursor, OffloadState, Server};

use super::orders::Reply;
use super::status::Reporter;
use crate::limits::WALKED_PER_TURN;

/// The walk that is under way, if any, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    replies: Vec<Reply<Vec<AllocationView>>>,
    cursor: Option<InspectCursor>,
    views: Vec<AllocationView>,
    offloaded: u64,
}

impl Walk {
    /// Begins a walk; whoever asks while one is under way gets that one.
    pub(crate) fn begin(&mut self, reply: Reply<Vec<AllocationView>>) {
        self.replies.push(reply);
    }

    /// Whether there is more to be done.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.replies.is_empty()
    }

    /// One turn's part of the walk. At its end, those who wait get it.
    pub(crate) fn step(&mut self, server: &Server, reporter: &mut Reporter) {
        let (views, cursor) = server.inspect(self.cursor, WALKED_PER_TURN);
        for view in &views {
            reporter.see_kernel_traffic(view.id, [view.to_peer.kernel, view.to_client.kernel]);
            self.offloaded += u64::from(matches!(view.offload, OffloadState::Active { .. }));
        }
        self.views.extend(views);
        self.cursor = cursor;
        if cursor.is_some() {
            return;
        }
        reporter.set_offloaded(std::mem::take(&mut self.offloaded));
        let views = std::mem::take(&mut self.views);
        // Nobody listening any more is no fault.
        self.replies.drain(1..).for_each(|reply| drop(reply.send(views.clone())));
        self.replies.drain(..).zip([views]).for_each(|(reply, views)| drop(reply.send(views)));
    }
}
