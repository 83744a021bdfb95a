//! Stdout and stderr that take nothing: the relay starts, answers and ends all the same.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
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
