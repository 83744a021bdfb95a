//! A restart that nobody notices: a second process goes on with the clients, the sockets and the counters of the first.

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{AddressFamily, SocketType, socket};
use tempfile::TempDir;
use turnpike::takeover::{Channel, Folder, Message};
use turnpike_proto::migrate::FORMAT;
use turnpike_testkit::process::Process;
use turnpike_testkit::server::{Configured, Server};
use turnpike_testkit::stream::StreamClient;
use turnpike_testkit::talker::Talker;
use turnpike_testkit::{PASSWORD, PATIENCE, USER, becomes_true, eventually, skip};

use super::relay::{Relay, turnpike};

/// What has waited during a restart comes at once: so few that the tests' own sockets have room for them, also where a
/// busy machine makes the restart a long one.
const BETWEEN: Duration = Duration::from_millis(5);

fn lines(state: &Path, io: &str) -> String {
    format!("offload = \"off\"\nstate-directory = {state:?}\ntakeover = true\nio = \"{io}\"\n")
}

fn start(state: &Path, io: &str) -> Relay {
    Relay::start(&lines(state, io))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A client with an allocation and a channel to a peer, and both their sockets.
struct Call {
    client: Talker,
    peer: UdpSocket,
    relayed: SocketAddr,
}

impl Call {
    fn begin(relay: &Relay) -> Call {
        let own = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let mut client = Talker::on(own, relay.server());
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        for socket in [&client.socket, &peer] {
            socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20).expect("as much as there may be");
        }
        let relayed = client.allocate();
        client.bind(peer.local_addr().expect("bound")).expect_success();
        Call { client, peer, relayed }
    }

    /// Something goes each way.
    #[track_caller]
    fn works(&self) {
        self.client.channel_data(b"up");
        let mut buffer = [0; 64];
        let (len, from) = self.peer.recv_from(&mut buffer).expect("it arrives");
        assert_eq!((&buffer[..len], from), (&b"up"[..], self.relayed));
        self.peer.send_to(b"down", self.relayed).expect("sent");
        assert!(self.client.hear().is_some_and(|heard| heard.ends_with(b"down")));
    }
}

/// Numbers, one after the other, until it is told to stop; gives how many there were.
fn numbers(stop: &Arc<AtomicBool>, send: impl Fn(u32) + Send + 'static) -> JoinHandle<u32> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return number;
            }
            send(number);
            thread::sleep(BETWEEN);
        }
        0
    })
}

/// What arrives, as it comes.
fn collect(socket: UdpSocket, header: usize) -> Arc<Mutex<Vec<u32>>> {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let numbers = Arc::clone(&collected);
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, _)) = socket.recv_from(&mut buffer) {
            let number = buffer[header..len].try_into().map(u32::from_be_bytes).expect("a number");
            numbers.lock().expect("no panic").push(number);
        }
    });
    collected
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs").count()
}

fn restarts(drivers: &[&str], times: usize) {
    let state = folder();
    let mut relay = start(state.path(), drivers[0]);
    let server = relay.server();
    let Call { client, peer, relayed } = Call::begin(&relay);
    let stop = Arc::new(AtomicBool::new(false));
    let (up, down) = (client.socket.try_clone().expect("a copy"), peer.try_clone().expect("a copy"));
    let [at_peer, at_client] = [collect(peer, 0), collect(client.socket.try_clone().expect("a copy"), 4)];
    let sent_up = numbers(&stop, move |number| {
        let data = [&[0x40, 0, 0, 4][..], &number.to_be_bytes()].concat();
        up.send_to(&data, server).expect("sent");
    });
    let sent_down = numbers(&stop, move |number| {
        down.send_to(&number.to_be_bytes(), relayed).expect("sent");
    });
    let mut open = Vec::new();
    for restart in 1..=times {
        let next = start(state.path(), drivers[restart % drivers.len()]);
        assert_eq!(next.server(), server, "the same listener");
        let old = std::mem::replace(&mut relay, next).into_process().wait(PATIENCE);
        assert_eq!(old.code, Some(0), "{}", old.output);
        assert!(old.output.contains("taken over by another process"), "{}", old.output);
        open.push(descriptors(&relay));
    }
    stop.store(true, Ordering::Relaxed);
    let sent = [sent_up, sent_down].map(|sender| sender.join().expect("no panic"));
    for (arrived, sent) in [&at_peer, &at_client].into_iter().zip(sent) {
        let arrived = || arrived.lock().expect("no panic").clone();
        becomes_true(|| arrived().len() == sent as usize);
        let arrived = arrived();
        let missing: Vec<u32> = (0..sent).filter(|number| !arrived.contains(number)).collect();
        assert!(missing.is_empty(), "of {sent} these are missing: {missing:?}");
        assert!(arrived.is_sorted(), "{arrived:?}");
    }
    // Descriptors differ by driver, not by restart.
    let same = open.len() - drivers.len();
    assert!(open.iter().zip(&open[drivers.len()..]).take(same).all(|(a, b)| a.abs_diff(*b) <= 2), "{open:?}");
    let allocations = relay.json("GET", "/v1/allocations", None);
    let allocation = &allocations["allocations"][0];
    assert_eq!(allocation["to_peer"]["userspace"]["packets"], sent[0], "{allocations}");
    assert_eq!(allocation["to_client"]["userspace"]["packets"], sent[1], "{allocations}");
    client.patient_for(PATIENCE);
    let log = relay.stop();
    assert!(log.contains("taken over"), "{log}");
}

#[test]
fn a_call_over_twenty_restarts_loses_nothing_and_counts_on() {
    restarts(&["io-uring", "epoll"], 20);
}

#[test]
fn clients_go_on_to_ask_and_quotas_ports_and_nonces_are_what_they_were() {
    let state = folder();
    let old = start(state.path(), "epoll");
    let mut call = Call::begin(&old);
    let more = lines(state.path(), "epoll") + "user-quota = 1\n";
    let new = Relay::start(&more);
    assert_eq!(old.into_process().wait(PATIENCE).code, Some(0));
    call.works();
    let nonce = call.client.nonce.clone();
    call.client.refresh(600).expect_success();
    call.client.permit("127.0.0.2:9".parse().expect("an address")).expect_success();
    assert_eq!(call.client.nonce, nonce, "it was not asked to log in again");
    let other = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    Talker::on(other, new.server()).try_allocate().expect_error(486);
    call.client.refresh(0).expect_success();
    assert!(becomes_true(|| new.json("GET", "/v1/status", None)["allocations"] == 0));
}

#[test]
fn without_anybody_there_it_is_a_start_like_any_other() {
    let state = folder();
    let relay = start(state.path(), "epoll");
    relay.wait_for_log("there is nothing to take over");
    Call::begin(&relay).works();
}

#[test]
fn a_listener_that_is_gone_ends_its_calls_and_keeps_the_others() {
    let state = folder();
    let both = "listen = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\n";
    let with = |listen: &str| {
        let text = format!(
            "{listen}relay-address = [\"127.0.0.1\"]\nallow-loopback-peers = true\nuser = [\"{USER}:{PASSWORD}\"]\n\
             workers = 2\n{}",
            lines(state.path(), "epoll")
        );
        Configured::start(turnpike(), folder(), &text)
    };
    let old = with(both);
    let listeners: Vec<SocketAddr> =
        old.field("listen=").split(',').map(|it| it.parse().expect("an address")).collect();
    let mut calls: Vec<Talker> = listeners
        .iter()
        .map(|server| Talker::on(UdpSocket::bind("127.0.0.1:0").expect("a port"), *server))
        .collect();
    calls.iter_mut().for_each(|client| assert_ne!(client.allocate().port(), 0));
    let new = with("listen = [\"127.0.0.1:0\"]\n");
    calls[0].refresh(600).expect_success();
    new.wait_for_log("not_adopted");
    drop(old);
}

/// What a state is that no process may go on with, and what is said of it.
fn bad_states() -> Vec<(OwnedFd, u64, &'static str)> {
    let memory = |bytes: &[u8], is_sealed: bool| {
        let memory = memfd_create("state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memory");
        let mut file = File::from(memory);
        file.write_all(bytes).expect("written");
        if is_sealed {
            let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
            fcntl_add_seals(&file, seals).expect("sealed");
        }
        OwnedFd::from(file)
    };
    vec![
        (memory(&[0; 100], false), 100, "is not sealed"),
        (memory(&[0; 99], true), 100, "99 bytes, not 100"),
        (memory(&[0; 100], true), 100, "not the state of a relay"),
        (memory(b"TURNPIKE\x01\x00 and what more", true), 24, "damaged"),
        (memory(b"TURNPIKE\xff\x00 and what more", true), 24, "has format 255"),
    ]
}

#[test]
fn a_state_that_is_cut_off_damaged_or_newer_is_refused_by_the_new_process() {
    for (state, bytes, said) in bad_states() {
        let folder = folder();
        let address = rustix::net::SocketAddrUnix::new(folder.path().join("takeover")).expect("an address");
        let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
        rustix::net::bind(&listener, &address).expect("bound");
        rustix::net::listen(&listener, 1).expect("listening");
        let mut command = turnpike();
        command.args(["run", "--listen", "127.0.0.1:0", "--relay-address", "127.0.0.1", "--takeover"]);
        command.args(["--user", &format!("{USER}:{PASSWORD}"), "--offload", "off", "--state-directory"]);
        command.arg(folder.path());
        let process = Process::start(command);
        let old = Channel::new(rustix::net::accept(&listener).expect("it comes")).expect("a channel");
        assert!(matches!(old.receive().expect("its version").0, Message::Hello { format: FORMAT, .. }));
        old.send(&Message::Accepted { version: "0.0.1".to_owned(), workers: 1 }, &[]).expect("sent");
        assert_eq!(old.receive().expect("it is prepared").0, Message::Begin);
        let message = Message::State { bytes, sockets: 0, ended: Vec::new() };
        old.send(&message, &[state.as_fd()]).expect("sent");
        assert!(old.receive().is_err(), "it never says that it has adopted anything");
        let outcome = process.wait(PATIENCE);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert!(outcome.output.contains(said), "{said}: {}", outcome.output);
        assert!(outcome.output.contains("the process that runs goes on"), "{}", outcome.output);
    }
}

/// What speaks to the relay in the place of a process that takes over.
fn guest(state: &Path) -> Channel {
    let folder = Folder::open(state).expect("the relay's folder");
    eventually(|| folder.connect().expect("a socket")).expect("it listens")
}

fn hello(format: u16) -> Message {
    Message::Hello { version: "9.9.9".to_owned(), format }
}

#[test]
fn a_process_that_reads_older_formats_only_is_refused_and_the_old_one_goes_on() {
    let state = folder();
    let relay = start(state.path(), "epoll");
    let call = Call::begin(&relay);
    let guest = guest(state.path());
    guest.send(&hello(FORMAT - 1), &[]).expect("sent");
    let (answer, _) = guest.receive().expect("an answer");
    assert!(matches!(&answer, Message::Refused { why } if why.contains("format")), "{answer:?}");
    relay.wait_for_log("this process goes on");
    call.works();
}

#[test]
fn a_process_that_dies_with_everything_in_its_hands_changes_nothing() {
    for io in ["epoll", "io-uring"] {
        let state = folder();
        let relay = start(state.path(), io);
        let call = Call::begin(&relay);
        for _ in 0..3 {
            let guest = guest(state.path());
            guest.send(&hello(FORMAT), &[]).expect("sent");
            assert!(matches!(guest.receive().expect("an answer").0, Message::Accepted { workers: 2, .. }));
            guest.send(&Message::Begin, &[]).expect("sent");
            let mut sockets = 0;
            loop {
                match guest.receive().expect("sockets, then the state").0 {
                    Message::Sockets(names) => sockets += names.len() as u64,
                    Message::State { sockets: sent, .. } => break assert_eq!(sockets, sent),
                    other => panic!("{other:?}"),
                }
            }
            drop(guest);
            call.works();
        }
        relay.wait_for_log("this process goes on");
        let next = start(state.path(), io);
        assert_eq!(relay.into_process().wait(PATIENCE).code, Some(0));
        call.works();
        drop(next);
    }
}

#[test]
fn what_speaks_another_language_is_sent_away() {
    let state = folder();
    let relay = start(state.path(), "epoll");
    let call = Call::begin(&relay);
    let stranger = guest(state.path());
    rustix::net::send(&stranger, b"\xff\xffGET / HTTP/1.1", rustix::net::SendFlags::empty()).expect("sent");
    relay.wait_for_log("speaks another language");
    let stranger = guest(state.path());
    stranger.send(&Message::Adopted, &[]).expect("sent");
    relay.wait_for_log("out of turn");
    call.works();
}

#[test]
fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return skip("another_user_is_refused", "only root can be two users");
    }
    let state = folder();
    let (path, nobody) = (state.path().join("state"), 65_534);
    std::os::unix::fs::chown(state.path(), Some(nobody), Some(nobody)).expect("we are root");
    let mut command = turnpike();
    command.uid(nobody).gid(nobody).args(["run", "--listen", "127.0.0.1:0", "--relay-address", "127.0.0.1"]);
    command.args(["--user", &format!("{USER}:{PASSWORD}"), "--io", "epoll", "--offload", "off"]);
    let relay = Server::start({
        command.arg("--state-directory").arg(&path);
        command
    });
    assert!(becomes_true(|| path.join("takeover").exists()));
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    let address = rustix::net::SocketAddrUnix::new(path.join("takeover")).expect("an address");
    rustix::net::connect(&socket, &address).expect("it listens");
    let stranger = Channel::new(socket).expect("a channel");
    let (answer, _) = stranger.receive().expect("an answer");
    assert!(matches!(&answer, Message::Refused { why } if why.contains("another user")), "{answer:?}");
    relay.wait_for_log("another user");
    relay.stop();
}

#[test]
fn a_folder_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let state = folder();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(state.path(), open).expect("the folder is ours");
    let refused = Folder::open(state.path()).expect_err("others can write");
    assert!(refused.to_string().contains("chmod go-w"), "{refused}");
}

#[test]
fn clients_over_tcp_stay_with_the_old_process_for_as_long_as_a_drain_may_take() {
    let state = folder();
    let old = Relay::start(&(lines(state.path(), "epoll") + "drain-timeout = 600\n"));
    let call = Call::begin(&old);
    let mut stream = StreamClient::connect(old.at("tcp="), None).expect("it listens");
    stream.allocate().expect("an allocation");
    let new = Relay::start(&lines(state.path(), "io-uring"));
    old.wait_for_log("taken over by another process");
    call.works();
    stream.refresh(600).expect("an answer").expect_success();
    let other = StreamClient::connect(new.at("tcp="), None).expect("the same listener").binding();
    other.expect("an answer of the new process").expect_success();
    assert_eq!(new.at("tcp="), old.at("tcp="));
    drop(stream);
    assert_eq!(old.into_process().wait(PATIENCE).code, Some(0), "its last client has gone");
    call.works();
}
