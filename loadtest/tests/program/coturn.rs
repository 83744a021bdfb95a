//! coturn's server over UDP, TCP and TLS, for tests that compare with it or need streams.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;
use turnpike_testkit::becomes_true;
use turnpike_testkit::certificate::Certificate;
use turnpike_testkit::process::{Process, find};

use crate::stub::{PASSWORD, USER};

/// A port that neither UDP nor TCP uses, and the one behind it: below those that others get by themselves.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = std::process::id() as u16 % 5000 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + 2 * (number % 5000);
        let is_free =
            |port| UdpSocket::bind(("0.0.0.0", port)).is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok();
        if is_free(port) && is_free(port + 1) {
            return port;
        }
    }
}

/// Says so if coturn's programs are missing.
pub fn coturn_is_missing() -> bool {
    let missing = ["turnserver", "turnutils_uclient"].into_iter().find(|name| find(name).is_none());
    if let Some(missing) = missing {
        turnpike_testkit::skip("coturn", &format!("{missing} is not installed (apt-get install coturn)"));
    }
    missing.is_some()
}

/// A running coturn.
pub struct Coturn {
    /// UDP and TCP.
    pub address: SocketAddr,
    /// TLS.
    pub tls: SocketAddr,
    server: Option<Process>,
    folder: TempDir,
}

impl Coturn {
    pub fn start(ip: &str) -> Self {
        Self::start_with(ip, &[])
    }

    /// With more options.
    pub fn start_with(ip: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Certificate::new(&["localhost", ip]).write(folder.path(), "own");
        let (port, tls_port) = (free_port(), free_port());
        let mut command = Command::new("turnserver");
        command
            .args(["-n", "--no-cli", "--no-dtls", "-L", ip, "-E", ip, "-p", &port.to_string()])
            .args([
                "--tls-listening-port",
                &tls_port.to_string(),
                "--cert",
                "own-cert.pem",
                "--pkey",
                "own-key.pem",
            ])
            .args(["--allow-loopback-peers", "--lt-cred-mech", "-u", &format!("{USER}:{PASSWORD}")])
            .args(["-r", "realm", "--log-file", "stdout", "--pidfile", "pid"])
            .args(more)
            .current_dir(folder.path());
        let process = Process::start(command);
        let ip = ip.parse().expect("an address");
        let address = SocketAddr::new(ip, port);
        let server = Self { address, tls: SocketAddr::new(ip, tls_port), server: Some(process), folder };
        let answers =
            || [server.address, server.tls].iter().all(|address| TcpStream::connect(address).is_ok());
        assert!(becomes_true(answers), "turnserver doesn't answer");
        server
    }

    /// Its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("own-cert.pem")
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.server = None;
    }
}
