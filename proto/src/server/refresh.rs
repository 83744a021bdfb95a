//! Refresh (RFC 8656 s. 8.2): a longer life, or the end at once.

use super::{Request, Server};
use crate::addr::Family;
use crate::io::Now;
use crate::limits::SECOND_NS;
use crate::refusal::{Refusal, RefusalReason};
use crate::stats::EndReason;
use crate::wire::{Message, MessageBuilder};

impl Server {
    pub(super) fn handle_refresh(&mut self, now: Now, request: &Request<'_>) -> Result<(), Refusal> {
        let (five_tuple, transaction) = (request.sender.path.five_tuple, request.message.transaction_id());
        // RFC 8489 s. 6.3.1: the same answer again, even if the 5-tuple has another allocation by now.
        if self.deletions.contains(now, five_tuple, transaction) {
            self.answer_refresh(request, 0);
            return Ok(());
        }
        let id = self.owned_allocation(request)?;
        let only = requested_half(request.message)?;
        // RFC 8656 s. 8.2: 443 if the allocation has no such half; nothing changes.
        let allocation = self.table.get(id).ok_or(RefusalReason::NoAllocation)?;
        if only.is_some_and(|family| allocation.half(family).is_none()) {
            return Err(RefusalReason::FamilyMismatch.into());
        }
        if matches!(request.message.lifetime(), Some(Ok(0))) {
            self.deletions.insert(now, five_tuple, transaction);
            for family in [Family::V4, Family::V6] {
                if only.is_none_or(|only| only == family) {
                    self.end_half(now, id, family, EndReason::Deleted);
                }
            }
            self.answer_refresh(request, 0);
            return Ok(());
        }
        let lifetime_secs = self.granted_lifetime(request.message)?;
        self.table.refresh(id, only, now.mono_ns + u64::from(lifetime_secs) * SECOND_NS);
        self.answer_refresh(request, lifetime_secs);
        Ok(())
    }

    fn answer_refresh(&mut self, request: &Request<'_>, lifetime_secs: u32) {
        let reply = MessageBuilder::success(request.message).lifetime(lifetime_secs);
        self.succeed(&request.sender.path, request.identity, reply);
    }
}

/// The one half that a Refresh is about, if it names one.
fn requested_half(message: &Message<'_>) -> Result<Option<Family>, RefusalReason> {
    match message.requested_family() {
        None => Ok(None),
        Some(Err(_)) => Err(RefusalReason::Malformed),
        Some(Ok(value)) => Family::from_wire(value).map(Some).ok_or(RefusalReason::FamilyMismatch),
    }
}
