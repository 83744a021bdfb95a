//! Clients of other makes over TCP and TLS, IPv4 and IPv6, through the relay only: aiortc, pion's libraries,
//! werift.
//!
//! What is relayed is a call of the client with itself, or with the peer's echo. `long` is left out by `cargo xtask ci`:
//! the same with more data, and what takes long to compile.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use turnpike_testkit::{golang, node, python, skip};

use super::lab::{Lab, PEER_V4, RELAY_V4, RELAY_V6};
use super::process::{Outcome, Process};
use super::relay::{PASSWORD, PORT, USER, is_coturn};
use super::streams::{NAME, PATIENCE, PEER_PORT, Server, TLS_PORT, tests};
use super::uclient;

/// Bytes in a data channel, and frames of a picture.
const SHORT: (u64, u64) = (64 * 16_384, 30);

/// How a client reaches the relay.
#[derive(Clone, Copy, Debug)]
struct Way {
    ip: IpAddr,
    is_tls: bool,
}

const TCP_V4: Way = Way { ip: RELAY_V4, is_tls: false };
const TCP_V6: Way = Way { ip: RELAY_V6, is_tls: false };
const TLS_V4: Way = Way { ip: RELAY_V4, is_tls: true };
const TLS_V6: Way = Way { ip: RELAY_V6, is_tls: true };

impl Way {
    fn address(self) -> SocketAddr {
        SocketAddr::new(self.ip, if self.is_tls { TLS_PORT } else { PORT })
    }

    fn transport(self) -> &'static str {
        if self.is_tls { "tls" } else { "tcp" }
    }

    /// The URL of a server that is called `host`.
    fn url(self, host: &str) -> String {
        let scheme = if self.is_tls { "turns" } else { "turn" };
        format!("{scheme}:{host}:{}?transport=tcp", self.address().port())
    }
}

/// Bytes that the relay says it has sent to peers for clients that came by a transport.
fn relayed_bytes(log: &str, transport: &str) -> u64 {
    let transport = format!("transport=\"{transport}\"");
    let ended = log.lines().filter(|line| line.contains("allocation ended") && line.contains(&transport));
    let bytes = |line: &str| {
        let (_, rest) = line.split_once("to_peer_bytes=")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    ended.filter_map(bytes).sum()
}

fn build_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("the target folder can be written to");
    folder
}

/// Runs a client that calls itself, and looks at what it and the relay say of that.
fn call(relay: Server, way: Way, mut command: Command, (bytes, frames): (u64, u64), kinds: &[&str]) {
    command.env("SSL_CERT_FILE", relay.authority());
    let Outcome { code, output } = Process::start(command).wait(PATIENCE);
    assert_eq!(code, Some(0), "{way:?}: {output}");
    let said =
        output.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{way:?}: {output}"));
    let seen: serde_json::Value = serde_json::from_str(said).expect("JSON");
    assert_eq!((&seen["received"], &seen["wrong"]), (&bytes.into(), &0.into()), "{way:?}: {output}");
    for kind in kinds {
        assert!(seen[kind].as_u64() >= Some(frames), "{way:?}: {output}");
    }
    let candidates = seen["candidates"].as_array().expect("a list");
    assert!(!candidates.is_empty() && candidates.iter().all(|kind| kind == "relay"), "{way:?}: {output}");
    let log = relay.stop();
    assert!(is_coturn() || relayed_bytes(&log, way.transport()) >= bytes, "{way:?}: {log}");
    assert!(is_coturn() || log.contains("tls_version=\"1.3\"") == way.is_tls, "{way:?}: {log}");
}

fn aiortc(name: &str, way: Way, amount: (u64, u64)) {
    let Some(lab) = Lab::new(name) else { return };
    let list = tests().join("interop/aiortc.txt");
    let python = match python::with_packages(&build_folder("python").join("aiortc"), &list) {
        Ok(python) => python,
        Err(why) => return skip(name, &why),
    };
    let relay = Server::start(&lab);
    let mut command = lab.client.command(&python);
    command.arg(tests().join("interop/aiortc_call.py"));
    command.args([&way.url(NAME), USER, PASSWORD, &way.ip.to_string()]);
    command.args([amount.0.to_string(), amount.1.to_string()]);
    call(relay, way, command, amount, &["video", "audio"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn aiortc_over_tcp_and_ipv6() {
    aiortc("aiortc_over_tcp_and_ipv6", TCP_V6, SHORT);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn aiortc_over_tls() {
    aiortc("aiortc_over_tls", TLS_V4, SHORT);
}

/// It makes data channels only.
fn werift(name: &str, way: Way) {
    let Some(lab) = Lab::new(name) else { return };
    let (source, modules) = (tests().join("interop/werift"), build_folder("werift"));
    if let Err(why) = node::install(&modules, &source) {
        return skip(name, &why);
    }
    let relay = Server::start(&lab);
    let mut command = lab.client.command(Path::new("node"));
    command.env("MODULES", modules).env("NODE_EXTRA_CA_CERTS", relay.authority());
    command.arg(source.join("call.js"));
    command.args([&way.url(NAME), USER, PASSWORD, &way.ip.to_string(), &SHORT.0.to_string()]);
    call(relay, way, command, SHORT, &[]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn werift_over_tcp() {
    werift("werift_over_tcp", TCP_V4);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn werift_over_tls_and_ipv6() {
    werift("werift_over_tls_and_ipv6", TLS_V6);
}

/// pion/turn sends all lengths from 1 to 300 bytes, and its peer's echo comes back the same.
fn pion_turn(name: &str, ways: [Way; 2]) {
    let Some(lab) = Lab::new(name) else { return };
    let source = tests().join("interop/pion/turn.go");
    let program = match golang::build(&source, &build_folder("go"), &["github.com/pion/turn/v2"]) {
        Ok(program) => program,
        Err(why) => return skip(name, &why),
    };
    let relay = Server::start(&lab);
    let _echo = uclient::echo(&lab);
    for way in ways {
        let trust = if way.is_tls { relay.authority().display().to_string() } else { "tcp".to_owned() };
        let mut command = lab.client.command(&program);
        command.args([&way.address().to_string(), &trust, USER, PASSWORD]);
        command.args([&SocketAddr::new(PEER_V4, PEER_PORT).to_string(), "300"]);
        let Outcome { code, output } = Process::start(command).wait(PATIENCE);
        assert_eq!(code, Some(0), "{way:?}: {output}");
        assert!(output.contains("same true received 300"), "{way:?}: {output}");
    }
    let log = relay.stop();
    assert!(is_coturn() || relayed_bytes(&log, ways[0].transport()) > 0, "{log}");
    // It names the protocol.
    assert!(is_coturn() || log.contains("alpn=\"stun.turn\"") == ways[0].is_tls, "{log}");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn pion_turn_over_tcp() {
    pion_turn("pion_turn_over_tcp", [TCP_V4, TCP_V6]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn pion_turn_over_tls() {
    pion_turn("pion_turn_over_tls", [TLS_V4, TLS_V6]);
}

mod long {
    use super::*;

    const LONG: (u64, u64) = (1250 * 16_384, 300);

    #[test]
    #[ignore = "needs root: cargo xtask interop"]
    fn aiortc_over_tcp() {
        aiortc("aiortc_over_tcp", TCP_V4, LONG);
    }

    #[test]
    #[ignore = "needs root: cargo xtask interop"]
    fn aiortc_over_tls_and_ipv6() {
        aiortc("aiortc_over_tls_and_ipv6", TLS_V6, LONG);
    }

    /// Its agent looks for relays by IPv4 only; `pion_turn_...` has the other family.
    fn pion_webrtc(name: &str, way: Way) {
        let Some(lab) = Lab::new(name) else { return };
        let source = tests().join("interop/pion/call.go");
        let program = match golang::build(&source, &build_folder("go"), &["github.com/pion/webrtc"]) {
            Ok(program) => program,
            Err(why) => return skip(name, &why),
        };
        let relay = Server::start(&lab);
        let mut command = lab.client.command(&program);
        command.args([&way.url(&way.ip.to_string()), USER, PASSWORD]);
        command.args([LONG.0.to_string(), LONG.1.to_string()]);
        call(relay, way, command, LONG, &["video"]);
    }

    #[test]
    #[ignore = "needs root: cargo xtask interop"]
    fn pion_webrtc_over_tcp() {
        pion_webrtc("pion_webrtc_over_tcp", TCP_V4);
    }

    #[test]
    #[ignore = "needs root: cargo xtask interop"]
    fn pion_webrtc_over_tls() {
        pion_webrtc("pion_webrtc_over_tls", TLS_V4);
    }
}
