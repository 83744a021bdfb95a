//! Sockets that take connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::connecting;
use crate::sockets::{bind_or_wait, local_address, set_option};

/// Connections that wait to be taken; the kernel's own bound (`net.core.somaxconn`) is 4096.
const BACKLOG: i32 = 4096;
/// Connections of peers that wait to be taken at one relayed address.
const PEER_BACKLOG: i32 = 16;
/// Bytes that the kernel takes beyond what is on its way: what is queued there can't be dropped any more.
pub(super) const UNSENT_BYTES: i32 = 16 << 10;
/// After this long without an acknowledgement, or with a window that stays closed, the connection is over.
const UNREAD_AFTER: Duration = Duration::from_secs(30);
/// A client that says nothing for this long is asked whether it is there at all.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// What clients may speak on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// TURN over TCP.
    pub plain: bool,
    /// TURN over TLS.
    pub tls: bool,
}

/// A listener of one worker.
#[derive(Debug)]
pub struct StreamListener {
    socket: Socket,
    local: SocketAddr,
    offer: Offer,
}

/// A connection that was taken.
pub(super) struct Taken {
    pub(super) socket: OwnedFd,
    pub(super) peer: SocketAddr,
}

impl StreamListener {
    /// What it is bound to: a wildcard if it was asked to be, the real port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What clients may speak here.
    pub fn offer(&self) -> Offer {
        self.offer
    }

    /// A listener that another process has bound.
    ///
    /// # Errors
    /// If it is no socket for streams that is bound.
    pub fn adopt(socket: OwnedFd, offer: Offer) -> io::Result<StreamListener> {
        let socket = Socket::from(socket);
        if socket.r#type()? != Type::STREAM {
            return Err(io::Error::other("it is no socket for streams"));
        }
        let local = local_address(&socket)?;
        Ok(StreamListener { socket, local, offer })
    }

    /// The next connection, if one waits.
    pub(super) fn accept(&self) -> io::Result<Option<Taken>> {
        accept(&self.socket)
    }
}

fn accept(listener: &Socket) -> io::Result<Option<Taken>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    loop {
        return match rustix::net::acceptfrom_with(listener, flags) {
            Ok((socket, Some(peer))) => match SocketAddr::try_from(peer) {
                Ok(peer) => Ok(Some(Taken { socket, peer })),
                Err(_) => continue,
            },
            Ok((_, None)) => continue,
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            // accept(2): errors of a connection that waited, of no meaning to the others.
            Err(error) if is_of_one_connection(error) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

fn is_of_one_connection(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
    ]
    .contains(&error)
}

impl AsFd for StreamListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A listener at a relayed address, for connections of peers (RFC 6062 s. 5.3), and where those to peers begin.
pub(super) struct PeerListener {
    socket: Socket,
    local: SocketAddr,
    /// Taken since the last time that none was there.
    taken: usize,
}

impl PeerListener {
    /// Listens at an address that nobody else has.
    pub(super) fn bind(address: SocketAddr) -> io::Result<PeerListener> {
        let socket = open_for_peers(address)?;
        socket.bind(&address.into())?;
        let local = local_address(&socket)?;
        socket.listen(PEER_BACKLOG)?;
        Ok(PeerListener { socket, local, taken: 0 })
    }

    /// The next connection, if one waits; nothing after so many, until the next time.
    pub(super) fn accept(&mut self, most: usize) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        if self.taken >= most {
            self.taken = 0;
            return Ok(None);
        }
        let taken = accept(&self.socket)?;
        self.taken = if taken.is_some() { self.taken + 1 } else { 0 };
        Ok(taken.map(|Taken { socket, peer }| (TcpStream::from(socket), without_scope(peer))))
    }

    /// A connection to a peer from this address and port, which is there when it can be written to.
    pub(super) fn connect(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        let socket = open_for_peers(self.local)?;
        // A port in LISTEN is shared by SO_REUSEPORT only: both have it for this moment.
        self.socket.set_reuse_port(true)?;
        let bound = socket.set_reuse_port(true).and_then(|()| socket.bind(&self.local.into()));
        self.socket.set_reuse_port(false)?;
        bound?;
        socket.set_reuse_port(false)?;
        connecting::begin(socket, peer)
    }
}

impl AsFd for PeerListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open_for_peers(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an allocation before that are not quite over (TIME-WAIT) are no reason to wait.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES)?;
    Ok(socket)
}

/// A peer's address without the interface and flow that a link-local one carries.
fn without_scope(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// Binds one listener per worker (0 counts as 1) to the same address, in the workers' order, and listens on all of
/// them. With port 0 all get the same free port.
///
/// # Errors
/// `AddrInUse` if another process holds the port; whatever else the system answers.
pub fn bind_stream_listeners(
    address: SocketAddr,
    workers: usize,
    offer: Offer,
) -> io::Result<Vec<StreamListener>> {
    bind_group(address, workers.max(1), offer).map_err(|error| explain(address, error))
}

fn bind_group(address: SocketAddr, workers: usize, offer: Offer) -> io::Result<Vec<StreamListener>> {
    // The first is bound without SO_REUSEPORT, so another holder of the port is an error.
    let first = open(address)?;
    bind_or_wait(&first, address)?;
    first.set_reuse_port(workers > 1)?;
    let local = local_address(&first)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let socket = open(local)?;
        socket.set_reuse_port(true)?;
        bind_or_wait(&socket, local)?;
        sockets.push(socket);
    }
    // The kernel shares connections among those that listen: all are bound by then.
    let listen = |socket: Socket| socket.listen(BACKLOG).map(|()| StreamListener { socket, local, offer });
    sockets.into_iter().map(listen).collect()
}

/// The options are those of every connection that it takes: the kernel copies them.
fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process that are not quite over (TIME-WAIT) are no reason to wait.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNREAD_AFTER))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES)?;
    Ok(socket)
}

/// Says in one line which listener failed, and why.
fn explain(address: SocketAddr, error: io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("tcp {address}: address already in use (another process has this port)")
        }
        io::ErrorKind::PermissionDenied => {
            format!("tcp {address}: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)")
        }
        _ => format!("tcp {address}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { plain: true, tls: false };

    #[test]
    fn a_group_shares_a_port_that_nobody_else_may_have() {
        let group = bind_stream_listeners("127.0.0.1:0".parse().expect("an address"), 2, OFFER);
        let group = group.expect("a free port");
        let address = group[0].local_addr();
        assert_eq!(group[1].local_addr(), address);
        let error = bind_stream_listeners(address, 2, OFFER).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("tcp {address}: address already in use")));
        drop(group);
        bind_stream_listeners(address, 1, OFFER).expect("it is free again");
    }
}
