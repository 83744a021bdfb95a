//! Real clients at a rate, through the kernel: nothing is lost, and nearly nothing is seen by a worker.

use std::net::IpAddr;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::call::{Call, pattern};
use super::lab::{Lab, PEER_V4, RELAY_V4, RELAY_V6};
use super::server::{PASSWORD, SERVER, Server, USER, lab};
use super::uclient::{self, LEGS, MESSAGES, PEER_PORT};

/// Of a hundred datagrams, these go by the kernel: a busy machine may take a moment to make the routes, and until
/// then they go by a worker.
const MOST: u64 = 90;

/// Runs `turnutils_uclient` with these arguments; the kernel has to carry [`MOST`] of its data.
fn load(lab: &Lab, server: IpAddr, arguments: &[&str]) {
    let relay = Server::start(lab, &[]);
    let _echo = uclient::echo(lab);
    uclient::assert_no_loss(lab, server, &[&["-u", USER, "-w", PASSWORD], arguments].concat());
    let most = LEGS * MESSAGES * MOST / 100;
    relay.stop().assert_forwarded(most, most);
}

/// RFC 8656 s. 12 between two relayed addresses of ours: both steps in one pass of the program.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn channels_between_clients_stay_in_the_kernel() {
    let Some(lab) = lab("channels_between_clients_stay_in_the_kernel") else { return };
    load(&lab, RELAY_V4, &["-y", "-c"]);
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn channels_to_a_peer_stay_in_the_kernel() {
    let Some(lab) = lab("channels_to_a_peer_stay_in_the_kernel") else { return };
    load(&lab, RELAY_V4, &["-e", &PEER_V4.to_string(), "-r", PEER_PORT, "-c"]);
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn ipv6_clients_stay_in_the_kernel() {
    let Some(lab) = lab("ipv6_clients_stay_in_the_kernel") else { return };
    load(&lab, RELAY_V6, &["-x", "-y", "-c"]);
}

/// The project's own load test, as `turnutils_uclient`, with an echoing peer: what it counts is what the kernel
/// counts. It waits a second and more behind its ChannelBinds, so even its first datagram can go by the kernel.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn the_load_test_stays_in_the_kernel() {
    const LEGS: u64 = 10;
    const MESSAGES: u64 = 1000;
    let Some(lab) = lab("the_load_test_stays_in_the_kernel") else { return };
    let relay = Server::start(&lab, &[]);
    let peer = PEER_V4.to_string();
    let _echo = uclient::echo(&lab);
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.json");
    let (report_path, server) = (report.display().to_string(), RELAY_V4.to_string());
    let (legs, messages) = (LEGS.to_string(), MESSAGES.to_string());
    lab.client.enter(|| {
        let target =
            ["turnpike-loadtest", "uclient", "-e", &peer, "-r", PEER_PORT, "-u", USER, "-w", PASSWORD];
        let load =
            ["-c", "-m", &legs, "-n", &messages, "-z", "2", "-l", "170", "--json", &report_path, &server];
        turnpike_loadtest::cli::main(target.iter().chain(&load).map(Into::into).collect());
    });
    let text = std::fs::read_to_string(report).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let total = &report["trials"][0]["total"];
    let sent = LEGS * MESSAGES;
    let counted = ["sent", "received", "lost"].map(|what| total[what].as_u64());
    assert_eq!(counted, [Some(sent), Some(sent), Some(0)], "{total}");
    relay.stop().assert_forwarded(sent * MOST / 100, sent * MOST / 100);
}

/// Up to 2000 datagrams per second, each answered: all arrive, and 99.9 % of them by the kernel.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_steady_stream_never_reaches_a_worker() {
    const DATAGRAMS: u64 = 5000;
    /// Datagrams under way, fewer than a socket's buffer holds.
    const WINDOW: usize = 100;
    let Some(lab) = lab("a_steady_stream_never_reaches_a_worker") else { return };
    let server = Server::start(&lab, &[]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    let data = pattern(200);
    let (under_way, returned) = sync_channel(WINDOW);
    let (there, back) = std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let heard = (0..DATAGRAMS).map_while(|_| call.peer_hears());
            heard.filter(|heard| call.peer.send_to(heard, call.relayed).is_ok() && *heard == data).count()
        });
        let call = &call;
        let back = scope.spawn(move || {
            let heard = (0..DATAGRAMS).map_while(|_| call.client_hears());
            heard.inspect(|_| _ = returned.recv()).count()
        });
        let begin = Instant::now();
        for sent in 0..DATAGRAMS as u32 {
            let due = begin + Duration::from_micros(500) * sent;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if under_way.send(()).is_err() {
                break;
            }
            call.talker.channel_data(&data);
        }
        (there.join().expect("no panic"), back.join().expect("no panic"))
    });
    assert_eq!((there as u64, back as u64), (DATAGRAMS, DATAGRAMS));
    server.stop().assert_forwarded(DATAGRAMS * 999 / 1000, DATAGRAMS * 999 / 1000);
}
