//! A laboratory's server that goes on in another process: a restart without sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use turnpike_proto::migrate::{Adopted, Ground, Scope, Seal, Snapshot, SnapshotBytes, SnapshotError};
use turnpike_proto::shared::plane::PlainMemory;
use turnpike_proto::{ClientPath, ClientSocket, ConnectionId, Input, PlaneMemory};

use super::{Lab, Setup, addr};

/// What has come along to the other process.
#[derive(Clone, Debug)]
pub struct Luggage {
    /// Addresses that clients can't reach any more.
    pub gone_listeners: Vec<&'static str>,
    /// Connections, of clients and with peers.
    pub streams: bool,
    /// The memory that the kernel would share.
    pub plane: bool,
}

impl Default for Luggage {
    fn default() -> Self {
        Self { gone_listeners: Vec::new(), streams: true, plane: true }
    }
}

impl Ground for Luggage {
    fn client_socket(&self, path: &ClientPath) -> Option<ClientSocket> {
        let is_gone = self.gone_listeners.iter().any(|gone| addr(gone) == path.five_tuple.server);
        let is_here = self.streams || !path.five_tuple.transport.is_stream();
        (is_here && !is_gone).then_some(path.socket)
    }

    fn has_connection(&self, _: ConnectionId) -> bool {
        self.streams
    }

    fn keeps_plane(&self) -> bool {
        self.plane
    }
}

impl Lab {
    /// The state of the whole server, taken part by part.
    pub fn snapshot(&mut self) -> SnapshotBytes {
        self.snapshot_of(Scope::All)
    }

    /// The same of a part of it.
    pub fn snapshot_of(&mut self, scope: Scope) -> SnapshotBytes {
        let (mut seal, header) = Seal::begin();
        let mut parts = vec![SnapshotBytes::new(header)];
        for worker in 0..self.workers.len() {
            parts.extend(self.workers[worker].export_all(self.now, scope));
            self.carry_out(worker);
        }
        // Last, since ports may have been given back by then; it stands first.
        parts.insert(1, self.shared.export(self.now));
        parts[1..].iter().for_each(|part| seal.add(part));
        let mut bytes = SnapshotBytes::new(parts.iter().flat_map(|part| &part[..]).copied().collect());
        bytes.extend(seal.end());
        bytes
    }

    /// The laboratory in which another process, of this set-up, has adopted a snapshot; the host is the same. Also what
    /// became of each section.
    ///
    /// # Errors
    /// If the snapshot is refused.
    pub fn adopt(
        &self,
        setup: Setup,
        bytes: &[u8],
        luggage: &Luggage,
    ) -> Result<(Lab, Vec<Adopted>), SnapshotError> {
        let mut snapshot = Snapshot::open(bytes)?;
        let memory = luggage.plane.then(|| copy_of(&self.memory));
        let mut lab = Lab::over(setup, *snapshot.seed(), memory);
        (lab.now, lab.reserved, lab.occupied) = (self.now, self.reserved.clone(), self.occupied.clone());
        (lab.hold_ports, lab.hold_kernel) = (self.hold_ports, self.hold_kernel);
        // Bound, or about to be: then it is asked for once more.
        let has_socket = |address: SocketAddr| {
            self.reserved.contains(&address) || self.reserving.values().any(|it| *it == address)
        };
        lab.shared.adopt(&snapshot, |address| has_socket(address.0))?;
        let workers = lab.workers.len();
        for (worker, name) in &self.withdrawing {
            // It is withdrawn once more, so it has to be known.
            let known = self.withdrawn.iter().find(|binding| binding.binding == *name);
            lab.offloaded.extend(known.map(|binding| (worker % workers, *binding)));
        }
        let mut outcomes = Vec::new();
        for section in snapshot.take_sections() {
            let worker = section.worker().index() % workers;
            let adopted = lab.workers[worker].adopt(lab.now, &section, luggage)?;
            let relays = adopted.relays.iter();
            lab.open.extend(relays.map(|adopted| ((worker, adopted.relay), adopted.address.0)));
            lab.carry_out(worker);
            outcomes.push(adopted);
        }
        // The host answers in the order in which it was asked first.
        let asked = |address| self.pending.iter().position(|(.., asked)| *asked == address);
        lab.pending.sort_by_key(|(.., address)| asked(*address));
        (0..workers).for_each(|worker| lab.input(worker, Input::Tick));
        Ok((lab, outcomes))
    }
}

/// What the kernel would share with the next process, as it is now.
fn copy_of(memory: &PlainMemory) -> Arc<PlainMemory> {
    let copy = PlainMemory::new(memory.allocations().len(), memory.bindings().len());
    let store = |from: &AtomicU64, to: &AtomicU64| to.store(from.load(Relaxed), Relaxed);
    for (from, to) in memory.bindings().iter().zip(copy.bindings()) {
        for (from, to) in [(&from.to_peer, &to.to_peer), (&from.to_client, &to.to_client)] {
            store(&from.lease_ns, &to.lease_ns);
            store(&from.generation, &to.generation);
        }
    }
    for (from, to) in memory.allocations().iter().zip(copy.allocations()) {
        for (from, to) in [(&from.to_peer, &to.to_peer), (&from.to_client, &to.to_client)] {
            store(&from.bucket, &to.bucket);
            store(&from.price, &to.price);
            store(&from.burst, &to.burst);
            store(&from.packets, &to.packets);
            store(&from.bytes, &to.bytes);
            store(&from.rate_drops, &to.rate_drops);
            store(&from.lease_ns, &to.lease_ns);
            store(&from.generation, &to.generation);
        }
    }
    copy
}
