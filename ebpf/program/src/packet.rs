//! Reads a frame: is it for us, is it sound, what is it looked up by?

use turnpike_abi::{Address, Config, Interface, MAX_INTERFACES, RouteKey, Verdict};

use crate::frame::{Frame, at};

const ETHER_IPV4: u16 = 0x0800_u16.to_be();
const ETHER_IPV6: u16 = 0x86dd_u16.to_be();
const ETHER_VLAN: u16 = 0x8100_u16.to_be();
const ETHER_QINQ: u16 = 0x88a8_u16.to_be();
/// The bits of a VLAN tag's control information that are the VLAN's number.
const VLAN_NUMBER: u16 = 0x0fff_u16.to_be();

const PROTOCOL_UDP: u8 = 17;
/// IPv6's own fragment header (RFC 8200 s. 4.5).
const HEADER_FRAGMENT: u8 = 44;
/// Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6 (RFC 7045 s. 4).
const HEADER_EXTENSIONS: [u8; 7] = [0, 43, 51, 60, 135, 139, 140];

/// First channel number (RFC 8656 s. 12).
const FIRST_CHANNEL: u16 = 0x4000;
/// A ChannelData message may be followed by this much padding (RFC 8656 s. 12.5).
const MAX_PADDING: u16 = 3;

/// A UDP datagram that was sent to one of our addresses and ports.
pub(crate) struct Packet {
    pub(crate) remote: Address,
    pub(crate) local: Address,
    /// As they lie in the UDP header.
    pub(crate) ports: u32,
    pub(crate) is_v6: bool,
    /// Size of the VLAN tag that it came in with, bytes; offsets in the frame don't count it.
    pub(crate) tag: usize,
    /// Offset of the UDP header.
    pub(crate) udp: usize,
    /// The UDP header's length field, native order.
    pub(crate) udp_length: u16,
    /// The UDP header's checksum field.
    pub(crate) checksum: u16,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// The bit of the interface it came in on.
    pub(crate) ingress: u16,
    /// Whether that interface sends back what came in on it.
    pub(crate) sends_back: bool,
    /// It is for a listener, else for a relayed address.
    from_client: bool,
}

/// What a datagram carries.
pub(crate) struct Data {
    /// Channel number in network order, or 0 for a peer's datagram.
    pub(crate) channel: u16,
    /// Bytes of payload.
    pub(crate) len: u16,
}

impl Packet {
    pub(crate) fn key(&self, channel: u16) -> RouteKey {
        RouteKey::from_wire(self.remote, self.local, self.ports, channel)
    }
}

/// Reads the headers; the error is why userspace shall look at the frame. Offsets don't count a VLAN tag from now on.
#[inline(always)]
pub(crate) fn read<F: Frame>(frame: &mut F, config: &Config) -> Result<Packet, Verdict> {
    if !frame.has(at::V4_UDP + at::UDP_SIZE) {
        return Err(Verdict::PassNotUdp);
    }
    let start = frame.u64_at(at::TO_MAC);
    let (mut vlan, mut tag) = (0, 0);
    if frame.u16_at(at::ETHER_TYPE) == ETHER_VLAN {
        // IEEE 802.1Q s. 9.6: number 0 is a priority alone, and the frame one without a VLAN.
        vlan = frame.u16_at(at::TAG_CONTROL) & VLAN_NUMBER;
        tag = at::TAG_SIZE;
        frame.skip(at::TAG_SIZE);
        if !frame.has(at::V4_UDP + at::UDP_SIZE) {
            return Err(Verdict::PassNotUdp);
        }
    }
    let key = Interface::key_from_wire(start, vlan);
    let mut packet = match frame.u16_at(at::ETHER_TYPE) {
        ETHER_IPV4 => read_v4(frame, config, key)?,
        ETHER_IPV6 => read_v6(frame, config, key)?,
        ETHER_VLAN | ETHER_QINQ => return Err(Verdict::PassVlan),
        _ => return Err(Verdict::PassNotUdp),
    };
    packet.tag = tag;
    if packet.udp_length < at::UDP_SIZE as u16 || !frame.has(packet.udp + packet.udp_length as usize) {
        return Err(Verdict::PassLength);
    }
    Ok(packet)
}

#[inline(always)]
fn read_v4<F: Frame>(frame: &F, config: &Config, key: u64) -> Result<Packet, Verdict> {
    if frame.u8_at(at::V4_PROTOCOL) != PROTOCOL_UDP {
        return Err(Verdict::PassNotUdp);
    }
    if frame.u8_at(at::V4_VERSION) != 0x45 {
        return Err(Verdict::PassIpOptions);
    }
    // More fragments, or not the first one; the DF bit says nothing here.
    if frame.u16_at(at::V4_FRAGMENT) & 0x3fff_u16.to_be() != 0 {
        return Err(Verdict::PassFragment);
    }
    let ports = frame.u32_at(at::V4_UDP);
    let from_client = is_our_port(config, ports)?;
    let source = frame.u32_at(at::V4_SOURCE);
    let local = Address::from_v4_word(frame.u32_at(at::V4_DESTINATION));
    let remote = Address::from_v4_word(source);
    let (ingress, sends_back) = check_interface(frame.ingress(), config, key)?;
    if is_bad_v4_source(source) {
        return Err(Verdict::PassSource);
    }
    if v4_header_sum(frame) != 0xffff {
        return Err(Verdict::PassHeaderChecksum);
    }
    let udp_length = u16::from_be(frame.u16_at(at::V4_UDP + 4));
    if u16::from_be(frame.u16_at(at::V4_LENGTH)) as u32 != udp_length as u32 + 20 {
        return Err(Verdict::PassLength);
    }
    Ok(Packet {
        remote,
        local,
        ports,
        is_v6: false,
        tag: 0,
        udp: at::V4_UDP,
        udp_length,
        checksum: frame.u16_at(at::V4_UDP + 6),
        tos: frame.u8_at(at::V4_VERSION + 1),
        ttl: frame.u8_at(at::V4_TTL),
        ingress,
        sends_back,
        from_client,
    })
}

#[inline(always)]
fn read_v6<F: Frame>(frame: &F, config: &Config, key: u64) -> Result<Packet, Verdict> {
    if !frame.has(at::V6_UDP + at::UDP_SIZE) {
        return Err(Verdict::PassNotUdp);
    }
    match frame.u8_at(at::V6_NEXT_HEADER) {
        PROTOCOL_UDP => {}
        HEADER_FRAGMENT => return Err(Verdict::PassFragment),
        header if HEADER_EXTENSIONS.contains(&header) => return Err(Verdict::PassIpOptions),
        _ => return Err(Verdict::PassNotUdp),
    }
    let version = u16::from_be(frame.u16_at(at::V6_VERSION));
    if version >> 12 != 6 {
        return Err(Verdict::PassNotUdp);
    }
    let ports = frame.u32_at(at::V6_UDP);
    let from_client = is_our_port(config, ports)?;
    let remote = Address::from_v6_words(frame.u64_at(at::V6_SOURCE), frame.u64_at(at::V6_SOURCE + 8));
    let local =
        Address::from_v6_words(frame.u64_at(at::V6_DESTINATION), frame.u64_at(at::V6_DESTINATION + 8));
    let (ingress, sends_back) = check_interface(frame.ingress(), config, key)?;
    if is_bad_v6_source(remote) {
        return Err(Verdict::PassSource);
    }
    let udp_length = u16::from_be(frame.u16_at(at::V6_UDP + 4));
    if u16::from_be(frame.u16_at(at::V6_LENGTH)) != udp_length {
        return Err(Verdict::PassLength);
    }
    Ok(Packet {
        remote,
        local,
        ports,
        is_v6: true,
        tag: 0,
        udp: at::V6_UDP,
        udp_length,
        checksum: frame.u16_at(at::V6_UDP + 6),
        tos: (version >> 4) as u8,
        ttl: frame.u8_at(at::V6_HOP_LIMIT),
        ingress,
        sends_back,
        from_client,
    })
}

/// What the datagram carries: ChannelData to a listener, anything to a relayed address.
#[inline(always)]
pub(crate) fn classify<F: Frame>(frame: &F, packet: &Packet, config: &Config) -> Result<Data, Verdict> {
    if !packet.from_client {
        return Ok(Data { channel: 0, len: packet.udp_length - at::UDP_SIZE as u16 });
    }
    let header = packet.udp + at::UDP_SIZE;
    let headers = (at::UDP_SIZE + at::CHANNEL_SIZE) as u16;
    if packet.udp_length < headers || !frame.has(header + at::CHANNEL_SIZE) {
        return Err(Verdict::PassNotChannel);
    }
    let channel = frame.u16_at(header);
    let number = u16::from_be(channel);
    if number < FIRST_CHANNEL || number > config.last_channel {
        return Err(Verdict::PassNotChannel);
    }
    let len = u16::from_be(frame.u16_at(header + 2));
    let carried = packet.udp_length - headers;
    if len > carried || carried - len > MAX_PADDING {
        return Err(Verdict::PassChannelLength);
    }
    // Zeros change no checksum, so they can stay behind as a trailer of the frame (RFC 8656 s. 12.5:
    // padding is allowed over UDP and is not relayed).
    let padding = carried - len;
    let end = header + at::CHANNEL_SIZE + len as usize;
    // No loop: the verifier can't tell how often it would run.
    let is_zero = |i: u16| i >= padding || frame.byte(end + i as usize) == Some(0);
    if !(is_zero(0) && is_zero(1) && is_zero(2)) {
        return Err(Verdict::PassPadding);
    }
    Ok(Data { channel, len })
}

/// Whether a datagram is for a listener of ours, and no message that one takes: STUN begins with 0 to 3 and ChannelData
/// with 64 to 127 (RFC 7983 s. 7); 13 is a header of the PROXY protocol, which userspace knows more about.
#[inline(always)]
pub(crate) fn is_garbage<F: Frame>(frame: &F, packet: &Packet, config: &Config) -> bool {
    if !packet.from_client || packet.udp_length <= at::UDP_SIZE as u16 {
        return false;
    }
    if !matches!(frame.byte(packet.udp + at::UDP_SIZE), Some(4..=12 | 14..=63 | 128..=255)) {
        return false;
    }
    let port = port_of(packet.ports) as u64;
    let mut i = 0;
    while i < config.shielded.len() {
        let listener = &config.shielded[i];
        if listener.port == 0 {
            return false;
        }
        if listener.port == port && listener.address == packet.local {
            return true;
        }
        i += 1;
    }
    false
}

/// The destination port, of both as they lie in the UDP header; native order.
#[inline(always)]
fn port_of(ports: u32) -> u16 {
    let [_, _, high, low] = ports.to_ne_bytes();
    u16::from_be_bytes([high, low])
}

/// Whether a datagram for one of our ports is for a listener; the error is that the port is not ours.
#[inline(always)]
fn is_our_port(config: &Config, ports: u32) -> Result<bool, Verdict> {
    let port = port_of(ports);
    let mut i = 0;
    while i < config.listener_ports.len() && i < config.listener_port_count as usize {
        if config.listener_ports[i] == port {
            return Ok(true);
        }
        i += 1;
    }
    if port >= config.first_relay_port && port <= config.last_relay_port {
        return Ok(false);
    }
    Err(Verdict::PassNotOurs)
}

/// The bit of the interface to which the network stack would give what came in on this device, to this MAC address and in
/// this VLAN; and whether the device sends back.
#[inline(always)]
fn check_interface(ifindex: u32, config: &Config, key: u64) -> Result<(u16, bool), Verdict> {
    let mut why = Verdict::PassInterface;
    let mut i = 0;
    while i < config.interfaces.len() && i < config.interface_count as usize {
        let interface = &config.interfaces[i];
        if interface.ifindex == ifindex {
            if interface.key == key {
                return Ok((
                    1 << (interface.place % MAX_INTERFACES as u16),
                    interface.flags & Interface::SENDS_BACK != 0,
                ));
            }
            if interface.is_of_vlan(key) {
                why = Verdict::PassMac;
            } else if why as u8 == Verdict::PassInterface as u8 {
                why = Verdict::PassVlan;
            }
        }
        i += 1;
    }
    Err(why)
}

/// 0/8, 127/8, and everything from 224/4 on, which has the broadcast address in it (RFC 1122 s. 3.2.1.3).
#[inline(always)]
fn is_bad_v4_source(source: u32) -> bool {
    let [first, ..] = source.to_ne_bytes();
    first == 0 || first == 127 || first >= 224
}

/// Unspecified, loopback, multicast, and IPv4 in disguise (RFC 4291 s. 2.5, RFC 4942 s. 2.2).
#[inline(always)]
fn is_bad_v6_source(source: Address) -> bool {
    let [high, low] = source.v6_words();
    let [first, ..] = high.to_ne_bytes();
    if first == 0xff {
        return true;
    }
    let upper_low = u64::from_be(low) >> 32;
    high == 0 && (upper_low == 0 || upper_low == 0xffff)
}

/// The sum over an IPv4 header without options: 0xffff if its checksum is right.
#[inline(always)]
fn v4_header_sum<F: Frame>(frame: &F) -> u16 {
    let mut sum = 0;
    let mut at = at::IP;
    while at < at::V4_UDP {
        sum += frame.u32_at(at) as u64;
        at += 4;
    }
    fold(sum)
}

/// Folds a sum of 16- or 32-bit words into 16 bits, without a loop.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
