//! The mirror's thread: it waits for commands, for news from the kernel, and for its deadlines.
//!
//! It begins with [`Offload::start`], before the workers, and ends with [`Offload::stop`], after them: what
//! they withdraw last is answered, too. If it fails on the way, the program leaves every interface, and the
//! workers go on alone.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{debug, error, info, warn};
use turnpike_abi::{Allocation, Binding, Config};
use turnpike_driver::Waker;
use turnpike_proto::{Plane, PlaneMemory, WorkerId};

use super::choose::{self, Chosen, Wishes};
use super::effect::{self, Effect};
use super::features::Netdev;
use super::hub::{Hub, Outbox};
use super::limits::{IDLE_WARNING, LOSS_LOOK, TOLD_PER_ROUND, UNATTENDED};
use super::link::{Inherited, XdpLink};
use super::losses::{self, Losses, Sent};
use super::mapped::Mapped;
use super::maps::{MapsError, Sizes};
use super::mirror::Mirror;
use super::netlink::{Change, Netlink};
use super::nexthop::Port;
use super::probe::Host;
use super::status::{Counts, InterfaceStatus, OffloadStatus, StatusCell};
use super::xdp::{Mode, Xdp, XdpError};

/// A turn begins at least this often: its time is a sign of life.
const TURN_PERIOD: Duration = Duration::from_secs(1);
/// How often neighbours in use are asked about. Shorter than the kernel's patience with an unconfirmed one.
const PROBE_PERIOD: Duration = Duration::from_secs(5);
/// How often the maps are compared with what they should be; longer where comparing takes long.
const RESYNC_PERIOD: Duration = Duration::from_secs(10);
/// Comparing may take this part of the time: one hundredth.
const RESYNC_SHARE: u32 = 100;
/// How often the status is brought up to date while there is work.
const STATUS_PERIOD: Duration = Duration::from_millis(200);
/// Every path is looked up again at most this often, however fast routes change.
const RECHECK_PERIOD: Duration = Duration::from_secs(1);
/// An interface that did not take the program is tried again this often, or when it has changed.
const RETRY_PERIOD: Duration = Duration::from_secs(60);

/// What is said of interfaces that are not used although the program is there.
const CANNOT_TRANSMIT: &str = "whose driver cannot transmit what came in elsewhere (no ndo_xdp_xmit)";
const LOSES: &str = "which loses what is sent by it: tried again by and by";

/// What the kernel data path is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Interfaces, addresses and ports.
    pub wishes: Wishes,
    /// How the program gets its frames.
    pub mode: Mode,
    /// How large the maps are.
    pub sizes: Sizes,
    /// How many workers there are.
    pub workers: usize,
}

/// The running kernel data path.
pub struct Offload {
    hub: Arc<Hub>,
    plane: Arc<Plane>,
    status: Arc<StatusCell>,
    thread: JoinHandle<()>,
}

/// The slots of allocations and bindings, as the program sees them.
struct SharedMemory {
    allocations: Arc<Mapped<Allocation<AtomicU64>>>,
    bindings: Arc<Mapped<Binding<AtomicU64>>>,
}

impl PlaneMemory for SharedMemory {
    fn allocations(&self) -> &[Allocation<AtomicU64>] {
        &self.allocations
    }

    fn bindings(&self) -> &[Binding<AtomicU64>] {
        &self.bindings
    }
}

/// Whether there is anything to attach to, and this process may.
fn is_possible(settings: &Settings, netlink: &mut Netlink, host: &Host) -> Result<(), String> {
    let chosen = choose_interfaces(&settings.wishes, netlink, host)
        .map_err(|error| format!("cannot ask for interfaces: {error}"))??;
    if settings.wishes.named.is_empty() && chosen.iter().all(|chosen| chosen.fit.is_err()) {
        return Err(reasons(&chosen));
    }
    if !host.missing_capabilities.is_empty() {
        return Err(format!("this process lacks {}", host.missing_capabilities.join(" and ")));
    }
    Ok(())
}

impl Offload {
    /// Loads the program and attaches it where it is wanted and fits. It need not be anywhere: interfaces
    /// may come later.
    ///
    /// # Errors
    /// Why there can be no kernel data path as long as this process lives.
    pub fn start(settings: Settings, mut inherited: Inherited) -> Result<Offload, String> {
        if settings.mode != Mode::Native {
            inherited.clear();
        }
        let mut netlink = Netlink::open().map_err(|error| format!("cannot ask for interfaces: {error}"))?;
        let host = Host::detect();
        is_possible(&settings, &mut netlink, &host)?;
        let mut xdp = Xdp::load(settings.sizes).map_err(|error| error.to_string())?;
        // The network stack's hook sends without these.
        if settings.mode == Mode::Native {
            xdp.watch_fates().map_err(|error| error.to_string())?;
        }
        let status = Arc::new(StatusCell::with_counters(Arc::clone(xdp.maps.counters())));
        let memory = SharedMemory {
            allocations: Arc::clone(xdp.maps.allocations()),
            bindings: Arc::clone(xdp.maps.bindings()),
        };
        let hub = Hub::new(settings.workers, Arc::clone(&status)).map_err(|error| error.to_string())?;
        let now = Instant::now();
        let mut service = Service {
            mirror: Mirror::new(settings.sizes.next_hops),
            wishes: settings.wishes,
            mode: settings.mode,
            xdp,
            netlink,
            host,
            netdev: Netdev::open().ok(),
            losses: Losses::new(now),
            effect: Effect::new(),
            hub: Arc::clone(&hub),
            status: Arc::clone(&status),
            inherited,
            attached: HashMap::new(),
            failed: HashMap::new(),
            next_probe: now,
            next_resync: now + RESYNC_PERIOD,
            next_status: now,
            next_recheck: now,
            next_retry: now + RETRY_PERIOD,
            next_loss_look: now,
            next_effect_look: now,
            next_idle_warning: now,
            recheck_wanted: false,
            sent_before: HashMap::new(),
        };
        service.attend();
        service.look_at_interfaces().map_err(|error| error.to_string())?;
        service.inherited.clear();
        let first = status.read();
        if service.wishes.named.is_empty() && !first.active {
            // Nobody has asked for it, and drivers don't change their minds.
            return Err(first.why);
        }
        let own = Arc::clone(&hub);
        let thread = thread::Builder::new()
            .name("offload".to_owned())
            .spawn(move || service.run_guarded(&own))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Offload { hub, plane: Plane::new(Arc::new(memory)), status, thread })
    }

    /// The slots, for the core.
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// A worker's end of the queue.
    pub fn outbox(&self, worker: WorkerId, waker: Arc<dyn Waker>) -> Outbox {
        self.hub.outbox(worker, waker)
    }

    /// What others may know.
    pub fn status(&self) -> &Arc<StatusCell> {
        &self.status
    }

    /// Takes the program off every interface. To be called when the workers have ended.
    pub fn stop(self) {
        self.hub.stop();
        if self.thread.join().is_err() {
            error!("the thread of the kernel data path panicked");
        }
    }
}

struct Service {
    mirror: Mirror,
    wishes: Wishes,
    mode: Mode,
    xdp: Xdp,
    netlink: Netlink,
    host: Host,
    /// Says what devices can do, on kernels that do.
    netdev: Option<Netdev>,
    losses: Losses,
    effect: Effect,
    hub: Arc<Hub>,
    status: Arc<StatusCell>,
    /// Links to interfaces of the process before this one, and who keeps ours.
    inherited: Inherited,
    /// By index of the device.
    attached: HashMap<u32, String>,
    /// Devices that did not take the program, the interface as it was then, and why.
    failed: HashMap<u32, (Port, String)>,
    next_probe: Instant,
    next_resync: Instant,
    next_status: Instant,
    next_recheck: Instant,
    next_retry: Instant,
    next_loss_look: Instant,
    next_effect_look: Instant,
    next_idle_warning: Instant,
    recheck_wanted: bool,
    /// What had been sent by a device's place before it was its own, by index of the device.
    sent_before: HashMap<u32, Sent>,
}

/// Says so when the mirror has ended, even by a panic. Dropped after the program itself.
struct EndOfMirror<'a>(&'a Hub);

impl Drop for EndOfMirror<'_> {
    fn drop(&mut self) {
        self.0.set_dead();
    }
}

impl Service {
    fn run_guarded(mut self, hub: &Hub) {
        let _end = EndOfMirror(hub);
        self.status.begin_turn();
        let status = Arc::clone(&self.status);
        let why = match self.run() {
            Ok(()) => "the relay is stopping".to_owned(),
            Err(error) => {
                error!("the kernel data path is given up: {error}");
                // What is kept for the next process would go on otherwise.
                self.detach_others(&[]);
                error.to_string()
            }
        };
        drop(self);
        status.end_turns();
        status.set_state(OffloadStatus { why, ..OffloadStatus::default() });
    }

    /// Until it is told to stop.
    fn run(&mut self) -> Result<(), MapsError> {
        if let Ok(neighbours) = self.netlink.neighbours() {
            self.mirror.replace_neighbours(neighbours);
        }
        loop {
            self.wait().map_err(|error| MapsError::System { what: "wait for events", error })?;
            self.attend();
            let mut work = self.hub.take_work(TOLD_PER_ROUND);
            let is_last = work.stop && work.told.is_empty();
            self.take_changes()?;
            for destination in work.rechecks.drain(..) {
                for source in &self.wishes.relays {
                    self.mirror.recheck(&mut self.netlink, *source, destination);
                }
            }
            self.recheck_wanted |= work.recheck_all;
            let hub = &self.hub;
            self.mirror.round(&mut self.xdp.maps, &mut self.netlink, work.told, |answers| {
                hub.answer(answers);
            })?;
            self.keep_deadlines()?;
            if is_last {
                return self.xdp.maps.replace_config(&Config::OFF);
            }
        }
    }

    /// A sign of life, for people and for the program.
    fn attend(&self) {
        self.status.begin_turn();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        self.xdp.maps.attend_until(now_ns + UNATTENDED.as_nanos() as u64);
    }

    fn wait(&self) -> io::Result<()> {
        let now = Instant::now();
        let mut due = self.next_probe.min(self.next_resync).min(now + TURN_PERIOD);
        if self.status.is_stale() {
            due = due.min(self.next_status);
        }
        if self.recheck_wanted {
            due = due.min(self.next_recheck);
        }
        if self.mirror.has_routes() || self.losses.any() {
            due = due.min(self.next_loss_look);
        }
        let wait = if self.mirror.has_more() { Duration::ZERO } else { due.saturating_duration_since(now) };
        let timeout = rustix::event::Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let (hub, events) = (self.hub.as_fd(), self.netlink.as_fd());
        let devices = self.netdev.as_ref().map_or(events, |netdev| netdev.as_fd());
        let mut fds = [hub, events, devices].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take_changes(&mut self) -> Result<(), MapsError> {
        let (mut links, mut all) = (false, false);
        for change in self.netlink.changes() {
            match change {
                Change::Links => links = true,
                Change::Routes => self.recheck_wanted = true,
                Change::Neighbour(ifindex, ip, mac) => self.mirror.set_neighbour(ifindex, ip, mac),
                Change::Lost => all = true,
            }
        }
        links |= self.netdev.as_mut().is_some_and(Netdev::take_news);
        if all {
            debug!("changes of the routing were lost; asking for everything");
            match self.netlink.neighbours() {
                Ok(neighbours) => self.mirror.replace_neighbours(neighbours),
                Err(error) => warn!("cannot ask for neighbours: {error}"),
            }
        }
        if links || all {
            self.look_at_interfaces()?;
            self.recheck_wanted = true;
        }
        Ok(())
    }

    fn keep_deadlines(&mut self) -> Result<(), MapsError> {
        let now = Instant::now();
        if self.recheck_wanted && now >= self.next_recheck {
            self.recheck_wanted = false;
            self.next_recheck = now + RECHECK_PERIOD;
            self.mirror.recheck_all();
        }
        if now >= self.next_probe {
            self.next_probe = now + PROBE_PERIOD;
            self.mirror.probe_neighbours(&mut self.netlink);
        }
        if now >= self.next_retry {
            self.next_retry = now + RETRY_PERIOD;
            self.failed.clear();
        }
        if now >= self.next_loss_look {
            self.next_loss_look = now + LOSS_LOOK;
            self.look_at_losses(now)?;
        }
        if now >= self.next_effect_look {
            self.next_effect_look = now + TURN_PERIOD;
            self.look_at_effect()?;
        }
        if now >= self.next_resync {
            self.look_at_interfaces()?;
            self.mirror.resync(&mut self.xdp.maps, &mut self.netlink)?;
            self.next_resync = now + RESYNC_PERIOD.max(now.elapsed() * RESYNC_SHARE);
        }
        if self.mirror.take_touched() {
            self.status.set_stale();
        }
        if self.status.is_stale() && now >= self.next_status {
            self.next_status = now + STATUS_PERIOD;
            let counts = self.mirror.counts();
            debug!(kernel_routes = counts.routes, waiting = counts.waiting, "kernel data path");
            self.status.set_counts(counts);
        }
        Ok(())
    }

    /// Lets interfaces alone that lose what is sent by them, and tries them again.
    fn look_at_losses(&mut self, now: Instant) -> Result<(), MapsError> {
        let sent = self.xdp.maps.counters().sent()?;
        let changes = self.losses.look(now, &sent);
        for (place, change) in &changes {
            self.mirror.set_distrusted(*place, matches!(change, losses::Change::Distrusted(..)));
            let status = self.status.read();
            let is_there = |interface: &&InterfaceStatus| interface.place.is_some_and(|(at, _)| at == *place);
            let names = status.interfaces.iter().filter(is_there).map(|interface| interface.name.as_str());
            let names: Vec<&str> = names.collect();
            let name =
                if names.is_empty() { "an interface that is gone".to_owned() } else { names.join(",") };
            match change {
                losses::Change::Distrusted(sent, pause) => warn!(
                    lost = sent.lost,
                    frames = sent.frames,
                    "{name} loses what the kernel data path sends by it; userspace sends for {pause:?}"
                ),
                losses::Change::Trusted => info!("{name} is tried again by the kernel data path"),
            }
        }
        // What the driver says may have changed, too.
        if changes.is_empty() { Ok(()) } else { self.look_at_interfaces() }
    }

    /// Notices when nothing is forwarded although there is something to be forwarded.
    fn look_at_effect(&mut self) -> Result<(), MapsError> {
        let missed = self.status.missed();
        if !self.effect.wants_counts(missed) {
            return Ok(());
        }
        let verdicts = self.xdp.maps.counters().verdicts()?;
        let Counts { bindings, waiting, .. } = self.mirror.counts();
        match self.effect.look(missed, &verdicts, waiting, bindings + waiting) {
            Some(effect::Change::Idle(why)) => {
                let now = Instant::now();
                if now >= self.next_idle_warning {
                    self.next_idle_warning = now + IDLE_WARNING;
                    warn!("the kernel data path is not active: {why}");
                }
                self.status.set_idle(Some(why));
            }
            Some(effect::Change::Effective) => {
                debug!("the kernel data path forwards again");
                self.status.set_idle(None);
            }
            None => {}
        }
        Ok(())
    }

    /// Brings the program to where it should be, and the maps with it.
    fn look_at_interfaces(&mut self) -> Result<(), MapsError> {
        let (chosen, mut why_not) = match choose_interfaces(&self.wishes, &mut self.netlink, &self.host) {
            Ok(Ok(chosen)) => (chosen, None),
            Ok(Err(why)) => (Vec::new(), Some(why)),
            // Nothing is known to have changed; it is asked again with the next resynchronisation.
            Err(error) => {
                warn!("cannot ask for interfaces, those in use are kept: {error}");
                return Ok(());
            }
        };
        let mut ports = Vec::new();
        let mut interfaces = Vec::new();
        for Chosen { name, ifindex, fit } in chosen {
            let outcome = fit.and_then(|port| self.attach(&name, &port).map(|()| self.ask_driver(port)));
            let why = match &outcome {
                Ok(port) if !port.redirects => format!("{} XDP, {CANNOT_TRANSMIT}", self.mode.name()),
                Ok(_) => format!("{} XDP", self.mode.name()),
                Err(why) => why.clone(),
            };
            let attached = outcome.is_ok();
            interfaces.push(InterfaceStatus { name, ifindex, attached, why, ..InterfaceStatus::default() });
            ports.extend(outcome);
        }
        let config = match choose::config(&self.wishes) {
            Ok(config) if !ports.is_empty() => config,
            Ok(_) => Config::OFF,
            Err(why) => {
                ports.clear();
                why_not = Some(why);
                Config::OFF
            }
        };
        self.reconfigure(ports.clone(), &config)?;
        self.detach_others(&ports);
        self.describe(&ports, &mut interfaces);
        let status = state(self.mode, interfaces, why_not);
        let before = self.status.state();
        if (before.active, &before.why) != (status.active, &status.why) {
            info!(active = status.active, "kernel data path: {}", status.why);
        }
        self.status.set_state(status);
        Ok(())
    }

    fn reconfigure(&mut self, ports: Vec<Port>, config: &Config) -> Result<(), MapsError> {
        if ports.iter().any(|port| !self.mirror.has_port(port.ifindex)) {
            // Neighbours of other interfaces were not remembered.
            if let Ok(neighbours) = self.netlink.neighbours() {
                self.mirror.expect_neighbours(neighbours);
            }
        }
        let places: Vec<_> =
            ports.iter().map(|port| (port.device, self.mirror.place_of(port.device))).collect();
        self.mirror.reconfigure(&mut self.xdp.maps, ports, config)?;
        let (now, sent) = (Instant::now(), self.xdp.maps.counters().sent()?);
        for (device, before) in places {
            if before.is_none()
                && let Some(place) = self.mirror.place_of(device)
            {
                self.losses.forget(place, now, sent[place]);
                self.sent_before.insert(device, sent[place]);
            }
        }
        Ok(())
    }

    /// What the driver says that it can send, which many know only once a program is there.
    fn ask_driver(&mut self, mut port: Port) -> Port {
        let features = self.netdev.as_mut().map(|netdev| netdev.features(port.device));
        match (self.mode, features) {
            (Mode::Native, Some(Ok(features))) => {
                port.redirects = features.transmit;
                port.sends_back &= features.basic;
            }
            (Mode::Native, _) => {}
            (Mode::Generic, _) => port.sends_back = false,
        }
        port
    }

    /// Where interfaces have their places, and which of them are trusted.
    fn describe(&self, ports: &[Port], interfaces: &mut [InterfaceStatus]) {
        for port in ports {
            let interface = interfaces.iter_mut().find(|interface| interface.ifindex == port.ifindex);
            let (Some(interface), Some(place)) = (interface, self.mirror.place_of(port.device)) else {
                continue;
            };
            let before = self.sent_before.get(&port.device).copied().unwrap_or_default();
            interface.place = Some((place, before));
            interface.forwards = port.redirects || port.sends_back;
            if self.losses.is_distrusted(place) {
                interface.forwards = false;
                interface.why = format!("{} XDP, {LOSES}", self.mode.name());
            }
        }
    }

    fn attach(&mut self, name: &str, port: &Port) -> Result<(), String> {
        if self.attached.contains_key(&port.device) {
            return Ok(());
        }
        if let Some((before, why)) = self.failed.get(&port.device)
            && before == port
        {
            return Err(why.clone());
        }
        let replaced = self.inherited.link(port.device).map(|link| self.xdp.replace(port.device, link));
        let attached = match replaced {
            Some(Ok(())) => {
                info!("{name} has had a program all the time: it was put in place of the one before");
                Ok(())
            }
            _ => self.xdp.attach(port.device, self.mode),
        };
        match attached {
            Ok(()) => {
                self.attached.insert(port.device, name.to_owned());
                self.keep_link(port.device);
                Ok(())
            }
            Err(error) => {
                let why = match &error {
                    XdpError::Attach(refusal) => refusal.explain(&self.name_of(port.device, name)),
                    error => error.to_string(),
                };
                self.failed.insert(port.device, (port.clone(), why.clone()));
                Err(why)
            }
        }
    }

    /// The name of a device, where an interface is on top of it.
    fn name_of(&mut self, device: u32, interface: &str) -> String {
        let links = self.netlink.links().unwrap_or_default();
        let found = links.into_iter().find(|link| link.ifindex == device);
        found.map_or_else(|| interface.to_owned(), |link| link.name)
    }

    /// Gives a link to whoever keeps it until the next process.
    fn keep_link(&self, ifindex: u32) {
        let link = self.xdp.link(ifindex).filter(|_| self.mode == Mode::Native);
        if let Some(Ok(link)) = link.map(|link| link.as_fd().try_clone_to_owned()) {
            self.inherited.keeper().keep(XdpLink::name(ifindex), link);
        }
    }

    /// Leaves the interfaces that are not among `ports`.
    fn detach_others(&mut self, ports: &[Port]) {
        let others: Vec<u32> = self
            .attached
            .keys()
            .filter(|ifindex| !ports.iter().any(|port| port.device == **ifindex))
            .copied()
            .collect();
        for ifindex in others {
            self.attached.remove(&ifindex);
            self.sent_before.remove(&ifindex);
            self.inherited.keeper().forget(XdpLink::name(ifindex));
            if let Err(error) = self.xdp.detach(ifindex) {
                warn!("the program may still be on interface number {ifindex}, switched off: {error}");
            }
        }
    }
}

/// Interfaces, or why there is none to be chosen; an error if the kernel can't be asked.
fn choose_interfaces(
    wishes: &Wishes,
    netlink: &mut Netlink,
    host: &Host,
) -> io::Result<Result<Vec<Chosen>, String>> {
    let links = netlink.links()?;
    Ok(choose::interfaces(wishes, &links, &netlink.addresses()?, host))
}

fn state(mode: Mode, interfaces: Vec<InterfaceStatus>, why_not: Option<String>) -> OffloadStatus {
    let attached = interfaces.iter().any(|interface| interface.attached);
    let on: Vec<&str> = interfaces.iter().filter(|i| i.forwards).map(|i| i.name.as_str()).collect();
    let off: Vec<String> =
        interfaces.iter().filter(|i| !i.forwards).map(|i| format!("{}: {}", i.name, i.why)).collect();
    let active = !on.is_empty() && why_not.is_none();
    let why = match why_not {
        Some(why) => why,
        None if !active => off.join("; "),
        None if off.is_empty() => format!("{} XDP on {}", mode.name(), on.join(",")),
        None => format!("{} XDP on {}; not on {}", mode.name(), on.join(","), off.join("; ")),
    };
    OffloadStatus { active, mode: attached.then_some(mode), why, interfaces, ..OffloadStatus::default() }
}

fn reasons(chosen: &[Chosen]) -> String {
    let reasons: Vec<String> = chosen
        .iter()
        .filter_map(|chosen| Some(format!("{}: {}", chosen.name, chosen.fit.as_ref().err()?)))
        .collect();
    reasons.join("; ")
}
