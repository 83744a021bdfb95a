//! How the program starts, refuses to start, and ends.

use std::net::{SocketAddr, UdpSocket};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use super::lab::{Lab, RELAY_V4};
use super::process::{Outcome, Process};
use super::relay::{self, Options, PASSWORD, PORT, Relay};

const SERVER: SocketAddr = SocketAddr::new(RELAY_V4, PORT);

/// Asserts that it ended with `code` and a line that has all of `parts`, without a panic or a secret.
fn assert_failed(outcome: &Outcome, code: i32, parts: &[&str]) {
    let output = &outcome.output;
    assert_eq!(outcome.code, Some(code), "{output}");
    assert!(
        output.lines().any(|line| parts.iter().all(|part| line.contains(part))),
        "no line has {parts:?}:\n{output}"
    );
    assert!(!output.contains("panicked") && !output.contains(PASSWORD), "{output}");
    assert!(!output.contains("turnpike ready"), "{output}");
}

/// Starts the server where `holder` has its listener's port.
fn start_beside(lab: &Lab, _holder: &UdpSocket) -> Outcome {
    let arguments = relay::turnpike_arguments(&Options { listen: vec![SERVER], ..Options::default() });
    relay::fails_to_start(lab, &arguments)
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn an_occupied_listener_port_is_one_clear_error() {
    let name = "an_occupied_listener_port_is_one_clear_error";
    let Some(lab) = Lab::new(name).filter(|_| relay::is_turnpike(name)) else { return };
    let holder = lab.relay.enter(|| UdpSocket::bind(SERVER)).expect("the namespace is empty");
    assert_failed(&start_beside(&lab, &holder), 1, &["10.77.1.2:3478", "in use"]);
}

/// SO_REUSEPORT would let two servers share a port, and clients would land on either.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_port_shared_by_another_program_is_refused() {
    let name = "a_port_shared_by_another_program_is_refused";
    let Some(lab) = Lab::new(name).filter(|_| relay::is_turnpike(name)) else { return };
    let holder = lab.relay.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("sockets exist");
        socket.set_reuse_port(true).expect("Linux has it");
        socket.bind(&SERVER.into()).expect("the namespace is empty");
        UdpSocket::from(socket)
    });
    assert_failed(&start_beside(&lab, &holder), 1, &["10.77.1.2:3478", "in use"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_configuration_error_names_file_line_and_key() {
    let name = "a_configuration_error_names_file_line_and_key";
    let Some(lab) = Lab::new(name).filter(|_| relay::is_turnpike(name)) else { return };
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let file = folder.path().join("turnpike.toml");
    let text = "user = [\"alice:correct horse\"]\nrealm = \"example.org\"\nport-range = \"60000-50000\"\n";
    std::fs::write(&file, text).expect("the folder is ours");
    let file = file.to_str().expect("temporary names are ASCII");
    for arguments in [["run", "--config", file].as_slice(), &["check-config", file]] {
        let outcome = relay::fails_to_start(&lab, arguments);
        assert_failed(&outcome, 2, &[&format!("{file}:3"), "port-range"]);
    }
}

/// Never an open relay: no user and no secret, no start.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn without_credentials_it_does_not_start() {
    let name = "without_credentials_it_does_not_start";
    let Some(lab) = Lab::new(name).filter(|_| relay::is_turnpike(name)) else { return };
    let outcome = relay::fails_to_start(&lab, &["run", "--listen", "10.77.1.2:3478"]);
    assert_failed(&outcome, 2, &["user", "auth-secret"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn sigterm_and_sigint_end_it_with_exit_code_0() {
    let name = "sigterm_and_sigint_end_it_with_exit_code_0";
    let Some(lab) = Lab::new(name).filter(|_| relay::is_turnpike(name)) else { return };
    Relay::start(&lab, &Options::default()).stop();
    let relay = Relay::start(&lab, &Options::default());
    assert_eq!(relay.end_by(Signal::INT).code, Some(0));
}

/// A listener that was stopped leaves its port at once to the next one.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn it_can_be_restarted_at_once() {
    let Some(lab) = Lab::new("it_can_be_restarted_at_once") else { return };
    for _ in 0..3 {
        Relay::start(&lab, &Options::default()).stop();
    }
}

/// A started program is not left behind by a test that forgets it.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_dropped_process_ends() {
    let Some(lab) = Lab::new("a_dropped_process_ends") else { return };
    let mut command = lab.peer.command(std::path::Path::new("sleep"));
    command.arg("600");
    let process = Process::start(command);
    let proc = format!("/proc/{}", process.id());
    assert!(std::path::Path::new(&proc).exists());
    drop(process);
    assert!(!std::path::Path::new(&proc).exists());
}
