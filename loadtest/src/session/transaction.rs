//! One request until its answer: when it is sent again, and when that has been enough.

use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use crate::limits::MAX_TRANSMISSIONS;
use crate::stun_client::{Authentication, Request};
use crate::transport::Transport;

/// First retransmission timeout (RFC 8489 section 6.2.1), ns.
const RTO_NS: u64 = 500_000_000;
/// How long a request waits for its answer where nothing gets lost: Ti of RFC 8489 section 6.2.2, ns.
const RELIABLE_PATIENCE_NS: u64 = 39_500_000_000;

/// A request under way.
pub(super) struct Transaction {
    pub(super) id: u128,
    pub(super) request: Request,
    bytes: Vec<u8>,
    deadline_ns: u64,
    rto_ns: u64,
    transmissions: u32,
}

impl Transaction {
    /// One that begins now; the caller sends [`Self::bytes`].
    pub(super) fn begin(
        now_ns: u64,
        rng: &mut ChaCha8Rng,
        request: Request,
        auth: Option<&Authentication>,
        transport: Transport,
    ) -> Self {
        let id = (u128::from(rng.next_u32()) << 64) | u128::from(rng.next_u64());
        let bytes = request.encode(id, auth);
        // RFC 8489 section 6.2.2: over reliable transports nothing is repeated.
        let (rto_ns, transmissions) =
            if transport.is_stream() { (RELIABLE_PATIENCE_NS, MAX_TRANSMISSIONS) } else { (RTO_NS, 1) };
        Self { id, request, bytes, deadline_ns: now_ns + rto_ns, rto_ns, transmissions }
    }

    /// What is sent, each time the same.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// When the answer should have come, ns.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// The deadline has passed: what to send again, with twice the time; `None` if that was the last time.
    pub(super) fn repeat(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        if self.transmissions >= MAX_TRANSMISSIONS {
            return None;
        }
        self.transmissions += 1;
        self.rto_ns *= 2;
        self.deadline_ns = now_ns + self.rto_ns;
        Some(self.bytes())
    }

    /// Is waited for until then, and not sent again.
    pub(super) fn wait_only_until(mut self, deadline_ns: u64) -> Self {
        self.transmissions = MAX_TRANSMISSIONS;
        self.deadline_ns = deadline_ns;
        self
    }
}
