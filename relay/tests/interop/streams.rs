//! Clients over TCP and TLS: coturn's, aioice, Chromium; and HAProxy and nginx in between.
//!
//! The certificates' authority is one of the test's own: Chromium gets it in its NSS database, aioice as a
//! file, so that both check the server's certificate as they do with anybody's.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use turnpike_testkit::{python, skip};

use super::lab::{Lab, PEER_V4, PEER_V6, RELAY_V4, RELAY_V4_SECOND, RELAY_V6, RELAYED_V4, RELAYED_V6};
use super::process::{self, Outcome, Process};
use super::relay::{self, PASSWORD, PORT, REALM, USER, is_coturn};
use super::uclient;

/// A name in the server's certificate.
pub(super) const NAME: &str = "relay.test";
/// The port for TLS.
pub(super) const TLS_PORT: u16 = 5349;
/// Where HAProxy and nginx listen, on the relay's second address.
pub(super) const FRONT_PORT: u16 = 443;
/// The echo server's port; it opens the next one too.
pub(super) const PEER_PORT: u16 = 3480;
/// How long a browser, or another client, may take for all of a test.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A server with TCP and TLS, and what its clients need.
pub(super) struct Server {
    process: Process,
    pub(super) folder: TempDir,
}

impl Server {
    pub(super) fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &[])
    }

    /// With more options.
    pub(super) fn start_with(lab: &Lab, more: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        make_certificates(folder.path());
        let mut command = relay::program(lab);
        command.current_dir(folder.path());
        command.args(if is_coturn() { coturn_arguments() } else { turnpike_arguments() });
        command.args(more);
        let process = Process::start(command);
        let server = Self { process, folder };
        for ip in [RELAY_V4, RELAY_V6] {
            for port in [PORT, TLS_PORT] {
                let address = SocketAddr::new(ip, port);
                assert!(opens(lab, address), "the server doesn't listen on {address}");
            }
        }
        server
    }

    /// Who vouches for its certificate, PEM.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Ends it in order; gives what it printed.
    pub(super) fn stop(self) -> String {
        self.process.signal(rustix::process::Signal::TERM);
        let Outcome { code, output } = self.process.wait(turnpike_testkit::PATIENCE);
        assert!(code == Some(0) || is_coturn(), "{code:?}: {output}");
        output
    }
}

/// Whether a connection can be made, within a generous time.
fn opens(lab: &Lab, address: SocketAddr) -> bool {
    let begun = Instant::now();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
    while begun.elapsed() < Duration::from_secs(20) {
        if lab.client.enter(connect) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// An authority, and a certificate of it for the addresses of the lab.
fn make_certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "Turnpike's tests");
    let own = authority.self_signed(&key).expect("signed");
    let mut names = [RELAY_V4, RELAY_V4_SECOND, RELAY_V6].map(|ip| ip.to_string()).to_vec();
    names.push(NAME.to_owned());
    let mut params = CertificateParams::new(names).expect("addresses");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    // Browsers take no certificate that is valid for longer than 398 days.
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_secs(86_400)).into();
    params.not_after = (now + Duration::from_secs(30 * 86_400)).into();
    let server_key = KeyPair::generate().expect("a key");
    let server = params.signed_by(&server_key, &Issuer::from_params(&authority, &key)).expect("signed");
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
    write("ca.pem", own.pem());
    write("cert.pem", server.pem() + &own.pem());
    write("key.pem", server_key.serialize_pem());
}

fn turnpike_arguments() -> Vec<String> {
    let mut arguments =
        vec!["run".to_owned(), format!("--realm={REALM}"), format!("--user={USER}:{PASSWORD}")];
    for ip in [RELAY_V4, RELAY_V6] {
        let at = |port| SocketAddr::new(ip, port);
        arguments.extend([format!("--listen={}", at(PORT)), format!("--listen-tcp={}", at(PORT))]);
        arguments.push(format!("--listen-tls={}", at(TLS_PORT)));
    }
    arguments.extend([RELAYED_V4, RELAYED_V6].map(|ip| format!("--relay-address={ip}")));
    let fixed = ["--tls-cert=cert.pem", "--tls-key=key.pem", "--rfc5766-channel-numbers"];
    arguments.extend(fixed.map(str::to_owned));
    arguments.extend(["--allow-peer=10.77.0.0/16".to_owned(), "--allow-peer=fd77::/16".to_owned()]);
    arguments
}

fn coturn_arguments() -> Vec<String> {
    let fixed =
        ["-n", "--log-file=stdout", "--no-dtls", "--no-cli", "--lt-cred-mech", "--pidfile=", "--userdb="];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).to_vec();
    arguments.extend(["--cert=cert.pem", "--pkey=key.pem"].map(str::to_owned));
    arguments.extend([format!("--listening-port={PORT}"), format!("--tls-listening-port={TLS_PORT}")]);
    arguments.extend([format!("--realm={REALM}"), format!("--user={USER}:{PASSWORD}")]);
    arguments.extend([RELAY_V4, RELAY_V6].map(|ip| format!("--listening-ip={ip}")));
    arguments.extend([RELAYED_V4, RELAYED_V6].map(|ip| format!("--relay-ip={ip}")));
    arguments
}

/// coturn's echo server, in the peer's namespace.
fn echo(lab: &Lab) -> Process {
    let mut echo = lab.peer.command(Path::new("turnutils_peer"));
    echo.args(["-p", &PEER_PORT.to_string(), "-L", &PEER_V4.to_string(), "-L", &PEER_V6.to_string()]);
    Process::start(echo)
}

fn uclient_over_tcp(name: &str, server: IpAddr, arguments: &[&str]) {
    let Some(lab) = Lab::new(name) else { return };
    let relay = Server::start(&lab);
    let _echo = echo(&lab);
    uclient::assert_no_loss(&lab, server, &[&["-t", "-u", USER, "-w", PASSWORD], arguments].concat());
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tcp_channels_between_clients() {
    uclient_over_tcp("tcp_channels_between_clients", RELAY_V4, &["-y", "-c"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tcp_indications_to_a_peer() {
    let peer = PEER_V4.to_string();
    uclient_over_tcp("tcp_indications_to_a_peer", RELAY_V4, &["-s", "-e", &peer, "-r", "3480", "-c"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tcp_channels_over_ipv6() {
    uclient_over_tcp("tcp_channels_over_ipv6", RELAY_V6, &["-y", "-c", "-x"]);
}

/// turnutils_uclient reports false losses over TLS, against coturn as well: ours stands in for it.
fn uclient_over_tls(name: &str, server: IpAddr, arguments: &[&str]) {
    let Some(lab) = Lab::new(name) else { return };
    let relay = Server::start(&lab);
    let _echo = echo(&lab);
    let authority = relay.authority().display().to_string();
    let server = server.to_string();
    let fixed = ["turnpike-loadtest", "uclient", "-t", "-S", "-E", &authority, "-u", USER, "-w", PASSWORD];
    let load = ["-m", "20", "-n", "150", "-z", "20", "-l", "170", "--fail-above-loss", "0", &server];
    let all = [&fixed[..], arguments, &load].concat().into_iter().map(Into::into).collect();
    let code = lab.client.enter(|| turnpike_loadtest::cli::main(all));
    assert_eq!(code, std::process::ExitCode::SUCCESS);
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tls_channels_between_clients() {
    uclient_over_tls("tls_channels_between_clients", RELAY_V4, &["-y", "-c"]);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn tls_channels_over_ipv6_to_a_peer() {
    uclient_over_tls("tls_channels_over_ipv6_to_a_peer", RELAY_V6, &["-x", "-e", &PEER_V6.to_string(), "-c"]);
}

/// aioice sends all lengths from 1 to 300 bytes, and its peer's echo comes back the same.
fn aioice(name: &str, server: IpAddr, over_tls: bool) {
    let Some(lab) = Lab::new(name) else { return };
    let python = match python::with_packages(
        &Path::new(env!("CARGO_TARGET_TMPDIR")).join("aioice-0.10.1"),
        &tests().join("hostile/aioice.txt"),
    ) {
        Ok(python) => python,
        Err(why) => return skip(name, &why),
    };
    let relay = Server::start(&lab);
    let _echo = echo(&lab);
    let trust = if over_tls { relay.authority().display().to_string() } else { "tcp".to_owned() };
    let mut command = lab.client.command(&python);
    command.arg(tests().join("interop/aioice_stream.py"));
    let port = if over_tls { TLS_PORT } else { PORT };
    command.args([server.to_string(), port.to_string(), USER.into(), PASSWORD.into()]);
    command.args([PEER_V4.to_string(), PEER_PORT.to_string(), trust, "300".to_owned()]);
    let Outcome { code, output } = Process::start(command).wait(PATIENCE);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("same True received 300"), "{output}");
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn aioice_over_tcp() {
    aioice("aioice_over_tcp", RELAY_V4, false);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn aioice_over_tls() {
    aioice("aioice_over_tls", RELAY_V4, true);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn aioice_over_tcp_and_ipv6() {
    aioice("aioice_over_tcp_and_ipv6", RELAY_V6, false);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn aioice_over_tls_and_ipv6() {
    aioice("aioice_over_tls_and_ipv6", RELAY_V6, true);
}

/// The folder of this package's tests.
pub(super) fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// What a page in Chromium reports of a call with itself; `None` if the test is skipped.
fn chromium(lab: &Lab, name: &str, relay: &Server, query: &str) -> Option<serde_json::Value> {
    let programs = ["chromium", "certutil"];
    if let Some(missing) = programs.iter().find(|program| process::find(program).is_none()) {
        skip(name, &format!("{missing} is not installed (cargo xtask setup installs it)"));
        return None;
    }
    let home = tempfile::tempdir().expect("there is a folder for temporary files");
    trust(home.path(), &relay.authority());
    let listener = lab.client.enter(|| TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut command = lab.client.command(&process::find("chromium").expect("found"));
    command
        .env("HOME", home.path())
        .arg(format!("--user-data-dir={}", home.path().join("profile").display()));
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]);
    let password = PASSWORD.replace(' ', "%20");
    command.arg(format!("http://{address}/?user={USER}&password={password}&{query}"));
    let browser = Process::start(command);
    let result = serve(&listener, &browser);
    println!("{name}: {result}");
    Some(serde_json::from_str(&result).unwrap_or_else(|error| panic!("{error}: {result}")))
}

/// Chromium on Linux takes users' authorities from an NSS database; there is no option for TURN's certificates.
fn trust(home: &Path, authority: &Path) {
    let database = home.join(".pki/nssdb");
    std::fs::create_dir_all(&database).expect("a folder");
    let database = format!("sql:{}", database.display());
    for arguments in [
        &["-N", "--empty-password"][..],
        &["-A", "-n", "tests", "-t", "C,,", "-i", authority.to_str().expect("UTF-8")],
    ] {
        let output =
            Command::new("certutil").args(["-d", &database]).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Gives the page to whoever asks, until it has posted its result.
fn serve(listener: &TcpListener, browser: &Process) -> String {
    listener.set_nonblocking(true).expect("sockets can");
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false).expect("sockets can");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("sockets can");
        let (head, body) = request(&mut stream);
        let page = match head.split(' ').collect::<Vec<_>>()[..] {
            ["GET", path, ..] if path.starts_with("/?") => include_str!("call.html"),
            ["POST", ..] => "taken",
            [_, _, ..] => "",
            // Opened early, for a request that has not come: an answer would be taken for that of the next.
            _ => continue,
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
            page.len()
        );
        // A browser that has gone needs no answer.
        let _ = stream.write_all(answer.as_bytes());
        if head.starts_with("POST /result") {
            return body;
        }
    }
    let said = browser.wait_for(Duration::ZERO, |line| Some(line.to_owned()));
    panic!("the browser did not report; its last line: {said:?}");
}

/// A request's head and body.
fn request(stream: &mut TcpStream) -> (String, String) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return (head.to_owned(), body.to_owned());
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return (text, String::new()),
        }
    }
}

/// A data channel of `bytes` from a page to itself, relayed only, both ends over the same way.
fn chromium_transfer(name: &str, url: &str, way: &str, bytes: u64) {
    let Some(lab) = Lab::new(name) else { return };
    let relay = Server::start(&lab);
    let Some(seen) = chromium(&lab, name, &relay, &format!("url={url}&bytes={bytes}")) else { return };
    assert_eq!(seen["ways"], serde_json::json!([way, way]), "{seen}");
    assert_eq!(seen["wrong"], 0, "{seen}");
    assert!(seen["received"].as_u64() >= Some(bytes), "{seen}");
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn chromium_transfers_over_tcp() {
    chromium_transfer("chromium_transfers_over_tcp", "turn:10.77.1.2:3478?transport=tcp", "tcp", 20_000_000);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn chromium_transfers_over_tls() {
    chromium_transfer("chromium_transfers_over_tls", "turns:10.77.1.2:5349?transport=tcp", "tls", 20_000_000);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn chromium_transfers_over_tls_and_ipv6() {
    let url = "turns:[fd77:1::2]:5349?transport=tcp";
    chromium_transfer("chromium_transfers_over_tls_and_ipv6", url, "tls", 1_000_000);
}

/// A call with the browser's fake camera: pictures keep coming.
fn chromium_call(name: &str, url: &str, way: &str) {
    let Some(lab) = Lab::new(name) else { return };
    let relay = Server::start(&lab);
    let Some(seen) = chromium(&lab, name, &relay, &format!("url={url}&video=20")) else { return };
    assert_eq!(seen["ways"], serde_json::json!([way, way]), "{seen}");
    // The camera makes 20 pictures a second; a busy machine may encode fewer.
    assert!(seen["frames"].as_u64() >= Some(40), "{seen}");
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn chromium_calls_over_tcp() {
    chromium_call("chromium_calls_over_tcp", "turn:10.77.1.2:3478?transport=tcp", "tcp");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn chromium_calls_over_tls() {
    chromium_call("chromium_calls_over_tls", "turns:10.77.1.2:5349?transport=tcp", "tls");
}

/// Starts a proxy in the relay's namespace with a configuration of its own.
pub(super) fn front(lab: &Lab, folder: &Path, program: &str, arguments: &[&str], text: &str) -> Process {
    let path = folder.join(format!("{program}.conf"));
    std::fs::write(&path, text).expect("written");
    let found = process::find(program).or_else(|| Some(PathBuf::from("/usr/sbin").join(program)));
    let mut command = lab.relay.command(&found.expect("one of both"));
    command.args(arguments).arg(&path);
    let front = Process::start(command);
    assert!(opens(lab, SocketAddr::new(RELAY_V4_SECOND, FRONT_PORT)), "{program} doesn't listen");
    front
}

/// A load over TLS through what listens on the relay's second address, with the server's own certificate.
fn load_through_front(lab: &Lab, relay: &Server) {
    load_through(lab, relay, true);
}

/// The same over TCP, if not over TLS.
pub(super) fn load_through(lab: &Lab, relay: &Server, is_tls: bool) {
    let authority = relay.authority().display().to_string();
    let (server, port) = (RELAY_V4_SECOND.to_string(), FRONT_PORT.to_string());
    let fixed = ["turnpike-loadtest", "uclient", "-t", "-u", USER, "-w", PASSWORD, "-p", &port];
    let secure = if is_tls { &["-S", "-E", &authority][..] } else { &[] };
    let load = ["-y", "-c", "-m", "10", "-n", "50", "--fail-above-loss", "0", &server];
    let all = [&fixed[..], secure, &load].concat().into_iter().map(Into::into).collect();
    let code = lab.client.enter(|| turnpike_loadtest::cli::main(all));
    assert_eq!(code, std::process::ExitCode::SUCCESS);
}

/// HAProxy passes TLS on as it is.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn haproxy_in_front_passes_tls_on() {
    let name = "haproxy_in_front_passes_tls_on";
    let Some(lab) = Lab::new(name) else { return };
    if !Path::new("/usr/sbin/haproxy").exists() {
        return skip(name, "haproxy is not installed (cargo xtask setup installs it)");
    }
    let relay = Server::start(&lab);
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend turns\n  bind {RELAY_V4_SECOND}:{FRONT_PORT}\n  default_backend relay\n\
         backend relay\n  server relay {RELAY_V4}:{TLS_PORT}\n"
    );
    let _front = front(&lab, relay.folder.path(), "haproxy", &["-db", "-f"], &text);
    load_through_front(&lab, &relay);
    relay.stop();
}

/// nginx passes TLS on as it is.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn nginx_in_front_passes_tls_on() {
    let name = "nginx_in_front_passes_tls_on";
    let Some(lab) = Lab::new(name) else { return };
    if !Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").exists() {
        return skip(name, "nginx with its stream module is not installed (cargo xtask setup installs it)");
    }
    let relay = Server::start(&lab);
    let folder = relay.folder.path().display().to_string();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nuser root;\n\
         pid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         stream {{ server {{ listen {RELAY_V4_SECOND}:{FRONT_PORT}; proxy_pass {RELAY_V4}:{TLS_PORT}; }} }}\n"
    );
    let _front = front(&lab, relay.folder.path(), "nginx", &["-c"], &text);
    load_through_front(&lab, &relay);
    relay.stop();
}

mod long {
    use super::*;

    #[test]
    #[ignore = "needs root: cargo xtask interop"]
    fn chromium_transfers_over_tcp_and_ipv6() {
        let url = "turn:[fd77:1::2]:3478?transport=tcp";
        chromium_transfer("chromium_transfers_over_tcp_and_ipv6", url, "tcp", 20_000_000);
    }

    #[test]
    #[ignore = "needs root: cargo xtask interop"]
    fn chromium_calls_over_tls_and_ipv6() {
        let url = "turns:[fd77:1::2]:5349?transport=tcp";
        chromium_call("chromium_calls_over_tls_and_ipv6", url, "tls");
    }
}
