//! Much that ends at once: a part of it with each tick, everything in the end, and nothing odd in between.

use turnpike_proto::limits::{MAX_DISCONNECTING, MAX_ENDED, MAX_ENTRIES_ENDED};
use turnpike_proto::settings::ServerConfig;
use turnpike_proto::stats::EndReason;
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{Input, Verdict};

use crate::lab::*;

/// A lab with one worker and so many allocations of alice and bob, in turn.
fn crowd(count: u16, slots: Option<(usize, usize)>) -> (Lab, Vec<Client>) {
    let config = ServerConfig { unauthenticated_per_sec: 0, ..ServerConfig::default() };
    let mut lab = Lab::with(Setup { workers: 1, slots, config, ..Setup::default() });
    let mut clients: Vec<Client> = (0..count)
        .map(|n| {
            let (user, password) = [("alice", "wonder"), ("bob", "builder")][usize::from(n % 2)];
            Client::named(&format!("203.0.113.5:{}", 1000 + n), user, password)
        })
        .collect();
    for client in &mut clients {
        client.allocate(&mut lab);
    }
    lab.hold_ticks = true;
    (lab, clients)
}

/// One input as a driver hands it in, without the ticks that it leads to; gives how many allocations ended.
fn once(lab: &mut Lab, input: Input<'_>) -> usize {
    let (before, allocations) = (lab.ended.len(), lab.workers[0].table_counts().allocations);
    lab.workers[0].handle_input(lab.now, input);
    lab.carry_out(0);
    let ended = lab.ended.len() - before;
    assert!(allocations - lab.workers[0].table_counts().allocations <= MAX_ENDED);
    assert!(ended <= MAX_ENDED, "{ended} records at once");
    ended
}

fn is_due(lab: &Lab) -> bool {
    lab.workers[0].poll_timeout().is_some_and(|(due_ns, _)| due_ns <= lab.now.mono_ns)
}

/// Ticks until nothing is due any more; gives how many it took.
fn tick_out(lab: &mut Lab) -> usize {
    let mut ticks = 0;
    while is_due(lab) {
        once(lab, Input::Tick);
        ticks += 1;
        assert!(ticks < 1000, "it comes to an end");
    }
    ticks
}

// RFC 8656 s. 6: what has come to its end is dead, though thousands wait for their tick
#[test]
fn twelve_thousand_that_expire_together_end_a_part_at_a_time() {
    let (mut lab, mut clients) = crowd(12_000, None);
    let (first, last) = (clients[0].clone(), clients[11_999].clone());
    let relayed = lab.created[11_999].relayed[0];
    clients[11_999].bind(&mut lab, 0x4000, PEER).expect_success();
    lab.oversleep(600);
    assert_eq!(once(&mut lab, Input::Tick), MAX_ENDED);
    assert!(is_due(&lab), "there is more");

    // Neither relays, neither is there for a request, and both may come again.
    let mut again: Vec<Client> = vec![first, last];
    for client in &mut again {
        assert!(client.channel_data(&mut lab, 0x4000, b"late").is_empty());
        assert!(client.send_indication(&mut lab, PEER, b"late").is_empty());
        client.refresh(&mut lab, 600).expect_error(437);
        client.allocate(&mut lab);
    }
    assert!(lab.peer_data(PEER, relayed, b"late").is_empty());
    let ticks = tick_out(&mut lab);
    assert!(ticks >= 11_000 / MAX_ENDED, "{ticks}");
    assert_eq!(lab.workers[0].table_counts().allocations, 2);
    assert_eq!(lab.ended.len(), 12_000);
    assert!(lab.ended.iter().all(|record| record.reason == EndReason::Expired));
    for client in &mut again {
        client.refresh(&mut lab, 0).expect_success();
    }
    lab.assert_empty();
}

#[test]
fn a_stop_ends_everything_a_part_at_a_time() {
    let (mut lab, mut clients) = crowd(1000, Some((1000, 1000)));
    for client in &mut clients[..400] {
        client.bind(&mut lab, 0x4000, PEER).expect_success();
    }
    assert_eq!(once(&mut lab, Input::Shutdown), 0, "with the ticks only");
    let ticks = tick_out(&mut lab);
    assert!((1000 / MAX_ENDED..=1000 / MAX_ENDED + 2).contains(&ticks), "{ticks}");
    assert_eq!(lab.ended.len(), 1000);
    lab.assert_empty();
    Client::new("203.0.113.6:1").allocate_with(&mut lab, |b| b).expect_error(508);
}

#[test]
fn the_end_of_a_users_allocations_is_counted_when_it_has_come() {
    let (mut lab, mut clients) = crowd(2001, None);
    for user in ["bob", "nobody", "bob"] {
        once(&mut lab, Input::DisconnectUser { user: user.into() });
    }
    assert!(lab.disconnected.is_empty());
    once(&mut lab, Input::Tick);
    // What is made meanwhile is not meant.
    let mut late = Client::named("203.0.113.6:1", "bob", "builder");
    late.allocate(&mut lab);
    tick_out(&mut lab);
    let counts: Vec<(&str, Option<u64>)> =
        lab.disconnected.iter().map(|(user, count)| (&**user, *count)).collect();
    assert_eq!(counts, [("bob", Some(1000)), ("nobody", Some(0)), ("bob", Some(0))]);
    late.refresh(&mut lab, 600).expect_success();
    clients[0].refresh(&mut lab, 600).expect_success();
    clients[1].refresh(&mut lab, 600).expect_error(437);
    assert!(
        lab.ended.iter().all(|record| record.reason == EndReason::Disconnected && &*record.user == "bob")
    );
}

#[test]
fn too_many_users_to_disconnect_are_refused() {
    let (mut lab, _) = crowd(2, None);
    for n in 0..MAX_DISCONNECTING + 1 {
        once(&mut lab, Input::DisconnectUser { user: format!("user{n}").into() });
    }
    let refused = format!("user{MAX_DISCONNECTING}").into();
    assert_eq!(lab.disconnected, [(refused, None)]);
    tick_out(&mut lab);
    assert_eq!(lab.disconnected.len(), MAX_DISCONNECTING + 1);
}

// A stricter policy on its way through a long table: what it refuses passes nowhere any more
#[test]
fn channels_ask_the_policy_while_it_is_on_its_way() {
    let (mut lab, mut clients) = crowd(600, None);
    let relayed = lab.created[599].relayed[0];
    for client in &mut clients {
        client.bind(&mut lab, 0x4000, PEER).expect_success();
        client.bind(&mut lab, 0x4001, "198.51.100.8:4000").expect_success();
    }
    Setup { deny: vec!["198.51.100.7/32"], ..Setup::default() }.enforce(&lab.shared);
    once(&mut lab, Input::PolicyChanged);
    once(&mut lab, Input::Tick);
    assert_eq!(lab.held().1, 1200 - MAX_ENDED, "one part has lost what is refused");
    let last = clients[599].clone();
    assert!(last.channel_data(&mut lab, 0x4000, b"out").is_empty());
    assert!(lab.peer_data(PEER, relayed, b"in").is_empty());
    assert_eq!(lab.verdicts(Verdict::DropPeerDenied), 2);
    assert_eq!(last.channel_data(&mut lab, 0x4001, b"out").len(), 1);
    assert_eq!(lab.peer_data("198.51.100.8:4000", relayed, b"in").len(), 1);

    // Another change meanwhile starts anew, and the first goes on: nobody is left out.
    Setup { deny: vec!["198.51.100.0/24"], ..Setup::default() }.enforce(&lab.shared);
    once(&mut lab, Input::PolicyChanged);
    assert!(last.channel_data(&mut lab, 0x4001, b"out").is_empty());
    tick_out(&mut lab);
    assert_eq!(lab.held(), (0, 0));
}

// The bound is on work: allocations with thousands of channels are fewer to a tick
#[test]
fn a_tick_ends_fewer_allocations_that_have_much() {
    let (mut lab, mut clients) = crowd(16, None);
    for client in &mut clients {
        for n in 0..1000 {
            client.bind(&mut lab, 0x4000 + n, &format!("198.51.100.7:{}", 1 + n)).expect_success();
        }
        lab.take_sent();
    }
    once(&mut lab, Input::Shutdown);
    let ended = once(&mut lab, Input::Tick);
    assert!((1..=MAX_ENTRIES_ENDED / 1000 + 1).contains(&ended), "{ended}");
    tick_out(&mut lab);
    lab.assert_empty();
}

// A burst of requests in one turn must not end in bulk before each of them
#[test]
fn only_ticks_end_in_bulk() {
    let (mut lab, mut clients) = crowd(600, None);
    lab.oversleep(600);
    let asking = &mut clients[300];
    let request = MessageBuilder::request(method::BINDING, asking.transaction()).finish();
    for _ in 0..10 {
        asking.exchange(&mut lab, &request).expect_success();
    }
    assert_eq!(lab.workers[0].table_counts().allocations, 600);
    let refresh = asking.signed(method::REFRESH, |b| b.attribute(attr::LIFETIME, &[0, 0, 2, 88]));
    asking.exchange(&mut lab, &refresh).expect_error(437);
    assert_eq!(lab.workers[0].table_counts().allocations, 599, "its own");
    tick_out(&mut lab);
    lab.assert_empty();
}

// RFC 8656 s. 5, RFC 8489 s. 6.3.1: however many others delete theirs within the 40 s
#[test]
fn r3_s26_a_deletion_is_remembered_among_thousands() {
    let (mut lab, mut clients) = crowd(6000, None);
    let mut first = Client::new("203.0.113.6:1");
    first.challenge(&mut lab);
    let allocate = first.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    let delete = first.signed(method::REFRESH, |b| b.lifetime(0));
    first.exchange(&mut lab, &allocate).expect_success();
    first.exchange(&mut lab, &delete).expect_success();
    for client in &mut clients {
        client.refresh(&mut lab, 0).expect_success();
    }
    first.exchange(&mut lab, &delete).expect_success();
    first.send_unanswered(&mut lab, &allocate);
    lab.assert_empty();
}
