//! Makes test packets and hands them to the kernel when they are due.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use stun_types::message::{Message, MessageClass, MessageType, MessageWrite, MessageWriteVec, TransactionId};
use turn_types::attribute::{DontFragment, XorPeerAddress};
use turn_types::message::SEND;

use super::flow::{Flow, Link};
use super::mmsg::{SendBatch, mono_ns};
use super::payload::{Header, MIN_PAYLOAD, STAMPED_PAYLOAD, tag};
use super::stream::StreamLink;
use super::{Framing, Group};
use crate::limits::BATCH;
use crate::stats::GroupStats;

/// DATA's attribute type (RFC 8656 section 18.4).
pub(super) const DATA_ATTRIBUTE: u16 = 0x0013;
/// The magic cookie and the type of a Binding request (RFC 8489 section 5).
const BINDING_REQUEST_START: [u8; 8] = [0x00, 0x01, 0, 0, 0x21, 0x12, 0xa4, 0x42];
/// Start of turnutils_uclient's invalid packets, from 8 bytes on.
const INVALID_START: [u8; 4] = [0x00, 0x01, 0x7f, 0x7f];
/// Odds of spoiling a message (turnutils_uclient's `-R`): one in ten.
const DISRUPT_ONE_IN: u32 = 10;

/// What a visit to a flow needs to know.
pub(super) struct Visit {
    pub now_ns: u64,
    pub trial: u32,
    pub max_lag_ns: Option<u64>,
    pub gso: bool,
    pub disrupt: bool,
    pub over_streams: bool,
}

/// The bytes in front of the payload, the same for each packet of a flow.
pub(super) fn framing_prefix(
    group: &Group,
    channel: Option<u16>,
    peer: Option<SocketAddr>,
    id: u128,
) -> Vec<u8> {
    match group.framing {
        Framing::Channel => {
            let mut prefix = channel.unwrap_or_default().to_be_bytes().to_vec();
            prefix.extend_from_slice(&(group.payload_bytes as u16).to_be_bytes());
            prefix
        }
        Framing::Indication => peer.map_or_else(Vec::new, |peer| indication_prefix(group, peer, id)),
        Framing::Binding | Framing::Invalid => Vec::new(),
    }
}

/// A Send indication up to and with DATA's header (RFC 8656 section 11.1).
fn indication_prefix(group: &Group, peer: SocketAddr, id: u128) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Indication, SEND);
    let id = TransactionId::from(id);
    let mut message = Message::builder(kind, id, MessageWriteVec::new());
    message.push_attribute_unchecked(&XorPeerAddress::new(peer, id));
    if group.dont_fragment {
        message.push_attribute_unchecked(&DontFragment::new());
    }
    let mut prefix = message.finish();
    prefix.extend_from_slice(&DATA_ATTRIBUTE.to_be_bytes());
    prefix.extend_from_slice(&(group.payload_bytes as u16).to_be_bytes());
    let length = prefix.len() - 20 + group.payload_bytes.next_multiple_of(4);
    prefix[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    prefix
}

/// Sends what is due for a flow, at most one batch, and counts it. Returns how many were due.
pub(super) fn send_due(
    flow: &mut Flow,
    group: &Group,
    batch: &mut SendBatch,
    stats: &mut GroupStats,
    visit: &Visit,
    rng: &mut ChaCha8Rng,
) -> u64 {
    if let Some(max_lag) = visit.max_lag_ns.filter(|_| !flow.pace.is_flood()) {
        let skipped = flow.pace.skip_before(visit.now_ns.saturating_sub(max_lag));
        stats.scheduled += skipped;
        if visit.over_streams && (flow.is_blocked() || flow.link.is_none()) {
            // It was not the generator that was too late: an application would have had to drop these.
            stats.sent += skipped;
            stats.stalled += skipped;
        } else {
            stats.skipped += skipped;
        }
    }
    if flow.is_blocked() {
        return 0;
    }
    let (first, count) = flow.pace.take_due(visit.now_ns, BATCH as u64);
    if count == 0 {
        return 0;
    }
    let Some(link) = &mut flow.link else {
        stats.scheduled += count;
        stats.sent += count;
        stats.stalled += count;
        return count;
    };
    let sent_ns = mono_ns();
    for number in first..first + count {
        push_packet(
            batch,
            flow.id,
            &flow.prefix,
            group,
            Header { number: number as u32, tag: tag(visit.trial, flow.id), sent_ns },
        );
        if !flow.pace.is_flood() {
            stats.send_lag.record(sent_ns.saturating_sub(flow.pace.due_of(number)));
        }
    }
    let sent = match link {
        Link::Stream(link) => send_stream(link, batch),
        Link::Udp(socket) if visit.disrupt => send_disrupted(socket, batch, rng),
        Link::Udp(socket) if visit.gso => batch.send_gso(socket.as_fd()).0 as u64,
        Link::Udp(socket) => batch.send(socket.as_fd()).0 as u64,
    };
    stats.scheduled += count;
    stats.sent += sent;
    stats.send_dropped += count - sent;
    count
}

/// Sends one packet outside any timetable; over a stream the caller flushes.
pub(super) fn send_single(flow: &mut Flow, group: &Group, batch: &mut SendBatch, header: Header) {
    let Some(link) = &mut flow.link else { return };
    push_packet(batch, flow.id, &flow.prefix, group, header);
    match link {
        Link::Udp(socket) => drop(batch.send(socket.as_fd())),
        Link::Stream(link) => drop(send_stream(link, batch)),
    }
}

/// Queues the batch's messages; the caller flushes.
fn send_stream(link: &mut StreamLink, batch: &mut SendBatch) -> u64 {
    let mut message = Vec::new();
    for index in 0..batch.len() {
        message.clear();
        batch.copy_to(index, &mut message);
        link.send(&message);
    }
    let count = batch.len() as u64;
    batch.clear();
    count
}

fn push_packet(batch: &mut SendBatch, flow: u32, prefix: &[u8], group: &Group, header: Header) {
    match group.framing {
        Framing::Binding => batch.push(&[], 0, |head| write_binding(head, header)),
        Framing::Invalid => {
            let marked = if group.payload_bytes >= 8 { 8 } else { 0 };
            let body = group.fill.bytes(flow, group.payload_bytes - marked);
            batch.push(body, 0, |head| {
                head[..4].copy_from_slice(&INVALID_START);
                head[4..8].copy_from_slice(&header.number.to_be_bytes());
                marked
            });
        }
        Framing::Channel | Framing::Indication => {
            let header_bytes = header_bytes(group.payload_bytes);
            let body = group.fill.bytes(flow, group.payload_bytes - header_bytes);
            let padded = group.framing == Framing::Indication || group.pad_channel_data;
            let padding = if padded { group.payload_bytes.wrapping_neg() % 4 } else { 0 };
            batch.push(body, padding, |head| {
                head[..prefix.len()].copy_from_slice(prefix);
                let payload = &mut head[prefix.len()..][..header_bytes];
                payload.fill(0);
                header.write(payload);
                prefix.len() + header_bytes
            });
        }
    }
}

/// Bytes of the payload's own header.
pub(super) fn header_bytes(payload_bytes: usize) -> usize {
    if payload_bytes >= STAMPED_PAYLOAD { STAMPED_PAYLOAD } else { MIN_PAYLOAD }
}

/// A Binding request whose transaction id carries number, tag and the low 32 bits of the send time in
/// units of 256 ns.
fn write_binding(head: &mut [u8], header: Header) -> usize {
    head[..8].copy_from_slice(&BINDING_REQUEST_START);
    head[8..12].copy_from_slice(&header.number.to_ne_bytes());
    head[12..16].copy_from_slice(&header.tag.to_ne_bytes());
    head[16..20].copy_from_slice(&((header.sent_ns >> 8) as u32).to_ne_bytes());
    20
}

/// Sends one by one, spoiling one in ten. Returns how many the kernel took.
fn send_disrupted(socket: &UdpSocket, batch: &mut SendBatch, rng: &mut ChaCha8Rng) -> u64 {
    let datagrams: Vec<_> = (0..batch.len()).map(|index| batch.datagram(index)).collect();
    batch.clear();
    let mut sent = 0;
    for mut datagram in datagrams {
        disrupt(&mut datagram, rng);
        sent += u64::from(socket.send(&datagram).is_ok());
    }
    sent
}

/// Overwrites a few bytes of one message in ten (turnutils_uclient's `-R`).
pub(super) fn disrupt(datagram: &mut [u8], rng: &mut ChaCha8Rng) {
    if datagram.is_empty() || !rng.random_ratio(1, DISRUPT_ONE_IN) {
        return;
    }
    for _ in 0..rng.random_range(1..=4) {
        let index = rng.random_range(0..datagram.len());
        datagram[index] = rng.next_u32() as u8;
    }
}
