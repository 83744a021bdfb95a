//! Refresh (RFC 8656 s. 8.2): a longer life, or the end at once.

use super::{Request, Server};
use crate::addr::{Family, FiveTuple};
use crate::error::ErrorCode;
use crate::io::Now;
use crate::limits::{MAX_TOMBSTONES, RETRANSMISSION_SECS, SECOND_NS};
use crate::stats::EndReason;
use crate::wire::{Message, MessageBuilder, TransactionId};

/// A deletion that was answered, kept so that its retransmission gets the same answer (RFC 8489 s. 6.3.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Deletion {
    five_tuple: FiveTuple,
    transaction: TransactionId,
    at_ns: u64,
}

impl Server {
    pub(super) fn handle_refresh(&mut self, now: Now, request: &Request<'_>) -> Result<(), ErrorCode> {
        if request.allocation.is_none() && self.was_deleted_by(now, request) {
            self.answer_refresh(request, 0);
            return Ok(());
        }
        let id = self.owned_allocation(request)?;
        let only = requested_half(request.message)?;
        // RFC 8656 s. 8.2: 443 if the allocation has no such half; nothing changes.
        let allocation = self.table.get(id).ok_or(ErrorCode::AllocationMismatch)?;
        if only.is_some_and(|family| allocation.half(family).is_none()) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        if matches!(request.message.lifetime(), Some(Ok(0))) {
            self.remember_deletion(now, request);
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
        self.succeed(&request.path, request.identity, reply);
    }

    fn was_deleted_by(&self, now: Now, request: &Request<'_>) -> bool {
        self.deletions.iter().rev().take_while(|deletion| deletion.is_fresh(now)).any(|deletion| {
            deletion.five_tuple == request.path.five_tuple
                && deletion.transaction == request.message.transaction_id()
        })
    }

    fn remember_deletion(&mut self, now: Now, request: &Request<'_>) {
        while self.deletions.len() >= MAX_TOMBSTONES
            || self.deletions.front().is_some_and(|d| !d.is_fresh(now))
        {
            self.deletions.pop_front();
        }
        self.deletions.push_back(Deletion {
            five_tuple: request.path.five_tuple,
            transaction: request.message.transaction_id(),
            at_ns: now.mono_ns,
        });
    }
}

impl Deletion {
    fn is_fresh(&self, now: Now) -> bool {
        now.mono_ns < self.at_ns + u64::from(RETRANSMISSION_SECS) * SECOND_NS
    }
}

/// The one half that a Refresh is about, if it names one.
fn requested_half(message: &Message<'_>) -> Result<Option<Family>, ErrorCode> {
    match message.requested_family() {
        None => Ok(None),
        Some(Err(_)) => Err(ErrorCode::BadRequest),
        Some(Ok(value)) => Family::from_wire(value).map(Some).ok_or(ErrorCode::PeerAddressFamilyMismatch),
    }
}
