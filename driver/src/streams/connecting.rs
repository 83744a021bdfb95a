//! Connections that are being made: nobody waits for them, the poller says when there is something to see.

use std::io;
use std::net::{SocketAddr, TcpStream};

use socket2::Socket;

/// Begins to connect a socket that doesn't block.
pub(super) fn begin(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Whether the connection is made; an error if it can't be.
pub(super) fn is_made(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
