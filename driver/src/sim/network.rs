//! The state behind a [`super::SimNetwork`]: addresses, what is under way, the clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use turnpike_proto::limits::SECOND_NS;
use turnpike_proto::{ClientSocket, Now, PortError, RelaySocket};

use super::{Fate, Impairment, SimCounters, TraceEntry, saturating_nanos};
use crate::limits::{SIM_INBOX, SIM_TRACE};
use crate::{Event, Ingress};

/// The first moment: the monotonic clock is not 0, as it never is on a real machine either.
const START_MONO_NS: u64 = 1000 * SECOND_NS;
/// 2023-11-14T22:13:20Z.
const START_UNIX_SECS: u64 = 1_700_000_000;
/// Least further delay of a reordered datagram: longer than it takes to send the next ones.
const MIN_REORDER_NS: u64 = 1_000_000;

/// Who holds an address.
pub(super) enum Owner {
    Endpoint(VecDeque<Arrival>),
    Relay {
        driver: usize,
        relay: RelaySocket,
    },
    /// Kept for whichever worker opens it.
    Reserved,
    /// Somebody outside the simulation.
    Outside,
}

/// A datagram that has arrived at an endpoint.
pub(super) struct Arrival {
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) tos: u8,
    /// When, nanoseconds of the monotonic clock.
    pub(super) at_ns: u64,
}

/// Something for a worker.
pub(super) enum Delivery {
    Datagram { ingress: Ingress, arrival: Arrival },
    Event(Event),
}

struct InFlight {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
    tos: u8,
}

#[derive(Default)]
struct DriverState {
    inbox: VecDeque<Delivery>,
    /// Address of each open relay socket, by index.
    relays: HashMap<u32, (u32, SocketAddr)>,
    is_woken: bool,
}

/// One worker's share in a listener address.
struct Listener {
    worker: usize,
    driver: usize,
    socket: ClientSocket,
}

pub(super) struct Network {
    random: ChaCha8Rng,
    mono_ns: u64,
    impairment: Impairment,
    exempt: BTreeSet<IpAddr>,
    answers_unreachable: bool,
    ports_left: usize,
    owners: HashMap<SocketAddr, Owner>,
    /// Endpoints with something that nobody has been told of.
    ready: BTreeSet<SocketAddr>,
    /// Each group ordered by worker.
    listeners: HashMap<SocketAddr, Vec<Listener>>,
    /// What the choice of a worker depends on besides the addresses.
    spread: u32,
    drivers: Vec<DriverState>,
    /// By time of arrival, then by order of sending.
    in_flight: BTreeMap<(u64, u64), InFlight>,
    next_sequence: u64,
    /// When the last datagram of a flow arrives: the next one must not overtake it.
    flows: HashMap<(SocketAddr, SocketAddr), u64>,
    counters: SimCounters,
    trace: VecDeque<TraceEntry>,
}

impl Network {
    pub(super) fn new(seed: u64, impairment: Impairment) -> Network {
        check(&impairment);
        Network {
            random: ChaCha8Rng::seed_from_u64(seed),
            mono_ns: START_MONO_NS,
            impairment,
            exempt: BTreeSet::new(),
            answers_unreachable: true,
            ports_left: usize::MAX,
            owners: HashMap::new(),
            ready: BTreeSet::new(),
            listeners: HashMap::new(),
            spread: 0,
            drivers: Vec::new(),
            in_flight: BTreeMap::new(),
            next_sequence: 0,
            flows: HashMap::new(),
            counters: SimCounters::default(),
            trace: VecDeque::new(),
        }
    }

    pub(super) fn set_impairment(&mut self, impairment: Impairment) {
        check(&impairment);
        self.impairment = impairment;
    }

    pub(super) fn respread(&mut self, spread: u32) {
        self.spread = spread;
    }

    pub(super) fn exempt(&mut self, host: IpAddr) {
        self.exempt.insert(host);
    }

    pub(super) fn set_port_unreachable(&mut self, on: bool) {
        self.answers_unreachable = on;
    }

    pub(super) fn fail_ports_after(&mut self, more: usize) {
        self.ports_left = more;
    }

    pub(super) fn counters(&self) -> SimCounters {
        self.counters
    }

    pub(super) fn trace(&self) -> Vec<TraceEntry> {
        self.trace.iter().copied().collect()
    }

    pub(super) fn now(&self) -> Now {
        let elapsed_secs = (self.mono_ns - START_MONO_NS) / SECOND_NS;
        Now { mono_ns: self.mono_ns, unix_secs: START_UNIX_SECS + elapsed_secs }
    }

    pub(super) fn advance_to(&mut self, mono_ns: u64) {
        self.mono_ns = self.mono_ns.max(mono_ns);
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        if self.drivers.iter().any(|driver| driver.is_woken || !driver.inbox.is_empty()) {
            return Some(self.mono_ns);
        }
        self.in_flight.keys().next().map(|&(due_ns, _)| due_ns)
    }

    pub(super) fn bind_endpoint(&mut self, address: SocketAddr) {
        assert!(self.is_free(address), "{address} is already held");
        self.owners.insert(address, Owner::Endpoint(VecDeque::new()));
    }

    pub(super) fn occupy(&mut self, address: SocketAddr) {
        assert!(self.is_free(address), "{address} is already held");
        self.owners.insert(address, Owner::Outside);
    }

    pub(super) fn release(&mut self, address: SocketAddr) {
        self.unbind(address, |owner| matches!(owner, Owner::Outside));
    }

    pub(super) fn unbind(&mut self, address: SocketAddr, is_mine: impl Fn(&Owner) -> bool) {
        if self.owners.get(&address).is_some_and(is_mine) {
            self.owners.remove(&address);
        }
    }

    fn is_free(&self, address: SocketAddr) -> bool {
        !self.owners.contains_key(&address) && !self.listeners.contains_key(&address)
    }

    /// Adds a worker; returns its number in `drivers`.
    pub(super) fn add_driver(&mut self, worker: usize, addresses: &[SocketAddr]) -> usize {
        let driver = self.drivers.len();
        self.drivers.push(DriverState::default());
        for (&address, index) in addresses.iter().zip(0..) {
            assert!(!self.owners.contains_key(&address), "{address} is already held");
            let group = self.listeners.entry(address).or_default();
            assert!(
                group.iter().all(|other| other.worker != worker),
                "worker {worker} listens there already"
            );
            group.push(Listener { worker, driver, socket: ClientSocket::listener(index) });
            group.sort_by_key(|listener| listener.worker);
        }
        driver
    }

    /// A worker is gone, with all its sockets.
    pub(super) fn remove_driver(&mut self, driver: usize) {
        self.drivers[driver] = DriverState::default();
        self.owners.retain(|_, owner| !matches!(owner, Owner::Relay { driver: of, .. } if *of == driver));
        for group in self.listeners.values_mut() {
            group.retain(|listener| listener.driver != driver);
        }
        self.listeners.retain(|_, group| !group.is_empty());
    }

    pub(super) fn open_port(
        &mut self,
        driver: usize,
        relay: RelaySocket,
        address: SocketAddr,
    ) -> Result<(), PortError> {
        // In the order of the system's calls: a descriptor first, then its address.
        let ports_left = self.ports_left.checked_sub(1).ok_or(PortError::Exhausted)?;
        let is_reserved = matches!(self.owners.get(&address), Some(Owner::Reserved));
        if !is_reserved && !self.is_free(address) || self.listeners.contains_key(&wildcard(address)) {
            return Err(PortError::InUse);
        }
        self.ports_left = ports_left;
        let older = self.drivers[driver].relays.insert(relay.index, (relay.generation, address));
        if let Some((_, address)) = older {
            self.owners.remove(&address);
        }
        self.owners.insert(address, Owner::Relay { driver, relay });
        Ok(())
    }

    pub(super) fn reserve(&mut self, address: SocketAddr) -> Result<(), PortError> {
        if !self.is_free(address) || self.listeners.contains_key(&wildcard(address)) {
            return Err(PortError::ReserveInUse);
        }
        self.owners.insert(address, Owner::Reserved);
        Ok(())
    }

    pub(super) fn release_reserved(&mut self, address: SocketAddr) {
        self.unbind(address, |owner| matches!(owner, Owner::Reserved));
    }

    /// `false` if there is none of that name.
    pub(super) fn close_port(&mut self, driver: usize, relay: RelaySocket) -> bool {
        let Some(address) = self.relay_address(driver, relay) else { return false };
        let state = &mut self.drivers[driver];
        state.relays.remove(&relay.index);
        // What a closed socket had received is gone.
        state.inbox.retain(|delivery| match delivery {
            Delivery::Datagram { ingress, .. } => *ingress != Ingress::Relay(relay),
            Delivery::Event(Event::Icmp { relay: of, .. }) => *of != relay,
            Delivery::Event(_) => true,
        });
        self.owners.remove(&address);
        true
    }

    pub(super) fn relay_address(&self, driver: usize, relay: RelaySocket) -> Option<SocketAddr> {
        let &(generation, address) = self.drivers[driver].relays.get(&relay.index)?;
        (generation == relay.generation).then_some(address)
    }

    pub(super) fn open_ports(&self) -> usize {
        self.drivers.iter().map(|driver| driver.relays.len()).sum()
    }

    pub(super) fn open_ports_of(&self, driver: usize) -> usize {
        self.drivers[driver].relays.len()
    }

    pub(super) fn wake(&mut self, driver: usize) {
        self.drivers[driver].is_woken = true;
    }

    pub(super) fn take_woken(&mut self, driver: usize) -> bool {
        std::mem::take(&mut self.drivers[driver].is_woken)
    }

    /// Something that happened to the worker itself, in order with its datagrams.
    pub(super) fn report(&mut self, driver: usize, event: Event) {
        self.drivers[driver].inbox.push_back(Delivery::Event(event));
    }

    pub(super) fn take_for_driver(&mut self, driver: usize) -> Option<Delivery> {
        self.drivers[driver].inbox.pop_front()
    }

    pub(super) fn take_for_endpoint(&mut self, address: SocketAddr) -> Option<Arrival> {
        match self.owners.get_mut(&address) {
            Some(Owner::Endpoint(inbox)) => inbox.pop_front(),
            _ => None,
        }
    }

    pub(super) fn take_ready(&mut self) -> BTreeSet<SocketAddr> {
        std::mem::take(&mut self.ready)
    }

    pub(super) fn send(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
        tos: u8,
        dont_fragment: bool,
    ) {
        self.counters.sent += 1;
        let fate = self.draw_fate(from, to);
        let len = bytes.len();
        if self.trace.len() == SIM_TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(TraceEntry { sent_ns: self.mono_ns, from, to, len, tos, dont_fragment, fate });
        match fate {
            Fate::Lost => self.counters.lost += 1,
            Fate::Sent => self.launch(InFlight { from, to, bytes, tos }, false),
            Fate::Reordered => {
                self.counters.reordered += 1;
                self.launch(InFlight { from, to, bytes, tos }, true);
            }
            Fate::Duplicated => {
                self.counters.duplicated += 1;
                self.launch(InFlight { from, to, bytes: bytes.clone(), tos }, false);
                self.launch(InFlight { from, to, bytes, tos }, false);
            }
        }
    }

    fn is_impaired(&self, from: SocketAddr, to: SocketAddr) -> bool {
        from.ip() != to.ip() && !self.exempt.contains(&from.ip()) && !self.exempt.contains(&to.ip())
    }

    fn draw_fate(&mut self, from: SocketAddr, to: SocketAddr) -> Fate {
        if !self.is_impaired(from, to) {
            return Fate::Sent;
        }
        let Impairment { loss, duplicate, reorder, .. } = self.impairment;
        if self.random.random_bool(loss) {
            Fate::Lost
        } else if self.random.random_bool(duplicate) {
            Fate::Duplicated
        } else if self.random.random_bool(reorder) {
            Fate::Reordered
        } else {
            Fate::Sent
        }
    }

    fn launch(&mut self, datagram: InFlight, is_reordered: bool) {
        let flow = (datagram.from, datagram.to);
        let delay_ns = if self.is_impaired(flow.0, flow.1) { self.draw_delay_ns(is_reordered) } else { 0 };
        let mut due_ns = self.mono_ns.saturating_add(delay_ns);
        if !is_reordered {
            let last_ns = self.flows.entry(flow).or_default();
            due_ns = due_ns.max(*last_ns);
            *last_ns = due_ns;
        }
        self.in_flight.insert((due_ns, self.next_sequence), datagram);
        self.next_sequence += 1;
    }

    fn draw_delay_ns(&mut self, is_reordered: bool) -> u64 {
        let Range { start, end } = nanos(&self.impairment.delay);
        let delay_ns = if start < end { self.random.random_range(start..end) } else { start };
        if !is_reordered {
            return delay_ns;
        }
        // Up to twice the longest ordinary delay: enough to be overtaken by some and not by all.
        let most_ns = (2 * end.max(start)).max(2 * MIN_REORDER_NS);
        delay_ns + self.random.random_range(MIN_REORDER_NS..=most_ns)
    }

    /// Hands over whatever has arrived by now.
    pub(super) fn deliver_due(&mut self) {
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.mono_ns {
                break;
            }
            let datagram = entry.remove();
            self.deliver(datagram);
        }
        // Flows whose last datagram has arrived hold up nobody any more.
        if self.flows.len() > SIM_INBOX {
            let now_ns = self.mono_ns;
            self.flows.retain(|_, last_ns| *last_ns > now_ns);
        }
    }

    fn deliver(&mut self, datagram: InFlight) {
        let InFlight { from, to, bytes, tos } = datagram;
        let arrival = Arrival { from, bytes, tos, at_ns: self.mono_ns };
        if let Some((driver, ingress)) = self.ingress(from, to) {
            let inbox = &mut self.drivers[driver].inbox;
            if inbox.len() < SIM_INBOX {
                inbox.push_back(Delivery::Datagram { ingress, arrival });
                self.counters.delivered += 1;
            } else {
                self.counters.overflowed += 1;
            }
            return;
        }
        match self.owners.get_mut(&to) {
            Some(Owner::Endpoint(inbox)) if inbox.len() < SIM_INBOX => {
                inbox.push_back(arrival);
                self.ready.insert(to);
                self.counters.delivered += 1;
            }
            Some(Owner::Endpoint(_)) => self.counters.overflowed += 1,
            Some(_) => {}
            None => self.answer_unreachable(from, to),
        }
    }

    /// Which worker receives it, and where.
    fn ingress(&self, from: SocketAddr, to: SocketAddr) -> Option<(usize, Ingress)> {
        if let Some(&Owner::Relay { driver, relay }) = self.owners.get(&to) {
            return Some((driver, Ingress::Relay(relay)));
        }
        let group = self.listeners.get(&to).or_else(|| {
            let held = self.owners.contains_key(&to);
            if held { None } else { self.listeners.get(&wildcard(to)) }
        })?;
        let mut hasher = DefaultHasher::new();
        (from, to).hash(&mut hasher);
        let choice = hasher.finish().rotate_left(self.spread.wrapping_mul(7));
        let listener = &group[(choice % group.len() as u64) as usize];
        Some((listener.driver, Ingress::Client { socket: listener.socket, server: to }))
    }

    /// RFC 792 type 3 code 3, RFC 4443 type 1 code 4: nobody holds the port.
    fn answer_unreachable(&mut self, from: SocketAddr, to: SocketAddr) {
        self.counters.unreachable += 1;
        let Some(&Owner::Relay { driver, relay }) = self.owners.get(&from) else { return };
        if !self.answers_unreachable || self.drivers[driver].inbox.len() >= SIM_INBOX {
            return;
        }
        let (icmp_type, icmp_code) = if to.is_ipv4() { (3, 3) } else { (1, 4) };
        self.report(driver, Event::Icmp { relay, peer: to, icmp_type, icmp_code, data: 0 });
    }
}

fn check(impairment: &Impairment) {
    for probability in [impairment.loss, impairment.duplicate, impairment.reorder] {
        assert!((0.0..=1.0).contains(&probability), "{probability} is no probability");
    }
}

fn nanos(range: &Range<Duration>) -> Range<u64> {
    // Bounded, so that sums with it stay in range.
    let bounded = |duration| saturating_nanos(duration).min(u64::MAX / 8);
    bounded(range.start)..bounded(range.end)
}

fn wildcard(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, address.port())
}
