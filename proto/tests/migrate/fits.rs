//! What a process with another configuration keeps, and what it ends.

use std::net::IpAddr;

use turnpike_proto::limits::MAX_EXPORTED;
use turnpike_proto::migrate::Scope;
use turnpike_proto::settings::RelayIp;
use turnpike_proto::stats::EndReason;
use turnpike_proto::wire::attr;
use turnpike_proto::{Input, Verdict, WorkerId};

use crate::lab::{Answer, Client, Lab, Luggage, PEER, PEER_V6, SERVER_V6, Setup, addr};

const DUAL: [u8; 4] = [2, 0, 0, 0];

fn relay(ip: &str) -> RelayIp {
    ip.parse::<IpAddr>().expect("an IP").into()
}

fn adopt(lab: &mut Lab, setup: Setup, luggage: Luggage) -> Lab {
    let bytes = lab.snapshot();
    lab.adopt(setup, &bytes, &luggage).expect("a good snapshot").0
}

fn reasons(lab: &Lab) -> Vec<EndReason> {
    lab.ended.iter().map(|record| record.reason).collect()
}

#[test]
fn a_relay_address_that_is_configured_no_more_ends_its_allocations_and_no_other() {
    let mut lab = Lab::new();
    let (mut v4, mut v6) = (Client::new("203.0.113.5:1000"), Client::new("203.0.113.5:1001"));
    let relayed = v4.allocate(&mut lab);
    v6.allocate_with(&mut lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &DUAL)).expect_success();
    v4.bind(&mut lab, 0x4000, PEER).expect_success();
    v6.bind(&mut lab, 0x4000, PEER_V6).expect_success();
    v6.channel_data(&mut lab, 0x4000, b"four");
    lab.sleep(7);
    let setup = Setup { relays: vec![relay("192.0.2.1")], ..Setup::default() };
    let mut next = adopt(&mut lab, setup, Luggage::default());
    assert_eq!(reasons(&next), [EndReason::NotAdopted]);
    let record = &next.ended[0];
    assert_eq!((record.to_peer.userspace.bytes, record.duration_ns), (4, 7_000_000_000));
    assert_eq!(next.workers[0].counts().allocations_ended, 1);
    assert_eq!(v4.channel_data(&mut next, 0x4000, b"up").len(), 1);
    assert_eq!(next.peer_data(PEER, relayed, b"down").len(), 1);
    v6.refresh(&mut next, 600).expect_error(437);
    next.sleep(4000);
    next.assert_empty();
}

#[test]
fn one_of_two_relayed_addresses_is_enough() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &DUAL));
    let relayed = answer.all_relayed();
    assert_eq!(relayed.len(), 2);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4001, PEER_V6).expect_success();
    let setup = Setup { relays: vec![relay("2001:db8::1")], ..Setup::default() };
    let mut next = adopt(&mut lab, setup, Luggage::default());
    assert!(next.ended.is_empty());
    assert_eq!(client.channel_data(&mut next, 0x4001, b"up").len(), 1);
    assert!(client.channel_data(&mut next, 0x4000, b"up").is_empty());
    assert_eq!(next.open.len(), 1, "the other one is closed");
}

#[test]
fn a_port_out_of_the_new_range_ends_its_allocation() {
    let mut lab = Lab::new();
    Client::new("203.0.113.5:1000").allocate(&mut lab);
    let next = adopt(&mut lab, Setup { ports: (1024, 1030), ..Setup::default() }, Luggage::default());
    assert_eq!(reasons(&next), [EndReason::NotAdopted]);
    next.assert_empty();
}

#[test]
fn a_listener_that_is_configured_no_more_ends_its_clients_allocations() {
    let mut lab = Lab::new();
    let (mut v4, mut v6) = (Client::new("203.0.113.5:1000"), Client::new("[2001:db8:aaaa::5]:1001"));
    v4.allocate(&mut lab);
    v6.allocate(&mut lab);
    let luggage = Luggage { gone_listeners: vec![SERVER_V6], ..Luggage::default() };
    let next = adopt(&mut lab, Setup::default(), luggage);
    assert_eq!(reasons(&next), [EndReason::NotAdopted]);
    assert_eq!(next.ended[0].client.0, addr("[2001:db8:aaaa::5]:1001"));
}

#[test]
fn clients_over_streams_stay_with_the_process_that_has_their_connections() {
    let mut lab = Lab::new();
    let mut stays = Client::new("203.0.113.5:1000").over_tcp();
    let mut goes = Client::new("203.0.113.5:1001");
    let relayed = [stays.allocate(&mut lab), goes.allocate(&mut lab)];
    stays.bind(&mut lab, 0x4000, PEER).expect_success();
    goes.bind(&mut lab, 0x4000, PEER).expect_success();
    let bytes = lab.snapshot_of(Scope::Datagrams);
    let (mut next, _) = lab.adopt(Setup::default(), &bytes, &Luggage::default()).expect("a good snapshot");
    assert_eq!(next.workers[0].table_counts().allocations, 1);
    assert_eq!(next.workers[0].counts().allocations_created, 1);
    assert_eq!(goes.channel_data(&mut next, 0x4000, b"up").len(), 1);
    lab.workers[0].leave();
    lab.input(0, Input::Tick);
    assert_eq!((lab.workers[0].table_counts().allocations, lab.open.len()), (1, 1));
    assert_eq!(stays.channel_data(&mut lab, 0x4000, b"data").len(), 1);
    assert_eq!(lab.peer_data(PEER, relayed[0], b"down").len(), 1);
    Client::new("203.0.113.5:1002").allocate_with(&mut lab, |b| b).expect_error(508);
    next.sleep(4000);
    next.assert_empty();
}

#[test]
fn clients_whose_connections_stay_behind_end() {
    let mut lab = Lab::new();
    Client::new("203.0.113.5:1000").over_tcp().allocate(&mut lab);
    let next = adopt(&mut lab, Setup::default(), Luggage { streams: false, ..Luggage::default() });
    assert_eq!(reasons(&next), [EndReason::NotAdopted]);
}

#[test]
fn users_and_policy_of_the_new_configuration_hold() {
    let mut lab = Lab::new();
    let mut alice = Client::new("203.0.113.5:1000");
    let mut bob = Client::named("203.0.113.5:1001", "bob", "builder");
    alice.allocate(&mut lab);
    bob.allocate(&mut lab);
    alice.bind(&mut lab, 0x4000, PEER).expect_success();
    let setup = Setup { users: vec![("alice", "wonder")], deny: vec!["198.51.100.7/32"], ..Setup::default() };
    let mut next = adopt(&mut lab, setup, Luggage::default());
    assert_eq!(reasons(&next), [EndReason::UserRemoved]);
    assert!(alice.channel_data(&mut next, 0x4000, b"up").is_empty());
    alice.refresh(&mut next, 600).expect_success();
}

#[test]
fn a_lower_quota_ends_nothing_and_admits_nothing() {
    let mut lab = Lab::new();
    let mut clients: Vec<_> = (0..3).map(|n| Client::new(&format!("203.0.113.5:{}", 1000 + n))).collect();
    for client in &mut clients[..2] {
        client.allocate(&mut lab);
    }
    let mut next = adopt(&mut lab, Setup { user_quota: 1, ..Setup::default() }, Luggage::default());
    clients[0].refresh(&mut next, 600).expect_success();
    clients[2].allocate_with(&mut next, |b| b).expect_error(486);
    assert_eq!(next.shared.quotas.used(), 2);
}

#[test]
fn another_number_of_workers_adopts_everything() {
    for (before, after) in [(3, 1), (1, 3), (3, 2)] {
        let mut lab = Lab::with(Setup { workers: before, ..Setup::default() });
        let mut clients: Vec<_> = (0..6)
            .map(|n| Client::new(&format!("203.0.113.5:{}", 1000 + n)).on_worker(n % usize::from(before)))
            .collect();
        let relayed: Vec<_> = clients.iter_mut().map(|client| client.allocate(&mut lab)).collect();
        for client in &mut clients {
            client.bind(&mut lab, 0x4000, PEER).expect_success();
            client.channel_data(&mut lab, 0x4000, b"data");
        }
        let mut next = adopt(&mut lab, Setup { workers: after, ..Setup::default() }, Luggage::default());
        assert_eq!(next.verdicts(Verdict::ChannelToPeer), 6, "counters go on");
        for (n, (client, relayed)) in clients.iter_mut().zip(relayed).enumerate() {
            // The kernel may bring a client to any worker.
            client.worker = n % usize::from(after);
            assert_eq!(client.channel_data(&mut next, 0x4000, b"up").len(), 1);
            assert_eq!(next.peer_data(PEER, relayed, b"down").len(), 1);
        }
        let mut numbers = Vec::new();
        for (number, server) in next.workers.iter().enumerate() {
            let (views, _) = server.inspect(None, 256);
            assert!(views.iter().all(|view| WorkerId::of_allocation(view.id).index() == number));
            numbers.extend(views.iter().map(|view| view.id));
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 6);
        next.sleep(4000);
        next.assert_empty();
    }
}

#[test]
fn without_the_kernels_memory_its_counters_go_on_and_its_channels_come_back() {
    let mut lab = Lab::with(Setup { slots: Some((4, 4)), ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    let words = turnpike_proto::PlaneMemory::allocations(&*lab.memory);
    words[0].to_peer.packets.store(5, std::sync::atomic::Ordering::Relaxed);
    let setup = || Setup { slots: Some((4, 4)), ..Setup::default() };
    let luggage = || Luggage { plane: false, ..Luggage::default() };
    let mut next = adopt(&mut lab, setup(), luggage());
    assert_eq!(next.offloaded.len(), 1);
    // Once more, so that what was earlier is kept, too.
    let mut last = adopt(&mut next, setup(), luggage());
    client.refresh(&mut last, 0).expect_success();
    assert_eq!(last.ended[0].to_peer.kernel.packets, 5);
    last.assert_empty();
}

#[test]
fn an_answer_that_is_due_comes_from_the_next_process() {
    let mut lab = Lab::new();
    lab.hold_ports = true;
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(&mut lab);
    let request = client.signed(turnpike_proto::wire::method::ALLOCATE, |b| {
        b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).attribute(attr::EVEN_PORT, &[0x80])
    });
    client.send_unanswered(&mut lab, &request);
    let mut next = adopt(&mut lab, Setup::default(), Luggage::default());
    next.hold_ports = false;
    next.open_pending();
    let answer = Answer::of(next.take_one().payload);
    answer.expect_success();
    assert_eq!(next.reserved.len(), 1, "the port above is bound for the token");
    let mut other = Client::new("203.0.113.5:1001");
    let token = answer.token();
    other.allocate_with(&mut next, |b| b.attribute(attr::RESERVATION_TOKEN, &token)).expect_success();
}

#[test]
fn a_large_state_leaves_in_small_parts() {
    let mut lab = Lab::new();
    let count = 3 * MAX_EXPORTED + 10;
    for n in 0..count {
        Client::new(&format!("198.18.{}.{}:1000", n / 250, n % 250 + 1)).allocate(&mut lab);
    }
    let parts: Vec<_> =
        lab.workers[0].export_all(lab.now, Scope::All).iter().map(|part| part.len()).collect();
    assert_eq!(parts.len(), 3 + 4, "{parts:?}");
    let per_allocation = parts[3] / MAX_EXPORTED;
    assert!(per_allocation < 512, "{per_allocation} bytes for an allocation");
    let next = adopt(&mut lab, Setup::default(), Luggage::default());
    assert_eq!(next.workers[0].table_counts().allocations, count);
}

#[test]
fn what_was_ordered_before_is_done_after() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    lab.hold_ticks = true;
    lab.input(0, Input::DisconnectUser { user: "alice".into() });
    let next = adopt(&mut lab, Setup::default(), Luggage::default());
    assert_eq!(reasons(&next), [EndReason::Disconnected]);
    assert_eq!(next.disconnected, [("alice".into(), Some(1))]);
}
