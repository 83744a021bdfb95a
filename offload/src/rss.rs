//! Over what a network card spreads UDP on its receive queues (ethtool's `rx-flow-hash`).

use super::ethtool;

/// Flow types (linux/ethtool.h).
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// `RXH_L4_B_0_1` and `RXH_L4_B_2_3`: source and destination port.
const PORTS: u64 = 1 << 6 | 1 << 7;
/// `RXH_IP_SRC` and `RXH_IP_DST`.
const ADDRESSES: u64 = 1 << 4 | 1 << 5;

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
    let told = [UDP_V4_FLOW, UDP_V6_FLOW].into_iter();
    told.filter_map(|flow| ethtool::rx_flow_hash(device, flow)).map(RssHash::of).reduce(RssHash::worse)
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
