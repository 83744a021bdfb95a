//! Nearly all that one worker may have ends at once: a user is deleted, or a drain's time is over. Their sockets
//! are closed, and whoever still calls notices nothing.

use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::tempdir;
use turnpike_testkit::call::Call;
use turnpike_testkit::http::{TOKEN, exchange};

use super::lab::{CLIENT_V4, Lab};
use super::server::{ALLOW_PEERS, SERVER, Server};
use super::standstill::{call, talk};
use super::talker::Talker;

/// Ended in one turn they would hold up the calls for longer than data may wait (200 ms).
const CROWD: u16 = 16_000;
const DESCRIPTORS: usize = 20_000;
const FIRST_CLIENT_PORT: u16 = 10_000;
const CALLS: usize = 20;
const ADMIN: &str = "127.0.0.1:8080";
const PATIENCE: Duration = Duration::from_secs(60);
const DATABASE_USER: &str = "crowd";
const PASSWORD: &str = "a long pass phrase";

fn ask(lab: &Lab, method: &str, path: &str, body: &str) -> Value {
    let stream = lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("the administration listens");
    let (status, answer) = exchange(stream, method, path, body);
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    serde_json::from_str(&answer).unwrap_or_default()
}

fn allocations(lab: &Lab) -> u64 {
    ask(lab, "GET", "/v1/totals", "")["sum"]["allocations"].as_u64().expect("a number")
}

/// How many turns took how long, by the upper bound of their bucket, seconds.
fn turns(lab: &Lab) -> Vec<(f64, u64)> {
    let totals = ask(lab, "GET", "/v1/totals", "");
    let histogram = &totals["workers"][0]["load"]["turn_duration"];
    let bounds = histogram["bounds_secs"].as_array().expect("a list").iter().filter_map(Value::as_f64);
    let counts = histogram["counts"].as_array().expect("a list").iter().filter_map(Value::as_u64);
    bounds.chain([f64::INFINITY]).zip(counts).collect()
}

/// The longest turn's bucket since `before`.
fn longest_since(before: &[(f64, u64)], after: &[(f64, u64)]) -> f64 {
    let more = before.iter().zip(after).filter(|(before, after)| before.1 < after.1);
    more.map(|(_, after)| after.0).fold(0.0, f64::max)
}

/// Allocations whose clients are gone.
fn gather(lab: &Lab) {
    lab.client.enter(|| {
        for port in FIRST_CLIENT_PORT..FIRST_CLIENT_PORT + CROWD {
            let socket = UdpSocket::bind((CLIENT_V4, port)).expect("the namespace is ours");
            Talker::on(socket, SERVER).named(DATABASE_USER, PASSWORD).allocate();
        }
    });
}

fn wait_for(lab: &Lab, count: u64) {
    let start = Instant::now();
    while allocations(lab) != count {
        assert!(start.elapsed() < PATIENCE, "{} allocations, not {count}", allocations(lab));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn path() -> String {
    format!("/v1/users/{DATABASE_USER}")
}

fn make_user(lab: &Lab) {
    ask(lab, "PUT", &path(), &format!("{{\"password\": \"{PASSWORD}\"}}"));
}

/// The user is deleted while others call.
fn delete_beside_calls(lab: &Lab, name: &str, calls: &[Call]) {
    let over = AtomicBool::new(false);
    let (sent, heard, took, longest) = std::thread::scope(|scope| {
        let talking = scope.spawn(|| talk(calls, &over));
        std::thread::sleep(Duration::from_secs(1));
        let (before, start) = (turns(lab), Instant::now());
        ask(lab, "DELETE", &path(), "");
        wait_for(lab, CALLS as u64);
        let took = start.elapsed();
        std::thread::sleep(Duration::from_secs(1));
        let longest = longest_since(&before, &turns(lab));
        over.store(true, Ordering::Relaxed);
        let (sent, heard) = talking.join().expect("no panic");
        (sent, heard, took, longest)
    });
    println!(
        "{name}: {CROWD} ended within {took:?}, longest turn up to {:.1} ms; {sent} datagrams of calls, {} lost",
        1000.0 * longest,
        sent - heard
    );
    assert_eq!(heard, sent);
}

/// A drain without patience ends all there is, the calls too.
fn drain(lab: &Lab, name: &str) {
    let before = turns(lab);
    make_user(lab);
    gather(lab);
    let (filled, start) = (turns(lab), Instant::now());
    ask(lab, "POST", "/v1/drain", "{\"deadline_secs\": 0}");
    wait_for(lab, 0);
    println!(
        "{name}: all drained within {:?}, longest turn up to {:.1} ms (while they came: {:.1} ms)",
        start.elapsed(),
        1000.0 * longest_since(&filled, &turns(lab)),
        1000.0 * longest_since(&before, &filled)
    );
}

fn a_crowd_ends_at_once(name: &str, io: &str) {
    let Some(lab) = Lab::new(name) else { return };
    let folder = tempdir().expect("there is a folder for temporary files");
    let database = folder.path().join("users.db").display().to_string();
    let lines = format!(
        "{ALLOW_PEERS}io = \"{io}\"\noffload = \"off\"\nworkers = 1\nunauthenticated-rate = 0\nlog-level = \"warn\"\n\
         admin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\nuser-database = {database:?}\n"
    );
    let server = Server::start_with_descriptors(&lab, DESCRIPTORS, &lines);
    make_user(&lab);
    let idle = server.descriptors();
    let calls: Vec<Call> = (0..CALLS).map(|_| call(&lab, SERVER, false)).collect();
    gather(&lab);
    wait_for(&lab, (CALLS as u64) + u64::from(CROWD));
    assert!(server.descriptors() >= usize::from(CROWD), "each has a socket");

    delete_beside_calls(&lab, name, &calls);
    drain(&lab, name);
    let start = Instant::now();
    while server.descriptors() > idle + CALLS {
        assert!(start.elapsed() < PATIENCE, "{} descriptors are left of {idle}", server.descriptors());
        std::thread::sleep(Duration::from_millis(50));
    }
    server.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_crowd_ends_at_once_beside_calls_on_io_uring() {
    a_crowd_ends_at_once("a_crowd_ends_at_once_beside_calls_on_io_uring", "io-uring");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_crowd_ends_at_once_beside_calls_on_epoll() {
    a_crowd_ends_at_once("a_crowd_ends_at_once_beside_calls_on_epoll", "epoll");
}
