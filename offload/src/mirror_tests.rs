use std::cell::Cell;
use std::collections::HashMap as Map;
use std::io;

use turnpike_abi::Address;
use turnpike_proto::UserNumber;

use super::*;
use crate::netlink::Way;
use crate::nexthop::Places;

const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 254));
const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 0xfe];
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 0xfd];

/// Maps that insist on the order: nothing is inserted between a deletion and its grace period.
#[derive(Default)]
struct Double {
    routes: Map<RouteKey, Route>,
    next_hops: Map<u32, NextHop>,
    config: Option<Config>,
    deleted: Cell<bool>,
    graces: Cell<u32>,
    refuse: bool,
}

impl Double {
    /// Slots of next hops that routes name, the first half of hairpins left out.
    fn hops_in_use(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.routes.values().map(|route| u32::from(route.next_hop)).collect();
        slots.retain(|slot| *slot != 0);
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

impl Kernel for Double {
    fn insert_route(&mut self, key: &RouteKey, route: &Route) -> Result<(), MapsError> {
        assert!(!self.deleted.get(), "an element may still be read");
        if self.refuse || self.routes.contains_key(key) {
            let error = io::ErrorKind::AlreadyExists.into();
            return Err(MapsError::System { what: "insert", error });
        }
        if route.next_hop != 0 {
            assert!(self.next_hops.contains_key(&route.next_hop.into()), "its next hop is written first");
        }
        self.routes.insert(*key, *route);
        Ok(())
    }

    fn remove_route(&mut self, key: &RouteKey) -> bool {
        self.deleted.set(true);
        self.routes.remove(key).is_some()
    }

    fn routes(&self) -> Vec<(RouteKey, Route)> {
        self.routes.iter().map(|(key, route)| (*key, *route)).collect()
    }

    fn set_next_hop(&mut self, slot: u32, next_hop: NextHop) -> Result<(), MapsError> {
        assert!(!self.hops_in_use().contains(&slot), "it is in use");
        self.next_hops.insert(slot, next_hop);
        Ok(())
    }

    fn replace_next_hops(&mut self, changes: &[(u32, NextHop)]) -> Result<(), MapsError> {
        self.next_hops.extend(changes.iter().copied());
        self.grace_period()
    }

    fn replace_config(&mut self, new: &Config) -> Result<(), MapsError> {
        self.config = Some(*new);
        self.grace_period()
    }

    fn grace_period(&self) -> Result<(), MapsError> {
        self.deleted.set(false);
        self.graces.set(self.graces.get() + 1);
        Ok(())
    }
}

/// Everything is behind one router on interface 7, unless said otherwise.
#[derive(Default)]
struct World {
    ways: Map<IpAddr, Option<Way>>,
    probed: Vec<(u32, IpAddr)>,
}

impl Routing for World {
    fn way(&mut self, _: IpAddr, destination: IpAddr) -> io::Result<Option<Way>> {
        let usual = Some(Way { ifindex: 7, neighbour: ROUTER, mtu: 0 });
        Ok(self.ways.get(&destination).copied().unwrap_or(usual))
    }

    fn probe(&mut self, ifindex: u32, neighbour: IpAddr) -> io::Result<()> {
        self.probed.push((ifindex, neighbour));
        Ok(())
    }
}

struct Lab {
    mirror: Mirror,
    kernel: Double,
    world: World,
}

fn port(ifindex: u32) -> Port {
    let mac = [2, 0, 0, 0, 0, ifindex as u8];
    Port {
        ifindex,
        device: ifindex,
        vlan: 0,
        ways_in: vec![ifindex],
        mac,
        mtu: 1500,
        redirects: true,
        sends_back: true,
    }
}

const ENABLED: Config = Config { enabled: 1, ..Config::OFF };

/// The configuration with these interfaces at the first places.
fn config(ports: &[Port]) -> Config {
    let mut places = Places::default();
    for (place, port) in ports.iter().enumerate() {
        places.ports[place] = Some(port.clone());
        places.devices[place] = port.device;
    }
    with_interfaces(&ENABLED, &places, 0)
}

fn name(slot: u32) -> SlotName {
    SlotName { slot, generation: 1 }
}

fn client(slot: u32) -> IpAddr {
    IpAddr::from([198, 51, 100, slot as u8])
}

fn peer(slot: u32) -> IpAddr {
    IpAddr::from([203, 0, 113, slot as u8])
}

fn binding(slot: u32) -> OffloadBinding {
    OffloadBinding {
        binding: name(slot),
        allocation: name(slot),
        client: (client(slot), 4000).into(),
        server: "192.0.2.1:3478".parse().unwrap(),
        relayed: (IpAddr::from([192, 0, 2, 1]), 50_000 + slot as u16).into(),
        peer: (peer(slot), 9000).into(),
        channel: 0x4000,
        internal: false,
        user: UserNumber(1),
    }
}

impl Lab {
    /// On interface 7, with the router's MAC address known.
    fn new() -> Lab {
        let mut lab = Lab { mirror: Mirror::new(64), kernel: Double::default(), world: World::default() };
        lab.set_ports(&[port(7)]);
        lab.mirror.set_neighbour(7, ROUTER, Some(ROUTER_MAC));
        lab
    }

    fn set_ports(&mut self, ports: &[Port]) {
        self.mirror.reconfigure(&mut self.kernel, ports.to_vec(), &ENABLED).unwrap();
    }

    fn round(&mut self, told: Vec<ToMirror>) -> Vec<Answer> {
        let Lab { mirror, kernel, world } = self;
        let told = told.into_iter().map(|told| (WorkerId(3), told)).collect();
        let mut all = Vec::new();
        mirror
            .round(kernel, world, told, |answers| {
                all.extend(answers.drain(..).map(|(worker, answer)| {
                    assert_eq!(worker, WorkerId(3));
                    answer
                }));
            })
            .unwrap();
        all
    }

    fn offload(&mut self, slot: u32) -> Vec<Answer> {
        self.round(vec![ToMirror::Offload(Box::new(binding(slot)))])
    }

    /// The next hop that the route with this key leads to.
    fn hop(&self, key: &RouteKey) -> NextHop {
        self.kernel.next_hops[&u32::from(self.kernel.routes[key].next_hop)]
    }
}

#[test]
fn a_binding_comes_and_goes_with_both_routes() {
    let mut lab = Lab::new();
    let before = lab.kernel.graces.get();
    assert_eq!(lab.offload(1), [Answer::Done(name(1))]);
    assert_eq!(lab.kernel.graces.get(), before, "inserting alone waits for nothing");
    let [from_client, from_peer] = routes::keys(&binding(1));
    let expected = NextHop::new(7, 1500, ROUTER_MAC, port(7).mac);
    assert_eq!((lab.hop(&from_client), lab.hop(&from_peer)), (expected, expected));
    assert_eq!(lab.kernel.routes[&from_client].destination, Address::from(peer(1)));
    assert_eq!(lab.kernel.routes[&from_client].ingress, 1);
    assert_eq!(lab.mirror.counts(), Counts { routes: 2, bindings: 1, waiting: 0, differences: 0 });
    assert_eq!(lab.round(vec![ToMirror::Withdraw(name(1))]), [Answer::Withdrawn(name(1))]);
    assert!(lab.kernel.routes.is_empty() && !lab.kernel.deleted.get(), "after a grace period");
    assert_eq!(lab.mirror.counts(), Counts::default());
}

#[test]
fn whatever_is_withdrawn_is_answered() {
    let mut lab = Lab::new();
    let older = SlotName { slot: 1, generation: 0 };
    lab.offload(1);
    let answers = lab.round(vec![ToMirror::Withdraw(older), ToMirror::Withdraw(name(9))]);
    assert_eq!(answers, [Answer::Withdrawn(older), Answer::Withdrawn(name(9))]);
    assert_eq!(lab.kernel.routes.len(), 2, "an old name means nobody else");
    let both = vec![ToMirror::Offload(Box::new(binding(2))), ToMirror::Withdraw(name(2))];
    assert_eq!(lab.round(both), [Answer::Withdrawn(name(2))]);
    assert_eq!(lab.kernel.routes.len(), 2);
}

#[test]
fn the_same_addresses_are_bound_again_after_a_grace_period() {
    let mut lab = Lab::new();
    lab.offload(1);
    let again = OffloadBinding { binding: name(2), ..binding(1) };
    let answers = lab.round(vec![ToMirror::Withdraw(name(1)), ToMirror::Offload(Box::new(again))]);
    assert_eq!(answers, [Answer::Done(name(2)), Answer::Withdrawn(name(1))]);
    assert_eq!(lab.kernel.routes[&routes::keys(&again)[0]].binding, 2);
}

#[test]
fn a_slot_that_comes_back_unannounced_replaces_its_routes() {
    let mut lab = Lab::new();
    lab.offload(1);
    let again =
        OffloadBinding { binding: SlotName { slot: 1, generation: 2 }, channel: 0x4001, ..binding(1) };
    assert_eq!(lab.round(vec![ToMirror::Offload(Box::new(again))]), [Answer::Done(again.binding)]);
    assert_eq!(lab.kernel.routes.len(), 2);
    assert!(lab.kernel.routes.values().all(|route| route.binding_generation == 2));
    assert_eq!(lab.mirror.counts().differences, 1);
}

#[test]
fn an_unknown_neighbour_is_asked_for_and_waited_for() {
    let mut lab = Lab::new();
    let neighbour = IpAddr::from([192, 0, 2, 9]);
    lab.world.ways.insert(peer(1), Some(Way { ifindex: 7, neighbour, mtu: 1400 }));
    assert_eq!(lab.offload(1), [Answer::Failed(name(1), WhyNot::NextHop)]);
    assert_eq!(lab.world.probed, [(7, neighbour)]);
    assert!(lab.kernel.routes.is_empty());
    lab.mirror.set_neighbour(7, neighbour, Some(OTHER_MAC));
    assert!(lab.mirror.has_more());
    assert_eq!(lab.round(vec![]), [Answer::Done(name(1))]);
    let hop = lab.hop(&routes::keys(&binding(1))[0]);
    assert_eq!(hop, NextHop::new(7, 1400, OTHER_MAC, port(7).mac), "the route's MTU is the smaller one");
}

#[test]
fn a_router_with_another_mac_address_is_one_entry() {
    let mut lab = Lab::new();
    (1..=3).for_each(|slot| drop(lab.offload(slot)));
    let before = lab.kernel.routes.clone();
    lab.mirror.set_neighbour(7, ROUTER, Some(OTHER_MAC));
    assert_eq!(lab.round(vec![]), [], "nothing for the workers");
    assert_eq!(lab.kernel.routes, before);
    assert_eq!(lab.kernel.next_hops.len(), 1);
    let key = routes::keys(&binding(2))[0];
    assert_eq!(lab.hop(&key), NextHop::new(7, 1500, OTHER_MAC, port(7).mac));
    lab.mirror.set_neighbour(7, ROUTER, None);
    assert_eq!(lab.round(vec![]).len(), 3, "each is told");
    assert_eq!(lab.hop(&key).ifindex, 0, "packets pass to userspace");
    lab.mirror.set_neighbour(7, ROUTER, Some(ROUTER_MAC));
    let mut back = lab.round(vec![]);
    back.sort_by_key(|answer| format!("{answer:?}"));
    assert_eq!(back, [1, 2, 3].map(|slot| Answer::Done(name(slot))));
    assert_eq!(lab.hop(&key).ifindex, 7);
}

#[test]
fn other_ways_move_routes() {
    let mut lab = Lab::new();
    lab.offload(1);
    let [from_client, from_peer] = routes::keys(&binding(1));
    // A smaller MTU towards the peer: learned from ICMP.
    lab.world.ways.insert(peer(1), Some(Way { ifindex: 7, neighbour: ROUTER, mtu: 1280 }));
    lab.mirror.recheck(&mut lab.world, IpAddr::from([192, 0, 2, 1]), peer(1));
    assert_eq!(lab.round(vec![]), []);
    assert_eq!((lab.hop(&from_client).mtu, lab.hop(&from_peer).mtu), (1280, 1500));
    // By an interface without the program.
    lab.world.ways.insert(peer(1), Some(Way { ifindex: 8, neighbour: ROUTER, mtu: 0 }));
    lab.mirror.recheck_all();
    lab.mirror.take_touched();
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(1), WhyNot::Interface)]);
    assert!(lab.mirror.take_touched());
    assert!(lab.kernel.routes.is_empty());
    lab.world.ways.insert(peer(1), None);
    lab.mirror.recheck_all();
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(1), WhyNot::NoRoute)]);
    lab.world.ways.clear();
    lab.mirror.recheck_all();
    assert_eq!(lab.round(vec![]), [Answer::Done(name(1))]);
    assert_eq!(lab.hop(&from_client).mtu, 1500);
}

#[test]
fn slots_of_next_hops_are_used_again_only_after_a_grace_period() {
    let mut lab = Lab { mirror: Mirror::new(3), ..Lab::new() };
    lab.set_ports(&[port(7)]);
    let direct = |ip| Some(Way { ifindex: 7, neighbour: ip, mtu: 0 });
    for slot in 1..=2 {
        lab.mirror.set_neighbour(7, peer(slot), Some(OTHER_MAC));
        lab.world.ways.insert(peer(slot), direct(peer(slot)));
        lab.world.ways.insert(client(slot), direct(peer(slot)));
    }
    lab.world.ways.insert(client(3), direct(client(3)));
    lab.mirror.set_neighbour(7, client(3), Some(ROUTER_MAC));
    assert_eq!(lab.offload(1), [Answer::Done(name(1))]);
    assert_eq!(lab.offload(2), [Answer::Done(name(2))]);
    let third = OffloadBinding { client: (client(3), 4000).into(), ..binding(1) };
    let third = OffloadBinding { binding: name(3), peer: (peer(2), 9).into(), ..third };
    let full = lab.round(vec![ToMirror::Offload(Box::new(third))]);
    assert_eq!(full, [Answer::Failed(name(3), WhyNot::NextHopsFull)]);
    lab.round(vec![ToMirror::Withdraw(name(3)), ToMirror::Withdraw(name(1))]);
    assert_eq!(lab.round(vec![ToMirror::Offload(Box::new(third))]), [Answer::Done(name(3))]);
    assert_eq!(lab.hop(&routes::keys(&third)[1]), NextHop::new(7, 1500, ROUTER_MAC, port(7).mac));
}

#[test]
fn one_user_leaves_next_hops_for_the_others() {
    let mut lab = Lab { mirror: Mirror::new(20), ..Lab::new() };
    lab.set_ports(&[port(7)]);
    lab.mirror.set_neighbour(7, ROUTER, Some(ROUTER_MAC));
    let mut bind = |slot: u32, user: u64, to: u32| {
        // A peer on the link, whom somebody answers for.
        lab.world.ways.insert(peer(to), Some(Way { ifindex: 7, neighbour: peer(to), mtu: 0 }));
        lab.mirror.set_neighbour(7, peer(to), Some(OTHER_MAC));
        let binding = OffloadBinding { user: UserNumber(user), peer: (peer(to), 9).into(), ..binding(slot) };
        lab.round(vec![ToMirror::Offload(Box::new(binding))])
    };
    // Of nineteen the router's is one, which everybody's clients are behind.
    let taken = (1..=19).take_while(|slot| bind(*slot, 1, *slot) == [Answer::Done(name(*slot))]).count();
    assert_eq!(taken, 16, "with the router seventeen, two are left");
    let refused = Answer::Failed(name(30), WhyNot::NextHopShare);
    assert_eq!(bind(30, 1, 30), [refused]);
    assert_eq!(bind(31, 1, 3), [Answer::Done(name(31))], "that one is there");
    assert_eq!(bind(32, 2, 40), [Answer::Done(name(32))], "somebody else finds one");
    let again = bind(33, 2, 30);
    assert!(again.contains(&Answer::Done(name(33))), "also where the first one had too many: {again:?}");
}

#[test]
fn a_hairpin_needs_no_way_to_its_peer() {
    let mut lab = Lab::new();
    lab.world.ways.insert(peer(1), None);
    let inside = OffloadBinding { internal: true, ..binding(1) };
    assert_eq!(lab.round(vec![ToMirror::Offload(Box::new(inside))]), [Answer::Done(name(1))]);
    let [from_client, from_peer] = routes::keys(&inside).map(|key| lab.kernel.routes[&key]);
    assert!(from_client.flags.has(turnpike_abi::RouteFlags::HAIRPIN));
    assert!(from_peer.flags.has(turnpike_abi::RouteFlags::INTERNAL));
    assert_eq!((from_client.ingress, from_peer.ingress), (1, 0));
}

#[test]
fn interfaces_that_change_empty_the_kernel_first() {
    let mut lab = Lab::new();
    lab.offload(1);
    lab.set_ports(&[]);
    assert!(lab.kernel.routes.is_empty());
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(1), WhyNot::Interface)]);
    // Back again, in the second place.
    lab.set_ports(&[port(9), port(7)]);
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(1), WhyNot::NextHop)]);
    lab.mirror.replace_neighbours(vec![(7, ROUTER, ROUTER_MAC), (8, ROUTER, OTHER_MAC)]);
    assert_eq!(lab.round(vec![]), [Answer::Done(name(1))]);
    assert!(lab.kernel.routes.values().all(|route| route.ingress == 2));
    assert_eq!(lab.kernel.config.unwrap(), config(&[port(9), port(7)]));
    // Another port of a listener: nothing has to move.
    let more = Config { listener_port_count: 1, ..ENABLED };
    lab.mirror.reconfigure(&mut lab.kernel, vec![port(9), port(7)], &more).unwrap();
    let expected = Config { listener_port_count: 1, ..config(&[port(9), port(7)]) };
    assert_eq!((lab.kernel.config.unwrap(), lab.kernel.routes.len()), (expected, 2));
    assert_eq!(lab.round(vec![]), []);
}

/// A lab with a second interface, by which everything to the second peer goes.
fn lab_with_two() -> Lab {
    let mut lab = Lab::new();
    lab.set_ports(&[port(7), port(9)]);
    lab.mirror.set_neighbour(9, ROUTER, Some(OTHER_MAC));
    lab.world.ways.insert(peer(2), Some(Way { ifindex: 9, neighbour: ROUTER, mtu: 0 }));
    lab
}

#[test]
fn an_interface_more_or_less_moves_nobody_elses_routes() {
    let mut lab = Lab::new();
    lab.offload(1);
    let (routes, graces) = (lab.kernel.routes.clone(), lab.kernel.graces.get());
    lab.set_ports(&[port(9), port(7)]);
    assert_eq!(
        (&lab.kernel.routes, lab.kernel.graces.get()),
        (&routes, graces + 1),
        "the new configuration's"
    );
    assert_eq!(lab.kernel.config.unwrap(), config(&[port(7), port(9)]), "the first one keeps its place");
    lab.mirror.set_neighbour(9, ROUTER, Some(OTHER_MAC));
    lab.world.ways.insert(peer(2), Some(Way { ifindex: 9, neighbour: ROUTER, mtu: 0 }));
    assert_eq!(lab.round(vec![]), []);
    assert_eq!(lab.offload(2), [Answer::Done(name(2))]);
    assert_eq!(lab.kernel.routes[&routes::keys(&binding(2))[1]].ingress, 2);
    // It goes, and another one comes.
    lab.set_ports(&[port(7), port(5)]);
    assert_eq!(lab.kernel.routes, routes);
    let config = lab.kernel.config.unwrap();
    let places = config.interfaces[..2].iter().map(|interface| (interface.ifindex, interface.place));
    assert_eq!(
        places.collect::<Vec<_>>(),
        [(7, 0), (5, 2)],
        "a place is used again only after it was nobody's"
    );
    assert_eq!((config.interface_count, &config.devices[..4]), (2, &[7, 0, 5, 0][..]));
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(2), WhyNot::Interface)]);
    assert_eq!(lab.kernel.routes, routes);
}

#[test]
fn an_interface_with_another_address_takes_out_what_goes_over_it() {
    let mut lab = lab_with_two();
    lab.round(vec![]);
    (1..=2).for_each(|slot| assert_eq!(lab.offload(slot), [Answer::Done(name(slot))]));
    let first = lab.kernel.routes[&routes::keys(&binding(1))[0]];
    let changed = Port { mac: [2, 0, 0, 0, 1, 9], ..port(9) };
    lab.set_ports(&[port(7), changed.clone()]);
    assert_eq!(lab.kernel.routes.len(), 2, "the other one's");
    assert_eq!(lab.kernel.config.unwrap(), config(&[port(7), changed.clone()]));
    assert_eq!(lab.round(vec![]), [], "it is there again before anybody is told");
    let [from_client, from_peer] = routes::keys(&binding(2));
    assert_eq!(lab.hop(&from_client), NextHop::new(9, 1500, OTHER_MAC, changed.mac).at(1));
    assert_eq!(lab.kernel.routes[&from_peer].ingress, 2);
    assert_eq!(lab.kernel.routes[&routes::keys(&binding(1))[0]], first);
}

#[test]
fn an_interface_that_loses_frames_is_left_and_tried_again() {
    let mut lab = lab_with_two();
    lab.round(vec![]);
    (1..=2).for_each(|slot| assert_eq!(lab.offload(slot), [Answer::Done(name(slot))]));
    let (routes, [from_client, from_peer]) = (lab.kernel.routes.clone(), routes::keys(&binding(2)));
    let hops = [lab.hop(&from_client), lab.hop(&from_peer)];
    lab.mirror.set_distrusted(1, true);
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(2), WhyNot::Lossy)]);
    assert_eq!(lab.kernel.routes, routes, "what they lead to is enough");
    assert_eq!([lab.hop(&from_client), lab.hop(&from_peer)], [NextHop::default(), hops[1]]);
    assert_eq!(lab.round(vec![ToMirror::Withdraw(name(2))]), [Answer::Withdrawn(name(2))]);
    assert_eq!(lab.offload(2), [Answer::Failed(name(2), WhyNot::Lossy)]);
    lab.mirror.set_distrusted(1, false);
    assert_eq!(lab.round(vec![]), [Answer::Done(name(2))]);
    assert_eq!([lab.hop(&from_client), lab.hop(&from_peer)], hops);
}

#[test]
fn a_driver_that_cannot_transmit_may_send_back() {
    let only = |sends_back| Port { redirects: false, sends_back, ..port(7) };
    let mut lab = lab_with_two();
    lab.set_ports(&[only(true), port(9)]);
    lab.mirror.set_neighbour(7, ROUTER, Some(ROUTER_MAC));
    lab.round(vec![]);
    assert_eq!(lab.offload(1), [Answer::Done(name(1))], "both ends are behind it");
    assert_eq!(lab.offload(2), [Answer::Failed(name(2), WhyNot::Transmit)]);
    // Its answers would have to be redirected to it by another allocation's interface.
    let inside = OffloadBinding { internal: true, ..binding(3) };
    let answers = lab.round(vec![ToMirror::Offload(Box::new(inside))]);
    assert_eq!(answers, [Answer::Failed(name(3), WhyNot::Transmit)]);
    lab.set_ports(&[only(false), port(9)]);
    assert!(lab.kernel.routes.is_empty());
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(1), WhyNot::Transmit)]);
}

/// Interface 9 is VLAN 5 on top of 7.
fn vlan() -> Port {
    Port { ifindex: 9, vlan: 5, mac: port(7).mac, ..port(7) }
}

#[test]
fn a_vlan_leads_to_its_device_with_its_tag() {
    let mut lab = Lab::new();
    lab.set_ports(&[port(7), vlan()]);
    lab.mirror.set_neighbour(9, ROUTER, Some(OTHER_MAC));
    lab.world.ways.insert(peer(1), Some(Way { ifindex: 9, neighbour: ROUTER, mtu: 0 }));
    assert_eq!(lab.offload(1), [Answer::Done(name(1))]);
    let [from_client, from_peer] = routes::keys(&binding(1));
    assert_eq!(lab.hop(&from_client), NextHop::new(7, 1500, OTHER_MAC, port(7).mac).in_vlan(5));
    assert_eq!(lab.hop(&from_peer), NextHop::new(7, 1500, ROUTER_MAC, port(7).mac));
    let ingress = [from_client, from_peer].map(|key| lab.kernel.routes[&key].ingress);
    assert_eq!(ingress, [0b01, 0b10], "the client by the device itself, the peer by the VLAN");
    let config = lab.kernel.config.unwrap();
    let known = config.interfaces[..2].iter().map(|known| (known.ifindex, known.place, known.key));
    let keys = [0, 5].map(|vlan| turnpike_abi::Interface::key(port(7).mac, vlan));
    assert_eq!(known.collect::<Vec<_>>(), [(7, 0, keys[0]), (7, 1, keys[1])]);
    assert_eq!(config.devices[..2], [7, 0], "one device");
    // What the device loses, it loses of both.
    lab.mirror.set_distrusted(0, true);
    assert_eq!(lab.round(vec![]), [Answer::Failed(name(1), WhyNot::Lossy)]);
    lab.mirror.set_distrusted(0, false);
    assert_eq!(lab.round(vec![]), [Answer::Done(name(1))]);
    // The VLAN gets another number.
    lab.set_ports(&[port(7), Port { vlan: 6, ..vlan() }]);
    assert!(lab.kernel.routes.is_empty());
    assert_eq!(lab.round(vec![]), []);
    assert_eq!(lab.hop(&from_client), NextHop::new(7, 1500, OTHER_MAC, port(7).mac).in_vlan(6));
}

#[test]
fn between_vlans_of_a_device_that_cannot_transmit_frames_are_sent_back() {
    let mut lab = Lab::new();
    lab.set_ports(&[Port { redirects: false, ..port(7) }, Port { redirects: false, ..vlan() }]);
    lab.mirror.set_neighbour(7, ROUTER, Some(ROUTER_MAC));
    lab.mirror.set_neighbour(9, ROUTER, Some(OTHER_MAC));
    lab.world.ways.insert(peer(1), Some(Way { ifindex: 9, neighbour: ROUTER, mtu: 0 }));
    assert_eq!(lab.offload(1), [Answer::Done(name(1))]);
}

#[test]
fn a_failover_changes_the_way_in_and_no_route() {
    let bond = |active| Port { ways_in: vec![active], sends_back: false, ..port(7) };
    let mut lab = Lab::new();
    lab.set_ports(&[bond(70)]);
    lab.mirror.set_neighbour(7, ROUTER, Some(ROUTER_MAC));
    lab.round(vec![]);
    assert_eq!(lab.offload(1), [Answer::Done(name(1))]);
    let (routes, graces) = (lab.kernel.routes.clone(), lab.kernel.graces.get());
    lab.set_ports(&[bond(71)]);
    assert_eq!(lab.kernel.config.unwrap(), config(&[bond(71)]));
    assert_eq!(lab.kernel.graces.get(), graces + 1, "the configuration's");
    assert!(!lab.mirror.has_more(), "nothing to look up again");
    assert_eq!((lab.round(vec![]), &lab.kernel.routes), (vec![], &routes));
    lab.set_ports(&[Port { ways_in: vec![70, 71], ..bond(71) }]);
    assert_eq!(lab.kernel.config.unwrap().interface_count, 2);
    assert_eq!(lab.kernel.routes, routes);
}

#[test]
fn a_smaller_mtu_of_the_interface_reaches_the_next_hops() {
    let mut lab = Lab::new();
    lab.offload(1);
    lab.set_ports(&[Port { mtu: 1300, ..port(7) }]);
    assert_eq!(lab.round(vec![]), []);
    assert_eq!(lab.hop(&routes::keys(&binding(1))[0]).mtu, 1300);
}

#[test]
fn what_differs_is_found_counted_and_repaired() {
    let mut lab = Lab::new();
    (1..=3).for_each(|slot| drop(lab.offload(slot)));
    let good = lab.kernel.routes.clone();
    let resync = |lab: &mut Lab| {
        let Lab { mirror, kernel, world } = lab;
        mirror.resync(kernel, world).unwrap();
        lab.round(vec![]);
    };
    resync(&mut lab);
    assert_eq!((lab.mirror.counts().differences, lab.kernel.routes.len()), (0, 6));
    let keys: Vec<RouteKey> = (1..=3).map(|slot| routes::keys(&binding(slot))[0]).collect();
    lab.kernel.routes.remove(&keys[0]);
    lab.kernel.routes.get_mut(&keys[1]).unwrap().channel = 7;
    let stray = RouteKey::new("192.0.2.77:1".parse().unwrap(), "192.0.2.78:2".parse().unwrap(), 0);
    lab.kernel.routes.insert(stray, good[&keys[2]]);
    resync(&mut lab);
    assert_eq!(lab.mirror.counts(), Counts { routes: 6, bindings: 3, waiting: 0, differences: 3 });
    assert_eq!(lab.kernel.routes, good);
}

#[test]
fn what_the_kernel_refuses_is_tried_again_later() {
    let mut lab = Lab::new();
    lab.kernel.refuse = true;
    assert_eq!(lab.offload(1), [Answer::Failed(name(1), WhyNot::Refused)]);
    lab.kernel.refuse = false;
    assert_eq!(lab.round(vec![]), []);
    let Lab { mirror, kernel, world } = &mut lab;
    mirror.resync(kernel, world).unwrap();
    assert_eq!(lab.round(vec![]), [Answer::Done(name(1))]);
}

/// A key that somebody else has: not even half of the binding stays.
#[test]
fn half_a_binding_does_not_stay() {
    let mut lab = Lab::new();
    lab.offload(1);
    let clash = OffloadBinding { binding: name(2), peer: (peer(2), 9000).into(), ..binding(1) };
    let answers = lab.round(vec![ToMirror::Offload(Box::new(clash))]);
    assert_eq!(answers, [Answer::Failed(name(2), WhyNot::Refused)]);
    assert_eq!(lab.kernel.routes.len(), 2);
    assert_eq!(lab.mirror.counts().routes, 2);
}

#[test]
fn neighbours_in_use_are_asked_about() {
    let mut lab = Lab::new();
    lab.offload(1);
    lab.mirror.probe_neighbours(&mut lab.world);
    assert_eq!(lab.world.probed, [(7, ROUTER)]);
    lab.round(vec![ToMirror::Withdraw(name(1))]);
    lab.mirror.probe_neighbours(&mut lab.world);
    assert_eq!(lab.world.probed.len(), 1, "nobody needs it any more");
}

/// Whoever names peers that don't exist doesn't make us flood the link; all get their turn.
#[test]
fn unknown_neighbours_are_asked_for_by_turns() {
    let mut lab = Lab { mirror: Mirror::new(1024), ..Lab::new() };
    lab.set_ports(&[port(7)]);
    for slot in 1..=150 {
        lab.world.ways.insert(peer(slot), Some(Way { ifindex: 7, neighbour: peer(slot), mtu: 0 }));
        lab.offload(slot);
    }
    lab.world.probed.clear();
    lab.mirror.probe_neighbours(&mut lab.world);
    assert_eq!(lab.world.probed.len(), 64);
    lab.mirror.probe_neighbours(&mut lab.world);
    lab.mirror.probe_neighbours(&mut lab.world);
    lab.world.probed.sort_unstable();
    lab.world.probed.dedup();
    assert_eq!(lab.world.probed.len(), 151, "the peers and the router");
}

/// One user's channels to addresses that nobody has take no next hop from another user's call, and fill the
/// host's table of neighbours with no more than a few.
#[test]
fn addresses_that_nobody_has_take_no_next_hop() {
    let mut lab = Lab { mirror: Mirror::new(4), ..Lab::new() };
    lab.set_ports(&[port(7)]);
    lab.mirror.set_neighbour(7, ROUTER, Some(ROUTER_MAC));
    lab.world.probed.clear();
    for slot in 1..=200 {
        lab.world.ways.insert(peer(slot), Some(Way { ifindex: 7, neighbour: peer(slot), mtu: 0 }));
        assert_eq!(lab.offload(slot), [Answer::Failed(name(slot), WhyNot::NextHop)]);
    }
    assert_eq!(lab.world.probed.len(), 64, "the others get their turns");
    assert_eq!(lab.offload(201), [Answer::Done(name(201))], "behind the router");
    lab.mirror.set_neighbour(7, peer(150), Some(OTHER_MAC));
    assert_eq!(lab.round(vec![]), [Answer::Done(name(150))], "one of them has been found");
    lab.round((1..=200).map(|slot| ToMirror::Withdraw(name(slot))).collect());
    lab.world.probed.clear();
    lab.mirror.probe_neighbours(&mut lab.world);
    assert_eq!(lab.world.probed, [(7, ROUTER)], "nobody waits any more");
}

/// Many paths are looked up in parts, and not begun again and again.
#[test]
fn rechecking_ends_however_often_routes_change() {
    let mut lab = Lab { mirror: Mirror::new(64), ..Lab::new() };
    lab.set_ports(&[port(7)]);
    let count = 2 * RECHECKS_PER_ROUND as u32;
    let many = (0..count).map(|slot| {
        let [a, b, ..] = slot.to_le_bytes();
        let client = (IpAddr::from([10, 1, b, a]), 1).into();
        let relayed = (IpAddr::from([192, 0, 2, 1]), 1000 + slot as u16).into();
        ToMirror::Offload(Box::new(OffloadBinding { client, relayed, binding: name(slot), ..binding(0) }))
    });
    lab.round(many.collect());
    for _ in 0..3 {
        lab.mirror.recheck_all();
        lab.round(vec![]);
    }
    let rounds = (0..20).take_while(|_| lab.mirror.has_more() && lab.round(vec![]).is_empty()).count();
    assert!(rounds < 10, "{rounds}");
}
