//! HTTPS, and a certificate that is replaced while it runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use turnpike_testkit::PATIENCE;
use turnpike_testkit::certificate::{Certificate, tls};
use turnpike_testkit::stream::StreamClient;

use super::tokens;
use crate::fake::Fake;
use crate::server::{LIMITS, Limits, Running, Settings, start_with};

/// A new certificate with its key, and what a client trusts.
fn certificate() -> (Arc<CertifiedKey>, Certificate) {
    let made = Certificate::new(&["localhost"]);
    let key = CertifiedKey::from_der(vec![made.der()], made.key(), &ring::default_provider());
    (Arc::new(key.expect("a pair")), made)
}

fn serve(certificate: Arc<CertifiedKey>) -> Running {
    serve_with(LIMITS, certificate)
}

fn serve_with(limits: Limits, certificate: Arc<CertifiedKey>) -> Running {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { listen, tokens: tokens(), hosts: Vec::new(), tls: Some(certificate) };
    start_with(limits, settings, Fake::new(1)).expect("it starts")
}

fn ask(server: &Running, trusted: &Certificate) -> std::io::Result<String> {
    let mut stream = StreamClient::connect(server.address(), Some(tls(trusted.client(), "localhost")))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_certificate_is_replaced_without_a_restart() {
    let ((old, trusts_old), (new, trusts_new)) = (certificate(), certificate());
    let server = serve(old);
    assert!(ask(&server, &trusts_old).expect("an answer").starts_with("HTTP/1.1 200 OK"));
    assert!(ask(&server, &trusts_new).is_err(), "it is not in force yet");
    server.handle().set_certificate(new);
    assert!(ask(&server, &trusts_new).expect("an answer").starts_with("HTTP/1.1 200 OK"));
    assert!(ask(&server, &trusts_old).is_err());
}

#[test]
fn plain_http_gets_no_answer() {
    let server = serve(certificate().0);
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut bytes = Vec::new();
    // Closed, or reset: either way nothing of HTTP.
    let _ = stream.read_to_end(&mut bytes);
    assert!(!bytes.starts_with(b"HTTP"));
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let limits = Limits { handshake_time: Duration::from_millis(300), ..LIMITS };
    let server = serve_with(limits, certificate().0);
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(stream.read(&mut [0; 16]).expect("it is closed"), 0);
}
