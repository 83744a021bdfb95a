//! The administration of the running program, from outside: over loopback, with load.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use turnpike_proto::wire::attr;
use turnpike_testkit::certificate::Certificate;
use turnpike_testkit::http::TOKEN;
use turnpike_testkit::talker::{Answer, Talker};
use turnpike_testkit::{PASSWORD, PATIENCE, USER, becomes_true, eventually};

use super::relay::{Relay, request, turnpike};

/// The records of a log.
fn records(log: &str) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Load by the project's own generator; gives its report's totals.
fn load(server: SocketAddr, folder: &Path, arguments: &[&str]) -> Value {
    let report = folder.join("report.json");
    let (server, report_path) = (server.to_string(), report.display().to_string());
    let common = ["turnpike-loadtest", "loss", &server, "-u", USER, "-w", PASSWORD, "--json", &report_path];
    let all = common.iter().chain(arguments).map(Into::into).collect();
    turnpike_loadtest::cli::main(all);
    let text = std::fs::read_to_string(report).expect("a report");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    report["trials"][0]["total"].clone()
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// Packets and bytes to peers and to clients, both paths together.
type Sums = [u64; 4];

fn of_totals(totals: &Value) -> Sums {
    let sum = |direction: &str, what: &str| {
        number(&totals[direction]["userspace"][what]) + number(&totals[direction]["kernel"][what])
    };
    [
        sum("to_peer", "packets"),
        sum("to_peer", "bytes"),
        sum("to_client", "packets"),
        sum("to_client", "bytes"),
    ]
}

fn of_metrics(page: &str) -> Sums {
    let sum = |name: &str, direction: &str| {
        let samples = page.lines().filter(|line| line.starts_with(&format!("{name}_total{{")));
        let ours = samples.filter(|line| line.contains(&format!("direction=\"{direction}\"")));
        ours.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number") as u64)
            .sum()
    };
    let (packets, bytes) = ("turnpike_relayed_packets", "turnpike_relayed_bytes");
    [sum(packets, "to_peer"), sum(bytes, "to_peer"), sum(packets, "to_client"), sum(bytes, "to_client")]
}

/// The records of ended allocations, summed up; and the last record's own sums.
fn of_log(log: &[Value]) -> [Sums; 2] {
    let message = |record: &&Value, text: &str| record["message"] == text;
    let mut ended = [0; 4];
    for record in log.iter().filter(|record| message(record, "allocation ended")) {
        let fields = ["to_peer_packets", "to_peer_bytes", "to_client_packets", "to_client_bytes"];
        ended.iter_mut().zip(fields).for_each(|(sum, field)| *sum += number(&record[field]));
    }
    let last = log.iter().rfind(|record| message(record, "stopped")).expect("the last record");
    let both = |name: &str, unit: &str| {
        number(&last[&format!("{name}_{unit}")]) + number(&last[&format!("{name}_kernel_{unit}")])
    };
    let stopped = [
        both("to_peer", "packets"),
        both("to_peer", "bytes"),
        both("to_client", "packets"),
        both("to_client", "bytes"),
    ];
    [ended, stopped]
}

fn accounting_adds_up(io: &str) {
    let relay = Relay::start(&format!("io = \"{io}\"\n"));
    let mut expected = [0; 4];
    // Between two clients, a datagram is to a peer for the one, and to a client for the other.
    for mode in ["channel", "relay-to-relay"] {
        let arguments = ["-m", mode, "-c", "6", "-r", "60", "-l", "333", "-d", "1"];
        let load = load(relay.server(), relay.folder(), &arguments);
        let (sent, received) = (number(&load["sent"]), number(&load["received"]));
        assert_eq!((sent, number(&load["lost"])), (received, 0), "{mode}: {load}");
        let more = [sent, sent * 333, sent, sent * 333];
        expected.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    // Counters are exact soon after the last packet.
    let mut totals = Value::Null;
    let exact = becomes_true(|| {
        totals = relay.json("GET", "/v1/totals", None);
        of_totals(&totals["sum"]) == expected
    });
    assert!(exact, "the API, {io}: {totals}, expected {expected:?}");
    let (_, page) = relay.http("GET", "/metrics", None);
    assert_eq!(of_metrics(&page), expected, "Prometheus, {io}: {page}");
    assert_eq!(totals["sum"]["allocations_created"], totals["sum"]["allocations_ended"]["deleted"]);
    let [ended, stopped] = of_log(&records(&relay.stop()));
    assert_eq!(ended, expected, "the final records, {io}");
    assert_eq!(stopped, expected, "the last record, {io}");
}

#[test]
fn api_metrics_log_and_load_test_count_the_same_with_epoll() {
    accounting_adds_up("epoll");
}

#[test]
fn api_metrics_log_and_load_test_count_the_same_with_io_uring_where_it_works() {
    accounting_adds_up("auto");
}

/// The only allocation.
fn only_allocation(relay: &Relay) -> Value {
    let only = eventually(|| {
        match relay.json("GET", "/v1/allocations", None)["allocations"].as_array()?.as_slice() {
            [allocation] => Some(allocation.clone()),
            _ => None,
        }
    });
    only.expect("there is one")
}

/// Floods a client's channel for as long as `work` takes, 8 Mbit/s at the most; then the client leaves.
fn beside_a_flood<T>(server: SocketAddr, work: impl FnOnce() -> T) -> T {
    let socket = || UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let (mut talker, peer) = (Talker::on(socket(), server), socket());
    talker.allocate();
    assert_eq!(talker.bind(peer.local_addr().expect("it is bound")).code, None);
    let over = AtomicBool::new(false);
    let worked = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                talker.channel_data(&[0x55; 1000]);
                thread::sleep(Duration::from_millis(1));
            }
        });
        // Also if it panics.
        let worked = catch_unwind(AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        worked
    });
    // The allocation may be gone.
    talker.refresh(0);
    worked.unwrap_or_else(|panic| resume_unwind(panic))
}

#[test]
fn a_limit_holds_once_it_is_answered_and_a_disconnect_at_once() {
    const BITS: u64 = 400_000;
    let relay = Relay::start("");
    let id = beside_a_flood(relay.server(), || {
        let id = only_allocation(&relay)["id"].as_str().expect("an id").to_owned();
        let path = format!("/v1/allocations/{id}");
        let bytes = || {
            let detail = relay.json("GET", &path, None);
            number(&detail["to_peer"]["userspace"]["bytes"])
        };
        assert!(becomes_true(|| bytes() > 250_000), "as long as it is unlimited");
        relay.json("PATCH", &path, Some(&json!({ "max_bits_per_sec": BITS })));
        let (began, start) = (Instant::now(), bytes());
        let mut forwarded = 0;
        let flows = becomes_true(|| {
            forwarded = bytes() - start;
            began.elapsed() > Duration::from_secs(1) && forwarded > BITS / 8 / 2
        });
        assert!(flows, "{forwarded} bytes: it is limited, not cut off");
        let elapsed = began.elapsed();
        // The rate, and what its burst of 100 ms may have left.
        let allowed = BITS as f64 / 8.0 * (elapsed.as_secs_f64() * 1.03 + 0.1);
        assert!((forwarded as f64) < allowed, "{forwarded} bytes in {elapsed:?}, allowed {allowed}");
        let detail = relay.json("GET", &path, None);
        assert_eq!(detail["max_bits_per_sec"], BITS);
        assert!(number(&detail["drops"]["drop_rate_to_peer"]) > 0, "{detail}");
        assert_eq!(relay.http("DELETE", &path, None).0, 204);
        assert_eq!(relay.http("GET", &path, None).0, 404);
        id
    });
    let log = records(&relay.stop());
    let record = log.iter().find(|record| record["reason"] == "disconnected");
    let record = record.unwrap_or_else(|| panic!("{log:#?}"));
    assert_eq!(record["allocation"], id, "a record is found by the number that the API shows");
}

/// The next event of this name that `turnpike ctl events` shows.
fn event(events: &Receiver<String>, name: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = events.recv_timeout(left).unwrap_or_else(|_| panic!("no event {name}"));
        let event: Value = serde_json::from_str(&line).expect("an object per line");
        if event["event"] == name {
            return event;
        }
    }
}

/// Kills a process of ours when dropped.
struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_call_is_seen_as_events_from_its_creation_to_its_end() {
    let relay = Relay::start("");
    let mut follower = relay.ctl_command();
    let follower = follower.args(["ctl", "events"]).stdout(Stdio::piped());
    let mut follower = Ours(follower.spawn().expect("the program starts"));
    let events = lines_of(follower.0.stdout.take().expect("it is piped"));
    event(&events, "totals");
    let id = beside_a_flood(relay.server(), || {
        let created = event(&events, "created");
        let id = created["allocation"]["id"].as_str().expect("an id").to_owned();
        assert_eq!(created["allocation"]["user"], USER, "{created}");
        let limit = json!({ "max_bits_per_sec": 100_000 });
        relay.json("PATCH", &format!("/v1/allocations/{id}"), Some(&limit));
        let changed = event(&events, "limited");
        assert_eq!((&changed["id"], &changed["why"]), (&json!(id), &json!("changed")), "{changed}");
        let reached = event(&events, "limited");
        assert_eq!((&reached["id"], &reached["why"]), (&json!(id), &json!("reached")), "{reached}");
        assert!(number(&reached["rate_drops"]) > 0, "{reached}");
        id
    });
    let ended = event(&events, "ended");
    assert_eq!((&ended["allocation"]["id"], &ended["reason"]), (&json!(id), &json!("deleted")), "{ended}");
    assert!(number(&ended["allocation"]["to_peer"]["userspace"]["packets"]) > 0, "{ended}");
}

/// What an Allocate request of [`USER`] is answered, from a socket of its own.
fn allocate(server: SocketAddr) -> Answer {
    Talker::on(UdpSocket::bind("127.0.0.1:0").expect("a port is free"), server).try_allocate()
}

/// RFC 8656 s. 7.2: 300 (Try Alternate) with ALTERNATE-SERVER.
#[test]
fn a_draining_relay_sends_clients_elsewhere_and_is_not_ready() {
    let relay = Relay::start("alternate-server = [\"192.0.2.7:3478\"]\n");
    assert_eq!(relay.http("GET", "/readyz", None).0, 200);
    relay.json("POST", "/v1/drain", Some(&json!({})));
    assert_eq!(relay.http("GET", "/readyz", None).0, 503);
    let answer = allocate(relay.server());
    assert_eq!(answer.code, Some(300));
    // Family 1, then port and address as they are (RFC 8489 s. 14.15).
    assert_eq!(answer.attribute(attr::ALTERNATE_SERVER), [0, 1, 0x0d, 0x96, 192, 0, 2, 7]);
    relay.json("DELETE", "/v1/drain", None);
    assert_eq!(relay.http("GET", "/readyz", None).0, 200);
    assert_eq!(allocate(relay.server()).code, None);
}

#[test]
fn nothing_takes_back_the_signal_to_stop() {
    let relay = Relay::start("drain-timeout = 3600\n");
    assert_eq!(allocate(relay.server()).code, None);
    relay.signal(Signal::TERM);
    relay.wait_for_log("draining");
    let (status, problem) = relay.http("DELETE", "/v1/drain", None);
    assert!(status == 409 && problem.contains("was told to stop"), "{status} {problem}");
    let longer = relay.json("POST", "/v1/drain", Some(&json!({"deadline_secs": 500_000})));
    let kept = longer["deadline_unix_secs"].as_u64().expect("a deadline");
    let shorter = relay.json("POST", "/v1/drain", Some(&json!({"deadline_secs": 60})));
    assert!(shorter["deadline_unix_secs"].as_u64().expect("a deadline") < kept, "{shorter}");
    assert!(kept < longer["since_unix_secs"].as_u64().expect("a start") + 3_700, "{longer}");
    assert_eq!(relay.http("GET", "/readyz", None).0, 503);
    assert_eq!(relay.http("POST", "/v1/reload", None).0, 409);
    relay.signal(Signal::HUP);
    let record = relay.wait_for_log("not reloaded");
    assert!(record.contains("was told to stop"), "{record}");
    // The second one ends it, and the call.
    let records = records(&relay.stop());
    assert!(records.iter().any(|record| record["message"] == "allocation ended"), "{records:?}");
}

#[test]
fn a_fifo_among_the_secrets_is_refused_by_a_reload_that_changes_nothing() {
    let relay = Relay::start("");
    let fifo = relay.folder().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("coreutils").success());
    let file = relay.file();
    let text = std::fs::read_to_string(&file).expect("it is ours");
    std::fs::write(&file, format!("{text}auth-secret-file = [{:?}]\n", fifo.display().to_string()))
        .expect("written");
    relay.signal(Signal::HUP);
    let record = relay.wait_for_log("not reloaded");
    assert!(record.contains("it is a FIFO") && record.contains("auth-secret-file"), "{record}");
    let (status, problem) = relay.http("POST", "/v1/reload", None);
    assert!(status == 409 && problem.contains("it is a FIFO"), "{status} {problem}");
    assert_eq!(relay.http("GET", "/readyz", None).0, 200);
    drop(relay.stop());
}

#[test]
fn the_health_command_tells_a_relay_that_answers_from_one_that_is_gone() {
    let relay = Relay::start("");
    let ask = |server: &str| turnpike().args(["health", "--server", server]).output().expect("it starts");
    let server = relay.server().to_string();
    let answered = ask(&server);
    assert_eq!(answered.status.code(), Some(0), "{answered:?}");
    assert!(String::from_utf8_lossy(&answered.stdout).contains("answered in"), "{answered:?}");
    drop(relay.stop());
    let gone = ask(&server);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(String::from_utf8_lossy(&gone.stderr).contains(&server), "{gone:?}");
}

#[test]
fn a_load_test_whose_set_up_fails_leaves_no_allocation_in_the_relay() {
    let relay = Relay::start("");
    let server = relay.server().to_string();
    // A private peer: refused, while most Allocates are still under way.
    let load = ["turnpike-loadtest", "loss", &server, "-u", USER, "-w", PASSWORD, "-c", "300", "--peer"];
    turnpike_loadtest::cli::main(load.iter().chain(&["10.9.8.7:9"]).map(Into::into).collect());
    let page = relay.json("GET", "/v1/allocations", None);
    assert_eq!(page["allocations"].as_array().map(Vec::len), Some(0), "{page}");
    let ended = records(&relay.stop()).iter().filter(|record| record["user"] == USER).count();
    assert!(ended > 0, "there were some");
}

#[test]
fn users_of_the_database_are_in_force_at_once_and_outlive_a_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("users.sqlite");
    let relay = Relay::start(&format!("user-database = {:?}\n", database.display().to_string()));
    let allocate = |user: &str, password: &str| {
        let server = relay.server().to_string();
        let report = folder.path().join("allocate.json").display().to_string();
        let arguments = [
            "turnpike-loadtest",
            "loss",
            &server,
            "-u",
            user,
            "-w",
            password,
            "-c",
            "1",
            "-d",
            "0.2",
            "--json",
            &report,
        ];
        let _ = std::fs::remove_file(&report);
        turnpike_loadtest::cli::main(arguments.iter().map(Into::into).collect());
        let text = std::fs::read_to_string(&report).unwrap_or_default();
        let report: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        report["trials"][0]["total"]["received"].as_u64().unwrap_or(0) > 0
    };
    let body = json!({ "password": "rabbit-hole", "quota": 5 });
    assert_eq!(relay.http("PUT", "/v1/users/bob", Some(&body)).0, 201);
    assert!(allocate("bob", "rabbit-hole"));
    relay.json("POST", "/v1/reload", None);
    assert!(allocate("bob", "rabbit-hole"), "a reload keeps the users of the database");
    assert_eq!(relay.http("PUT", &format!("/v1/users/{USER}"), Some(&body)).0, 409, "the configuration wins");
    assert_eq!(relay.http("DELETE", "/v1/users/bob", None).0, 204);
    assert!(!allocate("bob", "rabbit-hole"));
    let stored = std::fs::read(&database).expect("a database");
    assert!(!stored.windows(11).any(|part| part == b"rabbit-hole"), "keys, never passwords");
    drop(relay.stop());
}

#[test]
fn ctl_shows_and_changes_what_the_api_does() {
    let relay = Relay::start("auth-secret = [\"0123456789abcdef0123456789abcdef\"]\n");
    let ctl = |arguments: &[&str]| relay.ctl(arguments);
    let (code, status, _) = ctl(&["status"]);
    assert_eq!(code, Some(0));
    assert!(status.contains("allocations  0") && status.contains("draining     no"), "{status}");
    assert_eq!(ctl(&["drain", "--deadline", "1h"]).0, Some(0));
    assert_eq!(relay.http("GET", "/readyz", None).0, 503);
    let (_, drain, _) = ctl(&["status", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&drain).expect("JSON")["drain"]["draining"], true);
    assert_eq!(ctl(&["undrain"]).0, Some(0));
    assert_eq!(relay.http("GET", "/readyz", None).0, 200);
    let (_, credentials, _) = ctl(&["credentials", "carol", "--ttl", "1m"]);
    assert!(credentials.contains(":carol") && credentials.contains("turn:127.0.0.1:"), "{credentials}");
    let (code, stdout, stderr) = ctl(&["disconnect", "0000000000000001"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("there is no allocation (404"), "{stderr}");
    assert_eq!(ctl(&["limit", "0000000000000001", "2"]).0, Some(2), "a forgotten unit is a usage error");
    let (code, _, stderr) = relay.ctl(&["--url", "http://127.0.0.1:1", "status"]);
    assert!(code == Some(1) && stderr.contains("was not reached"), "{stderr}");
    let (_, config, _) = ctl(&["config"]);
    assert!(
        config.contains("admin-token") && !config.contains(TOKEN) && !config.contains(PASSWORD),
        "{config}"
    );
    let log = relay.stop();
    assert!(!log.contains(TOKEN), "the token is in no log");
}

#[test]
fn ctl_asks_over_https_those_whom_the_named_certificates_vouch_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let [[cert, key], [other, _]] =
        ["own", "other"].map(|name| Certificate::new(&["127.0.0.1"]).write(folder.path(), name));
    let relay = Relay::start_in(folder, &format!("admin-tls-cert = {cert:?}\nadmin-tls-key = {key:?}\n"));
    let url = format!("https://{}", relay.admin());
    let ctl = |ca: &str| relay.ctl(&["--url", &url, "--ca", ca, "status"]);
    let (code, status, stderr) = ctl(&cert);
    assert!(code == Some(0) && status.contains("allocations  0"), "{stderr}");
    let (code, _, stderr) = ctl(&other);
    assert!(code == Some(1) && stderr.contains("certificate"), "{stderr}");
    let (code, _, stderr) = ctl(&key);
    assert!(code == Some(2) && stderr.contains("there is no certificate in it"), "{stderr}");
}

/// Answers requests one after another with the same text; gives what was asked.
fn answering(answer: String) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, asked) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let head =
                BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let _ = sender.send(head.collect::<Vec<_>>().join("\n"));
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, asked)
}

#[test]
fn ctl_gives_its_token_to_no_proxy_and_to_nobody_whom_an_answer_names() {
    let (other, asked_other) = answering("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned());
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{other}/v1/status\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let (named, asked_named) = answering(redirect);
    let output = turnpike()
        .env("TURNPIKE_ADMIN_TOKEN", TOKEN)
        .envs(["http_proxy", "HTTP_PROXY", "ALL_PROXY"].map(|name| (name, format!("http://{other}"))))
        .args(["ctl", "--url", &format!("http://{named}"), "status"])
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("none of a relay's administration: 307"), "{stderr}");
    assert!(asked_named.recv_timeout(PATIENCE).expect("it was asked").contains(TOKEN));
    assert_eq!(asked_other.try_iter().collect::<Vec<_>>(), [""; 0]);
}

/// Whether what is typed on the terminal that this file names is not shown.
fn shows_nothing_typed(name: &Path) -> bool {
    let Ok(terminal) = std::fs::read_to_string(name) else { return false };
    let settings = Command::new("stty").args(["-a", "-F", terminal.trim()]).output().expect("coreutils");
    String::from_utf8_lossy(&settings.stdout).split_whitespace().any(|setting| setting == "-echo")
}

/// `turnpike ctl` on a terminal, where somebody answers each question: exit code, and all that the terminal
/// shows.
fn ctl_on_a_terminal(relay: &Relay, arguments: &str, dialogue: &[(&str, &str)]) -> (Option<i32>, String) {
    let program = turnpike().get_program().to_str().expect("UTF-8").to_owned();
    let name = relay.folder().join("terminal");
    let command = format!("tty > {}; exec {program} ctl {arguments}", name.display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TURNPIKE_ADMIN_TOKEN", TOKEN)
        .env("TURNPIKE_ADMIN_URL", format!("http://{}", relay.admin()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (util-linux) is there");
    let mut keyboard = child.stdin.take().expect("it is piped");
    let (mut screen, mut shown) = (child.stdout.take().expect("it is piped"), Vec::new());
    for (question, answer) in dialogue {
        let is_asked = |shown: &[u8]| String::from_utf8_lossy(shown).contains(question);
        let mut byte = [0];
        while !is_asked(&shown) && screen.read(&mut byte).expect("a screen") == 1 {
            shown.extend(byte);
        }
        // Nobody types before the echo is off, a moment after the question.
        assert!(becomes_true(|| shows_nothing_typed(&name)), "the password would be shown");
        writeln!(keyboard, "{answer}").expect("typed");
    }
    screen.read_to_end(&mut shown).expect("a screen");
    drop(keyboard);
    (child.wait().expect("it ends").code(), String::from_utf8(shown).expect("UTF-8"))
}

#[test]
fn users_set_asks_for_the_password_on_a_terminal_and_never_shows_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("users.sqlite").display().to_string();
    let relay = Relay::start(&format!("user-database = {database:?}\n"));
    let dialogue = |name, one, other| [(name, one), ("Once more: ", other)];
    let twice = dialogue("New password of bob: ", "rabbit-hole", "rabbit-hole");
    let (code, screen) = ctl_on_a_terminal(&relay, "users set bob", &twice);
    assert!(code == Some(0) && screen.contains("kept in  database"), "{screen}");
    assert!(!screen.contains("rabbit"), "{screen}");
    let (code, screen) = ctl_on_a_terminal(&relay, "users set bob --quota 5", &[]);
    assert!(code == Some(0) && !screen.contains("assword") && screen.contains("quota    5"), "{screen}");
    let different = dialogue("New password of carol: ", "rabbit", "hole");
    let (code, screen) = ctl_on_a_terminal(&relay, "users set carol", &different);
    assert!(code == Some(1) && screen.contains("two different passwords"), "{screen}");
    assert_eq!(relay.http("GET", "/v1/users/carol", None).0, 404, "nothing was changed");
    drop(relay.stop());
}

#[test]
fn ctl_has_tables_for_people_and_fails_where_nothing_was_done() {
    let relay = Relay::start("");
    let ctl = |arguments: &[&str]| relay.ctl(arguments);
    let (code, stdout, stderr) = ctl(&["disconnect-user", "nobody"]);
    assert_eq!((code, stdout.as_str()), (Some(1), "0 allocations ended\n"));
    assert!(stderr.contains("there is no allocation of a user of that name"), "{stderr}");
    let (code, stdout, _) = ctl(&["disconnect-user", "nobody", "--json"]);
    assert_eq!((code, stdout.as_str()), (Some(1), "{\n  \"allocations\": 0\n}\n"));
    assert_eq!(allocate(relay.server()).code, None);
    let page = relay.json("GET", "/v1/allocations", None);
    let id = page["allocations"][0]["id"].as_str().expect("one").to_owned();
    let (_, allocation, _) = ctl(&["allocation", &id]);
    for line in
        ["created    20", " ago)\n", "expires    20", "Z (in ", "limit      none\n", "path       userspace"]
    {
        assert!(allocation.contains(line), "{line}: {allocation}");
    }
    let (_, limited, _) = ctl(&["limit", &id, "2M"]);
    assert_eq!(limited, format!("id     {id}\nuser   {USER}\nlimit  2.0M bit/s in each direction\n"));
    let (_, drain, _) = ctl(&["drain", "--deadline", "1h"]);
    assert!(
        drain.contains("draining      yes\n") && drain.contains("new ones are  refused (508)\n"),
        "{drain}"
    );
    assert_eq!(ctl(&["undrain"]).1, "draining     no\nallocations  1\n");
    assert!(ctl(&["reload"]).1.starts_with("applied  -\nwarning  "));
    let (code, stdout, _) = ctl(&["disconnect-user", USER]);
    assert_eq!((code, stdout.as_str()), (Some(0), "1 allocation ended\n"));
    drop(relay.stop());
}

/// Calls of the API that dashboards and scrapers make, one after another, at 25 a second; how long each took,
/// and which it was.
fn call_for(relay: (SocketAddr, String), time: Duration) -> Vec<(Duration, usize)> {
    let (admin, id) = relay;
    let paths = [
        "/v1/allocations?sort=rate&limit=100".to_owned(),
        "/v1/totals".to_owned(),
        "/metrics".to_owned(),
        format!("/v1/allocations/{id}"),
    ];
    let (began, mut took) = (Instant::now(), Vec::new());
    for (number, path) in paths.iter().cycle().enumerate() {
        let due = Duration::from_millis(40) * number as u32;
        if due > time {
            break;
        }
        thread::sleep(due.saturating_sub(began.elapsed()));
        let call = Instant::now();
        let (status, body) = request(admin, "GET", path, None);
        assert_eq!(status, 200, "{path}: {body}");
        took.push((call.elapsed(), number % paths.len()));
    }
    took
}

/// How long the calls took at most, but for the rest of this share.
fn share(took: &[(Duration, usize)], share: f64) -> Duration {
    took[((took.len() - 1) as f64 * share) as usize].0
}

#[test]
#[ignore = "takes a minute and a quiet machine: cargo test --release -p turnpike --test program -- --ignored --nocapture"]
fn a_hundred_calls_a_second_beside_ten_thousand_allocations_cost_no_packet() {
    const CLIENTS: usize = 10_000;
    let relay = Relay::start("");
    thread::scope(|scope| {
        let (server, folder) = (relay.server(), relay.folder());
        let clients = CLIENTS.to_string();
        let load =
            scope.spawn(move || load(server, folder, &["-c", &clients, "-r", "1", "-l", "160", "-d", "20"]));
        let deadline = Instant::now() + Duration::from_secs(120);
        while number(&relay.json("GET", "/v1/status", None)["allocations"]) < CLIENTS as u64 {
            assert!(Instant::now() < deadline, "the allocations are not there");
            thread::sleep(Duration::from_millis(100));
        }
        let page = relay.json("GET", "/v1/allocations?limit=1", None);
        let id = page["allocations"][0]["id"].as_str().expect("an id").to_owned();
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (admin, id) = (relay.admin(), id.clone());
                scope.spawn(move || call_for((admin, id), Duration::from_secs(15)))
            })
            .collect();
        let mut took: Vec<_> =
            callers.into_iter().flat_map(|caller| caller.join().expect("it ends")).collect();
        took.sort_unstable();
        let at = |part: f64| share(&took, part);
        let load = load.join().expect("it ends");
        for (index, what) in ["list", "totals", "metrics", "detail"].iter().enumerate() {
            let own: Vec<_> = took.iter().copied().filter(|(_, path)| *path == index).collect();
            println!(
                "{what}: p50 {:?}, p99 {:?}, max {:?}",
                share(&own, 0.5),
                share(&own, 0.99),
                share(&own, 1.0)
            );
        }
        println!(
            "{} calls: p50 {:?}, p99 {:?}, max {:?}; {} packets sent, {} lost",
            took.len(),
            at(0.5),
            at(0.99),
            at(1.0),
            load["sent"],
            load["lost"]
        );
        assert!(at(0.99) < Duration::from_millis(50), "p99 is {:?}", at(0.99));
        assert_eq!(number(&load["lost"]), 0, "{load}");
    });
}
