//! What the operator sees and does: inspection, limits, disconnecting, sending clients elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use turnpike_proto::settings::ServerConfig;
use turnpike_proto::shared::UserLimits;
use turnpike_proto::stats::EndReason;
use turnpike_proto::wire::{Message, MessageBuilder, attr, method};
use turnpike_proto::{ErrorCode, Input, WorkerId};

use super::lab::*;

fn clients(lab: &mut Lab, count: u16) -> Vec<Client> {
    let make = |n| Client::new(&format!("203.0.113.5:{}", 1000 + n)).on_worker(usize::from(n % 2));
    let mut clients: Vec<Client> = (0..count).map(make).collect();
    clients.iter_mut().for_each(|client| {
        client.allocate(lab);
    });
    clients
}

/// A whole walk over one worker, in parts; something happens before each of them.
fn walk(lab: &mut Lab, max: usize, mut meanwhile: impl FnMut(&mut Lab)) -> Vec<u64> {
    let (mut seen, mut cursor) = (Vec::new(), None);
    for _ in 0..1000 {
        meanwhile(lab);
        let (views, next) = lab.workers[0].inspect(cursor, max);
        assert!(views.len() <= max.clamp(1, 256));
        seen.extend(views.iter().map(|view| view.id));
        if next.is_none() {
            return seen;
        }
        cursor = next;
    }
    panic!("the walk does not end");
}

#[test]
fn a_walk_meets_each_allocation_once_whatever_happens_meanwhile() {
    let mut lab = Lab::new();
    let mut all = clients(&mut lab, 600);
    let ids: HashSet<u64> = lab
        .created
        .iter()
        .filter(|view| WorkerId::of_allocation(view.id) == WorkerId(0))
        .map(|view| view.id)
        .collect();
    assert_eq!(ids.len(), 300);
    let seen = walk(&mut lab, 1000, |_| {});
    assert_eq!((seen.len(), seen.into_iter().collect::<HashSet<_>>()), (300, ids.clone()));

    // Clients go and others come between the parts.
    let mut gone = HashSet::new();
    let seen = walk(&mut lab, 7, |lab| {
        if let Some(mut leaving) = all.pop() {
            leaving.refresh(lab, 0).expect_success();
            gone.extend(lab.ended.last().map(|record| record.id));
            leaving.allocate(lab);
        }
    });
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len(), "none twice");
    assert!(ids.difference(&gone).all(|id| seen.contains(id)), "none that lives is left out");
}

#[test]
fn a_walk_over_nothing_ends_at_once() {
    let mut lab = Lab::new();
    assert_eq!(walk(&mut lab, 0, |_| {}), [] as [u64; 0]);
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    assert_eq!(walk(&mut lab, 0, |_| {}).len(), 1, "at least one at a time");
    lab.hold_ports = true;
    let mut opening = Client::new("203.0.113.5:1001");
    opening.challenge(&mut lab);
    let request =
        opening.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    opening.send_unanswered(&mut lab, &request);
    assert_eq!(walk(&mut lab, 10, |_| {}).len(), 1, "what is not answered yet is not shown");
}

#[test]
fn one_allocation_is_shown_with_all_that_belongs_to_it() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    let created = lab.created[0].clone();
    assert_eq!((created.relayed.clone(), created.created_ns), (vec![relayed], lab.now.mono_ns));
    assert_eq!(
        (&*created.user, &*created.quota_user, created.five_tuple),
        ("alice", "alice", client.path().five_tuple)
    );
    client.permit(&mut lab, "198.51.100.9:1").expect_success();
    lab.sleep(100);
    client.bind(&mut lab, 0x4001, PEER).expect_success();
    client.bind(&mut lab, 0x4000, "198.51.100.8:4000").expect_success();
    client.channel_data(&mut lab, 0x4000, b"12345");
    lab.peer_data(PEER, relayed, b"123");
    let detail = lab.workers[0].inspect_one(lab.now, created.id).expect("it lives");
    let (view, in_secs) = (&detail.view, |secs: u64| lab.now.mono_ns + secs * 1_000_000_000);
    assert_eq!((view.id, view.channels, view.permissions), (created.id, 2, 3));
    assert_eq!((view.created_ns, view.expires_ns), (created.created_ns, in_secs(500)));
    assert_eq!((view.to_peer.userspace.bytes, view.to_client.userspace.bytes), (5, 3));
    assert_eq!(view.to_peer.total(), view.to_peer.userspace);
    let permissions: Vec<_> = detail.permissions.iter().map(|p| (p.ip.to_string(), p.expires_ns)).collect();
    let expected = [("198.51.100.7", 300), ("198.51.100.8", 300), ("198.51.100.9", 200)];
    assert_eq!(permissions, expected.map(|(ip, secs)| (ip.to_string(), in_secs(secs))));
    let channels: Vec<_> = detail.channels.iter().map(|c| (c.number, c.peer, c.expires_ns)).collect();
    let second = (0x4001, addr(PEER), in_secs(600));
    assert_eq!(channels, [(0x4000, addr("198.51.100.8:4000"), in_secs(600)), second]);
    assert!(lab.workers[1].inspect_one(lab.now, created.id).is_none(), "another worker's");
    client.refresh(&mut lab, 0).expect_success();
    assert!(lab.workers[0].inspect_one(lab.now, created.id).is_none());
}

#[test]
fn a_disconnected_client_loses_everything_and_may_come_again() {
    let mut lab = Lab::new();
    let mut all = clients(&mut lab, 4);
    let id = lab.created[2].id;
    lab.input_all(|| Input::Disconnect { allocation: id });
    assert_eq!((lab.ended.len(), lab.ended[0].id, lab.ended[0].reason), (1, id, EndReason::Disconnected));
    assert_eq!(lab.open.len(), 3);
    all[2].refresh(&mut lab, 600).expect_error(437);
    lab.input_all(|| Input::Disconnect { allocation: id });
    all[2].allocate(&mut lab);
    assert_eq!(lab.ended.len(), 1);
}

#[test]
fn a_user_is_disconnected_by_the_full_name_or_by_the_part_that_quotas_go_by() {
    let mut lab = Lab::with(Setup { secrets: vec![SECRET], ..Setup::default() });
    let rest = |user: &str, port: u16| {
        let password = turnpike_proto::auth::rest_password(SECRET, user);
        Client::named(&format!("203.0.113.7:{port}"), user, &password)
    };
    let names = [format!("{}:carol", START_UNIX_SECS + 9000), format!("{}:carol", START_UNIX_SECS + 9001)];
    let mut others = clients(&mut lab, 2);
    for (port, name) in names.iter().enumerate() {
        rest(name, 1 + port as u16).on_worker(port).allocate(&mut lab);
    }
    lab.input_all(|| Input::DisconnectUser { user: names[0].as_str().into() });
    assert_eq!((lab.ended.len(), &*lab.ended[0].user), (1, names[0].as_str()));
    rest(&names[0], 5).allocate(&mut lab);
    lab.input_all(|| Input::DisconnectUser { user: "carol".into() });
    assert_eq!(lab.ended.len(), 3);
    lab.input_all(|| Input::DisconnectUser { user: "nobody".into() });
    others.iter_mut().for_each(|client| {
        client.refresh(&mut lab, 600).expect_success();
    });
}

#[test]
fn users_have_limits_of_their_own_by_quota_name() {
    let config = ServerConfig { max_bitrate_bits: 1_000_000, ..ServerConfig::default() };
    let mut lab = Lab::with(Setup { user_quota: 1, config, ..Setup::default() });
    let own = UserLimits { quota: Some(2), bitrate_bits: Some(5_000_000) };
    lab.shared.set_user_limits(HashMap::from([(Arc::from("alice"), own)]));
    let mut alices: Vec<Client> = (1..4).map(|n| Client::new(&format!("203.0.113.5:{n}"))).collect();
    alices[0].allocate(&mut lab);
    alices[1].allocate(&mut lab);
    alices[2].allocate_with(&mut lab, |b| b).expect_error(486);
    let mut bobs: Vec<Client> =
        (1..3).map(|n| Client::named(&format!("203.0.113.6:{n}"), "bob", "builder")).collect();
    bobs[0].allocate(&mut lab);
    bobs[1].allocate_with(&mut lab, |b| b).expect_error(486);
    let rates: Vec<u64> = lab.created.iter().map(|view| view.bitrate_bits).collect();
    assert_eq!(rates, [5_000_000, 5_000_000, 1_000_000]);
    lab.shared.set_user_limits(HashMap::new());
    alices[0].refresh(&mut lab, 0).expect_success();
    alices[0].allocate_with(&mut lab, |b| b).expect_error(486);
}

/// An Allocate whose answer has to be 300 with this server, signed.
fn expect_alternate(lab: &mut Lab, client: &mut Client, server: &str) {
    client.challenge(lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    let answer = client.exchange(lab, &request);
    answer.expect_error(300);
    let request = Message::parse(&request).expect("ours");
    let expected = MessageBuilder::error(&request, ErrorCode::TryAlternate)
        .address(attr::ALTERNATE_SERVER, addr(server))
        .finish_signed(&client.key());
    assert_eq!(answer.bytes, expected);
}

// RFC 8489 s. 10, 14.15
#[test]
fn s28_a_draining_server_sends_clients_to_the_alternate_of_their_family() {
    let mut lab = Lab::new();
    let mut old = Client::new("203.0.113.5:1000");
    old.allocate(&mut lab);
    lab.shared.set_alternate(Some(addr("192.0.2.99:3479")));
    let mut new = Client::new("203.0.113.5:1001");
    new.allocate(&mut lab);
    new.refresh(&mut lab, 0).expect_success();
    lab.input_all(|| Input::Drain(true));
    expect_alternate(&mut lab, &mut new, "192.0.2.99:3479");
    let mut v6 = Client::new("[2001:db8:5::1]:1000");
    v6.allocate_with(&mut lab, |b| b).expect_error(508);
    lab.shared.set_alternate(Some(addr("[2001:db8::99]:3479")));
    expect_alternate(&mut lab, &mut v6, "[2001:db8::99]:3479");
    expect_alternate(&mut lab, &mut new, "192.0.2.99:3479");
    // Who has an allocation stays.
    old.refresh(&mut lab, 600).expect_success();
    old.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(old.channel_data(&mut lab, 0x4000, b"on").len(), 1);
    old.allocate_with(&mut lab, |b| b).expect_error(437);
    // What is wrong with a request is said first.
    new.request(&mut lab, method::ALLOCATE, |b| b).expect_error(400);
    lab.shared.set_alternate(None);
    new.allocate_with(&mut lab, |b| b).expect_error(508);
    lab.input_all(|| Input::Drain(false));
    new.allocate(&mut lab);
}

// RFC 8489 s. 14.1: family, port and address in the clear.
#[test]
fn s28_alternate_server_is_not_xor_encoded() {
    let mut lab = Lab::new();
    lab.shared.set_alternate(Some(addr("192.0.2.99:3479")));
    lab.input_all(|| Input::Drain(true));
    let mut client = Client::new("203.0.113.5:1001");
    let answer = client.allocate_with(&mut lab, |b| b);
    let value = answer.message().attribute(attr::ALTERNATE_SERVER).expect("present").to_vec();
    assert_eq!(value, [0, 1, 0x0d, 0x97, 192, 0, 2, 99]);
}

// A client's datagrams come to a worker that knows nothing of it.
#[test]
fn what_comes_to_the_wrong_worker_is_its_owners() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.worker = 1;
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"to the peer").len(), 1);
    assert_eq!(client.send_indication(&mut lab, PEER, b"to the peer").len(), 1);
    assert_eq!(lab.peer_data(PEER, relayed, b"to the client").len(), 1);
    client.allocate_with(&mut lab, |b| b).expect_error(437);
    assert_eq!(lab.workers[1].table_counts(), Default::default());
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
    client.allocate(&mut lab);
    assert_eq!(lab.workers[1].table_counts().allocations, 1, "a new one is made where its request comes");
}
