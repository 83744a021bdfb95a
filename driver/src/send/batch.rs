//! The batch builder: which datagrams leave together as one message (UDP_SEGMENT).
//!
//! It sees all datagrams of a turn and joins those that differ in nothing but their bytes:
//!
//! ```text
//!   push ─► flow (socket, destination) ─► its newest message ─► same source, TOS, DF and size? ─► join
//!                                                                          └──► else a new message
//! ```
//!
//! Only a flow's newest message grows, and messages are sent in the order in which they were begun: so
//! the order within a flow is kept, whatever comes in between. It knows no system call.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;

use foldhash::fast::RandomState;
use turnpike_proto::RelaySocket;

use crate::limits::{MAX_COPIED_BYTES, MAX_MESSAGE_BYTES, MAX_QUEUED, MAX_SEGMENTS};

const END: u32 = u32::MAX;

/// Which socket sends; the order is that of the system calls of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// A listener, by its number.
    Listener(u32),
    /// A relay socket.
    Relay {
        /// As in [`RelaySocket`].
        index: u32,
        /// As in [`RelaySocket`].
        generation: u32,
    },
}

impl Sender {
    /// The relay socket of that name.
    pub fn relay(relay: RelaySocket) -> Sender {
        Sender::Relay { index: relay.index, generation: relay.generation }
    }

    /// The relay socket, if it is one.
    pub fn as_relay(self) -> Option<RelaySocket> {
        match self {
            Sender::Listener(_) => None,
            Sender::Relay { index, generation } => Some(RelaySocket { index, generation }),
        }
    }
}

/// What datagrams of one message have in common, besides their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The socket that sends.
    pub sender: Sender,
    /// Destination address and port.
    pub to: SocketAddr,
    /// Source address to set, if the socket is a wildcard's.
    pub source: Option<SocketAddr>,
    /// DSCP and ECN to set: the whole TOS or traffic class byte.
    pub tos: u8,
    /// Whether DF is set, so that a datagram over the path's MTU comes back as an ICMP error.
    pub dont_fragment: bool,
}

/// Where a datagram's payload lies.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload {
    /// In the buffer pool.
    Received(Range<usize>),
    /// Among the batch's copies.
    Copied(Range<usize>),
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Payload::Received(range) | Payload::Copied(range) => range.len(),
        }
    }
}

/// One datagram of a message.
#[derive(Debug)]
pub struct Part {
    /// Bytes in front of the payload, if any.
    pub header: Option<[u8; 4]>,
    /// Where the bytes behind the header are.
    pub payload: Payload,
    next: u32,
}

impl Part {
    /// Bytes of the datagram.
    pub fn len(&self) -> usize {
        self.header.map_or(0, |header| header.len()) + self.payload.len()
    }
}

/// One or more datagrams that one call sends.
#[derive(Clone, Copy, Debug)]
pub struct JoinedMessage {
    /// What they have in common.
    pub envelope: Envelope,
    /// Size of each but the last, which may be shorter, bytes.
    pub segment_bytes: usize,
    /// How many there are.
    pub segments: u32,
    bytes: usize,
    open: bool,
    first: u32,
    last: u32,
}

impl JoinedMessage {
    fn takes(&self, envelope: &Envelope, len: usize) -> bool {
        self.open
            && self.envelope == *envelope
            // Empty datagrams have no size to be cut at: the kernel would send one for all of them.
            && (1..=self.segment_bytes).contains(&len)
            && self.segments < MAX_SEGMENTS
            && self.bytes + len <= MAX_MESSAGE_BYTES
    }
}

/// The datagrams of a turn, as messages.
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<JoinedMessage>,
    parts: Vec<Part>,
    /// Payloads that are nowhere else.
    copies: Vec<u8>,
    /// Each flow's newest message, if there are several messages.
    newest: HashMap<(Sender, SocketAddr), u32, RandomState>,
    /// Messages by socket, see [`Batch::sort`].
    order: Vec<(Sender, u32)>,
}

impl Batch {
    /// An empty batch with room for [`MAX_QUEUED`] datagrams.
    pub fn new() -> Batch {
        Batch {
            messages: Vec::with_capacity(MAX_QUEUED),
            parts: Vec::with_capacity(MAX_QUEUED),
            copies: Vec::new(),
            newest: HashMap::with_capacity_and_hasher(MAX_QUEUED, RandomState::default()),
            order: Vec::with_capacity(MAX_QUEUED),
        }
    }

    /// Nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// It has to be sent before more is queued.
    pub fn is_full(&self) -> bool {
        self.parts.len() >= MAX_QUEUED || self.copies.len() >= MAX_COPIED_BYTES
    }

    /// Keeps a copy of a payload until it is sent.
    pub fn copy(&mut self, payload: &[u8]) -> Payload {
        let start = self.copies.len();
        self.copies.extend_from_slice(payload);
        Payload::Copied(start..self.copies.len())
    }

    /// The bytes of a copied payload.
    pub fn copied(&self, range: &Range<usize>) -> &[u8] {
        &self.copies[range.clone()]
    }

    /// Gives memory back that a large turn has taken; nothing may be queued.
    pub fn release_memory(&mut self) {
        if self.is_empty() {
            self.copies = Vec::new();
        }
    }

    /// Queues a datagram. Those longer than `longest_joined` travel alone: over the egress MTU the kernel
    /// refuses a whole message, where it cuts a single datagram into fragments.
    pub fn push(
        &mut self,
        envelope: Envelope,
        header: Option<[u8; 4]>,
        payload: Payload,
        longest_joined: usize,
    ) {
        let part = Part { header, payload, next: END };
        let len = part.len();
        let place = self.parts.len() as u32;
        self.parts.push(part);
        let flow = (envelope.sender, envelope.to);
        if let Some(number) = self.newest_of(&flow)
            && let message = &mut self.messages[number as usize]
            && message.takes(&envelope, len)
        {
            self.parts[message.last as usize].next = place;
            message.last = place;
            message.segments += 1;
            message.bytes += len;
            // A shorter datagram can only be the last one.
            message.open = len == message.segment_bytes;
            return;
        }
        let number = self.messages.len() as u32;
        self.messages.push(JoinedMessage {
            envelope,
            segment_bytes: len,
            segments: 1,
            bytes: len,
            open: (1..=longest_joined).contains(&len),
            first: place,
            last: place,
        });
        self.note_newest(flow, number);
    }

    /// The last message needs no note: with a single one, as at low load, there is nothing to clear afterwards.
    fn note_newest(&mut self, flow: (Sender, SocketAddr), number: u32) {
        if number == 1 {
            let first = &self.messages[0].envelope;
            self.newest.insert((first.sender, first.to), 0);
        }
        if number > 0 {
            self.newest.insert(flow, number);
        }
    }

    /// A run of one flow is asked for again and again: its message is the last one, mostly.
    fn newest_of(&self, flow: &(Sender, SocketAddr)) -> Option<u32> {
        let last = self.messages.last()?;
        if (last.envelope.sender, last.envelope.to) == *flow {
            return Some(self.messages.len() as u32 - 1);
        }
        self.newest.get(flow).copied()
    }

    /// Brings the messages into the order in which they are sent: socket by socket, and for each socket
    /// as they were begun. Afterwards messages are named by their place in this order.
    pub fn sort(&mut self) {
        self.order.clear();
        self.order.extend(self.messages.iter().zip(0..).map(|(message, at)| (message.envelope.sender, at)));
        // With the number as part of the key it is stable, and unlike a stable sort allocates nothing.
        self.order.sort_unstable();
    }

    /// How many messages [`Batch::sort`] has put into order.
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// The message at a place of the order.
    pub fn message(&self, place: usize) -> &JoinedMessage {
        &self.messages[self.order[place].1 as usize]
    }

    /// Whether one of the messages needs DF.
    pub fn has_dont_fragment(&self) -> bool {
        self.messages.iter().any(|message| message.envelope.dont_fragment)
    }

    /// The places from `start` on that have the same socket and the same DF.
    pub fn run_from(&self, start: usize) -> Range<usize> {
        let key = |place: usize| {
            let envelope = &self.message(place).envelope;
            (envelope.sender, envelope.dont_fragment)
        };
        let end = (start + 1..self.count()).find(|&place| key(place) != key(start));
        start..end.unwrap_or(self.count())
    }

    /// A message's datagrams, in order.
    pub fn parts<'a>(&'a self, message: &JoinedMessage) -> impl Iterator<Item = &'a Part> + use<'a> {
        let mut next = message.first;
        std::iter::from_fn(move || {
            let part = self.parts.get(next as usize)?;
            next = part.next;
            Some(part)
        })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.parts.clear();
        self.copies.clear();
        self.newest.clear();
        self.order.clear();
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
