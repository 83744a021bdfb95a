//! What the harness reports, against a relay that spoils a known share of the packets.

use turnpike_testkit::process::{Outcome, Signal};
use turnpike_testkit::{PATIENCE, becomes_true};

use crate::stub::{PASSWORD, Spoil, Stub, USER};
use crate::{loadtest, measured, started};

fn count(report: &serde_json::Value, name: &str) -> u64 {
    report["trials"][0]["total"][name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {report}"))
}

/// 10 clients × 100 packets/s × 3 s.
fn spoilt(spoil: Spoil) -> (serde_json::Value, Stub) {
    let stub = Stub::start(spoil);
    let server = stub.address.to_string();
    let (status, report, output) = measured(&["loss", &server, "-c", "10", "-r", "100", "-d", "3"]);
    assert_eq!(status, Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    (report, stub)
}

#[test]
fn one_in_a_hundred_dropped_is_one_percent() {
    let (report, stub) = spoilt(Spoil { drop_every: 100, ..Spoil::default() });
    let loss = report["trials"][0]["total"]["loss_percent"].as_f64().expect("a number");
    assert!((loss - 1.0).abs() <= 0.1, "reported {loss} %");
    assert_eq!(count(&report, "lost"), count(&report, "lost_to_peer"), "all of it on the way to the peer");
    assert_eq!(count(&report, "lost_from_peer"), 0);
    assert_eq!(stub.allocations(), 0, "everything is released");
}

#[test]
fn duplicates_do_not_hide_losses() {
    let (report, _) = spoilt(Spoil { drop_every: 100, duplicate_every: 3, ..Spoil::default() });
    let (sent, duplicated) = (count(&report, "sent"), count(&report, "duplicated"));
    assert_eq!(count(&report, "lost"), sent / 100);
    // Every third packet but those that were dropped (every 300th is both).
    assert_eq!(duplicated, sent / 3 - sent / 300);
}

#[test]
fn corrupted_and_reordered_packets_are_told_apart() {
    let (report, _) = spoilt(Spoil { corrupt_every: 50, ..Spoil::default() });
    assert_eq!(count(&report, "corrupted"), count(&report, "sent") / 50);
    assert_eq!(count(&report, "lost"), count(&report, "corrupted"), "what arrives wrong hasn't arrived");

    let stub = Stub::start(Spoil { swap_every: 10, ..Spoil::default() });
    let server = stub.address.to_string();
    let (_, report, _) = measured(&["loss", &server, "-c", "1", "-r", "500", "-d", "1"]);
    let (sent, reordered) = (count(&report, "sent"), count(&report, "reordered"));
    assert!(reordered.abs_diff(sent / 10) <= 1, "{reordered} of {sent}");
}

#[test]
fn a_good_relay_shows_no_loss_in_every_mode() {
    let stub = Stub::start(Spoil::default());
    let server = stub.address.to_string();
    for mode in ["channel", "relay-to-relay", "binding"] {
        let (status, report, _) =
            measured(&["loss", &server, "-c", "6", "-r", "50", "-d", "1", "-m", mode, "--threads", "2"]);
        assert_eq!((status, count(&report, "lost")), (Some(0), 0), "{mode}");
        assert!(count(&report, "received") > 200, "{mode}");
        for other in ["duplicated", "reordered", "corrupted", "stray"] {
            assert_eq!(count(&report, other), 0, "{mode}: {other}");
        }
        assert_eq!(stub.allocations(), 0, "{mode}");
    }
}

#[test]
fn it_works_over_ipv6() {
    let stub = Stub::start_at("[::1]:0", Spoil::default());
    let (status, report, _) = measured(&["loss", &stub.address.to_string(), "-c", "2", "-d", "0.5"]);
    assert_eq!((status, count(&report, "lost")), (Some(0), 0));
    assert!(count(&report, "received") > 0);
}

#[test]
fn a_thousand_clients_are_set_up_and_released() {
    let stub = Stub::start(Spoil::default());
    let (status, report, _) = measured(&["allocate", &stub.address.to_string(), "-c", "1000"]);
    assert_eq!(status, Some(0));
    assert_eq!(report["setup"]["ready"], 1000);
    assert_eq!(report["setup"]["first_byte"]["count"], 1000);
    assert_eq!(report["release"]["confirmed"], 1000);
    assert_eq!(stub.allocations(), 0);
}

#[test]
fn a_search_finds_that_a_lossy_relay_has_no_rate_without_loss() {
    let stub = Stub::start(Spoil { drop_every: 50, ..Spoil::default() });
    let server = stub.address.to_string();
    let (_, report, _) = measured(&[
        "ndr",
        &server,
        "--min-rate",
        "200",
        "--max-rate",
        "400",
        "-d",
        "1",
        "--max-loss",
        "0,5",
        "--max-lag",
        "5000",
    ]);
    let results = &report["search"]["results"];
    assert!(results[0]["rate_pps"].is_null(), "NDR: {results}");
    assert_eq!(results[1]["rate_pps"], 400.0, "5 % allowed: {results}");
    assert_eq!(results[1]["is_lower_bound"], true);
}

#[test]
fn too_much_loss_fails_when_asked() {
    let stub = Stub::start(Spoil { drop_every: 10, ..Spoil::default() });
    let server = stub.address.to_string();
    let lossy = |limit: &str| {
        measured(&["loss", &server, "-c", "2", "-r", "100", "-d", "1", "--fail-above-loss", limit]).0
    };
    assert_eq!(lossy("5"), Some(1));
    assert_eq!(lossy("20"), Some(0));
}

#[test]
fn total_loss_is_said_plainly_with_the_option_that_makes_it_a_failure() {
    let stub = Stub::start(Spoil { drop_every: 1, ..Spoil::default() });
    let server = format!("turn:{}?transport=udp", stub.address);
    let total = ["loss", &server, "-c", "2", "-r", "20", "-d", "500ms", "--drain", "200ms"];
    let (status, report, output) = measured(&total);
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!((status, &report["verdict"]["kind"]), (Some(0), &"nothing-received".into()));
    for wanted in ["verdict: 100 % LOSS", "--fail-above-loss", "-m relay-to-relay needs no peer"] {
        assert!(table.contains(wanted), "{wanted}: {table}");
    }
    let (status, report, _) = measured(&[&total[..], &["--fail-above-loss", "1"]].concat());
    let verdict = report["verdict"]["text"].as_str().expect("a sentence");
    assert!(status == Some(1) && verdict.ends_with("more than the 1 % allowed"), "{verdict}");
}

#[test]
fn a_report_has_date_command_and_verdict() {
    let stub = Stub::start(Spoil::default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("page.html").display().to_string();
    let server = stub.address.to_string();
    let (_, report, output) =
        measured(&["loss", &server, "-c", "2", "-r", "20", "-d", "0.5", "--html", &path]);
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let started = report["started"].as_str().expect("a date");
    assert!(started.starts_with("20") && started.ends_with('Z'), "{started}");
    let verdict = report["verdict"]["text"].as_str().expect("a sentence");
    assert_eq!(verdict, "none of 20 packets was lost");
    for (what, text) in [("page", &page), ("table", &table)] {
        for wanted in [started, verdict, "-c 2 -r 20", "-w '***'"] {
            assert!(text.contains(wanted), "{what} without {wanted}: {text}");
        }
    }
}

/// Bad input: one line on stderr that names the cause, and status 2.
fn refused(arguments: &[&str], cause: &str) {
    let output = loadtest(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.contains(cause), "{arguments:?}: {text}");
}

#[test]
fn bad_input_gives_one_clear_line() {
    let stub = Stub::start(Spoil { refuse_peers: true, ..Spoil::default() });
    let server = stub.address.to_string();
    refused(&["loss", &server, "-u", USER, "-w", "wrong"], "wrong user name or password");
    refused(&["loss", &server], "wants credentials");
    refused(&["loss", &server, "-u", USER, "-w", PASSWORD], "refuses peer 127.0.0.1");
    refused(&["loss", &server, "-u", USER, "-w", PASSWORD], "-m relay-to-relay needs no peer");
    refused(&["allocate", &server, "-u", USER, "-w", PASSWORD], "--only needs no peer");
    assert_eq!(stub.allocations(), 0, "allocations of a failed set-up are released");
    let made = stub.made();
    for option in ["--json", "--html"] {
        refused(
            &["loss", &server, "-u", USER, "-w", PASSWORD, option, "/no/such/folder/x"],
            "cannot write /no/",
        );
    }
    assert_eq!(stub.made(), made, "a bad path is an error before any packet");

    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let silent = nobody.local_addr().expect("bound").to_string();
    refused(&["loss", &silent, "-u", "a", "-w", "b", "--setup-timeout", "1"], "no answer to Allocate");
    // Connected to itself, it takes nothing from anybody: its port answers as if it were free.
    nobody.connect(&silent).expect("loopback");
    refused(&["loss", &silent, "-u", "a", "-w", "b"], "connection refused");
    refused(&["loss", "no-such-host.invalid"], "cannot resolve server");
}

#[test]
fn a_signal_ends_the_run_with_summary_and_release() {
    let stub = Stub::start(Spoil::default());
    let server = stub.address.to_string();
    let program = started(&["loss", &server, "-u", USER, "-w", PASSWORD, "-c", "5", "-d", "60"]);
    assert!(becomes_true(|| stub.seen() > 5), "it does not send");
    program.signal(Signal::INT);
    let Outcome { code, output } = program.wait(PATIENCE);
    assert_eq!(code, Some(130), "{output}");
    assert!(output.contains("released: 5 of 5") && output.contains("stopped by a signal"), "{output}");
    assert_eq!(stub.allocations(), 0);
}

#[test]
fn a_set_up_that_fails_leaves_nothing_even_of_what_was_not_answered() {
    let stub = Stub::start(Spoil { refuse_peers: true, mute_after: Some(1), ..Spoil::default() });
    let server = stub.address.to_string();
    refused(&["loss", &server, "-u", USER, "-w", PASSWORD, "-c", "30"], "refuses peer 127.0.0.1");
    assert!(stub.made() > 1, "several were under way");
    assert_eq!(stub.allocations(), 0);
}

#[test]
fn a_signal_during_the_set_up_leaves_nothing() {
    let stub = Stub::start(Spoil { mute_after: Some(2), ..Spoil::default() });
    let server = stub.address.to_string();
    let set_up = ["allocate", &server, "-u", USER, "-w", PASSWORD, "-c", "5", "--setup-timeout", "1m"];
    let program = started(&set_up);
    assert!(becomes_true(|| stub.allocations() == 5), "no allocations");
    program.signal(Signal::INT);
    let Outcome { code, output } = program.wait(PATIENCE);
    assert_eq!(code, Some(130), "{output}");
    assert_eq!(stub.allocations(), 0);
}

#[test]
fn a_page_is_self_contained() {
    let stub = Stub::start(Spoil::default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("page.html").display().to_string();
    let server = stub.address.to_string();
    measured(&["loss", &server, "-c", "2", "-r", "50,100", "-d", "0.5", "--html", &path]);
    let page = std::fs::read_to_string(&path).expect("the page is there");
    assert_eq!(page.matches("<svg").count(), 4, "loss, delay, throughput, percentiles");
    for outside in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_scenario_runs_by_groups() {
    let stub = Stub::start(Spoil::default());
    let server = stub.address.to_string();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/video.toml");
    let (status, report, _) = measured(&["run", folder, "--server", &server, "-d", "1", "--scale", "0.1"]);
    assert_eq!(status, Some(0));
    let groups = report["trials"][0]["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 2);
    assert!(groups.iter().all(|group| group["received"].as_u64() > Some(30)), "{groups:?}");
    let bad = tempfile::tempdir().expect("a temporary folder");
    let path = bad.path().join("bad.toml");
    std::fs::write(&path, "title = \"x\"\nbitrate = 3\n").expect("written");
    refused(
        &["run", &path.display().to_string(), "--server", &server],
        "bad.toml:2: unknown field `bitrate`",
    );
}
