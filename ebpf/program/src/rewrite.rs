//! Computes and writes the new headers.
//!
//! DSCP and ECN are copied, DF is 0, TTL or hop limit is one less than it was (RFC 8656 s. 14), the
//! flow label 0. A TTL that counts down ends what two relays might send to each other for ever.

use turnpike_abi::{NextHop, Route, RouteFlags, Verdict};

use crate::frame::{Frame, at};
use crate::packet::{Data, Packet, fold};

const ETHER_IPV4: u16 = 0x0800_u16.to_be();
const ETHER_IPV6: u16 = 0x86dd_u16.to_be();
const PROTOCOL_UDP: u8 = 17;

/// What differs from packet to packet in the new headers.
pub(crate) struct Headers {
    /// Bytes of payload.
    payload: u16,
    /// Length of the UDP datagram, bytes; may be too much for its field, until [`Headers::packet_size`]
    /// was checked.
    udp_length: u32,
    /// Checksum field of the UDP header.
    checksum: u16,
    tos: u8,
    ttl: u8,
    /// Size of all headers, Ethernet and ChannelData included, a VLAN tag not, bytes.
    size: usize,
}

impl Headers {
    /// The headers that `first` makes of a packet, or in a hairpin `first` and then `last`.
    #[inline(always)]
    pub(crate) fn new(
        packet: &Packet,
        data: &Data,
        first: &Route,
        last: &Route,
        is_hairpin: bool,
    ) -> Headers {
        let channel = if last.channel == 0 { 0 } else { at::CHANNEL_SIZE };
        let ip = if last.flags.has(RouteFlags::TO_V6) { at::V6_UDP } else { at::V4_UDP };
        let udp_length = data.len as u32 + (at::UDP_SIZE + channel) as u32;
        let constant = first.checksum as u64 + if is_hairpin { last.checksum as u64 } else { 0 };
        let checksum = update_checksum(packet, data, udp_length as u16, last.channel != 0, constant);
        Headers {
            payload: data.len,
            udp_length,
            checksum,
            tos: packet.tos,
            ttl: packet.ttl.wrapping_sub(1),
            size: ip + at::UDP_SIZE + channel,
        }
    }

    /// By how much the start of the frame has to move.
    #[inline(always)]
    pub(crate) fn shift(&self, packet: &Packet, data: &Data, next_hop: &NextHop) -> i32 {
        let channel = if data.channel == 0 { 0 } else { at::CHANNEL_SIZE };
        let tag = if next_hop.tag == 0 { 0 } else { at::TAG_SIZE };
        (packet.tag + packet.udp + at::UDP_SIZE + channel) as i32 - (tag + self.size) as i32
    }

    /// Size of the IP packet, bytes.
    #[inline(always)]
    pub(crate) fn packet_size(&self, is_v6: bool) -> u32 {
        self.udp_length + if is_v6 { 40 } else { 20 }
    }
}

/// The new checksum (RFC 1624 s. 3): the old one, what the routes change, and the lengths. The length
/// counts twice, in the UDP header and in the pseudo header (RFC 768); ChannelData has its own.
#[inline(always)]
fn update_checksum(packet: &Packet, data: &Data, udp_length: u16, to_channel: bool, constant: u64) -> u16 {
    if packet.checksum == 0 {
        return 0;
    }
    let payload = data.len.to_be();
    let mut sum = !packet.checksum as u64 + constant;
    sum += 2 * (!packet.udp_length.to_be() as u64) + 2 * udp_length.to_be() as u64;
    if data.channel != 0 {
        sum += !payload as u64;
    }
    if to_channel {
        sum += payload as u64;
    }
    match !fold(sum) {
        // 0 would say that there is none.
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Writes everything in front of the payload, whose start has been moved to the right place.
#[inline(always)]
pub(crate) fn write<F: Frame>(
    frame: &mut F,
    route: &Route,
    next_hop: &NextHop,
    headers: &Headers,
    identification: u16,
) -> Result<(), Verdict> {
    // Decided once: older verifiers forget between two looks at the same flag which way the first one went.
    match route.flags.has(RouteFlags::TO_V6) {
        true => write_as::<F, true>(frame, route, next_hop, headers, identification),
        false => write_as::<F, false>(frame, route, next_hop, headers, identification),
    }
}

#[inline(always)]
fn write_as<F: Frame, const V6: bool>(
    frame: &mut F,
    route: &Route,
    next_hop: &NextHop,
    headers: &Headers,
    identification: u16,
) -> Result<(), Verdict> {
    let udp = if V6 { at::V6_UDP } else { at::V4_UDP };
    if !frame.has(udp + at::UDP_SIZE) {
        return Err(Verdict::DropRewrite);
    }
    let [to, both, from] = next_hop.macs;
    frame.set_u32(at::TO_MAC, to);
    frame.set_u32(at::TO_MAC + 4, both);
    frame.set_u32(at::TO_MAC + 8, from);
    if next_hop.tag != 0 {
        frame.set_u32(at::ETHER_TYPE, next_hop.tag);
        frame.skip(at::TAG_SIZE);
        if !frame.has(udp + at::UDP_SIZE) {
            return Err(Verdict::DropRewrite);
        }
    }
    if V6 {
        write_v6(frame, route, headers);
    } else {
        write_v4(frame, route, headers, identification);
    }
    frame.set_u32(udp, route.ports);
    frame.set_u16(udp + 4, (headers.udp_length as u16).to_be());
    frame.set_u16(udp + 6, headers.checksum);
    if route.channel != 0 {
        if !frame.has(udp + at::UDP_SIZE + at::CHANNEL_SIZE) {
            return Err(Verdict::DropRewrite);
        }
        frame.set_u16(udp + at::UDP_SIZE, route.channel);
        frame.set_u16(udp + at::UDP_SIZE + 2, headers.payload.to_be());
    }
    Ok(())
}

#[inline(always)]
fn write_v4<F: Frame>(frame: &mut F, route: &Route, headers: &Headers, identification: u16) {
    let version = u16::from_ne_bytes([0x45, headers.tos]);
    let length = (headers.packet_size(false) as u16).to_be();
    let ttl = u16::from_ne_bytes([headers.ttl, PROTOCOL_UDP]);
    let (source, destination) = (route.source.v4_word(), route.destination.v4_word());
    let sum = version as u64
        + length as u64
        + identification as u64
        + ttl as u64
        + source as u64
        + destination as u64;
    frame.set_u16(at::ETHER_TYPE, ETHER_IPV4);
    frame.set_u16(at::V4_VERSION, version);
    frame.set_u16(at::V4_LENGTH, length);
    frame.set_u16(at::V4_IDENTIFICATION, identification);
    frame.set_u16(at::V4_FRAGMENT, 0);
    frame.set_u16(at::V4_TTL, ttl);
    frame.set_u16(at::V4_CHECKSUM, !fold(sum));
    frame.set_u32(at::V4_SOURCE, source);
    frame.set_u32(at::V4_DESTINATION, destination);
}

#[inline(always)]
fn write_v6<F: Frame>(frame: &mut F, route: &Route, headers: &Headers) {
    let version = 0x6000_0000 | (headers.tos as u32) << 20;
    let limit = u16::from_ne_bytes([PROTOCOL_UDP, headers.ttl]);
    frame.set_u16(at::ETHER_TYPE, ETHER_IPV6);
    frame.set_u32(at::V6_VERSION, version.to_be());
    frame.set_u16(at::V6_LENGTH, (headers.udp_length as u16).to_be());
    frame.set_u16(at::V6_NEXT_HEADER, limit);
    let [source, destination] = [route.source.v6_words(), route.destination.v6_words()];
    frame.set_u64(at::V6_SOURCE, source[0]);
    frame.set_u64(at::V6_SOURCE + 8, source[1]);
    frame.set_u64(at::V6_DESTINATION, destination[0]);
    frame.set_u64(at::V6_DESTINATION + 8, destination[1]);
}
