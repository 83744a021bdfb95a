//! Asks the kernel about links, routes and neighbours, and hears when they change (rtnetlink).
//!
//! The kernel answers within the system call, so nothing here waits; should an answer not come, the question fails
//! after a second, and those that follow it at once, for a while. It translates; what follows from
//! the answers is decided in `nexthop` and `choose`.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Instant;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BondPortState, BondXmitHashPolicy, InfoBond, InfoBondPort, InfoData, InfoKind, InfoMacVlan, InfoPortData,
    InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, VlanProtocol,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use socket2::SockRef;
use tracing::{debug, warn};

use super::limits::{ANSWER_BYTES, ANSWER_PATIENCE, NEWS_AT_ONCE, NEWS_BYTES, SILENCE};
use super::{ethtool, layers};

/// `RTNLGRP_*` (`linux/rtnetlink.h`): links, neighbours, addresses, routes and rules of both families, next hops.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];
/// Of these, links, addresses and routes.
const ADDRESS_GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// A MAC address.
pub type Mac = [u8; 6];

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index.
    pub ifindex: u32,
    /// The interface's name.
    pub name: String,
    /// Its MAC address; zeros if it has none of six bytes.
    pub mac: Mac,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// `ARPHRD_*`: what its frames look like.
    pub kind: u16,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// What software makes it (`veth`, `bridge`, `vlan`); `None` for hardware.
    pub software: Option<String>,
    /// Index of the bridge, bond or other interface that it is a port of; 0 for none.
    pub master: u32,
    /// Index of the interface that it is on top of; 0 for none, or none of this network namespace.
    pub below: u32,
    /// What it makes of that interface, or of its ports.
    pub layer: Layer,
    /// It is a port of a bond that takes nothing now: another one is active.
    pub is_backup: bool,
    /// Its hardware takes VLAN tags off. Only asked where VLANs are.
    pub takes_tags_off: bool,
    /// How many receive queues there are.
    pub receive_queues: u32,
    /// The kernel's number of the XDP program on it; 0 for none.
    pub xdp_program: u32,
}

/// What an interface makes of those below it, as far as that decides about its frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layer {
    /// Nothing: it is a device, or something that is not told apart.
    #[default]
    None,
    /// A VLAN.
    Vlan {
        /// Its number.
        number: u16,
        /// Its tags are a provider's (802.1ad).
        is_provider: bool,
        /// What is sent gets priorities by a table (`egress-qos-map`).
        has_priorities: bool,
    },
    /// Another MAC address, in this mode.
    Macvlan(String),
    /// Several ports in one, in this mode.
    Bond {
        /// Its name, as `ip` takes it.
        mode: String,
        /// Ports are chosen by VLAN and source MAC address.
        is_by_vlan: bool,
    },
}

/// Where packets to a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The interface they leave by.
    pub ifindex: u32,
    /// Who takes them: a router, or the destination itself.
    pub neighbour: IpAddr,
    /// Largest packet that the route allows, bytes; 0 where it says nothing.
    pub mtu: u32,
}

/// What the kernel says has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface or an address.
    Links,
    /// A route or a rule.
    Routes,
    /// A neighbour has this MAC address now, or none that is known.
    Neighbour(u32, IpAddr, Option<Mac>),
    /// Changes came faster than they were read: anything may be different.
    Lost,
}

/// The kernel's routing, over two sockets: one to ask, one to listen.
pub struct Netlink {
    requests: Socket,
    events: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// An answer did not come: nothing is asked before this.
    silent_until: Option<Instant>,
}

impl Netlink {
    /// Opens the sockets and begins to listen.
    pub fn open() -> io::Result<Netlink> {
        Self::open_groups(&GROUPS)
    }

    /// The same for whoever wants to hear of addresses and routes only: neighbours are many.
    pub fn open_for_addresses() -> io::Result<Netlink> {
        Self::open_groups(&ADDRESS_GROUPS)
    }

    fn open_groups(groups: &[u32]) -> io::Result<Netlink> {
        let mut requests = Socket::new(NETLINK_ROUTE)?;
        requests.bind_auto()?;
        requests.connect(&NetlinkAddress::new(0, 0))?;
        SockRef::from(&requests).set_read_timeout(Some(ANSWER_PATIENCE))?;
        let mut events = Socket::new(NETLINK_ROUTE)?;
        events.bind_auto()?;
        events.set_non_blocking(true)?;
        events.set_rx_buf_sz(NEWS_BYTES as libc::c_int)?;
        for &group in groups {
            if let Err(error) = events.add_membership(group) {
                debug!(group, %error, "no news of this kind");
            }
        }
        Ok(Netlink {
            requests,
            events,
            sequence: 0,
            buffer: Vec::with_capacity(ANSWER_BYTES),
            silent_until: None,
        })
    }

    /// Every interface of this network namespace.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.push(read_link(&link));
            }
        })?;
        layers::ask_for_tags(&mut links, ethtool::takes_tags_off);
        Ok(links)
    }

    /// Every address of this network namespace, and the index of its interface.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let mut found = Vec::new();
        self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |message| {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                found.extend(read_address(&address));
            }
        })?;
        Ok(found)
    }

    /// Every neighbour whose MAC address is known.
    pub fn neighbours(&mut self) -> io::Result<Vec<(u32, IpAddr, Mac)>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            self.ask(RouteNetlinkMessage::GetNeighbour(request), NLM_F_DUMP, |message| {
                if let RouteNetlinkMessage::NewNeighbour(neighbour) = message
                    && let Some((ifindex, ip, Some(mac))) = read_neighbour(&neighbour)
                {
                    found.push((ifindex, ip, mac));
                }
            })?;
        }
        Ok(found)
    }

    /// Where a packet from `source`, an address of ours, to `destination` goes; `None` if nowhere, or
    /// if it stays on this host, or would have to be wrapped in another protocol.
    ///
    /// # Errors
    /// If the kernel can't be asked.
    pub fn way(&mut self, source: IpAddr, destination: IpAddr) -> io::Result<Option<Way>> {
        let mut request = RouteMessage::default();
        let bits = if destination.is_ipv4() { 32 } else { 128 };
        request.header.address_family = family(destination);
        request.header.destination_prefix_length = bits;
        request.header.source_prefix_length = bits;
        request.attributes =
            vec![RouteAttribute::Destination(destination.into()), RouteAttribute::Source(source.into())];
        let mut way = None;
        let asked = self.ask(RouteNetlinkMessage::GetRoute(request), 0, |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                way = read_way(&route, destination);
            }
        });
        match asked {
            // "Unreachable" is an answer.
            Err(error) if error.raw_os_error().is_some_and(|code| code != libc::ENOBUFS) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(way),
        }
    }

    /// Makes the kernel find out, or confirm, a neighbour's MAC address, as if it had a packet for it.
    /// It sees none of those that are forwarded below it, and would forget the neighbour.
    pub fn probe(&mut self, ifindex: u32, neighbour: IpAddr) -> io::Result<()> {
        let mut request = NeighbourMessage::default();
        request.header.family = family(neighbour);
        request.header.ifindex = ifindex;
        request.header.state = NeighbourState::None;
        request.header.flags = NeighbourFlags::Use;
        request.attributes = vec![NeighbourAttribute::Destination(match neighbour {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        })];
        self.ask(RouteNetlinkMessage::NewNeighbour(request), NLM_F_CREATE | NLM_F_ACK, |_| {})
    }

    /// What has changed since it was last asked; a part of it, if it is much.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for _ in 0..NEWS_AT_ONCE {
            self.buffer.clear();
            match self.events.recv(&mut self.buffer, 0) {
                Ok(_) => {
                    let before = changes.len();
                    let parsed = each_message(&self.buffer, |message| {
                        changes.extend(change(message.payload));
                        Ok(true)
                    });
                    if parsed.is_err() {
                        changes.push(Change::Lost);
                    } else if changes.len() == before {
                        // Something that the library can't read, next hop objects for instance.
                        changes.push(Change::Routes);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changes.push(Change::Lost),
                Err(_) => break,
            }
        }
        changes
    }

    /// Sends a request and hands out the parts of its answer.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        part: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        if self.silent_until.is_some_and(|until| Instant::now() < until) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel has not answered before"));
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        self.buffer.clear();
        self.buffer.resize(message.buffer_len(), 0);
        message.serialize(&mut self.buffer);
        self.requests.send(&self.buffer, 0)?;
        self.hear(flags & NLM_F_DUMP == NLM_F_DUMP, part)
    }

    /// Hears the answer to the last question. Those of several parts end with one that says so; the others are one
    /// message.
    fn hear(&mut self, is_dump: bool, mut part: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        let sequence = self.sequence;
        let mut more = true;
        while more {
            self.buffer.clear();
            match self.requests.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(self.give_up()),
                received => received?,
            };
            more = each_message(&self.buffer, |message| {
                if message.header.sequence_number != sequence {
                    return Ok(true);
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        part(inner);
                        Ok(is_dump)
                    }
                    // An error of number 0 is an acknowledgement.
                    NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => Ok(false),
                    _ => Ok(true),
                }
            })?;
        }
        Ok(())
    }
}

impl Netlink {
    /// The answer does not come. Whoever looks up a thousand paths must not wait for each.
    #[cold]
    fn give_up(&mut self) -> io::Error {
        warn!("the kernel does not answer questions about its routing; asking again in {SILENCE:?}");
        self.silent_until = Some(Instant::now() + SILENCE);
        io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer")
    }
}

impl AsFd for Netlink {
    /// The socket that becomes readable when something has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// Takes what the kernel sent apart; `Ok(false)` as soon as `handle` says that it was the last.
///
/// Messages that the library can't read are left out: a newer kernel may say things it doesn't know.
fn each_message(
    mut bytes: &[u8],
    mut handle: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> io::Result<bool>,
) -> io::Result<bool> {
    while !bytes.is_empty() {
        let length = NetlinkBuffer::new_checked(bytes).map_err(io::Error::other)?.length() as usize;
        match NetlinkMessage::deserialize(&bytes[..length]) {
            Ok(message) => {
                if !handle(message)? {
                    return Ok(false);
                }
            }
            Err(error) => debug!(%error, "a netlink message that can't be read"),
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(true)
}

fn change(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    match message {
        RouteNetlinkMessage::NewLink(_)
        | RouteNetlinkMessage::DelLink(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_) => Some(Change::Links),
        RouteNetlinkMessage::NewNeighbour(message) => {
            let (ifindex, ip, mac) = read_neighbour(&message)?;
            Some(Change::Neighbour(ifindex, ip, mac))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            let (ifindex, ip, _) = read_neighbour(&message)?;
            Some(Change::Neighbour(ifindex, ip, None))
        }
        _ => Some(Change::Routes),
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        kind: message.header.link_layer_type.into(),
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    let mut is_elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = *master,
            LinkAttribute::Link(below) => link.below = *below,
            LinkAttribute::NumRxQueues(queues) => link.receive_queues = *queues,
            LinkAttribute::Xdp(parts) => link.xdp_program = parts.iter().find_map(xdp_program).unwrap_or(0),
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                link.software = infos.iter().find_map(software);
                link.layer = infos.iter().find_map(layer).unwrap_or_default();
                link.is_backup = infos.iter().any(is_backup);
            }
            _ => {}
        }
    }
    if is_elsewhere {
        // The index is that of another namespace.
        link.below = 0;
    }
    link
}

fn layer(info: &LinkInfo) -> Option<Layer> {
    match info {
        LinkInfo::Data(InfoData::Vlan(parts)) => {
            let number = parts.iter().find_map(|part| match part {
                InfoVlan::Id(number) => Some(*number),
                _ => None,
            })?;
            let is_plain = |part: &InfoVlan| matches!(part, InfoVlan::Protocol(VlanProtocol::Ieee8021Q));
            let has_map = |part: &InfoVlan| matches!(part, InfoVlan::EgressQos(map) if !map.is_empty());
            let is_provider = !parts.iter().any(is_plain);
            Some(Layer::Vlan { number, is_provider, has_priorities: parts.iter().any(has_map) })
        }
        LinkInfo::Data(InfoData::MacVlan(parts)) => parts.iter().find_map(|part| match part {
            InfoMacVlan::Mode(mode) => Some(Layer::Macvlan(mode.to_string())),
            _ => None,
        }),
        LinkInfo::Data(InfoData::Bond(parts)) => {
            let mode = parts.iter().find_map(|part| match part {
                InfoBond::Mode(mode) => Some(mode.to_string()),
                _ => None,
            })?;
            let by_vlan = InfoBond::XmitHashPolicy(BondXmitHashPolicy::VlanSrcMac);
            Some(Layer::Bond { mode, is_by_vlan: parts.contains(&by_vlan) })
        }
        _ => None,
    }
}

fn is_backup(info: &LinkInfo) -> bool {
    let backup = InfoBondPort::BondPortState(BondPortState::Backup);
    matches!(info, LinkInfo::PortData(InfoPortData::BondPort(parts)) if parts.contains(&backup))
}

/// With several programs on an interface only one of each mode is named.
fn xdp_program(part: &LinkXdp) -> Option<u32> {
    match part {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    }
}

fn software(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// Of two ends of a point-to-point interface the own one.
fn read_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    };
    let attributes = || message.attributes.iter();
    let ip = attributes().find_map(own).or_else(|| attributes().find_map(any))?;
    Some((message.header.index, ip))
}

/// Interface, address, and the MAC address if it may be used.
fn read_neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Option<Mac>)> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    // While it is probed, the address is still used.
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    Some((message.header.ifindex, ip?, mac.filter(|_| usable)))
}

fn read_way(message: &RouteMessage, destination: IpAddr) -> Option<Way> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut way = Way { ifindex: 0, neighbour: destination, mtu: 0 };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => way.ifindex = *ifindex,
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => way.neighbour = (*v4).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => way.neighbour = (*v6).into(),
            RouteAttribute::Via(RouteVia::Inet(v4)) => way.neighbour = (*v4).into(),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => way.neighbour = (*v6).into(),
            RouteAttribute::Metrics(metrics) => {
                let mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                way.mtu = mtu.unwrap_or(0);
            }
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    (way.ifindex != 0).then_some(way)
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("events", &self.events.as_raw_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_leads_nowhere() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        let loopback = links.iter().find(|link| link.is_loopback).expect("every namespace has it");
        assert_eq!((loopback.name.as_str(), loopback.ifindex), ("lo", 1));
        netlink.neighbours().unwrap();
        assert!(netlink.addresses().unwrap().contains(&(1, IpAddr::from([127, 0, 0, 1]))));
        let own = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(netlink.way(own, own).unwrap(), None, "it stays on this host");
        let nobody = IpAddr::from([255, 255, 255, 255]);
        assert_eq!(netlink.way(nobody, nobody).unwrap(), None, "no source of ours: the kernel refuses");
    }

    #[test]
    fn a_question_without_an_answer_fails_and_so_do_the_next_ones_at_once() {
        let mut netlink = Netlink::open().unwrap();
        // Nothing was asked.
        assert_eq!(netlink.hear(false, |_| {}).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let own = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(netlink.way(own, own).unwrap_err().kind(), io::ErrorKind::TimedOut, "it isn't asked");
        assert_eq!(netlink.addresses().unwrap_err().kind(), io::ErrorKind::TimedOut);
        netlink.silent_until = Some(Instant::now());
        assert_eq!(netlink.way(own, own).unwrap(), None, "it is again");
    }

    #[test]
    fn vlans_macvlans_and_bonds_are_told_apart() {
        use netlink_packet_route::link::{BondMode, InfoPortKind, MacVlanMode, VlanQosMapping};
        let link = |infos: Vec<LinkInfo>| {
            let mut message = LinkMessage::default();
            message.attributes = vec![LinkAttribute::Link(7), LinkAttribute::LinkInfo(infos)];
            read_link(&message)
        };
        let vlan = |protocol, map| {
            let parts = vec![InfoVlan::Id(5), InfoVlan::Protocol(protocol), InfoVlan::EgressQos(map)];
            link(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(parts))])
        };
        let is = |is_provider, has_priorities| Layer::Vlan { number: 5, is_provider, has_priorities };
        let plain = vlan(VlanProtocol::Ieee8021Q, vec![]);
        assert_eq!(
            (plain.layer, plain.below, plain.software.as_deref()),
            (is(false, false), 7, Some("vlan"))
        );
        assert_eq!(vlan(VlanProtocol::Ieee8021Ad, vec![]).layer, is(true, false));
        let map = vec![VlanQosMapping::Mapping(3, 5)];
        assert_eq!(vlan(VlanProtocol::Ieee8021Q, map).layer, is(false, true));
        let macvlan = vec![InfoMacVlan::Mode(MacVlanMode::Bridge)];
        let macvlan = link(vec![LinkInfo::Data(InfoData::MacVlan(macvlan))]);
        assert_eq!(macvlan.layer, Layer::Macvlan("bridge".to_owned()));
        let bond = |policy| {
            let parts = vec![InfoBond::Mode(BondMode::Ieee8023Ad), InfoBond::XmitHashPolicy(policy)];
            link(vec![LinkInfo::Data(InfoData::Bond(parts))]).layer
        };
        let is = |is_by_vlan| Layer::Bond { mode: "802.3ad".to_owned(), is_by_vlan };
        assert_eq!(bond(BondXmitHashPolicy::Layer34), is(false));
        assert_eq!(bond(BondXmitHashPolicy::VlanSrcMac), is(true));
        for (state, is_backup) in [(BondPortState::Active, false), (BondPortState::Backup, true)] {
            let data = InfoPortData::BondPort(vec![InfoBondPort::BondPortState(state)]);
            let port = link(vec![LinkInfo::PortKind(InfoPortKind::Bond), LinkInfo::PortData(data)]);
            assert_eq!(port.is_backup, is_backup);
        }
        // A container's end of a pair names an index of the host's.
        let mut elsewhere = LinkMessage::default();
        elsewhere.attributes = vec![LinkAttribute::Link(7), LinkAttribute::LinkNetNsId(0)];
        assert_eq!(read_link(&elsewhere).below, 0);
    }

    #[test]
    fn half_a_message_is_an_error_and_not_a_panic() {
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        assert!(each_message(&bytes, |_| Ok(true)).unwrap());
        assert!(!each_message(&bytes, |_| Ok(false)).unwrap());
        for length in 1..bytes.len() {
            each_message(&bytes[..length], |_| Ok(true)).unwrap_err();
        }
    }

    #[test]
    fn neighbours_count_only_while_their_address_is_valid() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 7;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        let ip = IpAddr::from([192, 0, 2, 1]);
        for (state, usable) in [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Probe, true),
            (NeighbourState::Permanent, true),
            (NeighbourState::Incomplete, false),
            (NeighbourState::Failed, false),
            (NeighbourState::None, false),
        ] {
            message.header.state = state;
            let mac = usable.then_some([2, 0, 0, 0, 0, 1]);
            assert_eq!(read_neighbour(&message), Some((7, ip, mac)), "{state:?}");
        }
    }

    #[test]
    fn a_way_has_its_router_and_its_mtu() {
        let destination = IpAddr::from([198, 51, 100, 9]);
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(3)];
        let direct = Way { ifindex: 3, neighbour: destination, mtu: 0 };
        assert_eq!(read_way(&message, destination), Some(direct));
        let router: IpAddr = "fe80::1".parse().unwrap();
        message.attributes.push(RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())));
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
        assert_eq!(read_way(&message, destination), Some(Way { ifindex: 3, neighbour: router, mtu: 1400 }));
        message.header.kind = RouteType::Local;
        assert_eq!(read_way(&message, destination), None);
    }
}
