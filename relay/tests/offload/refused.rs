//! Interfaces whose hook somebody else has, or whose driver refuses the program: the relay goes on without, and says
//! who it is, what the kernel says, and what to type.

use std::path::Path;
use std::process::Command;

use turnpike_testkit::becomes_true;
use turnpike_testkit::occupied::Occupied;

use super::call::Call;
use super::lab::{Lab, Namespace};
use super::server::{SERVER, Server, lab, run};

fn python(namespace: &Namespace) -> Command {
    namespace.command(Path::new("python3"))
}

fn probe(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    let mut command = lab.relay.command(&super::server::binary());
    let output = command.arg("probe").args(arguments).output().expect("it can be started");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
#[ignore = "needs root: cargo xtask offload"]
fn whoever_has_the_hook_is_named_and_left_alone_until_it_goes() {
    let Some(lab) = lab("whoever_has_the_hook_is_named_and_left_alone_until_it_goes") else { return };
    let other = Occupied::new(python(&lab.relay), "peer0", "xdp_dispatcher");
    let (_, report) = probe(&lab, &[]);
    let named =
        format!("libxdp's dispatcher, which has the hook for its own (xdp_dispatcher, id {})", other.id);
    assert!(report.contains(&format!("hook: {named}")), "{report}");
    let server = Server::start_anyhow(&lab, &["--offload=auto"]);
    let ready = server.ready_line();
    assert!(ready.contains(&named) && ready.contains("`xdp-loader unload peer0 --all`"), "{ready}");
    server.wait_for_log(&named);
    let call = Call::new(&lab, SERVER, false);
    call.assert_carries(b"in userspace");
    assert!(
        run(&lab.relay, "ip -d link show peer0").contains(&format!("id {}", other.id)),
        "it is there still"
    );

    drop(other);
    assert!(becomes_true(|| !run(&lab.relay, "ip -d link show peer0").contains("prog/xdp")), "it is gone");
    let (taken, report) = probe(&lab, &["--attach", "peer0"]);
    assert!(taken && report.contains("attach     peer0: taken, and taken off again"), "{report}");
    assert!(!run(&lab.relay, "ip -d link show peer0").contains("prog/xdp"), "nothing is left");
    let (taken, report) = probe(&lab, &["--attach", "client0"]);
    assert!(!taken && report.contains("the program of another Turnpike (id "), "{report}");
    server.stop();
}

/// The words are veth's own; it refuses a far end with larger frames than a program gets in one piece.
#[test]
#[ignore = "needs root: cargo xtask offload"]
fn a_refusal_is_told_in_the_kernels_own_words() {
    const WORDS: &str = "the kernel refuses the program: \"veth: Peer MTU is too large to set XDP\"";
    let Some(lab) = lab("a_refusal_is_told_in_the_kernels_own_words") else { return };
    run(&lab.peer, "ip link set relay0 mtu 9000");
    let (taken, report) = probe(&lab, &["--attach", "peer0", "--attach", "client0"]);
    assert!(!taken && report.contains(&format!("attach     peer0: no: {WORDS}")), "{report}");
    assert!(report.contains("the MTU that counts is the other end's, too"), "{report}");
    assert!(report.contains("attach     client0: taken"), "{report}");
    let server = Server::start_anyhow(&lab, &["--offload=auto"]);
    assert!(server.ready_line().contains(&format!("not on peer0: {WORDS}")), "{}", server.ready_line());
    server.wait_for_log(WORDS);
    Call::new(&lab, SERVER, false).assert_carries(b"in userspace");
    server.stop();
}
