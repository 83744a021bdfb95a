//! Keeps each client on its worker, whatever becomes of the other workers' sockets, and strangers out of its queue.
//!
//! All workers listen on the same port, and the kernel spreads clients over their sockets by a hash that
//! counts the sockets there are: one that closes or joins moves half of the clients to workers that have
//! never heard of them. A program of ours chooses instead, by [`Pinning::pin`], and slot and worker are
//! the same number. Where the kernel refuses the program, its own hash goes on.
//!
//! Each worker may have a second socket for those that have no allocation, so that no flood of theirs fills the queue of
//! those that have. Who has one the relay says by [`Pinned::enter`]: a count of one byte in memory that it shares with
//! the program, found by a hash of the 5-tuple that nobody outside can guess.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, Map, MapError, ReusePortSockArray};
use aya::programs::{ProgramError, SkReuseport, SkReuseportError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use turnpike_abi::{Address, KNOWN_BUCKETS, Pin, Pinning};

use super::mapped::{Mapped, Plain};

/// The object that was built from `ebpf/program/src/pinning.rs`; `ebpf/README.md` says how.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/object/pinning.o");

const PROGRAM: &str = "pin";

/// Why clients stay with the kernel's own choice.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The object is not the one that belongs to this version.
    #[error("the eBPF object has no usable {0}")]
    Missing(&'static str),
    /// The kernel refused to load or to attach the program.
    #[error("{what}: {error}{hint}", hint = hint(error))]
    Refused {
        /// What was tried, in words.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// Something else failed in the loader.
    #[error("the eBPF object does not load: {0}")]
    Load(String),
}

/// A group of sockets whose clients stay on their workers.
#[derive(Debug)]
pub struct Pinned {
    pinning: Pinning,
    /// Who has an allocation, if strangers are kept apart.
    known: Option<Mapped<AtomicU64>>,
    /// The map that this is.
    memory: Option<OwnedFd>,
}

impl Pinned {
    /// How clients are spread.
    pub fn pinning(&self) -> Pinning {
        self.pinning
    }

    /// The memory shared with the program, for another process that goes on with the sockets.
    pub fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_ref().map(AsFd::as_fd)
    }

    /// What another process has shared with the program of a group that keeps strangers apart.
    ///
    /// # Errors
    /// If it is no such memory.
    pub fn adopt(seed: u64, sockets: u32, memory: OwnedFd) -> io::Result<Pinned> {
        let known = Mapped::new(memory.as_fd(), KNOWN_BUCKETS / 8)?;
        let pinning = Pinning { seed, sockets, keeps_apart: 1 };
        Ok(Pinned { pinning, known: Some(known), memory: Some(memory) })
    }

    /// A client has an allocation: from now on what it sends to `server` is none of a stranger's.
    pub fn enter(&self, client: SocketAddr, server: SocketAddr) {
        self.change(client, server, Pin::entered);
    }

    /// It has it no longer. For each [`Pinned::enter`] once.
    pub fn leave(&self, client: SocketAddr, server: SocketAddr) {
        self.change(client, server, Pin::left);
    }

    fn change(&self, client: SocketAddr, server: SocketAddr, change: fn(Pin, u64) -> Option<u64>) {
        let Some(known) = &self.known else { return };
        let ([a, b], [c, d]) = (client.port().to_be_bytes(), server.port().to_be_bytes());
        let ports = u32::from_ne_bytes([a, b, c, d]);
        let pin = self.pinning.pin(Address::from(client.ip()), Address::from(server.ip()), ports);
        let Some(word) = known.get(pin.word() as usize) else { return };
        // A bucket that is full stays so: then a few strangers more are taken for clients.
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| change(pin, word));
    }
}

/// Makes the slots of a group of sockets their places in `sockets`: bound to one address and port, with
/// SO_REUSEPORT, in the order of the workers. What those send that have no allocation goes to `strangers`, as many of
/// the same group, or to `sockets` if there are none. It holds until the last of them is closed, and can't be done
/// twice. A slot whose socket was closed falls to the kernel's choice.
///
/// # Errors
/// Without CAP_BPF, on kernels before 5.12, and for sockets that are no such group.
pub fn pin(sockets: &[impl AsFd], strangers: &[impl AsFd]) -> Result<Pinned, PinError> {
    let keeps_apart = !strangers.is_empty();
    let pinning = Pinning { seed: seed(), sockets: sockets.len() as u32, keeps_apart: keeps_apart.into() };
    let Some(first) = sockets.first() else { return Ok(Pinned { pinning, known: None, memory: None }) };
    let words = if keeps_apart { KNOWN_BUCKETS / 8 } else { 1 };
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("SOCKETS", pinning.sockets + strangers.len() as u32)
        .map_max_entries("KNOWN", words)
        .load(OBJECT)
        .map_err(load_error)?;
    let map = ebpf.take_map("PINNING").ok_or(PinError::Missing("map PINNING"))?;
    let mut parameters = Array::<_, Plain<Pinning>>::try_from(map).map_err(map_error)?;
    parameters.set(0, Plain(pinning), 0).map_err(map_error)?;
    let map = ebpf.take_map("SOCKETS").ok_or(PinError::Missing("map SOCKETS"))?;
    let mut slots = ReusePortSockArray::try_from(map).map_err(map_error)?;
    let all = sockets.iter().map(AsFd::as_fd).chain(strangers.iter().map(AsFd::as_fd));
    for (slot, socket) in (0..).zip(all) {
        slots.set(slot, &socket.as_raw_fd(), 0).map_err(map_error)?;
    }
    // The program names its maps by their descriptors: they stay open until it is loaded.
    let Some(Map::Array(map)) = ebpf.take_map("KNOWN") else { return Err(PinError::Missing("map KNOWN")) };
    let memory = keeps_apart.then(|| map.fd().as_fd().try_clone_to_owned()).transpose();
    let memory = memory.map_err(|error| PinError::Refused { what: "no descriptor is left", error })?;
    let known = memory.as_ref().map(|memory| Mapped::new(memory.as_fd(), words)).transpose();
    let known = known.map_err(|error| PinError::Refused { what: "cannot map an eBPF array", error })?;
    let program = program(&mut ebpf)?;
    program.load().map_err(program_error)?;
    // The group keeps the program, and the program its maps.
    program.attach(first.as_fd()).map_err(program_error)?;
    Ok(Pinned { pinning, known, memory })
}

/// The same for each process since the machine was started, and known to nobody outside of it.
fn seed() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits = id.chars().filter_map(|digit| digit.to_digit(16));
    // Two halves of sixteen digits each: what the first shifts out, the rotation brings back in.
    digits.fold(0, |seed: u64, digit| seed.rotate_left(4) ^ u64::from(digit))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SkReuseport, PinError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(PinError::Missing("program"))?;
    program.try_into().map_err(program_error)
}

fn load_error(error: EbpfError) -> PinError {
    match error {
        EbpfError::MapError(error) => map_error(error),
        error => PinError::Load(error.to_string()),
    }
}

fn map_error(error: MapError) -> PinError {
    match error {
        MapError::CreateError { io_error, .. } => {
            PinError::Refused { what: "cannot make an eBPF map", error: io_error }
        }
        MapError::SyscallError(error) => {
            PinError::Refused { what: "cannot write an eBPF map", error: error.io_error }
        }
        error => PinError::Load(error.to_string()),
    }
}

fn program_error(error: ProgramError) -> PinError {
    match error {
        ProgramError::LoadError { io_error, .. } => {
            PinError::Refused { what: "the kernel refuses the eBPF program", error: io_error }
        }
        ProgramError::SkReuseportError(SkReuseportError::SetsockoptError { io_error, .. }) => {
            PinError::Refused { what: "the sockets do not take the eBPF program", error: io_error }
        }
        error => PinError::Load(error.to_string()),
    }
}

/// What the operator can do about a refusal.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (CAP_BPF is needed)",
        _ => "",
    }
}
