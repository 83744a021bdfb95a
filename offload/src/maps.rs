//! Typed access to the program's maps. One owner writes; the shared arrays are atomics.
//!
//! Order is the caller's business: routes are deleted, then [`Maps::grace_period`], then others are
//! inserted. What has an order of its own ([`Maps::replace_config`], [`Maps::replace_next_hops`]) keeps it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aya::Ebpf;
use aya::maps::{Array, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray};
use turnpike_abi::{Allocation, Binding, Config, NextHop, Route, RouteKey, Verdict};

use super::mapped::{self, Mapped, Plain};

/// `BPF_NOEXIST`: an entry is made, never changed.
const ONLY_NEW: u64 = 1;

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
    routes: HashMap<MapData, Plain<RouteKey>, Plain<Route>>,
    bindings: Arc<Mapped<Binding<AtomicU64>>>,
    allocations: Arc<Mapped<Allocation<AtomicU64>>>,
    next_hops: Array<MapData, Plain<NextHop>>,
    devices: DevMapHash<MapData>,
    verdicts: Arc<Verdicts>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, sizes: Sizes) -> Result<Maps, MapsError> {
        Ok(Maps {
            config: take(ebpf, "CONFIG")?,
            routes: take(ebpf, "ROUTES")?,
            bindings: Arc::new(share(ebpf, "BINDINGS", sizes.bindings)?),
            allocations: Arc::new(share(ebpf, "ALLOCATIONS", sizes.allocations)?),
            next_hops: take(ebpf, "NEXT_HOPS")?,
            devices: take(ebpf, "DEVS")?,
            verdicts: Arc::new(Verdicts { map: take(ebpf, "VERDICTS")? }),
        })
    }

    /// Puts another configuration in place of the present one; in between everything passes.
    pub fn replace_config(&mut self, new: &Config) -> Result<(), MapsError> {
        let mut old = self.config()?;
        old.enabled = 0;
        self.set_config(old)?;
        self.grace_period()?;
        self.set_config(Config { enabled: 0, ..*new })?;
        self.grace_period()?;
        self.set_config(*new)
    }

    /// The configuration in force.
    pub fn config(&self) -> Result<Config, MapsError> {
        self.config.get(&0, 0).map(|config| config.0).map_err(refused("CONFIG"))
    }

    fn set_config(&mut self, config: Config) -> Result<(), MapsError> {
        self.config.set(0, Plain(config), 0).map_err(refused("CONFIG"))
    }

    /// Adds a route; it is an error if there is one for that key.
    pub fn insert_route(&mut self, key: &RouteKey, route: &Route) -> Result<(), MapsError> {
        self.routes.insert(Plain(*key), Plain(*route), ONLY_NEW).map_err(refused("ROUTES"))
    }

    /// Deletes a route; `false` if there was none. Its element may be in use until a grace period is over.
    pub fn remove_route(&mut self, key: &RouteKey) -> Result<bool, MapsError> {
        match self.routes.remove(&Plain(*key)) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if is_missing(&error.io_error) => Ok(false),
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(false),
            Err(error) => Err(refused("ROUTES")(error)),
        }
    }

    /// Every route there is, as of some time between the beginning of the call and its end.
    pub fn routes(&self) -> Result<Vec<(RouteKey, Route)>, MapsError> {
        let plain = |entry: Result<(Plain<RouteKey>, Plain<Route>), MapError>| {
            entry.map(|(key, route)| (key.0, route.0)).map_err(refused("ROUTES"))
        };
        self.routes.iter().map(plain).collect()
    }

    /// Leases and generations of channel bindings, shared with the program; workers keep a handle.
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
    pub fn verdicts(&self) -> &Arc<Verdicts> {
        &self.verdicts
    }

    /// Waits until no run of the program can see what was deleted before. Milliseconds.
    pub fn grace_period(&self) -> Result<(), MapsError> {
        let what = "wait for the kernel's grace period (membarrier)";
        mapped::grace_period().map_err(|error| MapsError::System { what, error })
    }
}

/// The program's counters, one of each verdict for each CPU.
pub struct Verdicts {
    map: PerCpuArray<MapData, u64>,
}

impl Verdicts {
    /// What was counted since the program was loaded, over all CPUs, by number of the verdict.
    pub fn read(&self) -> Result<[u64; Verdict::COUNT], MapsError> {
        let mut sums = [0; Verdict::COUNT];
        for (index, sum) in sums.iter_mut().enumerate() {
            let counts = self.map.get(&(index as u32), 0).map_err(refused("VERDICTS"))?;
            *sum = counts.iter().sum();
        }
        Ok(sums)
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

fn refused(map: &'static str) -> impl Fn(MapError) -> MapsError {
    move |error| MapsError::Refused { map, error }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}
