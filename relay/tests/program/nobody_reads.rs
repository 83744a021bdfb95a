//! Stdout, stderr and a service manager that take nothing: the relay starts, answers and ends all the same.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use turnpike_testkit::process::{Outcome, Process};
use turnpike_testkit::{PATIENCE, eventually, full_pipe};

use super::relay::turnpike;

/// A Binding request without attributes (RFC 8489 s. 5).
const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42nobody_reads";

/// The program on an address of its own, which it can't tell to anybody, with what a test does about its output.
fn start(arguments: &[&str], redirect: impl FnOnce(&mut Command)) -> (Process, SocketAddr) {
    static STARTED: AtomicU8 = AtomicU8::new(1);
    let last = STARTED.fetch_add(1, Ordering::Relaxed);
    // Below the ports that others get by themselves.
    let port = 20_000 + (std::process::id() % 10_000) as u16;
    let address = SocketAddr::from(([127, 77, 1, last], port));
    let mut command = turnpike();
    command.args(["--listen", &address.to_string(), "--relay-address", "127.0.0.1", "--offload", "off"]);
    command.args(["--user", "alice:correct horse battery", "--workers", "1"]).args(arguments);
    redirect(&mut command);
    (Process::with_outputs(command), address)
}

#[track_caller]
fn answers(address: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
    let answer = eventually(|| {
        // Refused as long as nobody listens.
        let _ = socket.send_to(&BINDING, address);
        socket.recv_from(&mut [0; 1024]).ok()
    });
    assert!(answer.is_some(), "no answer");
}

/// Ends it by SIGTERM, with exit code 0; gives what was piped.
#[track_caller]
fn stop(process: Process) -> String {
    process.signal(Signal::TERM);
    let Outcome { code, output } = process.wait(PATIENCE);
    assert_eq!(code, Some(0), "{output}");
    output
}

#[test]
fn full_pipes_as_stdout_and_stderr_stop_nothing() {
    let (writer, _reader) = full_pipe();
    let too = writer.try_clone().expect("descriptors are left");
    let (process, address) = start(&[], |command| {
        command.stdout(writer).stderr(too);
    });
    answers(address);
    stop(process);
}

#[test]
fn a_stdout_that_cannot_be_written_is_a_warning() {
    let (process, address) = start(&["--quickstart"], |command| {
        command.stdout(File::options().write(true).open("/dev/full").expect("Linux has it"));
        command.stderr(Stdio::piped());
    });
    answers(address);
    let log = stop(process);
    assert!(log.contains("the ready line could not be printed on stdout: No space left on device"), "{log}");
}

#[test]
fn nothing_at_all_can_be_written_and_it_runs() {
    let full = || File::options().write(true).open("/dev/full").expect("Linux has it");
    let (process, address) = start(&[], |command| {
        command.stdout(full()).stderr(full());
    });
    answers(address);
    stop(process);
}

#[test]
fn a_start_that_fails_ends_although_nobody_reads_why() {
    let (writer, _reader) = full_pipe();
    let too = writer.try_clone().expect("descriptors are left");
    let (process, _) = start(&["--total-quota", "many"], |command| {
        command.stdout(writer).stderr(too);
    });
    assert_eq!(process.wait(PATIENCE).code, Some(2));
}

/// The socket of a service manager that wants a sign of life five times a second.
fn service_manager(command: &mut Command, folder: &Path) -> UnixDatagram {
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    command
        .env("NOTIFY_SOCKET", path)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    socket
}

/// Waits until the service manager has been told this.
#[track_caller]
fn told(socket: &UnixDatagram, news: &str) {
    let (start, mut buffer) = (Instant::now(), [0; 1024]);
    while start.elapsed() < PATIENCE {
        let length = socket.recv(&mut buffer).expect("it is told something");
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == news) {
            return;
        }
    }
    panic!("{news} is not told");
}

#[test]
fn the_service_manager_hears_of_start_life_and_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut socket = None;
    let (process, _) = start(&[], |command| socket = Some(service_manager(command, folder.path())));
    let socket = socket.expect("it was made");
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    process.signal(Signal::HUP);
    told(&socket, "RELOADING=1");
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    stop(process);
}

#[test]
fn a_service_manager_that_reads_nothing_stops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut socket = None;
    let (process, address) = start(&[], |command| {
        let own = service_manager(command, folder.path());
        // Nothing fits any more.
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("sockets can");
        while sender.send_to(b"X=1", folder.path().join("notify")).is_ok() {}
        socket = Some(own);
    });
    answers(address);
    process.signal(Signal::HUP);
    stop(process);
    drop(socket);
}
