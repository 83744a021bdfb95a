//! Everything that may stand still does, at once: nobody reads stdout, stderr and the events, the users'
//! database is locked and then its disk is full, and the secrets are to be read from a FIFO. Calls don't
//! notice, and the program ends when it is told to.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use turnpike_testkit::call::Call;
use turnpike_testkit::http::{TOKEN, exchange};
use turnpike_testkit::server::without_options;
use turnpike_testkit::{PATIENCE, becomes_true, eventually, full_pipe, skip};

use super::lab::{self, Lab, RELAYED_V4};
use super::process::{Process, find};
use super::server::{ALLOW_PEERS, PASSWORD, REALM, SERVER, USER, binary, secs_of};
use super::talker::Talker;

const CALLS: usize = 20;
/// Between two datagrams of a call in one direction.
const PACE: Duration = Duration::from_millis(40);
/// How long the calls last; `TURNPIKE_STANDSTILL_SECS` says otherwise.
const USUAL_SECS: u64 = 10;
const ADMIN: &str = "127.0.0.1:9980";

/// A small disk of its own, taken away with the test.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Disk {
        std::fs::create_dir(&at).expect("the folder is ours");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "none"]).arg(&at).status();
        assert!(mounted.expect("mount is there").success());
        Disk(at)
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("ballast")).expect("room for a name");
        for portion in [4096, 1] {
            while file.write_all(&vec![0; portion]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The program, of which nobody hears.
struct Silent<'a> {
    process: Process,
    lab: &'a Lab,
    _unread: std::io::PipeReader,
    disk: Disk,
    folder: TempDir,
}

impl Silent<'_> {
    fn start<'a>(lab: &'a Lab, lines: &str) -> Silent<'a> {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let disk = Disk::mount(folder.path().join("disk"));
        let config = folder.path().join("turnpike.toml");
        let text = format!(
            "listen = [\"{SERVER}\"]\nrelay-address = [\"{RELAYED_V4}\"]\nrealm = \"{REALM}\"\n\
             user = [\"{USER}:{PASSWORD}\"]\nadmin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n\
             user-database = {:?}\nlog-level = \"debug\"\nunauthenticated-rate = 0\n\
             max-queue-delay = 10000\n{ALLOW_PEERS}{lines}",
            disk.0.join("users.db").display().to_string(),
        );
        std::fs::write(&config, text).expect("the folder is ours");
        let (stdout, unread) = full_pipe();
        let stderr = stdout.try_clone().expect("descriptors are left");
        let mut command = without_options(lab.relay.command(&binary()));
        command.arg("run").arg("--config").arg(&config);
        command.stdout(stdout).stderr(stderr);
        let silent = Silent { process: Process::with_outputs(command), lab, _unread: unread, disk, folder };
        assert!(becomes_true(|| silent.is_ready()), "it did not become ready");
        silent
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        self.lab.relay.enter(|| TcpStream::connect(ADMIN))
    }

    fn is_ready(&self) -> bool {
        self.connect().is_ok_and(|stream| exchange(stream, "GET", "/readyz", "").0 == 200)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let stream = self.connect().expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        exchange(stream, method, path, body)
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.ask("GET", path, "").1).expect("JSON")
    }

    fn lost_records(&self) -> u64 {
        self.json("/v1/status")["log_records_dropped"].as_u64().expect("a number")
    }

    /// A reader of events that reads none.
    fn watch_without_reading(&self) -> TcpStream {
        let mut stream = self.connect().expect("it listens");
        let request =
            format!("GET /v1/events HTTP/1.1\r\nHost: {ADMIN}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        stream
    }

    /// Secrets are to come from a FIFO from now on.
    fn configure_a_fifo(&self) {
        let fifo = self.folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("coreutils").success());
        let file = OpenOptions::new().append(true).open(self.folder.path().join("turnpike.toml"));
        writeln!(file.expect("it is ours"), "auth-secret-file = [{:?}]", fifo.display().to_string())
            .expect("written");
    }

    fn write_user(&self, name: &str) -> u16 {
        self.ask("PUT", &format!("/v1/users/{name}"), "{\"password\": \"a long pass phrase\"}").0
    }

    /// SIGTERM; gives how long it took.
    fn stop(self) -> Duration {
        let start = Instant::now();
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.wait(PATIENCE).code, Some(0));
        start.elapsed()
    }
}

/// A client with a channel to a peer, none of which waits for anything.
pub fn call(lab: &Lab, server: SocketAddr, peer_v6: bool) -> Call {
    let call = Call::new(lab, server, peer_v6);
    call.talker.socket.set_nonblocking(true).expect("sockets can");
    call.peer.set_nonblocking(true).expect("sockets can");
    call
}

/// A datagram in each direction.
fn say(call: &Call) {
    call.talker.channel_data(b"to the peer");
    call.peer.send_to(b"to the client", call.relayed).expect("there is a route");
}

/// Datagrams that have arrived at the peer and at the client.
fn hear(call: &Call) -> u64 {
    let mut buffer = [0; 256];
    let mut count = 0;
    while call.peer.recv(&mut buffer).is_ok() || call.talker.socket.recv(&mut buffer).is_ok() {
        count += 1;
    }
    count
}

/// Talks on all calls until it is told that it is `over`; gives what was sent and what was heard.
pub fn talk(calls: &[Call], over: &AtomicBool) -> (u64, u64) {
    let (mut sent, mut heard) = (0, 0);
    let start = Instant::now();
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        calls.iter().for_each(say);
        sent += 2 * calls.len() as u64;
        round += 1;
        std::thread::sleep((PACE * round).saturating_sub(start.elapsed()));
        heard += calls.iter().map(hear).sum::<u64>();
    }
    let end = Instant::now();
    while heard < sent && end.elapsed() < PATIENCE {
        heard += calls.iter().map(hear).sum::<u64>();
        std::thread::sleep(Duration::from_millis(10));
    }
    (sent, heard)
}

/// Ends allocations until the queue of the log is full, too: one record each.
fn fill_the_log(silent: &Silent<'_>, lab: &Lab) {
    let start = Instant::now();
    while silent.lost_records() == 0 {
        assert!(start.elapsed() < 6 * PATIENCE, "no record is lost");
        let mut talker = Talker::new(&lab.client, SERVER);
        for _ in 0..200 {
            talker.allocate();
            assert_eq!(talker.refresh(0).code, None);
        }
    }
}

/// Reloads, new allocations and users while everything stands still.
fn work(silent: &Silent<'_>, lab: &Lab, time: Duration) {
    let database = rusqlite::Connection::open(silent.disk.0.join("users.db")).expect("another process");
    database.execute_batch("BEGIN EXCLUSIVE").expect("nobody writes");
    let (start, mut codes) = (Instant::now(), Vec::new());
    while start.elapsed() < time / 2 {
        go_on(silent, lab);
        codes.push(silent.write_user("carol"));
    }
    assert!(codes.iter().all(|code| *code == 503), "locked: {codes:?}");
    drop(database);
    silent.disk.fill();
    codes.clear();
    while start.elapsed() < time || codes.is_empty() {
        go_on(silent, lab);
        // The log of the database may have some room left.
        codes.extend((0..20).map(|number| silent.write_user(&format!("carol{number}"))));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(codes.iter().all(|code| matches!(code, 200 | 201 | 507)), "full: {codes:?}");
    assert!(codes.contains(&507), "full: {codes:?}");
}

fn go_on(silent: &Silent<'_>, lab: &Lab) {
    silent.process.signal(Signal::HUP);
    let mut talker = Talker::new(&lab.client, SERVER);
    talker.allocate();
    assert_eq!(talker.refresh(0).code, None);
    assert!(becomes_true(|| silent.ask("GET", "/healthz", "").0 == 200));
}

fn everything_at_once(lab: &Lab, lines: &str, path: &str) {
    let time = Duration::from_secs(secs_of("TURNPIKE_STANDSTILL_SECS").unwrap_or(USUAL_SECS));
    let silent = Silent::start(lab, lines);
    assert_eq!(silent.write_user("bob"), 201, "the database works");
    let unread = silent.watch_without_reading();
    fill_the_log(&silent, lab);
    silent.configure_a_fifo();
    let calls: Vec<Call> = (0..CALLS).map(|_| call(lab, SERVER, false)).collect();
    let over = AtomicBool::new(false);
    let (sent, heard) = std::thread::scope(|scope| {
        let talking = scope.spawn(|| talk(&calls, &over));
        // Also if it panics.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&silent, lab, time)));
        over.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        talking.join().expect("no panic")
    });
    let lost_records = silent.lost_records();
    // What the kernel has forwarded is counted by a walk each second.
    let on_the_path = eventually(|| {
        let packets = silent.json("/v1/totals")["sum"]["to_peer"][path]["packets"].as_u64();
        packets.filter(|packets| *packets > sent / 4)
    });
    let ended = silent.stop();
    println!(
        "{path}: {sent} datagrams in {time:?}, {} lost; {lost_records} records lost; ended {ended:?} after SIGTERM",
        sent - heard
    );
    assert_eq!(heard, sent);
    assert!(on_the_path.is_some(), "hardly any on the path in question");
    drop(unread);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn everything_stands_still_and_calls_in_userspace_lose_nothing() {
    let name = "everything_stands_still_and_calls_in_userspace_lose_nothing";
    let Some(lab) = Lab::new(name) else { return };
    everything_at_once(&lab, "offload = \"off\"\n", "userspace");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn everything_stands_still_and_calls_in_the_kernel_lose_nothing() {
    let name = "everything_stands_still_and_calls_in_the_kernel_lose_nothing";
    let Some(lab) = Lab::new(name) else { return };
    let Some(ethtool) = find("ethtool") else {
        return skip(name, "ethtool is not installed");
    };
    for namespace in [&lab.client, &lab.peer] {
        checksums_by_the_sender(namespace, &ethtool);
    }
    let lines =
        "offload = \"require\"\noffload-mode = \"generic\"\noffload-interface = [\"client0\", \"peer0\"]\n";
    everything_at_once(&lab, lines, "kernel");
}

/// As on a wire: the frames that the program sees have their checksums.
pub fn checksums_by_the_sender(namespace: &lab::Namespace, ethtool: &Path) {
    let status =
        namespace.command(ethtool).args(["-K", "relay0", "tx", "off"]).stdout(Stdio::null()).status();
    assert!(status.expect("it starts").success());
}
