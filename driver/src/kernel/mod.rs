//! What the drivers for a real kernel have in common: its structures and errors.
// The kernel's length fields have other widths in other C libraries.
#![allow(clippy::unnecessary_cast)]

pub(super) mod cmsg;
pub(super) mod errors;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::process::{Resource, getrlimit};
use turnpike_proto::{PortError, RelaySocket};

use crate::send::batch::Sender;
use crate::sockets;
use crate::{Datagram, Event, Ingress};

/// Listeners per worker: each has buffers of its own in the pool.
pub(super) const MAX_LISTENERS: usize = 64;
/// Relay sockets per worker: two (one per family) for each of the core's largest number of allocations.
pub(super) const MAX_RELAY_SOCKETS: usize = 2 * turnpike_proto::limits::MAX_ALLOCATIONS;

/// What the kernel said about a datagram besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ancillary {
    /// Where it was sent to, if the socket asks for that.
    pub(super) server: Option<SocketAddr>,
    /// DSCP and ECN.
    pub(super) tos: u8,
    /// Size of the datagrams if it is a merged run.
    pub(super) segment_bytes: Option<u32>,
    /// Datagrams that the socket has lost so far.
    pub(super) overflow: Option<u32>,
    /// When it arrived, nanoseconds of the system's clock.
    pub(super) arrival_ns: Option<u64>,
}

impl Ancillary {
    /// Reads control messages; `local_port` is the socket's.
    pub(super) fn read(control: &[u8], local_port: u16) -> Ancillary {
        let mut ancillary = Ancillary::default();
        for message in cmsg::messages(control) {
            if let Some(tos) = cmsg::tos(&message) {
                ancillary.tos = tos;
            } else if let Some(server) = cmsg::pktinfo_address(&message, local_port) {
                ancillary.server = Some(server);
            } else if let Some(bytes) = cmsg::segment_bytes(&message) {
                ancillary.segment_bytes = Some(bytes);
            } else if let Some(lost) = cmsg::overflow(&message) {
                ancillary.overflow = Some(lost);
            } else if let Some(arrival_ns) = cmsg::arrival_ns(&message) {
                ancillary.arrival_ns = Some(arrival_ns);
            }
        }
        ancillary
    }

    /// Describes the datagram that this came with; `now_ns` is the system's clock.
    pub(super) fn datagram(
        &self,
        now_ns: u64,
        ingress: Ingress,
        from: SocketAddr,
        truncated: bool,
        buffer: usize,
        len: u32,
    ) -> Datagram {
        let segment_size = self.segment_bytes.filter(|bytes| (1..len).contains(bytes)).unwrap_or(len);
        let waited_ns = self.arrival_ns.map_or(0, |arrival_ns| now_ns.saturating_sub(arrival_ns));
        let waited_us = u32::try_from(waited_ns / 1000).unwrap_or(u32::MAX);
        Datagram {
            ingress,
            from,
            tos: self.tos,
            truncated,
            buffer: buffer as u32,
            len,
            segment_size,
            waited_us,
        }
    }
}

/// A socket's count of lost datagrams, of which news come with the next datagram.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    count: u32,
    has_received: bool,
}

impl Losses {
    /// How many were lost since the last time, as it came with a datagram: the kernel's running count,
    /// which wraps and is told only if it isn't zero.
    pub(super) fn news(&mut self, count: Option<u32>) -> u64 {
        self.has_received = true;
        count.map_or(0, |count| u64::from(count.wrapping_sub(std::mem::replace(&mut self.count, count))))
    }

    /// The same of a socket that is being closed.
    pub(super) fn last_news(&mut self, socket: BorrowedFd<'_>) -> u64 {
        // One that never had anything to read has lost nothing: most of those that never carry data.
        if !self.has_received {
            return 0;
        }
        self.news(sockets::lost_datagrams(socket))
    }
}

/// Refuses more listeners than there are buffers for.
pub(super) fn check_listeners(count: usize) -> io::Result<()> {
    if count <= MAX_LISTENERS {
        return Ok(());
    }
    let text = format!("{count} listen addresses: at most {MAX_LISTENERS} are possible");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// The name of a relay socket as one number.
pub(super) fn relay_token(relay: RelaySocket) -> u64 {
    u64::from(relay.generation) << 32 | u64::from(relay.index)
}

/// The relay socket of that name.
pub(super) fn relay_of(index: u32, generation: u32) -> RelaySocket {
    RelaySocket { index, generation }
}

/// The socket that sends, if it is a relay socket.
pub(super) fn sending_relay(sender: Sender) -> Option<RelaySocket> {
    match sender {
        Sender::Listener(_) => None,
        Sender::Relay { index, generation } => Some(relay_of(index, generation)),
    }
}

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
fn port_error(error: &io::Error) -> PortError {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::AddrInUse, _) => PortError::InUse,
        (_, Some(libc::EMFILE | libc::ENFILE)) => {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            PortError::NoDescriptor { limit: limit.try_into().unwrap_or(u32::MAX) }
        }
        _ => PortError::Exhausted,
    }
}

/// Makes this thread's short waits end in time: by default the kernel lets each end 50 µs late.
pub(super) fn wait_precisely() {
    const SLACK_NS: libc::c_ulong = 1;
    thread_local! {
        static IS_SET: Cell<bool> = const { Cell::new(false) };
    }
    if !IS_SET.replace(true) {
        // SAFETY: no pointers; it concerns this thread's timers. An error leaves them as they were.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
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

    #[test]
    fn the_last_descriptors_are_not_for_relay_sockets() {
        let options = sockets::SocketOptions { max_relay_descriptor: 3, ..Default::default() };
        let address = "127.0.0.1:0".parse().expect("an address");
        let error = sockets::bind_relay(address, &options).expect_err("three are open already");
        assert!(matches!(port_error(&error), PortError::NoDescriptor { limit: 4.. }), "{error}");
        assert!(sockets::bind_relay(address, &sockets::SocketOptions::default()).is_ok());
    }

    #[test]
    fn losses_are_counted_once_also_across_the_wrap() {
        let mut losses = Losses::default();
        assert_eq!(losses.news(None), 0);
        assert_eq!(losses.news(Some(5)), 5);
        assert_eq!(losses.news(Some(5)), 0);
        assert_eq!(losses.news(Some(u32::MAX)), u64::from(u32::MAX) - 5);
        assert_eq!(losses.news(Some(1)), 2);
    }

    #[test]
    fn a_run_has_a_segment_size_only_if_it_makes_sense() {
        let from: SocketAddr = "192.0.2.1:9".parse().expect("a socket address");
        let ingress = Ingress::Relay(relay_of(0, 0));
        for (told, len, expected) in [(None, 9, 9), (Some(4), 9, 4), (Some(0), 9, 9), (Some(9), 9, 9)] {
            let ancillary = Ancillary { segment_bytes: told, ..Ancillary::default() };
            assert_eq!(ancillary.datagram(0, ingress, from, false, 0, len).segment_size, expected);
        }
    }
}
