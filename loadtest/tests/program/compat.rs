//! The drop-in programs: names, lines, exit status, and the same counts as coturn's own client.

use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::time::Duration;

use turnpike_testkit::eventually;

use crate::coturn::{Coturn, coturn_is_missing, free_port};
use crate::stub::{PASSWORD, Spoil, Stub, USER};
use crate::{loadtest, started};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bodies of the lines with their 4.6.1 prefix (`259: : `) removed, which each line must have.
fn bodies(stdout: &str) -> Vec<&str> {
    stdout
        .lines()
        .map(|line| {
            let (secs, rest) = line.split_once(": : ").unwrap_or_else(|| panic!("no 4.6.1 prefix: {line}"));
            assert!(secs.bytes().all(|byte| byte.is_ascii_digit()), "{line}");
            rest
        })
        .collect()
}

/// The lines whose numbers must agree between the two clients.
fn counts(stdout: &str) -> Vec<String> {
    let wanted = ["start_mclient: tot_send", "Total lost packets"];
    bodies(stdout)
        .into_iter()
        .filter(|body| wanted.iter().any(|start| body.starts_with(start)))
        .map(str::to_owned)
        .collect()
}

#[test]
fn by_its_name_the_program_is_turnutils_uclient() {
    let stub = Stub::start(Spoil::default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = folder.path().join("turnutils_uclient");
    symlink(env!("CARGO_BIN_EXE_turnpike-loadtest"), &name).expect("a link");
    let port = stub.address.port().to_string();
    let output = Command::new(&name)
        .args(["-yc", "-m3", "-n", "20", "-z5", "-u", USER, "-w", PASSWORD, "-p", &port, "127.0.0.1"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(0));
    let stdout = text(&output);
    let lines = bodies(&stdout);
    assert!(lines[0].starts_with("Total connect time is "));
    let end = &lines[lines.len() - 6..];
    assert_eq!(end[0], "start_mclient: tot_send_msgs=80, tot_recv_msgs=80");
    assert_eq!(end[1], "start_mclient: tot_send_bytes ~ 8000, tot_recv_bytes ~ 8000");
    assert!(end[2].starts_with("Total transmit time is "));
    assert_eq!(end[3], "Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)");
    assert!(end[4].starts_with("Average round trip delay ") && end[4].contains(" ms; min = "));
    assert!(end[5].starts_with("Average jitter ") && end[5].ends_with(" ms"));
    assert_eq!(stub.allocations(), 0);
}

#[test]
fn losses_do_not_change_the_status_unless_asked() {
    let stub = Stub::start(Spoil { drop_every: 10, ..Spoil::default() });
    let port = stub.address.port().to_string();
    let run = |extra: &[&str]| {
        let mut all = vec!["uclient", "-y", "-c", "-B", "-n", "5", "-z", "1", "-m", "20", "-p", &port];
        all.extend(["-u", USER, "-w", PASSWORD]);
        all.extend(extra);
        all.push("127.0.0.1");
        loadtest(&all)
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(run(&["--fail-above-loss", "1"]).status.code(), Some(1));
}

#[test]
fn failures_are_one_line_and_255() {
    let stub = Stub::start(Spoil { refuse_peers: true, ..Spoil::default() });
    let port = stub.address.port().to_string();
    for (password, cause) in [("wrong", "Cannot complete Allocation"), (PASSWORD, "error 403")] {
        let output = loadtest(&["uclient", "-y", "-c", "-u", USER, "-w", password, "-p", &port, "127.0.0.1"]);
        let stdout = text(&output);
        assert_eq!(output.status.code(), Some(255), "{stdout}");
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        assert!(bodies(&stdout)[0].starts_with("ERROR: ") && stdout.contains(cause), "{stdout}");
    }
}

#[test]
fn the_peer_echoes_any_size_on_both_ports() {
    let port = free_port();
    let _peer = started(&["peer", "-p", &port.to_string(), "-L", "127.0.0.1"]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut buffer = vec![0; 65_536];
    for (port, size) in [(port, 1), (port, 65_507), (port + 1, 5000)] {
        let echoed = eventually(|| {
            // Until the peer has bound its ports, sends are refused.
            let _ = socket.send_to(&vec![size as u8; size], ("127.0.0.1", port));
            socket.recv(&mut buffer).ok().filter(|length| *length == size)
        });
        assert_eq!((echoed, buffer[0]), (Some(size), size as u8));
    }
}

#[test]
fn same_server_same_flags_same_counts_as_turnutils_uclient() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("127.0.0.1");
    let port = server.address.port().to_string();
    for flags in [
        &["-y", "-c", "-m", "6", "-n", "100", "-z", "5"][..],
        &["-ycs", "-m2", "-n50", "-l200"],
        &["-y", "-m3", "-n20"],
        &["-t", "-y", "-c", "-m", "6", "-n", "100", "-z", "5", "-l", "101"],
    ] {
        let mut all = flags.to_vec();
        all.extend(["-u", USER, "-w", PASSWORD, "-p", &port, "127.0.0.1"]);
        let theirs = Command::new("turnutils_uclient").args(&all).output().expect("it starts");
        all.insert(0, "uclient");
        let ours = loadtest(&all);
        assert_eq!(ours.status.code(), theirs.status.code(), "{flags:?}");
        let (ours, theirs) = (counts(&text(&ours)), counts(&text(&theirs)));
        assert_eq!(ours[ours.len() - 3..], theirs[theirs.len() - 3..], "{flags:?}");
    }
}

/// coturn's own client reports false losses over TLS, so it is no judge there.
#[test]
fn over_tls_uclient_loses_nothing_and_takes_a_certificate_to_check() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("127.0.0.1");
    let (port, certificate) = (server.tls.port().to_string(), server.certificate().display().to_string());
    let output = loadtest(&[
        "uclient",
        "-t",
        "-S",
        "-y",
        "-m3",
        "-n20",
        "-E",
        &certificate,
        "-u",
        USER,
        "-w",
        PASSWORD,
        "-p",
        &port,
        "127.0.0.1",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let counts = counts(&text(&output));
    let wanted = "Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)";
    assert_eq!(counts[counts.len() - 3], "start_mclient: tot_send_msgs=80, tot_recv_msgs=80");
    assert_eq!(counts[counts.len() - 1], wanted);
    let output = loadtest(&[
        "uclient",
        "-Y",
        "alloc",
        "-n",
        "3",
        "-tS",
        "-u",
        USER,
        "-w",
        PASSWORD,
        "-p",
        &port,
        "127.0.0.1",
    ]);
    assert!(text(&output).contains("total_allocations=3"), "{}", text(&output));
}
