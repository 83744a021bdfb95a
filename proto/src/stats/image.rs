//! Counters on their way into another process: by name, so that a version with other ones takes what it knows.

use std::borrow::Cow;

use turnpike_abi::Verdict;

use super::{
    Authentication, ConnectionEvent, ServerCounts, TransportCounts, UserspaceDrop, UserspaceDropCounts,
};
use crate::addr::Transport;
use crate::error::ErrorCode;
use crate::inspect::WhyNot;
use crate::migrate::SnapshotError;
use crate::migrate::images::{Count, CountsImage, plausible};
use crate::refusal::RefusalReason;

impl UserspaceDropCounts {
    /// For a snapshot.
    pub(crate) fn image(&self) -> Vec<Count> {
        self.nonzero().map(|(drop, times)| (drop.name().into(), times)).collect()
    }

    /// Adds what a snapshot says.
    pub(crate) fn adopt(&mut self, image: &[Count]) -> Result<(), SnapshotError> {
        each(image, &UserspaceDrop::ALL, UserspaceDrop::name, |drop, times| self.add(drop, times))
    }
}

impl ServerCounts {
    /// For a snapshot.
    pub(crate) fn image(&self) -> CountsImage {
        // Named one by one, so that none is forgotten when there is another.
        let ServerCounts {
            verdicts,
            userspace_drops,
            bytes_to_peer,
            bytes_to_client,
            errors,
            refusals,
            authentications,
            bindings,
            allocations_created,
            transports,
            allocations_ended,
            tcp_relay,
            ports_failed,
            kernel_missed,
            not_offloaded,
        } = self;
        let named = |name: &'static str, times: u64| (Cow::Borrowed(name), times);
        let by_transport = Transport::ALL.map(|transport| {
            let (created, ended) = transports.0[transport as usize];
            (transport.name().into(), created, ended)
        });
        CountsImage {
            verdicts: verdicts.nonzero().map(|(verdict, times)| named(verdict.name(), times)).collect(),
            userspace_drops: userspace_drops.image(),
            errors: errors.nonzero().map(|(method, code, times)| (method, code.code(), times)).collect(),
            refusals: (refusals.nonzero())
                .map(|(method, reason, times)| (method, reason.name().into(), times))
                .collect(),
            authentications: Authentication::ALL
                .map(|result| named(result.name(), authentications.of(result)))
                .to_vec(),
            transports: by_transport.to_vec(),
            connections: ConnectionEvent::ALL.map(|event| named(event.name(), tcp_relay.of(event))).to_vec(),
            bytes: [*bytes_to_peer, *bytes_to_client, tcp_relay.bytes_to_peer, tcp_relay.bytes_to_client],
            bindings: *bindings,
            kernel_missed: *kernel_missed,
            not_offloaded: not_offloaded.nonzero().map(|(why, times)| named(why.name(), times)).collect(),
            allocations: [*allocations_created, *allocations_ended],
            ports_failed: *ports_failed,
        }
    }

    /// Adds what a snapshot says: what a worker has counted before goes on in the one that adopts.
    pub(crate) fn adopt(&mut self, image: &CountsImage) -> Result<(), SnapshotError> {
        each(&image.verdicts, Verdict::ALL, Verdict::name, |verdict, times| {
            self.verdicts.add(verdict, times);
        })?;
        self.userspace_drops.adopt(&image.userspace_drops)?;
        for &(method, code, times) in &image.errors {
            if let Some(code) = ErrorCode::ALL.iter().find(|known| known.code() == code) {
                self.errors.add(method, *code, plausible(times)?);
            }
        }
        for (method, reason, times) in &image.refusals {
            if let Some(reason) = RefusalReason::ALL.iter().find(|known| known.name() == reason) {
                self.refusals.add(*method, *reason, plausible(*times)?);
            }
        }
        each(&image.authentications, &Authentication::ALL, Authentication::name, |result, times| {
            self.authentications.0[result as usize] += times;
        })?;
        each(&image.connections, &ConnectionEvent::ALL, ConnectionEvent::name, |event, times| {
            self.tcp_relay.events[event as usize] += times;
        })?;
        each(&image.not_offloaded, WhyNot::ALL, WhyNot::name, |why, times| {
            self.not_offloaded.0[why as usize] += times;
        })?;
        self.transports.adopt(&image.transports)?;
        let [to_peer, to_client, tcp_to_peer, tcp_to_client] = image.bytes;
        self.bytes_to_peer += plausible(to_peer)?;
        self.bytes_to_client += plausible(to_client)?;
        self.tcp_relay.bytes_to_peer += plausible(tcp_to_peer)?;
        self.tcp_relay.bytes_to_client += plausible(tcp_to_client)?;
        self.bindings += plausible(image.bindings)?;
        self.kernel_missed += plausible(image.kernel_missed)?;
        let [created, ended] = image.allocations;
        if ended > created {
            return Err(SnapshotError::Contradiction("more has ended than has begun"));
        }
        self.allocations_created += plausible(created)?;
        self.allocations_ended += ended;
        self.ports_failed += plausible(image.ports_failed)?;
        Ok(())
    }
}

impl TransportCounts {
    fn adopt(&mut self, image: &[(Cow<'static, str>, u64, u64)]) -> Result<(), SnapshotError> {
        for (name, created, ended) in image {
            let transport = Transport::ALL.iter().find(|known| known.name() == name);
            if ended > created {
                return Err(SnapshotError::Contradiction("more has ended than has begun"));
            }
            if let Some(transport) = transport {
                let counts = &mut self.0[*transport as usize];
                counts.0 += plausible(*created)?;
                counts.1 += ended;
            }
        }
        Ok(())
    }
}

/// Counts what has a name here.
fn each<T: Copy>(
    image: &[Count],
    all: &[T],
    name: impl Fn(T) -> &'static str,
    mut add: impl FnMut(T, u64),
) -> Result<(), SnapshotError> {
    for (counted, times) in image {
        let times = plausible(*times)?;
        if let Some(known) = all.iter().find(|known| name(**known) == counted) {
            add(*known, times);
        }
    }
    Ok(())
}
