//! Certificates of the running program: replaced under its eyes, broken, and what it says about them.

use std::io::{Read, Write};
use std::net::SocketAddr;

use serde_json::Value;
use turnpike_testkit::becomes_true;
use turnpike_testkit::certificate::{Certificate, tls};
use turnpike_testkit::http::TOKEN;
use turnpike_testkit::stream::StreamClient;

use super::relay::Relay;

/// The body of an answer, from a server that shows a certificate of `trusted`.
fn get(admin: SocketAddr, path: &str, trusted: &Certificate) -> std::io::Result<String> {
    let mut stream = StreamClient::connect(admin, Some(tls(trusted.client(), "localhost")))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(body.to_owned())
}

#[test]
fn a_new_certificate_is_in_force_without_a_signal_and_a_broken_one_never() {
    let [old, new, last] = [(); 3].map(|()| Certificate::new(&["localhost"]));
    let folder = tempfile::tempdir().expect("a folder");
    let [cert, key] = old.write(folder.path(), "own");
    let relay = Relay::start_in(folder, &format!("admin-tls-cert = {cert:?}\nadmin-tls-key = {key:?}\n"));
    let get = |path: &str, trusted: &Certificate| get(relay.admin(), path, trusted);
    let certificate = |trusted: &Certificate| {
        let status = get("/v1/status", trusted).expect("an answer");
        let status: Value = serde_json::from_str(&status).expect("JSON");
        status["certificates"][0].clone()
    };
    assert_eq!(certificate(&old)["names"][0], "localhost");
    new.write(relay.folder(), "own");
    assert!(becomes_true(|| get("/healthz", &new).is_ok()), "the new one is shown");
    assert!(get("/healthz", &old).is_err(), "and the old one no more");

    std::fs::write(&cert, "nonsense\n").expect("written");
    let fault = || certificate(&new)["fault"].as_str().unwrap_or_default().to_owned();
    assert!(becomes_true(|| !fault().is_empty()), "the API says why it is not renewed");
    assert!(fault().contains("cert.pem: there is no certificate"), "{}", fault());
    let page = get("/metrics", &new).expect("the one from before is shown");
    let of = |name: &str| page.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(of("turnpike_certificate_fault{").ends_with("cert.pem\",name=\"localhost\"} 1"), "{page}");
    assert!(of("turnpike_certificate_expires_seconds{").contains("localhost"), "{page}");

    last.write(relay.folder(), "own");
    assert!(becomes_true(|| get("/healthz", &last).is_ok()), "the next good one is shown");
    assert!(certificate(&last)["fault"].is_null());
    let log = relay.stop();
    let faults: Vec<_> = log.lines().filter(|line| line.contains("stays in force")).collect();
    assert!(faults.iter().any(|line| line.contains("ERROR") && line.contains("cert.pem")), "{log}");
    assert!(!log.contains("PRIVATE KEY"), "no secret is in the log");
}
