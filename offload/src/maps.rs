//! Typed access to the program's maps. One owner writes; the shared arrays are atomics.
//!
//! Order is the caller's business: routes are deleted, then [`Maps::grace_period`], then others are
//! inserted. What has an order of its own ([`Maps::replace_config`], [`Maps::replace_next_hops`]) keeps it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, DevMapHash, Map, MapData, MapError, PerCpuArray};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use turnpike_abi::{
    Allocation, Binding, Books, Bucket, Config, Devices, MAX_INTERFACES, NextHop, NoInsert, Route, RouteKey,
    RouteTable, Switch, Verdict, buckets_for,
};

use super::losses::Sent;
use super::mapped::{self, Grace, Mapped, Plain};

/// What fails when there is no way to wait for a grace period.
const WAIT: &str = "wait for the kernel's grace period";

/// How many entries the maps have. All memory is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Channel bindings; each has two routes.
    pub bindings: u32,
    /// Slots for allocations.
    pub allocations: u32,
    /// Slots for next hops.
    pub next_hops: u32,
}

impl Sizes {
    /// A thousand of each: a small relay, and tests.
    pub const SMALL: Sizes = Sizes { bindings: 1024, allocations: 1024, next_hops: 1024 };

    /// Entries of `ROUTES`.
    pub fn routes(self) -> u32 {
        self.bindings.saturating_mul(2)
    }

    /// Entries of `INDEX`.
    pub fn buckets(self) -> u32 {
        buckets_for(self.bindings)
    }
}

/// Why a map could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The object has no such map: it was not built from this version.
    #[error("the eBPF object has no usable map {0}")]
    Missing(&'static str),
    /// The kernel refused.
    #[error("eBPF map {map}: {error}")]
    Refused {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        error: MapError,
    },
    /// The table of routes has no room for one.
    #[error("a route is not inserted: {0}")]
    NoInsert(#[from] NoInsert),
    /// An operating system call failed.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried, in words.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The maps of a loaded program.
pub struct Maps {
    config: Array<MapData, Plain<Config>>,
    switch: Mapped<Switch<AtomicU64>>,
    known_devices: Array<MapData, Plain<Devices>>,
    index: Mapped<Bucket<AtomicU64>>,
    bindings: Arc<Mapped<Binding<AtomicU64>>>,
    allocations: Arc<Mapped<Allocation<AtomicU64>>>,
    next_hops: Array<MapData, Plain<NextHop>>,
    devices: DevMapHash<MapData>,
    grace: Grace,
    counters: Arc<Counters>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, sizes: Sizes) -> Result<Maps, MapsError> {
        let maps = Maps {
            config: take(ebpf, "CONFIG")?,
            switch: share(ebpf, "SWITCH", 1)?,
            known_devices: take(ebpf, "DEVICES")?,
            index: share(ebpf, "INDEX", sizes.buckets())?,
            bindings: Arc::new(share(ebpf, "ROUTES", sizes.bindings)?),
            allocations: Arc::new(share(ebpf, "ALLOCATIONS", sizes.allocations)?),
            next_hops: take(ebpf, "NEXT_HOPS")?,
            devices: take(ebpf, "DEVS")?,
            grace: Grace::new().map_err(|error| MapsError::System { what: WAIT, error })?,
            counters: Arc::new(Counters {
                verdicts: take(ebpf, "VERDICTS")?,
                books: take(ebpf, "BOOKS")?,
                highest: Mutex::new([0; Verdict::COUNT]),
            }),
        };
        maps.table().seed(random()?);
        Ok(maps)
    }

    /// Puts another configuration in place of the present one; nothing passes in between that the one or the other
    /// would not pass.
    pub fn replace_config(&mut self, new: &Config) -> Result<(), MapsError> {
        // Nobody has read this one since the grace period that followed the last change.
        let next = 1 - self.place_in_force();
        self.config.set(next, Plain(*new), 0).map_err(refused("CONFIG"))?;
        // Interfaces may have other places: which devices they are shows when they are given something.
        self.known_devices.set(0, Plain([0; MAX_INTERFACES]), 0).map_err(refused("DEVICES"))?;
        self.switch[0].config.store(u64::from(next), Ordering::Release);
        self.grace_period()
    }

    /// The configuration in force.
    pub fn config(&self) -> Result<Config, MapsError> {
        self.config.get(&self.place_in_force(), 0).map(|config| config.0).map_err(refused("CONFIG"))
    }

    fn place_in_force(&self) -> u32 {
        u32::from(self.switch[0].config.load(Ordering::Acquire) != 0)
    }

    /// Lets the program be used until this time of the monotonic clock, nanoseconds; 0 stops it at once.
    pub fn attend_until(&self, until_ns: u64) {
        self.switch[0].lease_ns.store(until_ns, Ordering::Release);
    }

    /// Adds a route; it is an error if there is one for that key.
    pub fn insert_route(&mut self, key: &RouteKey, route: &Route) -> Result<(), MapsError> {
        Ok(self.table().insert(key, route)?)
    }

    /// Deletes a route; `false` if there was none. Its entry may be in use until a grace period is over.
    pub fn remove_route(&mut self, key: &RouteKey) -> bool {
        self.table().remove(key)
    }

    /// Every route there is.
    pub fn routes(&self) -> Vec<(RouteKey, Route)> {
        self.table().routes().collect()
    }

    fn table(&self) -> RouteTable<'_> {
        RouteTable { switch: &self.switch[0], buckets: &self.index, bindings: &self.bindings }
    }

    /// Leases, generations and routes of channel bindings, shared with the program; workers keep a handle.
    pub fn bindings(&self) -> &Arc<Mapped<Binding<AtomicU64>>> {
        &self.bindings
    }

    /// Limits and counters of allocations, shared with the program; workers keep a handle.
    pub fn allocations(&self) -> &Arc<Mapped<Allocation<AtomicU64>>> {
        &self.allocations
    }

    /// Changes next hops that may be in use; while it happens, what would use them passes.
    pub fn replace_next_hops(&mut self, changes: &[(u32, NextHop)]) -> Result<(), MapsError> {
        for &(slot, _) in changes {
            let old = self.next_hops.get(&slot, 0).map_err(refused("NEXT_HOPS"))?.0;
            self.set_next_hop(slot, NextHop { ifindex: 0, ..old })?;
        }
        self.grace_period()?;
        for &(slot, next_hop) in changes {
            self.set_next_hop(slot, NextHop { ifindex: 0, ..next_hop })?;
        }
        self.grace_period()?;
        changes.iter().try_for_each(|&(slot, next_hop)| self.set_next_hop(slot, next_hop))
    }

    /// Writes a next hop that no route names.
    pub fn set_next_hop(&mut self, slot: u32, next_hop: NextHop) -> Result<(), MapsError> {
        self.next_hops.set(slot, Plain(next_hop), 0).map_err(refused("NEXT_HOPS"))
    }

    /// Allows redirecting to a device.
    pub fn add_device(&mut self, ifindex: u32) -> Result<(), MapsError> {
        self.devices.insert(ifindex, ifindex, None, 0).map_err(|error| match error {
            aya::maps::xdp::XdpMapError::MapError(error) => refused("DEVS")(error),
            aya::maps::xdp::XdpMapError::ChainedProgramNotSupported => MapsError::Missing("DEVS"),
        })
    }

    /// Forbids redirecting to a device; the kernel does so itself when the device goes.
    pub fn remove_device(&mut self, ifindex: u32) -> Result<(), MapsError> {
        match self.devices.remove(ifindex) {
            Err(MapError::SyscallError(error)) if is_missing(&error.io_error) => Ok(()),
            done => done.map_err(refused("DEVS")),
        }
    }

    /// What the program counted; others may keep a handle.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Waits until no run of the program can see what was deleted before. Milliseconds.
    pub fn grace_period(&self) -> Result<(), MapsError> {
        self.grace.wait().map_err(|error| MapsError::System { what: WAIT, error })
    }
}

/// The program's counters, one of each kind for each CPU.
pub struct Counters {
    verdicts: PerCpuArray<MapData, u64>,
    books: PerCpuArray<MapData, Plain<Books>>,
    /// What was read at most.
    highest: Mutex<[u64; Verdict::COUNT]>,
}

impl Counters {
    /// Verdicts since the program was loaded, over all CPUs, by number. They never shrink: a frame that was not sent
    /// after all is taken back a moment later, and what was read meanwhile stays until others have come.
    pub fn verdicts(&self) -> Result<[u64; Verdict::COUNT], MapsError> {
        let mut sums = [0_u64; Verdict::COUNT];
        for (index, sum) in sums.iter_mut().enumerate() {
            let counts = self.verdicts.get(&(index as u32), 0).map_err(refused("VERDICTS"))?;
            *sum = counts.iter().fold(0, |sum, count| sum.wrapping_add(*count));
        }
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        highest.iter_mut().zip(sums).for_each(|(highest, sum)| *highest = sum.max(*highest));
        Ok(*highest)
    }

    /// What was sent by each interface since the program was loaded, by place.
    pub fn sent(&self) -> Result<[Sent; MAX_INTERFACES], MapsError> {
        let mut all = [Sent::default(); MAX_INTERFACES];
        for Plain(books) in self.books.get(&0, 0).map_err(refused("BOOKS"))?.iter() {
            for (sent, ledger) in all.iter_mut().zip(&books.ledgers) {
                let frames = ledger.queued + ledger.back + ledger.refused;
                sent.frames += frames;
                sent.lost += ledger.dropped + ledger.refused;
                if frames > 0 {
                    // Whose they were is not known: anybody's who sends.
                    sent.lost += books.unplaced;
                }
            }
        }
        Ok(all)
    }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, MapsError> {
    let map = ebpf.take_map(name).ok_or(MapsError::Missing(name))?;
    M::try_from(map).map_err(refused(name))
}

fn share<T: mapped::InSharedMemory>(
    ebpf: &mut Ebpf,
    name: &'static str,
    entries: u32,
) -> Result<Mapped<T>, MapsError> {
    let Some(Map::Array(map)) = ebpf.take_map(name) else { return Err(MapsError::Missing(name)) };
    // The mapping keeps the map alive without its descriptor.
    Mapped::new(map.fd(), entries).map_err(|error| MapsError::System { what: "map an eBPF array", error })
}

/// Numbers that nobody can guess.
fn random() -> Result<[u64; 5], MapsError> {
    let mut words = [0; 5];
    for word in &mut words {
        let random = OsRng.try_next_u64();
        *word = random.map_err(|error| MapsError::System {
            what: "get random numbers",
            error: io::Error::other(error),
        })?;
    }
    Ok(words)
}

fn refused(map: &'static str) -> impl Fn(MapError) -> MapsError {
    move |error| MapsError::Refused { map, error }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}
