//! A machine whose addresses come, change and go while calls run (what DHCP, duplicate address detection, virtual
//! addresses and temporary IPv6 addresses do to a service).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use turnpike_proto::wire::attr;
use turnpike_testkit::{PASSWORD, REALM, USER};

use super::lab::{Lab, Namespace, PEER_V4, RELAYED_V4};
use super::process::{Outcome, Process};
use super::server::{SERVER, binary, within_a_second};
use super::talker::{Talker, peer_socket};

/// A second relay address, which stays when the first one goes.
const STAYS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 3));
/// A public address that the host gains later, and the port of its VPN.
const GAINED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)), 51_820);
const QUICK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(namespace: &Namespace, arguments: &str) {
    let status = Command::new("ip")
        .args(["-n", namespace.name()])
        .args(arguments.split(' '))
        .status()
        .expect("ip is there");
    assert!(status.success(), "ip {arguments}");
}

/// The server, also before it is ready.
fn start(lab: &Lab, arguments: &[&str]) -> Process {
    let mut command = lab.relay.command(&binary());
    command.args(["run", "--realm", REALM, "--offload", "off", "--user"]).arg(format!("{USER}:{PASSWORD}"));
    Process::start({
        command.args(arguments);
        command
    })
}

fn says(process: &Process, text: &str) {
    let found = process.wait_for(PATIENCE, |output| output.contains(text).then_some(()));
    let output = process.wait_for(QUICK, |output| Some(output.to_owned()));
    assert!(found.is_some(), "it does not say {text:?}: {output:?}");
}

/// The code that an Allocate is answered with, 0 for success; the allocation is kept.
fn allocate(lab: &Lab) -> (Talker, u16) {
    let mut talker = Talker::new(&lab.client, SERVER);
    let code = talker.try_allocate().code.unwrap_or(0);
    (talker, code)
}

/// Where a new allocation is relayed from, if there is one: 508 only, while the address has just gone.
fn relayed_from(lab: &Lab) -> Option<IpAddr> {
    let answer = Talker::new(&lab.client, SERVER).try_allocate();
    if answer.code == Some(508) {
        return None;
    }
    let relayed =
        answer.message().xor_address(attr::XOR_RELAYED_ADDRESS).expect("success").expect("well-formed");
    assert!([STAYS, RELAYED_V4].contains(&relayed.ip()), "{relayed}");
    Some(relayed.ip())
}

/// A call's packets there and back, as long as it is to run: how many went, and how many came back.
fn call(client: &Talker, peer: &UdpSocket, ends: &AtomicBool) -> (u32, u32) {
    let (mut sent, mut received) = (0, 0);
    let mut buffer = [0; 2048];
    client.socket.set_read_timeout(Some(Duration::from_secs(1))).expect("not zero");
    while !ends.load(Ordering::Relaxed) {
        client.channel_data(b"there");
        sent += 1;
        if let Ok((len, relayed)) = peer.recv_from(&mut buffer) {
            peer.send_to(&buffer[..len], relayed).expect("a route");
            received += u32::from(client.socket.recv(&mut buffer).is_ok());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (sent, received)
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn addresses_come_change_and_go_while_calls_run() {
    let Some(lab) = Lab::new("addresses_come_change_and_go_while_calls_run") else { return };
    ip(&lab.relay, "address delete 10.77.1.2/24 dev client0");
    ip(&lab.relay, "address delete 10.77.2.2/24 dev peer0");
    ip(&lab.relay, "route add default via 10.77.2.10 dev peer0 onlink");
    let (listen, first, stays) = (SERVER.to_string(), RELAYED_V4.to_string(), STAYS.to_string());
    let arguments = ["--listen", &listen, "--relay-address", &first, "--relay-address", &stays];
    let process = start(&lab, &[&arguments[..], &["--allow-peer", "10.77.2.10"]].concat());
    says(&process, "waiting for the listener 10.77.1.2:3478");

    // The listener's address comes: clients are told to come again, and of nothing else.
    ip(&lab.relay, "address add 10.77.1.2/24 dev client0");
    assert_eq!(allocate(&lab).1, 508);
    ip(&lab.relay, "address add 10.77.2.3/24 dev peer0");
    let mut held = None;
    within_a_second(|| {
        let (talker, code) = allocate(&lab);
        held = Some(talker);
        code == 0
    })
    .expect("an address is used within a second");
    let mut steady = held.expect("there is one");
    let peer = peer_socket(&lab.peer, PEER_V4, Duration::from_secs(1));
    assert_eq!(steady.bind(peer.local_addr().expect("bound")).code, None);

    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when something else fails.
        let end = EndOnDrop(&ends);
        let running = scope.spawn(|| call(&steady, &peer, &ends));
        ip(&lab.relay, "address add 10.77.2.2/24 dev peer0");
        says(&process, "turnpike ready");
        a_gained_address_is_closed(&lab);
        ip(&lab.relay, "address delete 10.77.2.2/24 dev peer0");
        within_a_second(|| (0..8).all(|_| relayed_from(&lab) == Some(STAYS)))
            .expect("an address that has gone is not given away any more");
        ip(&lab.relay, "address add 10.77.2.2/24 dev peer0");
        within_a_second(|| (0..8).any(|_| relayed_from(&lab) == Some(RELAYED_V4)))
            .expect("and is again when it is back");
        drop(end);
        let (sent, received) = running.join().expect("no panic");
        assert!(sent > 20, "{sent} packets");
        assert_eq!(received, sent, "calls on what stayed lose nothing");
    });
    process.signal(Signal::TERM);
    let Outcome { code, output } = process.wait(PATIENCE);
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains("panicked"), "{output}");
}

/// A peer's address becomes one of ours, with a service in the port range: what was granted before is taken back.
fn a_gained_address_is_closed(lab: &Lab) {
    let mut client = Talker::new(&lab.client, SERVER);
    client.allocate();
    assert_eq!(client.bind(GAINED).code, None, "it is somebody else's");
    assert_eq!(client.permit(GAINED).code, None);
    ip(&lab.relay, "address add 203.0.113.80/32 dev peer0");
    let service = lab.relay.enter(|| UdpSocket::bind(GAINED)).expect("ours now");
    service.set_read_timeout(Some(QUICK)).expect("not zero");
    let mut buffer = [0; 64];
    within_a_second(|| {
        while service.recv(&mut buffer).is_ok() {}
        client.channel_data(b"handshake");
        client.send_indication(GAINED, b"handshake");
        service.recv(&mut buffer).is_err()
    })
    .expect("own addresses are closed within a second");
    assert_eq!(client.bind(GAINED).code, Some(403));
    assert_eq!(client.permit(GAINED).code, Some(403));
    // The relay range of a relay address is closed, too, where no allocation has the port.
    let vpn = SocketAddr::new(RELAYED_V4, GAINED.port());
    let vpn_socket = lab.relay.enter(|| UdpSocket::bind(vpn)).expect("ours");
    vpn_socket.set_read_timeout(Some(QUICK)).expect("not zero");
    assert_eq!(client.bind(vpn).code, Some(403));
    assert_eq!(client.permit(vpn).code, None, "other clients' relayed addresses are there");
    client.send_indication(vpn, b"handshake");
    assert!(vpn_socket.recv(&mut buffer).is_err());
}

/// Without a network nobody is told of 127.0.0.1; the first address is used as soon as it is there.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_machine_without_a_network_waits_for_its_first_address() {
    let Some(lab) = Lab::new("a_machine_without_a_network_waits_for_its_first_address") else { return };
    ip(&lab.relay, "address flush dev peer0");
    ip(&lab.relay, "address flush dev client0");
    let process = start(&lab, &[]);
    says(&process, "waiting for a relay address");
    ip(&lab.relay, "address add 10.77.1.2/24 dev client0");
    says(&process, "turnpike ready");
    assert_eq!(Talker::new(&lab.client, SERVER).allocate().ip(), SERVER.ip());
    // A second network: its clients, and nobody else, are relayed from there.
    ip(&lab.relay, "address add 10.77.2.2/24 dev peer0");
    let there = SocketAddr::new(RELAYED_V4, SERVER.port());
    ip(&lab.client, "route add 10.77.2.0/24 via 10.77.1.2");
    within_a_second(|| Talker::new(&lab.client, there).allocate().ip() == RELAYED_V4)
        .expect("relayed from the address that the client talks to");
    assert_eq!(Talker::new(&lab.client, SERVER).allocate().ip(), SERVER.ip());
    process.signal(Signal::TERM);
    assert_eq!(process.wait(PATIENCE).code, Some(0));
}
