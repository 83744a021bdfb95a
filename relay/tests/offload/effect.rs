//! A kernel data path of which nothing comes: it is not called active.

use std::net::TcpStream;

use serde_json::Value;
use turnpike_testkit::{PATIENCE, becomes_true, eventually};

use super::call::Call;
use super::http::{TOKEN, exchange};
use super::lab::Lab;
use super::server::{SERVER, Server, lab, run};

const ADMIN: &str = "127.0.0.1:9980";

fn ask(lab: &Lab, path: &str) -> (u16, String) {
    let stream = lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    exchange(stream, "GET", path, "")
}

fn offload(lab: &Lab) -> Value {
    let (_, body) = ask(lab, "/v1/status");
    serde_json::from_str::<Value>(&body).expect("JSON")["offload"].clone()
}

/// What clients and peers send has this TTL: with 1 of it the program leaves everything to userspace.
fn set_ttl(lab: &Lab, ttl: u8) {
    for namespace in [&lab.client, &lab.peer] {
        run(namespace, &format!("sysctl -qw net.ipv4.ip_default_ttl={ttl}"));
    }
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_thousand_datagrams_with_none_forwarded_are_no_active_kernel_path() {
    let Some(lab) = lab("a_thousand_datagrams_with_none_forwarded_are_no_active_kernel_path") else { return };
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let file = folder.path().join("turnpike.toml");
    std::fs::write(&file, format!("admin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n")).expect("writable");
    let server = Server::start(&lab, &[&format!("--config={}", file.display())]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    call.assert_carries(b"in the kernel");
    assert_eq!(offload(&lab)["active"], true);

    set_ttl(&lab, 1);
    let noticed = eventually(|| {
        for _ in 0..100 {
            assert!(call.to_peer(b"in userspace").is_some() && call.to_client(b"as well").is_some());
        }
        Some(offload(&lab)).filter(|offload| offload["active"] == false)
    });
    let offload_now = noticed.unwrap_or_else(|| panic!("{}", offload(&lab)));
    let why = offload_now["why"].as_str().expect("a text");
    assert!(why.contains("none was forwarded in the kernel: pass_ttl: their TTL is used up"), "{why}");
    assert!(ask(&lab, "/metrics").1.contains("\nturnpike_offload_active 0\n"));
    // It has to be there, and is: a client that sends like this does not make the relay unready.
    assert_eq!(ask(&lab, "/readyz").0, 200);
    server.wait_for_log("the kernel data path is not active");

    set_ttl(&lab, 64);
    let is_back = becomes_true(|| {
        call.assert_carries(b"in the kernel again");
        offload(&lab)["active"] == true
    });
    assert!(is_back, "{}", offload(&lab));
    assert_eq!(ask(&lab, "/readyz").0, 200);
    let metrics = ask(&lab, "/metrics").1;
    let missed = metrics.lines().find_map(|line| line.strip_prefix("turnpike_offload_missed_total "));
    assert!(
        missed.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count >= 1000),
        "{missed:?}"
    );
    server.stop();
}
