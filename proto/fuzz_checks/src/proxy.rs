//! Target `proxy`: headers of the PROXY protocol, whole and in part, sound and not.
//!
//! Checks what a reader of the specification expects of any bytes: bounds, that more bytes never change what was
//! said, and that what is accepted says what stands there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use turnpike_proto::wire::proxy::{Header, MAX_HEADER, SIGNATURE, read};

/// The bytes as they are, and behind a sound beginning: most inputs would fail at the signature.
pub fn run(data: &[u8]) {
    check(data);
    check(&[&SIGNATURE[..], data].concat());
    if let Some((&kind, body)) = data.split_first() {
        let family_transport = [0x11, 0x12, 0x21, 0x22, 0x00, 0x31][usize::from(kind) % 6];
        let length = (body.len() as u16).to_be_bytes();
        check(&[&SIGNATURE[..], &[0x21, family_transport], &length, body].concat());
    }
}

fn check(bytes: &[u8]) {
    let said = read(bytes);
    match said {
        Header::Need(needed) => assert!(needed > bytes.len() && needed <= MAX_HEADER),
        Header::Whole { len, client } => {
            assert!((16..=bytes.len().min(MAX_HEADER)).contains(&len) && bytes.starts_with(&SIGNATURE));
            assert_eq!(len, 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])));
            let expected = client.map(|client| (client.source, client.destination));
            assert_eq!(expected, addresses(bytes));
            assert_eq!(read(&bytes[..len]), said, "what follows is the client's");
        }
        Header::Invalid(_) => {}
    }
    for len in 0..bytes.len().min(80) {
        match read(&bytes[..len]) {
            Header::Need(needed) => assert!(needed > len && needed <= MAX_HEADER),
            sooner => assert_eq!(sooner, said, "after {len} bytes"),
        }
    }
}

/// The addresses of an accepted header, if it is about a client.
fn addresses(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    if bytes[12] == 0x20 || bytes[13] == 0 {
        return None;
    }
    let width = if bytes[13] >> 4 == 1 { 4 } else { 16 };
    let ip = |at: usize| {
        let octets = &bytes[16 + at..][..width];
        let ip = match <[u8; 4]>::try_from(octets) {
            Ok(octets) => IpAddr::from(octets),
            Err(_) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).expect("sixteen"))),
        };
        ip.to_canonical()
    };
    let port = |at: usize| u16::from_be_bytes([bytes[16 + at], bytes[17 + at]]);
    let source = SocketAddr::new(ip(0), port(2 * width));
    Some((source, SocketAddr::new(ip(width), port(2 * width + 2))))
}
