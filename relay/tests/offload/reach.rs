//! VLANs, bonds and what is on top of them, on network cards: those of a virtual machine (`cargo xtask kernels`), since it
//! takes drivers and modules that not every host has.
//!
//! ```text
//!   relay ns                                      client ns            peer ns
//!   near ─ VLAN 5, 10.77.1.2 ════ wire ════ far ─ VLAN 5, 10.77.1.10
//!        └ VLAN 6, 10.77.2.2                    └ VLAN 6 ──────────► 10.77.2.10
//! ```
//!
//! `TURNPIKE_CARDS="NEAR,FAR NEAR,FAR"` names two pairs of cards, each connected to each other and to nobody else;
//! `TURNPIKE_TAKES_TAGS_OFF="NEAR,FAR"` a pair of which the first takes VLAN tags off unless it is told not to.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use turnpike_proto::wire::channel;
use turnpike_testkit::{becomes_true, eventually};

use super::call::{Call, pattern};
use super::lab::{Lab, Namespace};
use super::process::Process;
use super::server::{self, SERVER, SERVER_V6, run};

const CARDS: &str = "TURNPIKE_CARDS";
const TAKES_TAGS_OFF: &str = "TURNPIKE_TAKES_TAGS_OFF";
/// What a channel carries that fills a frame of 1500 bytes, and less.
const SIZES: [usize; 5] = [0, 5, 170, 1200, 1420];
/// How long the relay may take for anything: an emulated machine verifies the program for a quarter of a minute, and
/// perhaps it is not alone.
const LONG: Duration = Duration::from_secs(300);
/// Between two datagrams of a load.
const PACE: Duration = Duration::from_millis(2);
/// A load lasts so long on each port of a bond.
const TERM: Duration = Duration::from_millis(700);

const CLIENT: [&str; 3] = ["10.77.1.10/24", "fd77:1::10/64", "fe80::10/64"];
const PEER: [&str; 3] = ["10.77.2.10/24", "fd77:2::10/64", "fe80::10/64"];
const TO_CLIENTS: [&str; 4] = ["10.77.1.2/24", "10.77.1.3/24", "fd77:1::2/64", "fe80::2/64"];
const TO_PEERS: [&str; 3] = ["10.77.2.2/24", "fd77:2::2/64", "fe80::2/64"];

/// The lab without its own wires, and pairs of cards: the near ends in the relay's namespace, the far ones in the
/// client's.
struct Stage {
    lab: Lab,
    near: Vec<String>,
    far: Vec<String>,
}

impl Stage {
    fn new(test: &str, variable: &str) -> Option<Stage> {
        let Ok(pairs) = std::env::var(variable) else {
            turnpike_testkit::skip(test, &format!("no cards are named by {variable}: cargo xtask kernels"));
            return None;
        };
        let lab = Lab::new(test)?;
        run(&lab.relay, "ip link del client0");
        run(&lab.relay, "ip link del peer0");
        let pairs = pairs.split(' ').map(|pair| pair.split_once(',').expect("NEAR,FAR"));
        let (near, far) = pairs.map(|(near, far)| (near.to_owned(), far.to_owned())).unzip();
        let stage = Stage { lab, near, far };
        stage.near.iter().for_each(|card| take_card(card, &stage.lab.relay));
        stage.far.iter().for_each(|card| take_card(card, &stage.lab.client));
        Some(stage)
    }

    /// The far ends: clients in VLAN 5 of a device, or in none, and peers in VLAN 6.
    fn far_ends(&self, device: &str, clients_tagged: bool) {
        let (client, peer) = (&self.lab.client, &self.lab.peer);
        run(client, &format!("ip link set {device} up"));
        run(client, &format!("ip link add link {device} name peers type vlan id 6"));
        run(client, &format!("ip link set peers netns {}", peer.name()));
        if clients_tagged {
            run(client, &format!("ip link add link {device} name clients type vlan id 5"));
        }
        client.configure(if clients_tagged { "clients" } else { device }, &CLIENT).expect("it is there");
        peer.configure("peers", &PEER).expect("it is there");
    }

    /// VLANs 5 and 6 of a device of the relay, with its addresses.
    fn near_ends(&self, device: &str) {
        let relay = &self.lab.relay;
        run(relay, &format!("ip link set {device} up"));
        for (name, number, addresses) in [("clients", 5, &TO_CLIENTS[..]), ("peers", 6, &TO_PEERS)] {
            run(relay, &format!("ip link add link {device} name {name} type vlan id {number}"));
            relay.configure(name, addresses).expect("it is there");
        }
    }

    /// A bond of all near cards, or of all far ones.
    fn bond(&self, namespace: &Namespace, cards: &[String], options: &str) {
        run(namespace, &format!("ip link add bond0 type bond {options}"));
        for card in cards {
            // Some bonds want to know how fast their ports are, which virtual cards only say when told.
            run(namespace, &format!("ethtool -s {card} speed 1000 duplex full"));
            run(namespace, &format!("ip link set {card} down"));
            run(namespace, &format!("ip link set {card} master bond0"));
            run(namespace, &format!("ip link set {card} up"));
        }
        run(namespace, "ip link set bond0 up");
    }

    /// Waits until a datagram gets through to the client, and to the peer.
    fn settle(&self) {
        let answers = |address: &str| {
            let mut ping = self.lab.relay.command("ping".as_ref());
            ping.args(["-c", "1", "-W", "1", address]).output().is_ok_and(|output| output.status.success())
        };
        for address in ["10.77.1.10", "10.77.2.10", "fd77:1::10", "fd77:2::10"] {
            assert!(becomes_true(|| answers(address)), "{address} does not answer");
        }
    }

    /// Starts a relay that forwards in the kernel on these interfaces.
    fn start(&self, interfaces: &[&str]) -> Relay {
        let (relay, ready) = self.start_anyhow(interfaces, "require");
        let expected = format!("data-path=kernel (native XDP on {})", interfaces.join(","));
        assert!(ready.contains(&expected), "{ready}");
        relay
    }

    /// Starts a relay; gives the line that says that it is ready, too.
    fn start_anyhow(&self, interfaces: &[&str], offload: &str) -> (Relay, String) {
        let named = interfaces.iter().map(|name| format!("--offload-interface={name}"));
        let arguments: Vec<String> = named.chain([format!("--offload={offload}")]).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let started = eventually(|| {
            let process = Process::start(server::command(&self.lab.relay, &arguments));
            match process.wait_for_line("turnpike ready", LONG) {
                Ok(ready) => Some((Relay(process), ready)),
                // io_uring keeps the sockets of one that was killed for a moment.
                Err(output) if output.contains("address already in use") => None,
                Err(output) => panic!("{output}"),
            }
        });
        started.expect("the port is free in the end")
    }

    /// Both families of both sides, all sizes, both ways, all of it in the kernel.
    fn assert_carries(&self, interfaces: &[&str]) {
        self.settle();
        let relay = self.start(interfaces);
        let mut calls = Vec::new();
        for (listener, peer_v6) in [(SERVER, false), (SERVER, true), (SERVER_V6, false), (SERVER_V6, true)] {
            calls.push(Call::new(&self.lab, listener, peer_v6));
        }
        relay.wait_for_routes(8);
        for call in &calls {
            SIZES.iter().for_each(|size| call.assert_carries(&pattern(*size)));
        }
        let all = SIZES.len() as u64;
        for call in &mut calls {
            assert_eq!(relay.forwarded(call), [all; 2], "all of it by the kernel");
        }
    }
}

/// A running relay, killed when it is dropped: it would end in order, but a slow machine is told that it stands still.
struct Relay(Process);

impl Relay {
    fn wait_for_routes(&self, routes: u64) {
        let words = format!("kernel_routes={routes} ");
        let come = self.0.wait_for(LONG, |line| line.contains(&words).then_some(()));
        assert!(come.is_some(), "{routes} routes are expected in the kernel");
    }

    /// Ends a call; gives what the kernel has forwarded of it to the peer and to the client.
    fn forwarded(&self, call: &mut Call) -> [u64; 2] {
        let client = call.talker.socket.local_addr().expect("it is bound");
        call.talker.refresh(0);
        let words = format!(" client={client} ");
        let is_it = |line: &str| line.contains("allocation ended") && line.contains(&words);
        let record = self.0.wait_for(LONG, |line| is_it(line).then(|| line.to_owned())).expect("a record");
        ["to_peer_kernel_packets=", "to_client_kernel_packets="].map(|label| {
            let (_, rest) = record.split_once(label).expect("it is in the record");
            rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
        })
    }
}

/// A card comes back some time after the namespace that had it has gone.
fn take_card(card: &str, namespace: &Namespace) {
    let moved = || {
        let output = Command::new("ip").args(["link", "set", card, "netns", namespace.name()]).output();
        output.is_ok_and(|output| output.status.success())
    };
    assert!(becomes_true(moved), "{card} is not there");
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn between_two_vlans_of_a_card_tags_are_rewritten() {
    let Some(stage) = Stage::new("between_two_vlans_of_a_card_tags_are_rewritten", CARDS) else { return };
    stage.far_ends(&stage.far[0], true);
    stage.near_ends(&stage.near[0]);
    stage.assert_carries(&["clients", "peers"]);
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn between_a_card_and_its_vlan_tags_are_added_and_taken_off() {
    let test = "between_a_card_and_its_vlan_tags_are_added_and_taken_off";
    let Some(stage) = Stage::new(test, CARDS) else { return };
    stage.far_ends(&stage.far[0], false);
    let (relay, card) = (&stage.lab.relay, &stage.near[0]);
    relay.configure(card, &TO_CLIENTS).expect("it is there");
    run(relay, &format!("ip link add link {card} name peers type vlan id 6"));
    relay.configure("peers", &TO_PEERS).expect("it is there");
    stage.assert_carries(&[card, "peers"]);
    // What is in a VLAN that no interface named is in goes to the stack.
    let relay = stage.start(&[card]);
    let mut call = Call::new(&stage.lab, SERVER, false);
    call.assert_carries(b"by userspace");
    assert_eq!(relay.forwarded(&mut call), [0; 2]);
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn a_macvlan_on_a_vlan_has_its_own_address() {
    let Some(stage) = Stage::new("a_macvlan_on_a_vlan_has_its_own_address", CARDS) else { return };
    stage.far_ends(&stage.far[0], true);
    let (relay, card) = (&stage.lab.relay, &stage.near[0]);
    for line in [
        format!("ip link set {card} up"),
        format!("ip link add link {card} name five type vlan id 5"),
        "ip link set five up".to_owned(),
        "ip link add link five name clients type macvlan mode private".to_owned(),
        format!("ip link add link {card} name peers type vlan id 6"),
    ] {
        run(relay, &line);
    }
    relay.configure("clients", &TO_CLIENTS).expect("it is there");
    relay.configure("peers", &TO_PEERS).expect("it is there");
    stage.assert_carries(&["clients", "peers"]);
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn a_bond_of_each_mode_carries_vlans() {
    for mode in [
        "balance-rr",
        "balance-xor xmit_hash_policy layer3+4",
        "802.3ad lacp_rate fast xmit_hash_policy encap3+4",
    ] {
        let Some(stage) = Stage::new("a_bond_of_each_mode_carries_vlans", CARDS) else { return };
        println!("{mode}");
        let options = format!("mode {mode} miimon 20");
        stage.bond(&stage.lab.client, &stage.far, &options);
        stage.bond(&stage.lab.relay, &stage.near, &options);
        stage.far_ends("bond0", true);
        stage.near_ends("bond0");
        stage.assert_carries(&["clients", "peers"]);
    }
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn a_bond_that_takes_no_program_is_refused_with_what_to_do() {
    let test = "a_bond_that_takes_no_program_is_refused_with_what_to_do";
    let Some(stage) = Stage::new(test, CARDS) else { return };
    stage.bond(&stage.lab.relay, &stage.near, "mode balance-tlb miimon 20");
    stage.near_ends("bond0");
    let (_relay, ready) = stage.start_anyhow(&["clients"], "auto");
    assert!(
        ready.contains("data-path=userspace (clients: a bond in balance-tlb mode takes no XDP"),
        "{ready}"
    );
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn hardware_that_takes_tags_off_is_refused_until_it_is_told_not_to() {
    let test = "hardware_that_takes_tags_off_is_refused_until_it_is_told_not_to";
    let Some(stage) = Stage::new(test, TAKES_TAGS_OFF) else { return };
    stage.far_ends(&stage.far[0], true);
    let card = &stage.near[0];
    stage.near_ends(card);
    let (relay, ready) = stage.start_anyhow(&["clients"], "auto");
    let command = format!("ethtool -K {card} rxvlan off");
    assert!(ready.contains("data-path=userspace") && ready.contains(&format!("`{command}`")), "{ready}");
    // It is there as soon as the command has been typed.
    run(&stage.lab.relay, &command);
    let line = |line: &str| line.contains("kernel data path: native XDP on clients").then_some(());
    relay.0.wait_for(LONG, line).expect("the program is attached");
    drop(relay);
    stage.assert_carries(&["clients", "peers"]);
}

/// A switch between the bond and everybody else: it learns from what the bond sends where it is now.
fn behind_a_switch(stage: &Stage) {
    let client = &stage.lab.client;
    run(client, "ip link add switch0 type bridge");
    for card in &stage.far {
        run(client, &format!("ip link set {card} master switch0"));
        run(client, &format!("ip link set {card} up"));
    }
    stage.far_ends("switch0", true);
    stage.bond(&stage.lab.relay, &stage.near, "mode active-backup miimon 20");
    stage.near_ends("bond0");
    stage.settle();
}

/// How many datagrams of a load were sent and lost, and how many came twice.
#[derive(Debug, Default)]
struct Load {
    sent: u64,
    lost: u64,
    twice: u64,
}

/// Numbered datagrams at a steady rate from one socket to another while `work` runs.
fn load(from: impl Fn(u64) + Sync, to: &UdpSocket, payload_at: usize, over: &AtomicBool) -> Load {
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Relaxed) {
                from(sent);
                sent += 1;
                thread::sleep(PACE);
            }
            sent
        });
        let (mut seen, mut load) = (BTreeSet::new(), Load::default());
        to.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let mut buffer = [0; 2048];
        // A second of silence after the last one.
        while let Ok((length, _)) = to.recv_from(&mut buffer) {
            let number =
                buffer[..length].get(payload_at..payload_at + 8).and_then(|word| word.try_into().ok());
            if number.map(u64::from_be_bytes).is_some_and(|number| !seen.insert(number)) {
                load.twice += 1;
            }
        }
        load.sent = sender.join().expect("no panic");
        load.lost = load.sent - seen.len() as u64;
        load
    })
}

/// Both directions of a call under load while `work` runs.
fn under_load(call: &Call, work: impl FnOnce()) -> [Load; 2] {
    let over = AtomicBool::new(false);
    let up = |number: u64| call.talker.channel_data(&number.to_be_bytes());
    // A port that is down refuses at times.
    let down = |number: u64| drop(call.peer.send_to(&number.to_be_bytes(), call.relayed));
    thread::scope(|scope| {
        let up = scope.spawn(|| load(up, &call.peer, 0, &over));
        let down = scope.spawn(|| load(down, &call.talker.socket, channel::HEADER_LEN, &over));
        work();
        over.store(true, Relaxed);
        [up, down].map(|load| load.join().expect("no panic"))
    })
}

/// A call through the bond, one datagram each way for certain, then a load while `work` runs; gives the loads, and what
/// the kernel has forwarded to the peer and to the client.
fn load_a_bond(stage: &Stage, offload: &str, work: impl FnOnce()) -> ([Load; 2], [u64; 2]) {
    let (relay, _) = stage.start_anyhow(&["clients", "peers"], offload);
    let mut call = Call::new(&stage.lab, SERVER, false);
    if offload == "require" {
        relay.wait_for_routes(2);
    }
    call.assert_carries(b"hello");
    let loads = under_load(&call, work);
    let forwarded = relay.forwarded(&mut call);
    println!("offload={offload}: {loads:?}, the kernel forwarded {forwarded:?}");
    assert!(loads.iter().all(|load| load.sent > 100), "it was no load");
    (loads, forwarded)
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn a_failover_under_load_loses_no_more_than_what_is_on_its_way() {
    const FAILOVERS: [usize; 4] = [1, 0, 1, 0];
    let test = "a_failover_under_load_loses_no_more_than_what_is_on_its_way";
    let Some(stage) = Stage::new(test, CARDS) else { return };
    behind_a_switch(&stage);
    let fail_over = || {
        for active in FAILOVERS {
            thread::sleep(TERM);
            let port = &stage.near[active];
            run(&stage.lab.relay, &format!("ip link set bond0 type bond active_slave {port}"));
        }
        thread::sleep(TERM);
    };
    // What is lost without the kernel path is for comparison: that on its way to the port that was active.
    load_a_bond(&stage, "off", fail_over);
    let (loads, forwarded) = load_a_bond(&stage, "require", fail_over);
    // Two for each failover: it may be between two of a load's.
    let few = 2 * FAILOVERS.len() as u64;
    assert!(loads.iter().all(|load| load.lost <= few && load.twice == 0), "{loads:?}");
    assert!(loads.iter().zip(forwarded).all(|(load, kernel)| kernel * 10 > load.sent * 8), "{loads:?}");
}

#[test]
#[ignore = "needs cards: cargo xtask kernels"]
fn a_port_that_dies_under_load_is_left_within_a_moment() {
    let Some(stage) = Stage::new("a_port_that_dies_under_load_is_left_within_a_moment", CARDS) else {
        return;
    };
    behind_a_switch(&stage);
    let kill_each = || {
        for port in &stage.near {
            thread::sleep(TERM);
            run(&stage.lab.relay, &format!("ip link set {port} down"));
            thread::sleep(TERM);
            run(&stage.lab.relay, &format!("ip link set {port} up"));
        }
        thread::sleep(TERM);
    };
    load_a_bond(&stage, "off", kill_each);
    let (loads, _) = load_a_bond(&stage, "require", kill_each);
    // The bond looks at its ports every 20 ms; a busy machine takes its time.
    assert!(loads.iter().all(|load| load.lost * 5 < load.sent), "{loads:?}");
}
