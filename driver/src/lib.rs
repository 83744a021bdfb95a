//! The seam between a worker and the operating system: sockets, buffers, and nearly all of userspace's `unsafe`.
//!
//! A [`Driver`] owns sockets and buffers. It hands out events and borrows of received
//! bytes; it is told what to send on of those same bytes (nothing is copied), and takes whole datagrams and
//! wishes for relay sockets. It decides nothing about TURN, and knows no configuration and no log of its own.
//!
//! ```text
//!   wait() ─► events 0..n ─► the worker asks the core ─► forward()/transmit()/open_port() ─► flush()
//! ```
//!
//! Received bytes stay valid from `wait` to the next `wait`; what was queued is sent by `flush`.
//!
//! Begin with [`choose`], which says what works here, [`sockets::bind_listeners`], and one of
//! [`uring::UringDriver`] and [`epoll::EpollDriver`]; both pass the same tests. With the feature `sim` there is a
//! seeded network in memory behind the same trait. [`limits`] says how much of everything there may be.

#![allow(unsafe_code)]

pub mod buffers;
pub mod choose;
pub mod clock;
mod coalesce;
pub mod epoll;
mod eventfd;
pub mod heap;
pub mod interfaces;
mod kernel;
pub mod limits;
mod mechanism;
pub mod reserved;
mod send;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sockets;
mod strangers;
pub mod streams;
#[cfg(test)]
mod tests;
pub mod uring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use turnpike_proto::addr::RelayedAddr;
use turnpike_proto::{ClientSocket, Egress, PortError, RelaySocket, Transmit};

/// Where a datagram arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// On a listener; the address is the one that the client sent to, also on a wildcard listener.
    Client {
        /// The listener, by its number.
        socket: ClientSocket,
        /// The destination address of the datagram.
        server: SocketAddr,
    },
    /// On a relay socket.
    Relay(RelaySocket),
}

/// A received datagram's description; its bytes are asked for with [`Driver::bytes`].
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// The socket that it arrived on.
    pub ingress: Ingress,
    /// It came by the listener's socket for strangers.
    pub is_strangers: bool,
    /// The sender's address and port.
    pub from: SocketAddr,
    /// DSCP and ECN as they were received: the whole TOS or traffic class byte.
    pub tos: u8,
    /// It was longer than the buffer: what is there is not all of it.
    pub truncated: bool,
    /// Which of the driver's buffers holds it.
    pub buffer: u32,
    /// Bytes received, of all datagrams of a run together.
    pub len: u32,
    /// Size of each segment but the last if the kernel merged several datagrams (UDP_GRO), else `len`.
    pub segment_size: u32,
    /// How long it, or the first of a run, was in the kernel, microseconds; 0 unless
    /// [`SocketOptions::measure_waiting`](sockets::SocketOptions::measure_waiting) says so.
    pub waited_us: u32,
}

/// What a driver reports.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A datagram, or a run of them.
    Datagram(Datagram),
    /// An ICMP error for something that a relay socket sent.
    Icmp {
        /// The socket that had sent it.
        relay: RelaySocket,
        /// The destination quoted in the error.
        peer: SocketAddr,
        /// Type of the ICMP or ICMPv6 message, by the peer's family.
        icmp_type: u8,
        /// Code of the ICMP or ICMPv6 message.
        icmp_code: u8,
        /// MTU of a "too big" error, else 0.
        data: u32,
    },
    /// [`Driver::open_port`] was done.
    PortOpened(RelaySocket),
    /// [`Driver::open_port`] failed.
    PortFailed(RelaySocket, PortError),
    /// [`Driver::close_port`] was done: the port is free again.
    PortClosed(RelaySocket),
    /// Somebody called the [`Waker`]: look at the command queue.
    Woken,
    /// What [`Driver::watch`] was given can be read: a turn of [`streams::Streams`] is due.
    StreamsReady,
}

/// What a driver counted itself, since it was made, and how long it waits now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounters {
    /// Datagrams that the operating system refused to send.
    pub send_failed: u64,
    /// Datagrams that did not fit into one UDP datagram (EMSGSIZE).
    pub send_too_large: u64,
    /// Datagrams that the operating system dropped because a socket's receive buffer was full. Noticed with
    /// the next datagram of that socket, or when it is closed.
    pub socket_overflow: u64,
    /// The same of listeners' sockets for strangers.
    pub stranger_overflow: u64,
    /// Datagrams of which the operating system did not say who had sent them, or to which address.
    pub unaddressed: u64,
    /// How long it waits for more at its thread's present load, nanoseconds; see
    /// [`SocketOptions::coalesce`](sockets::SocketOptions::coalesce).
    pub coalesce_ns: u64,
}

/// A socket of a driver, for another process that goes on with it.
#[derive(Clone, Copy, Debug)]
pub struct HeldSocket<'a> {
    /// Which one.
    pub name: SocketName,
    /// The socket itself.
    pub socket: BorrowedFd<'a>,
    /// How many datagrams the kernel had dropped at it when that was last counted; see [`sockets::lost_datagrams`].
    pub lost: u32,
}

/// Names a socket of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketName {
    /// A listener, by its number.
    Listener(u32),
    /// Its socket for strangers, by its number.
    Strangers(u32),
    /// A relay socket.
    Relay(RelaySocket),
}

/// Wakes a worker that waits in [`Driver::wait`], from any thread.
pub trait Waker: Send + Sync {
    /// Makes the current or next `wait` return with [`Event::Woken`].
    fn wake(&self);
}

/// Sockets and buffers of one worker.
pub trait Driver {
    /// Flushes, then waits until something happened or `timeout` has passed (`None`: for ever).
    ///
    /// Returns how many events there are; they and their bytes live until the next call.
    ///
    /// # Errors
    /// Only if waiting itself is impossible: a fault of the process, not of a packet.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize>;

    /// The event with this index, from 0 to the count that `wait` returned.
    fn event(&self, index: usize) -> Event;

    /// All bytes of a datagram (or run of datagrams) of the current turn.
    fn bytes(&self, datagram: &Datagram) -> &[u8];

    /// Queues a part of a received datagram for sending: the segment starts at `segment_start` within
    /// `datagram`, its payload offset counts from there.
    fn forward(&mut self, datagram: &Datagram, segment_start: usize, transmit: &Transmit);

    /// Queues a copy of a datagram that is in none of the driver's buffers, with these DSCP and ECN (`tos`) and DF.
    fn transmit(&mut self, egress: Egress, to: SocketAddr, payload: &[u8], tos: u8, dont_fragment: bool);

    /// Opens a relay socket; answered by [`Event::PortOpened`] or [`Event::PortFailed`].
    fn open_port(&mut self, relay: RelaySocket, address: RelayedAddr);

    /// Binds a port and keeps it for whichever worker opens it, then opens a relay socket as [`Driver::open_port`]
    /// does. If the first fails, so does the second; if the second, the first is kept all the same.
    fn open_pair(&mut self, relay: RelaySocket, address: RelayedAddr, reserve: RelayedAddr);

    /// Lets go of a port that was kept and never opened: afterwards it is free.
    fn release_port(&mut self, address: RelayedAddr);

    /// Closes a relay socket; answered by [`Event::PortClosed`].
    fn close_port(&mut self, relay: RelaySocket);

    /// Sends what is queued.
    fn flush(&mut self);

    /// Reports [`Event::StreamsReady`] in each turn in which this descriptor can be read, from now on. Once.
    ///
    /// # Errors
    /// Whatever the system answers.
    fn watch(&mut self, descriptor: OwnedFd) -> io::Result<()>;

    /// So many messages came by streams in this turn: with datagrams they say whether it pays to wait for more.
    fn count_messages(&mut self, messages: usize);

    /// A handle that wakes this driver.
    fn waker(&self) -> Arc<dyn Waker>;

    /// How many relay sockets are open.
    fn open_ports(&self) -> usize;

    /// What the driver has counted since it was made.
    fn counters(&self) -> DriverCounters;

    // For a process that goes on with the sockets

    /// Takes nothing more out of any socket: what arrives waits there. It takes some turns until
    /// [`Driver::is_paused`]; what was taken out by then is reported as always.
    ///
    /// # Errors
    /// Whatever the system answers; some sockets may be paused then.
    fn pause(&mut self) -> io::Result<()>;

    /// Whether nothing is taken out of a socket any more, and everything that was has been reported.
    fn is_paused(&self) -> bool;

    /// Goes on receiving; without `listeners` by relay sockets only, for good.
    ///
    /// # Errors
    /// Whatever the system answers.
    fn resume(&mut self, listeners: bool) -> io::Result<()>;

    /// Its sockets, listeners first.
    fn held_sockets(&self) -> Vec<HeldSocket<'_>>;

    /// Takes a relay socket that another process has opened.
    ///
    /// # Errors
    /// If the name is taken, or whatever the system answers.
    fn adopt_port(&mut self, relay: RelaySocket, socket: OwnedFd, lost: u32) -> io::Result<()>;
}
