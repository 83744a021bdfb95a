//! Attaching to real interfaces, in a network namespace that goes when the test ends.

use std::process::Command;

use turnpike_offload::features::Netdev;
use turnpike_offload::maps::Sizes;
use turnpike_offload::probe;
use turnpike_offload::xdp::{Mode, Xdp};
use turnpike_testkit::becomes_true;

use crate::kernel::Kernel;

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "TURNPIKE_INSIDE_NAMESPACE";

/// Runs a test of this binary again in a namespace with a `/sys` of its own; `true` inside of it.
pub fn inside_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if Kernel::new().is_none() {
        return false;
    }
    let again = r#"mount -t sysfs sysfs /sys && exec "$0" "$@""#;
    // Its output is kept back, or its result would be counted together with ours.
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", again])
        .arg(std::env::current_exe().expect("this binary"))
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare can be started");
    let shown = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{test} failed in its namespace:\n{}", shown.concat());
    // A name that matches no test would pass as well.
    assert!(shown[0].contains("1 passed"), "{test} did not run in its namespace:\n{}", shown.concat());
    false
}

pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip can be started");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a device can send changes without a word of it among links: a `veth` gets GRO at its far end.
#[test]
#[ignore = "needs root: cargo xtask frames"]
fn it_is_heard_when_a_device_can_do_something_else() {
    if !inside_namespace("attach::it_is_heard_when_a_device_can_do_something_else") {
        return;
    }
    let mut netdev = match Netdev::open() {
        Ok(netdev) => netdev,
        // Before Linux 6.3.
        Err(error) => return turnpike_testkit::skip("frames", &format!("no news of devices: {error}")),
    };
    ip("link add inner type veth peer name outer");
    ip("link set inner up");
    ip("link set outer up");
    assert!(becomes_true(|| netdev.take_news()), "there is a new device");
    let ifindex = probe::facts("inner").ifindex;
    assert!(!netdev.features(ifindex).unwrap().transmit);
    while netdev.take_news() {}
    let gro = Command::new("ethtool").args(["-K", "outer", "gro", "on"]).status();
    assert!(gro.expect("ethtool can be started").success());
    assert!(becomes_true(|| netdev.take_news()), "it transmits now");
    assert!(netdev.features(ifindex).unwrap().transmit);
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn the_program_is_attached_natively_and_gone_when_it_is_dropped() {
    if !inside_namespace("attach::the_program_is_attached_natively_and_gone_when_it_is_dropped") {
        return;
    }
    ip("link add inner type veth peer name outer");
    let facts = probe::facts("inner");
    assert_eq!(probe::verdict(&facts), Ok(()), "{facts:?}");
    assert!(facts.receive_queues > 0 && facts.mac != [0; 6], "{facts:?}");
    let mut first = Xdp::load(Sizes::SMALL).unwrap();
    first.attach(facts.ifindex, Mode::Native).unwrap();
    assert!(ip("-d link show inner").contains("prog/xdp"), "attached natively");
    let mut second = Xdp::load(Sizes::SMALL).unwrap();
    let refused = second.attach(facts.ifindex, Mode::Native).unwrap_err().to_string();
    assert!(refused.contains("the program of another Turnpike (id "), "{refused}");
    drop(first);
    assert!(!ip("-d link show inner").contains("xdp"), "detached by dropping");
    second.attach(facts.ifindex, Mode::Native).unwrap();
    second.detach(facts.ifindex).unwrap();
    assert!(!ip("-d link show inner").contains("xdp"), "detached by asking");
    second.detach(facts.ifindex).unwrap();
    second.watch_fates().unwrap();
    ip("link del inner");
    let gone = second.attach(facts.ifindex, Mode::Native).unwrap_err().to_string();
    assert!(gone.contains("DEVS"), "no such device to redirect to: {gone}");
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn ports_of_a_bridge_and_loopback_are_refused() {
    if !inside_namespace("attach::ports_of_a_bridge_and_loopback_are_refused") {
        return;
    }
    ip("link add inner type veth peer name outer");
    ip("link add bridge0 type bridge");
    ip("link set inner master bridge0");
    assert_eq!(probe::verdict(&probe::facts("inner")), Err(probe::Unfit::Port("bridge0".to_owned())));
    assert_eq!(probe::verdict(&probe::facts("lo")), Err(probe::Unfit::Loopback));
    assert_eq!(probe::verdict(&probe::facts("outer")), Ok(()));
}
