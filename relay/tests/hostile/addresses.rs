//! A machine whose addresses come, change and go while calls run (what DHCP, duplicate address detection, virtual
//! addresses and temporary IPv6 addresses do to a service).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use turnpike_testkit::call::{Call, allocate, try_allocate};
use turnpike_testkit::http::{TOKEN, exchange};
use turnpike_testkit::{PATIENCE, becomes_true, skip};

use super::lab::{Lab, Namespace, RELAY_V4_SECOND, RELAY_V6_SECOND, RELAYED_V4, RELAYED_V6};
use super::process::{Outcome, Process, find};
use super::server::{PASSWORD, REALM, SERVER, SERVER_V6, USER, binary, secs_of};
use super::standstill::{call, checksums_by_the_sender, talk};
use super::talker::Talker;

/// What is the same in both families: addresses that stay, and some that come and go.
struct Family {
    v6: bool,
    server: SocketAddr,
    /// A second listener, which comes and goes.
    second: IpAddr,
    /// A relay address that stays, and the one that comes and goes.
    stays: IpAddr,
    goes: IpAddr,
    prefix: u8,
    /// A public address that the host gains, and the port of its VPN.
    gained: SocketAddr,
}

const V4: Family = Family {
    v6: false,
    server: SERVER,
    second: RELAY_V4_SECOND,
    stays: IpAddr::V4(Ipv4Addr::new(10, 77, 2, 3)),
    goes: RELAYED_V4,
    prefix: 24,
    gained: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)), 51_820),
};
const V6: Family = Family {
    v6: true,
    server: SERVER_V6,
    second: RELAY_V6_SECOND,
    stays: IpAddr::V6(Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 3)),
    goes: RELAYED_V6,
    prefix: 64,
    gained: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80)), 51_820),
};
/// Calls for each pair of families, client's and peer's.
const CALLS: usize = 5;
const ADMIN: &str = "127.0.0.1:9980";
const QUICK: Duration = Duration::from_millis(100);

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
    command.args(["run", "--realm", REALM, "--user"]).arg(format!("{USER}:{PASSWORD}"));
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

/// The longest that something took, in all rounds.
#[derive(Debug, Default)]
struct Longest {
    used: Duration,
    avoided: Duration,
    closed: Duration,
    opened: Duration,
    answered: Duration,
}

/// How long the calls last, if that was asked for. Only then the machine is quiet enough for a second to be a second.
fn long_run() -> Option<Duration> {
    secs_of("TURNPIKE_ADDRESSES_SECS").map(Duration::from_secs)
}

/// Waits until `done`; keeps the longest time.
#[track_caller]
fn at_once(longest: &mut Duration, what: &str, mut done: impl FnMut() -> bool) {
    let most = long_run().map_or(PATIENCE, |_| Duration::from_secs(1));
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < most, "not within {most:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    *longest = start.elapsed().max(*longest);
}

impl Family {
    fn change(&self, lab: &Lab, verb: &str, address: IpAddr, device: &str) {
        ip(&lab.relay, &format!("address {verb} {address}/{} dev {device}", self.prefix));
    }

    /// Adds an address that has passed, or needs no, duplicate address detection.
    fn add(&self, lab: &Lab, address: IpAddr, device: &str) {
        let nodad = if self.v6 { " nodad" } else { "" };
        ip(&lab.relay, &format!("address add {address}/{} dev {device}{nodad}", self.prefix));
    }

    /// Adds an address, and waits until the kernel has found no duplicate: it can't be bound before.
    fn add_tentatively(&self, lab: &Lab, address: IpAddr, device: &str) {
        self.change(lab, "add", address, device);
        let start = Instant::now();
        while lab.relay.enter(|| UdpSocket::bind((address, 0))).is_err() {
            assert!(start.elapsed() < PATIENCE, "{address} stays tentative");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where a new allocation is relayed from, if there is one: 508 only, while the address has just gone.
    fn relayed_from(&self, lab: &Lab) -> Option<IpAddr> {
        let mut talker = Talker::new(&lab.client, self.server);
        let answer = try_allocate(&mut talker, self.v6);
        if answer.code == Some(508) {
            return None;
        }
        let relayed = answer.relayed().ip();
        assert!([self.stays, self.goes].contains(&relayed), "{relayed}");
        assert_eq!(talker.refresh(0).code, None);
        Some(relayed)
    }

    /// Whether the second listener answers.
    fn second_answers(&self, lab: &Lab) -> bool {
        let mut talker = Talker::new(&lab.client, SocketAddr::new(self.second, self.server.port()));
        talker.socket.set_read_timeout(Some(QUICK)).expect("not zero");
        let request = talker.bare_allocate();
        talker.say(&request);
        talker.hear().is_some()
    }

    /// An address and a listener come, and go.
    fn come_and_go(&self, lab: &Lab, longest: &mut Longest) {
        self.add_tentatively(lab, self.goes, "peer0");
        at_once(&mut longest.used, "an address that came is relayed from", || {
            (0..8).any(|_| self.relayed_from(lab) == Some(self.goes))
        });
        self.add_tentatively(lab, self.second, "client0");
        at_once(&mut longest.answered, "a listener whose address came answers", || self.second_answers(lab));
        self.a_gained_address_is_closed(lab, longest);
        self.change(lab, "delete", self.second, "client0");
        self.change(lab, "delete", self.goes, "peer0");
        at_once(&mut longest.avoided, "an address that has gone is not given away any more", || {
            (0..8).all(|_| self.relayed_from(lab) == Some(self.stays))
        });
    }

    /// A peer's address becomes one of ours, with a service in the port range: what was granted before is taken
    /// back. When it goes again, it is somebody else's.
    fn a_gained_address_is_closed(&self, lab: &Lab, longest: &mut Longest) {
        let mut client = Talker::new(&lab.client, self.server);
        allocate(&mut client, self.v6);
        at_once(&mut longest.opened, "somebody else's address may be reached", || {
            client.bind(self.gained).code.is_none() && client.permit(self.gained).code.is_none()
        });
        let of_one = if self.v6 { "128" } else { "32" };
        let address = format!("{}/{of_one} dev peer0", self.gained.ip());
        ip(&lab.relay, &format!("address add {address}{}", if self.v6 { " nodad" } else { "" }));
        let service = lab.relay.enter(|| UdpSocket::bind(self.gained)).expect("ours now");
        service.set_read_timeout(Some(QUICK)).expect("not zero");
        let mut buffer = [0; 64];
        at_once(&mut longest.closed, "own addresses are closed", || {
            if client.bind(self.gained).code != Some(403) {
                return false;
            }
            while service.recv(&mut buffer).is_ok() {}
            client.channel_data(b"handshake");
            client.send_indication(self.gained, b"handshake");
            service.recv(&mut buffer).is_err()
        });
        assert_eq!(client.permit(self.gained).code, Some(403));
        self.the_range_is_closed(lab, &mut client);
        assert_eq!(client.refresh(0).code, None);
        ip(&lab.relay, &format!("address delete {address}"));
    }

    /// The relay range of a relay address, too, where no allocation has the port.
    fn the_range_is_closed(&self, lab: &Lab, client: &mut Talker) {
        let vpn = SocketAddr::new(self.goes, self.gained.port());
        let service = lab.relay.enter(|| UdpSocket::bind(vpn)).expect("ours");
        service.set_read_timeout(Some(QUICK)).expect("not zero");
        assert_eq!(client.bind(vpn).code, Some(403));
        assert_eq!(client.permit(vpn).code, None, "other clients' relayed addresses are there");
        client.send_indication(vpn, b"handshake");
        assert!(service.recv(&mut [0; 64]).is_err());
    }
}

/// The server on a machine that has none of its addresses yet; they come one by one.
fn start_without_addresses(lab: &Lab, path: &[&str]) -> Process {
    let arguments: Vec<String> = [V4, V6]
        .iter()
        .flat_map(|family| {
            let second = SocketAddr::new(family.second, family.server.port());
            let listeners = [family.server, second].map(|address| format!("--listen={address}"));
            let relays = [family.goes, family.stays].map(|address| format!("--relay-address={address}"));
            [listeners, relays].concat()
        })
        .chain([format!("--admin={ADMIN}"), format!("--admin-token={TOKEN}")])
        .collect();
    let arguments = arguments.iter().map(String::as_str);
    let rest = ["--allow-peer=10.77.2.10", "--allow-peer=fd77:2::10", "--unauthenticated-rate=0"];
    for family in [V4, V6] {
        for address in [family.second, family.server.ip()] {
            family.change(lab, "delete", address, "client0");
        }
        family.change(lab, "delete", family.goes, "peer0");
    }
    ip(&lab.relay, "route add default via 10.77.2.10 dev peer0 onlink");
    ip(&lab.relay, "route add default via fd77:2::10 dev peer0 onlink");
    let process = start(lab, &arguments.chain(rest).chain(path.iter().copied()).collect::<Vec<_>>());
    says(&process, "waiting for the listener 10.77.1.2:3478");
    process
}

fn kernel_packets(lab: &Lab) -> u64 {
    let stream = lab.relay.enter(|| std::net::TcpStream::connect(ADMIN)).expect("it listens");
    let totals: Value = serde_json::from_str(&exchange(stream, "GET", "/v1/totals", "").1).expect("JSON");
    totals["sum"]["to_peer"]["kernel"]["packets"].as_u64().expect("a number")
}

/// Calls of all families run while addresses come and go, for `TURNPIKE_ADDRESSES_SECS` or one round.
fn addresses_come_change_and_go(lab: &Lab, name: &str, path: &[&str]) {
    let time = long_run().unwrap_or(Duration::ZERO);
    let process = start_without_addresses(lab, path);
    let mut longest = Longest::default();
    for family in [V4, V6] {
        // Clients are told to come again, and of nothing else.
        family.add(lab, family.server.ip(), "client0");
        let code = try_allocate(&mut Talker::new(&lab.client, family.server), family.v6).code;
        assert!(matches!(code, Some(440 | 508)), "{code:?}");
        family.add(lab, family.stays, "peer0");
        at_once(&mut longest.used, "the first address is used", || {
            family.relayed_from(lab) == Some(family.stays)
        });
    }
    let pairs = [(SERVER, false), (SERVER, true), (SERVER_V6, false), (SERVER_V6, true)];
    let calls: Vec<Call> =
        (0..CALLS).flat_map(|_| pairs).map(|(server, peer_v6)| call(lab, server, peer_v6)).collect();
    let (over, mut rounds, start) = (AtomicBool::new(false), 0, Instant::now());
    let (sent, heard) = std::thread::scope(|scope| {
        let talking = scope.spawn(|| talk(&calls, &over));
        let mut work = || {
            while rounds == 0 || start.elapsed() < time {
                [V4, V6].iter().for_each(|family| family.come_and_go(lab, &mut longest));
                rounds += 1;
            }
        };
        // Also if it panics.
        let worked = catch_unwind(AssertUnwindSafe(&mut work));
        over.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|panic| resume_unwind(panic));
        talking.join().expect("no panic")
    });
    let took = start.elapsed();
    println!("{name}: {rounds} rounds in {took:?}; {sent} datagrams, {} lost; {longest:?}", sent - heard);
    assert_eq!(heard, sent, "calls on what stayed lose nothing");
    if path.contains(&"--offload=require") {
        let by_kernel = kernel_packets(lab);
        println!("{name}: {by_kernel} datagrams to peers by the kernel");
        assert!(by_kernel > sent / 4, "{by_kernel} in the kernel");
    }
    process.signal(Signal::TERM);
    let Outcome { code, output } = process.wait(PATIENCE);
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn addresses_come_change_and_go_on_io_uring() {
    let name = "addresses_come_change_and_go_on_io_uring";
    let Some(lab) = Lab::new(name) else { return };
    addresses_come_change_and_go(&lab, name, &["--offload=off", "--io=io-uring"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn addresses_come_change_and_go_on_epoll() {
    let name = "addresses_come_change_and_go_on_epoll";
    let Some(lab) = Lab::new(name) else { return };
    addresses_come_change_and_go(&lab, name, &["--offload=off", "--io=epoll"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn addresses_come_change_and_go_in_the_kernel() {
    let name = "addresses_come_change_and_go_in_the_kernel";
    let Some(lab) = Lab::new(name) else { return };
    let Some(ethtool) = find("ethtool") else {
        return skip(name, "ethtool is not installed");
    };
    for namespace in [&lab.client, &lab.peer] {
        checksums_by_the_sender(namespace, &ethtool);
    }
    let interfaces = ["--offload-interface=client0", "--offload-interface=peer0"];
    let path = [&["--offload=require", "--offload-mode=generic"][..], &interfaces].concat();
    addresses_come_change_and_go(&lab, name, &path);
}

/// Without a network nobody is told of 127.0.0.1; the first address is used as soon as it is there.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_machine_without_a_network_waits_for_its_first_address() {
    let Some(lab) = Lab::new("a_machine_without_a_network_waits_for_its_first_address") else { return };
    ip(&lab.relay, "address flush dev peer0");
    ip(&lab.relay, "address flush dev client0");
    let process = start(&lab, &["--offload=off"]);
    says(&process, "waiting for a relay address");
    ip(&lab.relay, "address add 10.77.1.2/24 dev client0");
    says(&process, "turnpike ready");
    assert_eq!(Talker::new(&lab.client, SERVER).allocate().ip(), SERVER.ip());
    // A second network: its clients, and nobody else, are relayed from there.
    ip(&lab.relay, "address add 10.77.2.2/24 dev peer0");
    let there = SocketAddr::new(RELAYED_V4, SERVER.port());
    ip(&lab.client, "route add 10.77.2.0/24 via 10.77.1.2");
    let is_used = becomes_true(|| Talker::new(&lab.client, there).allocate().ip() == RELAYED_V4);
    assert!(is_used, "relayed from the address that the client talks to");
    assert_eq!(Talker::new(&lab.client, SERVER).allocate().ip(), SERVER.ip());
    process.signal(Signal::TERM);
    assert_eq!(process.wait(PATIENCE).code, Some(0));
}
