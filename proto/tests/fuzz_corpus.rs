//! The fuzzer's corpora, replayed without the fuzzer: what was found once stays found.
//!
//! `cargo xtask fuzz TARGET` looks for more; see `docs/fuzzing.md`.
#![expect(clippy::disallowed_methods, reason = "a test may read the files of its corpus; the core may not")]

use std::path::Path;

use turnpike_fuzz_checks::{frame, framer, migrate, operations, proxy, request, wire};

/// Runs a target over each file of its corpus, and names the file if it fails.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("the folder can be listed").path())
        .collect();
    files.sort_unstable();
    assert!(files.len() >= 5, "{} has hardly any files", folder.display());
    for file in files {
        let bytes = std::fs::read(&file).expect("the file can be read");
        if std::panic::catch_unwind(|| run(&bytes)).is_err() {
            panic!("{} fails: see above", file.display());
        }
    }
}

// Conformance S1, S7, S10, S13, Q11, Q12
#[test]
fn every_sequence_of_bytes_is_read_as_the_reference_reads_it() {
    replay("wire", wire::run);
}

// Conformance S27, C6, Q12
#[test]
fn every_stream_is_cut_where_its_messages_end() {
    replay("framer", framer::run);
}

// Conformance Q12
#[test]
fn every_header_of_a_proxy_says_what_stands_there() {
    replay("proxy", proxy::run);
}

#[test]
fn every_snapshot_is_refused_or_goes_on() {
    replay("migrate", migrate::run);
}

#[test]
fn every_frame_passes_untouched_or_is_sent_as_its_route_says() {
    replay("frame", frame::run);
}

// Conformance S4, S5, S6, S8, S13, Q12, Q13
#[test]
fn arbitrary_requests_of_known_users_do_nothing_that_was_not_promised() {
    replay("request", request::run);
}

// Conformance A14, R2, P2, P3, P4, C3, C8, Q8
#[test]
fn any_order_of_operations_leaves_tables_ports_and_quotas_consistent() {
    replay("operations", operations::run);
}
