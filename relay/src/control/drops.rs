//! Which drops are worth a look: the one place where that is decided.

use turnpike_admin::model::{DropCause, DropReason};
use turnpike_proto::Verdict;
use turnpike_proto::stats::UserspaceDrop;

/// Every reason for a drop, with who is to blame.
pub(super) fn reasons() -> Vec<DropReason> {
    let named = |&verdict: &Verdict| {
        cause(verdict).map(|cause| DropReason { name: verdict.name().to_owned(), cause })
    };
    let of_userspace = UserspaceDrop::ALL.iter().map(|drop| {
        let cause = match drop {
            // Its line, or the client itself, is too slow, or gone.
            UserspaceDrop::StreamQueueFull | UserspaceDrop::StreamQueueAge | UserspaceDrop::StreamClosed => {
                DropCause::Receiver
            }
            UserspaceDrop::NoAddress => DropCause::Relay,
            UserspaceDrop::IcmpError | UserspaceDrop::StrangerQueue => DropCause::Policy,
        };
        DropReason { name: drop.name().to_owned(), cause }
    });
    Verdict::ALL.iter().filter_map(named).chain(of_userspace).collect()
}

/// Who is to blame for a drop; nobody for what is none.
fn cause(verdict: Verdict) -> Option<DropCause> {
    use Verdict as V;
    if !verdict.is_drop() {
        return None;
    }
    Some(match verdict {
        V::DropPeerDenied
        | V::DropRateToPeer
        | V::DropRateToClient
        | V::DropUnauthenticatedRate
        | V::DropBindingRate
        | V::DropStrangerBudget => DropCause::Policy,

        V::DropNotTurn
        | V::DropMalformed
        | V::DropTruncated
        | V::DropFingerprint
        | V::DropUnsupported
        | V::DropResponse
        | V::DropUnknownAttribute
        | V::DropNoAllocation
        | V::DropUnboundChannel
        | V::DropChannelLength
        | V::DropBadSend
        | V::DropNoPermissionToPeer
        | V::DropNoPermissionFromPeer
        | V::DropNoCredentials
        | V::DropRetransmission
        | V::DropStale
        | V::DropTooLarge
        | V::DropProxyUntrusted => DropCause::Sender,

        // A reason that nobody has thought about is worth a look.
        _ => DropCause::Relay,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drop_has_a_cause_and_only_what_this_host_lost_is_a_fault() {
        let reasons = reasons();
        let drops = Verdict::ALL.iter().filter(|verdict| verdict.is_drop()).count();
        assert_eq!(reasons.len(), drops + UserspaceDrop::ALL.len());
        let faults: Vec<&str> = reasons
            .iter()
            .filter(|reason| reason.cause == DropCause::Relay)
            .map(|reason| &*reason.name)
            .collect();
        for name in ["drop_socket_overflow", "drop_send_failed", "drop_forward_queue", "drop_device_queue"] {
            assert!(faults.contains(&name), "{name}");
        }
        assert!(faults.contains(&"drop_late"));
        for name in [
            "drop_stranger_budget",
            "drop_stranger_queue",
            "drop_no_credentials",
            "drop_rate_to_peer",
            "drop_unauthenticated_rate",
            "drop_not_turn",
            "drop_peer_denied",
            "drop_stream_queue_age",
        ] {
            assert!(!faults.contains(&name), "{name}");
        }
    }
}
