//! HTTPS, and a certificate that is replaced while it runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::fake::Fake;
use super::tokens;
use crate::server::{LIMITS, Limits, Running, Settings, StartError, start_with};
use crate::tls::{TlsError, TlsFiles};

/// Writes a new certificate, and gives back what a client needs to trust it.
fn write_certificate(files: &TlsFiles) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&files.cert, cert.pem()).expect("written");
    std::fs::write(&files.key, signing_key.serialize_pem()).expect("written");
    cert.der().clone()
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") }
}

fn serve(files: &TlsFiles) -> Result<Running, StartError> {
    serve_with(LIMITS, files)
}

fn serve_with(limits: Limits, files: &TlsFiles) -> Result<Running, StartError> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { listen, tokens: tokens(), hosts: Vec::new(), tls: Some(files.clone()) };
    start_with(limits, settings, Fake::new(1))
}

fn ask(server: &Running, trusted: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(connection, TcpStream::connect(server.address())?);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_certificate_is_replaced_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    let old = write_certificate(&files);
    let server = serve(&files).expect("it starts");
    assert!(ask(&server, &old).expect("an answer").starts_with("HTTP/1.1 200 OK"));
    let new = write_certificate(&files);
    assert!(ask(&server, &new).is_err(), "it is not in force yet");
    let certificate = server.handle().read_certificate().expect("it can be used").expect("there is one");
    assert!(ask(&server, &new).is_err(), "reading changes nothing");
    server.handle().set_certificate(certificate);
    assert!(ask(&server, &new).expect("an answer").starts_with("HTTP/1.1 200 OK"));
    std::fs::write(&files.cert, "nonsense").expect("written");
    assert!(matches!(server.handle().read_certificate(), Err(TlsError::NoCertificate(_))));
    assert!(ask(&server, &new).is_ok(), "the old one stays");
}

#[test]
fn plain_http_gets_no_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    write_certificate(&files);
    let server = serve(&files).expect("it starts");
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut bytes = Vec::new();
    // Closed, or reset: either way nothing of HTTP.
    let _ = stream.read_to_end(&mut bytes);
    assert!(!bytes.starts_with(b"HTTP"));
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    write_certificate(&files);
    let limits = Limits { handshake_time: Duration::from_millis(300), ..LIMITS };
    let server = serve_with(limits, &files).expect("it starts");
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    assert_eq!(stream.read(&mut [0; 16]).expect("it is closed"), 0);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    let error = serve(&files).err().expect("there are no files").to_string();
    assert!(error.contains("cert.pem"), "{error}");
    write_certificate(&files);
    std::fs::remove_file(&files.key).expect("removed");
    let error = serve(&files).err().expect("there is no key").to_string();
    assert!(error.contains("key.pem"), "{error}");
}
