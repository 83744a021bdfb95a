//! Opening UDP sockets with the options that the relay needs.
//!
//! Listeners are shared: each worker has a socket of its own on each listen address
//! (SO_REUSEPORT), and the kernel keeps a client on one of them by the hash of its 4-tuple. It may
//! have a second one there for strangers, whose queue is short and is read last.
//! Relay sockets belong to one allocation and share their port with nobody.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel::table::Losses;
use crate::limits::MAX_DATAGRAM;

/// Sizes of a worker's sockets and buffers, and how they are used. Those of socket buffers are as asked of the kernel,
/// which doubles them for its own overhead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Receive buffer of a listener, bytes. It absorbs bursts of all clients of a worker.
    pub listener_receive_bytes: usize,
    /// Send buffer of a listener, bytes.
    pub listener_send_bytes: usize,
    /// Receive buffer of a listener's second socket, for strangers, bytes. It bounds how long they wait, and what a
    /// flood of theirs can occupy in the kernel.
    pub stranger_receive_bytes: usize,
    /// Receive buffer of a relay socket, bytes. It bounds what an unwanted flood towards
    /// one relayed address can occupy in the kernel.
    pub relay_receive_bytes: usize,
    /// Send buffer of a relay socket, bytes.
    pub relay_send_bytes: usize,
    /// Longest datagram received whole, bytes; longer ones arrive truncated, and marked so.
    pub datagram_bytes: usize,
    /// Let the kernel merge datagrams of one flow where their run fits into a buffer (UDP_GRO).
    pub merge: bool,
    /// Let the kernel say when each datagram arrived (SO_TIMESTAMPNS).
    pub measure_waiting: bool,
    /// How long a driver of a busy thread may wait for more; zero never waits.
    pub coalesce: Duration,
    /// Relay sockets have descriptors below this number: the rest of those that the process may have is for
    /// everything else.
    pub max_relay_descriptor: RawFd,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            listener_receive_bytes: 4 << 20,
            listener_send_bytes: 4 << 20,
            stranger_receive_bytes: 512 << 10,
            relay_receive_bytes: 256 << 10,
            relay_send_bytes: 256 << 10,
            datagram_bytes: MAX_DATAGRAM,
            merge: true,
            measure_waiting: true,
            coalesce: Duration::ZERO,
            max_relay_descriptor: RawFd::MAX,
        }
    }
}

/// A bound listener of one worker.
#[derive(Debug)]
pub struct ListenerSocket {
    socket: Socket,
    local: SocketAddr,
    strangers: Option<Socket>,
    /// What it had lost in the process that had it before, and which is counted; of its second socket, too.
    lost: [Option<u32>; 2],
}

impl ListenerSocket {
    /// A listener that another process has bound.
    ///
    /// # Errors
    /// If it is no UDP socket that is bound.
    pub fn adopt(socket: OwnedFd, lost: u32) -> io::Result<ListenerSocket> {
        let socket = adopt_udp(socket)?;
        let local = local_address(&socket)?;
        Ok(ListenerSocket { socket, local, strangers: None, lost: [Some(lost), None] })
    }

    /// The second socket of such a listener, for strangers.
    ///
    /// # Errors
    /// If it is no UDP socket.
    pub fn adopt_strangers(&mut self, socket: OwnedFd, lost: u32) -> io::Result<()> {
        self.strangers = Some(adopt_udp(socket)?);
        self.lost[1] = Some(lost);
        Ok(())
    }

    pub(crate) fn losses(&self) -> Losses {
        self.lost[0].map_or_else(Losses::default, Losses::after)
    }

    pub(crate) fn stranger_losses(&self) -> Losses {
        self.lost[1].map_or_else(Losses::default, Losses::after)
    }

    /// What it is bound to: a wildcard if it was asked to be, the real port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether datagrams to different addresses of this host arrive here.
    pub fn is_wildcard(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// Its second socket, for strangers, if it has one: who is one, the kernel has to be told by a program.
    pub fn strangers(&self) -> Option<BorrowedFd<'_>> {
        self.strangers.as_ref().map(AsFd::as_fd)
    }

    /// Closes its second socket.
    pub fn close_strangers(&mut self) {
        self.strangers = None;
    }
}

impl AsFd for ListenerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds a listener for a single worker.
///
/// # Errors
/// `AddrInUse` if anybody holds the port; whatever else the system answers.
pub fn bind_listener(address: SocketAddr, options: &SocketOptions) -> io::Result<ListenerSocket> {
    open_listener(address, false, options)
}

/// Binds one listener per worker (0 counts as 1) to the same address, in the workers' order. With
/// port 0 all get the same free port.
///
/// The whole group is bound before this returns: a socket that joins later would move
/// clients from one worker to another.
///
/// # Errors
/// `AddrInUse` if another process holds the port, even one that would share it; whatever else the system answers.
pub fn bind_listeners(
    address: SocketAddr,
    workers: usize,
    options: &SocketOptions,
) -> io::Result<Vec<ListenerSocket>> {
    bind_group(address, workers, workers > 1, options)
}

/// The same, each with a second socket for strangers ([`ListenerSocket::strangers`]).
///
/// # Errors
/// As there.
pub fn bind_listeners_apart(
    address: SocketAddr,
    workers: usize,
    options: &SocketOptions,
) -> io::Result<Vec<ListenerSocket>> {
    let mut group = bind_group(address, workers, true, options)?;
    for listener in &mut group {
        let options = SocketOptions { listener_receive_bytes: options.stranger_receive_bytes, ..*options };
        listener.strangers = Some(open_listener(listener.local, true, &options)?.socket);
    }
    Ok(group)
}

fn bind_group(
    address: SocketAddr,
    workers: usize,
    is_shared: bool,
    options: &SocketOptions,
) -> io::Result<Vec<ListenerSocket>> {
    // The first is bound without SO_REUSEPORT, so another holder of the port is an error. Only
    // then it is opened for the others: at no moment can a stranger come in between unnoticed.
    let first = open_patiently(address, options)?;
    first.socket.set_reuse_port(is_shared)?;
    let address = first.local;
    let mut group = vec![first];
    for _ in 1..workers {
        group.push(open_listener(address, true, options)?);
    }
    Ok(group)
}

/// After a process that used io_uring has ended its ports stay busy for some 30 ms, until the kernel has let
/// go of its requests: a restart must not fail by that.
fn open_patiently(address: SocketAddr, options: &SocketOptions) -> io::Result<ListenerSocket> {
    const ATTEMPTS: u32 = 8;
    const PAUSE: Duration = Duration::from_millis(25);
    for _ in 1..ATTEMPTS {
        match open_listener(address, false, options) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    open_listener(address, false, options)
}

fn open_listener(address: SocketAddr, join: bool, options: &SocketOptions) -> io::Result<ListenerSocket> {
    try_open_listener(address, join, options).map_err(|error| explain(address, error))
}

fn try_open_listener(address: SocketAddr, join: bool, options: &SocketOptions) -> io::Result<ListenerSocket> {
    let socket = open_udp(address, options)?;
    if join {
        socket.set_reuse_port(true)?;
    }
    set_buffers(&socket, options.listener_receive_bytes, options.listener_send_bytes)?;
    set_merging(&socket, options);
    if address.ip().is_unspecified() {
        let (level, name) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_option(socket.as_fd(), level, name, 1)?;
    }
    bind_or_wait(&socket, address)?;
    let local = local_address(&socket)?;
    Ok(ListenerSocket { socket, local, strangers: None, lost: [None; 2] })
}

/// A UDP socket that another process has opened, with all its options.
pub(crate) fn adopt_udp(socket: OwnedFd) -> io::Result<Socket> {
    let socket = Socket::from(socket);
    match socket.r#type()? {
        Type::DGRAM => Ok(socket),
        other => Err(io::Error::other(format!("{other:?} is no socket for datagrams"))),
    }
}

/// An address that this host doesn't have, or that is still tentative (RFC 4862 s. 5.4), may come: the socket is
/// bound to it all the same, and hears what arrives once it is there.
pub(crate) fn bind_or_wait(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let (level, name) = match address {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_FREEBIND),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
            };
            set_option(socket.as_fd(), level, name, 1)?;
            socket.bind(&address.into())
        }
        outcome => outcome,
    }
}

/// Says in one line which listener failed, and why.
fn explain(address: SocketAddr, error: io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("udp {address}: address already in use (another process has this port)")
        }
        io::ErrorKind::PermissionDenied => {
            format!("udp {address}: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)")
        }
        _ => format!("udp {address}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// Binds a relay socket; it shares its port with nobody.
///
/// # Errors
/// EMFILE also while the last descriptors are left; whatever the system answers.
pub fn bind_relay(address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = open_udp(address, options)?;
    // The system gives the lowest free number.
    if socket.as_raw_fd() >= options.max_relay_descriptor {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    set_buffers(&socket, options.relay_receive_bytes, options.relay_send_bytes)?;
    set_merging(&socket, options);
    // ICMP errors of peers are wanted (RFC 8656 s. 11.5); without this the kernel drops them.
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set_option(socket.as_fd(), level, name, 1)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Asks for merged runs. A kernel before 5.0 doesn't know them and goes on as before; a run that is
/// longer than a buffer would be cut short.
fn set_merging(socket: &Socket, options: &SocketOptions) {
    if options.merge && options.datagram_bytes >= MAX_DATAGRAM {
        let _ = set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
    }
}

/// What all sockets have in common: non-blocking, closed on exec, one family, TOS and losses reported,
/// DF clear, arrival times if they are wanted.
fn open_udp(address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    match address {
        SocketAddr::V4(_) => socket.set_recv_tos_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_recv_tclass_v6(true)?;
        }
    }
    set_dont_fragment(socket.as_fd(), address.is_ipv6(), false)?;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    if options.measure_waiting {
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    }
    Ok(socket)
}

/// Sets or clears DF (IPv4), or forbids or allows fragments (IPv6), for what is sent from now on.
///
/// Clear, on IPv4, is IP_PMTUDISC_OMIT: DF 0 and fragments as with IP_PMTUDISC_DONT, but forged
/// "fragmentation needed" errors cannot shrink what is sent, and true ones, which answer an
/// earlier datagram sent with DF, are still reported (the kernel hides them with DONT). On IPv6
/// only the sender can fragment, so there the path MTU counts.
///
/// Set is PROBE: DF, and whatever fits the interface goes out, so that the answer about the
/// path's MTU comes from the path each time.
///
/// # Errors
/// Whatever the system answers.
pub fn set_dont_fragment(socket: BorrowedFd<'_>, ipv6: bool, on: bool) -> io::Result<()> {
    let (level, name, value) = match (ipv6, on) {
        (false, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        (false, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (true, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
        (true, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    set_option(socket, level, name, value)
}

/// Sizes a socket's buffers: beyond the system's limit where we are permitted to, else up to it.
fn set_buffers(socket: &Socket, receive_bytes: usize, send_bytes: usize) -> io::Result<()> {
    let receive = c_int::try_from(receive_bytes).unwrap_or(c_int::MAX);
    let send = c_int::try_from(send_bytes).unwrap_or(c_int::MAX);
    if set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, receive).is_err() {
        socket.set_recv_buffer_size(receive_bytes)?;
    }
    if set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send).is_err() {
        socket.set_send_buffer_size(send_bytes)?;
    }
    Ok(())
}

/// How many datagrams the kernel has dropped at a socket since it was opened, because its buffer was full or
/// a checksum wrong; the count wraps. `None` on kernels before 4.12.
pub fn lost_datagrams(socket: BorrowedFd<'_>) -> Option<u32> {
    // The ninth value is SK_MEMINFO_DROPS (linux/sock_diag.h).
    let mut values = [0u32; 9];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `len` bytes to a
    // live local of that size.
    let result = unsafe {
        let place = values.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, place, &raw mut len)
    };
    (result == 0 && len as usize == size_of_val(&values)).then_some(values[8])
}

pub(crate) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("the socket has no IP address"))
}

/// Bytes that a TCP socket was given and has not sent yet.
pub(crate) fn unsent_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    // linux/sockios.h
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes one c_int to a live local.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
    if result == 0 { Ok(bytes.max(0) as usize) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open while it is borrowed; the kernel reads one c_int from a
    // live local whose size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
