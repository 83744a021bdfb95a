//! Questions to network drivers by ethtool's ioctl (`linux/ethtool.h`): what no netlink message of ours can ask.
#![allow(unsafe_code)]

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// `ETHTOOL_GFLAGS`, `ETHTOOL_GRXFH` and `ETHTOOL_GCHANNELS`.
const GET_FLAGS: u32 = 0x25;
const GET_RX_FLOW_HASH: u32 = 0x29;
const GET_CHANNELS: u32 = 0x3c;
/// `ETH_FLAG_RXVLAN` and `ETH_FLAG_LRO`.
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;
/// `SIOCETHTOOL` (linux/sockios.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// The largest structure asked with, `struct ethtool_rxnfc`, in words; the kernel reads and writes no more than that.
const WORDS: usize = 48;

/// A device's queues, and how many of each kind it could have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Queues that only receive.
    pub receive: u32,
    /// Queues that only transmit.
    pub transmit: u32,
    /// Queues that do both.
    pub combined: u32,
    /// The most that only receive.
    pub most_receive: u32,
    /// The most that only transmit.
    pub most_transmit: u32,
    /// The most that do both.
    pub most_combined: u32,
}

/// How many queues a device has; `None` if its driver doesn't say.
pub fn channels(device: &str) -> Option<Channels> {
    let answer = ask(device, &[GET_CHANNELS])?;
    Some(Channels {
        most_receive: answer[1],
        most_transmit: answer[2],
        most_combined: answer[4],
        receive: answer[5],
        transmit: answer[6],
        combined: answer[8],
    })
}

/// Whether a device merges packets before any program sees them (LRO); `None` if its driver doesn't say.
pub fn merges_packets(device: &str) -> Option<bool> {
    ask(device, &[GET_FLAGS]).map(|answer| answer[1] & FLAG_LRO != 0)
}

/// Whether a device takes VLAN tags off frames before any program sees them; `None` if its driver doesn't say.
pub fn takes_tags_off(device: &str) -> Option<bool> {
    ask(device, &[GET_FLAGS]).map(|answer| answer[1] & FLAG_RXVLAN != 0)
}

/// What decides about the receive queue of packets of a flow type, bits `RXH_*`.
pub fn rx_flow_hash(device: &str, flow_type: u32) -> Option<u64> {
    let answer = ask(device, &[GET_RX_FLOW_HASH, flow_type])?;
    let [low, high] = [answer[2], answer[3]].map(u64::from);
    cfg!(target_endian = "little").then_some(high << 32 | low)
}

/// The structure as the kernel gives it back; it begins with the words of the question, and is zero behind them.
fn ask(device: &str, words: &[u32]) -> Option<[u32; WORDS]> {
    if device.len() >= libc::IFNAMSIZ {
        return None;
    }
    // The request goes to a device by its name; any socket will do.
    let socket = UdpSocket::bind(("127.0.0.1", 0)).ok()?;
    let mut question = [0; WORDS];
    question[..words.len()].copy_from_slice(words);
    // SAFETY: all zeros are a valid ifreq: bytes and a union of integers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = question.as_mut_ptr().cast();
    // SAFETY: the descriptor is open; `request` names a device by at most 15 bytes and a zero, and points to
    // a live local that is as large as the largest structure of these commands, which the kernel reads and writes.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    (done == 0).then_some(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_such_device_says_nothing() {
        for device in ["no-such-device0", "a-name-that-no-interface-can-have"] {
            assert_eq!((channels(device), merges_packets(device)), (None, None));
            assert_eq!(rx_flow_hash(device, 2), None);
        }
        assert_eq!(merges_packets("lo"), Some(false));
        assert_eq!((takes_tags_off("lo"), takes_tags_off("no-such-device0")), (Some(false), None));
    }
}
