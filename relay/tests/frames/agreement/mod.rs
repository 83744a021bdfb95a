//! The property that holds both planes together: for any history and any frame, the program leaves the frame
//! alone, or drops it for its rate, or sends exactly what the core would send.
//!
//! ```text
//!   history ─► core (workers, virtual time) ─┬─ leases, generations ─► World ─► program ─► what came out
//!                                            ├─ Offload, Withdraw ─► routes ─┘                 ║ equal
//!                                            └─ the same datagram ─► forward_* ─► what the core sends
//! ```
//!
//! Over the host build always, and over the object in the kernel with the other frame tests. More histories
//! than in the CI: `TURNPIKE_HISTORIES=10000`.

mod history;
mod stalled;

use std::cell::{Cell, RefCell};

use proptest::test_runner::{Config, TestRunner};
use turnpike_fixtures::Plane;

use crate::host::Host;
use crate::kernel::Kernel;
use history::{Bench, Tally};

/// Runs so many histories, or as many as the environment says, and expects that something was forwarded.
fn check(plane: impl Plane, histories: u32) {
    let cases = std::env::var("TURNPIKE_HISTORIES").ok().and_then(|number| number.parse().ok());
    let config = Config { cases: cases.unwrap_or(histories), failure_persistence: None, ..Config::default() };
    let plane = RefCell::new(plane);
    let total = Cell::new(Tally::default());
    let run = |steps: Vec<history::Step>| {
        let mut plane = plane.borrow_mut();
        let mut bench = Bench::new(&mut *plane);
        for step in steps {
            bench.take(step)?;
        }
        total.set(total.get().plus(bench.tally));
        Ok(())
    };
    if let Err(error) = TestRunner::new(config).run(&history::steps(), run) {
        panic!("{error}");
    }
    let Tally { frames, forwarded, hairpins, dropped, garbage } = total.get();
    println!(
        "{frames} frames: {forwarded} forwarded, {hairpins} of them hairpins, {dropped} dropped, {garbage} garbage"
    );
    // A program that passes everything would agree as well.
    assert!(forwarded * 8 > frames && hairpins * 100 > frames && dropped > 0, "{:?}", total.get());
}

#[test]
fn the_host_build_agrees_with_the_core() {
    check(Host, 150);
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn the_object_agrees_with_the_core() {
    let Some(kernel) = Kernel::new() else { return };
    check(kernel, 60);
}
