//! Loads the program and attaches it to interfaces.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use aya::programs::{ProgramError, RawTracePoint, Xdp as XdpProgram};
use aya::{Ebpf, EbpfError, EbpfLoader};
use tracing::debug;

use super::link::XdpLink;
use super::maps::{Maps, MapsError, Sizes};
use super::refusal::Refusal;

/// The object that was built from `ebpf/program`; `ebpf/README.md` says how.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/object/turnpike.o");

/// The program's name in the object.
const PROGRAM: &str = "turnpike";
/// Programs that see what becomes of frames after they were sent, with their tracepoints.
const FATES: [(&str, &str); 3] = [
    ("device_took_a_batch", "xdp_devmap_xmit"),
    ("redirect_was_refused", "xdp_redirect_err"),
    ("sending_back_failed", "xdp_exception"),
];

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (linux/if_link.h).
const SKB_MODE: u32 = 2;
const DRIVER_MODE: u32 = 4;

/// How the program gets its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// From the driver: the fast way, which is the point of it all.
    Native,
    /// From the network stack, after it has made a buffer: slow, for tests only.
    Generic,
}

impl Mode {
    const fn flags(self) -> u32 {
        match self {
            Mode::Native => DRIVER_MODE,
            Mode::Generic => SKB_MODE,
        }
    }

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

/// Why the program could not be used.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The object could not be loaded.
    #[error("cannot load the eBPF object: {0}")]
    Object(#[from] EbpfError),
    /// The object has no such program: it was not built from this version.
    #[error("the eBPF object has no program {0}")]
    Missing(&'static str),
    /// The kernel's verifier or its privilege check refused the program.
    #[error("the kernel refuses the program {name}: {}", short(error))]
    Refused {
        /// The program's name in the object.
        name: &'static str,
        /// What the kernel said.
        error: ProgramError,
    },
    /// The interface does not take it.
    #[error("{0}")]
    Attach(Refusal),
    /// A map is missing or was refused.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// The loaded program. Dropping it detaches it everywhere but where somebody else has the link, too.
pub struct Xdp {
    ebpf: Ebpf,
    links: HashMap<u32, XdpLink>,
    /// The program's maps, open as long as it is loaded.
    pub maps: Maps,
}

impl Xdp {
    /// Loads the program; it is attached to nothing, and its maps are empty.
    ///
    /// # Errors
    /// Without the privileges for it, on kernels before 5.15, and if memory is short.
    pub fn load(sizes: Sizes) -> Result<Xdp, XdpError> {
        Xdp::load_object(OBJECT, sizes)
    }

    /// The same for an object that was built apart, for tests of other toolchains.
    pub fn load_object(object: &[u8], sizes: Sizes) -> Result<Xdp, XdpError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("INDEX", sizes.buckets())
            .map_max_entries("ROUTES", sizes.routes())
            .map_max_entries("ALLOCATIONS", sizes.allocations)
            .map_max_entries("NEXT_HOPS", sizes.next_hops)
            .load(object)?;
        program(&mut ebpf)?.load().map_err(|error| XdpError::Refused { name: PROGRAM, error })?;
        // Before the maps are taken: of those that are shared only the mapping is kept.
        for (name, _) in FATES {
            tracepoint(&mut ebpf, name)?.load().map_err(|error| XdpError::Refused { name, error })?;
        }
        let maps = Maps::take(&mut ebpf, sizes)?;
        Ok(Xdp { ebpf, links: HashMap::new(), maps })
    }

    /// Attaches what sees which frames were not sent after all.
    pub fn watch_fates(&mut self) -> Result<(), XdpError> {
        for (name, event) in FATES {
            let refused = |error| XdpError::Refused { name, error };
            tracepoint(&mut self.ebpf, name)?.attach(event).map_err(refused)?;
        }
        Ok(())
    }

    /// Attaches the program to an interface and lets frames be redirected to it.
    ///
    /// # Errors
    /// If the interface is gone, its driver has no XDP, or another program is there already.
    pub fn attach(&mut self, ifindex: u32, mode: Mode) -> Result<(), XdpError> {
        self.maps.add_device(ifindex)?;
        let program = self.descriptor()?;
        match XdpLink::create(program, ifindex, mode.flags()) {
            Ok(link) => {
                self.links.insert(ifindex, link);
                debug!(ifindex, ?mode, "XDP program attached");
                Ok(())
            }
            Err(error) => {
                debug!(ifindex, %error, "XDP program not attached");
                let refusal = Refusal::look(ifindex, program, mode.flags(), error.raw_os_error());
                self.maps.remove_device(ifindex)?;
                Err(XdpError::Attach(refusal))
            }
        }
    }

    /// Puts the program in place of the one that a link of another process holds at an interface: the driver has a
    /// program before and after.
    ///
    /// # Errors
    /// If the kernel refuses; the other program is taken off then.
    pub fn replace(&mut self, ifindex: u32, link: XdpLink) -> Result<(), XdpError> {
        self.maps.add_device(ifindex)?;
        let program = self.descriptor()?;
        match link.update(program) {
            Ok(()) => {
                self.links.insert(ifindex, link);
                debug!(ifindex, "XDP program put in place of another");
                Ok(())
            }
            Err(error) => {
                // Whoever keeps it would keep the other program at the interface.
                if let Err(error) = link.detach() {
                    debug!(ifindex, %error, "the other XDP program had been detached already");
                }
                let refusal = Refusal { number: error.raw_os_error(), words: None, attached: None };
                self.maps.remove_device(ifindex)?;
                Err(XdpError::Attach(refusal))
            }
        }
    }

    /// The link to an interface, for whoever keeps it.
    pub fn link(&self, ifindex: u32) -> Option<&XdpLink> {
        self.links.get(&ifindex)
    }

    /// Takes the program off an interface, whoever else has its link. It is no error if the interface is gone.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), XdpError> {
        self.maps.remove_device(ifindex)?;
        let Some(link) = self.links.remove(&ifindex) else { return Ok(()) };
        if let Err(error) = link.detach() {
            debug!(ifindex, %error, "the XDP program had been detached already");
        }
        Ok(())
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, XdpError> {
        let program = self.ebpf.program(PROGRAM).ok_or(XdpError::Missing(PROGRAM))?;
        let refused = |error| XdpError::Refused { name: PROGRAM, error };
        let program: &XdpProgram = program.try_into().map_err(refused)?;
        Ok(program.fd().map_err(refused)?.as_fd())
    }

    /// The program itself, for test runs.
    pub fn program(&mut self) -> Result<&mut XdpProgram, XdpError> {
        program(&mut self.ebpf)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut XdpProgram, XdpError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(XdpError::Missing(PROGRAM))?;
    program.try_into().map_err(|error| XdpError::Refused { name: PROGRAM, error })
}

fn tracepoint<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut RawTracePoint, XdpError> {
    let program = ebpf.program_mut(name).ok_or(XdpError::Missing(name))?;
    program.try_into().map_err(|error| XdpError::Refused { name, error })
}

/// Without the verifier's log, which has a line for each step that it took.
fn short(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            debug!("{verifier_log}");
            let why = verifier_log.to_string();
            // The last lines are statistics; the fault stands before them.
            let fault =
                why.lines().rev().find(|line| !STATISTICS.iter().any(|start| line.starts_with(start)));
            format!("{io_error}: {}", fault.unwrap_or("the verifier says nothing"))
        }
        error => error.to_string(),
    }
}

/// What the verifier says of itself at the end of its log.
const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed"];
