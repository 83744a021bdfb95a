//! Next hops: by which way the program sends what it forwards.
//!
//! ```text
//!   (source, destination) ─► path ─► hop {interface, neighbour, MTU} ─► slot of NEXT_HOPS
//!                              ▲                  ▲
//!                 route changes, ICMP     neighbour's MAC address
//! ```
//!
//! Pure bookkeeping over [`Routing`]. Many paths share a hop, so a router that changes its MAC address is
//! one changed entry. A hop that nobody uses any more keeps its slot until [`NextHops::drained`]: routes
//! that name it may still be read. A neighbour whose MAC address was never known has no slot: clients may
//! name any number of addresses that nobody has.
//!
//! Invariant: only ways out of interfaces that the program is on become hops.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use turnpike_abi::{Config, Interface, MAX_INTERFACES, NextHop};
use turnpike_proto::limits::USER_SHARE_OF_FREE;
use turnpike_proto::{UserNumber, WhyNot};

use super::limits::MAX_UNKNOWN_PROBES;
use super::netlink::{Mac, Netlink, Way};

/// The kernel's routing, or a double of it.
pub trait Routing {
    /// Where a packet goes; `None` if nowhere that a frame could be sent to.
    fn way(&mut self, source: IpAddr, destination: IpAddr) -> io::Result<Option<Way>>;
    /// Asks for a neighbour's MAC address, and keeps it from being forgotten.
    fn probe(&mut self, ifindex: u32, neighbour: IpAddr) -> io::Result<()>;
}

impl Routing for Netlink {
    fn way(&mut self, source: IpAddr, destination: IpAddr) -> io::Result<Option<Way>> {
        Netlink::way(self, source, destination)
    }

    fn probe(&mut self, ifindex: u32, neighbour: IpAddr) -> io::Result<()> {
        Netlink::probe(self, ifindex, neighbour)
    }
}

/// An interface whose frames the program sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The kernel's index: what routes and neighbours name.
    pub ifindex: u32,
    /// Index of the device that the program is on and frames are sent by: the interface itself, or what it is on top of.
    pub device: u32,
    /// The VLAN that its frames are in there; 0 for none.
    pub vlan: u16,
    /// Indices of the devices that its frames come in on: the device, or ports of it if that is a bond.
    pub ways_in: Vec<u32>,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its driver transmits what is redirected to it; also where nobody knows.
    pub redirects: bool,
    /// Its driver sends back by it what came in on it (`XDP_TX`).
    pub sends_back: bool,
}

impl Port {
    /// Whether all is the same that routes and next hops are made of.
    fn is_like(&self, other: &Port) -> bool {
        let Port { ways_in: _, ifindex, device, vlan, mac, mtu, redirects, sends_back } = self;
        (*ifindex, *device, *vlan, *mac, *mtu, *redirects, *sends_back)
            == (
                other.ifindex,
                other.device,
                other.vlan,
                other.mac,
                other.mtu,
                other.redirects,
                other.sends_back,
            )
    }
}

/// Who has which place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Ports, by the bit of routes.
    pub ports: [Option<Port>; MAX_INTERFACES],
    /// Indices of their devices, by the place in the program's configuration; 0 if there is none.
    pub devices: [u32; MAX_INTERFACES],
}

/// Names a path from a source to a destination, until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathId(u32);

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Slot of the next hop.
    pub slot: u16,
    /// The interface, as a bit: its place among the ports.
    pub interface: u16,
    /// The kernel's index of its device.
    pub device: u32,
    /// Whether frames can be sent there now: why not, if they can't.
    pub state: Result<(), WhyNot>,
    /// Whether what came in on another interface can be sent there, and what came in on it.
    pub redirects: bool,
    /// See [`Port::sends_back`].
    pub sends_back: bool,
}

/// A change of an entry of `NEXT_HOPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// The entry of `NEXT_HOPS`.
    pub slot: u16,
    /// What it shall be.
    pub value: NextHop,
    /// Whether routes may name it: then it has to be changed with care.
    pub in_use: bool,
}

struct Path {
    source: IpAddr,
    destination: IpAddr,
    users: u32,
    /// Who pays for a hop that only this path needs: of its users the first one, or one who has more left.
    payer: UserNumber,
    hop: Result<u16, WhyNot>,
    /// The neighbour whose MAC address is not known yet.
    waits_for: Option<(u32, IpAddr)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct HopKey {
    ifindex: u32,
    neighbour: IpAddr,
    mtu: u32,
}

struct Hop {
    key: HopKey,
    paths: u32,
    /// Whose share it counts towards.
    payer: UserNumber,
    /// What the entry shall be, and what it is.
    wanted: NextHop,
    written: NextHop,
    in_use: bool,
}

/// All paths and hops.
pub struct NextHops {
    places: Places,
    /// Devices that lose what is sent to them, a bit for each place.
    distrusted: u16,
    paths: Vec<Option<Path>>,
    free_paths: Vec<u32>,
    by_ends: HashMap<(IpAddr, IpAddr), PathId>,
    hops: HashMap<u16, Hop>,
    by_key: HashMap<HopKey, u16>,
    free_slots: Vec<u16>,
    next_slot: u32,
    slots: u32,
    /// Slots by who pays for them; who has none is not in here.
    held: HashMap<UserNumber, usize>,
    changed: HashSet<u16>,
    draining: Vec<u16>,
    macs: HashMap<(u32, IpAddr), Mac>,
    expected: Vec<(u32, IpAddr, Mac)>,
    /// Paths that lead to neighbours whose MAC address is not known, with the MTU on the way.
    waiting: HashMap<(u32, IpAddr), HashMap<PathId, u32>>,
    /// Where asking for unknown neighbours goes on.
    probed: usize,
    /// New unknown neighbours asked for since [`NextHops::probe_all`].
    asked: usize,
}

impl NextHops {
    /// For a map of that many entries; the first is left alone.
    pub fn new(entries: u32) -> NextHops {
        NextHops {
            places: Places::default(),
            distrusted: 0,
            paths: Vec::new(),
            free_paths: Vec::new(),
            by_ends: HashMap::new(),
            hops: HashMap::new(),
            by_key: HashMap::new(),
            free_slots: Vec::new(),
            next_slot: 1,
            slots: entries.min(u32::from(u16::MAX) + 1),
            held: HashMap::new(),
            changed: HashSet::new(),
            draining: Vec::new(),
            macs: HashMap::new(),
            expected: Vec::new(),
            waiting: HashMap::new(),
            probed: 0,
            asked: 0,
        }
    }

    /// Where each of these interfaces and its device have their places: those that have one keep it.
    pub fn arrange(&self, ports: Vec<Port>) -> Places {
        let mut places = Places::default();
        let mut devices: Vec<u32> = ports.iter().map(|port| port.device).collect();
        devices.sort_by_key(|device| self.device_place(*device).is_none());
        for device in devices {
            // What is being left is free only when nothing names it any more.
            let is_free = |place: &usize| places.devices[*place] == 0 && self.places.devices[*place] == 0;
            let place = self.device_place(device).or_else(|| (0..MAX_INTERFACES).find(is_free));
            if let Some(place) = place.filter(|_| !places.devices.contains(&device)) {
                places.devices[place] = device;
            }
        }
        let (known, new): (Vec<_>, Vec<_>) =
            ports.into_iter().partition(|port| self.port(port.ifindex).is_some());
        for port in known {
            if let Some((place, _)) = self.port(port.ifindex) {
                places.ports[place] = Some(port);
            }
        }
        for port in new {
            let is_free =
                |place: &usize| places.ports[*place].is_none() && self.places.ports[*place].is_none();
            if let Some(place) = (0..MAX_INTERFACES).find(is_free) {
                places.ports[place] = Some(port);
            }
        }
        places
    }

    /// The interfaces whose frames the program sees, and their devices.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Interfaces that are not what they were, a bit for each place. Other ways in are no such change.
    pub fn changed(&self, places: &Places) -> u16 {
        let pairs = self.places.ports.iter().zip(&places.ports).enumerate();
        let is_same = |old: &Port, new: &Option<Port>| new.as_ref().is_some_and(|new| old.is_like(new));
        let changed = pairs.filter(|(_, (old, new))| old.as_ref().is_some_and(|old| !is_same(old, new)));
        changed.fold(0, |bits, (place, _)| bits | 1 << place)
    }

    /// Whether an interface would get a place that was nobody's.
    pub fn has_new(&self, places: &Places) -> bool {
        self.places.ports.iter().zip(&places.ports).any(|(old, new)| old.is_none() && new.is_some())
    }

    /// Other interfaces. No route in the kernel may name those that have changed, by the bit or by a next hop; their
    /// paths have to be looked up again.
    pub fn replace_ports(&mut self, places: Places) {
        let changed = self.changed(&places);
        let left: Vec<u32> = self
            .places
            .ports
            .iter()
            .enumerate()
            .filter(|(place, _)| changed >> place & 1 != 0)
            .filter_map(|(_, port)| Some(port.as_ref()?.ifindex))
            .collect();
        for (place, device) in places.devices.iter().enumerate() {
            if self.places.devices[place] != *device {
                self.distrusted &= !(1 << place);
            }
        }
        self.places = places;
        for index in 0..self.paths.len() {
            let Some(path) = &self.paths[index] else { continue };
            let hop = path.hop.ok().and_then(|slot| Some((slot, self.hops.get(&slot)?.key.ifindex)));
            let waits = path.waits_for.is_some_and(|(ifindex, _)| left.contains(&ifindex));
            let hop = hop.filter(|(_, ifindex)| left.contains(ifindex));
            if waits {
                self.wait_no_more(PathId(index as u32));
            }
            if let Some((slot, _)) = hop {
                self.leave(slot);
            }
            if (waits || hop.is_some())
                && let Some(path) = &mut self.paths[index]
            {
                path.hop = Err(WhyNot::Pending);
            }
        }
        let ports = &self.places.ports;
        self.macs.retain(|(ifindex, _), _| ports.iter().flatten().any(|port| port.ifindex == *ifindex));
        for (ifindex, ip, mac) in std::mem::take(&mut self.expected) {
            self.set_neighbour(ifindex, ip, Some(mac));
        }
    }

    /// A device loses what is sent to it, or may be tried again; whether that changes anything.
    pub fn set_distrusted(&mut self, place: usize, is_distrusted: bool) -> bool {
        let Some(device) = self.places.devices.get(place).copied().filter(|device| *device != 0) else {
            return false;
        };
        let before = self.distrusted;
        let ports = self.places.ports.iter().flatten().filter(|port| port.device == device);
        let on_it: HashSet<u32> = ports.map(|port| port.ifindex).collect();
        match is_distrusted {
            true => self.distrusted |= 1 << place,
            false => self.distrusted &= !(1 << place),
        }
        let affected: Vec<u16> = self
            .by_key
            .iter()
            .filter(|(key, _)| on_it.contains(&key.ifindex))
            .map(|(_, slot)| *slot)
            .collect();
        affected.into_iter().for_each(|slot| self.refresh(slot));
        self.distrusted != before
    }

    fn port(&self, ifindex: u32) -> Option<(usize, &Port)> {
        let mut ports = self.places.ports.iter().enumerate();
        ports.find_map(|(place, port)| Some((place, port.as_ref().filter(|port| port.ifindex == ifindex)?)))
    }

    /// The place of a device.
    pub fn device_place(&self, device: u32) -> Option<usize> {
        self.places.devices.iter().position(|known| *known == device && device != 0)
    }

    fn is_distrusted(&self, port: &Port) -> bool {
        self.device_place(port.device).is_some_and(|place| self.distrusted >> place & 1 != 0)
    }

    /// A path for one more binding; looked up if it is new, or if it was too much for whoever had it so far.
    pub fn acquire(
        &mut self,
        routing: &mut impl Routing,
        source: IpAddr,
        destination: IpAddr,
        payer: UserNumber,
    ) -> PathId {
        if let Some(id) = self.by_ends.get(&(source, destination)).copied() {
            if let Some(path) = self.path_mut(id) {
                path.users += 1;
                if path.hop == Err(WhyNot::NextHopShare) && path.payer != payer {
                    path.payer = payer;
                    self.look_up(routing, id);
                }
            }
            return id;
        }
        let path = Path { source, destination, users: 1, payer, hop: Err(WhyNot::Pending), waits_for: None };
        let id = match self.free_paths.pop() {
            Some(index) => PathId(index),
            None => {
                self.paths.push(None);
                PathId(self.paths.len() as u32 - 1)
            }
        };
        self.paths[id.0 as usize] = Some(path);
        self.by_ends.insert((source, destination), id);
        self.look_up(routing, id);
        id
    }

    /// One user of a path less.
    pub fn release(&mut self, id: PathId) {
        let Some(path) = self.path_mut(id) else { return };
        path.users -= 1;
        if path.users > 0 {
            return;
        }
        let (ends, hop) = ((path.source, path.destination), path.hop);
        self.wait_no_more(id);
        self.by_ends.remove(&ends);
        self.paths[id.0 as usize] = None;
        self.free_paths.push(id.0);
        if let Ok(slot) = hop {
            self.leave(slot);
        }
    }

    /// Where a path leads now; else why it can't be used.
    pub fn place(&self, id: PathId) -> Result<Place, WhyNot> {
        let path = self.paths[id.0 as usize].as_ref().ok_or(WhyNot::NoRoute)?;
        let slot = path.hop?;
        let hop = self.hops.get(&slot).ok_or(WhyNot::NextHop)?;
        let (place, port) = self.port(hop.key.ifindex).ok_or(WhyNot::Interface)?;
        let state = match (self.is_distrusted(port), hop.wanted.ifindex) {
            (true, _) => Err(WhyNot::Lossy),
            (false, 0) => Err(WhyNot::NextHop),
            (false, _) => Ok(()),
        };
        Ok(Place {
            slot,
            interface: 1 << place,
            device: port.device,
            state,
            redirects: port.redirects,
            sends_back: port.sends_back,
        })
    }

    /// Routes name this hop from now on, until it is drained.
    pub fn use_slot(&mut self, slot: u16) {
        if let Some(hop) = self.hops.get_mut(&slot) {
            hop.in_use = true;
        }
    }

    /// How many places for paths there are: [`NextHops::recheck`] takes numbers below it.
    pub fn path_count(&self) -> usize {
        self.paths.len()
    }

    /// Looks a path up again; whether it leads elsewhere now. Numbers without a path are fine.
    pub fn recheck(&mut self, routing: &mut impl Routing, number: usize) -> bool {
        let Some(Some(path)) = self.paths.get(number) else { return false };
        let before = path.hop;
        self.look_up(routing, PathId(number as u32));
        self.paths[number].as_ref().is_some_and(|path| path.hop != before)
    }

    /// The number of the path between these addresses.
    pub fn path_between(&self, source: IpAddr, destination: IpAddr) -> Option<usize> {
        self.by_ends.get(&(source, destination)).map(|id| id.0 as usize)
    }

    /// A neighbour's MAC address, or that it has none; whether that changes a hop.
    pub fn set_neighbour(&mut self, ifindex: u32, ip: IpAddr, mac: Option<Mac>) -> bool {
        if self.port(ifindex).is_none() {
            return false;
        }
        let before = match mac {
            Some(mac) => self.macs.insert((ifindex, ip), mac),
            None => self.macs.remove(&(ifindex, ip)),
        };
        if before == mac {
            return false;
        }
        let affected: Vec<u16> = self
            .by_key
            .iter()
            .filter(|(key, _)| key.ifindex == ifindex && key.neighbour == ip)
            .map(|(_, slot)| *slot)
            .collect();
        for slot in &affected {
            self.refresh(*slot);
        }
        let waiting = if mac.is_some() { self.waiting.remove(&(ifindex, ip)) } else { None };
        let arrived = waiting.unwrap_or_default();
        let changed = !affected.is_empty() || !arrived.is_empty();
        for (id, mtu) in arrived {
            let Some(payer) = self.path_mut(id).map(|path| path.payer) else { continue };
            let hop = self.join(HopKey { ifindex, neighbour: ip, mtu }, payer);
            if let Some(path) = self.path_mut(id) {
                (path.hop, path.waits_for) = (hop, None);
            }
        }
        changed
    }

    /// All neighbours there are, for ports that [`NextHops::replace_ports`] is going to bring.
    pub fn expect_neighbours(&mut self, all: Vec<(u32, IpAddr, Mac)>) {
        self.expected = all;
    }

    /// All neighbours there are; whether that changes a hop.
    pub fn replace_neighbours(&mut self, all: Vec<(u32, IpAddr, Mac)>) -> bool {
        let known: HashSet<_> = all.iter().map(|(ifindex, ip, _)| (*ifindex, *ip)).collect();
        let gone: Vec<_> = self.macs.keys().filter(|key| !known.contains(key)).copied().collect();
        let mut changed = false;
        for (ifindex, ip) in gone {
            changed |= self.set_neighbour(ifindex, ip, None);
        }
        for (ifindex, ip, mac) in all {
            changed |= self.set_neighbour(ifindex, ip, Some(mac));
        }
        changed
    }

    /// Asks the kernel about each neighbour that is in use; it would forget them otherwise. Of those that
    /// it doesn't know, some are asked for again: clients may name any number of them.
    pub fn probe_all(&mut self, routing: &mut impl Routing) {
        self.asked = 0;
        let in_use = self.by_key.keys().map(|key| (key.ifindex, key.neighbour));
        let neighbours: HashSet<_> = in_use.chain(self.waiting.keys().copied()).collect();
        let (known, mut unknown): (Vec<_>, Vec<_>) =
            neighbours.into_iter().partition(|neighbour| self.macs.contains_key(neighbour));
        unknown.sort_unstable();
        let turn = self.probed.checked_rem(unknown.len()).unwrap_or(0);
        unknown.rotate_left(turn);
        unknown.truncate(MAX_UNKNOWN_PROBES);
        self.probed = turn + unknown.len();
        for (ifindex, neighbour) in known.into_iter().chain(unknown) {
            // What went wrong shows as a neighbour without a MAC address.
            let _ = routing.probe(ifindex, neighbour);
        }
    }

    /// Entries that have to be changed; they count as written.
    pub fn take_updates(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        for slot in std::mem::take(&mut self.changed) {
            let Some(hop) = self.hops.get_mut(&slot) else { continue };
            if hop.written != hop.wanted {
                hop.written = hop.wanted;
                updates.push(Update { slot, value: hop.wanted, in_use: hop.in_use });
            }
        }
        updates
    }

    /// Whether slots wait for a grace period.
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// A grace period is over since the last route that named an unused hop was deleted.
    pub fn drained(&mut self) {
        for slot in std::mem::take(&mut self.draining) {
            let unused = self.hops.get(&slot).is_some_and(|hop| hop.paths == 0);
            if unused && let Some(hop) = self.hops.remove(&slot) {
                if self.by_key.get(&hop.key) == Some(&slot) {
                    self.by_key.remove(&hop.key);
                }
                match self.held.get_mut(&hop.payer) {
                    Some(held) if *held > 1 => *held -= 1,
                    _ => drop(self.held.remove(&hop.payer)),
                }
                self.free_slots.push(slot);
            }
        }
    }

    fn look_up(&mut self, routing: &mut impl Routing, id: PathId) {
        let Some(path) = self.paths[id.0 as usize].as_ref() else { return };
        let Path { source, destination, payer, hop: before, .. } = *path;
        let found = self.find_way(routing, source, destination);
        self.wait_no_more(id);
        let after = found.and_then(|key| match before {
            Ok(slot) if self.hops.get(&slot).is_some_and(|hop| hop.key == key) => Ok(slot),
            _ if self.is_known(&key) => self.join(key, payer),
            _ => Err(self.wait_for(routing, id, key)),
        });
        if let Some(path) = self.path_mut(id) {
            path.hop = after;
        }
        match before {
            Ok(slot) if after != Ok(slot) => self.leave(slot),
            _ => {}
        }
    }

    fn find_way(
        &self,
        routing: &mut impl Routing,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<HopKey, WhyNot> {
        // Without its interface such an address says nothing.
        let is_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if is_link_local(destination) || is_link_local(source) {
            return Err(WhyNot::NoRoute);
        }
        let way = routing.way(source, destination).ok().flatten().ok_or(WhyNot::NoRoute)?;
        let (_, port) = self.port(way.ifindex).ok_or(WhyNot::Interface)?;
        let mtu = if way.mtu == 0 { port.mtu } else { way.mtu.min(port.mtu) };
        Ok(HopKey { ifindex: way.ifindex, neighbour: way.neighbour, mtu })
    }

    /// Whether a hop has a slot, or its neighbour's MAC address is known.
    fn is_known(&self, key: &HopKey) -> bool {
        self.by_key.contains_key(key) || self.macs.contains_key(&(key.ifindex, key.neighbour))
    }

    /// Lets a path wait until its neighbour's MAC address is known; the answer comes as a change.
    fn wait_for(&mut self, routing: &mut impl Routing, id: PathId, key: HopKey) -> WhyNot {
        let neighbour = (key.ifindex, key.neighbour);
        let waiting = self.waiting.entry(neighbour).or_default();
        let is_new = waiting.is_empty();
        waiting.insert(id, key.mtu);
        if let Some(path) = self.path_mut(id) {
            path.waits_for = Some(neighbour);
        }
        if is_new && self.asked < MAX_UNKNOWN_PROBES {
            self.asked += 1;
            // What went wrong shows as a neighbour without a MAC address.
            let _ = routing.probe(key.ifindex, key.neighbour);
        }
        WhyNot::NextHop
    }

    fn wait_no_more(&mut self, id: PathId) {
        let Some(neighbour) = self.path_mut(id).and_then(|path| path.waits_for.take()) else { return };
        if let Some(waiting) = self.waiting.get_mut(&neighbour) {
            waiting.remove(&id);
            if waiting.is_empty() {
                self.waiting.remove(&neighbour);
            }
        }
    }

    /// The slot of a hop, for one more path. A new one is `payer`'s, who must leave others some.
    fn join(&mut self, key: HopKey, payer: UserNumber) -> Result<u16, WhyNot> {
        if let Some(slot) = self.by_key.get(&key).copied()
            && let Some(hop) = self.hops.get_mut(&slot)
        {
            hop.paths += 1;
            return Ok(slot);
        }
        // The first is left alone.
        let free = (self.slots as usize).saturating_sub(1 + self.hops.len());
        let held = self.held.get(&payer).copied().unwrap_or(0);
        if free > 0 && held >= USER_SHARE_OF_FREE * free {
            return Err(WhyNot::NextHopShare);
        }
        let slot = self.free_slot().ok_or(WhyNot::NextHopsFull)?;
        self.held.insert(payer, held + 1);
        let empty = NextHop::default();
        // Written in any case: the entry still has what its last user was.
        let written = NextHop { ifindex: u32::MAX, ..empty };
        self.hops.insert(slot, Hop { key, paths: 1, payer, wanted: empty, written, in_use: false });
        self.by_key.insert(key, slot);
        self.refresh(slot);
        Ok(slot)
    }

    fn leave(&mut self, slot: u16) {
        let Some(hop) = self.hops.get_mut(&slot) else { return };
        hop.paths = hop.paths.saturating_sub(1);
        if hop.paths == 0 {
            self.draining.push(slot);
        }
    }

    fn free_slot(&mut self) -> Option<u16> {
        if let Some(slot) = self.free_slots.pop() {
            return Some(slot);
        }
        let slot = (self.next_slot < self.slots).then_some(self.next_slot)?;
        self.next_slot += 1;
        u16::try_from(slot).ok()
    }

    /// Computes what a hop's entry shall be.
    fn refresh(&mut self, slot: u16) {
        let Some(HopKey { ifindex, neighbour, mtu }) = self.hops.get(&slot).map(|hop| hop.key) else {
            return;
        };
        let trusted = self.port(ifindex).filter(|(_, port)| !self.is_distrusted(port));
        let trusted = trusted.and_then(|(_, port)| Some((self.device_place(port.device)?, port)));
        let wanted = match (self.macs.get(&(ifindex, neighbour)), trusted) {
            (Some(mac), Some((place, port))) => {
                NextHop::new(port.device, mtu, *mac, port.mac).at(place as u32).in_vlan(port.vlan)
            }
            _ => NextHop::default(),
        };
        if let Some(hop) = self.hops.get_mut(&slot) {
            hop.wanted = wanted;
        }
        self.changed.insert(slot);
    }

    fn path_mut(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.get_mut(id.0 as usize)?.as_mut()
    }
}

/// A configuration with these interfaces, but for those at the places `without`.
pub fn with_interfaces(config: &Config, places: &Places, without: u16) -> Config {
    let mut config = *config;
    let ports = places.ports.iter().enumerate().filter(|(place, _)| without >> place & 1 == 0);
    let ways_in =
        ports.filter_map(|(place, port)| Some((place, port.as_ref()?))).flat_map(|(place, port)| {
            let flags = if port.sends_back { Interface::SENDS_BACK } else { 0 };
            let key = Interface::key(port.mac, port.vlan);
            port.ways_in.iter().map(move |ifindex| Interface {
                ifindex: *ifindex,
                place: place as u16,
                flags,
                key,
            })
        });
    for (known, way_in) in config.interfaces.iter_mut().zip(ways_in) {
        *known = way_in;
        config.interface_count += 1;
    }
    config.devices = places.devices;
    config
}
