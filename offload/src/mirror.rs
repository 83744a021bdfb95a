//! Keeps the program's maps equal to what the core wants, as far as the host's routing allows it.
//!
//! ```text
//!   told ─────┐                ┌─ next hops that nobody used yet
//!   neighbours├─► what should be? ─┤  inserts ─► Done                       one round
//!   routes   ─┘                    │  deletes ─► grace period ─► Withdrawn
//!                                  └─ inserts that had to wait ─► Done
//! ```
//!
//! One writer, no thread of its own: [`super::service`] has the thread, the sockets and the clock.
//!
//! Invariant: between deleting a route and inserting any other there is a grace period, since the other one may get
//! its entry while a run of the program still reads it.
//! Invariant: a route is never changed, only deleted and inserted.

use std::collections::HashMap;
use std::net::IpAddr;

use tracing::{debug, error};
use turnpike_abi::{Config, NextHop, Route, RouteKey};
use turnpike_proto::{OffloadBinding, SlotName, WhyNot, WorkerId};

use super::hub::{Answer, ToMirror};
use super::limits::RECHECKS_PER_ROUND;
use super::maps::{Maps, MapsError};
use super::netlink::Mac;
use super::nexthop::{NextHops, PathId, Place, Port, Routing, with_interfaces};
use super::routes::{self, Placement};
use super::status::Counts;

/// The maps, or a double of them.
pub trait Kernel {
    /// Adds a route; an error if there is one.
    fn insert_route(&mut self, key: &RouteKey, route: &Route) -> Result<(), MapsError>;
    /// Deletes a route; `false` if there was none.
    fn remove_route(&mut self, key: &RouteKey) -> bool;
    /// Every route.
    fn routes(&self) -> Vec<(RouteKey, Route)>;
    /// Writes a next hop that no route names.
    fn set_next_hop(&mut self, slot: u32, next_hop: NextHop) -> Result<(), MapsError>;
    /// Changes next hops that may be in use.
    fn replace_next_hops(&mut self, changes: &[(u32, NextHop)]) -> Result<(), MapsError>;
    /// Puts another configuration in place.
    fn replace_config(&mut self, new: &Config) -> Result<(), MapsError>;
    /// Waits until no run of the program sees what was deleted before.
    fn grace_period(&self) -> Result<(), MapsError>;
}

impl Kernel for Maps {
    fn insert_route(&mut self, key: &RouteKey, route: &Route) -> Result<(), MapsError> {
        Maps::insert_route(self, key, route)
    }

    fn remove_route(&mut self, key: &RouteKey) -> bool {
        Maps::remove_route(self, key)
    }

    fn routes(&self) -> Vec<(RouteKey, Route)> {
        Maps::routes(self)
    }

    fn set_next_hop(&mut self, slot: u32, next_hop: NextHop) -> Result<(), MapsError> {
        Maps::set_next_hop(self, slot, next_hop)
    }

    fn replace_next_hops(&mut self, changes: &[(u32, NextHop)]) -> Result<(), MapsError> {
        Maps::replace_next_hops(self, changes)
    }

    fn replace_config(&mut self, new: &Config) -> Result<(), MapsError> {
        Maps::replace_config(self, new)
    }

    fn grace_period(&self) -> Result<(), MapsError> {
        Maps::grace_period(self)
    }
}

/// A binding that the core wants in the kernel.
struct Entry {
    worker: WorkerId,
    binding: Box<OffloadBinding>,
    /// `None` if the peer is a relayed address of ours.
    to_peer: Option<PathId>,
    to_client: PathId,
    /// How its routes are in the kernel, if they are.
    placed: Option<Placement>,
    /// What the worker was told last.
    told: Option<Result<(), WhyNot>>,
    /// The kernel did not take its routes.
    refused: Option<WhyNot>,
}

/// What should be, what is, and the way from one to the other.
pub struct Mirror {
    /// By slot of the binding.
    entries: HashMap<u32, Entry>,
    next_hops: NextHops,
    config: Config,
    /// Every entry has to be looked at: routing has changed.
    dirty: bool,
    /// The next path to be looked up again, while that is going on.
    recheck_from: Option<usize>,
    /// Routes have changed again meanwhile.
    recheck_again: bool,
    /// Where the slow look at all paths goes on.
    patrol: usize,
    differences: u64,
    routes: u64,
    /// The counts may have changed since somebody asked.
    touched: bool,
}

/// What a round is going to do.
#[derive(Default)]
struct Plan {
    /// Bindings to be inserted.
    inserts: Vec<u32>,
    /// Routes to be deleted.
    deletes: Vec<RouteKey>,
    /// Withdrawals to be answered.
    withdrawn: Vec<(WorkerId, SlotName)>,
}

/// What was answered, in the order of it.
pub type Answers = Vec<(WorkerId, Answer)>;

impl Mirror {
    /// Nothing is in the maps, and the program is switched off.
    pub fn new(next_hop_entries: u32) -> Mirror {
        Mirror {
            entries: HashMap::new(),
            next_hops: NextHops::new(next_hop_entries),
            config: Config::OFF,
            dirty: false,
            recheck_from: None,
            recheck_again: false,
            patrol: 0,
            differences: 0,
            routes: 0,
            touched: false,
        }
    }

    /// Other interfaces, or another configuration, whose interfaces are filled in here. What is added, and what stays,
    /// goes on meanwhile. What goes over an interface that is left, or has another MAC address or MTU, leaves the kernel
    /// first: these are in routes and next hops.
    ///
    /// # Errors
    /// If the maps can't be written.
    pub fn reconfigure(
        &mut self,
        kernel: &mut impl Kernel,
        ports: Vec<Port>,
        config: &Config,
    ) -> Result<(), MapsError> {
        let places = self.next_hops.arrange(ports);
        let changed = self.next_hops.changed(&places);
        if changed != 0 {
            self.put_config(kernel, &with_interfaces(config, &places, changed))?;
            self.leave_interfaces(kernel, changed)?;
        }
        self.put_config(kernel, &with_interfaces(config, &places, 0))?;
        if *self.next_hops.places() != places {
            let is_moved = changed != 0 || self.next_hops.has_new(&places);
            self.next_hops.replace_ports(places);
            // Other ways in, a bond's after a failover, change nothing about ways out.
            if is_moved {
                self.next_hops.drained();
                if self.next_hops.path_count() > 0 {
                    self.recheck_all();
                }
                self.dirty = true;
            }
        }
        Ok(())
    }

    /// A device loses what is sent to it, or may be tried again.
    pub fn set_distrusted(&mut self, place: usize, is_distrusted: bool) {
        self.dirty |= self.next_hops.set_distrusted(place, is_distrusted);
    }

    /// The place of a device that the program is on.
    pub fn place_of(&self, device: u32) -> Option<usize> {
        self.next_hops.device_place(device)
    }

    /// Whether an interface is among those whose frames the program sees.
    pub fn has_port(&self, ifindex: u32) -> bool {
        self.next_hops.places().ports.iter().flatten().any(|port| port.ifindex == ifindex)
    }

    fn put_config(&mut self, kernel: &mut impl Kernel, config: &Config) -> Result<(), MapsError> {
        if *config != self.config {
            kernel.replace_config(config)?;
            self.config = *config;
        }
        Ok(())
    }

    /// Takes out of the kernel what goes over interfaces, a bit for each place.
    fn leave_interfaces(&mut self, kernel: &mut impl Kernel, places: u16) -> Result<(), MapsError> {
        for entry in self.entries.values_mut() {
            // Who comes in on an interface is answered by it, so these are the next hops' interfaces, too.
            let is_affected = |placed: &mut Placement| (placed.client_side | placed.peer_side) & places != 0;
            if entry.placed.take_if(is_affected).is_some() {
                for key in routes::keys(&entry.binding) {
                    if kernel.remove_route(&key) {
                        self.routes = self.routes.saturating_sub(1);
                    }
                }
            }
        }
        kernel.grace_period()
    }

    /// Routes have changed: look up every path again, in the rounds to come.
    pub fn recheck_all(&mut self) {
        // Begun anew each time, it would never come to the last ones.
        match self.recheck_from {
            None => self.recheck_from = Some(0),
            Some(_) => self.recheck_again = true,
        }
    }

    /// The way from one of our addresses to a destination may have changed.
    pub fn recheck(&mut self, routing: &mut impl Routing, source: IpAddr, destination: IpAddr) {
        if let Some(path) = self.next_hops.path_between(source, destination) {
            self.dirty |= self.next_hops.recheck(routing, path);
        }
    }

    /// A neighbour has another MAC address, or none.
    pub fn set_neighbour(&mut self, ifindex: u32, ip: IpAddr, mac: Option<Mac>) {
        self.dirty |= self.next_hops.set_neighbour(ifindex, ip, mac);
    }

    /// All neighbours there are.
    pub fn replace_neighbours(&mut self, all: Vec<(u32, IpAddr, Mac)>) {
        self.dirty |= self.next_hops.replace_neighbours(all);
    }

    /// All neighbours there are, of an interface that is not among the ports yet.
    pub fn expect_neighbours(&mut self, all: Vec<(u32, IpAddr, Mac)>) {
        self.next_hops.expect_neighbours(all);
    }

    /// Keeps the neighbours in use from being forgotten.
    pub fn probe_neighbours(&mut self, routing: &mut impl Routing) {
        self.next_hops.probe_all(routing);
    }

    /// Whether the kernel forwards anything.
    pub fn has_routes(&self) -> bool {
        self.routes > 0
    }

    /// Whether another round is due without any news.
    pub fn has_more(&self) -> bool {
        self.dirty || self.recheck_from.is_some()
    }

    /// Whether the counts may have changed since this was asked last.
    pub fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    /// For the status. Looks at every binding.
    pub fn counts(&self) -> Counts {
        let told = |entry: &&Entry| entry.told == Some(Ok(()));
        let bindings = self.entries.values().filter(told).count() as u64;
        Counts {
            routes: self.routes,
            bindings,
            waiting: self.entries.len() as u64 - bindings,
            differences: self.differences,
        }
    }

    /// Carries out what workers want, and whatever follows from changes. `answer` is called with what there is to
    /// say, once before the grace period and once after it.
    ///
    /// # Errors
    /// If the maps can't be written or waited for: then nobody knows what the program does.
    pub fn round(
        &mut self,
        kernel: &mut impl Kernel,
        routing: &mut impl Routing,
        told: Vec<(WorkerId, ToMirror)>,
        mut answer: impl FnMut(&mut Answers),
    ) -> Result<(), MapsError> {
        let mut plan = Plan::default();
        let mut answers = Answers::new();
        self.touched |= !told.is_empty();
        for (worker, wanted) in told {
            match wanted {
                ToMirror::Offload(binding) => self.add(&mut plan, routing, worker, binding),
                ToMirror::Withdraw(name) => self.leave(&mut plan, worker, name),
            }
        }
        self.go_on_rechecking(routing);
        if std::mem::take(&mut self.dirty) {
            self.touched = true;
            self.look_at_all(&mut plan, &mut answers);
        }
        self.write_next_hops(kernel)?;
        let inserts = std::mem::take(&mut plan.inserts);
        let late = self.insert(kernel, &inserts, &mut plan.deletes, &mut answers);
        answer(&mut answers);
        self.delete(kernel, &plan.deletes)?;
        let mut halves = Vec::new();
        for slot in self.insert(kernel, &late, &mut halves, &mut answers) {
            self.refuse(slot, &mut answers);
        }
        self.delete(kernel, &halves)?;
        answers.extend(plan.withdrawn.into_iter().map(|(worker, name)| (worker, Answer::Withdrawn(name))));
        answer(&mut answers);
        Ok(())
    }

    /// Compares the route map with what should be in it and repairs what differs; counts it.
    ///
    /// # Errors
    /// If the maps can't be read or written.
    pub fn resync(&mut self, kernel: &mut impl Kernel, routing: &mut impl Routing) -> Result<(), MapsError> {
        let mut expected = HashMap::new();
        for (slot, entry) in &self.entries {
            if let Some(place) = entry.placed {
                expected
                    .extend(routes::routes(&entry.binding, place).map(|(key, route)| (key, (route, *slot))));
            }
        }
        let mut wrong = Vec::new();
        for (key, route) in kernel.routes() {
            match expected.get(&key) {
                Some((wanted, _)) if *wanted == route => {
                    expected.remove(&key);
                }
                _ => wrong.push(key),
            }
        }
        // What is left is missing, or another route has its key.
        let mut broken: Vec<u32> = expected.values().map(|(_, slot)| *slot).collect();
        broken.sort_unstable();
        broken.dedup();
        let differences = wrong.iter().filter(|key| !expected.contains_key(key)).count() + expected.len();
        if differences > 0 {
            self.differences += differences as u64;
            error!(differences, "the kernel's routes were not as they should be; repaired");
        }
        for slot in broken {
            if let Some(entry) = self.entries.get_mut(&slot) {
                entry.placed = None;
                wrong.extend(routes::keys(&entry.binding));
            }
        }
        for key in &wrong {
            kernel.remove_route(key);
        }
        if !wrong.is_empty() {
            kernel.grace_period()?;
        }
        self.routes = self.entries.values().filter(|entry| entry.placed.is_some()).count() as u64 * 2;
        // What was refused is tried again.
        self.entries.values_mut().for_each(|entry| entry.refused = None);
        self.patrol(routing);
        self.dirty = true;
        Ok(())
    }

    /// Looks some paths up again: the kernel tells nobody that it has learned a smaller MTU, or
    /// forgotten it.
    fn patrol(&mut self, routing: &mut impl Routing) {
        let count = self.next_hops.path_count();
        for _ in 0..RECHECKS_PER_ROUND.min(count) {
            self.patrol = (self.patrol + 1) % count;
            self.dirty |= self.next_hops.recheck(routing, self.patrol);
        }
    }

    fn add(
        &mut self,
        plan: &mut Plan,
        routing: &mut impl Routing,
        worker: WorkerId,
        binding: Box<OffloadBinding>,
    ) {
        let slot = binding.binding.slot;
        if let Some(old) = self.entries.remove(&slot) {
            error!(slot, "a slot was used again before it was withdrawn");
            self.differences += 1;
            self.forget(plan, old);
        }
        let to_peer = (!binding.internal)
            .then(|| self.next_hops.acquire(routing, binding.relayed.ip(), binding.peer.ip(), binding.user));
        let to_client =
            self.next_hops.acquire(routing, binding.server.ip(), binding.client.ip(), binding.user);
        let entry = Entry { worker, binding, to_peer, to_client, placed: None, told: None, refused: None };
        self.entries.insert(slot, entry);
        plan.inserts.push(slot);
    }

    fn leave(&mut self, plan: &mut Plan, worker: WorkerId, name: SlotName) {
        plan.withdrawn.push((worker, name));
        let is_named = |entry: &Entry| entry.binding.binding == name;
        if self.entries.get(&name.slot).is_some_and(is_named)
            && let Some(entry) = self.entries.remove(&name.slot)
        {
            self.forget(plan, entry);
        }
    }

    fn forget(&mut self, plan: &mut Plan, entry: Entry) {
        if entry.placed.is_some() {
            plan.deletes.extend(routes::keys(&entry.binding));
        }
        entry.to_peer.into_iter().for_each(|path| self.next_hops.release(path));
        self.next_hops.release(entry.to_client);
    }

    fn go_on_rechecking(&mut self, routing: &mut impl Routing) {
        let Some(from) = self.recheck_from else { return };
        let count = self.next_hops.path_count();
        let to = (from + RECHECKS_PER_ROUND).min(count);
        for path in from..to {
            self.dirty |= self.next_hops.recheck(routing, path);
        }
        self.recheck_from = match to < count {
            true => Some(to),
            false => std::mem::take(&mut self.recheck_again).then_some(0),
        };
    }

    /// Moves every entry to where it should be now.
    fn look_at_all(&mut self, plan: &mut Plan, answers: &mut Answers) {
        for (slot, entry) in &mut self.entries {
            let wanted = place(&self.next_hops, entry);
            match (entry.placed, wanted) {
                (Some(is), Ok((should, state))) if is == should => tell(entry, state, answers),
                (Some(_), _) => {
                    entry.placed = None;
                    plan.deletes.extend(routes::keys(&entry.binding));
                    plan.inserts.push(*slot);
                }
                (None, _) => plan.inserts.push(*slot),
            }
        }
    }

    fn write_next_hops(&mut self, kernel: &mut impl Kernel) -> Result<(), MapsError> {
        let mut in_use = Vec::new();
        for update in self.next_hops.take_updates() {
            match update.in_use {
                true => in_use.push((u32::from(update.slot), update.value)),
                false => kernel.set_next_hop(u32::from(update.slot), update.value)?,
            }
        }
        if !in_use.is_empty() {
            kernel.replace_next_hops(&in_use)?;
        }
        Ok(())
    }

    /// Deletes routes, and waits until they are gone for everybody.
    fn delete(&mut self, kernel: &mut impl Kernel, keys: &[RouteKey]) -> Result<(), MapsError> {
        for key in keys {
            if kernel.remove_route(key) {
                self.routes = self.routes.saturating_sub(1);
            }
        }
        if !keys.is_empty() || self.next_hops.is_draining() {
            kernel.grace_period()?;
            self.next_hops.drained();
        }
        Ok(())
    }

    /// Inserts bindings as far as their ways are known; gives back those whose keys are still taken, with
    /// the route in `halves` that was inserted all the same.
    fn insert(
        &mut self,
        kernel: &mut impl Kernel,
        slots: &[u32],
        halves: &mut Vec<RouteKey>,
        answers: &mut Answers,
    ) -> Vec<u32> {
        let (mut late, mut inserted) = (Vec::new(), Vec::with_capacity(2));
        for slot in slots {
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            if entry.placed.is_some() {
                continue;
            }
            let wanted = match (entry.refused, place(&self.next_hops, entry)) {
                (Some(why), _) | (None, Err(why)) => Err(why),
                (None, Ok((should, state))) => state.map(|()| should),
            };
            let should = match wanted {
                Ok(should) => should,
                Err(why) => {
                    tell(entry, Err(why), answers);
                    continue;
                }
            };
            // The way back first: what goes out is answered.
            for (key, route) in routes::routes(&entry.binding, should).iter().rev() {
                match kernel.insert_route(key, route) {
                    Ok(()) => {
                        self.routes += 1;
                        inserted.push(*key);
                    }
                    Err(error) => debug!(slot, %error, "a route was not inserted"),
                }
            }
            if inserted.len() == 2 {
                entry.placed = Some(should);
                [should.to_peer, should.to_client].into_iter().for_each(|hop| self.next_hops.use_slot(hop));
                tell(entry, Ok(()), answers);
            } else {
                halves.append(&mut inserted);
                late.push(*slot);
            }
            inserted.clear();
        }
        late
    }

    /// The kernel did not take the routes, although nothing of ours has their keys.
    fn refuse(&mut self, slot: u32, answers: &mut Answers) {
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.refused = Some(WhyNot::Refused);
            tell(entry, Err(WhyNot::Refused), answers);
        }
    }
}

/// Where an entry's routes lead, and whether frames can be sent there now.
fn place(next_hops: &NextHops, entry: &Entry) -> Result<(Placement, Result<(), WhyNot>), WhyNot> {
    let to_client = next_hops.place(entry.to_client)?;
    // Nobody but the program itself sends from one relayed address of ours to another.
    let inside =
        Place { slot: 0, interface: 0, device: 0, state: Ok(()), redirects: true, sends_back: false };
    let to_peer = entry.to_peer.map_or(Ok(inside), |path| next_hops.place(path))?;
    // By the device it came in on it is sent back, which every driver can that has no queues for more.
    let is_sent_back = to_client.device == to_peer.device && to_client.sends_back;
    if !(is_sent_back || to_client.redirects && to_peer.redirects) {
        return Err(WhyNot::Transmit);
    }
    let placement = Placement {
        to_peer: to_peer.slot,
        to_client: to_client.slot,
        client_side: to_client.interface,
        peer_side: to_peer.interface,
    };
    Ok((placement, to_client.state.and(to_peer.state)))
}

/// Tells the worker, unless it knows.
fn tell(entry: &mut Entry, state: Result<(), WhyNot>, answers: &mut Answers) {
    if entry.told == Some(state) {
        return;
    }
    entry.told = Some(state);
    let name = entry.binding.binding;
    answers.push((
        entry.worker,
        match state {
            Ok(()) => Answer::Done(name),
            Err(why) => Answer::Failed(name, why),
        },
    ));
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
