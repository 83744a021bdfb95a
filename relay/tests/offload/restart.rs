//! A service manager keeps the links to the interfaces: the next process puts its program in place of the old one, and
//! the driver has a program all the time.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use turnpike_testkit::{PATIENCE, becomes_true};

use super::call::Call;
use super::lab::Lab;
use super::server::{SERVER, Server, command, lab, run};

const KERNEL: [&str; 3] = ["--offload=require", "--offload-interface=client0", "--offload-interface=peer0"];

/// What systemd does with `FileDescriptorStoreMax`.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
    kept: HashMap<String, OwnedFd>,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket in it");
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        Manager { socket, folder, kept: HashMap::new() }
    }

    /// A process with this link, if any, and these options.
    fn server(&self, lab: &Lab, inherited: Option<(&str, &OwnedFd)>, options: &[&str]) -> Server {
        let own = command(&lab.relay, options);
        let mut shell = Command::new("sh");
        let start = match inherited {
            // The first descriptor that is handed over is number 3.
            Some((name, _)) => {
                format!("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$@\"")
            }
            None => "exec \"$@\"".to_owned(),
        };
        shell.args(["-c", &start, "sh"]).arg(own.get_program()).args(own.get_args());
        shell.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        let input = match inherited {
            Some((_, link)) => Stdio::from(link.try_clone().expect("a descriptor more")),
            None => Stdio::null(),
        };
        Server::start_with_input(shell, input)
    }

    /// Takes what is to be kept, until there is something of each name.
    fn keep(&mut self, names: &[String]) {
        while !names.iter().all(|name| self.kept.contains_key(name)) {
            let (text, descriptor) = self.receive();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_owned);
            if let (Some(name), true) = (&name, text.contains("FDSTOREREMOVE=1")) {
                self.kept.remove(name);
            } else if let (Some(name), Some(descriptor)) = (name, descriptor) {
                self.kept.insert(name, descriptor);
            }
        }
    }

    fn receive(&self) -> (String, Option<OwnedFd>) {
        let mut bytes = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::empty()).expect("news");
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        (String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), descriptor)
    }
}

/// The kernel's numbers of a link and of the program that it holds.
fn numbers(link: &OwnedFd) -> (u32, u32) {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).expect("it is open");
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}"));
        value.trim().parse().expect("a number")
    };
    (number("link_id:"), number("prog_id:"))
}

fn name(lab: &Lab, device: &str) -> String {
    let line = run(&lab.relay, &format!("ip -o link show {device}"));
    format!("xdp-{}", line.split(':').next().expect("an index"))
}

fn has_program(lab: &Lab, device: &str) -> bool {
    run(&lab.relay, &format!("ip -d link show {device}")).contains("prog/xdp")
}

fn carries_in_the_kernel(lab: &Lab, server: &Server) {
    let call = Call::new(lab, SERVER, false);
    server.wait_for_routes(2);
    call.assert_carries(b"in the kernel");
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn the_next_process_replaces_the_program_in_place() {
    let Some(lab) = lab("the_next_process_replaces_the_program_in_place") else { return };
    let (client0, peer0) = (name(&lab, "client0"), name(&lab, "peer0"));
    let mut manager = Manager::new();
    let first = manager.server(&lab, None, &KERNEL);
    manager.keep(&[client0.clone(), peer0.clone()]);
    let client_link = manager.kept.remove(&client0).expect("it was kept");
    let before = numbers(&client_link);
    carries_in_the_kernel(&lab, &first);
    first.stop().assert_forwarded(1, 1);
    assert!(has_program(&lab, "client0") && has_program(&lab, "peer0"), "kept while nobody runs");

    // One of them is lost meanwhile: that interface gets a program anew.
    manager.kept.clear();
    assert!(becomes_true(|| !has_program(&lab, "peer0")), "nobody has its link any more");
    let second = manager.server(&lab, Some((&client0, &client_link)), &KERNEL);
    second.wait_for_log("client0 has had a program all the time");
    let after = numbers(&client_link);
    assert_eq!(before.0, after.0, "the same link");
    assert_ne!(before.1, after.1, "another program");
    carries_in_the_kernel(&lab, &second);

    // It is no other after a crash.
    manager.keep(&[client0.clone(), peer0.clone()]);
    second.kill();
    assert!(has_program(&lab, "client0") && has_program(&lab, "peer0"));
    manager.kept.clear();
    assert!(becomes_true(|| !has_program(&lab, "peer0")), "nobody has its link any more");
    let third = manager.server(&lab, Some((&client0, &client_link)), &KERNEL);
    assert_ne!(numbers(&client_link).1, after.1, "another program");
    carries_in_the_kernel(&lab, &third);
    third.stop().assert_forwarded(1, 1);
    drop((manager, client_link));
    assert!(becomes_true(|| !has_program(&lab, "client0")), "nobody keeps it any more");
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_process_that_does_not_want_the_kernel_takes_the_old_program_off() {
    let Some(lab) = lab("a_process_that_does_not_want_the_kernel_takes_the_old_program_off") else { return };
    let client0 = name(&lab, "client0");
    let mut manager = Manager::new();
    let first = manager.server(&lab, None, &KERNEL);
    manager.keep(std::slice::from_ref(&client0));
    let link = manager.kept.remove(&client0).expect("it was kept");
    first.kill();
    assert!(has_program(&lab, "client0"));
    let second = manager.server(&lab, Some((&client0, &link)), &["--offload=off"]);
    assert!(!has_program(&lab, "client0"), "although somebody has its link still");
    second.stop();
}
