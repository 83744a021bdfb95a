//! Each mode over TCP and TLS, IPv4 and IPv6, against coturn; and what is said of a server that isn't there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::coturn::{Coturn, coturn_is_missing};
use crate::streams::{over, ways};
use crate::stub::{PASSWORD, USER};
use crate::{loadtest, measured};

/// Addresses of servers, and the family of what those relay with: their own.
const BOTH: [(&str, &str); 2] = [("127.0.0.1", "4"), ("::1", "6")];

/// Runs a mode over each transport and family, and hands on the report of a run that has succeeded.
fn on_all(mode: &str, options: &[&str], check: impl Fn(&serde_json::Value)) {
    if coturn_is_missing() {
        return;
    }
    for (ip, family) in BOTH {
        let server = Coturn::start(ip);
        for (transport, address) in ways(&server) {
            let address = address.to_string();
            let (status, report, output) = measured(
                &[&[mode, &address, "--relay-family", family][..], over(transport), options].concat(),
            );
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(status, Some(0), "{mode} over {transport} to {address}: {text}");
            check(&report);
        }
    }
}

#[test]
fn loss_is_measured_over_streams() {
    let load = ["-c", "4", "-r", "50", "-d", "500ms", "-l", "161", "--max-lag", "5s", "--drain", "10s"];
    on_all("loss", &load, |report| {
        let total = &report["trials"][0]["total"];
        assert_eq!(
            (&total["sent"], &total["received"], &total["lost"]),
            (&100.into(), &100.into(), &0.into())
        );
    });
}

#[test]
fn allocations_per_second_are_measured_over_streams() {
    on_all("allocate", &["-c", "20"], |report| {
        let [setup, release] = ["setup", "release"].map(|part| &report[part]);
        assert_eq!((&setup["ready"], &setup["connect"]["count"]), (&20.into(), &20.into()), "{report}");
        assert_eq!(
            (&setup["first_byte"]["count"], &release["confirmed"]),
            (&20.into(), &20.into()),
            "{report}"
        );
    });
}

#[test]
fn the_highest_rate_is_found_over_streams() {
    // What is late counts as lost: on a busy machine the bound decides, not the server.
    let search =
        ["--min-rate", "100", "--max-rate", "200", "-d", "500ms", "--max-loss", "100", "--max-lag", "5s"];
    on_all("ndr", &search, |report| {
        let found = &report["search"]["results"][0];
        assert_eq!((&found["rate_pps"], &found["is_lower_bound"]), (&200.0.into(), &true.into()), "{report}");
    });
}

#[test]
fn turnutils_uclients_flags_mean_the_same_over_ipv6() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("::1");
    for (flags, address) in [("-t", server.address), ("-tS", server.tls)] {
        let port = address.port().to_string();
        let load = ["uclient", flags, "-x", "-y", "-c", "-m4", "-n10", "-z5", "--fail-above-loss", "0"];
        let place = ["-u", USER, "-w", PASSWORD, "-p", &port, "::1"];
        let output = loadtest(&[&load[..], &place].concat());
        assert_eq!(output.status.code(), Some(0), "{flags}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// A server that answers each connection's first bytes with these, and closes it.
fn saying(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            // Whoever has gone again needs no answer.
            let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer));
        }
    });
    address
}

#[test]
fn a_server_of_another_kind_is_one_clear_line() {
    let (other, silent) = (saying(&[0xff; 64]), saying(b""));
    for (transport, server, cause) in [
        ("tcp", other, "neither STUN nor ChannelData"),
        ("tls", other, "TLS: "),
        ("tcp", silent, "the server closed the connection"),
        ("tls", silent, "the server closed the connection"),
    ] {
        for mode in ["loss", "allocate", "ndr"] {
            let server = server.to_string();
            let way = [&[mode, &server, "-c", "1", "-u", USER, "-w", PASSWORD][..], over(transport)].concat();
            let output = loadtest(&way);
            let fault = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), fault.lines().count()), (Some(2), 1), "{way:?}: {fault}");
            assert!(fault.contains(cause), "{way:?}: {fault}");
        }
    }
}
