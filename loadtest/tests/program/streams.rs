//! Clients over TCP and TLS, against coturn.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use turnpike_loadtest::credentials::Credentials;
use turnpike_loadtest::session::SessionConfig;
use turnpike_loadtest::stalled::{Settings, Stalled};
use turnpike_loadtest::stun_client::AllocateOptions;
use turnpike_loadtest::transport::Transport;
use turnpike_testkit::certificate::Certificate;

use crate::coturn::{Coturn, coturn_is_missing};
use crate::stub::{PASSWORD, USER};
use crate::{loadtest, measured};

fn count(report: &serde_json::Value, name: &str) -> u64 {
    report["trials"][0]["total"][name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {report}"))
}

/// Both transports, with the server's address of each.
pub fn ways(server: &Coturn) -> [(&'static str, SocketAddr); 2] {
    [("tcp", server.address), ("tls", server.tls)]
}

/// The transport's options, whoever has made the server's certificate.
pub fn over(transport: &'static str) -> &'static [&'static str] {
    if transport == "tls" { &["--transport", "tls", "--insecure"] } else { &["--transport", "tcp"] }
}

#[test]
fn every_path_of_data_works_over_tcp_and_tls() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("127.0.0.1");
    for (transport, address) in ways(&server) {
        let address = address.to_string();
        for mode in ["channel", "indication", "relay-to-relay", "binding"] {
            // 161 bytes: ChannelData that has to be padded (RFC 8656 section 12.5).
            let load = ["-c", "4", "-r", "50", "-d", "1", "-l", "161", "--max-lag", "5s", "--drain", "10s"];
            let (status, report, output) =
                measured(&[&["loss", &address, "-m", mode][..], over(transport), &load].concat());
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!((status, count(&report, "lost")), (Some(0), 0), "{transport} {mode}: {text}");
            assert_eq!(count(&report, "received"), 200, "{transport} {mode}");
            for other in ["duplicated", "reordered", "corrupted", "stray"] {
                assert_eq!(count(&report, other), 0, "{transport} {mode}: {other}");
            }
        }
    }
}

#[test]
fn allocations_are_made_and_released_over_ipv6() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("::1");
    for (transport, address) in ways(&server) {
        let address = address.to_string();
        let crowd = ["allocate", &address, "-c", "20", "--relay-family", "6"];
        let (status, report, output) = measured(&[&crowd[..], over(transport)].concat());
        assert_eq!(status, Some(0), "{transport}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(report["setup"]["ready"], 20);
        assert_eq!(report["setup"]["connect"]["count"], 20);
        assert_eq!(report["release"]["confirmed"], 20);
    }
}

#[test]
fn the_url_names_the_transport() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("127.0.0.1");
    let plain = format!("turn:{}?transport=tcp", server.address);
    for (url, trust) in [(plain, &[][..]), (format!("turns:{}", server.tls), &["--insecure"][..])] {
        let (status, report, _) = measured(&[&["allocate", &url, "-c", "2", "--only"][..], trust].concat());
        assert_eq!((status, report["setup"]["connect"]["count"].as_u64()), (Some(0), Some(2)), "{url}");
    }
}

#[test]
fn a_certificate_is_checked_unless_any_is_taken() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("127.0.0.1");
    let address = server.tls.to_string();
    let certificate = server.certificate().display().to_string();
    let other = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(other.path(), Certificate::new(&["localhost"]).pem()).expect("written");
    let with = |trust: &[&str]| {
        let way =
            ["allocate", &address, "--transport", "tls", "-c", "1", "--only", "-u", USER, "-w", PASSWORD];
        let output = loadtest(&[&way[..], trust].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let named = |ca: &str, name: &str| with(&["--ca-file", ca, "--server-name", name]);
    let (status, fault) = named(&certificate, "localhost");
    assert_eq!(status, Some(0), "{fault}");
    let (status, fault) = named(&certificate, "elsewhere.example");
    assert!(status == Some(2) && fault.contains("not valid for name"), "{fault}");
    let (status, fault) = named(&other.path().display().to_string(), "localhost");
    assert!(status == Some(2) && fault.contains("invalid peer certificate"), "{fault}");
    assert_eq!(with(&["--insecure"]).0, Some(0));
    // None of the system's authorities has made it, if there are any.
    let (status, fault) = with(&[]);
    let is_told = fault.contains("--insecure takes any certificate") || fault.contains("ca-certificates.crt");
    assert!(status == Some(2) && is_told && fault.lines().count() == 1, "{fault}");
}

#[test]
fn a_connection_that_ends_is_named_and_its_packets_are_lost() {
    if coturn_is_missing() {
        return;
    }
    let mut server = Coturn::start("127.0.0.1");
    let address = server.address.to_string();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let place = peer.local_addr().expect("bound").to_string();
    let load = std::thread::spawn(move || {
        let way = ["loss", &address, "--transport", "tcp", "--peer", &place];
        measured(&[&way[..], &["-c", "2", "-r", "50", "-d", "5", "--drain", "100"]].concat())
    });
    // Packets have gone all the way: the trial is under way.
    peer.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let mut buffer = [0; 512];
    for _ in 0..20 {
        let (length, from) = peer.recv_from(&mut buffer).expect("a packet");
        peer.send_to(&buffer[..length], from).expect("sent back");
    }
    server.kill();
    let (_, report, output) = load.join().expect("it ends");
    assert_eq!(report["trials"][0]["connections_lost"], 2, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(count(&report, "lost") > 0 && count(&report, "received") > 0, "{report}");
    let started = std::time::Instant::now();
    let output = loadtest(&[
        "allocate",
        &server.address.to_string(),
        "--transport",
        "tcp",
        "-u",
        USER,
        "-w",
        PASSWORD,
    ]);
    let fault = String::from_utf8_lossy(&output.stderr);
    assert!(fault.contains("nothing listens on the server's TCP port"), "{fault}");
    assert!(started.elapsed() < Duration::from_secs(20), "at once");
}

#[test]
fn video_is_whole_on_a_wide_way_and_freezes_on_a_narrow_one() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("127.0.0.1");
    let call = |address: SocketAddr, transport: &'static str, extra: &[&str]| {
        let address = address.to_string();
        let way = ["video", &address, "--rtt", "10"];
        let (status, report, output) = measured(&[&way[..], over(transport), extra].concat());
        assert_eq!(status, Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(report["video"]["out_of_order"], 0);
        report["video"].clone()
    };
    for (transport, address) in ways(&server) {
        let small = ["-b", "0.5", "--i-frame", "10", "--group", "10", "-d", "2"];
        let video = call(address, transport, &small);
        assert_eq!(
            (&video["frames"], &video["frozen"], &video["packets_lost"]),
            (&60.into(), &0.into(), &0.into())
        );
        assert!(video["added_delay"]["count"].as_u64() == video["packets_sent"].as_u64(), "{video}");
    }
    let video = call(server.address, "tcp", &["-d", "3", "--receiver-rate", "0.5"]);
    assert!(video["packets_lost"].as_u64() > Some(0) && video["frozen"].as_u64() > Some(0), "{video}");
    assert!(video["added_delay"]["p50_us"].as_f64() > Some(50_000.0), "{video}");
}

#[test]
fn video_over_udp_is_refused_with_the_reason() {
    let output = loadtest(&["video", "127.0.0.1"]);
    let fault = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && fault.contains("--transport tcp or tls"), "{fault}");
}

#[test]
fn clients_that_never_read_have_a_relayed_address_each() {
    if coturn_is_missing() {
        return;
    }
    let server = Coturn::start("127.0.0.1");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let settings = Settings {
        server: server.address,
        local: None,
        session: Arc::new(SessionConfig {
            transport: Transport::Tcp,
            credentials: Some(Credentials::new(USER, PASSWORD)),
            allocate: AllocateOptions { lifetime_secs: 600, ..AllocateOptions::default() },
            channel: true,
            random_channel: false,
            permission: false,
            refresh_first: false,
            extra_requests: false,
            renew_every_ns: 240_000_000_000,
        }),
        peer: peer.local_addr().expect("bound"),
        clients: 3,
    };
    let stalled = Stalled::set_up(&settings, &AtomicBool::new(false)).expect("all of them");
    let relayed: HashSet<SocketAddr> = stalled.relayed().collect();
    assert_eq!(relayed.len(), 3);
    let none = Stalled::set_up(&settings, &AtomicBool::new(true)).expect("stopped before the first");
    assert_eq!(none.relayed().count(), 0);
    let wrong = Settings { local: Some("::1".parse().expect("an address")), ..settings };
    assert!(Stalled::set_up(&wrong, &AtomicBool::new(false)).is_err(), "the families differ");
}
