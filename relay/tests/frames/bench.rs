//! Nanoseconds per packet, by BPF_PROG_TEST_RUN with many repeats.
//!
//! A wrapper restores the packet and calls the program; what it takes with an empty program is
//! subtracted. It prints and judges nothing: other work on the machine disturbs, so it is no part of
//! the CI. Run with: `cargo test -p turnpike --test frames -- --ignored --nocapture bench_`

use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use turnpike_abi::{Rate, Route, RouteKey, RouteTarget, Slots};
use turnpike_fixtures::{Datagram, Limit, Plane, Scene, World};
use turnpike_offload::maps::Sizes;

use crate::kernel::Kernel;

static WRAPPER: &[u8] = aya::include_bytes_aligned!("../../../ebpf/object/bench.o");

/// Packets in a run.
const REPEAT: u32 = 100_000;
/// Runs of each kind, taken in turns. The fastest says what the program costs, the median what the
/// machine had to do besides.
const ROUNDS: usize = 41;
/// Offset of the UDP source port in an IPv4 frame, bytes.
const SOURCE_PORT: u32 = 34;
/// Flows with random order: a port's sixteen bits allow no more per address.
const FLOWS: u32 = 1 << 16;
/// Bindings in the maps during the test of random flows.
const MANY_BINDINGS: u32 = 100_000;

/// What the wrapper restores, as `ebpf/program/src/wrapper.rs` has it: length, field, mask, shift, headers.
type Template = [u32; 22];

/// Loaded wrapper with its maps.
struct Wrapper {
    ebpf: Ebpf,
    template: Array<MapData, Template>,
    under_test: ProgramArray<MapData>,
}

impl Wrapper {
    fn new() -> Wrapper {
        let mut ebpf = EbpfLoader::new().load(WRAPPER).expect("the wrapper loads");
        for name in ["nothing", "shift", "restore"] {
            xdp(&mut ebpf, name).load().expect("the verifier takes it");
        }
        let template = ebpf.take_map("TEMPLATE").expect("a map").try_into().expect("an array");
        let under_test = ebpf.take_map("UNDER_TEST").expect("a map").try_into().expect("a program array");
        Wrapper { ebpf, template, under_test }
    }

    /// Net nanoseconds per packet (fastest and median), and the last return value.
    ///
    /// `shift` is by how much the program moves the start of the frame: the wrapper has to move it
    /// back, and that is none of the program's costs.
    fn measure(
        &mut self,
        kernel: &mut Kernel,
        frame: &[u8],
        shift: i32,
        random: Option<u32>,
    ) -> ([f64; 2], u32) {
        self.set_template(frame, shift, random);
        let program = kernel.xdp.program().expect("it is there").fd().expect("it is loaded");
        let program = program.try_clone().expect("a descriptor");
        let [nothing, shifting] = ["nothing", "shift"].map(|name| {
            let program = xdp(&mut self.ebpf, name);
            program.fd().expect("it is loaded").try_clone().expect("a descriptor")
        });
        let (mut base, mut shifted, mut full, mut result) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            base.push(self.run(&nothing, frame).0);
            shifted.push(self.run(if shift == 0 { &nothing } else { &shifting }, frame).0);
            let (nanoseconds, value) = self.run(&program, frame);
            full.push(nanoseconds);
            result = value;
        }
        let [base, shifted, full] = [base, shifted, full].map(fastest_and_median);
        let net = [0, 1].map(|i| full[i] - base[i] - (shifted[i] - base[i]).max(0.0) / 2.0);
        (net, result)
    }

    fn set_template(&mut self, frame: &[u8], shift: i32, random: Option<u32>) {
        // Long enough for all headers of any family to be restored at once.
        assert!(frame.len() >= 72 + shift.unsigned_abs() as usize);
        let mut template: Template = [0; 22];
        template[0] = frame.len() as u32;
        (template[1], template[2]) = random.map_or((0, 0), |field| (field, FLOWS - 1));
        template[3] = shift as u32;
        for (word, bytes) in template[4..].iter_mut().zip(frame.chunks(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        }
        self.template.set(0, template, 0).expect("it can be written");
    }

    fn run(&mut self, program: &ProgramFd, frame: &[u8]) -> (f64, u32) {
        self.under_test.set(0, program, 0).expect("it can be written");
        let options = TestRunOptions { data_in: Some(frame), repeat: REPEAT, ..TestRunOptions::new() };
        let result = xdp(&mut self.ebpf, "restore").test_run(options).expect("the kernel runs it");
        (result.duration.as_nanos() as f64, result.return_value)
    }
}

fn xdp<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut Xdp {
    ebpf.program_mut(name).expect("the wrapper has it").try_into().expect("it is an XDP program")
}

fn fastest_and_median(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2]]
}

/// One line of the report.
struct Line {
    name: String,
    target: f64,
    nanoseconds: [f64; 2],
}

#[test]
#[ignore = "a benchmark: takes a minute, needs root and a quiet machine"]
fn bench_nanoseconds_per_packet() {
    let Some(mut kernel) = Kernel::new() else { return };
    println!("load average {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    let mut wrapper = Wrapper::new();
    let mut lines = Vec::new();
    for (client_v6, relay_v6) in [(false, false), (true, true), (false, true), (true, false)] {
        let scene = Scene { client_v6, relay_v6, other_v6: client_v6 };
        lines.extend(forwarding(&mut kernel, &mut wrapper, scene));
    }
    lines.extend(not_ours(&mut kernel, &mut wrapper));
    let sizes = Sizes { bindings: MANY_BINDINGS, allocations: MANY_BINDINGS, next_hops: 16 };
    if let Some(mut large) = Kernel::with(sizes) {
        lines.push(random_flows(&mut large, &mut wrapper));
    }
    println!("ns per packet (test_run, wrapper subtracted)   fastest   median   target");
    for Line { name, target, nanoseconds: [fastest, median] } in &lines {
        println!("{name:<44} {fastest:>9.1} {median:>8.1} {target:>8.0}");
    }
}

/// With a limit, so that bucket and counters are in it.
fn limited(mut world: World) -> World {
    for allocation in &mut world.allocations {
        let limit = Limit::Fresh(Rate::new(1_000_000_000_000, 1000));
        (allocation.to_peer, allocation.to_client) = (limit, limit);
    }
    world
}

fn forwarding(kernel: &mut Kernel, wrapper: &mut Wrapper, scene: Scene) -> Vec<Line> {
    let world = limited(scene.world());
    let family = |v6| if v6 { "v6" } else { "v4" };
    let families = format!("{} client, {} peer", family(scene.client_v6), family(scene.relay_v6));
    let data = [0x5a; 160];
    let cases = [
        ("to peer", scene.from_client(Scene::TO_PEER, &data), 55.0),
        ("to client", scene.from_peer(&data), 55.0),
        ("hairpin", scene.from_client(Scene::TO_OTHER, &data), 65.0),
    ];
    let measure = |(way, datagram, target): (&str, Datagram, f64)| {
        let frame = datagram.bytes();
        let shift = frame.len() as i32 - kernel.run(&world, &frame).frame.len() as i32;
        let (nanoseconds, result) = wrapper.measure(kernel, &frame, shift, None);
        assert_eq!(result, 4, "{way} with {families} is not forwarded");
        Line { name: format!("{way}, {families}"), target, nanoseconds }
    };
    cases.map(measure).into()
}

fn not_ours(kernel: &mut Kernel, wrapper: &mut Wrapper) -> Vec<Line> {
    let scene = Scene { client_v6: false, relay_v6: false, other_v6: false };
    kernel.set(&scene.world());
    let plain = scene.from_client(Scene::TO_PEER, &[0; 160]);
    let mut tcp = plain.bytes();
    tcp[23] = 6;
    let mut port = plain.clone();
    port.destination.set_port(53);
    let mut stun = plain.clone();
    stun.payload[..4].fill(0);
    let mut unbound = scene.from_peer(&[0; 160]);
    unbound.source.set_port(1);
    let cases = [
        ("not ours: TCP", tcp, 20.0),
        ("not ours: UDP to another port", port.bytes(), 20.0),
        ("STUN to a listener", stun.bytes(), 20.0),
        ("to a relayed address, no route", unbound.bytes(), 55.0),
    ];
    let measure = |(name, frame, target): (&str, Vec<u8>, f64)| {
        let (nanoseconds, result) = wrapper.measure(kernel, &frame, 0, None);
        assert_eq!(result, 2, "{name} does not pass");
        Line { name: name.to_owned(), target, nanoseconds }
    };
    cases.map(measure).into()
}

/// One client port per flow, each with an allocation and a binding of its own, in random order, among
/// a hundred thousand.
fn random_flows(kernel: &mut Kernel, wrapper: &mut Wrapper) -> Line {
    let scene = Scene { client_v6: false, relay_v6: false, other_v6: false };
    let mut world = limited(scene.world());
    world.allocations = vec![world.allocations[0]; MANY_BINDINGS as usize];
    world.bindings = vec![world.bindings[0]; MANY_BINDINGS as usize];
    world.routes = (0..MANY_BINDINGS).flat_map(|slot| both_routes(scene, slot)).collect();
    kernel.set(&world);
    let frame = scene.from_client(Scene::TO_PEER, &[0x5a; 160]).bytes();
    // The checksum is not the packet's own for all but one of the ports; the program doesn't look.
    let (nanoseconds, result) = wrapper.measure(kernel, &frame, 4, Some(SOURCE_PORT));
    assert_eq!(result, 4, "the last one was not forwarded");
    Line { name: format!("to peer, {FLOWS} random flows of {MANY_BINDINGS}"), target: 280.0, nanoseconds }
}

fn both_routes(scene: Scene, slot: u32) -> [(RouteKey, Route); 2] {
    let (mut client, mut relayed) = (scene.client(), scene.relayed());
    client.set_port(slot as u16);
    relayed.set_port(slot as u16);
    let slots = Slots {
        allocation: slot,
        allocation_generation: Scene::GENERATION,
        binding: slot,
        binding_generation: Scene::GENERATION,
        next_hop: 1,
        ingress: 0b10,
    };
    let up = RouteKey::new(client, scene.server(false), Scene::TO_PEER + (slot >> 16) as u16);
    let down = RouteKey::new(scene.peer(), relayed, (slot >> 16) as u16);
    let target = |source, destination, channel| RouteTarget {
        source,
        destination,
        channel,
        flags: Default::default(),
    };
    let to_peer = Route::new(&up, &target(relayed, scene.peer(), 0), slots);
    let to_client = Route::new(&down, &target(scene.server(false), client, Scene::TO_PEER), slots);
    [(up, to_peer), (down, to_client)]
}
