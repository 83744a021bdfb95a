//! `cargo xtask ci`: every check and test, in the order in which a mistake shows soonest.

use std::path::Path;

use crate::step::{Counts, Report, cargo, command_line};
use crate::{api, commands, coverage, deny, ebpf, node, target_folder, tidy};

/// Runs all steps, also after one failed, and prints the summary.
///
/// # Errors
/// When a step failed.
pub fn run(root: &Path) -> Result<(), String> {
    let mut reports = vec![
        cargo_step(root, "format", &["fmt", "--all", "--check"], &[]),
        Report::of("tidy", "cargo xtask tidy", || tidy::run(root).map(|()| Counts::default())),
        Report::of("coverage", "cargo xtask coverage", || coverage::check(root).map(|()| Counts::default())),
        Report::of("deny", "cargo xtask deny", || deny::check(root).map(|()| Counts::default())),
        Report::of("ebpf", "cargo xtask ebpf --check", || {
            let mut counts = Counts::default();
            ebpf::check(root, &mut counts).map(|()| counts)
        }),
        cargo_step(root, "clippy", CLIPPY, &[]),
        cargo_step(root, "doc", DOC, &[("RUSTDOCFLAGS", "-D warnings")]),
        cargo_step(root, "build", &["build", "--release", "--locked"], &[]),
        cargo_step(root, "test", TEST, &[("RUST_TEST_THREADS", "4")]),
        Report::of("api", "cargo xtask api", || {
            api::run(root).map(|()| Counts { passed: 1, ..Counts::default() })
        }),
        cargo_step(root, "worker", WORKER, &[]),
        cargo_step(root, "loom", LOOM, &[("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom")]),
        cargo_step(root, "frames", ebpf::FRAME_TESTS, &[]),
    ];
    reports.push(counted_step("interop", |counts| run_with_binary(root, INTEROP, SHORT, counts)));
    reports.push(counted_step("offload", |counts| run_with_binary(root, OFFLOAD, WITHOUT_CARDS, counts)));
    reports.push(counted_step("dashboard", |counts| node::dashboard(root, counts)));
    reports.push(counted_step("deploy", |counts| node::deploy(root, counts)));
    reports.push(counted_step("commands", |counts| commands::run(root, counts)));
    summarize(&reports)
}

/// Runs the frame tests alone: the committed eBPF object in this kernel.
///
/// # Errors
/// When building fails or a test does.
pub fn frames(root: &Path) -> Result<(), String> {
    cargo(root, ebpf::FRAME_TESTS, &[], &mut Counts::default())
}

/// Runs the interoperability tests alone, the long ones too, against the release binary.
///
/// # Errors
/// When building fails or a test does.
pub fn interop(root: &Path, filter: Option<&str>) -> Result<(), String> {
    cargo(root, &["build", "--release", "--locked"], &[], &mut Counts::default())?;
    run_with_binary(root, INTEROP, filter.as_slice(), &mut Counts::default())
}

/// Runs the tests of the kernel data path alone, against the release binary.
///
/// # Errors
/// When building fails or a test does.
pub fn offload(root: &Path, filter: Option<&str>) -> Result<(), String> {
    cargo(root, &["build", "--release", "--locked"], &[], &mut Counts::default())?;
    let selection = [WITHOUT_CARDS, filter.as_slice()].concat();
    run_with_binary(root, OFFLOAD, &selection, &mut Counts::default())
}

// Many tests wait for a program or for time to pass: more of them than there are cores.
const TEST: &[&str] = &["test", "--workspace", "--locked", "--no-fail-fast"];
const CLIPPY: &[&str] = &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
// Each step asks for the whole workspace, and for the tests of it that it wants: dependencies would be built again with
// other features for a package by itself, which takes minutes.
/// What takes a minute: allocations by the ten thousands.
const WORKER: &[&str] =
    &["test", "--workspace", "--test", "worker", "--locked", "--", "--ignored", "--test-threads", "1"];
/// What workers share, under every interleaving.
const LOOM: &[&str] =
    &["test", "-p", "turnpike-abi", "-p", "turnpike-proto", "--lib", "--locked", "interleavings"];
const DOC: &[&str] = &["doc", "--workspace", "--no-deps", "--locked"];

/// Test programs, and how many of their tests run at once. Those of interop wait for the clients' timers
/// most of the time: more than there are cores.
const INTEROP: (&[&str], &str) = (&["interop", "hostile"], "6");
/// All of them but those in modules named `long`.
const SHORT: &[&str] = &["--skip", "::long::"];
/// These measure and flood, too.
const OFFLOAD: (&[&str], &str) = (&["offload"], "3");
/// All of them but those that need a virtual machine's network cards (`cargo xtask kernels`).
const WITHOUT_CARDS: &[&str] = &["--skip", "reach::"];

fn run_with_binary(
    root: &Path,
    (programs, threads): (&[&str], &str),
    selection: &[&str],
    counts: &mut Counts,
) -> Result<(), String> {
    let binary = target_folder(root).join("release/turnpike");
    let binary = binary.to_str().ok_or("the path of the repository is not UTF-8")?;
    let mut arguments = vec!["test", "--workspace"];
    programs.iter().for_each(|program| arguments.extend(["--test", program]));
    arguments.extend(["--locked", "--", "--ignored", "--test-threads", threads]);
    arguments.extend(selection);
    cargo(root, &arguments, &[("TURNPIKE_BIN", binary)], counts)
}

/// A step that runs tests, also under its name alone.
fn counted_step(name: &'static str, work: impl FnOnce(&mut Counts) -> Result<(), String>) -> Report {
    let mut counts = Counts::default();
    let mut report =
        Report::of(name, format!("cargo xtask {name}"), || work(&mut counts).map(|()| Counts::default()));
    report.counts = counts;
    report
}

fn cargo_step(root: &Path, name: &'static str, arguments: &[&str], environment: &[(&str, &str)]) -> Report {
    let quoted = |value| shlex::try_quote(value).expect("a variable has no NUL");
    let variables: String =
        environment.iter().map(|(key, value)| format!("{key}={} ", quoted(value))).collect();
    let mut counts = Counts::default();
    let mut report = Report::of(name, format!("{variables}{}", command_line("cargo", arguments)), || {
        cargo(root, arguments, environment, &mut counts).map(|()| Counts::default())
    });
    report.counts = counts;
    report
}

/// Prints the table, what to run again, and as the last line what passed and failed.
fn summarize(reports: &[Report]) -> Result<(), String> {
    println!("\n{:<10} {:<8} {:>8}  tests", "step", "result", "seconds");
    for report in reports {
        let result = if report.ok { "ok" } else { "FAILED" };
        println!(
            "{:<10} {result:<8} {:>8.1}  {}",
            report.name,
            report.took.as_secs_f64(),
            describe(report.counts)
        );
    }
    let failed: Vec<&Report> = reports.iter().filter(|report| !report.ok).collect();
    for report in &failed {
        println!("{} failed; run it again with: {}", report.name, report.rerun);
    }
    println!("{}", last_line(reports));
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {} steps failed", failed.len(), reports.len()))
    }
}

fn describe(counts: Counts) -> String {
    match counts {
        Counts { passed: 0, failed: 0, skipped: 0 } => String::new(),
        Counts { passed, failed, skipped: 0 } => format!("{passed} passed, {failed} failed"),
        Counts { passed, failed, skipped } => {
            format!("{passed} passed, {failed} failed, {skipped} SKIPPED")
        }
    }
}

/// Tests, and steps that failed without a failed test, as one pair of numbers.
fn last_line(reports: &[Report]) -> String {
    let all = reports.iter().fold(Counts::default(), |sum, report| sum.plus(report.counts));
    let silent = reports.iter().filter(|report| !report.ok && report.counts.failed == 0).count() as u64;
    let skipped = if all.skipped > 0 { format!(", {} skipped", all.skipped) } else { String::new() };
    format!("{} passed, {} failed{skipped}", all.passed, all.failed + silent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(ok: bool, counts: Counts) -> Report {
        Report { name: "test", rerun: "cargo test".into(), ok, took: Duration::ZERO, counts }
    }

    #[test]
    fn the_last_line_adds_up_the_tests() {
        let one = report(true, Counts { passed: 5, failed: 0, skipped: 0 });
        let two = report(false, Counts { passed: 2, failed: 3, skipped: 0 });
        assert_eq!(last_line(&[one, two]), "7 passed, 3 failed");
    }

    #[test]
    fn a_step_that_failed_without_tests_counts_as_a_failure() {
        let tests = report(true, Counts { passed: 5, failed: 0, skipped: 0 });
        let clippy = report(false, Counts::default());
        assert_eq!(last_line(&[tests, clippy]), "5 passed, 1 failed");
    }

    #[test]
    fn skipped_tests_are_told_apart() {
        let tests = report(true, Counts { passed: 5, failed: 0, skipped: 2 });
        assert_eq!(last_line(&[tests]), "5 passed, 0 failed, 2 skipped");
    }
}
