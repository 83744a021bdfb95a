//! Socket addresses and control messages in the kernel's layout.

use std::ffi::c_int;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of a control buffer that holds what we ask for or set on a datagram, each with its header:
/// a TOS, a PKTINFO of either family, a segment size, a count of drops, and a time.
pub(crate) const CONTROL_BYTES: usize = 160;

/// Bytes of a control buffer for the error queue: the error, the sender of the ICMP message,
/// and what the socket asked for on top.
pub(crate) const ERROR_CONTROL_BYTES: usize = 256;

/// Space for control messages, aligned as their headers need it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control<const N: usize>(pub [u8; N]);

/// Room for a socket address of either family.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union RawAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddr {
    /// No address: family 0.
    pub(crate) const EMPTY: RawAddr = RawAddr {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// From what the kernel wrote elsewhere; bytes beyond the longest address don't count.
    pub(crate) fn from_bytes(bytes: &[u8]) -> RawAddr {
        let mut raw = RawAddr::EMPTY;
        let len = bytes.len().min(size_of::<RawAddr>());
        // SAFETY: both are at least `len` bytes long and don't overlap; any bytes are a valid address.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut raw).cast(), len) };
        raw
    }

    /// Bytes that the kernel may write.
    pub(crate) const LEN: libc::socklen_t = size_of::<RawAddr>() as libc::socklen_t;

    /// Stores an address; returns the length for `msg_namelen`.
    pub(crate) fn set(&mut self, address: SocketAddr) -> libc::socklen_t {
        match address {
            SocketAddr::V4(address) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(address) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    // Without its zone a link-local address (RFC 4007 s. 6) leads nowhere.
                    sin6_scope_id: address.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    /// The address that the kernel wrote, if `len` covers one of a family we know.
    pub(crate) fn read(&self, len: libc::socklen_t) -> Option<SocketAddr> {
        // SAFETY: EMPTY initialises every byte, any bytes are valid integers, and the family
        // has the same place in both variants.
        let family = c_int::from(unsafe { self.v4.sin_family });
        if family == libc::AF_INET && len as usize >= size_of::<libc::sockaddr_in>() {
            // SAFETY: all bytes are initialised integers (see above).
            let raw = unsafe { self.v4 };
            let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
            return Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into());
        }
        if family == libc::AF_INET6 && len as usize >= size_of::<libc::sockaddr_in6>() {
            // SAFETY: all bytes are initialised integers (see above).
            let raw = unsafe { self.v6 };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            return Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into());
        }
        None
    }
}

/// Plain kernel structures: any bytes are a valid value.
///
/// # Safety
/// Implement it only for types made of integers alone.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers alone.
unsafe impl Plain for u16 {}
// SAFETY: integers alone.
unsafe impl Plain for u32 {}
// SAFETY: integers alone.
unsafe impl Plain for c_int {}
// SAFETY: integers alone.
unsafe impl Plain for [libc::c_long; 2] {}
// SAFETY: integers alone.
unsafe impl Plain for libc::in_pktinfo {}
// SAFETY: integers alone.
unsafe impl Plain for libc::in6_pktinfo {}
// SAFETY: integers alone.
unsafe impl Plain for libc::sock_extended_err {}
// SAFETY: integers alone.
unsafe impl Plain for libc::cmsghdr {}

/// Reads a structure from the start of `bytes`, however they are aligned; `None` if they are too few.
pub(crate) fn read_plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: the slice has as many bytes as T, and T is valid whatever they are.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Bytes from the start of a control message to its data.
const fn data_offset() -> usize {
    // SAFETY: plain arithmetic.
    unsafe { libc::CMSG_LEN(0) as usize }
}

/// Bytes that a control message with that much data takes, with padding.
const fn space(data: usize) -> usize {
    // SAFETY: plain arithmetic.
    unsafe { libc::CMSG_SPACE(data as u32) as usize }
}

/// One control message.
pub(crate) struct ControlMessage<'a> {
    pub(crate) level: c_int,
    pub(crate) kind: c_int,
    pub(crate) data: &'a [u8],
}

/// The control messages that the kernel wrote into `bytes`.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header: libc::cmsghdr = read_plain(rest)?;
        let len = header.cmsg_len as usize;
        let data = rest.get(data_offset()..len)?;
        rest = rest.get(space(data.len())..).unwrap_or_default();
        Some(ControlMessage { level: header.cmsg_level, kind: header.cmsg_type, data })
    })
}

/// Writes control messages one after the other.
pub(crate) struct ControlWriter<'a> {
    space: &'a mut [u8],
    used: usize,
}

impl<'a> ControlWriter<'a> {
    pub(crate) fn new(control: &'a mut Control<CONTROL_BYTES>) -> Self {
        ControlWriter { space: &mut control.0, used: 0 }
    }

    /// Bytes written: the value for `msg_controllen`.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// The TOS or traffic class, with its ECN bits.
    pub(crate) fn tos(&mut self, ipv6: bool, tos: u8) {
        let (level, kind) = match ipv6 {
            false => (libc::IPPROTO_IP, libc::IP_TOS),
            true => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        self.push(level, kind, c_int::from(tos));
    }

    /// The address to send from.
    pub(crate) fn source(&mut self, source: SocketAddr) {
        match source {
            SocketAddr::V4(source) => {
                let address = libc::in_addr { s_addr: u32::from(*source.ip()).to_be() };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: address,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            SocketAddr::V6(source) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.ip().octets() },
                    // The zone of a link-local source; 0 leaves the interface to routing.
                    ipi6_ifindex: source.scope_id(),
                };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    /// Cut what is sent into datagrams of this size (UDP_SEGMENT).
    pub(crate) fn segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, bytes);
    }

    fn push<T: Plain>(&mut self, level: c_int, kind: c_int, value: T) {
        let total = space(size_of::<T>());
        let place = &mut self.space[self.used..self.used + total];
        place.fill(0);
        // SAFETY: all-zero bytes are a valid cmsghdr, which holds integers alone.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = (data_offset() + size_of::<T>()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        // SAFETY: `place` has CMSG_SPACE(size of T) bytes: the header at its start, T at the
        // data offset; both are written without assuming alignment.
        unsafe {
            place.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(header);
            place.as_mut_ptr().add(data_offset()).cast::<T>().write_unaligned(value);
        }
        self.used += total;
    }
}

/// An address with no port that PKTINFO carried.
pub(crate) fn pktinfo_address(message: &ControlMessage<'_>, port: u16) -> Option<SocketAddr> {
    match (message.level, message.kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let info: libc::in_pktinfo = read_plain(message.data)?;
            let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
            Some(SocketAddrV4::new(ip, port).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let info: libc::in6_pktinfo = read_plain(message.data)?;
            let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let zone = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
            Some(SocketAddrV6::new(ip, port, 0, zone).into())
        }
        _ => None,
    }
}

/// The TOS or traffic class that a control message carried.
pub(crate) fn tos(message: &ControlMessage<'_>) -> Option<u8> {
    match (message.level, message.kind) {
        (libc::IPPROTO_IP, libc::IP_TOS) => message.data.first().copied(),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => read_plain::<c_int>(message.data).map(|class| class as u8),
        _ => None,
    }
}

/// The size of the datagrams that the kernel has merged (UDP_GRO).
pub(crate) fn segment_bytes(message: &ControlMessage<'_>) -> Option<u32> {
    match (message.level, message.kind) {
        (libc::SOL_UDP, libc::UDP_GRO) => {
            read_plain::<c_int>(message.data).and_then(|bytes| u32::try_from(bytes).ok())
        }
        _ => None,
    }
}

/// Datagrams that the socket has lost so far because its buffer was full (SO_RXQ_OVFL); it wraps.
pub(crate) fn overflow(message: &ControlMessage<'_>) -> Option<u32> {
    match (message.level, message.kind) {
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => read_plain(message.data),
        _ => None,
    }
}

/// When the kernel took the datagram from the network (SO_TIMESTAMPNS), nanoseconds of the system's clock.
pub(crate) fn arrival_ns(message: &ControlMessage<'_>) -> Option<u64> {
    match (message.level, message.kind) {
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
            let [secs, nanos]: [libc::c_long; 2] = read_plain(message.data)?;
            Some(secs as u64 * 1_000_000_000 + nanos as u64)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_layout() {
        for text in ["192.0.2.7:3478", "[2001:db8::1]:65535", "[fe80::1%7]:1"] {
            let address: SocketAddr = text.parse().expect("a socket address");
            let mut raw = RawAddr::EMPTY;
            let len = raw.set(address);
            assert_eq!(raw.read(len), Some(address));
            assert_eq!(raw.read(len - 1), None, "a cut address is none");
        }
        assert_eq!(RawAddr::EMPTY.read(RawAddr::LEN), None);
    }

    #[test]
    fn what_is_written_is_read() {
        for (source, tos_byte) in [("192.0.2.7:9", 0xb9), ("[fe80::1%3]:9", 0x02), ("[2001:db8::1]:9", 0xff)]
        {
            let source: SocketAddr = source.parse().expect("a socket address");
            let mut control = Control([0xaa; CONTROL_BYTES]);
            let mut writer = ControlWriter::new(&mut control);
            writer.tos(source.is_ipv6(), tos_byte);
            writer.source(source);
            let used = writer.used();
            let written: Vec<_> = messages(&control.0[..used]).collect();
            assert_eq!(written.len(), 2);
            assert_eq!(tos(&written[0]), Some(tos_byte));
            if source.is_ipv6() {
                assert_eq!(pktinfo_address(&written[1], 9), Some(source));
            }
        }
    }

    #[test]
    fn everything_that_is_set_on_a_datagram_fits() {
        let mut control = Control([0; CONTROL_BYTES]);
        let mut writer = ControlWriter::new(&mut control);
        writer.tos(true, 0xb8);
        writer.source("[2001:db8::1]:9".parse().expect("a socket address"));
        writer.segment(1200);
        let used = writer.used();
        let last = messages(&control.0[..used]).last().expect("three were written");
        assert_eq!((last.level, last.kind, last.data), (17, 103, &1200u16.to_ne_bytes()[..]));
        let received = space(size_of::<u32>()) + space(size_of::<libc::timespec>());
        assert!(used + received <= CONTROL_BYTES, "and what is received with it");
    }

    #[test]
    fn counts_of_the_kernel_are_read() {
        let data = 1200u32.to_ne_bytes();
        let gro = ControlMessage { level: libc::SOL_UDP, kind: libc::UDP_GRO, data: &data };
        let drops = ControlMessage { level: libc::SOL_SOCKET, kind: libc::SO_RXQ_OVFL, data: &data };
        assert_eq!((segment_bytes(&gro), overflow(&gro)), (Some(1200), None));
        assert_eq!((segment_bytes(&drops), overflow(&drops)), (None, Some(1200)));
        let negative = (-1i32).to_ne_bytes();
        let gro = ControlMessage { data: &negative, ..gro };
        assert_eq!(segment_bytes(&gro), None);
    }

    #[test]
    fn broken_control_messages_end_the_list() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[0; 15]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0, "a length below the header's");
        assert_eq!(messages(&[0xff; 64]).count(), 0, "a length beyond the buffer");
    }
}
