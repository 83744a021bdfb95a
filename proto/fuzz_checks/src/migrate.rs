//! Target `migrate`: snapshots of a server's state, whole, damaged and invented.
//!
//! A digest that fits comes with most of them, since nothing else would get past it. What is adopted has to go on
//! without a panic, to its end, and can be exported again.

use std::sync::Arc;

use turnpike_proto::limits::SECOND_NS;
use turnpike_proto::migrate::{Ground, Scope, Seal, Snapshot};
use turnpike_proto::settings::Settings;
use turnpike_proto::shared::Shared;
use turnpike_proto::shared::plane::PlainMemory;
use turnpike_proto::{
    ClientPath, ClientSocket, ConnectionId, Input as Event, Now, Output, Plane, Server, WorkerId,
};

use super::choices;
use super::input::Input;
use super::operations;
use super::world::World;

/// When invented records are adopted.
const LATE: Now = Now { mono_ns: 8000 * SECOND_NS, unix_secs: 1_700_008_000 };
/// Steps of the history before the snapshot.
const MAX_STEPS: usize = 40;

/// The first byte says what is made of the others: a snapshot as they are, records for one, or a history and what is
/// done to the snapshot that it ends with.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(8) {
        0 => drop(Snapshot::open(input.rest())),
        1 => drop(check(&sealed(input.rest()), &PlainMemory::new(4, 8), LATE, true)),
        _ => of_history(&mut input),
    }
}

fn of_history(input: &mut Input<'_>) {
    let mut world = World::new(input.u8());
    for _ in 0..input.below(MAX_STEPS) {
        operations::step(&mut world, input);
    }
    let (mut records, memory, now) = world.into_records();
    let edits = input.below(8);
    for _ in 0..edits {
        let place = usize::from(input.u16()) % records.len();
        match input.below(4) {
            0 => records.truncate(place.max(1)),
            1 => drop(records.splice(place..place, input.take(3).iter().copied())),
            _ => records[place] ^= input.u8(),
        }
    }
    let is_adopted = check(&sealed(&records), &memory, now, input.u8() & 1 == 0);
    assert!(is_adopted || edits > 0, "what a server has exported can be adopted");
}

fn sealed(records: &[u8]) -> Vec<u8> {
    let (mut seal, mut bytes) = Seal::begin();
    seal.add(records);
    bytes.extend(records);
    bytes.extend(seal.end());
    bytes
}

/// Everything has come along; the kernel's memory perhaps.
struct All {
    plane: bool,
}

impl Ground for All {
    fn client_socket(&self, path: &ClientPath) -> Option<ClientSocket> {
        Some(path.socket)
    }

    fn has_connection(&self, _: ConnectionId) -> bool {
        true
    }

    fn keeps_plane(&self) -> bool {
        self.plane
    }
}

/// Whether two workers go on with it.
fn check(bytes: &[u8], memory: &Arc<PlainMemory>, mut now: Now, plane: bool) -> bool {
    let Some(mut workers) = adopt(bytes, memory, now, plane) else { return false };
    for _ in 0..12 {
        workers.iter_mut().for_each(|worker| carry_out(worker, now));
        now = Now { mono_ns: now.mono_ns + 400 * SECOND_NS, unix_secs: now.unix_secs + 400 };
        workers.iter_mut().for_each(|worker| worker.handle_input(now, Event::Tick));
        workers.iter_mut().for_each(|worker| drop(worker.export_all(now, Scope::All)));
    }
    true
}

fn adopt(bytes: &[u8], memory: &Arc<PlainMemory>, now: Now, plane: bool) -> Option<Vec<Server>> {
    let mut snapshot = Snapshot::open(bytes).ok()?;
    let choices = choices::settings(|_| false);
    let memory = Arc::<PlainMemory>::clone(memory);
    let relays = choices::relay_ips(&choices::relays(|_| false));
    let seed = *snapshot.seed();
    let shared = Shared::new(Settings { relays, plane: Some(Plane::new(memory)), seed, ..choices });
    shared.adopt(&snapshot, |_| true).ok()?;
    let mut workers: Vec<_> =
        (0..2).map(|n| Server::new(Arc::clone(&shared), WorkerId(n), [n as u8 + 1; 32])).collect();
    for section in snapshot.take_sections() {
        let worker = &mut workers[section.worker().index() % 2];
        worker.adopt(now, &section, &All { plane }).ok()?;
    }
    Some(workers)
}

/// A host and a kernel that do what they are told.
fn carry_out(worker: &mut Server, now: Now) {
    for _ in 0..10_000 {
        let Some(output) = worker.poll_output() else { return };
        let event = match output {
            Output::OpenPort { relay, .. } | Output::Listen { relay, .. } => Event::PortOpened(relay),
            Output::ClosePort(relay) => Event::PortClosed(relay),
            Output::Offload(binding) => Event::OffloadDone(binding.binding),
            Output::Withdraw(name) => Event::OffloadWithdrawn(name),
            Output::Connect { connection, .. } => Event::PeerConnectFailed(connection),
            _ => continue,
        };
        worker.handle_input(now, event);
    }
    panic!("there is no end to what is wanted");
}
