//! No descriptors are left: for relay sockets first, then for anything. Who has a call notices nothing.

use std::net::TcpStream;

use serde_json::Value;
use turnpike_testkit::call::Call;
use turnpike_testkit::http::{TOKEN, exchange};
use turnpike_testkit::{PATIENCE, becomes_true};

use super::lab::Lab;
use super::server::{ALLOW_PEERS, SERVER, Server, USER};
use super::talker::Talker;

/// What the process may have; a quarter of it, 64 at the most, is kept from relay sockets.
const LIMIT: usize = 256;
const KEPT: usize = 64;
const ADMIN: &str = "127.0.0.1:8080";
/// Requests that are refused for the same reason.
const REFUSED: usize = 20;

fn connect(lab: &Lab) -> TcpStream {
    let stream = lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("the administration listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

fn ask(lab: &Lab, path: &str) -> String {
    let (status, body) = exchange(connect(lab), "GET", path, "");
    assert_eq!(status, 200, "{body}");
    body
}

/// Waits until `done`: a worker reports a few times a second.
fn wait_until(what: &str, done: impl FnMut() -> bool) {
    assert!(becomes_true(done), "{what}");
}

/// Allocates until there is nothing left; gives the clients that got one.
fn fill(lab: &Lab) -> Vec<Talker> {
    let mut held = Vec::new();
    loop {
        let mut talker = Talker::new(&lab.client, SERVER);
        match talker.try_allocate().code {
            None => held.push(talker),
            code => {
                assert_eq!(code, Some(508));
                return held;
            }
        }
        assert!(held.len() < LIMIT, "more allocations than descriptors");
    }
}

fn calls_go_on(calls: &mut [Call]) {
    for call in calls {
        call.assert_carries(b"media");
        assert_eq!(call.talker.refresh(600).code, None);
    }
}

/// The operator sees it in metrics and API, with user and cause.
fn it_is_told(lab: &Lab) {
    wait_until("the refusals are listed", || {
        let refusals: Value = serde_json::from_str(&ask(lab, "/v1/refusals")).expect("JSON");
        refusals["refusals"].as_array().expect("a list").iter().any(|refusal| {
            refusal["user"] == USER
                && refusal["code"] == 508
                && refusal["reason"] == "no-descriptor"
                && refusal["count"].as_u64().is_some_and(|count| count > REFUSED as u64)
                && refusal["detail"].as_str().is_some_and(|detail| detail.contains(&LIMIT.to_string()))
        })
    });
    let page = ask(lab, "/metrics");
    let metric = "turnpike_refusals_total{method=\"allocate\",code=\"508\",reason=\"no-descriptor\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(metric)).expect("it is counted");
    assert_eq!(count, (REFUSED + 1).to_string());
    assert!(page.contains(&format!("process_max_fds {LIMIT}\n")), "{page}");
}

/// The administration's connections take the rest: nothing can be opened any more.
fn take_the_rest(lab: &Lab, server: &Server) -> Vec<TcpStream> {
    let connections: Vec<TcpStream> = (0..2 * KEPT).map(|_| connect(lab)).collect();
    wait_until("all descriptors are in use", || server.descriptors() == LIMIT);
    connections
}

fn descriptors_run_out(name: &str, io: &str) {
    let Some(lab) = Lab::new(name) else { return };
    let lines = format!(
        "{ALLOW_PEERS}io = \"{io}\"\nworkers = 1\nunauthenticated-rate = 0\nadmin = \"{ADMIN}\"\n\
         admin-token = [\"{TOKEN}\"]\n"
    );
    let server = Server::start_with_descriptors(&lab, LIMIT, &lines);
    let mut calls: Vec<Call> = (0..4).map(|_| Call::new(&lab, SERVER, false)).collect();
    let mut held = fill(&lab);
    let most = LIMIT - KEPT;
    assert!((most / 2..most).contains(&held.len()), "{} allocations", held.len());
    for _ in 0..REFUSED {
        assert_eq!(Talker::new(&lab.client, SERVER).try_allocate().code, Some(508));
    }
    it_is_told(&lab);
    calls_go_on(&mut calls);

    let connections = take_the_rest(&lab, &server);
    calls_go_on(&mut calls);
    assert_eq!(Talker::new(&lab.client, SERVER).try_allocate().code, Some(508));
    drop(connections);
    wait_until("the administration's are closed", || server.descriptors() < LIMIT);
    ask(&lab, "/readyz");

    // One that ends makes room for one, all of them for all.
    let count = held.len();
    assert_eq!(held.pop().expect("many").refresh(0).code, None);
    wait_until("there is room again", || {
        let mut talker = Talker::new(&lab.client, SERVER);
        let answer = talker.try_allocate();
        held.extend(answer.code.is_none().then_some(talker));
        answer.code.is_none()
    });
    for mut talker in held.drain(..) {
        assert_eq!(talker.refresh(0).code, None);
    }
    wait_until("all are closed", || server.descriptors() < LIMIT - KEPT - count + 8);
    assert_eq!(fill(&lab).len(), count);
    calls_go_on(&mut calls);

    let log = server.stop().0;
    let refused = |line: &&str| line.contains("reason=\"no-descriptor\"");
    let lines: Vec<&str> = log.lines().filter(refused).collect();
    // One a minute; the second one of a slow run.
    assert!((1..=2).contains(&lines.len()), "{lines:?}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("code=508") && lines[0].contains("user=\"alice\"")
    );
    assert!(log.contains("open files"), "the start warns: {log}");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn descriptors_run_out_on_io_uring_and_come_back() {
    descriptors_run_out("descriptors_run_out_on_io_uring_and_come_back", "io-uring");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn descriptors_run_out_on_epoll_and_come_back() {
    descriptors_run_out("descriptors_run_out_on_epoll_and_come_back", "epoll");
}
