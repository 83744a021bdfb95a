//! What the kernel says that devices can do with XDP: generic netlink, family `netdev` (`linux/netdev.h`), since Linux
//! 6.3. Before that nobody knows until a frame is lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_REQUEST, NlasIterator};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use super::limits::{ANSWER_PATIENCE, NEWS_AT_ONCE};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME` (`linux/genetlink.h`).
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `CTRL_ATTR_MCAST_GROUPS`, and in each of them `CTRL_ATTR_MCAST_GRP_NAME` and `CTRL_ATTR_MCAST_GRP_ID`.
const GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;
/// The group that hears of devices (`NETDEV_MCGRP_MGMT`).
const MANAGEMENT: &[u8] = b"mgmt\0";
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES`.
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_NDO_XMIT`.
const BASIC: u64 = 1;
const TRANSMIT: u64 = 4;

/// `struct nlmsghdr`, and `struct genlmsghdr` behind it, bytes.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// It runs programs at all, and sends back what they say (`XDP_TX`).
    pub basic: bool,
    /// It transmits what is redirected to it.
    pub transmit: bool,
}

/// Who can be asked.
pub struct Netdev {
    socket: Socket,
    /// Where the kernel says that devices have come, gone, or can do something else.
    news: Socket,
    family: u16,
    sequence: u32,
}

impl Netdev {
    /// Finds the family, and begins to listen; it is an error if the kernel has none.
    pub fn open() -> io::Result<Netdev> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_PATIENCE))?;
        let mut news = Socket::new(NETLINK_GENERIC)?;
        news.bind_auto()?;
        news.set_non_blocking(true)?;
        let mut netdev = Netdev { socket, news, family: CONTROL, sequence: 0 };
        let answer = netdev.ask(GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
        let id = attribute(&answer, FAMILY_ID).and_then(|id| id.try_into().ok());
        netdev.family =
            id.map(u16::from_ne_bytes).ok_or_else(|| io::Error::other("a family without a number"))?;
        if let Some(group) = attribute(&answer, GROUPS).and_then(|groups| group_number(&groups, MANAGEMENT)) {
            netdev.news.add_membership(group)?;
        }
        Ok(netdev)
    }

    /// Whether any device has come, gone, or can do something else since this was asked last.
    pub fn take_news(&mut self) -> bool {
        let mut any = false;
        for _ in 0..NEWS_AT_ONCE {
            let mut message = Vec::with_capacity(4096);
            match self.news.recv(&mut message, 0) {
                Ok(_) => any = true,
                // Some were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => break,
            }
        }
        any
    }

    /// What an interface can do.
    pub fn features(&mut self, ifindex: u32) -> io::Result<Features> {
        let answer = self.ask(GET_DEVICE, IFINDEX, &ifindex.to_ne_bytes())?;
        let bits = attribute(&answer, XDP_FEATURES).and_then(|bits| bits.try_into().ok());
        let bits =
            bits.map(u64::from_ne_bytes).ok_or_else(|| io::Error::other("a device without features"))?;
        Ok(Features { basic: bits & BASIC != 0, transmit: bits & TRANSMIT != 0 })
    }

    /// Gives the message of that sequence number, or the error in it.
    fn ask(&mut self, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(self.family, self.sequence, command, kind, value), 0)?;
        loop {
            let mut answer = Vec::with_capacity(4096);
            self.socket.recv(&mut answer, 0)?;
            if u32_at(&answer, 8) == Some(self.sequence) {
                return outcome(answer);
            }
        }
    }
}

impl AsFd for Netdev {
    /// Readable when there is news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

fn request(family: u16, sequence: u32, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let length = HEADERS + 4 + value.len().next_multiple_of(4);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length, 0);
    bytes
}

fn outcome(answer: Vec<u8>) -> io::Result<Vec<u8>> {
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, u32_at(&answer, HEADER)) {
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error((code as i32).wrapping_neg())),
        (Some(_), Some(_)) => Ok(answer),
        _ => Err(io::Error::other("half a message")),
    }
}

/// The number of a multicast group, of those that a family has.
fn group_number(groups: &[u8], name: &[u8]) -> Option<u32> {
    let mut groups = NlasIterator::new(groups).map_while(Result::ok);
    groups.find_map(|group| {
        let is_it = nested(group.value(), GROUP_NAME).is_some_and(|found| found == name);
        let id = nested(group.value(), GROUP_ID).filter(|_| is_it)?;
        Some(u32::from_ne_bytes(id.try_into().ok()?))
    })
}

/// The value of an attribute. What can't be read is not there.
fn attribute(message: &[u8], kind: u16) -> Option<Vec<u8>> {
    nested(message.get(HEADERS..)?, kind)
}

fn nested(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let attributes = NlasIterator::new(attributes);
    let found = attributes.map_while(Result::ok).find(|attribute| attribute.kind() == kind)?;
    Some(found.value().to_vec())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_transmits_nothing_that_is_redirected_to_it() {
        match Netdev::open() {
            Ok(mut netdev) => {
                assert_eq!(netdev.features(1).unwrap(), Features { basic: false, transmit: false });
                assert!(netdev.features(0x7fff_0000).is_err(), "there is no such device");
            }
            // Before Linux 6.3.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
        }
    }

    #[test]
    fn what_is_cut_short_is_not_there() {
        let whole = request(7, 1, GET_DEVICE, IFINDEX, &5_u32.to_ne_bytes());
        assert_eq!(attribute(&whole, IFINDEX), Some(5_u32.to_ne_bytes().to_vec()));
        assert_eq!(attribute(&whole, XDP_FEATURES), None);
        for length in 0..whole.len() {
            assert_eq!(attribute(&whole[..length], IFINDEX), None);
            assert!(length >= HEADERS || outcome(whole[..length].to_vec()).is_err());
        }
    }
}
