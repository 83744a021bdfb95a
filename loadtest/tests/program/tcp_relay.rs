//! `uclient -T`: TCP to the peers, over TCP and TLS, IPv4 and IPv6, against coturn (RFC 6062).

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use turnpike_testkit::{PATIENCE, eventually};

use crate::coturn::{Coturn, coturn_is_missing, free_port};
use crate::stub::{PASSWORD, USER};
use crate::{loadtest, measured, started};

/// Addresses of servers, and the flag for their family.
const BOTH: [(&str, &str); 2] = [("127.0.0.1", "-X"), ("::1", "-x")];

/// A run whose messages are 101 bytes, 20 of each of 4 clients, with the usual user.
fn all_arrive(server: SocketAddr, flags: &[&str]) -> serde_json::Value {
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let load = ["-m4", "-n20", "-z5", "-l101", "-p", &port, &ip];
    let (status, report, output) = measured(&[&["uclient"][..], flags, &load].concat());
    let (text, total) = (String::from_utf8_lossy(&output.stdout), &report["trials"][0]["total"]);
    assert_eq!(status, Some(0), "{flags:?} {server}: {text}");
    for (name, count) in [("sent", 80), ("received", 80), ("lost", 0), ("corrupted", 0), ("reordered", 0)] {
        assert_eq!(total[name], count, "{name} of {flags:?} {server}: {text}");
    }
    assert_eq!((&report["release"]["held"], &report["release"]["confirmed"]), (&4.into(), &4.into()));
    report
}

#[test]
fn pairs_of_clients_connect_to_each_other() {
    if coturn_is_missing() {
        return;
    }
    for (ip, family) in BOTH {
        let server = Coturn::start(ip);
        for (flags, address) in [("-T", server.address), ("-TS", server.tls)] {
            let report = all_arrive(address, &[flags, family]);
            let total = &report["trials"][0]["total"];
            assert_eq!((&total["one_way"]["count"], &total["round_trip"]), (&80.into(), &().into()));
        }
    }
}

#[test]
fn a_peer_echoes_tcp() {
    if coturn_is_missing() {
        return;
    }
    for (ip, family) in BOTH {
        let port = free_port().to_string();
        let peer = format!("{ip}:{port}").replace("::1:", "[::1]:");
        let _peer = started(&["peer", "-p", &port, "-L", ip]);
        let sent = vec![7; 50_000];
        let echoed = eventually(|| echo(&peer, &sent).ok());
        assert!(echoed.is_some_and(|back| back == sent), "{peer}");
        let server = Coturn::start(ip);
        for (flags, address) in [("-T", server.address), ("-TS", server.tls)] {
            let report = all_arrive(address, &[flags, family, "-e", ip, "-r", &port]);
            assert_eq!(report["trials"][0]["total"]["round_trip"]["count"], 80);
        }
    }
}

/// Sends everything, then the end, and gives what comes until the other end.
fn echo(peer: &str, sent: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(peer)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut back = Vec::new();
    stream.write_all(sent)?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut back)?;
    Ok(back)
}

/// What can't be done is one line, and 255 as of any failed set-up.
#[test]
fn refusals_say_what_to_do() {
    if coturn_is_missing() {
        return;
    }
    let (server, unwilling) =
        (Coturn::start("127.0.0.1"), Coturn::start_with("127.0.0.1", &["--no-tcp-relay"]));
    let nobody = free_port().to_string();
    for (server, flags, cause) in [
        (&unwilling, &["-T"][..], "Cannot complete Allocation: Allocate refused: error "),
        (&server, &["-T", "-e", "127.0.0.1", "-r", &nobody], "Connect refused: error 447"),
        (&server, &["-T", "-w", "wrong"], "Cannot complete Allocation: wrong user name or password"),
    ] {
        let port = server.address.port().to_string();
        let fixed = ["uclient", "-u", USER, "-w", PASSWORD, "-p", &port, "127.0.0.1"];
        let output = loadtest(&[&fixed, flags].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), text.lines().count()), (Some(255), 1), "{flags:?}: {text}");
        assert!(text.contains(cause), "{flags:?}: {text}");
    }
}

/// Messages that can't be handed over any more are lost; the run ends all the same.
#[test]
fn a_server_that_ends_is_loss() {
    if coturn_is_missing() {
        return;
    }
    let mut server = Coturn::start("127.0.0.1");
    let port = server.address.port().to_string();
    let load = ["-T", "-m2", "-n1500", "-z20", "--fail-above-loss", "0"];
    let place = ["-u", USER, "-w", PASSWORD, "-p", &port, "127.0.0.1"];
    let run = started(&[&["uclient"][..], &load, &place].concat());
    let line = run.wait_for(PATIENCE, |line| line.contains("tot_send_msgs=").then_some(()));
    assert!(line.is_some(), "it has begun");
    server.kill();
    let ended = run.wait(PATIENCE);
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(ended.output.contains("tot_send_msgs=3000"), "{}", ended.output);
    assert!(ended.output.contains("connections ended: the server closed the connection"), "{}", ended.output);
}
