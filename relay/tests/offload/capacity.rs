//! Many bindings, and many at a time: how fast they reach the kernel, and what they take.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use turnpike_driver::Waker;
use turnpike_offload::link::Inherited;
use turnpike_offload::maps::Sizes;
use turnpike_offload::xdp::Mode;
use turnpike_offload::{Answer, Offload, Outbox, Settings, Wishes};
use turnpike_proto::{OffloadBinding, SlotName, UserNumber, WorkerId};
use turnpike_testkit::{becomes_true, eventually};

use super::lab::RELAYED_V4;
use super::server::{SERVER, lab, run};

const BINDINGS: u32 = 100_000;
/// Bindings per second of the churn, and as many withdrawals.
const RATE: u32 = 5000;
/// How long the churn lasts, in steps of 10 ms.
const STEPS: u32 = 200;
/// How many steps a binding lives.
const LIFE: u32 = 50;
/// From a binding's command to its answer, for one of two. The slowest ones wait for a grace period of the
/// kernel, which takes as long as other processes keep its cores busy: they are printed, and bounded loosely.
const MEDIAN: Duration = Duration::from_millis(50);
const P99: Duration = Duration::from_secs(10);
/// How many times as late as this test's own thread the mirror may be: both wait for the same cores.
const BUSY: u32 = 20;
/// Memory of the mirror for all bindings, bytes, and that of the maps without the slots.
const MEMORY: u64 = 60_000_000;

struct Nobody;

impl Waker for Nobody {
    fn wake(&self) {}
}

fn binding(number: u32, generation: u32) -> Box<OffloadBinding> {
    let [_, a, b, c] = number.to_be_bytes();
    let name = SlotName { slot: number, generation };
    Box::new(OffloadBinding {
        binding: name,
        allocation: name,
        client: SocketAddr::new(IpAddr::from([10, 80 + a, b, c]), 4000),
        server: SERVER,
        relayed: SocketAddr::new(RELAYED_V4, 1024 + (number % 60_000) as u16),
        peer: SocketAddr::new(IpAddr::from([10, 90, (number / 60_000) as u8, (number % 250) as u8]), 9000),
        channel: 0x4000 + (number / 60_000) as u16,
        internal: false,
        user: UserNumber(1),
    })
}

fn settings() -> Settings {
    Settings {
        wishes: Wishes {
            named: vec!["client0".to_owned(), "peer0".to_owned()],
            listeners: vec![SERVER],
            relays: vec![RELAYED_V4],
            ports: 1024..=65535,
            last_channel: 0x4fff,
            shield: true,
        },
        mode: Mode::Native,
        sizes: Sizes { bindings: BINDINGS, allocations: BINDINGS, next_hops: 1024 },
        workers: 1,
    }
}

/// Takes answers for a while; gives how many of each kind there were.
fn collect(outbox: &mut Outbox, until: Instant, mut done: impl FnMut(SlotName)) -> (u32, u32) {
    let (mut failed, mut withdrawn) = (0, 0);
    loop {
        for answer in outbox.flush().into_iter().chain(outbox.take_answers()) {
            match answer {
                Answer::Done(name) => done(name),
                Answer::Failed(..) => failed += 1,
                Answer::Withdrawn(_) => withdrawn += 1,
            }
        }
        if Instant::now() >= until {
            return (failed, withdrawn);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// 5000 bindings and as many withdrawals per second; gives the latencies, and how late this thread was at
/// the end of its steps, both sorted.
fn churn(outbox: &mut Outbox) -> (Vec<Duration>, Vec<Duration>) {
    let per_step = RATE / 100;
    let mut begun = HashMap::new();
    let (mut latencies, mut lateness) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    for step in 0..STEPS + LIFE {
        if step < STEPS {
            for number in step * per_step..(step + 1) * per_step {
                begun.insert(number, Instant::now());
                outbox.offload(binding(number, 1));
            }
        }
        if step >= LIFE {
            // On a busy machine they may not be there yet.
            let group = (step - LIFE) * per_step..(step - LIFE + 1) * per_step;
            let all_there = becomes_true(|| {
                take_done(outbox, Instant::now(), &mut begun, &mut latencies);
                group.clone().all(|slot| !begun.contains_key(&slot))
            });
            assert!(all_there, "each binding reaches the kernel");
            for slot in group {
                outbox.withdraw(SlotName { slot, generation: 1 });
            }
        }
        let until = begin + Duration::from_millis(10) * (step + 1);
        take_done(outbox, until, &mut begun, &mut latencies);
        lateness.push(Instant::now().saturating_duration_since(until));
    }
    latencies.sort_unstable();
    lateness.sort_unstable();
    (latencies, lateness)
}

fn take_done(
    outbox: &mut Outbox,
    until: Instant,
    begun: &mut HashMap<u32, Instant>,
    latencies: &mut Vec<Duration>,
) {
    collect(outbox, until, |name| latencies.extend(begun.remove(&name.slot).map(|begun| begun.elapsed())));
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Memory of this process's maps, bytes, without the slots: their descriptors are closed once they are mapped.
fn map_bytes() -> u64 {
    let folder = std::fs::read_dir("/proc/self/fdinfo").expect("Linux has it");
    let texts = folder.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let value = |text: &str, key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
    };
    let by_id = texts.filter_map(|text| Some((value(&text, "map_id:")?, value(&text, "memlock:")?)));
    by_id.collect::<HashMap<_, _>>().values().sum()
}

/// Runs a test again in a process of its own, where nobody else's memory counts; `true` if this is that process.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "TURNPIKE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args([test, "--exact", "--ignored", "--nocapture"]).env(ALONE, "1");
    // What it says on stderr, for instance why it can't run, goes to the terminal.
    let output = command.stderr(Stdio::inherit()).output().expect("it can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    // Not the lines by which a run counts its tests: they are counted out here.
    text.lines().filter(|line| !line.starts_with("test ")).for_each(|line| println!("{line}"));
    false
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_hundred_thousand_bindings_come_and_go_quickly() {
    if !is_alone("capacity::a_hundred_thousand_bindings_come_and_go_quickly") {
        return;
    }
    let Some(lab) = lab("a_hundred_thousand_bindings_come_and_go_quickly") else { return };
    run(&lab.relay, "ip route add 10.80.0.0/14 via 10.77.1.10");
    run(&lab.relay, "ip route add 10.90.0.0/16 via 10.77.2.10");
    let offload = lab.relay.enter(|| Offload::start(settings(), Inherited::none())).expect("it starts");
    let status = Arc::clone(offload.status());
    let mut outbox = offload.outbox(WorkerId(0), Arc::new(Nobody));
    // The routers' MAC addresses become known.
    outbox.offload(binding(BINDINGS - 1, 1));
    let routed = eventually(|| {
        let mut done = false;
        collect(&mut outbox, Instant::now(), |_| done = true);
        done.then_some(())
    });
    assert!(routed.is_some(), "the first binding reaches the kernel");
    let (latencies, lateness) = churn(&mut outbox);
    assert_eq!(latencies.len() as u32, RATE / 100 * STEPS, "all reached the kernel");
    let p99 = |sorted: &[Duration]| sorted[sorted.len() * 99 / 100];
    let (half, slow, late) = (latencies[latencies.len() / 2], p99(&latencies), p99(&lateness));
    println!("binding to kernel: median {half:?}, p99 {slow:?}; this thread was {late:?} late");
    assert!(half <= MEDIAN + late * BUSY && slow <= P99 + late * BUSY, "{half:?}, {slow:?}, {late:?}");

    let (before, maps_before) = (resident_bytes(), map_bytes());
    let begin = Instant::now();
    let count = offload_all(&mut outbox, begin);
    let took = begin.elapsed();
    let grown = resident_bytes().saturating_sub(before);
    let maps = map_bytes();
    println!(
        "{BINDINGS} bindings in {took:?}: mirror {} MB, maps without slots {} MB, before {} MB",
        grown / 1_000_000,
        maps / 1_000_000,
        maps_before / 1_000_000
    );
    assert_eq!(count, BINDINGS - 1);
    assert!(grown < MEMORY && maps < MEMORY, "{grown} and {maps} bytes");
    let expected = (2 * u64::from(BINDINGS), BINDINGS.into(), 0);
    let mut now = status.read();
    let told = becomes_true(|| {
        now = status.read();
        (now.routes, now.bindings, now.waiting) == expected
    });
    assert!(told, "{:?}, expected {expected:?}", (now.routes, now.bindings, now.waiting));
    assert_eq!(now.resync_differences, 0);

    let begin = Instant::now();
    assert_eq!(withdraw_all(&mut outbox, begin), BINDINGS - 1);
    println!("withdrawn in {:?}", begin.elapsed());
    offload.stop();
    assert_eq!(status.read().resync_differences, 0);
}

/// Offloads all bindings but the last; how many have reached the kernel within a minute of `begin`.
fn offload_all(outbox: &mut Outbox, begin: Instant) -> u32 {
    let (mut told, mut count) = (0, 0);
    while count < BINDINGS - 1 && begin.elapsed() < Duration::from_secs(60) {
        // What waits in the outbox would count as the mirror's memory.
        let more = (told..BINDINGS - 1).take((count + 10_000 - told) as usize);
        more.for_each(|number| {
            outbox.offload(binding(number, 2));
            told += 1;
        });
        collect(outbox, Instant::now(), |_| count += 1);
    }
    count
}

/// Withdraws the same; how many have left the kernel within a minute of `begin`.
fn withdraw_all(outbox: &mut Outbox, begin: Instant) -> u32 {
    (0..BINDINGS - 1).for_each(|slot| outbox.withdraw(SlotName { slot, generation: 2 }));
    let mut gone = 0;
    while gone < BINDINGS - 1 && begin.elapsed() < Duration::from_secs(60) {
        gone += collect(outbox, Instant::now(), |_| {}).1;
    }
    gone
}
