//! What ends, ends in the kernel at once; what changes on the host never misleads a packet.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use turnpike_testkit::{PATIENCE, becomes_true, eventually};

use super::call::{Call, pattern};
use super::lab::{Lab, PEER_V4, RELAYED_V4};
use super::process::Process;
#[cfg(target_arch = "x86_64")]
use super::server::command_without_membarrier;
use super::server::{SERVER, Server, command, command_with, lab, run};
use super::talker::{Talker, peer_socket};

/// How long nothing must arrive before nothing is believed to.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn deleting_an_allocation_stops_the_kernel_at_once() {
    let Some(lab) = lab("deleting_an_allocation_stops_the_kernel_at_once") else { return };
    let server = Server::start(&lab, &[]);
    let mut call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    call.assert_carries(b"before");
    // A refresh changes nothing.
    assert_eq!(call.talker.refresh(600).code, None);
    call.assert_carries(b"refreshed");
    assert_eq!(call.talker.refresh(0).code, None);
    // The answer was sent after the lease had ended: not one more datagram.
    call.peer_is_patient_for(SILENCE);
    assert_eq!(call.to_peer(b"after"), None);
    server.wait_for_routes(0);
    let frames = server.stop();
    assert_eq!((frames.count("channel_to_peer"), frames.count("channel_to_client")), (2, 2));
    assert!(frames.log.contains("resync") || !frames.log.contains("were not as they should be"));
}

/// A port and its slots go to somebody else while the former peer keeps sending.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_port_that_is_used_again_never_carries_the_former_peers_data() {
    const ROUNDS: u32 = 10;
    let Some(lab) = lab("a_port_that_is_used_again_never_carries_the_former_peers_data") else { return };
    let server = Server::start(&lab, &["--port-range=50000-50003"]);
    let peer = peer_socket(&lab.peer, PEER_V4);
    let address = peer.local_addr().expect("it is bound");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        // Permissions are by IP address: this one has none with the second client.
        run(&lab.peer, "ip address add 10.77.2.11/24 dev relay0");
        let old = lab.peer.enter(|| std::net::UdpSocket::bind("10.77.2.11:0")).expect("a port is free");
        let old_address = old.local_addr().expect("it is bound");
        let (flood, relayed_ip) = (&stop, RELAYED_V4);
        scope.spawn(move || {
            while !flood.load(std::sync::atomic::Ordering::Relaxed) {
                for port in 50000..=50003u16 {
                    // The port is closed now and then.
                    let _ = old.send_to(b"former", (relayed_ip, port));
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        for round in 0..ROUNDS {
            let (mut first, _) = next(&lab);
            assert_eq!(first.bind(old_address).code, None);
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(first.refresh(0).code, None);
            // Whoever comes next has the same slots, soon the same port, and another peer.
            let (mut second, relayed) = next(&lab);
            assert_eq!(second.bind(address).code, None);
            let exchange = || {
                peer.send_to(b"present", relayed).expect("there is a route");
                let heard = second.hear().expect("it arrives");
                assert_eq!(&heard[4..], b"present", "round {round}");
            };
            let deadline = Instant::now() + Duration::from_millis(40);
            while Instant::now() < deadline {
                exchange();
            }
            if round == ROUNDS - 1 {
                server.wait_for_routes(2);
                (0..100).for_each(|_| exchange());
            }
            assert_eq!(second.refresh(0).code, None);
        }
    });
    let frames = server.stop();
    assert!(frames.count("channel_to_client") >= 100, "{}", frames.count("channel_to_client"));
}

/// A client with one of few ports: 508 (RFC 8656 s. 7.2) as long as the kernel has not forgotten the former ones.
fn next(lab: &Lab) -> (Talker, SocketAddr) {
    let mut talker = Talker::new(&lab.client, SERVER);
    let answer = eventually(|| Some(talker.try_allocate()).filter(|answer| answer.code != Some(508)));
    let relayed = answer.expect("a port becomes free").relayed();
    (talker, relayed)
}

struct SetOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn interfaces_that_come_go_and_change_are_followed() {
    let Some(lab) = lab("interfaces_that_come_go_and_change_are_followed") else { return };
    let server = Server::start(&lab, &[]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    call.assert_carries(b"at first");
    // Down: its routes and neighbours go with it.
    run(&lab.relay, "ip link set peer0 down");
    server.wait_for_routes(0);
    run(&lab.relay, "ip link set peer0 up");
    server.wait_for_routes(2);
    call.assert_carries(b"up again");
    // The far end has another MAC address: what goes on being sent to the old one would be lost.
    run(&lab.peer, "ip link set relay0 down");
    run(&lab.peer, "ip link set relay0 address 02:00:00:00:77:01");
    run(&lab.peer, "ip link set relay0 up");
    reaches_the_peer(&call);
    // So has the near end.
    run(&lab.relay, "ip link set client0 down");
    run(&lab.relay, "ip link set client0 address 02:00:00:00:77:02");
    run(&lab.relay, "ip link set client0 up");
    reaches_the_peer(&call);
    server.wait_for_routes(2);
    // Another address of ours.
    run(&lab.relay, "ip address add 10.77.1.77/24 dev client0");
    call.assert_carries(b"more addresses");
    // It becomes a port of a bridge, which takes its frames: the program leaves.
    run(&lab.relay, "ip link add bridge0 type bridge");
    run(&lab.relay, "ip link set client0 master bridge0");
    server.wait_for_log("client0: it is a port of bridge0");
    assert!(becomes_true(|| !run(&lab.relay, "ip -d link show client0").contains("prog/xdp")));
    server.wait_for_routes(0);
    run(&lab.relay, "ip link set client0 nomaster");
    server.wait_for_routes(2);
    call.assert_carries(b"in the kernel again");
    // A smaller MTU, which is noticed in a moment; what comes before that is lost.
    run(&lab.relay, "ip link set peer0 mtu 1300");
    std::thread::sleep(SILENCE);
    call.peer_is_patient_for(SILENCE);
    let (large, mut sent) = (pattern(1400), 0);
    let arrived = eventually(|| {
        sent += 1;
        call.to_peer(&large)
    });
    assert!(arrived.as_ref() == Some(&large), "in fragments");
    let frames = server.stop();
    // Right after a change, some go through userspace.
    frames.assert_forwarded_but(3, 3, sent - 1);
    assert!(frames.count("pass_mtu") > 0);
}

/// Each datagram is forwarded by the kernel, whatever else becomes of the host's addresses and interfaces meanwhile.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn addresses_and_interfaces_that_come_and_go_pause_nothing() {
    let Some(lab) = lab("addresses_and_interfaces_that_come_and_go_pause_nothing") else { return };
    let server = Server::start_anyhow(&lab, &["--offload-interface=extra0"]);
    assert!(server.ready_line().contains("not on extra0: there is no interface extra0"));
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    let over = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        scope.spawn(|| {
            let _over = SetOnDrop(&over);
            for round in 0..10 {
                run(&lab.relay, "ip link add extra0 type veth peer name far0");
                run(&lab.relay, "ip link set extra0 up");
                for (device, net) in [("client0", 1), ("peer0", 2), ("extra0", 3)] {
                    run(&lab.relay, &format!("ip address add 10.77.{net}.{}/24 dev {device}", 100 + round));
                }
                let listed = || run(&lab.relay, "ip -d link show extra0").contains("prog/xdp");
                assert!(becomes_true(listed), "the program follows");
                for (device, net) in [("client0", 1), ("peer0", 2)] {
                    run(&lab.relay, &format!("ip address del 10.77.{net}.{}/24 dev {device}", 100 + round));
                }
                run(&lab.relay, "ip link del extra0");
            }
        });
        let mut sent = 0;
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            call.assert_carries(b"all the time");
            sent += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    });
    let frames = server.stop();
    assert_eq!((frames.count("channel_to_peer"), frames.count("channel_to_client")), (sent, sent));
}

/// Says something until the peer hears it: neighbours that have changed are found out by asking.
#[track_caller]
fn reaches_the_peer(call: &Call) {
    call.peer_is_patient_for(Duration::from_millis(100));
    assert!(eventually(|| call.to_peer(b"hello?")).is_some());
    // What was late is not an answer to the next question.
    let last = b"that was all";
    call.peer_is_patient_for(PATIENCE);
    call.talker.channel_data(last);
    while call.peer_hears().expect("there is a way now") != last {}
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_killed_relay_leaves_nothing_behind() {
    let Some(lab) = lab("a_killed_relay_leaves_nothing_behind") else { return };
    let before = links(&lab);
    let server = Server::start(&lab, &[]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    assert!(links(&lab).contains("prog/xdp"));
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for _ in 0..20_000 {
                call.talker.channel_data(b"under load");
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        server.kill();
        flood.join().expect("nothing panics");
    });
    // The kernel lets go of the program a moment after the process has gone.
    assert!(becomes_true(|| links(&lab) == before), "{}", links(&lab));
    let again = Server::start(&lab, &[]);
    let call = Call::new(&lab, SERVER, false);
    again.wait_for_routes(2);
    call.assert_carries(b"the next one");
    again.stop().assert_forwarded(1, 1);
}

/// Everything about the relay's interfaces that isn't a counter or depends on who else is up.
fn links(lab: &Lab) -> String {
    let shown = run(&lab.relay, "ip -d link show");
    let lines = shown.lines().filter(|line| line.contains("link/ether") || line.contains("prog/xdp"));
    lines.map(|line| line.trim().to_owned() + "\n").collect()
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn what_can_not_be_had_is_said() {
    let Some(lab) = lab("what_can_not_be_had_is_said") else { return };
    let refused = |arguments: &[&str]| {
        let outcome = Process::start(command(&lab.relay, arguments)).wait(PATIENCE);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        outcome.output
    };
    let why = refused(&["--offload=require", "--offload-interface=peer0", "--offload-interface=lo"]);
    assert!(why.contains("lo: it is the loopback interface"), "{why}");
    let why = refused(&["--offload=require", "--offload-interface=nosuch0"]);
    assert!(why.contains("there is no interface nosuch0"), "{why}");
    let auto = Server::start_anyhow(&lab, &["--offload-interface=lo"]);
    let line = auto.ready_line();
    let expected = "data-path=kernel (native XDP on client0,peer0; not on lo: it is the loopback interface";
    assert!(line.contains(expected), "{line}");
    auto.stop();
    let off = Server::start_anyhow(&lab, &["--offload=off"]);
    assert!(off.ready_line().contains("data-path=userspace (offload is off)"));
    let call = Call::new(&lab, SERVER, false);
    call.assert_carries(b"in userspace");
    let frames = off.stop();
    assert!(frames.log.contains("channel_to_peer=1") && frames.log.contains("forwarded_in_kernel=0"));
    let generic = Server::start_anyhow(&lab, &["--offload=require", "--offload-mode=generic"]);
    assert!(generic.ready_line().contains("data-path=kernel (generic XDP on client0,peer0)"));
    let call = Call::new(&lab, SERVER, false);
    generic.wait_for_routes(2);
    call.assert_carries(b"through the stack's hook");
    generic.stop().assert_forwarded(1, 1);
}

/// What `deploy/systemd/turnpike.service` grants is enough, and what is missing is named.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn three_capabilities_are_needed_and_enough() {
    let Some(lab) = lab("three_capabilities_are_needed_and_enough") else { return };
    let arguments = ["--offload=require", "--offload-interface=client0", "--offload-interface=peer0"];
    let enough = Process::start(command_with(&lab.relay, "+bpf,+net_admin,+perfmon", &arguments));
    let line = enough.wait_for_line("turnpike ready", PATIENCE);
    assert!(line.as_ref().is_ok_and(|line| line.contains("data-path=kernel")), "{line:?}");
    enough.signal(Signal::TERM);
    assert_eq!(enough.wait(PATIENCE).code, Some(0));
    for (granted, missing) in [
        ("+bpf,+net_admin", "CAP_PERFMON"),
        ("+bpf,+perfmon", "CAP_NET_ADMIN"),
        ("+net_admin,+perfmon", "CAP_BPF"),
    ] {
        let few = Process::start(command_with(&lab.relay, granted, &arguments));
        let outcome = few.wait(PATIENCE);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert!(outcome.output.contains(&format!("this process lacks {missing}")), "{}", outcome.output);
    }
}

/// With `nohz_full` on its command line the kernel refuses membarrier(2).
#[cfg(target_arch = "x86_64")]
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn without_membarrier_the_kernel_forwards_all_the_same() {
    let Some(lab) = lab("without_membarrier_the_kernel_forwards_all_the_same") else { return };
    let arguments = ["--offload=require", "--offload-interface=client0", "--offload-interface=peer0"];
    let server = Server::start_by(command_without_membarrier(&lab.relay, &arguments));
    for round in [&b"once"[..], b"twice"] {
        let mut call = Call::new(&lab, SERVER, false);
        server.wait_for_routes(2);
        call.assert_carries(round);
        assert_eq!(call.talker.refresh(0).code, None);
        // A grace period is over when these are gone.
        server.wait_for_routes(0);
    }
    server.stop().assert_forwarded(2, 2);
}

/// A reload that denies the peer ends the kernel's forwarding, too.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_reload_that_denies_the_peer_stops_the_kernel() {
    let Some(lab) = lab("a_reload_that_denies_the_peer_stops_the_kernel") else { return };
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let file = folder.path().join("turnpike.toml");
    std::fs::write(&file, "").expect("it is writable");
    let config = format!("--config={}", file.display());
    let server = Server::start(&lab, &[&config]);
    let call = Call::new(&lab, SERVER, false);
    server.wait_for_routes(2);
    call.assert_carries(b"allowed");
    std::fs::write(&file, "deny-peer = [\"10.77.2.10/32\"]\n").expect("it is writable");
    server.signal(Signal::HUP);
    server.wait_for_routes(0);
    call.peer_is_patient_for(SILENCE);
    assert_eq!(call.to_peer(b"denied"), None);
    server.stop();
}
