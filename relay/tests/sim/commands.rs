//! What the operator says to the workers while traffic goes on.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use turnpike::worker::{Order, Question};
use turnpike_proto::limits::MAX_ENDED;

use super::client::{Call, Outcome, Received};
use super::ledger::Via;
use super::seeds::for_each_seed;
use super::world::{Setup, Worker, World, addr, rough};

const CHANNEL: u16 = 0x4000;

/// Fifty clients in a call with one peer.
fn in_call(world: &mut World, clients: usize) -> SocketAddr {
    let peer = world.peers(1)[0];
    for _ in 0..clients {
        let client = world.client();
        world.start(client, Call::allocate());
        world.start(client, Call::bind(CHANNEL, peer));
    }
    world.settle();
    peer
}

#[test]
fn draining_refuses_newcomers_and_lets_the_others_talk() {
    let mut world = World::new(71);
    let peer = in_call(&mut world, 10);
    world.tell(Order::Drain(true));
    let newcomer = world.client();
    assert_eq!(world.call(newcomer, Call::allocate()), Outcome::Error(508));
    for client in 0..10 {
        world.send_data(client, peer, 50);
        assert_eq!(world.call(client, Call::refresh(1200)), Outcome::Success);
    }
    assert_eq!(world.ledger.totals(), (20, 20));
    world.assert_holds(10);
    world.tell(Order::Drain(false));
    assert_eq!(world.call(newcomer, Call::allocate()), Outcome::Success);
}

// A worker never ends hundreds of allocations before it looks at what has arrived.
#[test]
fn a_crowd_is_ended_over_several_turns_and_a_call_goes_on() {
    let mut world = World::with(70, Setup { workers: 1, ..Setup::default() });
    let peer = in_call(&mut world, 2 * MAX_ENDED + 100);
    let caller = world.client_of("bob");
    world.call(caller, Call::allocate());
    world.call(caller, Call::bind(CHANNEL, peer));
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    world.workers[0]
        .handle
        .ask(Question::DisconnectUser("alice".into(), reply))
        .expect("the worker is there");
    let mut turns = 0;
    let held = |world: &World| world.workers[0].inner.server().table_counts().allocations;
    while held(&world) > 1 {
        let before = held(&world);
        assert!(answer.try_recv().is_err(), "not before the last has ended");
        world.send_data(caller, peer, 50);
        world.turn_worker(0);
        assert!(before - held(&world) <= MAX_ENDED);
        turns += 1;
    }
    world.settle();
    assert!((3..10).contains(&turns), "{turns}");
    assert_eq!(answer.try_recv(), Ok(Some(2 * MAX_ENDED as u64 + 100)));
    assert_eq!(
        world.ledger.totals(),
        (2 * turns, 2 * turns),
        "what was sent meanwhile, and answered, arrived"
    );
    world.assert_holds(1);
}

thread_local! {
    /// This thread's log, while a test wants it.
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes to its thread's log.
struct ThreadLog;

impl Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.with_borrow_mut(|log| log.as_mut().map(|log| log.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs a scenario; gives the clients named in its final records, each with the reason given.
///
/// The subscriber is the whole program's: one for a single thread may miss what another thread was the
/// first to log, since whether anybody wants a record is remembered for all threads together.
fn final_records_of(scenario: impl FnOnce()) -> Vec<(String, String)> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| tracing_subscriber::fmt().json().with_writer(|| ThreadLog).init());
    LOG.set(Some(Vec::new()));
    scenario();
    let text = String::from_utf8(LOG.take().expect("set above")).expect("UTF-8");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let ended = lines.filter(|line| line["fields"]["message"] == "allocation ended");
    let field = |line: &serde_json::Value, name: &str| line["fields"][name].as_str().map(str::to_owned);
    ended.filter_map(|line| Some((field(&line, "client")?, field(&line, "reason")?))).collect()
}

#[test]
fn stopping_amid_traffic_closes_everything_and_records_every_allocation() {
    for_each_seed(&[72], |seed| {
        let mut ended_on_workers = 0;
        let records = final_records_of(|| {
            let mut world = World::over(rough(), seed, Setup { workers: 4, ..Setup::default() });
            let peer = in_call(&mut world, 50);
            for client in 0..50 {
                world.send_data(client, peer, 500);
            }
            let newcomers: Vec<usize> = (0..20).map(|_| world.client()).collect();
            newcomers.iter().for_each(|&client| world.start(client, Call::allocate()));
            world.run_for(Duration::from_millis(25));
            world.tell(Order::Stop);
            world.run_for(Duration::from_millis(100));

            assert!(world.workers.iter().all(|worker| worker.inner.is_done()));
            let (created, ended) = world.created_and_ended();
            assert!(created >= 50 && created == ended, "{created} created, {ended} ended");
            world.assert_nothing_left();
            ended_on_workers = ended;
        });
        assert_eq!(records.len() as u64, ended_on_workers);
        assert!(records.iter().all(|(_, reason)| reason == "shutdown"), "{records:?}");
        let clients: HashSet<&String> = records.iter().map(|(client, _)| client).collect();
        assert_eq!(clients.len(), records.len(), "one for each");
    });
}

/// A client whose Allocate has reached its worker, which waits for the driver's word about the port.
fn half_allocated(world: &mut World) -> usize {
    let client = world.client();
    assert_eq!(world.call(client, Call::allocate().with(0x7abc, &[])), Outcome::Error(420), "for the nonce");
    world.start(client, Call::allocate());
    (0..world.workers.len()).for_each(|worker| world.turn_worker(worker));
    assert_eq!(world.allocations().iter().sum::<usize>(), 1);
    client
}

/// Stops, and gives each worker the turns that it needs for its sockets.
fn stop(world: &mut World) {
    world.tell(Order::Stop);
    for _ in 0..3 {
        (0..world.workers.len()).for_each(|worker| world.turn_worker(worker));
    }
    assert!(world.workers.iter().all(|worker| worker.inner.is_done()));
}

#[test]
fn stopping_while_a_port_is_being_opened_closes_it() {
    let mut world = World::new(73);
    half_allocated(&mut world);
    stop(&mut world);
    assert_eq!(world.created_and_ended(), (0, 0));
    world.assert_nothing_left();
}

#[test]
fn stopping_while_a_port_fails_to_open_waits_for_nothing() {
    let mut world = World::with(74, Setup { ports: (50_000, 50_003), ..Setup::default() });
    (50_000..50_004).for_each(|port| world.network.occupy(SocketAddr::new(addr("192.0.2.1:0").ip(), port)));
    half_allocated(&mut world);
    stop(&mut world);
    world.assert_nothing_left();
}

#[test]
fn a_stricter_policy_revokes_within_one_turn() {
    let mut world = World::new(75);
    let peers = world.peers(3);
    let (refused, allowed) = (peers[0], peers[2]);
    let client = world.allocated();
    let relayed = world.clients[client].relayed[0];
    world.call(client, Call::bind(CHANNEL, refused));
    world.call(client, Call::bind(CHANNEL + 1, allowed));

    // The peers' data waits at the worker already when the command comes.
    world.peers[0].endpoint.send_to(relayed, b"late", 0);
    world.peers[2].endpoint.send_to(relayed, b"welcome", 0);
    world.setup.deny = vec!["203.0.113.1/32"];
    world.setup.enforce(&world.shared);
    world.tell(Order::PolicyChanged);
    (0..2).for_each(|worker| world.turn_worker(worker));
    let counts = world.workers.iter().map(|worker| worker.inner.server().table_counts());
    let left = counts.fold((0, 0), |sum, counts| (sum.0 + counts.permissions, sum.1 + counts.channels));
    assert_eq!(left, (1, 1));
    world.settle();
    let welcome = Received::Data {
        via: Via::Channel(CHANNEL + 1),
        from: allowed,
        payload: b"welcome".to_vec(),
        tos: 0,
    };
    assert_eq!(world.clients[client].inbox, [welcome]);

    world.with_client(client, |client, _| client.send_data(refused, b"out", 0));
    world.settle();
    assert!(world.peers[0].inbox.is_empty());
    assert_eq!(world.call(client, Call::bind(CHANNEL, refused)), Outcome::Error(403));
    assert_eq!(world.call(client, Call::bind(CHANNEL + 1, allowed)), Outcome::Success);
}

#[test]
fn what_others_read_is_exact_within_a_second_and_an_idle_worker_sleeps_on() {
    let mut world = World::new(76);
    let peer = in_call(&mut world, 10);
    (0..200).for_each(|round| world.send_data(round % 10, peer, 50));
    world.settle();
    world.run_for(Duration::from_secs(1));
    let now = world.network.now();
    for Worker { inner, handle } in &world.workers {
        let report = handle.status.report();
        assert_eq!(format!("{:?}", report.counts), format!("{:?}", inner.server().counts()));
        assert!(report.counts.allocations_created > 0 && report.load.turns > 0);
        let next_ns = inner.server().poll_timeout().map(|(due_ns, _)| due_ns - now.mono_ns);
        assert_eq!(inner.timeout(now).map(|timeout| timeout.as_nanos() as u64), next_ns);
    }
}
