//! One request to the administration of the running program.

use std::io::{Read, Write};
use std::net::TcpStream;

/// The token that the tests configure.
pub const TOKEN: &str = "0123456789abcdef-for-tests";

/// Asks on a fresh connection, with the token; gives status and body.
pub fn exchange(mut stream: TcpStream, method: &str, path: &str, body: &str) -> (u16, String) {
    let host = stream.peer_addr().expect("it is connected");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}
