//! Ports that are bound and kept until some worker opens them: EVEN-PORT's reservations (RFC 8656 s. 7.2).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
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

    /// Lets go of a port, if it is kept.
    pub(crate) fn release(&self, address: SocketAddr) {
        drop(self.lock().remove(&address));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
