//! Allocate: the checks of RFC 8656 s. 7.2 in their order, the ports, and the answer.
//!
//! A port's socket is opened by the driver, so the answer comes when it says so. Until then the
//! 5-tuple is taken and repetitions of the request are dropped; if every try fails, nothing is left.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand_chacha::rand_core::RngCore;
use turnpike_abi::{Rate, Verdict};

use super::{Request, Server};
use crate::addr::{Family, RelayedAddr, RelayedTransport};
use crate::error::ErrorCode;
use crate::io::{Now, Output, PortError, RelaySocket};
use crate::limits::{
    DEFAULT_LIFETIME_SECS, FOREIGN_PORT_SECS, MAX_ALLOCATIONS, MAX_PORT_ATTEMPTS, RESERVATION_LIFETIME_SECS,
    RETRANSMISSION_SECS, SECOND_NS,
};
use crate::refusal::{Detail, Refusal, RefusalReason};
use crate::settings::DefaultFamily;
use crate::shared::Reservation;
use crate::shared::addresses::PortWish;
use crate::shared::ports::{Parity, PortLease};
use crate::shared::quota::{QuotaFull, QuotaOf};
use crate::stats::EndReason;
use crate::table::{AllocateState, Allocation, AllocationId, NewAllocation};
use crate::wire::{Message, MessageBuilder, attr};

/// Which relayed addresses are wanted, and how.
enum Wish {
    /// One address of this family.
    One { family: Family, parity: Parity, pair: bool },
    /// IPv4 and IPv6 (ADDITIONAL-ADDRESS-FAMILY).
    Dual { parity: Parity },
    /// The port behind a RESERVATION-TOKEN.
    Reserved([u8; 8]),
}

/// A port found for one family.
struct Found {
    /// The relay address, in its local form.
    relay: IpAddr,
    lease: PortLease,
    /// The port above it is reserved.
    pair: bool,
}

impl Server {
    pub(super) fn handle_allocate(&mut self, now: Now, request: &Request<'_>) -> Result<(), Refusal> {
        if let Some(id) = request.allocation {
            return self.repeat_allocate(now, request, id);
        }
        let transaction = request.message.transaction_id();
        if self.ended_allocates.contains(now, request.sender.path.five_tuple, transaction) {
            self.discard(Verdict::DropRetransmission);
            return Ok(());
        }
        let relayed = self.asked_transport(request)?;
        let wish = self.allocate_wish(request)?;
        let lifetime_secs = self.granted_lifetime(request.message)?;
        if self.draining && self.shared.alternate(request.sender.client.ip()).is_some() {
            return Err(RefusalReason::Redirected.into());
        }
        if self.draining {
            return Err(RefusalReason::Draining.into());
        }
        if self.table.len() >= MAX_ALLOCATIONS {
            return Err(RefusalReason::TableFull.into());
        }
        let five_tuple = request.sender.path.five_tuple;
        // Another worker may have got the same request just now; its answer will do.
        if !self.shared.directory.claim(&five_tuple, self.worker) {
            self.discard(Verdict::DropRetransmission);
            return Ok(());
        }
        let begun = self.begin_allocation(now, request, relayed, &wish, lifetime_secs);
        if begun.is_err() {
            self.shared.directory.release(&five_tuple);
        }
        begun
    }

    /// Quota, ports, table.
    fn begin_allocation(
        &mut self,
        now: Now,
        request: &Request<'_>,
        relayed: RelayedTransport,
        wish: &Wish,
        lifetime_secs: u32,
    ) -> Result<(), Refusal> {
        let limits = self.shared.user_limits(&request.identity.quota_user);
        let quota = self.shared.quotas.take(&request.identity.quota_user, limits.quota);
        let quota = quota.map_err(quota_refusal)?;
        let mut state = AllocateState {
            reply_to: request.message.reply_to(),
            lifetime_secs,
            relayed,
            token: None,
            refused_family: None,
            attempts: 1,
            even: matches!(
                wish,
                Wish::One { parity: Parity::Even, .. }
                    | Wish::One { pair: true, .. }
                    | Wish::Dual { parity: Parity::Even }
            ),
        };
        let found = self.find_ports(now, request, wish, &mut state)?;
        let bitrate_bits = limits.bitrate_bits.unwrap_or(self.shared.config.max_bitrate_bits);
        let new = NewAllocation {
            sender: request.sender,
            identity: Arc::clone(request.identity),
            quota,
            request: state,
            rate: Rate::new(bitrate_bits, self.shared.config.burst_ms),
            bitrate_bits,
        };
        let id = self.table.insert(new);
        found.into_iter().for_each(|found| self.open_half(id, found));
        Ok(())
    }

    /// RFC 8656 s. 7.2 step 2: a second Allocate is refused, but the same one again gets the same answer.
    fn repeat_allocate(&mut self, now: Now, request: &Request<'_>, id: AllocationId) -> Result<(), Refusal> {
        let allocation = self.table.get(id).ok_or(RefusalReason::AllocationExists)?;
        let same = allocation.request().reply_to.transaction() == request.message.transaction_id()
            && allocation.identity().user == request.identity.user;
        match allocation.live_since_ns() {
            None if same => {
                self.discard(Verdict::DropRetransmission);
                Ok(())
            }
            Some(since_ns) if same && now.mono_ns < since_ns + u64::from(RETRANSMISSION_SECS) * SECOND_NS => {
                self.answer_allocate(id);
                Ok(())
            }
            _ => Err(RefusalReason::AllocationExists.into()),
        }
    }

    /// RFC 8656 s. 7.2 steps 5 to 9, in that order.
    fn allocate_wish(&self, request: &Request<'_>) -> Result<Wish, RefusalReason> {
        let message = request.message;
        let has_families =
            message.has(attr::REQUESTED_ADDRESS_FAMILY) || message.has(attr::ADDITIONAL_ADDRESS_FAMILY);
        if let Some(token) = message.reservation_token() {
            let token = token.map_err(|_| RefusalReason::Malformed)?;
            if has_families || message.has(attr::EVEN_PORT) {
                return Err(RefusalReason::Malformed);
            }
            return Ok(Wish::Reserved(token));
        }
        if message.has(attr::REQUESTED_ADDRESS_FAMILY) && message.has(attr::ADDITIONAL_ADDRESS_FAMILY) {
            return Err(RefusalReason::Malformed);
        }
        let family = self.requested_family(request)?;
        let pair = match message.even_port() {
            Some(pair) => Some(pair.map_err(|_| RefusalReason::Malformed)?),
            None => None,
        };
        let parity = if pair.is_some() { Parity::Even } else { Parity::Any };
        match message.additional_family() {
            None => Ok(Wish::One { family, parity, pair: pair == Some(true) }),
            Some(Ok(value)) if value == Family::V6 as u8 && pair != Some(true) => Ok(Wish::Dual { parity }),
            Some(_) => Err(RefusalReason::Malformed),
        }
    }

    /// RFC 8656 s. 7.2 step 6: the family asked for, or the default, if it is offered.
    fn requested_family(&self, request: &Request<'_>) -> Result<Family, RefusalReason> {
        let family = match request.message.requested_family() {
            Some(Ok(value)) => Family::from_wire(value).ok_or(RefusalReason::FamilyNotOffered)?,
            Some(Err(_)) => return Err(RefusalReason::Malformed),
            None => match self.shared.config.default_family {
                _ if request.message.has(attr::ADDITIONAL_ADDRESS_FAMILY) => return Ok(Family::V4),
                DefaultFamily::Ipv4 => Family::V4,
                DefaultFamily::Ipv6 => Family::V6,
                DefaultFamily::Keep => Family::of(&request.sender.client.ip()),
            },
        };
        match self.shared.offers(family) {
            true => Ok(family),
            false => Err(RefusalReason::FamilyNotOffered),
        }
    }

    /// RFC 8656 s. 7.2: at least the default, at most the configured maximum, whatever was asked.
    pub(super) fn granted_lifetime(&self, message: &Message<'_>) -> Result<u32, RefusalReason> {
        let asked = match message.lifetime() {
            Some(lifetime) => lifetime.map_err(|_| RefusalReason::Malformed)?,
            None => DEFAULT_LIFETIME_SECS,
        };
        Ok(asked.min(self.shared.config.max_lifetime_secs).max(DEFAULT_LIFETIME_SECS))
    }

    fn find_ports(
        &mut self,
        now: Now,
        request: &Request<'_>,
        wish: &Wish,
        state: &mut AllocateState,
    ) -> Result<Vec<Found>, Refusal> {
        match *wish {
            Wish::Reserved(token) => {
                let user = &request.identity.quota_user;
                let reservation = self.shared.reservations.redeem(token, user, now.mono_ns);
                let Reservation { relay, lease, .. } = reservation.ok_or(RefusalReason::NoReservation)?;
                // Only this very port will do.
                state.attempts = MAX_PORT_ATTEMPTS;
                Ok(vec![Found { relay, lease, pair: false }])
            }
            Wish::One { family, parity, pair: false } => {
                let found = self.find_port(now, request, family, parity);
                Ok(vec![found.ok_or_else(|| self.no_port(family))?])
            }
            Wish::One { family, pair: true, .. } => {
                let near = request.sender.path.five_tuple.server.ip();
                let reserved = self.reserve_pair(now, family, near, &request.identity.quota_user);
                let (found, token) = reserved.ok_or_else(|| self.no_port(family))?;
                state.token = Some(token);
                Ok(vec![found])
            }
            Wish::Dual { parity } => self.find_dual(now, request, parity, state),
        }
    }

    fn find_port(
        &mut self,
        now: Now,
        request: &Request<'_>,
        family: Family,
        parity: Parity,
    ) -> Option<Found> {
        let near = request.sender.path.five_tuple.server.ip();
        let random = [self.rng.next_u32(), self.rng.next_u32()];
        let taken =
            self.shared.take_port(PortWish { family, parity, pair: false, near }, random, now.mono_ns)?;
        Some(Found { relay: taken.relay, lease: taken.lease, pair: false })
    }

    /// EVEN-PORT with R = 1: the even port, and a token for the odd one above it, which waits.
    fn reserve_pair(
        &mut self,
        now: Now,
        family: Family,
        near: IpAddr,
        user: &Arc<str>,
    ) -> Option<(Found, [u8; 8])> {
        let random = [self.rng.next_u32(), self.rng.next_u32()];
        let taken = self.shared.take_port(
            PortWish { family, parity: Parity::Even, pair: true, near },
            random,
            now.mono_ns,
        )?;
        let mut token = [0; 8];
        self.rng.fill_bytes(&mut token);
        let expires_ns = now.mono_ns + u64::from(RESERVATION_LIFETIME_SECS) * SECOND_NS;
        let reservation =
            Reservation { relay: taken.relay, lease: taken.sibling?, user: Arc::clone(user), expires_ns };
        if !self.shared.reservations.hold(token, reservation) {
            return None;
        }
        self.table.watch_reservation(token, expires_ns);
        Some((Found { relay: taken.relay, lease: taken.lease, pair: true }, token))
    }

    /// RFC 8656 s. 7.2 step 9: both families, or the one that can be had with ADDRESS-ERROR-CODE for the other.
    fn find_dual(
        &mut self,
        now: Now,
        request: &Request<'_>,
        parity: Parity,
        state: &mut AllocateState,
    ) -> Result<Vec<Found>, Refusal> {
        let mut found = Vec::with_capacity(2);
        for family in [Family::V4, Family::V6] {
            let refusal = match self.shared.offers(family) {
                false => ErrorCode::AddressFamilyNotSupported,
                true => match self.find_port(now, request, family, parity) {
                    Some(port) => {
                        found.push(port);
                        continue;
                    }
                    None => ErrorCode::InsufficientCapacity,
                },
            };
            state.refused_family = Some((family, refusal));
        }
        match found.is_empty() {
            true => Err(self.no_port(Family::V4)),
            false => Ok(found),
        }
    }

    fn open_half(&mut self, id: AllocationId, Found { relay, lease, pair }: Found) {
        let relayed = self.table.get(id).map(Allocation::relayed_transport);
        if let Some(half) = self.table.add_half(id, relay, lease) {
            if relayed == Some(RelayedTransport::Tcp) {
                return self
                    .outputs
                    .push_back(Output::Listen { relay: half.socket(), address: half.relayed() });
            }
            let above = || RelayedAddr(SocketAddr::new(relay, half.relayed().port() + 1));
            let reserve = pair.then(above);
            self.outputs.push_back(Output::OpenPort {
                relay: half.socket(),
                address: half.relayed(),
                reserve,
            });
        }
    }

    pub(super) fn handle_port_opened(&mut self, now: Now, relay: RelaySocket) {
        // Without an owner its ClosePort is on the way already.
        let Some(id) = self.table.half_opened(relay) else { return };
        match self.sweeps.is_ending_all() {
            // It would be answered, and then ended by the next tick.
            true => self.end_allocation(now, id, EndReason::Shutdown),
            false => self.answer_when_open(now, id),
        }
    }

    pub(super) fn handle_port_failed(&mut self, now: Now, relay: RelaySocket, error: PortError) {
        let Some((id, family, lease)) = self.table.half_failed(relay) else {
            // Its allocation ended meanwhile; a socket that never opened is closed already.
            return self.table.relay_closed(relay);
        };
        self.counts.ports_failed += 1;
        // Else held until another one is found, which is not to be this one again.
        let _held = match error {
            PortError::InUse => {
                leave_to_others(now, lease);
                None
            }
            _ => Some(lease),
        };
        match self.find_replacement(now, id, family, error) {
            Some(found) => self.open_half(id, found),
            None => self.fail_half(now, id, family, error),
        }
    }

    /// Another port for a half whose port somebody else has.
    fn find_replacement(
        &mut self,
        now: Now,
        id: AllocationId,
        family: Family,
        error: PortError,
    ) -> Option<Found> {
        let (tried, token) = self.table.try_again(id)?;
        let allocation = self.table.get(id)?;
        let near = allocation.path().five_tuple.server.ip();
        let user = Arc::clone(&allocation.identity().quota_user);
        let parity = if allocation.request().even { Parity::Even } else { Parity::Any };
        let is_in_use = matches!(error, PortError::InUse | PortError::ReserveInUse);
        let retry = is_in_use && tried < MAX_PORT_ATTEMPTS;
        if let Some(token) = token {
            self.give_up_reservation(now, token, error);
        }
        if !retry {
            return None;
        }
        if token.is_some() {
            let (found, token) = self.reserve_pair(now, family, near, &user)?;
            self.table.set_token(id, token);
            return Some(found);
        }
        let random = [self.rng.next_u32(), self.rng.next_u32()];
        let taken =
            self.shared.take_port(PortWish { family, parity, pair: false, near }, random, now.mono_ns)?;
        Some(Found { relay: taken.relay, lease: taken.lease, pair: false })
    }

    /// The odd port of a pair is of no use without its even one.
    fn give_up_reservation(&mut self, now: Now, token: [u8; 8], error: PortError) {
        let Some(reservation) = self.shared.reservations.take(token) else { return };
        self.table.forget_reservation(token, reservation.expires_ns);
        match error {
            PortError::ReserveInUse => leave_to_others(now, reservation.lease),
            _ => self.outputs.push_back(Output::ReleasePort(reservation.into_port())),
        }
    }

    /// A half can't be had: the other one alone, or none and 508 (conformance A8, A14).
    fn fail_half(&mut self, now: Now, id: AllocationId, family: Family, error: PortError) {
        let Some(allocation) = self.table.get(id) else { return };
        if allocation.halves().next().is_some() {
            self.table.refuse_half(id, family, ErrorCode::InsufficientCapacity);
            return self.answer_when_open(now, id);
        }
        if let Some(allocation) = self.remove_allocation(id) {
            let refusal = match error {
                PortError::InUse | PortError::ReserveInUse => self.no_port(family),
                PortError::NoDescriptor { limit } => {
                    Refusal::with(RefusalReason::NoDescriptor, Detail::OpenFiles { limit })
                }
                PortError::Exhausted => {
                    let words = Detail::Words("no memory for a socket, or the relay address is gone");
                    Refusal::with(RefusalReason::NoDescriptor, words)
                }
            };
            self.refuse(&allocation.sender(), allocation.identity(), allocation.request().reply_to, refusal);
        }
    }

    /// Every port that there is for a family is taken, or its relay address is awaited.
    fn no_port(&self, family: Family) -> Refusal {
        let [held, foreign, of] = self.shared.ports_of(family).map(|ports| ports as u32);
        if of == 0 {
            let words =
                Detail::Words("no relay address of this family is there yet; /readyz says what it waits for");
            return Refusal::with(RefusalReason::NoPort, words);
        }
        Refusal::with(RefusalReason::NoPort, Detail::Ports { held, foreign, of })
    }

    fn answer_when_open(&mut self, now: Now, id: AllocationId) {
        if let Some(allocation) = self.table.get(id).filter(|allocation| allocation.all_open()) {
            self.counts.allocations_created += 1;
            self.strangers.give_back_challenge();
            self.counts.transports.count_created(allocation.path().five_tuple.transport);
            self.counts.tcp_relay.allocations += relays_tcp(allocation);
            self.table.go_live(id, now.mono_ns);
            self.take_slot(id);
            self.answer_allocate(id);
            let view = self.table.get(id).and_then(|allocation| self.view(allocation));
            self.outputs.extend(view.map(|view| Output::Created(Box::new(view))));
        }
    }

    /// The success answer, made from the allocation, so that a repetition is the same (RFC 8489 s. 6.3.1).
    fn answer_allocate(&mut self, id: AllocationId) {
        let Some(allocation) = self.table.get(id) else { return };
        let state = allocation.request();
        let mut reply = MessageBuilder::success_to(state.reply_to);
        for half in allocation.halves() {
            reply =
                reply.xor_address(attr::XOR_RELAYED_ADDRESS, self.shared.relayed_to_public(half.relayed()));
        }
        reply =
            reply.lifetime(state.lifetime_secs).xor_address(attr::XOR_MAPPED_ADDRESS, allocation.client().0);
        if let Some(token) = state.token {
            reply = reply.attribute(attr::RESERVATION_TOKEN, &token);
        }
        if let Some((family, code)) = state.refused_family {
            reply = reply.address_error(family, code);
        }
        let (path, identity) = (*allocation.path(), Arc::clone(allocation.identity()));
        self.succeed(&path, &identity, reply);
    }
}

/// 1 if it is among those that relay TCP.
pub(super) fn relays_tcp(allocation: &Allocation) -> u64 {
    u64::from(allocation.relayed_transport() == RelayedTransport::Tcp)
}

/// Another program has the port.
fn leave_to_others(now: Now, lease: PortLease) {
    lease.leave_to_others(now.mono_ns + u64::from(FOREIGN_PORT_SECS) * SECOND_NS);
}

fn quota_refusal(full: QuotaFull) -> Refusal {
    let reason = match full.whose {
        QuotaOf::User => RefusalReason::UserQuota,
        QuotaOf::Everybody => RefusalReason::TotalQuota,
    };
    Refusal::with(reason, Detail::Quota { used: full.used, limit: full.limit })
}
