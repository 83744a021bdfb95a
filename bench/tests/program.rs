//! The program from outside: bad input is one clear line and a failure, and nothing is left behind.
//!
//! The comparison itself needs root, coturn and a Turnpike binary beside this one; without them those tests
//! say so loudly, and fail when `CI=true`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A comparison of a second takes several on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike-bench"));
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program can be started")
}

/// The program fails with one line that contains `wanted`.
#[track_caller]
fn assert_refused(arguments: &[&str], wanted: &str) {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(wanted), "{wanted:?} is missing in {error:?}");
    assert_eq!(error.trim_end().lines().count(), 1, "more than one line: {error:?}");
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    assert_refused(&["compare", "--scenario", "smal"], "no scenario is called smal: there are small");
    assert_refused(
        &["compare", "--server", "apache"],
        "no server is called apache: there are turnpike-epoll",
    );
}

#[test]
fn impossible_lengths_are_refused() {
    assert_refused(&["compare", "--seconds", "0"], "--seconds is between 1 and 60");
    assert_refused(&["compare", "--seconds", "NaN"], "--seconds is between 1 and 60");
}

#[test]
fn missing_programs_are_named() {
    let this = env!("CARGO_BIN_EXE_turnpike-bench");
    assert_refused(&["compare", "--turnpike", "/nowhere"], "no turnpike binary");
    assert_refused(
        &["compare", "--turnpike", this, "--turnserver", "/nowhere"],
        "--turnserver: no such file",
    );
}

#[test]
fn a_report_needs_a_result() {
    assert_refused(&["report", "/nowhere.json"], "/nowhere.json: ");
    assert_refused(&["report", "Cargo.toml"], "not a result of this program");
}

#[test]
fn a_report_goes_to_the_terminal_only_if_no_page_is_asked_for() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/2026-11-28-42c931578975.json");
    let kept = kept.to_str().expect("UTF-8");
    let text = run(&["report", kept]);
    assert!(text.status.success() && String::from_utf8_lossy(&text.stdout).contains("ndr-small"));
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.html");
    let silent = run(&["report", kept, "--html", page.to_str().expect("UTF-8")]);
    assert!(silent.status.success() && silent.stdout.is_empty());
    assert!(std::fs::read_to_string(&page).is_ok_and(|page| page.contains("ndr-small")));
}

#[test]
fn without_root_it_says_so() {
    if !rustix::process::geteuid().is_root() {
        return turnpike_testkit::skip("without_root_it_says_so", "only root can become nobody");
    }
    // Where nobody may read: the build folder may be root's alone.
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("turnpike-bench");
    std::fs::copy(env!("CARGO_BIN_EXE_turnpike-bench"), &copy).expect("writable");
    Command::new("chmod").arg("755").arg(folder.path()).status().expect("chmod runs");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["compare", "--turnpike", "/bin/true", "--turnserver", "/bin/true"])
        .output()
        .expect("setpriv runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("need root") && error.trim_end().lines().count() == 1, "{error:?}");
}

#[test]
fn a_server_that_does_not_start_ends_the_comparison_without_leftovers() {
    if let Some(why) = missing() {
        return turnpike_testkit::skip(
            "a_server_that_does_not_start_ends_the_comparison_without_leftovers",
            &why,
        );
    }
    let child = program()
        .args(["compare", "--turnpike", "/bin/false", "--scenario", "small"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let pid = child.id();
    let output = child.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("turnpike-epoll ended at once"), "{error}");
    assert_eq!(namespaces_of(pid), [] as [String; 0]);
}

#[test]
fn a_short_comparison_has_values_for_every_server_and_cleans_up() {
    let name = "a_short_comparison_has_values_for_every_server_and_cleans_up";
    if let Some(why) = missing() {
        return turnpike_testkit::skip(name, &why);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("results.json");
    let page = folder.path().join("page.md");
    let child = compare(&["--scenario", "small", "--rounds", "1", "--seconds", "1"])
        .args([Path::new("--json"), &json, Path::new("--markdown"), &page])
        .spawn()
        .expect("the program can be started");
    let pid = child.id();
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(namespaces_of(pid), [] as [String; 0]);
    let text = std::fs::read_to_string(&json).expect("it was written");
    let results: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let samples = results["samples"].as_array().expect("a list");
    for server in ["direct", "turnpike-epoll", "coturn"] {
        let sample = samples.iter().find(|sample| sample["server"] == server).expect("each was measured");
        let value = |key: &str| sample["values"][key].as_f64().expect("measured");
        assert!(value("delivered_pps") > 0.0, "{server}: {sample}");
        // Less what the idle machine used: on a busy one that may be all of it.
        assert!(value("system_cpu_us") >= 0.0, "{server}: {sample}");
        assert!(value("p99_us") > 0.0, "{server}: {sample}");
    }
    let text = std::fs::read_to_string(&page).expect("it was written");
    assert!(text.contains("![") && folder.path().join("page/system-cpu.svg").is_file());
}

#[test]
fn after_an_interrupt_nothing_is_left() {
    if let Some(why) = missing() {
        return turnpike_testkit::skip("after_an_interrupt_nothing_is_left", &why);
    }
    let mut child = compare(&["--scenario", "small", "--seconds", "20"]).spawn().expect("it can be started");
    let pid = child.id();
    wait_until("there are namespaces", || !namespaces_of(pid).is_empty());
    // Somewhere in its first trial, most likely.
    std::thread::sleep(Duration::from_secs(5));
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid is positive");
    kill_process(id, Signal::INT).expect("it is running");
    wait_until("it ends", || child.try_wait().expect("our own child").is_some());
    assert_eq!(child.wait().expect("our own child").code(), Some(130));
    assert_eq!(namespaces_of(pid), [] as [String; 0]);
}

fn compare(arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("compare").args(["--turnpike".as_ref(), turnpike().as_os_str()]).args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The relay's binary, built by the same `cargo test --workspace`.
fn turnpike() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_turnpike-bench")).with_file_name("turnpike")
}

/// What keeps a comparison from running here.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make network namespaces".into());
    }
    if !turnpike().is_file() {
        return Some("there is no turnpike binary beside it: cargo build".into());
    }
    let on_path = |program: &&&str| {
        !["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).is_file())
    };
    ["ip", "ethtool", "setpriv", "taskset", "sysctl", "turnserver"]
        .iter()
        .find(on_path)
        .map(|program| format!("{program} is not installed"))
}

fn namespaces_of(pid: u32) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    let names = folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("turnpike-{pid}-"))).collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
