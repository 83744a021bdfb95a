//! Stdout, stderr and a service manager that take nothing: the relay starts, answers and ends all the same.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use turnpike_testkit::full_pipe;

/// Far more than anything here takes, and far less than for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// A Binding request without attributes (RFC 8489 s. 5).
const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42nobody_reads";

/// The program on a port of its own, with what a test does about its output.
fn start(arguments: &[&str], redirect: impl FnOnce(&mut Command)) -> (Child, SocketAddr) {
    let free = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TURNPIKE_")) {
        command.env_remove(name);
    }
    command.args(["--listen", &address.to_string(), "--relay-address", "127.0.0.1", "--offload", "off"]);
    command.args(["--user", "alice:correct horse battery", "--workers", "1"]).args(arguments);
    command.stdin(Stdio::null());
    redirect(&mut command);
    (command.spawn().expect("the program starts"), address)
}

#[track_caller]
fn answers(address: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
    let (start, mut buffer) = (Instant::now(), [0; 1024]);
    while start.elapsed() < PATIENCE {
        // Refused as long as nobody listens.
        let _ = socket.send_to(&BINDING, address);
        if socket.recv_from(&mut buffer).is_ok() {
            return;
        }
    }
    panic!("no answer");
}

/// Ends it by SIGTERM.
#[track_caller]
fn stop(mut child: Child) -> ExitStatus {
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("it runs");
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("it is ours") {
            println!("ended {:?} after SIGTERM", start.elapsed());
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("SIGTERM does not end it");
}

#[test]
fn full_pipes_as_stdout_and_stderr_stop_nothing() {
    let (writer, _reader) = full_pipe();
    let too = writer.try_clone().expect("descriptors are left");
    let (child, address) = start(&[], |command| {
        command.stdout(writer).stderr(too);
    });
    answers(address);
    assert!(stop(child).success());
}

#[test]
fn a_stdout_that_cannot_be_written_is_a_warning() {
    let (child, address) = start(&["--quickstart"], |command| {
        command.stdout(File::options().write(true).open("/dev/full").expect("Linux has it"));
        command.stderr(Stdio::piped());
    });
    answers(address);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("the ready line could not be printed on stdout: No space left on device"), "{log}");
}

#[test]
fn nothing_at_all_can_be_written_and_it_runs() {
    let full = || File::options().write(true).open("/dev/full").expect("Linux has it");
    let (child, address) = start(&[], |command| {
        command.stdout(full()).stderr(full());
    });
    answers(address);
    assert!(stop(child).success());
}

#[test]
fn a_start_that_fails_ends_although_nobody_reads_why() {
    let (writer, _reader) = full_pipe();
    let too = writer.try_clone().expect("descriptors are left");
    let (mut child, _) = start(&["--total-quota", "many"], |command| {
        command.stdout(writer).stderr(too);
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("it is ours") {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                let _ = child.kill();
                panic!("it waits for its reader");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(status.code(), Some(2));
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
    let (child, _) = start(&[], |command| socket = Some(service_manager(command, folder.path())));
    let socket = socket.expect("it was made");
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    kill_process(Pid::from_child(&child), Signal::HUP).expect("it runs");
    told(&socket, "RELOADING=1");
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    assert!(stop(child).success());
}

#[test]
fn a_service_manager_that_reads_nothing_stops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut socket = None;
    let (child, address) = start(&[], |command| {
        let own = service_manager(command, folder.path());
        // Nothing fits any more.
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("sockets can");
        while sender.send_to(b"X=1", folder.path().join("notify")).is_ok() {}
        socket = Some(own);
    });
    answers(address);
    kill_process(Pid::from_child(&child), Signal::HUP).expect("it runs");
    assert!(stop(child).success());
    drop(socket);
}
