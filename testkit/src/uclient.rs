//! coturn's load client `turnutils_uclient`: runs it and reads its report.
//!
//! Its exit code says nothing about loss, and each release prefixes its lines differently: only
//! the bodies of the lines are read.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::eventually;
use crate::lab::{Lab, PEER_V4, PEER_V6};
use crate::process::{Outcome, Process};
use crate::talker::peer_socket;

/// Legs of a load run: a multiple of four, or the client rounds up.
pub const LEGS: u64 = 20;
/// Messages that each leg sends, 20 ms apart.
pub const MESSAGES: u64 = 150;

/// The port of [`echo`]; it opens the next one, too.
pub const PEER_PORT: &str = "3480";

/// Connecting costs 100 ms per leg, a leg starts up to 6 s later and waits up to 10 s at the end.
const LOAD_DEADLINE: Duration = Duration::from_secs(120);

/// What a run reported.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Messages sent by all legs.
    pub sent: u64,
    /// Messages that arrived.
    pub received: u64,
    /// Messages that the client counts as lost.
    pub lost: u64,
}

/// coturn's echoing peer, once it echoes at both of the peer's addresses.
pub fn echo(lab: &Lab) -> Process {
    let mut command = lab.peer.command(Path::new("turnutils_peer"));
    command.args(["-p", PEER_PORT, "-L", &PEER_V4.to_string(), "-L", &PEER_V6.to_string()]);
    let process = Process::start(command);
    for ip in [PEER_V4, PEER_V6] {
        let (socket, mut buffer) = (peer_socket(&lab.peer, ip), [0; 8]);
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout that is not zero");
        let port: u16 = PEER_PORT.parse().expect("a port");
        let echoes = eventually(|| {
            // Refused as long as nobody listens.
            let _ = socket.send_to(b"anybody?", (ip, port));
            socket.recv(&mut buffer).ok()
        });
        assert!(echoes.is_some(), "turnutils_peer does not echo at {ip}");
    }
    process
}

/// Runs the client against `server` with these arguments, in the client's namespace.
pub fn run(lab: &Lab, server: IpAddr, arguments: &[&str], timeout: Duration) -> Outcome {
    let mut command = lab.client.command(Path::new("turnutils_uclient"));
    command.args(arguments).arg(server.to_string());
    Process::start(command).wait(timeout)
}

/// Runs [`LEGS`] legs with [`MESSAGES`] messages each at 50 per second, all of which must arrive.
pub fn assert_no_loss(lab: &Lab, server: IpAddr, arguments: &[&str]) {
    assert_no_loss_of(LEGS, lab, server, arguments);
}

/// The same with another number of legs: those with TCP to their peers (`-T`) take it seconds each.
pub fn assert_no_loss_of(legs: u64, lab: &Lab, server: IpAddr, arguments: &[&str]) {
    let all = legs * MESSAGES;
    let (legs, messages) = (legs.to_string(), MESSAGES.to_string());
    let load = ["-m", &legs, "-n", &messages, "-z", "20", "-l", "170"];
    let Outcome { code, output } = run(lab, server, &[arguments, &load].concat(), LOAD_DEADLINE);
    assert_eq!(code, Some(0), "turnutils_uclient {arguments:?} did not complete:\n{output}");
    let report = parse(&output).unwrap_or_else(|| panic!("no report of {arguments:?}:\n{output}"));
    assert_eq!(report, Report { sent: all, received: all, lost: 0 }, "{arguments:?}:\n{output}");
}

/// Reads the summary at the end of the output.
fn parse(output: &str) -> Option<Report> {
    let summary = output.lines().rfind(|line| line.contains("tot_send_msgs=") && !line.contains("msz="))?;
    let lost = output.lines().rfind(|line| line.contains("Total lost packets "))?;
    Some(Report {
        sent: number_after(summary, "tot_send_msgs=")?,
        received: number_after(summary, "tot_recv_msgs=")?,
        lost: number_after(lost, "Total lost packets ")?,
    })
}

fn number_after(line: &str, label: &str) -> Option<u64> {
    let (_, rest) = line.split_once(label)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[test]
fn reports_of_all_releases_are_read() {
    let body = |prefix: &str| {
        format!(
            "{prefix}start_mclient: msz=2, tot_send_msgs=50, tot_recv_msgs=40, tot_send_bytes ~ 8500, tot_recv_bytes ~ 1\n\
             {prefix}start_mclient: tot_send_msgs=300, tot_recv_msgs=297\n\
             {prefix}start_mclient: tot_send_bytes ~ 51000, tot_recv_bytes ~ 50490\n\
             {prefix}Total lost packets 3 (1.000000%), total send dropped 0 (0.000000%)\n"
        )
    };
    for prefix in ["259: ", "259: : ", "259: (4711): INFO: ", "2026-08-21T21:09:03.211+0000 INFO "] {
        let report = parse(&body(prefix));
        assert_eq!(report, Some(Report { sent: 300, received: 297, lost: 3 }), "prefix {prefix:?}");
    }
}

#[test]
fn output_without_a_summary_is_no_report() {
    assert_eq!(parse("0: : Cannot complete Allocation\n"), None);
    assert_eq!(parse("9: : start_mclient: msz=2, tot_send_msgs=50, tot_recv_msgs=40\n"), None);
}
