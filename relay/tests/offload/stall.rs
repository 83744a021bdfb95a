//! The thread that keeps the kernel's routes stands still: nobody else does, and it is said.

use std::io::Read as _;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use turnpike_testkit::{PATIENCE, becomes_true, eventually};

use super::call::Call;
use super::http::{TOKEN, exchange};
use super::lab::{Lab, PEER_V4};
use super::server::{SERVER, Server, lab};
use super::talker::{Talker, peer_socket};

const ADMIN: &str = "127.0.0.1:9980";

/// Stops a thread as a debugger does (PTRACE_SEIZE, PTRACE_INTERRUPT), lets it go on when stdin ends (PTRACE_DETACH).
const HOLD: &str = "
import ctypes, os, sys
thread = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long
for request in (0x4206, 0x4207):
    if libc.ptrace(request, thread, 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(thread, 0x40000000)
print('held', flush=True)
sys.stdin.read()
libc.ptrace(17, thread, 0, 0)
";

/// A thread of another process that does not run until this is dropped.
struct Held(Child);

impl Held {
    fn new(process: u32, name: &str) -> Held {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
        let is_named = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|found| found.trim() == name)
        };
        let task = tasks.flatten().map(|task| task.path()).find(is_named).expect("there is such a thread");
        let id = task.file_name().expect("its number");
        let mut python = Command::new("python3");
        python.args(["-c", HOLD]).arg(id).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("Python is there");
        let mut said = [0; 4];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("the thread can be held");
        Held(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn ask(lab: &Lab, path: &str) -> (u16, String) {
    let stream = lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    exchange(stream, "GET", path, "")
}

fn heartbeat_age(lab: &Lab) -> u64 {
    let (_, status) = ask(lab, "/v1/status");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["offload"]["heartbeat_age_secs"].as_u64().expect("there is a mirror")
}

/// A whole call, with a channel, that ends by its client's own wish.
fn call_and_hang_up(lab: &Lab) {
    let mut talker = Talker::new(&lab.client, SERVER);
    // RFC 8656 s. 7.2: 508 while no port is free.
    let allocated = eventually(|| (talker.try_allocate().code != Some(508)).then_some(()));
    assert!(allocated.is_some(), "a port becomes free");
    let peer = peer_socket(&lab.peer, PEER_V4).local_addr().expect("it is bound");
    assert_eq!(talker.bind(peer).code, None);
    assert_eq!(talker.refresh(0).code, None);
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_mirror_that_stands_still_takes_no_ports_and_is_said() {
    let Some(lab) = lab("a_mirror_that_stands_still_takes_no_ports_and_is_said") else { return };
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let file = folder.path().join("turnpike.toml");
    std::fs::write(&file, format!("admin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n")).expect("writable");
    let config = format!("--config={}", file.display());
    let server = Server::start(&lab, &["--port-range=50000-50003", &config]);
    call_and_hang_up(&lab);
    assert_eq!(ask(&lab, "/readyz").0, 200);

    let held = Held::new(server.id(), "offload");
    // Three times as many as there are ports.
    (0..12).for_each(|_| call_and_hang_up(&lab));
    assert!(becomes_true(|| ask(&lab, "/readyz").0 == 503));
    assert!(ask(&lab, "/readyz").1.contains("the kernel data path's thread stands still"));
    assert!(heartbeat_age(&lab) > 0);
    assert!(ask(&lab, "/metrics").1.contains("turnpike_offload_heartbeat_age_seconds "));
    server.wait_for_log("the kernel data path's thread stands still");
    // Who calls now is relayed in userspace.
    let call = Call::new(&lab, SERVER, false);
    call.assert_carries(b"all the same");

    drop(held);
    server.wait_for_log("the kernel data path's thread turns again");
    assert!(becomes_true(|| ask(&lab, "/readyz").0 == 200));
    server.wait_for_routes(2);
    call.assert_carries(b"in the kernel");
    let frames = server.stop();
    frames.assert_forwarded(1, 1);
    let records = frames.log.lines().filter(|line| line.contains("allocation ended")).count();
    assert_eq!(records, 14, "one for each call");
}
