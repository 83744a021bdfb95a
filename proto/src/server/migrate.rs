//! A worker's state out of one process and into another one.
//!
//! Nothing may happen to a server between the first part of its snapshot and the last. Afterwards it can go on as if
//! nothing had been: if nobody adopts the snapshot, it does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use turnpike_abi::Rate;

use super::Server;
use super::allocate::relays_tcp;
use crate::addr::{Family, RelayedAddr, RelayedTransport, Transport};
use crate::io::{ClientPath, ConnectionId, Now, Output, RelaySocket, WorkerId};
use crate::limits::{
    MAX_ENDED_CONNECTIONS, MAX_ENTRIES_EXPORTED, MAX_EXPORTED, MAX_PLACES_WALKED, SECOND_NS,
};
use crate::migrate::images::{
    AllocationImage, ConnectionStateImage, CountsImage, RecentKind, Record, RngImage, Secret, WithdrawnImage,
    WorkerImage, plausible,
};
use crate::migrate::{
    Adopted, AdoptedRelay, Ground, Scope, SnapshotBytes, SnapshotError, WorkerSection, encode,
};
use crate::shared::ports::{Parity, PortLease, PortPool};
use crate::stats::EndReason;
use crate::table::{Allocation, AllocationId, Place};

/// Where the snapshot of a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportCursor(Stage);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Deletions(usize),
    EndedAllocates(usize),
    Allocations(u32),
}

/// What has been found out about a section on the way.
#[derive(Default)]
struct Course {
    adopted: Adopted,
    /// To be told to the kernel program once more.
    forwarded: Vec<AllocationId>,
    /// What can't go on: an allocation, or its relayed address of a family.
    unfit: Vec<(AllocationId, Option<Family>)>,
    /// Connections with peers that are not here.
    lost: Vec<ConnectionId>,
    /// Allocations by their old numbers, where those bindings are looked for that have not been forgotten.
    numbers: HashMap<u64, AllocationId>,
    /// Sockets by their old names.
    relays: HashMap<RelaySocket, RelaySocket>,
}

impl Server {
    /// A part of this worker's snapshot, and where it goes on; begins without a cursor. With the first part it settles
    /// what waits for the kernel plane: outputs are to be carried out before sockets are given away.
    pub fn export(
        &mut self,
        now: Now,
        scope: Scope,
        cursor: Option<ExportCursor>,
    ) -> (SnapshotBytes, Option<ExportCursor>) {
        let (records, next) = match cursor.map(|cursor| cursor.0) {
            None => {
                for released in self.table.settle(now.mono_ns) {
                    self.emit_released(released);
                }
                (vec![Record::Worker(Box::new(self.image(now, scope)))], Some(Stage::Deletions(0)))
            }
            Some(Stage::Deletions(place)) => {
                let part = self.deletions.part(place, MAX_ENTRIES_EXPORTED);
                let next = place + part.len();
                let is_all = next >= self.deletions.len();
                let next = if is_all { Stage::EndedAllocates(0) } else { Stage::Deletions(next) };
                (vec![Record::Recent(RecentKind::Deletions, part)], Some(next))
            }
            Some(Stage::EndedAllocates(place)) => {
                let part = self.ended_allocates.part(place, MAX_ENTRIES_EXPORTED);
                let next = place + part.len();
                let is_all = next >= self.ended_allocates.len();
                let next = if is_all { Stage::Allocations(0) } else { Stage::EndedAllocates(next) };
                (vec![Record::Recent(RecentKind::EndedAllocates, part)], Some(next))
            }
            Some(Stage::Allocations(place)) => self.export_allocations(scope, place),
        };
        (encode(&records), next.map(ExportCursor))
    }

    /// All parts at once, for who has nothing else to do meanwhile.
    pub fn export_all(&mut self, now: Now, scope: Scope) -> Vec<SnapshotBytes> {
        let (first, mut next) = self.export(now, scope, None);
        let mut parts = vec![first];
        while next.is_some() {
            let (part, then) = self.export(now, scope, next);
            parts.push(part);
            next = then;
        }
        parts
    }

    /// Whether a relay socket goes with a snapshot of that scope: it is open, and an allocation in it has it.
    pub fn is_exported(&self, scope: Scope, relay: RelaySocket) -> bool {
        let owner = self.table.owner(relay).and_then(|(id, _)| self.table.get(id));
        owner.is_some_and(|allocation| scope.includes(allocation.path().five_tuple.transport))
    }

    /// Another process goes on with what was exported of clients over UDP: it ends here, with the ticks that follow, and
    /// records of it mean nothing. No allocation is accepted any more.
    pub fn leave(&mut self) {
        self.draining = true;
        self.end_moved();
    }

    /// What was counted, without what stays behind with the clients of this process.
    fn counts_image(&self, scope: Scope) -> CountsImage {
        let mut counts = self.counts.clone();
        for transport in Transport::ALL.into_iter().filter(|transport| !scope.includes(*transport)) {
            counts.allocations_created -= counts.transports.live(transport);
            counts.transports.take_living(transport);
        }
        counts.image()
    }

    fn image(&self, now: Now, scope: Scope) -> WorkerImage {
        WorkerImage {
            worker: self.worker.0,
            next_number: self.table.next_number(),
            rng: RngImage {
                seed: Secret(self.rng.get_seed()),
                stream: self.rng.get_stream(),
                word_pos: self.rng.get_word_pos(),
            },
            draining: self.draining,
            sweeps: self.sweeps.image(),
            strangers: self.strangers.image(),
            reservations: self.table.watched_reservations(now.mono_ns),
            ended_connections: self.table.ended_connections().map(|id| id.0).collect(),
            counts: self.counts_image(scope),
        }
    }

    fn export_allocations(&self, scope: Scope, place: u32) -> (Vec<Record>, Option<Stage>) {
        let (found, mut next) = self.table.walk(place, MAX_PLACES_WALKED);
        let (mut records, mut entries) = (Vec::new(), 0);
        let is_meant = |allocation: &Allocation| scope.includes(allocation.path().five_tuple.transport);
        for (id, allocation) in found.filter(|(_, allocation)| is_meant(allocation)) {
            if records.len() == MAX_EXPORTED || entries >= MAX_ENTRIES_EXPORTED {
                next = Some(id.place());
                break;
            }
            entries += allocation.entries();
            records.extend(self.table.image(id).map(|image| Record::Allocation(Box::new(image))));
        }
        if next.is_none() {
            records.extend(self.table.withdrawn_images().into_iter().map(Record::Withdrawn));
        }
        (records, next.map(Stage::Allocations))
    }

    /// Goes on with what a worker of another process had: with the same number all of it, else what does not depend on
    /// the number. Of several sections the own one comes first. To be called before anything else, after
    /// [`Shared::adopt`](crate::shared::Shared::adopt). Who is allowed no more by users or policy in force ends with
    /// the ticks that follow.
    ///
    /// # Errors
    /// If no worker can have been in such a state; the server is to be dropped then.
    pub fn adopt(
        &mut self,
        now: Now,
        section: &WorkerSection,
        ground: &impl Ground,
    ) -> Result<Adopted, SnapshotError> {
        let mut course = Course::default();
        self.adopt_worker(now, &section.image)?;
        for record in &section.records {
            match record {
                Record::Recent(kind, entries) => self.adopt_recent(now, *kind, entries),
                Record::Allocation(image) => self.adopt_allocation(now, image, ground, &mut course)?,
                Record::Withdrawn(image) if ground.keeps_plane() => self.adopt_withdrawn(image, &course),
                Record::Withdrawn(_) => {}
                Record::Shared(_) | Record::Worker(_) => {
                    return Err(SnapshotError::Contradiction("a section has another one in it"));
                }
            }
        }
        self.check_live()?;
        self.emit_withdrawals();
        self.adopt_sweeps(section)?;
        course.forwarded.iter().for_each(|id| self.offload_adopted(*id, ground.keeps_plane()));
        for id in course.lost {
            self.outputs.push_back(Output::CloseConnection(id));
            self.handle_connection_closed(id);
        }
        for (id, family) in course.unfit {
            match family {
                Some(family) => self.end_half(now, id, family, EndReason::NotAdopted),
                None => self.end_allocation(now, id, EndReason::NotAdopted),
            }
        }
        self.recheck_all();
        self.emit_withdrawals();
        Ok(course.adopted)
    }

    fn adopt_worker(&mut self, now: Now, image: &WorkerImage) -> Result<(), SnapshotError> {
        if WorkerId::of_allocation(image.next_number) != WorkerId(image.worker) {
            return Err(SnapshotError::Contradiction("a worker has another one's numbers"));
        }
        if image.worker == self.worker.0 {
            self.table.go_on_from(image.next_number);
            self.rng = ChaCha12Rng::from_seed(image.rng.seed.0);
            self.rng.set_stream(image.rng.stream);
            self.rng.set_word_pos(image.rng.word_pos);
            self.strangers.adopt(&image.strangers);
            let ended = image.ended_connections.iter().take(MAX_ENDED_CONNECTIONS);
            self.table.adopt_ended_connections(ended.map(|id| ConnectionId(*id)));
        }
        self.draining |= image.draining;
        self.counts.adopt(&image.counts)?;
        for (token, ends_ns) in &image.reservations {
            plausible(*ends_ns)?;
            self.table.watch_reservation(*token, (*ends_ns).max(now.mono_ns));
        }
        Ok(())
    }

    fn adopt_sweeps(&mut self, section: &WorkerSection) -> Result<(), SnapshotError> {
        let is_own = section.worker() == self.worker;
        let below = self.table.next_number();
        self.sweeps.adopt(&section.image.sweeps, |old| if is_own { old } else { below })
    }

    fn adopt_recent(&mut self, now: Now, kind: RecentKind, entries: &[(u64, u64)]) {
        let memory = match kind {
            RecentKind::Deletions => &mut self.deletions,
            RecentKind::EndedAllocates => &mut self.ended_allocates,
        };
        entries.iter().for_each(|(hash, ends_ns)| memory.adopt(now, *hash, *ends_ns));
    }

    fn adopt_allocation(
        &mut self,
        now: Now,
        image: &AllocationImage,
        ground: &impl Ground,
        course: &mut Course,
    ) -> Result<(), SnapshotError> {
        let mut path = ClientPath::try_from(image.path)?;
        let socket = ground.client_socket(&path);
        let leases: Vec<Option<PortLease>> = (image.halves.iter())
            .map(|half| SocketAddr::from(half.relayed))
            .map(|relayed| self.shared.claim_port(relayed.ip(), relayed.port()))
            .collect();
        let is_whole = socket.is_some() && leases.iter().all(Option::is_some);
        if image.live_since_ns.is_none() && !is_whole {
            // Its client was not answered yet, and asks again.
            return Ok(());
        }
        path.socket = socket.unwrap_or(path.socket);
        let lost: Vec<Family> = (image.halves.iter().zip(&leases))
            .filter(|(_, lease)| lease.is_none())
            .map(|(half, _)| Family::of(&SocketAddr::from(half.relayed).ip()))
            .collect();
        let id = self.place(image, path, leases, ground, course)?;
        self.adopt_connections(id, image, ground, course)?;
        if let Some(since_ns) = image.live_since_ns {
            if since_ns > now.mono_ns + SECOND_NS {
                return Err(SnapshotError::Contradiction("an allocation began in the future"));
            }
            course.forwarded.push(id);
            self.counts.tcp_relay.allocations += self.table.get(id).map_or(0, relays_tcp);
        }
        match (socket, lost.len()) {
            (None, _) => {
                course.adopted.without_client += 1;
                course.unfit.push((id, None));
            }
            (_, lost) if lost == image.halves.len() => {
                course.adopted.without_relay += 1;
                course.unfit.push((id, None));
            }
            _ => {
                course.adopted.kept += 1;
                course.unfit.extend(lost.into_iter().map(|family| (id, Some(family))));
            }
        }
        Ok(())
    }

    /// Gives an allocation its place in the table. A port that is not to be had is leased from nobody, until its half
    /// ends.
    fn place(
        &mut self,
        image: &AllocationImage,
        path: ClientPath,
        leases: Vec<Option<PortLease>>,
        ground: &impl Ground,
        course: &mut Course,
    ) -> Result<AllocationId, SnapshotError> {
        let identity = self.shared.auth.adopt(&image.identity)?;
        let quota = self.shared.quotas.hold(&identity.quota_user);
        let ports = image.halves.iter().map(|half| SocketAddr::from(half.relayed).port());
        let nobodys = |port| PortPool::new(port..=port).take(Parity::Any, 0);
        let leases = ports.zip(leases).filter_map(|(port, lease)| lease.or_else(|| nobodys(port))).collect();
        let is_own = WorkerId::of_allocation(image.number) == self.worker;
        if is_own && image.number >= self.table.next_number() {
            return Err(SnapshotError::Contradiction("an allocation has a number of the future"));
        }
        let number = if is_own { image.number } else { self.table.take_number() };
        let rate = Rate::new(plausible(image.bitrate_bits)?, self.shared.config.burst_ms);
        let shared = Arc::clone(&self.shared);
        let plane = shared.plane().filter(|_| ground.keeps_plane());
        if !self.shared.directory.claim(&path.five_tuple, self.worker) {
            return Err(SnapshotError::Contradiction("two workers have the same client"));
        }
        let (id, relays) =
            self.table.adopt(image, Place { number, path, identity, quota, rate, leases, plane })?;
        course.numbers.insert(image.number, id);
        course.relays.extend(relays.iter().map(|relay| (relay.was, relay.relay)));
        for (half, relay) in image.halves.iter().zip(relays) {
            match half.open {
                true => course.adopted.relays.push(relay),
                false => self.open_again(id, relay),
            }
        }
        Ok(id)
    }

    /// A port that was being opened is asked for once more.
    fn open_again(&mut self, id: AllocationId, AdoptedRelay { relay, address, transport, .. }: AdoptedRelay) {
        if transport == RelayedTransport::Tcp {
            return self.outputs.push_back(Output::Listen { relay, address });
        }
        let token = self.table.get(id).and_then(|allocation| allocation.request().token);
        let is_pair = token.is_some_and(|token| self.shared.reservations.has(token));
        let above = || RelayedAddr(SocketAddr::new(address.ip(), address.port() + 1));
        let reserve = (is_pair && address.port() < u16::MAX).then(above);
        self.outputs.push_back(Output::OpenPort { relay, address, reserve });
    }

    fn adopt_connections(
        &mut self,
        id: AllocationId,
        image: &AllocationImage,
        ground: &impl Ground,
        course: &mut Course,
    ) -> Result<(), SnapshotError> {
        for connection in &image.connections {
            let was = ConnectionId(connection.id);
            let is_own = was.worker() == self.worker;
            let now_called = if is_own { was } else { self.new_connection_id() };
            self.table.adopt_connection(id, now_called, connection)?;
            course.adopted.connections.push((was, now_called));
            // Its client knows it by a name that brings a ConnectionBind to the wrong worker, unless that has come.
            let is_bound = matches!(connection.state, ConnectionStateImage::Bound);
            if !ground.has_connection(was) || !is_own && !is_bound {
                course.lost.push(now_called);
            }
        }
        Ok(())
    }

    fn adopt_withdrawn(&mut self, image: &WithdrawnImage, course: &Course) {
        let owner = image.owner.and_then(|number| course.numbers.get(&number).copied());
        let (index, generation) = image.relay;
        let relay = course.relays.get(&RelaySocket { index, generation }).copied();
        if let Some(plane) = self.shared.plane() {
            self.table.adopt_withdrawn(image, owner, relay, plane);
        }
    }

    /// There can't live more than have begun and not ended.
    fn check_live(&self) -> Result<(), SnapshotError> {
        let mut live = [0; Transport::ALL.len()];
        let (allocations, _) = self.table.walk(0, usize::MAX);
        for (_, allocation) in allocations.filter(|(_, allocation)| allocation.live_since_ns().is_some()) {
            live[allocation.path().five_tuple.transport as usize] += 1;
        }
        let counts = &self.counts;
        let is_counted = Transport::ALL.iter().all(|it| counts.transports.live(*it) >= live[*it as usize])
            && counts.allocations_created - counts.allocations_ended >= live.iter().sum();
        match is_counted {
            true => Ok(()),
            false => Err(SnapshotError::Contradiction("more allocations live than have begun")),
        }
    }
}
