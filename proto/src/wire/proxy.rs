//! The PROXY protocol's header, version 2: what a load balancer says of the client behind it.
//!
//! Reads the binary header that the public specification (proxy-protocol.txt, section 2.2) describes. It doesn't
//! decide whom to believe: a header from anybody but a trusted proxy is a lie, or an attack. It keeps no bytes.
//!
//! ```text
//!   signature, 12 │ version, command │ family, transport │ length u16 │ addresses │ type, length, value ...
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc, Table};

/// What each header begins with. Neither TLS nor what TURN clients send begins with the same byte (RFC 7983 s. 7).
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Most bytes of a header, by our own decision: several times what proxies send of themselves and of TLS.
pub const MAX_HEADER: usize = 4096;

/// What a header of version 1 begins with (s. 2.1).
const VERSION_1: &[u8] = b"PROXY ";
/// Bytes in front of the addresses.
const FIXED_LEN: usize = SIGNATURE.len() + 4;
/// The TLV with the checksum over the whole header, in which it counts as zeros (s. 2.2.3).
const TYPE_CRC32C: u8 = 0x03;
/// Bytes of type and length in front of each value.
const TLV_HEADER_LEN: usize = 3;

static CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// What a stream's, or a datagram's, first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Not all of it is there: nothing can be said before there are so many bytes, which are at most [`MAX_HEADER`].
    Need(usize),
    /// A header.
    Whole {
        /// Its bytes; the client's own begin behind them.
        len: usize,
        /// Whom the proxy speaks for; `None` if for itself (LOCAL: it looks whether we live), or for somebody whose
        /// addresses it doesn't know. Then the connection's own addresses hold.
        client: Option<Proxied>,
    },
    /// No header that can be used.
    Invalid(HeaderFault),
}

/// Whom a proxy speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// The client, as the proxy sees it.
    pub source: SocketAddr,
    /// The proxy's address that the client talks to.
    pub destination: SocketAddr,
    /// The client talks TCP to the proxy, not UDP.
    pub is_stream: bool,
}

/// Why there is no header that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// No header at all.
    #[error("the PROXY protocol's header is missing")]
    Missing,
    /// The text of version 1.
    #[error("a PROXY protocol header of version 1, where version 2 is needed")]
    Version1,
    /// Neither version 2 nor a command of it.
    #[error("an unknown version or command of the PROXY protocol")]
    UnknownCommand,
    /// Neither IPv4 nor IPv6, or neither TCP nor UDP.
    #[error("a PROXY protocol header for something else than TCP or UDP over IP")]
    UnsupportedFamily,
    /// Shorter than its addresses, or longer than [`MAX_HEADER`].
    #[error("a PROXY protocol header of impossible length")]
    Length,
    /// Its additional values overrun it.
    #[error("a PROXY protocol header whose values overrun it")]
    Malformed,
    /// Its checksum is wrong.
    #[error("a PROXY protocol header with a wrong checksum")]
    Checksum,
}

/// Whether the bytes begin with a header, of either version, or with what there is of one. Nothing that TURN's clients
/// send does, nor TLS: so whoever is not to be believed is recognized.
pub fn is_header(bytes: &[u8]) -> bool {
    let begins_as = |expected: &[u8]| bytes.iter().zip(expected).all(|(byte, expected)| byte == expected);
    !bytes.is_empty() && (begins_as(&SIGNATURE) || bytes.starts_with(VERSION_1))
}

/// Reads the header that the bytes begin with; what is there is enough to refuse it, as soon as it is.
pub fn read(bytes: &[u8]) -> Header {
    match read_fixed(bytes) {
        Err(incomplete) => incomplete,
        Ok(fixed) => match bytes.get(..fixed.len) {
            None => Header::Need(fixed.len),
            Some(header) => match read_whole(header, &fixed) {
                Ok(client) => Header::Whole { len: fixed.len, client },
                Err(fault) => Header::Invalid(fault),
            },
        },
    }
}

/// The header that says whom a proxy speaks for: what [`read`] understands.
pub fn write(client: &Proxied) -> Vec<u8> {
    let Proxied { source, destination, is_stream } = client;
    let transport = if *is_stream { 1 } else { 2 };
    let (family, ips) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (1, [&source.octets()[..], &destination.octets()].concat())
        }
        // Both in one form: of two families it is the wider one.
        (source, destination) => (2, [source, destination].map(|ip| ipv6_form(ip).octets()).concat()),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let len = (ips.len() + ports.len()) as u16;
    let fixed = [0x21, family << 4 | transport];
    [&SIGNATURE[..], &fixed, &len.to_be_bytes(), &ips, &ports].concat()
}

fn ipv6_form(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// What the fixed part says.
struct Fixed {
    is_local: bool,
    family: u8,
    transport: u8,
    len: usize,
}

fn read_fixed(bytes: &[u8]) -> Result<Fixed, Header> {
    let begins_as = |expected: &[u8]| bytes.iter().zip(expected).all(|(byte, expected)| byte == expected);
    if !begins_as(&SIGNATURE) {
        return Err(match begins_as(VERSION_1) {
            true if bytes.len() < VERSION_1.len() => Header::Need(VERSION_1.len()),
            true => Header::Invalid(HeaderFault::Version1),
            false => Header::Invalid(HeaderFault::Missing),
        });
    }
    // Version and command.
    let is_local = match bytes.get(SIGNATURE.len()) {
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Header::Invalid(HeaderFault::UnknownCommand)),
        None => return Err(Header::Need(FIXED_LEN)),
    };
    let Some(fixed) = bytes.first_chunk::<FIXED_LEN>() else { return Err(Header::Need(FIXED_LEN)) };
    let (family, transport) = (fixed[13] >> 4, fixed[13] & 0xF);
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    match len > MAX_HEADER {
        true => Err(Header::Invalid(HeaderFault::Length)),
        false => Ok(Fixed { is_local, family, transport, len }),
    }
}

fn read_whole(header: &[u8], fixed: &Fixed) -> Result<Option<Proxied>, HeaderFault> {
    let body = &header[FIXED_LEN..];
    // s. 2.2: whatever stands in a LOCAL header, or in one for an unspecified family, is skipped.
    if fixed.is_local || (fixed.family, fixed.transport) == (0, 0) {
        return Ok(None);
    }
    let (client, values) = match (fixed.family, fixed.transport) {
        (1, 1 | 2) => addresses::<4>(body).ok_or(HeaderFault::Length)?,
        (2, 1 | 2) => addresses::<16>(body).ok_or(HeaderFault::Length)?,
        _ => return Err(HeaderFault::UnsupportedFamily),
    };
    let [source, destination] = client;
    check_values(header, values)?;
    Ok(Some(Proxied { source, destination, is_stream: fixed.transport == 1 }))
}

/// Source and destination, both with their ports behind both addresses, and what follows.
fn addresses<const IP_LEN: usize>(body: &[u8]) -> Option<([SocketAddr; 2], &[u8])>
where
    IpAddr: From<[u8; IP_LEN]>,
{
    let (source, rest) = body.split_first_chunk::<IP_LEN>()?;
    let (destination, rest) = rest.split_first_chunk::<IP_LEN>()?;
    let (&[s0, s1, d0, d1], rest) = rest.split_first_chunk::<4>()?;
    // An IPv4 address in an IPv6 form is one client, whichever of its forms the proxy names.
    let address = |ip: [u8; IP_LEN], port| SocketAddr::new(IpAddr::from(ip).to_canonical(), port);
    let source = address(*source, u16::from_be_bytes([s0, s1]));
    Some(([source, address(*destination, u16::from_be_bytes([d0, d1]))], rest))
}

/// Walks over the additional values; of them, only the checksum means anything to us.
fn check_values(header: &[u8], mut values: &[u8]) -> Result<(), HeaderFault> {
    while !values.is_empty() {
        let &[kind, l0, l1] = values.first_chunk::<TLV_HEADER_LEN>().ok_or(HeaderFault::Malformed)?;
        let end = TLV_HEADER_LEN + usize::from(u16::from_be_bytes([l0, l1]));
        let value = values.get(TLV_HEADER_LEN..end).ok_or(HeaderFault::Malformed)?;
        if kind == TYPE_CRC32C {
            let stands_at = header.len() - values.len() + TLV_HEADER_LEN;
            check_checksum(header, stands_at, value)?;
        }
        values = &values[end..];
    }
    Ok(())
}

fn check_checksum(header: &[u8], stands_at: usize, value: &[u8]) -> Result<(), HeaderFault> {
    let expected = u32::from_be_bytes(value.try_into().map_err(|_| HeaderFault::Malformed)?);
    let mut digest = CRC32C.digest();
    digest.update(&header[..stands_at]);
    digest.update(&[0; 4]);
    digest.update(&header[stands_at + value.len()..]);
    match digest.finalize() == expected {
        true => Ok(()),
        false => Err(HeaderFault::Checksum),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOURCE: [u8; 4] = [203, 0, 113, 5];
    const DESTINATION: [u8; 4] = [192, 0, 2, 1];
    /// Ports 50000 and 443.
    const PORTS: [u8; 4] = [0xC3, 0x50, 0x01, 0xBB];

    fn header(version_command: u8, family_transport: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[version_command, family_transport], &length, body].concat()
    }

    fn over_tcp(values: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[&SOURCE[..], &DESTINATION, &PORTS, values].concat())
    }

    fn value(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
    }

    /// The same with the right checksum in its last four bytes.
    fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
        let at = header.len() - 4;
        let checksum = CRC32C.checksum(&header);
        header[at..].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn client(source: &str, destination: &str, is_stream: bool) -> Option<Proxied> {
        let address = |text: &str| text.parse().expect("an address");
        Some(Proxied { source: address(source), destination: address(destination), is_stream })
    }

    #[test]
    fn the_addresses_of_both_families_and_transports_are_read() {
        let expected = |is_stream| client("203.0.113.5:50000", "192.0.2.1:443", is_stream);
        assert_eq!(read(&over_tcp(&[])), Header::Whole { len: 28, client: expected(true) });
        let over_udp = header(0x21, 0x12, &[&SOURCE[..], &DESTINATION, &PORTS].concat());
        assert_eq!(read(&over_udp), Header::Whole { len: 28, client: expected(false) });

        let ip = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
        let body = |source| [&ip(source)[..], &ip("2001:db8::1"), &PORTS].concat();
        for (family_transport, is_stream) in [(0x21, true), (0x22, false)] {
            let expected = client("[2001:db8:5::1]:50000", "[2001:db8::1]:443", is_stream);
            let bytes = header(0x21, family_transport, &body("2001:db8:5::1"));
            assert_eq!(read(&bytes), Header::Whole { len: 52, client: expected });
        }
        let mapped = client("203.0.113.5:50000", "[2001:db8::1]:443", true);
        let bytes = header(0x21, 0x21, &body("::ffff:203.0.113.5"));
        assert_eq!(read(&bytes), Header::Whole { len: 52, client: mapped });
    }

    #[test]
    fn what_is_written_is_read_again() {
        let addresses = ["203.0.113.5:50000", "192.0.2.1:443", "[2001:db8:5::1]:50000", "[2001:db8::1]:443"];
        for (source, destination) in [(0, 1), (2, 3), (0, 3), (2, 1)] {
            for is_stream in [true, false] {
                let client = client(addresses[source], addresses[destination], is_stream);
                let bytes = write(&client.expect("there is one"));
                assert_eq!(read(&bytes), Header::Whole { len: bytes.len(), client });
            }
        }
        let expected = over_tcp(&[]);
        assert_eq!(write(&client(addresses[0], addresses[1], true).expect("there is one")), expected);
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_says_nothing_about_a_client() {
        for body in [&[][..], &[0xFF; 7]] {
            for family_transport in [0x00, 0x11, 0x31, 0xFF] {
                let local = header(0x20, family_transport, body);
                assert_eq!(read(&local), Header::Whole { len: local.len(), client: None });
            }
            let unspecified = header(0x21, 0x00, body);
            assert_eq!(read(&unspecified), Header::Whole { len: unspecified.len(), client: None });
        }
    }

    #[test]
    fn what_follows_the_header_is_the_clients() {
        let bytes = [over_tcp(&value(0x02, b"turn.example.org")), b"\x00\x01".to_vec()].concat();
        assert!(matches!(read(&bytes), Header::Whole { len, client: Some(_) } if len == bytes.len() - 2));
    }

    #[test]
    fn additional_values_are_skipped_within_their_bounds() {
        let values = [value(0x01, b"stun.turn"), value(0x04, &[]), value(0xEA, &[1; 300])].concat();
        assert!(matches!(read(&over_tcp(&values)), Header::Whole { client: Some(_), .. }));
        for bad in [&[0x01][..], &[0x01, 0], &[0x01, 0, 2, 7], &[0x01, 0xFF, 0xFF, 7]] {
            let bytes = over_tcp(&[values.clone(), bad.to_vec()].concat());
            assert_eq!(read(&bytes), Header::Invalid(HeaderFault::Malformed));
        }
    }

    // CRC-32C of "123456789" is E3069283 (RFC 3720 and its catalogues)
    #[test]
    fn a_checksum_is_checked_where_there_is_one() {
        assert_eq!(CRC32C.checksum(b"123456789"), 0xE306_9283);
        let good = with_checksum(over_tcp(&value(TYPE_CRC32C, &[0; 4])));
        assert_eq!(
            read(&good),
            Header::Whole { len: good.len(), client: client("203.0.113.5:50000", "192.0.2.1:443", true) }
        );
        for at in FIXED_LEN..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            // Not where it would say that there is no checksum, or another length.
            if !(28..31).contains(&at) {
                assert_eq!(read(&bad), Header::Invalid(HeaderFault::Checksum), "byte {at}");
            }
        }
        let short = over_tcp(&value(TYPE_CRC32C, &[0; 3]));
        assert_eq!(read(&short), Header::Invalid(HeaderFault::Malformed));
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_reason() {
        let refused = |bytes: &[u8], fault| assert_eq!(read(bytes), Header::Invalid(fault));
        // STUN, ChannelData, TLS, HTTP.
        for bytes in [&[0, 1][..], &[0x40, 0], &[0x16, 3, 1], b"GET / HTTP/1.1"] {
            refused(bytes, HeaderFault::Missing);
        }
        refused(b"PROXY TCP4 203.0.113.5 192.0.2.1 50000 443\r\n", HeaderFault::Version1);
        let mut near = over_tcp(&[]);
        near[11] = b'\r';
        refused(&near, HeaderFault::Missing);
        for version_command in [0x11, 0x22, 0x2F, 0x31, 0x01] {
            refused(&header(version_command, 0x11, &[0; 12]), HeaderFault::UnknownCommand);
        }
        for family_transport in [0x31, 0x32, 0x10, 0x20, 0x01, 0x13, 0x41] {
            refused(&header(0x21, family_transport, &[0; 216]), HeaderFault::UnsupportedFamily);
        }
        refused(&header(0x21, 0x11, &[0; 11]), HeaderFault::Length);
        refused(&header(0x21, 0x21, &[0; 35]), HeaderFault::Length);
    }

    #[test]
    fn headers_of_both_versions_are_recognized_from_anybody() {
        assert!(is_header(&SIGNATURE) && is_header(b"\r") && is_header(b"\r\n\r\n"));
        assert!(is_header(b"PROXY UNKNOWN\r\n"));
        for bytes in [&b""[..], b"P", b"POST / HTTP/1.1", b"\r\r", &[0, 1], &[0x40, 0], &[0x16, 3, 1]] {
            assert!(!is_header(bytes), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_header_has_a_longest_length() {
        let longest = vec![0; MAX_HEADER - FIXED_LEN];
        assert!(matches!(read(&header(0x20, 0, &longest)), Header::Whole { len: MAX_HEADER, .. }));
        let longer = header(0x20, 0, &[longest, vec![0]].concat());
        // The length is enough to refuse it.
        assert_eq!(read(&longer[..FIXED_LEN]), Header::Invalid(HeaderFault::Length));
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_was_said(
            (at, with) in (0usize..60, any::<u8>()),
            rest in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = [with_checksum(over_tcp(&value(TYPE_CRC32C, &[0; 4]))), rest].concat();
            let at = at % bytes.len();
            bytes[at] = with;
            let whole = read(&bytes);
            for len in 0..bytes.len() {
                match read(&bytes[..len]) {
                    Header::Need(needed) => prop_assert!(needed > len && needed <= MAX_HEADER),
                    said => prop_assert_eq!(said, whole),
                }
            }
        }
    }
}
