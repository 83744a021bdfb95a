//! Histories: what clients, peers, time and the mirror do, and frames in between.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;
use turnpike_abi::{Direction, Listener, Rate, Route, RouteKey, Verdict};
use turnpike_fixtures::{
    AllocationState, BindingState, CLIENT_HOP, Checksum, Datagram, Limit, MAC, Outcome, PEER_HOP, Parsed,
    Plane, ROUTER_MAC, Scene, UdpChecksum, VLAN, World, parse,
};
use turnpike_offload::routes::Placement;
use turnpike_proto::wire::{MessageBuilder, attr};
use turnpike_proto::{Egress, Input, OffloadBinding, PlaneMemory, SlotName};

use crate::lab::{Client, Lab, PEER, PEER_V6, SERVER_V4, SERVER_V6, Sent, Setup, addr};

/// Few of everything, so that it is used again soon.
const SLOTS: (usize, usize) = (5, 8);
const PORTS: (u16, u16) = (50_000, 50_005);
const CLIENTS: [&str; 4] =
    ["203.0.113.5:1000", "203.0.113.5:1001", "[2001:db8:c::5]:1000", "[2001:db8:c::6]:1000"];
const PEERS: [&str; 3] = [PEER, "198.51.100.7:4001", PEER_V6];
const CHANNELS: [u16; 3] = [0x4000, 0x4001, 0x4fff];
/// So much that the core never reaches it; whether it is used up in the kernel is the frame's choice.
const LIMIT_BITS: u64 = 10_000_000_000;
const LEASED: u64 = u64::MAX;
/// So many bindings are remembered to be aimed at: more than can live at once.
const LATEST: usize = 10;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client asks for an allocation: IPv4, IPv6 or both.
    Allocate { client: usize, family: usize },
    /// A client refreshes, or ends its allocation.
    Refresh { client: usize, ends: bool },
    /// A client binds a channel to a peer, or to another client's relayed address.
    Bind { client: usize, channel: usize, target: Target },
    /// An allocation gets a bandwidth limit, or loses it.
    Limit { client: usize, on: bool },
    /// Time passes; perhaps the worker was too busy to notice.
    Sleep { secs: u64, ticks: bool },
    /// The mirror falls behind (`true`), or catches up.
    Lag(bool),
    /// A route is lost.
    Lose(Index),
    /// A binding's routes will stay when it is withdrawn: the kernel did not delete them.
    Keep(Index),
    /// A frame comes in.
    Frame(FrameStep),
}

/// Somebody to talk to.
#[derive(Clone, Debug)]
pub enum Target {
    /// One of the peers.
    Peer(usize),
    /// Where a client is reached, if it is.
    Relayed(usize, usize),
}

/// A frame, and what is done to it before it comes in.
#[derive(Clone, Debug)]
pub struct FrameStep {
    /// One of the latest channels that the kernel was told of, alive or not; else what the next four say.
    aim: Option<Index>,
    client: usize,
    /// ChannelData on this channel, or else a datagram of a peer to this client.
    channel: Option<usize>,
    from: Target,
    to: Index,
    data: Vec<u8>,
    /// What the length field is wrong by.
    lie: i8,
    padding: Vec<u8>,
    tos: u8,
    ttl: u8,
    no_checksum: bool,
    trailer: usize,
    /// Another VLAN tag than its sender's interface has, or none.
    stray: Option<Option<u16>>,
    damage: Vec<(Index, u8)>,
    /// What the payload begins with instead.
    first: Option<u8>,
    used_up: bool,
}

/// A history.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..CLIENTS.len();
    let target = || {
        prop_oneof![
            (0..PEERS.len()).prop_map(Target::Peer),
            (0..CLIENTS.len(), 0..2_usize).prop_map(|(client, place)| Target::Relayed(client, place)),
        ]
    };
    let step = prop_oneof![
        4 => (client.clone(), 0..3_usize).prop_map(|(client, family)| Step::Allocate { client, family }),
        2 => (client.clone(), any::<bool>()).prop_map(|(client, ends)| Step::Refresh { client, ends }),
        8 => (client.clone(), 0..CHANNELS.len(), target())
            .prop_map(|(client, channel, target)| Step::Bind { client, channel, target }),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, on)| Step::Limit { client, on }),
        2 => (prop_oneof![1..20_u64, 250..700_u64], any::<bool>())
            .prop_map(|(secs, ticks)| Step::Sleep { secs, ticks }),
        2 => prop_oneof![2 => Just(true), 1 => Just(false)].prop_map(Step::Lag),
        1 => any::<Index>().prop_map(Step::Lose),
        1 => any::<Index>().prop_map(Step::Keep),
        24 => frame(target()).prop_map(Step::Frame),
    ];
    // Everybody is there to begin with, and most of them talk to each other.
    let bind = |client, channel, target| Step::Bind { client, channel, target };
    let mut begin: Vec<Step> =
        (0..).zip([0, 0, 1, 2]).map(|(client, family)| Step::Allocate { client, family }).collect();
    begin.extend([
        bind(0, 0, Target::Peer(0)),
        bind(1, 0, Target::Relayed(0, 0)),
        bind(2, 0, Target::Peer(2)),
        bind(3, 0, Target::Relayed(2, 0)),
        bind(0, 1, Target::Relayed(1, 0)),
    ]);
    prop::collection::vec(step, 10..60).prop_map(move |rest| [begin.clone(), rest].concat())
}

fn frame(from: impl Strategy<Value = Target>) -> impl Strategy<Value = FrameStep> {
    let one_in = |n: u8| (0..n).prop_map(|roll| roll == 0);
    let content = (
        prop::collection::vec(any::<u8>(), 0..48),
        prop_oneof![12 => Just(0_i8), 1 => -3..=3_i8],
        prop_oneof![6 => Just(vec![]), 1 => prop::collection::vec(0..2_u8, 1..5)],
    );
    let headers = (any::<u8>(), prop_oneof![8 => 2..=255_u8, 1 => 0..2_u8], one_in(6), 0..6_usize);
    let first = prop_oneof![16 => Just(None), 1 => any::<u8>().prop_map(Some)];
    let stray = prop_oneof![
        12 => Just(None),
        1 => Just(Some(Some(VLAN))),
        1 => Just(Some(None)),
        2 => (any::<u16>(), prop_oneof![Just(0), Just(VLAN), 0..0x1000_u16])
            .prop_map(|(priority, vlan)| Some(Some(priority & 0xf000 | vlan))),
    ];
    let damage = prop_oneof![
        3 => Just(vec![]),
        1 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ];
    let channel = prop_oneof![2 => (0..CHANNELS.len()).prop_map(Some), 1 => Just(None)];
    let aim = prop_oneof![4 => any::<Index>().prop_map(Some), 1 => Just(None)];
    let ends = (aim, 0..CLIENTS.len(), channel, from, any::<Index>());
    (ends, content, headers, damage, one_in(2), stray, first).prop_map(
        |((aim, client, channel, from, to), content, headers, damage, used_up, stray, first)| FrameStep {
            first,
            aim,
            client,
            channel,
            from,
            to,
            data: content.0,
            lie: content.1,
            padding: content.2,
            tos: headers.0,
            ttl: headers.1,
            no_checksum: headers.2,
            trailer: headers.3,
            stray,
            damage,
            used_up,
        },
    )
}

/// How many frames, and what became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub frames: u64,
    pub forwarded: u64,
    pub hairpins: u64,
    pub dropped: u64,
    pub garbage: u64,
}

impl Tally {
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            frames: self.frames + other.frames,
            forwarded: self.forwarded + other.forwarded,
            hairpins: self.hairpins + other.hairpins,
            dropped: self.dropped + other.dropped,
            garbage: self.garbage + other.garbage,
        }
    }
}

/// Routes of a binding, as the mirror has inserted them.
struct Mirrored {
    owner: usize,
    name: SlotName,
    routes: Vec<(RouteKey, Route)>,
    /// Also when it was withdrawn.
    stays: bool,
}

/// Core, mirror and program side by side.
pub struct Bench<'p, P> {
    plane: &'p mut P,
    lab: Lab,
    clients: Vec<Client>,
    mirrored: Vec<Mirrored>,
    /// The latest bindings, some of them gone.
    latest: VecDeque<OffloadBinding>,
    pub tally: Tally,
}

impl<'p, P: Plane> Bench<'p, P> {
    pub fn new(plane: &'p mut P) -> Self {
        let lab = Lab::with(Setup { slots: Some(SLOTS), ports: PORTS, ..Setup::default() });
        let clients = CLIENTS.iter().enumerate();
        let clients = clients.map(|(number, address)| Client::new(address).on_worker(number % 2)).collect();
        Bench { plane, lab, clients, mirrored: Vec::new(), latest: VecDeque::new(), tally: Tally::default() }
    }

    pub fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Allocate { client, family } => self.request(client, |client, lab| {
                // It outlives its channels, which last ten minutes.
                let lasting = |message: MessageBuilder| message.lifetime(3600);
                client.allocate_with(lab, |message| match family {
                    0 => lasting(message),
                    1 => lasting(message).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                    _ => message.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                })
            }),
            Step::Refresh { client, ends } => {
                self.request(client, |client, lab| client.refresh(lab, if ends { 0 } else { 600 }));
            }
            Step::Bind { client, channel, target } => {
                if let Some(target) = self.address(&target) {
                    let number = CHANNELS[channel];
                    self.request(client, |client, lab| client.bind(lab, number, &target.to_string()));
                }
            }
            Step::Limit { client, on } => self.limit(client, on),
            Step::Sleep { secs, ticks: true } => self.lab.sleep(secs),
            Step::Sleep { secs, ticks: false } => self.lab.oversleep(secs),
            Step::Lag(behind) => {
                self.lab.hold_kernel = behind;
                if !behind {
                    // The grace period is over: nobody runs the program now.
                    self.lab.forget_withdrawn();
                }
            }
            Step::Lose(which) => {
                let routes = self.mirrored.iter_mut().filter(|mirrored| !mirrored.routes.is_empty());
                let mut routes: Vec<&mut Mirrored> = routes.collect();
                if !routes.is_empty() {
                    let place = which.index(routes.len());
                    let routes = &mut routes[place].routes;
                    routes.remove(which.index(routes.len()));
                }
            }
            Step::Keep(which) => {
                if !self.mirrored.is_empty() {
                    let place = which.index(self.mirrored.len());
                    self.mirrored[place].stays = true;
                }
            }
            Step::Frame(frame) => {
                self.mirror();
                self.frame(&frame)?;
            }
        }
        self.mirror();
        Ok(())
    }

    /// A request by a client whose nonce may have become old.
    fn request(&mut self, client: usize, ask: impl Fn(&mut Client, &mut Lab) -> crate::lab::Answer) {
        let client = &mut self.clients[client];
        let answer = ask(client, &mut self.lab);
        if answer.code == Some(438) {
            client.nonce.clear();
            ask(client, &mut self.lab);
        }
    }

    fn limit(&mut self, client: usize, on: bool) {
        let Client { address, worker, .. } = self.clients[client];
        let (views, _) = self.lab.workers[worker].inspect(None, 100);
        if let Some(view) = views.iter().find(|view| view.five_tuple.client.0 == address) {
            let bits_per_sec = if on { LIMIT_BITS } else { 0 };
            self.lab.input(worker, Input::SetRate { allocation: view.id, bits_per_sec });
        }
    }

    fn relayed(&self, client: usize) -> Vec<SocketAddr> {
        let Client { address, worker, .. } = self.clients[client];
        let (views, _) = self.lab.workers[worker].inspect(None, 100);
        let view = views.iter().find(|view| view.five_tuple.client.0 == address);
        view.map_or_else(Vec::new, |view| view.relayed.clone())
    }

    fn address(&self, target: &Target) -> Option<SocketAddr> {
        match target {
            Target::Peer(number) => Some(addr(PEERS[*number])),
            Target::Relayed(client, place) => {
                let relayed = self.relayed(*client);
                (!relayed.is_empty()).then(|| relayed[place % relayed.len()])
            }
        }
    }

    /// Brings the routes up to date: those that are withdrawn go when the core is answered, new ones come
    /// when nobody else has their keys and places.
    fn mirror(&mut self) {
        let known = |owner: usize, name: SlotName, lab: &Lab| {
            lab.withdrawing.contains(&(owner, name))
                || lab.offloaded.iter().any(|(worker, binding)| (*worker, binding.binding) == (owner, name))
        };
        self.mirrored.retain(|mirrored| mirrored.stays || known(mirrored.owner, mirrored.name, &self.lab));
        for (owner, binding) in &self.lab.offloaded {
            let is_it = |mirrored: &Mirrored| (mirrored.owner, mirrored.name) == (*owner, binding.binding);
            if self.mirrored.iter().any(is_it) {
                continue;
            }
            if !self.latest.contains(binding) {
                self.latest.push_back(*binding);
                if self.latest.len() > LATEST {
                    self.latest.pop_front();
                }
            }
            let routes = routes(binding);
            // A route that stays keeps its key, and its place in the slot.
            let others = || self.mirrored.iter().flat_map(|mirrored| &mirrored.routes);
            let is_up = |route: &Route| route.channel == 0;
            let taken = |(key, route): &(RouteKey, Route)| {
                let in_place = |other: &Route| other.binding == route.binding && is_up(other) == is_up(route);
                others().any(|(other_key, other)| other_key == key || in_place(other))
            };
            if !routes.iter().any(taken) {
                self.mirrored.push(Mirrored {
                    owner: *owner,
                    name: binding.binding,
                    routes: routes.into(),
                    stays: false,
                });
            }
        }
    }

    fn frame(&mut self, step: &FrameStep) -> Result<(), TestCaseError> {
        let Some(frame) = self.build(step) else { return Ok(()) };
        let world = self.world(step.used_up);
        let outcome = self.plane.run(&world, &frame);
        self.tally.frames += 1;
        if outcome.passed {
            prop_assert_eq!(&outcome.frame, &frame, "a frame that passes is not changed");
            let charged = outcome.traffic.iter().flatten().flatten().any(|number| *number != 0);
            prop_assert!(!charged, "a frame that passes is not charged: {:?}", outcome.traffic);
            return Ok(());
        }
        if outcome.verdicts[Verdict::DropNotTurn as usize] == 1 {
            return self.garbage(&frame);
        }
        if !outcome.redirected {
            return self.dropped(step, &outcome);
        }
        let sent = parse(&frame);
        prop_assert!(sent.is_some(), "what no host would take was forwarded: {:02x?}", frame);
        self.forwarded(&sent.expect("it is some"), &outcome.frame)
    }

    /// What is dropped as garbage comes to a listener, and the core sends nothing and counts it as the same.
    fn garbage(&mut self, frame: &[u8]) -> Result<(), TestCaseError> {
        let sent = parse(frame);
        prop_assert!(sent.as_ref().is_some_and(|sent| is_listener(sent.destination)), "{:02x?}", frame);
        let sent = sent.expect("it is some");
        let known = self.clients.iter().find(|client| client.address == sent.source).cloned();
        let client = known.unwrap_or_else(|| Client::new(&sent.source.to_string()));
        let count = |lab: &Lab| lab.workers[client.worker].counts().verdicts.of(Verdict::DropNotTurn);
        let before = count(&self.lab);
        self.lab.take_sent();
        self.lab.client_sends(client.worker, client.path(), &sent.payload, sent.tos);
        prop_assert_eq!(self.lab.take_sent().len(), 0);
        prop_assert_eq!(count(&self.lab), before + 1, "{:02x?}", sent.payload);
        self.tally.garbage += 1;
        Ok(())
    }

    /// A dropped frame was dropped for its rate, by a limit that is there and used up.
    fn dropped(&mut self, step: &FrameStep, outcome: &Outcome) -> Result<(), TestCaseError> {
        let by_rate =
            [Verdict::DropRateToPeer, Verdict::DropRateToClient].map(|it| outcome.verdicts[it as usize]);
        let limited = self.lab.memory.allocations().iter().any(|slot| slot.to_peer.price.load(Relaxed) != 0);
        prop_assert_eq!(by_rate.iter().sum::<u64>(), 1, "{:?}", outcome.verdicts);
        prop_assert!(step.used_up && limited, "dropped without a limit that is used up");
        self.tally.dropped += 1;
        Ok(())
    }

    /// The core sends the same.
    fn forwarded(&mut self, sent: &Parsed, got: &[u8]) -> Result<(), TestCaseError> {
        prop_assert_eq!(sent.to_mac, MAC, "not for us");
        // Clients are in a VLAN, peers below it: each by the interface by which it would be answered.
        prop_assert_eq!(
            sent.vlan,
            if is_listener(sent.destination) { VLAN } else { 0 },
            "by another interface"
        );
        prop_assert!(sent.ttl > 1, "its time was over");
        let (last, source, hop) = self.all_the_way(sent)?;
        prop_assert!(!last.dont_fragment);
        // Padding stays behind the packet.
        let carried = if is_listener(sent.destination) { sent.payload.len() - 4 } else { sent.payload.len() };
        let relayed = if is_listener(source) { last.payload.len() - 4 } else { last.payload.len() };
        let trailer = [vec![0; carried - relayed], sent.trailer.clone()].concat();
        let hop_mac = [0x02, 0, 0, 0, 0, hop as u8];
        let vlan = if hop == CLIENT_HOP { VLAN } else { 0 };
        let no_host = || TestCaseError::fail(format!("no host would take it: {got:02x?}"));
        let out = parse(got).ok_or_else(no_host)?;
        // A datagram that arrived damaged arrives damaged, so that nobody takes it for whole.
        prop_assert_eq!(out.checksum, sent.checksum, "{:02x?}", got);
        if sent.checksum == Checksum::Wrong {
            let expected = Parsed {
                to_mac: hop_mac,
                vlan,
                source,
                destination: last.to,
                tos: last.tos,
                ttl: sent.ttl - 1,
                payload: last.payload,
                checksum: Checksum::Wrong,
                trailer,
            };
            prop_assert_eq!(out, expected);
            self.tally.forwarded += 1;
            return Ok(());
        }
        let expected = Datagram {
            to_mac: hop_mac,
            from_mac: MAC,
            tag: (vlan != 0).then_some(vlan),
            source,
            destination: last.to,
            tos: last.tos,
            ttl: sent.ttl - 1,
            identification: if vlan == 0 { word(got, 18) } else { word(got, 22) },
            dont_fragment: false,
            flow_label: 0,
            payload: last.payload,
            checksum: if sent.checksum == Checksum::Right { UdpChecksum::Right } else { UdpChecksum::None },
            trailer,
        };
        prop_assert_eq!(expected.bytes(), got);
        self.tally.forwarded += 1;
        Ok(())
    }

    /// What leaves this host in the end, from which address and to which next hop.
    fn all_the_way(&mut self, sent: &Parsed) -> Result<(Sent, SocketAddr, u16), TestCaseError> {
        let (first, source) = self.core(sent.source, sent.destination, &sent.payload, sent.tos)?;
        let (mut last, mut source, mut hop) =
            (first, source, if is_listener(sent.destination) { PEER_HOP } else { CLIENT_HOP });
        if is_listener(sent.destination) && self.lab.open.values().any(|open| *open == last.to) {
            // From one relayed address of ours to another: the host would bring it round to us.
            let (again, from) = self.core(source, last.to, &last.payload, last.tos)?;
            (last, source, hop) = (again, from, CLIENT_HOP);
            self.tally.hairpins += 1;
        }
        Ok((last, source, hop))
    }

    /// What the core does with a datagram: the one that it sends, and from which address.
    fn core(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        payload: &[u8],
        tos: u8,
    ) -> Result<(Sent, SocketAddr), TestCaseError> {
        self.lab.take_sent();
        let worker = if is_listener(destination) {
            let client = self.clients.iter().find(|client| client.address == source);
            prop_assert!(client.is_some(), "a stranger's datagram was forwarded: {source}");
            let client = client.expect("it is some").clone();
            prop_assert_eq!(client.path().five_tuple.server, destination);
            self.lab.client_sends(client.worker, client.path(), payload, tos);
            client.worker
        } else {
            self.lab.peer_sends(source, destination, payload, tos);
            0
        };
        let sent = self.lab.take_sent();
        prop_assert_eq!(sent.len(), 1, "the core sends one datagram: {:?}", sent);
        let sent = sent[0].clone();
        let from = match sent.egress {
            Egress::Client { source, .. } => source,
            Egress::Relay(relay) => self.lab.open[&(worker, relay)],
        };
        Ok((sent, from))
    }

    fn build(&self, step: &FrameStep) -> Option<Vec<u8>> {
        let (source, destination, channel) = self.ends(step)?;
        let mut payload = match channel {
            Some(number) => {
                let length = (step.data.len() as u16).saturating_add_signed(step.lie.into());
                let header = [number.to_be_bytes(), length.to_be_bytes()].concat();
                [&header[..], &step.data, &step.padding].concat()
            }
            None => step.data.clone(),
        };
        if let (Some(byte), Some(first)) = (payload.first_mut(), step.first) {
            *byte = first;
        }
        let datagram = Datagram {
            to_mac: MAC,
            from_mac: ROUTER_MAC,
            tag: step.stray.unwrap_or(is_listener(destination).then_some(VLAN)),
            source,
            destination,
            tos: step.tos,
            ttl: step.ttl,
            identification: 0x1234,
            dont_fragment: true,
            flow_label: 0xabcde,
            payload,
            checksum: if step.no_checksum { UdpChecksum::None } else { UdpChecksum::Right },
            trailer: vec![0xee; step.trailer],
        };
        let mut frame = datagram.bytes();
        for (at, value) in &step.damage {
            let at = at.index(frame.len());
            frame[at] = *value;
        }
        Some(frame)
    }

    /// From where to where a frame goes, and on which channel.
    fn ends(&self, step: &FrameStep) -> Option<(SocketAddr, SocketAddr, Option<u16>)> {
        if let Some(aim) = step.aim.filter(|_| !self.latest.is_empty()) {
            let binding = self.latest[aim.index(self.latest.len())];
            return Some(match step.channel {
                Some(_) => (binding.client, binding.server, Some(binding.channel)),
                None => (binding.peer, binding.relayed, None),
            });
        }
        let client = &self.clients[step.client];
        if let Some(channel) = step.channel {
            return Some((client.address, client.path().five_tuple.server, Some(CHANNELS[channel])));
        }
        let source = self.address(&step.from)?;
        let mut relayed = self.relayed(step.client);
        relayed.retain(|relayed| relayed.is_ipv4() == source.is_ipv4());
        (!relayed.is_empty()).then(|| (source, relayed[step.to.index(relayed.len())], None))
    }

    /// What is in the maps now. Leases are judged by the laboratory's clock: those that hold, hold for ever.
    fn world(&self, used_up: bool) -> World {
        let now_ns = self.lab.now.mono_ns;
        let lease = |ends_ns: u64| if ends_ns > now_ns { LEASED } else { ends_ns.min(1) };
        let limit = |direction: &Direction<_>| match direction.rate() {
            Rate::UNLIMITED => Limit::None,
            rate if used_up => Limit::UsedUp(rate),
            rate => Limit::Fresh(rate),
        };
        let memory = &self.lab.memory;
        let bindings = memory.bindings().iter().map(|binding| BindingState {
            lease_ns: lease(binding.to_peer.lease_ns.load(Relaxed)),
            generation: binding.to_peer.generation.load(Relaxed) as u32,
        });
        let allocations = memory.allocations().iter().map(|slot| AllocationState {
            lease_ns: lease(slot.to_peer.lease_ns.load(Relaxed)),
            generation: slot.to_peer.generation.load(Relaxed) as u32,
            to_peer: limit(&slot.to_peer),
            to_client: limit(&slot.to_client),
        });
        let mut world = Scene { client_v6: false, relay_v6: false, other_v6: false }.world();
        (world.config.first_relay_port, world.config.last_relay_port) = PORTS;
        for (place, listener) in world.config.shielded.iter_mut().zip([SERVER_V4, SERVER_V6].map(addr)) {
            *place = Listener { address: listener.ip().into(), port: listener.port().into() };
        }
        world.bindings = bindings.collect();
        world.allocations = allocations.collect();
        let to_clients = &mut world.next_hops[usize::from(CLIENT_HOP)];
        *to_clients = to_clients.in_vlan(VLAN);
        world.routes = self.mirrored.iter().flat_map(|mirrored| mirrored.routes.clone()).collect();
        world
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn is_listener(address: SocketAddr) -> bool {
    [SERVER_V4, SERVER_V6].map(addr).contains(&address)
}

/// A binding's routes, as the mirror makes them where clients are in a VLAN and peers below it.
pub fn routes(binding: &OffloadBinding) -> [(RouteKey, Route); 2] {
    let outside =
        Placement { to_peer: PEER_HOP, to_client: CLIENT_HOP, client_side: 0b1000, peer_side: 0b10 };
    let place = match binding.internal {
        true => Placement { to_peer: 0, peer_side: 0, ..outside },
        false => outside,
    };
    turnpike_offload::routes::routes(binding, place)
}
