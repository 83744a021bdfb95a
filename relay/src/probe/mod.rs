//! `turnpike probe`: what this machine offers, and what this version makes of it.

mod survey;

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit};
use turnpike_driver::choose;

use crate::config::Config;
use crate::config::resolve::{Host, resolve};

/// `LimitNOFILE` of the shipped unit.
const UNIT_OPEN_FILES: u64 = 1_048_576;

/// What the kernel says about itself; `None` where it says nothing.
struct Facts {
    release: Option<String>,
    /// `kernel.io_uring_disabled`: 0 for all, 1 for a group, 2 for nobody; exists since Linux 6.6.
    io_uring_disabled: Option<String>,
    /// Whether io_uring did what is needed when it was tried.
    io_uring: Result<(), String>,
    /// Whether `/proc/sys/net/core/bpf_jit_enable` is there: BPF programs are compiled.
    bpf_jit: bool,
    /// Limit on open files: a relay raises its own to the maximum.
    open_files: Rlimit,
    /// What the kernel data path needs of the host.
    host: turnpike_offload::probe::Host,
}

impl Facts {
    fn gather() -> Self {
        let line = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        Facts {
            release: line("/proc/sys/kernel/osrelease"),
            io_uring_disabled: line("/proc/sys/kernel/io_uring_disabled"),
            io_uring: choose::io_uring(),
            bpf_jit: fs::exists("/proc/sys/net/core/bpf_jit_enable").unwrap_or(false),
            open_files: getrlimit(Resource::Nofile),
            host: turnpike_offload::probe::Host::detect(),
        }
    }
}

/// The report on this machine.
pub fn report() -> String {
    let host = Host::detect();
    let mut report = describe(&Facts::gather());
    report.push_str(&addresses(&host));
    report.push_str(&survey::report(&Config::default(), &host));
    report
}

/// Tries whether these interfaces take the program; `false` with the report if one does not.
pub fn attach(devices: &[String]) -> (String, bool) {
    survey::attach(devices)
}

fn describe(facts: &Facts) -> String {
    format!(
        "kernel     Linux {}\n\
         epoll      yes\n\
         io_uring   {}\n\
         default    {}\n\
         open files {}\n\
         XDP        {}\n",
        facts.release.as_deref().unwrap_or("of unknown release"),
        io_uring(facts),
        default_backend(facts),
        open_files(facts.open_files.maximum),
        xdp(facts),
    )
}

fn io_uring(facts: &Facts) -> String {
    let Err(why) = &facts.io_uring else { return "yes: tried with a datagram over loopback".to_owned() };
    match facts.io_uring_disabled.as_deref() {
        Some("0") | None => format!("no: {why}"),
        Some("1") => format!("no: {why}; kernel.io_uring_disabled = 1 leaves it to one group"),
        Some(_) => format!("no: {why}; kernel.io_uring_disabled switches it off"),
    }
}

/// What `io = "auto"` means here.
fn default_backend(facts: &Facts) -> String {
    match choose::decide(None, facts.io_uring.clone()) {
        Ok(choice) => choice.to_string(),
        Err(why) => why,
    }
}

/// One for each allocation and address family.
fn open_files(maximum: Option<u64>) -> String {
    let own = maximum.map_or("no limit".to_owned(), |files| files.to_string());
    format!("as this user: {own}; under the shipped unit: {UNIT_OPEN_FILES}")
}

fn xdp(facts: &Facts) -> String {
    let kernel =
        if facts.bpf_jit { "the kernel compiles BPF programs" } else { "the kernel shows no BPF compiler" };
    let missing = &facts.host.missing_capabilities;
    if missing.is_empty() {
        format!("{kernel}, this user may load them")
    } else {
        format!(
            "{kernel}, this user may not load them (lacks {}; the shipped unit has them)",
            missing.join(" and ")
        )
    }
}

/// What the defaults of `listen` and `relay-address` mean here.
fn addresses(host: &Host) -> String {
    let join = |texts: Vec<String>| texts.join(" ");
    let addresses = resolve(&Config::default(), host);
    let mut text = format!(
        "listen     {} by default, UDP and TCP; 5349 for TLS with a tls-cert\n",
        join(addresses.listen.iter().map(ToString::to_string).collect())
    );
    if !addresses.relay.is_empty() {
        let relay = join(addresses.relay.iter().map(|relay| relay.local.to_string()).collect());
        text.push_str(&format!("relay      {relay} by default\n"));
    }
    if !addresses.near.is_empty() {
        let near = join(addresses.near.iter().map(|relay| relay.local.to_string()).collect());
        text.push_str(&format!("relay      {near} for clients that talk to it\n"));
    }
    for awaited in &addresses.awaited {
        text.push_str(&format!("relay      waits for {awaited}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_privileges_and_switches_are_named() {
        let facts = Facts {
            release: Some("6.12.1".to_owned()),
            io_uring_disabled: Some("2".to_owned()),
            io_uring: Err("not permitted".to_owned()),
            bpf_jit: true,
            open_files: Rlimit { current: Some(1024), maximum: Some(4096) },
            host: turnpike_offload::probe::Host { kernel: (6, 12), missing_capabilities: vec!["CAP_BPF"] },
        };
        let report = describe(&facts);
        assert!(report.contains("Linux 6.12.1\n"), "{report}");
        let expected = "io_uring   no: not permitted; kernel.io_uring_disabled switches it off\n";
        assert!(report.contains(expected), "{report}");
        assert!(report.contains("default    epoll (no io_uring: not permitted)\n"), "{report}");
        assert!(report.contains("may not load them (lacks CAP_BPF; the shipped unit has them)"), "{report}");
        assert!(report.contains("as this user: 4096; under the shipped unit: 1048576\n"), "{report}");
        assert!(!xdp(&Facts { host: turnpike_offload::probe::Host::default(), ..facts }).contains("lacks"));
    }

    #[test]
    fn the_shipped_unit_has_what_is_said_of_it() {
        let unit = include_str!("../../../deploy/systemd/turnpike.service");
        assert!(unit.contains(&format!("\nLimitNOFILE={UNIT_OPEN_FILES}\n")));
        let ambient = unit.lines().find(|line| line.starts_with("AmbientCapabilities="));
        let ambient = ambient.expect("capabilities of the service");
        for (_, name) in turnpike_offload::probe::CAPABILITIES {
            assert!(ambient.contains(name), "{name}");
        }
    }

    #[test]
    fn this_machine_can_be_described() {
        let report = report();
        assert!(report.contains("\ndata path  "), "{report}");
        assert!(report.contains("\nrelay      "), "{report}");
    }
}
