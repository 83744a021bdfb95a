//! Links between an interface and the program at its XDP hook (`bpf(2)`): the library at hand can make them, but neither
//! take over those that another process has made nor give one away.
//!
//! A link holds the program at the interface as long as anybody has its descriptor open: this process, and the service
//! manager, if it has been given one to keep until the next process. That one puts its own program in place of the old
//! one: for most drivers nothing but a pointer changes, where detaching and attaching would reset their queues.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `BPF_OBJ_GET_INFO_BY_FD`, `BPF_LINK_CREATE`, `BPF_LINK_UPDATE`, `BPF_LINK_DETACH`.
const GET_INFO: libc::c_long = 15;
const CREATE: libc::c_long = 28;
const UPDATE: libc::c_long = 29;
const DETACH: libc::c_long = 34;
/// `BPF_XDP`, the type of the hook, and `BPF_LINK_TYPE_XDP`.
const XDP_HOOK: u32 = 37;
const XDP_LINK: u32 = 6;
/// What is in front of an interface's index in the names of links that are kept.
const NAME: &str = "xdp-";

/// A link to an XDP hook.
#[derive(Debug)]
pub struct XdpLink(OwnedFd);

/// What the kernel is asked with, as far as these commands need it: `union bpf_attr`.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
struct Attributes([u32; 16]);

/// `struct bpf_link_info`: type, number of the link, number of the program, then what the type has.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
struct Info([u32; 32]);

impl XdpLink {
    /// Puts a program at an interface's hook; `flags` are `XDP_FLAGS_*_MODE`.
    pub(super) fn create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<XdpLink> {
        let mut attributes = Attributes::default();
        attributes.0[..4].copy_from_slice(&[number(program), ifindex, XDP_HOOK, flags]);
        let link = bpf(CREATE, &attributes)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(XdpLink(unsafe { OwnedFd::from_raw_fd(link) }))
    }

    /// Puts another program in place of the present one.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes.0[..2].copy_from_slice(&[number(self.as_fd()), number(program)]);
        bpf(UPDATE, &attributes).map(drop)
    }

    /// Takes the program off, whoever else has the link open.
    pub(super) fn detach(self) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes.0[0] = number(self.as_fd());
        bpf(DETACH, &attributes).map(drop)
    }

    /// The interface's index; `None` if this is no such link, or its interface is gone.
    pub fn ifindex(&self) -> Option<u32> {
        let mut info = Info::default();
        let address = (&raw mut info) as u64;
        let mut attributes = Attributes::default();
        attributes.0[..2].copy_from_slice(&[number(self.as_fd()), size_of::<Info>() as u32]);
        attributes.0[2..4].copy_from_slice(&[address as u32, (address >> 32) as u32]);
        bpf(GET_INFO, &attributes).ok()?;
        let [kind, _, _, _, ifindex, ..] = info.0;
        (kind == XDP_LINK && ifindex != 0).then_some(ifindex)
    }

    /// The name under which the link to an interface is kept.
    pub fn name(ifindex: u32) -> String {
        format!("{NAME}{ifindex}")
    }
}

impl AsFd for XdpLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Who keeps links until the next process of ours. Neither call may wait.
pub trait Keeper: Send + Sync {
    /// Keeps a link under this name.
    fn keep(&self, name: String, link: OwnedFd);
    /// Keeps none under this name any more.
    fn forget(&self, name: String);
}

/// Keeps nothing.
struct Nobody;

impl Keeper for Nobody {
    fn keep(&self, _: String, _: OwnedFd) {}

    fn forget(&self, _: String) {}
}

/// The links that were kept since a process before this one, until they are taken; what is not, is detached and
/// forgotten, so that no program of another process sees another frame.
pub struct Inherited {
    links: Vec<(String, XdpLink)>,
    keeper: Arc<dyn Keeper>,
}

impl Inherited {
    /// Those that systemd has given this process (`LISTEN_FDS`, sd_listen_fds(3)); the second time there are none.
    pub fn take(keeper: Arc<dyn Keeper>) -> Inherited {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut links = Vec::new();
        if !TAKEN.swap(true, Ordering::Relaxed)
            && let Ok(descriptors) = sd_notify::listen_fds_with_names()
        {
            let ours = descriptors.filter(|(_, name)| name.starts_with(NAME));
            links.extend(ours.map(|(descriptor, name)| {
                // SAFETY: whoever has started us says that these descriptors are this process's, and they are taken
                // here only, once.
                (name, XdpLink(unsafe { OwnedFd::from_raw_fd(descriptor) }))
            }));
        }
        Inherited { links, keeper }
    }

    /// None, and nobody who would keep any.
    pub fn none() -> Inherited {
        Inherited { links: Vec::new(), keeper: Arc::new(Nobody) }
    }

    /// The link to an interface, if there is one.
    pub(super) fn link(&mut self, ifindex: u32) -> Option<XdpLink> {
        let place = self.links.iter().position(|(_, link)| link.ifindex() == Some(ifindex))?;
        Some(self.links.swap_remove(place).1)
    }

    /// Detaches and forgets what was not taken.
    pub(super) fn clear(&mut self) {
        for (name, link) in self.links.drain(..) {
            // Its interface may be gone, and the link with it.
            let _ = link.detach();
            self.keeper.forget(name);
        }
    }

    pub(super) fn keeper(&self) -> &dyn Keeper {
        &*self.keeper
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        self.clear();
    }
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd() as u32
}

fn bpf(command: libc::c_long, attributes: &Attributes) -> io::Result<i32> {
    // SAFETY: the attributes are those of the command, zero behind what is used, and live; the kernel reads them, and
    // GET_INFO writes what they point to, of the size that they say.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
