//! The error queue of a socket: what ICMP said about something that it had sent (IP_RECVERR).

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use turnpike_proto::RelaySocket;

use super::cmsg::{self, Control, ERROR_CONTROL_BYTES, RawAddr};
use super::empty_header;
use crate::Event;
use crate::limits::ERRORS_PER_SOCKET;

/// Takes errors from a relay socket's queue and reports them, a bounded number. Whether that was all.
pub(crate) fn drain_errors(socket: &socket2::Socket, relay: RelaySocket, events: &mut Vec<Event>) -> bool {
    for _ in 0..ERRORS_PER_SOCKET {
        match receive_error(socket.as_fd()) {
            QueuedError::Empty => {
                // An error may stand without a queue entry (no memory for one), and would be reported
                // for ever. Asking takes it away; what it was, nobody can say.
                let _ = socket.take_error();
                return true;
            }
            QueuedError::Other => {}
            QueuedError::Icmp(error) => events.push(Event::Icmp {
                relay,
                peer: error.peer,
                icmp_type: error.icmp_type,
                icmp_code: error.icmp_code,
                data: error.data,
            }),
        }
    }
    false
}

/// An ICMP error (RFC 8656 s. 11.5).
#[derive(Debug, PartialEq, Eq)]
struct IcmpError {
    peer: SocketAddr,
    icmp_type: u8,
    icmp_code: u8,
    data: u32,
}

/// What was taken from an error queue.
enum QueuedError {
    /// Nothing: it is empty.
    Empty,
    /// An error that nobody is told about.
    Other,
    /// An ICMP error.
    Icmp(IcmpError),
}

/// Takes one error from a socket's error queue.
fn receive_error(socket: BorrowedFd<'_>) -> QueuedError {
    let mut name = RawAddr::EMPTY;
    let mut control = Control([0; ERROR_CONTROL_BYTES]);
    // The quoted payload is not wanted: with no room for it the kernel cuts it off.
    let mut message = empty_header().msg_hdr;
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = RawAddr::LEN;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = ERROR_CONTROL_BYTES as _;
    // SAFETY: the header's pointers lead to live locals of the lengths given, and it has no vectors.
    let result = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    if result < 0 {
        return QueuedError::Empty;
    }
    let (Some(peer), Some(control)) =
        (name.read(message.msg_namelen), control.0.get(..message.msg_controllen as usize))
    else {
        return QueuedError::Other;
    };
    cmsg::messages(control)
        .find_map(|message| icmp_error(peer, &message))
        .map_or(QueuedError::Other, QueuedError::Icmp)
}

/// RFC 8656 s. 11.5: ICMPv4 types 3 and 11 and ICMPv6 types 1, 2 and 3 are passed on, others are not.
fn icmp_error(peer: SocketAddr, message: &cmsg::ControlMessage<'_>) -> Option<IcmpError> {
    match (message.level, message.kind) {
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {}
        _ => return None,
    }
    let error: libc::sock_extended_err = cmsg::read_plain(message.data)?;
    // The MTU stands in "fragmentation needed" (RFC 1191 s. 4) and "packet too big" (RFC 4443 s. 3.2).
    let has_mtu = match (error.ee_origin, error.ee_type) {
        (libc::SO_EE_ORIGIN_ICMP, 3) => error.ee_code == 4,
        (libc::SO_EE_ORIGIN_ICMP, 11) => false,
        (libc::SO_EE_ORIGIN_ICMP6, 2) => true,
        (libc::SO_EE_ORIGIN_ICMP6, 1 | 3) => false,
        _ => return None,
    };
    let data = if has_mtu { error.ee_info } else { 0 };
    Some(IcmpError { peer, icmp_type: error.ee_type, icmp_code: error.ee_code, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(level: i32, kind: i32, origin: u8, icmp_type: u8, icmp_code: u8) -> Option<IcmpError> {
        // errno, origin, type, code, padding, info, data (linux/errqueue.h)
        let mut data = [0u8; 16];
        data[4..8].copy_from_slice(&[origin, icmp_type, icmp_code, 0]);
        data[8..12].copy_from_slice(&1400u32.to_ne_bytes());
        let peer = "192.0.2.1:9".parse().expect("a socket address");
        icmp_error(peer, &cmsg::ControlMessage { level, kind, data: &data })
    }

    // RFC 8656 s. 11.5
    #[test]
    fn only_the_icmp_types_of_the_rfc_are_passed_on() {
        let v4 = |icmp_type, code| classify(libc::IPPROTO_IP, libc::IP_RECVERR, 2, icmp_type, code);
        let v6 = |icmp_type, code| classify(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 3, icmp_type, code);
        let passed_v4: Vec<u8> = (0..=255).filter(|&icmp_type| v4(icmp_type, 0).is_some()).collect();
        let passed_v6: Vec<u8> = (0..=255).filter(|&icmp_type| v6(icmp_type, 0).is_some()).collect();
        assert_eq!(passed_v4, [3, 11]);
        assert_eq!(passed_v6, [1, 2, 3]);
    }

    #[test]
    fn the_mtu_is_given_for_too_big_errors_only() {
        let data = |level, kind, origin, icmp_type, code| {
            classify(level, kind, origin, icmp_type, code).map(|error| error.data)
        };
        assert_eq!(data(libc::IPPROTO_IP, libc::IP_RECVERR, 2, 3, 4), Some(1400));
        assert_eq!(data(libc::IPPROTO_IP, libc::IP_RECVERR, 2, 3, 3), Some(0));
        assert_eq!(data(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 3, 2, 0), Some(1400));
        assert_eq!(data(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 3, 1, 4), Some(0));
    }

    #[test]
    fn errors_of_other_origin_are_ignored() {
        for origin in [0, 1, 4, 5, 6] {
            assert_eq!(classify(libc::IPPROTO_IP, libc::IP_RECVERR, origin, 3, 3), None);
        }
        assert_eq!(classify(libc::IPPROTO_IP, libc::IP_TTL, 2, 3, 3), None, "not an error at all");
    }
}
