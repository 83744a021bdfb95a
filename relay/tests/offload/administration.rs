//! What the administration says of what the kernel forwards, and how fast the kernel obeys it.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use turnpike_testkit::{PATIENCE, eventually};

use super::call::{Call, pattern};
use super::http::{TOKEN, exchange};
use super::lab::Lab;
use super::server::{SERVER, Server, lab};

const ADMIN: &str = "127.0.0.1:9980";
const SECOND: Duration = Duration::from_secs(1);
/// Asks the administration from inside the relay's namespace.
#[track_caller]
fn ask(lab: &Lab, method: &str, path: &str, body: &str) -> String {
    let stream = lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let (status, body) = exchange(stream, method, path, body);
    assert_eq!(status, 200, "{method} {path}: {body}");
    body
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Packets and bytes to peers and to clients, on both data paths; then packets of the kernel alone.
fn of_totals(totals: &Value) -> ([u64; 4], u64) {
    let number =
        |way: &str, path: &str, what: &str| totals["sum"][way][path][what].as_u64().expect("a number");
    let both = |way: &str, what: &str| number(way, "userspace", what) + number(way, "kernel", what);
    let kernel = number("to_peer", "kernel", "packets") + number("to_client", "kernel", "packets");
    let sums =
        [("to_peer", "packets"), ("to_peer", "bytes"), ("to_client", "packets"), ("to_client", "bytes")];
    (sums.map(|(way, what)| both(way, what)), kernel)
}

fn of_metrics(page: &str) -> [u64; 4] {
    let sum = |name: &str, way: &str| {
        let ours = page.lines().filter(|line| line.starts_with(name) && line.contains(way));
        ours.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a value"))
            .sum::<f64>() as u64
    };
    let (packets, bytes) = ("turnpike_relayed_packets_total{", "turnpike_relayed_bytes_total{");
    [(packets, "to_peer"), (bytes, "to_peer"), (packets, "to_client"), (bytes, "to_client")]
        .map(|(name, way)| sum(name, way))
}

fn field(log: &str, label: &str) -> u64 {
    let line = log.lines().find(|line| line.contains("allocation ended")).expect("a record");
    let (_, rest) = line.split_once(label).unwrap_or_else(|| panic!("no {label} in {line}"));
    rest.split(' ').next().and_then(|text| text.parse().ok()).expect("a number")
}

/// Payload bytes that have arrived at the peer.
fn heard(call: &Call) -> u64 {
    call.peer.set_nonblocking(true).expect("sockets can");
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| call.peer.recv(&mut buffer).ok()).map(|length| length as u64).sum()
}

/// Floods the client's channel for a second, and until that many bytes have come through; gives the bytes that
/// the peer has heard meanwhile, and how long it took.
fn flood(call: &Call, bytes: u64) -> (u64, Duration) {
    let (begin, mut arrived, mut sent) = (Instant::now(), 0, 0);
    while begin.elapsed() < PATIENCE && (begin.elapsed() < SECOND || arrived < bytes || sent < 1000) {
        call.talker.channel_data(&[0x55; 1000]);
        sent += 1;
        arrived += heard(call);
        std::thread::sleep(Duration::from_micros(500));
    }
    (arrived, begin.elapsed())
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn api_metrics_and_records_count_what_the_kernel_forwards_and_limits_hold_there() {
    const DATAGRAMS: u64 = 500;
    const BYTES: u64 = 200;
    const BITS: u64 = 400_000;
    let test = "api_metrics_and_records_count_what_the_kernel_forwards_and_limits_hold_there";
    let Some(lab) = lab(test) else { return };
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let file = folder.path().join("turnpike.toml");
    std::fs::write(&file, format!("admin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n")).expect("writable");
    let server = Server::start(&lab, &[&format!("--config={}", file.display())]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    let data = pattern(BYTES as usize);
    for _ in 0..DATAGRAMS {
        assert_eq!(call.to_peer(&data).as_deref(), Some(&data[..]));
        assert_eq!(call.to_client(&data).as_deref(), Some(&data[..]));
    }
    let expected = [DATAGRAMS, DATAGRAMS * BYTES, DATAGRAMS, DATAGRAMS * BYTES];
    // Counters of the kernel are seen by a walk each second.
    let mut sums = [0; 4];
    let kernel = eventually(|| {
        let totals = of_totals(&json(&ask(&lab, "GET", "/v1/totals", "")));
        sums = totals.0;
        (sums == expected).then_some(totals.1)
    });
    let kernel = kernel.unwrap_or_else(|| panic!("{sums:?}, expected {expected:?}"));
    assert!(kernel > DATAGRAMS * 2 * 9 / 10, "{kernel} by the kernel");
    assert_eq!(of_metrics(&ask(&lab, "GET", "/metrics", "")), expected);

    let page = json(&ask(&lab, "GET", "/v1/allocations", ""));
    let id = page["allocations"][0]["id"].as_str().expect("an id").to_owned();
    let limit = format!("{{\"max_bits_per_sec\":{BITS}}}");
    ask(&lab, "PATCH", &format!("/v1/allocations/{id}"), &limit);
    // The limit is in force when the answer comes.
    let (mut arrived, elapsed) = flood(&call, BITS / 8 / 2);
    assert!(arrived > BITS / 8 / 2, "{arrived} bytes: it is limited, not cut off");

    let frames = server.stop();
    assert!(frames.log.contains(&format!("allocation={id}")), "the record has the API's number");
    let counted = field(&frames.log, "to_peer_bytes=") - DATAGRAMS * BYTES;
    // The rate, and its burst of 100 ms.
    let allowed = BITS as f64 / 8.0 * (elapsed.as_secs_f64() * 1.03 + 0.1);
    assert!((counted as f64) < allowed, "{counted} bytes in {elapsed:?}, allowed {allowed}");
    let all = eventually(|| {
        arrived += heard(&call);
        (arrived == counted).then_some(())
    });
    assert!(all.is_some(), "{arrived} bytes have arrived, {counted} are in the record");
    assert_eq!(field(&frames.log, "to_client_packets="), DATAGRAMS);
    assert!(frames.count("drop_rate_to_peer") > 100, "it is the kernel that drops");
    assert_eq!(frames.lost(), 0);
}
