//! Over real connections on the loopback interface: whoever is slow, large or many.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use turnpike_testkit::{PATIENCE, becomes_true};

use super::{ADMIN, tokens};
use crate::fake::Fake;
use crate::server::{LIMITS, Limits, Running, Settings, StartError, start, start_with};
use crate::slots::Shares;
use crate::token::Tokens;

/// The shortest time that a server gives in these tests: a busy machine may need that long between two steps.
const SHORT: Duration = Duration::from_secs(2);

fn settings() -> Settings {
    Settings { listen: SocketAddr::from(([127, 0, 0, 1], 0)), tokens: tokens(), hosts: Vec::new(), tls: None }
}

fn serve(limits: Limits) -> Running {
    start_with(limits, settings(), Fake::new(3)).expect("it starts")
}

fn connect(server: &Running) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// All that comes until the other side closes; a reset ends it too.
fn read_all(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it was not closed: {error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn exchange(server: &Running, request: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(request.as_bytes()).expect("sent");
    read_all(&stream)
}

fn status_request() -> String {
    format!(
        "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\nConnection: close\r\n\r\n"
    )
}

#[test]
fn it_answers_over_http_and_stops() {
    let server = serve(LIMITS);
    assert!(exchange(&server, &status_request()).starts_with("HTTP/1.1 200 OK\r\n"));
    let address = server.address();
    server.stop();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn history_begins_with_the_server() {
    let server = serve(LIMITS);
    let request = status_request().replace("/v1/status", "/v1/history");
    assert!(becomes_true(|| exchange(&server, &request).contains("as_of_unix_millis")), "no sample");
}

#[test]
fn without_a_token_nobody_listens() {
    let none = Settings { tokens: Tokens::default(), ..settings() };
    assert!(matches!(start(none, Fake::new(1)), Err(StartError::NoToken)));
}

#[test]
fn a_taken_address_is_an_error_that_names_it() {
    let server = serve(LIMITS);
    let again = Settings { listen: server.address(), ..settings() };
    let error = start(again, Fake::new(1)).err().expect("it is taken").to_string();
    assert!(error.contains(&server.address().to_string()), "{error}");
}

#[test]
fn replaced_tokens_count_at_once() {
    let server = serve(LIMITS);
    let mut others = Tokens::default();
    others.add("another-token-0123456789", [crate::Scope::Read]);
    server.handle().set_tokens(others);
    assert!(exchange(&server, &status_request()).starts_with("HTTP/1.1 401 "));
}

#[test]
fn slow_headers_cost_their_connection_and_nobody_else_time() {
    let server = serve(Limits { header_time: SHORT, ..LIMITS });
    let slow: Vec<TcpStream> = (0..20).map(|_| connect(&server)).collect();
    let began = Instant::now();
    for mut stream in &slow {
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: loc").expect("sent");
    }
    let silent = connect(&server);
    assert!(exchange(&server, &status_request()).starts_with("HTTP/1.1 200 OK\r\n"));
    for stream in slow.iter().chain([&silent]) {
        assert!(!read_all(stream).contains("200 OK"));
    }
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn an_idle_connection_is_closed() {
    let server = serve(Limits { header_time: SHORT, ..LIMITS });
    let mut stream = connect(&server);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    assert!(read_all(&stream).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_slow_body_is_given_up() {
    let server = serve(Limits { request_time: SHORT, ..LIMITS });
    let mut stream = connect(&server);
    let request = format!(
        "POST /v1/credentials HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n\
         Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{{\"user\":"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let answer = read_all(&stream);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":\"timeout\""), "{answer}");
}

#[test]
fn a_client_that_does_not_read_loses_its_connection() {
    let server =
        serve(Limits { connections: Shares { total: 1, ..LIMITS.connections }, send_time: SHORT, ..LIMITS });
    let stream = connect(&server);
    stream.set_nonblocking(true).expect("it does not wait");
    let request =
        format!("GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(10));
    // Some 30 MB of answers, more than the buffers of both ends hold.
    for _ in 0..500 {
        let sent = (&stream).write(request.as_bytes());
        if sent.is_err() {
            break;
        }
    }
    assert_eq!(read_all(&connect(&server)), "", "its connection is the only one");
    let has_lost_it = becomes_true(|| exchange_if_open(&server).starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(has_lost_it, "it still has its connection");
}

#[test]
fn more_connections_than_allowed_are_closed_until_there_is_room() {
    let server = serve(Limits { connections: Shares { total: 4, ..LIMITS.connections }, ..LIMITS });
    let held: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    for mut stream in &held {
        // An answer shows that the connection was accepted.
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    assert_eq!(read_all(&connect(&server)), "");
    drop(held);
    let room = becomes_true(|| exchange_if_open(&server).starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(room, "there is no room again");
}

/// An exchange with a server that may close the connection before the request is sent.
fn exchange_if_open(server: &Running) -> String {
    let mut stream = connect(server);
    match stream.write_all(status_request().as_bytes()) {
        Ok(()) => read_all(&stream),
        Err(_) => String::new(),
    }
}

#[test]
fn headers_that_are_too_large_or_too_many_are_refused() {
    let server = serve(LIMITS);
    let large = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = connect(&server);
    // It may be closed while the rest is still being sent.
    let _ = stream.write_all(large.as_bytes());
    let answer = read_all(&stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert!(exchange(&server, &many).starts_with("HTTP/1.1 431 "));
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    let mut stream = connect(&server);
    let _ = stream.write_all(long.as_bytes());
    assert!(!read_all(&stream).contains(" 200 "));
    assert!(exchange(&server, &status_request()).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn what_is_not_http_or_has_no_single_host_is_refused() {
    let server = serve(LIMITS);
    for nonsense in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = exchange(&server, nonsense);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    for headers in ["", "Host: evil.example\r\n", "Host: localhost\r\nHost: localhost\r\n"] {
        let request = format!("GET /healthz HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        let answer = exchange(&server, &request);
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("problem+json"), "{answer}");
    }
    let absolute = "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(exchange(&server, absolute).starts_with("HTTP/1.1 421 "));
    // Two lengths are how requests are smuggled past a proxy.
    let smuggled =
        "POST /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!";
    assert!(exchange(&server, smuggled).starts_with("HTTP/1.1 400 "));
}

#[test]
fn streams_end_and_slow_clients_do_not_hold_up_a_stop() {
    let server = serve(LIMITS);
    let mut stream = connect(&server);
    let request =
        format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut first = [0; 15];
    stream.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let mut half = connect(&server);
    half.write_all(b"GET /v1/sta").expect("sent");
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    // A stream that ends properly has a last chunk.
    assert!(read_all(&stream).ends_with("0\r\n\r\n"));
}

#[test]
fn an_address_that_comes_later_is_waited_for() {
    turnpike_testkit::in_own_namespace(|| {
        let later = SocketAddr::from(([203, 0, 113, 9], 0));
        let settings = Settings { listen: later, ..settings() };
        let server = start(settings, Fake::new(3)).expect("it starts without its address");
        assert!(TcpStream::connect(server.address()).is_err(), "nobody has it yet");
        let arguments = ["address", "add", "203.0.113.9/32", "dev", "lo"];
        let added = std::process::Command::new("ip").args(arguments).status().expect("iproute2 is installed");
        assert!(added.success());
        let answer = exchange(&server, &status_request());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.stop();
    });
}
