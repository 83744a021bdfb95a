//! `state-directory`: where two processes of one relay find each other.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;

use super::{Channel, TakeoverError};

/// The socket's name in the folder.
const SOCKET: &str = "takeover";

/// The folder of one relay.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path, made if it isn't there.
    ///
    /// # Errors
    /// If it can't be made, is somebody else's, or others may write to it.
    pub fn open(path: &Path) -> Result<Folder, TakeoverError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(TakeoverError::Unfit(format!("{}: {error}", path.display())));
            }
            _ => {}
        }
        let is = fs::metadata(path).map_err(TakeoverError::system("state-directory"))?;
        let why_not = if !is.is_dir() {
            "is no folder"
        } else if is.uid() != geteuid().as_raw() {
            "belongs to another user"
        } else if is.mode() & 0o022 != 0 {
            "can be written by others: chmod go-w"
        } else {
            return Ok(Folder(path.to_owned()));
        };
        Err(TakeoverError::Unfit(format!("{}: {why_not}", path.display())))
    }

    fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    fn address(&self) -> Result<SocketAddrUnix, TakeoverError> {
        SocketAddrUnix::new(self.socket())
            .map_err(|error| TakeoverError::System("state-directory", error.into()))
    }

    /// A socket that waits for whoever takes over; one that a process has left behind is replaced.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub(super) fn listen(&self) -> Result<OwnedFd, TakeoverError> {
        let failed = |error: rustix::io::Errno| TakeoverError::System("state-directory", error.into());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.map_err(failed)?;
        self.remove();
        rustix::net::bind(&socket, &self.address()?).map_err(failed)?;
        let private = fs::set_permissions(self.socket(), Permissions::from_mode(0o600));
        private.map_err(TakeoverError::system("state-directory"))?;
        rustix::net::listen(&socket, 1).map_err(failed)?;
        Ok(socket)
    }

    /// The process that runs, if one does.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn connect(&self) -> Result<Option<Channel>, TakeoverError> {
        let failed = |error: rustix::io::Errno| TakeoverError::System("state-directory", error.into());
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.map_err(failed)?;
        match rustix::net::connect(&socket, &self.address()?) {
            Ok(()) => Channel::new(socket).map(Some).map_err(TakeoverError::system("state-directory")),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Nobody is to be found here any more.
    pub(super) fn remove(&self) {
        // That there was none is fine; anything else the next bind says.
        let _ = fs::remove_file(self.socket());
    }
}
