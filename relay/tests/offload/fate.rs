//! Interfaces that do not send what they are given: calls go on in userspace, it is said, and nothing is counted that
//! was not sent.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use turnpike_testkit::{PATIENCE, becomes_true, eventually};

use super::call::{Call, pattern};
use super::http::{TOKEN, exchange};
use super::lab::Lab;
use super::server::{SERVER, Server, lab, run};

const ADMIN: &str = "127.0.0.1:9980";
/// How long a datagram is waited for that may be lost.
const MOMENT: Duration = Duration::from_millis(50);

fn ask(lab: &Lab, path: &str) -> String {
    let stream = lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let (status, body) = exchange(stream, "GET", path, "");
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// What the API says of the interface towards the peers.
fn peer0(lab: &Lab) -> Value {
    let status = json(&ask(lab, "/v1/status"));
    let interfaces = status["offload"]["interfaces"].as_array().expect("a list").clone();
    interfaces.into_iter().find(|interface| interface["name"] == "peer0").expect("it is there")
}

/// Why the kernel does not forward the one allocation that there is; `None` if it does.
fn why_not(lab: &Lab) -> Option<String> {
    let page = json(&ask(lab, "/v1/allocations"));
    // A list may be a second old.
    let Some(id) = page["allocations"][0]["id"].as_str() else { return Some("not listed yet".to_owned()) };
    let allocation = json(&ask(lab, &format!("/v1/allocations/{id}")));
    let offload = &allocation["channel_list"][0]["offload"];
    assert!(offload.is_object(), "{allocation}");
    Some(offload["why_not"].as_str()?.to_owned())
}

fn record(log: &str, label: &str) -> u64 {
    let line = log.lines().find(|line| line.contains("allocation ended")).expect("a record");
    let (_, rest) = line.split_once(label).unwrap_or_else(|| panic!("no {label} in {line}"));
    rest.split(' ').next().and_then(|text| text.parse().ok()).expect("a number")
}

fn with_admin(folder: &tempfile::TempDir) -> String {
    let file = folder.path().join("turnpike.toml");
    std::fs::write(&file, format!("admin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n")).expect("writable");
    format!("--config={}", file.display())
}

/// The driver refuses all that is redirected to it: a `veth` does whose far end has neither GRO nor a program.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_device_that_takes_no_frames_is_left_to_userspace_until_it_does() {
    let Some(lab) = lab("a_device_that_takes_no_frames_is_left_to_userspace_until_it_does") else { return };
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let server = Server::start(&lab, &[&with_admin(&folder)]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    call.assert_carries(b"in the kernel");

    run(&lab.peer, "ethtool -K relay0 gro off");
    call.peer_is_patient_for(MOMENT);
    let (mut sent, mut arrived) = (1_u64, 1_u64);
    let goes_on = eventually(|| {
        sent += 1;
        call.to_peer(b"is anybody there?").map(|_| arrived += 1)
    });
    assert!(goes_on.is_some(), "userspace sends what the kernel can't");
    server.wait_for_log("peer0 loses what the kernel data path sends by it");
    // Not one more is lost.
    call.peer_is_patient_for(PATIENCE);
    for _ in 0..20 {
        sent += 1;
        arrived += u64::from(call.to_peer(b"in userspace").is_some());
    }
    assert!(sent - arrived < 20, "{} of {sent} datagrams were lost", sent - arrived);
    let known = becomes_true(|| matches!(why_not(&lab).as_deref(), Some("transmit" | "lossy")));
    assert!(known, "{:?}", why_not(&lab));
    let interface = peer0(&lab);
    assert_eq!(interface["attached"], true, "{interface}");
    let lost = interface["lost"].as_u64().expect("a number");
    assert!(lost > 0 && lost <= sent - arrived, "{interface}: {sent} sent, {arrived} arrived");

    run(&lab.peer, "ethtool -K relay0 gro on");
    // Tried again by and by, or when the driver says that it can.
    assert!(becomes_true(|| peer0(&lab)["forwards"] == true && why_not(&lab).is_none()), "{}", peer0(&lab));
    assert!(ask(&lab, "/metrics").contains("turnpike_offload_interface_forwards{interface=\"peer0\"} 1"));
    call.assert_carries(b"in the kernel again");
    (sent, arrived) = (sent + 1, arrived + 1);
    let frames = server.stop();
    assert!(frames.count("channel_to_peer") >= 2, "{:?}", frames.log);
    assert_eq!(frames.lost(), lost, "what was not sent is counted as that");
    assert_eq!(record(&frames.log, "to_peer_packets="), arrived, "of {sent}: only what was sent is counted");
}

/// The device drops some of a batch: frames larger than its far end takes.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn what_a_device_drops_is_in_no_record() {
    const LARGE: usize = 1300;
    let Some(lab) = lab("what_a_device_drops_is_in_no_record") else { return };
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let server = Server::start(&lab, &[&with_admin(&folder)]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    for _ in 0..300 {
        assert!(call.to_peer(b"small").is_some());
    }
    run(&lab.peer, "ip link set relay0 mtu 1000");
    call.peer_is_patient_for(MOMENT);
    let mut sent = 300;
    let is_left = becomes_true(|| {
        sent += 1;
        assert_eq!(call.to_peer(&pattern(LARGE)), None, "the far end is too small");
        peer0(&lab)["forwards"] == false
    });
    assert!(is_left, "{}", peer0(&lab));
    server.wait_for_log("peer0 loses what the kernel data path sends by it");
    call.peer_is_patient_for(PATIENCE);
    // A moment later it is tried again, and loses nothing any more.
    assert!(becomes_true(|| peer0(&lab)["forwards"] == true && why_not(&lab).is_none()), "{}", peer0(&lab));
    assert!(call.to_peer(b"small again").is_some());
    sent += 1;
    let lost = peer0(&lab)["lost"].as_u64().expect("a number");
    assert!(lost > 0, "{}", peer0(&lab));
    let frames = server.stop();
    assert_eq!(frames.count("drop_device_queue"), lost);
    assert_eq!(record(&frames.log, "to_peer_packets="), sent - lost, "of {sent}");
}
