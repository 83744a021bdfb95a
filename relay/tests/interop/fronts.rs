//! HAProxy and nginx in front of the relay that say whom they speak for, and nginx behind it: a website that has a port
//! together with TURN.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use turnpike_testkit::certificate::Certificate;
use turnpike_testkit::{PATIENCE, eventually, skip};

use super::lab::{CLIENT_V4, Lab, RELAY_V4, RELAY_V4_SECOND};
use super::process::{Process, find};
use super::relay::{PORT, is_coturn};
use super::streams::{FRONT_PORT, Server, TLS_PORT, front, load_through};

/// The website's name, which no certificate of the relay has.
const SITE: &str = "www.example.org";
/// Where the website listens, on the relay's host alone.
const SITE_ADDRESS: &str = "127.0.0.1:8443";

/// A lab, unless something is missing, or the server is another one.
fn lab(name: &str, programs: &[&str]) -> Option<Lab> {
    let missing = programs.iter().find(|program| find(program).is_none());
    if let Some(missing) = missing {
        skip(name, &format!("{missing} is not installed (cargo xtask setup installs it)"));
        return None;
    }
    Lab::new(name).filter(|_| !is_coturn())
}

fn trusting() -> Vec<String> {
    vec![format!("--proxy-protocol-from={RELAY_V4_SECOND}")]
}

/// HAProxy with `send-proxy-v2`: the relay's clients are those of HAProxy, not HAProxy itself.
fn haproxy_names_its_clients(name: &str, port: u16, is_tls: bool) {
    let Some(lab) = lab(name, &["haproxy"]) else { return };
    let relay = Server::start_with(&lab, &trusting());
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend turns\n  bind {RELAY_V4_SECOND}:{FRONT_PORT}\n  default_backend relay\n\
         backend relay\n  source {RELAY_V4_SECOND}\n  server relay {RELAY_V4}:{port} send-proxy-v2 check check-send-proxy\n"
    );
    let _front = front(&lab, relay.folder.path(), "haproxy", &["-db", "-f"], &text);
    load_through(&lab, &relay, is_tls);
    let log = relay.stop();
    let ended: Vec<&str> = log.lines().filter(|line| line.contains("allocation ended")).collect();
    assert!(ended.len() >= 10, "{log}");
    let own = format!("client={CLIENT_V4}:");
    assert!(ended.iter().all(|line| line.contains(&own)), "{ended:#?}");
    assert!(!log.contains("reason=\"proxy_"), "{log}");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn haproxy_names_its_clients_over_tcp() {
    haproxy_names_its_clients("haproxy_names_its_clients_over_tcp", PORT, false);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn haproxy_names_its_clients_over_tls() {
    haproxy_names_its_clients("haproxy_names_its_clients_over_tls", TLS_PORT, true);
}

/// nginx' stream module knows version 1 only, which is refused by that name.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn nginx_writes_version_1_and_is_told_so() {
    let name = "nginx_writes_version_1_and_is_told_so";
    let Some(lab) = lab(name, &["nginx", "/usr/lib/nginx/modules/ngx_stream_module.so"]) else { return };
    let relay = Server::start_with(&lab, &trusting());
    let folder = relay.folder.path().display().to_string();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nuser root;\n\
         pid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         stream {{ server {{ listen {RELAY_V4_SECOND}:{FRONT_PORT}; proxy_bind {RELAY_V4_SECOND}; \
         proxy_pass {RELAY_V4}:{PORT}; proxy_protocol on; }} }}\n"
    );
    let _front = front(&lab, relay.folder.path(), "nginx", &["-c"], &text);
    let answer = lab.client.enter(|| {
        let mut stream =
            TcpStream::connect(SocketAddr::new(RELAY_V4_SECOND, FRONT_PORT)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream
            .write_all(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .expect("sent");
        stream.read(&mut [0; 1])
    });
    assert!(matches!(answer, Ok(0) | Err(_)), "{answer:?}");
    let log = relay.stop();
    assert!(log.contains("reason=\"proxy_version\"") && log.contains("version 2"), "{log}");
}

/// Starts nginx with a website, which knows its visitors by the PROXY protocol.
fn website(lab: &Lab, folder: &Path) -> Process {
    Certificate::new(&[SITE]).write(folder, "site");
    let www = folder.join("www");
    std::fs::create_dir(&www).expect("a folder");
    let large: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(www.join("large"), large).expect("written");
    let path = folder.display().to_string();
    let text = format!(
        "daemon off;\nuser root;\npid {path}/site.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         log_format visits '$proxy_protocol_addr $server_protocol $status';\naccess_log {path}/visits.log visits;\n\
         server {{ listen {SITE_ADDRESS} ssl http2 proxy_protocol; server_name {SITE};\n\
         ssl_certificate {path}/site-cert.pem; ssl_certificate_key {path}/site-key.pem; root {path}/www; }} }}\n"
    );
    std::fs::write(folder.join("site.conf"), text).expect("written");
    let mut command = lab.relay.command(&find("nginx").expect("it was looked for"));
    command.arg("-c").arg(folder.join("site.conf"));
    Process::start(command)
}

/// A visit, from the client's namespace.
fn curl(lab: &Lab, folder: &Path, url: &str, more: &[&str]) -> Output {
    let mut command: Command = lab.client.command(&find("curl").expect("it was looked for"));
    command
        .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
        .arg(folder.join("site-cert.pem"));
    command.arg("--resolve").arg(format!("{SITE}:{FRONT_PORT}:{RELAY_V4_SECOND}"));
    command.args(more).arg(url);
    command.output().expect("it runs")
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_website_shares_port_443_with_turn() {
    let name = "a_website_shares_port_443_with_turn";
    let Some(lab) = lab(name, &["nginx", "curl"]) else { return };
    let shared = SocketAddr::new(RELAY_V4_SECOND, FRONT_PORT);
    let mut more = ["--listen-tcp", "--listen-tls"].map(|option| format!("{option}={shared}")).to_vec();
    more.extend([format!("--tls-fallback={SITE_ADDRESS}"), "--tls-fallback-proxy-protocol".to_owned()]);
    let relay = Server::start_with(&lab, &more);
    let folder = relay.folder.path();
    let _website = website(&lab, folder);
    let url = format!("https://{SITE}/large");
    let is_there = || curl(&lab, folder, &url, &["--head"]).status.success().then_some(());
    eventually(is_there).expect("the website is there");

    let expected = std::fs::read(folder.join("www/large")).expect("it was written");
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| {
            load_through(&lab, &relay, true);
            load_through(&lab, &relay, false);
        });
        for more in [
            &["--http2"][..],
            &["--http1.1"],
            &["--http1.1", "--no-alpn"],
            &["--http2", "--limit-rate", "4M"],
        ] {
            let visit = curl(&lab, folder, &url, more);
            let said = String::from_utf8_lossy(&visit.stderr);
            assert!(visit.status.success() && visit.stdout == expected, "{more:?}: {said}");
        }
        calls.join().expect("the calls are served meanwhile");
    });
    // The website's own words for who forgets TLS.
    let plain = curl(&lab, folder, &format!("http://{SITE}:{FRONT_PORT}/"), &[]);
    assert!(String::from_utf8_lossy(&plain.stdout).contains("plain HTTP request"), "{plain:?}");
    let visits = std::fs::read_to_string(folder.join("visits.log")).expect("a log");
    for protocol in ["HTTP/2.0", "HTTP/1.1"] {
        assert!(visits.contains(&format!("{CLIENT_V4} {protocol} 200")), "{visits}");
    }
    // And somebody who asks for nothing at all gets no more time than others.
    let idle = lab
        .client
        .enter(|| TcpStream::connect_timeout(&shared, Duration::from_secs(10)))
        .expect("it listens");
    idle.set_read_timeout(Some(PATIENCE)).expect("not zero");
    assert_eq!((&idle).read(&mut [0; 1]).expect("closed, not reset"), 0);
    relay.stop();
}
