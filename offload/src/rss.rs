//! Over what a network card spreads UDP on its receive queues (ethtool's `rx-flow-hash`).
#![allow(unsafe_code)]

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// `ETHTOOL_GRXFH` and flow types (linux/ethtool.h).
const ETHTOOL_GRXFH: u64 = 0x29;
const UDP_V4_FLOW: u64 = 0x02;
const UDP_V6_FLOW: u64 = 0x06;
/// `SIOCETHTOOL` (linux/sockios.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `RXH_L4_B_0_1` and `RXH_L4_B_2_3`: source and destination port.
const PORTS: u64 = 1 << 6 | 1 << 7;
/// `RXH_IP_SRC` and `RXH_IP_DST`.
const ADDRESSES: u64 = 1 << 4 | 1 << 5;
/// `struct ethtool_rxnfc` in words; the kernel reads and writes no more than that.
const WORDS: usize = 24;

/// What decides about the receive queue of a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RssHash {
    /// Addresses and ports: flows spread over all queues.
    AddressesAndPorts,
    /// Addresses alone: all clients behind one address share a queue, and a core.
    Addresses,
    /// Something else, or nothing.
    Other,
}

impl RssHash {
    /// In words, with what could be done about it.
    pub fn explain(self, device: &str) -> String {
        match self {
            RssHash::AddressesAndPorts => "spread by addresses and ports".to_owned(),
            RssHash::Addresses => format!(
                "spread by addresses alone, so clients behind one address share a core \
                 (`ethtool -N {device} rx-flow-hash udp4 sdfn`, udp6 likewise)"
            ),
            RssHash::Other => "not spread by addresses".to_owned(),
        }
    }

    fn of(fields: u64) -> RssHash {
        match (fields & ADDRESSES == ADDRESSES, fields & PORTS == PORTS) {
            (true, true) => RssHash::AddressesAndPorts,
            (true, false) => RssHash::Addresses,
            _ => RssHash::Other,
        }
    }

    /// The one that spreads less.
    fn worse(self, other: RssHash) -> RssHash {
        match (self, other) {
            (RssHash::Other, _) | (_, RssHash::Other) => RssHash::Other,
            (RssHash::Addresses, _) | (_, RssHash::Addresses) => RssHash::Addresses,
            _ => RssHash::AddressesAndPorts,
        }
    }
}

/// Asks the driver; `None` if it doesn't say. The worse of IPv4 and IPv6, where both are told.
pub fn udp_hash(device: &str) -> Option<RssHash> {
    let told = [UDP_V4_FLOW, UDP_V6_FLOW].into_iter().filter_map(|flow| fields(device, flow));
    told.map(RssHash::of).reduce(RssHash::worse)
}

fn fields(device: &str, flow: u64) -> Option<u64> {
    if device.len() >= libc::IFNAMSIZ || !cfg!(target_endian = "little") {
        return None;
    }
    // The request goes to a device by its name; any socket will do.
    let socket = UdpSocket::bind(("127.0.0.1", 0)).ok()?;
    // Command and flow type are the two halves of the first word, the answer is the second.
    let mut question = [0u64; WORDS];
    question[0] = ETHTOOL_GRXFH | flow << 32;
    // SAFETY: all zeros are a valid ifreq: bytes and a union of integers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = question.as_mut_ptr().cast();
    // SAFETY: the descriptor is open; `request` names a device by at most 15 bytes and a zero, and points to
    // a live local of the size of `struct ethtool_rxnfc`, which the kernel reads and writes.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    (done == 0).then_some(question[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_hash_are_told_apart() {
        assert_eq!(RssHash::of(ADDRESSES | PORTS), RssHash::AddressesAndPorts);
        assert_eq!(RssHash::of(ADDRESSES | 1 << 3), RssHash::Addresses);
        assert_eq!(RssHash::of(0), RssHash::Other);
        assert_eq!(RssHash::AddressesAndPorts.worse(RssHash::Addresses), RssHash::Addresses);
        assert!(RssHash::Addresses.explain("eth7").contains("ethtool -N eth7 rx-flow-hash udp4 sdfn"));
    }

    #[test]
    fn who_has_no_such_hash_says_nothing() {
        assert_eq!(udp_hash("lo"), None);
        assert_eq!(udp_hash("no-such-device0"), None);
        assert_eq!(udp_hash("a-name-that-no-interface-can-have"), None);
    }
}
