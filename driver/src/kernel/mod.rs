//! What a real kernel shares with its drivers: its structures and errors, and the table of a worker's sockets.
// The kernel's length fields have other widths in other C libraries.
#![allow(clippy::unnecessary_cast)]

pub(super) mod cmsg;
pub(super) mod errors;
pub(super) mod received;
pub(super) mod recv;
pub(super) mod table;

use std::io;

use rustix::process::{Resource, getrlimit};
use turnpike_proto::{PortError, RelaySocket};

use crate::Event;

/// The answer to [`Driver::open_port`](crate::Driver::open_port).
pub(super) fn opened(relay: RelaySocket, outcome: io::Result<()>) -> Event {
    match outcome {
        Ok(()) => Event::PortOpened(relay),
        Err(error) => Event::PortFailed(relay, port_error(&error)),
    }
}

/// The answer to [`Driver::open_pair`](crate::Driver::open_pair) when the port to be kept could not be bound.
pub(super) fn not_reserved(relay: RelaySocket, error: &io::Error) -> Event {
    let error = match port_error(error) {
        PortError::InUse => PortError::ReserveInUse,
        other => other,
    };
    Event::PortFailed(relay, error)
}

/// Why a relay socket could not be opened.
pub(crate) fn port_error(error: &io::Error) -> PortError {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::AddrInUse, _) => PortError::InUse,
        (_, Some(libc::EMFILE | libc::ENFILE)) => {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            PortError::NoDescriptor { limit: limit.try_into().unwrap_or(u32::MAX) }
        }
        _ => PortError::Exhausted,
    }
}

/// A message header without any pointer, address or control message.
pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: null pointers and zero integers are valid values of all its fields.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets;

    #[test]
    fn the_last_descriptors_are_not_for_relay_sockets() {
        let options = sockets::SocketOptions { max_relay_descriptor: 3, ..Default::default() };
        let address = "127.0.0.1:0".parse().expect("an address");
        let error = sockets::bind_relay(address, &options).expect_err("three are open already");
        assert!(matches!(port_error(&error), PortError::NoDescriptor { limit: 4.. }), "{error}");
        assert!(sockets::bind_relay(address, &sockets::SocketOptions::default()).is_ok());
    }
}
