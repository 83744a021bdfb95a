//! Certificates of the running program: replaced under its eyes, broken, and what it says about them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;
use turnpike_testkit::http::TOKEN;
use turnpike_testkit::server::{Server, without_options};

const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate that nobody vouches for but itself.
struct Made {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

fn made(name: &str) -> Made {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    Made { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

/// The program with an administration by HTTPS.
struct Relay {
    running: Server,
    admin: SocketAddr,
    folder: TempDir,
}

impl Relay {
    fn start(first: &Made) -> Relay {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| format!("{:?}", folder.path().join(name).display().to_string());
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\nrelay-address = [\"127.0.0.1\"]\noffload = \"off\"\nworkers = 1\n\
             user = [\"alice:long-enough\"]\nadmin = \"127.0.0.1:0\"\nadmin-token = [\"{TOKEN}\"]\n\
             admin-tls-cert = {}\nadmin-tls-key = {}\n",
            path("cert.pem"),
            path("key.pem")
        );
        std::fs::write(folder.path().join("turnpike.toml"), text).expect("written");
        replace(folder.path(), first);
        let program = turnpike_testkit::binary(env!("CARGO_BIN_EXE_turnpike"));
        let mut command = without_options(Command::new(program));
        command.arg("run").arg("--config").arg(folder.path().join("turnpike.toml"));
        let running = Server::start(command);
        let (_, admin) = running.field("admin=").trim_end_matches('/').split_once("://").expect("a URL");
        let admin = admin.parse().expect("an address");
        Relay { running, admin, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The body of an answer, from a server that shows a certificate of `trusted`.
    fn get(&self, path: &str, trusted: &Made) -> std::io::Result<String> {
        let mut stream = tls_stream(self.admin, &trusted.der)?;
        let host = self.admin;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(body.to_owned())
    }

    fn certificate(&self, trusted: &Made) -> Value {
        let status = self.get("/v1/status", trusted).expect("an answer");
        let status: Value = serde_json::from_str(&status).expect("JSON");
        status["certificates"][0].clone()
    }
}

fn tls_stream(
    server: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has both")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    Ok(StreamOwned::new(connection, stream))
}

/// Both files one after another, each renamed over the old one.
fn replace(folder: &Path, made: &Made) {
    for (name, text) in [("cert.pem", &made.cert), ("key.pem", &made.key)] {
        std::fs::write(folder.join("new"), text).expect("written");
        std::fs::rename(folder.join("new"), folder.join(name)).expect("renamed");
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_new_certificate_is_in_force_without_a_signal_and_a_broken_one_never() {
    let (old, new, last) = (made("localhost"), made("localhost"), made("localhost"));
    let relay = Relay::start(&old);
    assert_eq!(relay.certificate(&old)["names"][0], "localhost");
    replace(relay.folder.path(), &new);
    until("the new one is shown", || relay.get("/healthz", &new).is_ok());
    assert!(relay.get("/healthz", &old).is_err(), "and the old one no more");

    std::fs::write(relay.path("cert.pem"), "nonsense\n").expect("written");
    let fault = || relay.certificate(&new)["fault"].as_str().unwrap_or_default().to_owned();
    until("the API says why it is not renewed", || !fault().is_empty());
    assert!(fault().contains("cert.pem: there is no certificate"), "{}", fault());
    let page = relay.get("/metrics", &new).expect("the one from before is shown");
    let of = |name: &str| page.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(of("turnpike_certificate_fault{").ends_with("cert.pem\",name=\"localhost\"} 1"), "{page}");
    assert!(of("turnpike_certificate_expires_seconds{").contains("localhost"), "{page}");

    replace(relay.folder.path(), &last);
    until("the next good one is shown", || relay.get("/healthz", &last).is_ok());
    assert!(relay.certificate(&last)["fault"].is_null());
    let log = relay.running.stop();
    let faults: Vec<_> = log.lines().filter(|line| line.contains("stays in force")).collect();
    assert!(faults.iter().any(|line| line.contains("ERROR") && line.contains("cert.pem")), "{log}");
    assert!(!log.contains("PRIVATE KEY"), "no secret is in the log");
}
