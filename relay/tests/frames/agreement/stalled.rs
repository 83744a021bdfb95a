//! Channels come and go while the program runs, and it is slow: no datagram goes to anybody but whom its
//! channel belonged to at some time during its run.
//!
//! Slots and ports are so few that each is somebody else's the next moment. The runs of the program stop
//! between any two of its steps, also with an entry of the table in hand that has been let go since. With a grace
//! period before it is used again, as the mirror has it, and without: generations are enough.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use turnpike_abi::{
    Allocation, Bucket, Charge, Config, Entry, NextHop, RouteTable, Switch, Verdict, buckets_for,
};
use turnpike_ebpf::{Action, Maps, handle};
use turnpike_fixtures::{Datagram, MAC, ROUTER_MAC, Scene, UdpChecksum, VLAN, World, parse};
use turnpike_proto::shared::plane::PlainMemory;
use turnpike_proto::{OffloadBinding, PlaneMemory};

use super::history::routes;
use crate::host::HostFrame;
use crate::lab::{Client, Lab, Setup};

const READERS: usize = 3;
const ROUNDS: u16 = 250;
/// Two of everything, for one channel at a time and the one before.
const PORTS: (u16, u16) = (50_000, 50_001);
const CHANNELS: [u16; 2] = [0x4000, 0x4001];
const CLIENTS: [&str; 2] = ["203.0.113.5:1000", "203.0.113.6:1000"];

/// A binding, and from when until when it was one. Times are numbers of events.
struct Life {
    binding: OffloadBinding,
    from: u64,
    until: u64,
}

/// A datagram that was sent: who had sent it to whom, and when the program had it.
struct Delivery {
    client: SocketAddr,
    relayed: SocketAddr,
    peer: SocketAddr,
    from: u64,
    until: u64,
}

/// What all threads see.
struct Stage {
    world: World,
    memory: Arc<PlainMemory>,
    switch: Switch<AtomicU64>,
    buckets: Vec<Bucket<AtomicU64>>,
    /// Whether the writer waits for runs that may have what it lets go.
    has_grace: bool,
    /// The latest binding, to be aimed at.
    target: Mutex<Option<OffloadBinding>>,
    now_ns: AtomicU64,
    events: AtomicU64,
    /// Odd while a reader runs the program.
    runs: [AtomicU64; READERS],
    over: AtomicBool,
}

impl Stage {
    fn table(&self) -> RouteTable<'_> {
        RouteTable { switch: &self.switch, buckets: &self.buckets, bindings: self.memory.bindings() }
    }

    fn event(&self) -> u64 {
        self.events.fetch_add(1, SeqCst)
    }

    /// Until no run is left that had begun before.
    fn grace_period(&self) {
        for run in &self.runs {
            let seen = run.load(SeqCst);
            while seen % 2 == 1 && run.load(SeqCst) == seen {
                thread::yield_now();
            }
        }
    }
}

/// The maps as one run sees them, slowly.
struct SlowMaps<'s> {
    stage: &'s Stage,
    random: std::cell::Cell<u64>,
}

impl SlowMaps<'_> {
    fn stall(&self) {
        let random = self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random.set(random);
        match random >> 60 {
            0 => thread::sleep(Duration::from_micros(random >> 40 & 0xff)),
            1..4 => thread::yield_now(),
            _ => {}
        }
    }
}

impl Maps for SlowMaps<'_> {
    type Word = AtomicU64;

    fn switch(&self) -> Option<&Switch<AtomicU64>> {
        Some(&self.stage.switch)
    }

    fn config(&self, _: u32) -> Option<&Config> {
        Some(&self.stage.world.config)
    }

    fn bucket(&self, place: u32) -> Option<&Bucket<AtomicU64>> {
        self.stall();
        self.stage.buckets.get(place as usize)
    }

    fn entry(&self, place: u32) -> Option<&Entry<AtomicU64>> {
        self.stall();
        let binding = self.stage.memory.bindings().get(place as usize / 2)?;
        Some(if place.is_multiple_of(2) { &binding.to_peer } else { &binding.to_client })
    }

    fn allocation(&self, slot: u32) -> Option<&Allocation<AtomicU64>> {
        self.stall();
        self.stage.memory.allocations().get(slot as usize)
    }

    fn next_hop(&self, slot: u32) -> Option<&NextHop> {
        self.stall();
        self.stage.world.next_hops.get(slot as usize)
    }

    fn now_ns(&self) -> u64 {
        self.stage.now_ns.load(SeqCst)
    }

    fn queue(&self, _: u32, _: Charge, _: Charge) {}

    fn send_back(&self, _: u32, _: Charge, _: Charge) {}

    fn count(&self, _: Verdict) {}
}

/// Sends what fits the latest binding, both ways, until the writer is done.
fn read(stage: &Stage, number: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    let mut run = 0_u64;
    while !stage.over.load(SeqCst) {
        run += 1;
        let Some(target) = *stage.target.lock().expect("no panic") else { continue };
        let up = run.is_multiple_of(2);
        let frame = if up {
            let header = [target.channel.to_be_bytes(), [0, 4]].concat();
            let up = datagram(target.client, target.server, [&header[..], b"data"].concat());
            Datagram { tag: Some(VLAN), ..up }
        } else {
            datagram(target.peer, target.relayed, b"data".to_vec())
        };
        let mut frame = HostFrame::new(&frame.bytes(), 64);
        let random = (number as u64 + 1) << 32 | run;
        let maps = SlowMaps { stage, random: random.into() };
        let from = stage.event();
        stage.runs[number].fetch_add(1, SeqCst);
        let action = handle(&mut frame, &maps);
        stage.runs[number].fetch_add(1, SeqCst);
        let until = stage.event();
        if action == Action::Pass {
            continue;
        }
        assert_eq!(action, Action::Redirect(1, 1));
        let sent = parse(frame.bytes()).expect("a whole datagram");
        let (client, relayed, peer) = match up {
            true => (target.client, sent.source, sent.destination),
            false => (sent.destination, target.relayed, target.peer),
        };
        deliveries.push(Delivery { client, relayed, peer, from, until });
    }
    deliveries
}

fn datagram(source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Datagram {
    Datagram {
        to_mac: MAC,
        from_mac: ROUTER_MAC,
        tag: None,
        source,
        destination,
        tos: 0,
        ttl: 64,
        identification: 0,
        dont_fragment: false,
        flow_label: 0,
        payload,
        checksum: UdpChecksum::Right,
        trailer: Vec::new(),
    }
}

/// Lets one client after the other allocate, bind a channel to a peer that nobody else ever has, and go.
fn write(stage: &Stage, lab: &mut Lab) -> Vec<Life> {
    let mut clients = CLIENTS.map(Client::new);
    let mut lives: Vec<Life> = Vec::new();
    for round in 0..ROUNDS {
        let client = &mut clients[usize::from(round) % CLIENTS.len()];
        // One is the one before's as long as the grace period lasts.
        let relayed = client.allocate(lab);
        let peer = SocketAddr::from(([198, 51, 100, 7], 1024 + round));
        let from = stage.event();
        let channel = CHANNELS[usize::from(round / 2) % CHANNELS.len()];
        client.bind(lab, channel, &peer.to_string()).expect_success();
        let (_, binding) = *lab.offloaded.last().expect("there is room");
        assert_eq!((binding.peer, binding.relayed), (peer, relayed));
        for (key, route) in routes(&binding) {
            stage.table().insert(&key, &route).expect("it is the only one");
        }
        *stage.target.lock().expect("no panic") = Some(binding);
        thread::sleep(Duration::from_micros(1500));

        client.refresh(lab, 0).expect_success();
        let until = stage.event();
        lives.push(Life { binding, from, until });
        assert!(routes(&binding).iter().all(|(key, _)| stage.table().remove(key)));
        if stage.has_grace {
            stage.grace_period();
        }
        lab.forget_withdrawn();
        stage.now_ns.store(lab.now.mono_ns, SeqCst);
    }
    lives
}

#[test]
fn a_slow_run_never_sends_to_the_next_owner() {
    check(true);
}

#[test]
fn a_slow_run_never_sends_to_the_next_owner_of_an_entry_that_nobody_waited_for() {
    check(false);
}

fn check(has_grace: bool) {
    let setup = Setup { slots: Some((2, 2)), ports: PORTS, ..Setup::default() };
    let mut lab = Lab::with(setup);
    lab.hold_kernel = true;
    let mut world = Scene { client_v6: false, relay_v6: false, other_v6: false }.world();
    (world.config.first_relay_port, world.config.last_relay_port) = PORTS;
    let stage = Stage {
        world,
        memory: Arc::clone(&lab.memory),
        switch: Switch { lease_ns: u64::MAX.into(), ..Switch::default() },
        buckets: (0..buckets_for(2)).map(|_| Bucket::default()).collect(),
        has_grace,
        target: Mutex::default(),
        now_ns: lab.now.mono_ns.into(),
        events: AtomicU64::new(0),
        runs: Default::default(),
        over: AtomicBool::new(false),
    };
    stage.table().seed([1, 3, 5, 7, 9]);
    let (lives, deliveries) = thread::scope(|scope| {
        let stage = &stage;
        let readers: Vec<_> = (0..READERS).map(|number| scope.spawn(move || read(stage, number))).collect();
        let lives = write(stage, &mut lab);
        stage.over.store(true, SeqCst);
        let deliveries = readers.into_iter().flat_map(|reader| reader.join().expect("no panic"));
        (lives, deliveries.collect::<Vec<_>>())
    });
    for Delivery { client, relayed, peer, from, until } in &deliveries {
        let is_it = |life: &&Life| {
            let binding = &life.binding;
            (binding.client, binding.relayed, binding.peer) == (*client, *relayed, *peer)
        };
        let life = lives.iter().find(is_it);
        let life = life.unwrap_or_else(|| panic!("{client} was never bound to {peer} at {relayed}"));
        assert!(life.from < *until && *from < life.until, "{client} to {peer}, but not at that time");
    }
    println!("{} datagrams sent during {} bindings", deliveries.len(), lives.len());
    assert!(deliveries.len() > lives.len(), "{} datagrams are no traffic", deliveries.len());
    let names = lives.iter().map(|life| (life.binding.binding.slot, life.binding.relayed));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.dedup();
    assert!(names.len() * 20 < lives.len(), "slots and ports were used again: {names:?}");
}
