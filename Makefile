# Thin names for `cargo xtask`, which is the one way to run things here.

.DEFAULT_GOAL := help
.PHONY: help run test test-clean ebpf kernels bench

help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Build the relay and start it with invented credentials; it prints how to use it
	cargo build --release --locked
	./target/release/turnpike run --quickstart

test: ## Install what the tests need, then run every check and test there is
	cargo xtask setup
	cargo xtask ci

test-clean: ## The same in a new Debian that has nothing else (root; mmdebstrap)
	cargo xtask clean-root

ebpf: ## Rebuild the committed eBPF objects after a change of their sources (tools: ebpf/README.md)
	cargo xtask ebpf

kernels: ## Test in other kernels: the eBPF objects, VLANs and bonds, in QEMU (downloads the kernels once; half an hour without KVM)
	cargo xtask kernels

bench: ## Compare with coturn in network namespaces (root, under 12 minutes); writes docs/benchmarks.md
	cargo build --release --locked --package turnpike --package turnpike-bench
	./target/release/turnpike-bench compare --keep-in bench/results --markdown docs/benchmarks.md
