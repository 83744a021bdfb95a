//! Tells data from control messages and checks each data packet.

use super::flow::Flow;
use super::payload::{Header, STAMPED_PAYLOAD, read_time};
use super::sender::{DATA_ATTRIBUTE, header_bytes};
use super::{Framing, Group, PeerChoice};
use crate::stats::{Arrival, GroupStats};

/// Message types (RFC 8489 section 5, RFC 8656 section 17).
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const STUN_HEADER: usize = 20;

/// What a datagram is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// Relayed application data.
    Data(&'a [u8]),
    /// The answer to a Binding request of the load, whose transaction id carries its number.
    BindingAnswer(Header),
    /// A STUN message for the session.
    Control,
    /// Neither data nor an answer to anything that was asked.
    Stray,
}

/// Sorts one datagram from the server. `now_ns` completes the time in a Binding's transaction id.
pub(super) fn classify(data: &[u8], framing: Framing, channel: Option<u16>, now_ns: u64) -> Received<'_> {
    match data {
        // RFC 8656 section 12: the first two bits tell ChannelData from STUN.
        [first, ..] if first >> 6 == 0b01 => match (channel_data(data), channel) {
            (Some((number, payload)), Some(bound)) if number == bound => Received::Data(payload),
            _ => Received::Stray,
        },
        [a, b, ..] if [*a, *b] == DATA_INDICATION => {
            data_attribute(data).map_or(Received::Stray, Received::Data)
        }
        [a, b, ..] if framing == Framing::Binding && [*a, *b] == BINDING_SUCCESS => {
            binding_header(data, now_ns).map_or(Received::Stray, Received::BindingAnswer)
        }
        [first, ..] if first >> 6 == 0 => Received::Control,
        _ => Received::Stray,
    }
}

/// Channel number and payload; up to three bytes of padding may follow (RFC 8656 section 12.5).
fn channel_data(data: &[u8]) -> Option<(u16, &[u8])> {
    let number = u16::from_be_bytes(data.get(0..2)?.try_into().ok()?);
    let length = usize::from(u16::from_be_bytes(data.get(2..4)?.try_into().ok()?));
    let rest = &data[4..];
    let padding = rest.len().checked_sub(length)?;
    (padding < 4).then(|| (number, &rest[..length]))
}

/// The DATA attribute of a Data indication (RFC 8656 section 11.4).
fn data_attribute(data: &[u8]) -> Option<&[u8]> {
    let mut rest = data.get(STUN_HEADER..)?;
    while rest.len() >= 4 {
        let kind = u16::from_be_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let value = rest.get(4..4 + length)?;
        if kind == DATA_ATTRIBUTE {
            return Some(value);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
    None
}

fn binding_header(data: &[u8], now_ns: u64) -> Option<Header> {
    let word = |at: usize| Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?));
    let age = ((now_ns >> 8) as u32).wrapping_sub(word(16)?);
    let sent_ns = now_ns.saturating_sub(u64::from(age) << 8);
    Some(Header { number: word(8)?, tag: word(12)?, sent_ns })
}

/// Checks one payload and counts it for the flow. `expected_tag` names the trial and the sender.
pub(super) fn accept_payload(
    payload: &[u8],
    flow: &mut Flow,
    group: &Group,
    stats: &mut GroupStats,
    clock: Clock,
    expected_tag: u32,
) {
    if payload.len() != group.payload_bytes {
        stats.corrupted += 1;
        return;
    }
    let Some(header) = Header::read(payload) else {
        stats.corrupted += 1;
        return;
    };
    if header.tag != expected_tag {
        stats.stray += 1;
        return;
    }
    let fixed = header_bytes(payload.len());
    if payload[fixed..] != *group.fill.bytes(flow.expected_sender, payload.len() - fixed) {
        stats.corrupted += 1;
        return;
    }
    let stamped = flow.peer == PeerChoice::BuiltIn && payload.len() >= STAMPED_PAYLOAD;
    let peer_ns = if stamped { read_time(payload, 16).filter(|&ns| ns != 0) } else { None };
    if let (true, Some(peer_ns)) = (accept_header(header, flow, stats, clock), peer_ns) {
        stats.return_way.record(clock.now_ns.saturating_sub(peer_ns));
    }
}

/// The time of arrival and what counts as late.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub now_ns: u64,
    pub late_ns: u64,
}

/// Counts a packet by its header. Returns whether it was a first arrival.
pub(super) fn accept_header(header: Header, flow: &mut Flow, stats: &mut GroupStats, clock: Clock) -> bool {
    let arrival = flow.tracker.arrive(header.number);
    match arrival {
        Arrival::Duplicate | Arrival::TooOld => {
            stats.duplicated += 1;
            return false;
        }
        Arrival::Reordered => stats.reordered += 1,
        Arrival::InOrder | Arrival::Ahead => {}
    }
    stats.received += 1;
    let delay = clock.now_ns.saturating_sub(header.sent_ns);
    stats.late += u64::from(delay > clock.late_ns);
    match flow.peer {
        PeerChoice::Partner(_) => stats.one_way.record(delay),
        _ => stats.round_trip.record(delay),
    }
    let gap = flow.tracker.time(header.sent_ns, clock.now_ns);
    if let (Arrival::InOrder, Some(gap), Some(nominal)) = (arrival, gap, flow.nominal_gap_ns) {
        stats.deviation.record(gap.abs_diff(nominal));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_may_be_padded_but_not_longer() {
        let data = |extra: usize| [&[0x40, 0x00, 0, 5][..], &vec![9; 5 + extra]].concat();
        for extra in 0..4 {
            let packet = data(extra);
            assert_eq!(classify(&packet, Framing::Channel, Some(0x4000), 0), Received::Data(&[9; 5]));
        }
        assert_eq!(classify(&data(4), Framing::Channel, Some(0x4000), 0), Received::Stray);
        assert_eq!(classify(&data(0), Framing::Channel, Some(0x4001), 0), Received::Stray);
        assert_eq!(classify(&data(0)[..8], Framing::Channel, Some(0x4000), 0), Received::Stray);
    }

    #[test]
    fn data_is_found_behind_other_attributes() {
        let mut packet = vec![0x00, 0x17, 0, 20, 0x21, 0x12, 0xa4, 0x42];
        packet.extend([0; 12]);
        packet.extend([0x00, 0x12, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]);
        packet.extend([0x00, 0x13, 0, 2, 7, 8, 0, 0]);
        assert_eq!(classify(&packet, Framing::Indication, None, 0), Received::Data(&[7, 8]));
        packet.truncate(packet.len() - 4);
        assert_eq!(classify(&packet, Framing::Indication, None, 0), Received::Stray);
    }

    #[test]
    fn garbage_is_stray_or_left_to_the_session() {
        assert_eq!(classify(&[], Framing::Channel, None, 0), Received::Stray);
        assert_eq!(classify(&[0xff; 30], Framing::Channel, None, 0), Received::Stray);
        assert_eq!(classify(&[0x01, 0x13], Framing::Channel, None, 0), Received::Control);
        assert_eq!(classify(&[0x01, 0x01, 0, 0], Framing::Binding, None, 0), Received::Stray);
    }
}
