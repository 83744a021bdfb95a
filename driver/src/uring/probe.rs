//! Whether io_uring works here: found out by using it.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::{RingSizes, UringDriver};
use crate::sockets::{SocketOptions, bind_listener};
use crate::{Driver, Event};

/// How long one datagram over loopback may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
const SIZES: RingSizes = RingSizes { requests: 8, completions: 16, listener_buffers: 2, relay_buffers: 2 };

/// Receives and answers datagrams over loopback the way the driver does. It needs no privilege.
///
/// # Errors
/// Why the driver can't be used: in words, for the operator.
pub fn probe() -> Result<(), String> {
    try_probe().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring, or a sandbox hides it".to_owned(),
        Some(libc::EPERM | libc::EACCES) => {
            "this process may not use it (a sandbox such as Docker's, or kernel.io_uring_disabled)".to_owned()
        }
        Some(libc::EINVAL) => "this kernel's io_uring is too old: Linux 6.1 is needed".to_owned(),
        Some(libc::ENOMEM) => "no memory for its rings (see RLIMIT_MEMLOCK)".to_owned(),
        _ => format!("it doesn't work: {error}"),
    })
}

fn try_probe() -> io::Result<()> {
    let options = SocketOptions::default();
    let listener = bind_listener(([127, 0, 0, 1], 0).into(), &options)?;
    let to = listener.local_addr();
    let mut driver = UringDriver::with_sizes(vec![listener], options, SIZES)?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    let deadline = Instant::now() + PATIENCE;
    // The second one shows that the request lasts.
    for _ in 0..2 {
        client.send_to(b"probe", to)?;
        while !receives(&mut driver)? {
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no datagram came through loopback"));
            }
        }
    }
    Ok(())
}

fn receives(driver: &mut UringDriver) -> io::Result<bool> {
    let count = driver.wait(Some(Duration::from_millis(100)))?;
    Ok((0..count).any(|index| match driver.event(index) {
        Event::Datagram(datagram) => driver.bytes(&datagram) == b"probe",
        _ => false,
    }))
}
