//! Ports that are bound and kept until some worker opens them: EVEN-PORT's reservations (RFC 8656 s. 7.2).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::Socket;

use crate::sockets::{self, SocketOptions};

/// Sockets by what they are bound to, for all workers of a process: a reservation is redeemed on any of them. The
/// core bounds how many there are.
#[derive(Debug, Default)]
pub struct Reserved(Mutex<HashMap<SocketAddr, Socket>>);

impl Reserved {
    /// Binds a port and keeps it.
    ///
    /// # Errors
    /// As [`sockets::bind_relay`].
    pub(crate) fn bind(&self, address: SocketAddr, options: &SocketOptions) -> io::Result<()> {
        let socket = sockets::bind_relay(address, options)?;
        self.lock().insert(address, socket);
        Ok(())
    }

    /// Takes a port that was kept, or binds it now.
    ///
    /// # Errors
    /// As [`sockets::bind_relay`].
    pub(crate) fn take_or_bind(&self, address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
        let kept = self.lock().remove(&address);
        kept.map_or_else(|| sockets::bind_relay(address, options), Ok)
    }

    /// Copies of all sockets, for another process that goes on with them.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn copies(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let copy =
            |(address, socket): (&SocketAddr, &Socket)| Ok((*address, socket.as_fd().try_clone_to_owned()?));
        self.lock().iter().map(copy).collect()
    }

    /// Keeps ports that another process has bound.
    ///
    /// # Errors
    /// If one is no socket for datagrams.
    pub fn adopt(&self, kept: impl IntoIterator<Item = (SocketAddr, OwnedFd)>) -> io::Result<()> {
        for (address, socket) in kept {
            self.lock().insert(address, sockets::adopt_udp(socket)?);
        }
        Ok(())
    }

    /// Lets go of a port, if it is kept.
    pub(crate) fn release(&self, address: SocketAddr) {
        drop(self.lock().remove(&address));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
