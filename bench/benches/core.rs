//! Nanoseconds of the core's hot paths, without sockets: `cargo bench -p turnpike-bench`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use turnpike_bench::hot::{Core, HotPath};

/// Steps through the clients in an order that no prefetcher guesses: coprime to every table's size.
const STRIDE: usize = 7_919;

/// The table's lookup at three sizes, both ways.
fn forward(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    for allocations in [1, 1_000, 100_000] {
        let mut core = Core::new(allocations);
        for (name, path) in [
            ("client_to_peer", HotPath::ClientToPeer),
            ("peer_to_client", HotPath::PeerToClient),
            ("send_to_peer", HotPath::SendToPeer),
        ] {
            group.bench_function(BenchmarkId::new(name, allocations), |bencher| {
                let mut index = 0;
                bencher.iter(|| {
                    index += STRIDE;
                    black_box(core.run(path, index))
                });
            });
        }
    }
    group.finish();
}

/// Control messages, which need cryptography.
fn control(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control");
    let mut core = Core::new(1_000);
    for (name, path) in [
        ("parse_and_authenticate", HotPath::Authenticate),
        ("nonce_and_401", HotPath::Challenge),
        ("binding", HotPath::Binding),
        ("lifecycle", HotPath::Lifecycle),
    ] {
        let mut index = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                index += 1;
                black_box(core.run(path, index))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, forward, control);
criterion_main!(benches);
