//! One bucket, several processors: rate times time and one burst, whoever charges it.
//!
//! Each processor forwards the same frame as often as it can, which is far more than the limit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aya::programs::{TestRun, TestRunOptions, Xdp as XdpProgram};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use turnpike_abi::{Rate, charge};
use turnpike_fixtures::{Limit, Scene};

use crate::kernel::Kernel;

/// How long it is loaded.
const LENGTH: Duration = Duration::from_millis(1200);
const BURST_MS: u32 = 100;
/// How far off the delivered bytes may be.
const TOLERANCE: f64 = 0.03;
/// How often it is tried on a machine that keeps threads from running.
const TRIES: usize = 20;
/// Between two charges in userspace: about what a test run takes, so that both have their chance.
const PACE: Duration = Duration::from_micros(3);

/// Who charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plane {
    /// The program, by test runs.
    Kernel,
    /// The code of the relay's workers, on the same words.
    Userspace,
}

/// What is delivered in [`LENGTH`], as a share of rate times time and one burst; and whether each plane had
/// its part in it.
fn share_delivered(kernel: &mut Kernel, bits_per_sec: u64, planes: &[Plane]) -> (f64, bool) {
    let scene = Scene { client_v6: false, relay_v6: false, other_v6: false };
    let rate = Rate::new(bits_per_sec, BURST_MS);
    let payload_bytes = if bits_per_sec < 1_000_000 { 200 } else { 1000 };
    let mut world = scene.world();
    world.allocations[0].to_peer = Limit::Fresh(rate);
    world.allocations[0].lease_ns = u64::MAX;
    world.bindings[0].lease_ns = u64::MAX;
    let frame = scene.from_client(Scene::TO_PEER, &vec![0x5a; payload_bytes]).bytes();
    kernel.set(&world);
    let allocations = kernel.xdp.maps.allocations().clone();
    let to_peer = &allocations[0].to_peer;
    let program: &XdpProgram = kernel.xdp.program().expect("the object has it");
    let (stop, by_userspace) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = |plane, cpu| {
        keep_to(cpu);
        while !stop.load(Relaxed) {
            match plane {
                Plane::Kernel => {
                    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
                    program.test_run(options).expect("the kernel runs it");
                }
                Plane::Userspace => {
                    if charge(&to_peer.bucket, &rate, coarse_ns(), payload_bytes as u64) {
                        by_userspace.fetch_add(payload_bytes as u64, Relaxed);
                    }
                    let begin = Instant::now();
                    while begin.elapsed() < PACE {
                        std::hint::spin_loop();
                    }
                }
            }
        }
    };
    let elapsed = std::thread::scope(|scope| {
        let begin = Instant::now();
        for (cpu, &plane) in planes.iter().enumerate() {
            let work = &work;
            scope.spawn(move || work(plane, cpu));
        }
        std::thread::sleep(LENGTH);
        stop.store(true, Relaxed);
        begin.elapsed()
    });
    let (by_kernel, by_userspace) = (to_peer.bytes.load(Relaxed), by_userspace.load(Relaxed));
    assert!(to_peer.rate_drops.load(Relaxed) > 0, "it was a flood");
    let had_its_part = |plane: &Plane| if *plane == Plane::Kernel { by_kernel > 0 } else { by_userspace > 0 };
    let expected = bits_per_sec as f64 / 8.0 * (elapsed.as_secs_f64() + f64::from(BURST_MS) / 1000.0);
    ((by_kernel + by_userspace) as f64 / expected, planes.iter().all(had_its_part))
}

/// The program's clock: with a finer one userspace would be the first to see each token.
fn coarse_ns() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps this thread to the processor `place` of those that it may use.
fn keep_to(place: usize) {
    let allowed = sched_getaffinity(None).expect("it can be asked");
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let mut set = CpuSet::new();
    set.set(cpus[place % cpus.len()]);
    sched_setaffinity(None, &set).expect("it may");
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn a_limit_is_one_limit_on_one_and_on_two_processors_and_in_both_planes() {
    use Plane::{Kernel as InKernel, Userspace};
    let Some(mut kernel) = Kernel::new() else { return };
    for bits_per_sec in [500_000, 2_000_000, 20_000_000, 100_000_000] {
        for planes in [&[InKernel][..], &[InKernel, InKernel], &[InKernel, Userspace]] {
            let mut seen = Vec::new();
            loop {
                assert!(seen.len() < TRIES, "{bits_per_sec} bit/s by {planes:?}: {seen:.3?}");
                let (share, by_all) = share_delivered(&mut kernel, bits_per_sec, planes);
                assert!(share < 1.0 + TOLERANCE, "{share:.3} of {bits_per_sec} bit/s by {planes:?}");
                seen.push((share, by_all));
                if share > 1.0 - TOLERANCE && by_all {
                    break;
                }
            }
            println!("{bits_per_sec} bit/s by {planes:?}: {seen:.3?}");
        }
    }
}
