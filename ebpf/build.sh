#!/usr/bin/env bash
# Builds the eBPF objects; ebpf/README.md says which tools it needs. Writes them to the folder given,
# by default ebpf/object.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-ebpf/object}

# Debian's compiler: its source package allows core to be built for eBPF without a nightly toolchain.
export RUSTC=${TURNPIKE_BPF_RUSTC:-/usr/bin/rustc}
export RUSTC_BOOTSTRAP=1
# No paths in the object: it shall be the same bytes in every folder.
export RUSTFLAGS="-C target-cpu=v3 -Z location-detail=none -C linker=${TURNPIKE_BPF_LINKER:-bpf-linker}"

cargo build --quiet --locked --package turnpike-ebpf --bins --profile bpf \
    --target bpfel-unknown-none -Z build-std=core --target-dir target/bpf

mkdir -p "$out"
cp target/bpf/bpfel-unknown-none/bpf/turnpike-xdp "$out/turnpike.o"
cp target/bpf/bpfel-unknown-none/bpf/turnpike-pinning "$out/pinning.o"
cp target/bpf/bpfel-unknown-none/bpf/turnpike-xdp-bench "$out/bench.o"
cp target/bpf/bpfel-unknown-none/bpf/turnpike-xdp-traffic "$out/traffic.o"
