//! The peer's TCP side: sends everything back on the connection that it came on. turnutils_peer has none.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::MAX_ECHOED_CONNECTIONS;

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// Time between attempts to take a connection that can't be taken.
const REST: Duration = Duration::from_millis(10);

/// A listener for [`serve`].
///
/// # Errors
/// The operating system's.
pub fn listen(local: SocketAddr, device: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.set_reuse_address(true)?;
    if local.is_ipv6() {
        // IPv4 has a listener of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Echoes on a thread for the listener and one for each connection, until the process ends.
///
/// # Errors
/// If there is no thread.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, at worst: some of them will be closed.
                std::thread::sleep(REST);
                continue;
            };
            let open = Open::one_more(&open);
            if open.0.load(Ordering::Relaxed) <= MAX_ECHOED_CONNECTIONS {
                // Without a thread it is closed, which its other side sees.
                let _ = std::thread::Builder::new().spawn(move || echo(&stream, &open));
            }
        }
    };
    std::thread::Builder::new().name("echo-tcp".into()).spawn(accept).map(drop)
}

/// One of the connections that are open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn one_more(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn echo(stream: &TcpStream, _open: &Open) {
    let _ = stream.set_nodelay(true);
    // However it ends, it ends for both directions.
    let _ = io::copy(&mut &*stream, &mut &*stream);
}
