//! What was sent to whom: each payload can be recognised wherever it turns up, and has to be exactly there.

use std::net::SocketAddr;

/// How a payload reaches its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// As ChannelData on this channel.
    Channel(u16),
    /// In a Data indication.
    Data,
    /// As a plain datagram, at a peer.
    Plain,
}

/// Where a payload has to arrive, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The client's or peer's own address.
    pub receiver: SocketAddr,
    /// The peer's address as the receiver is told.
    pub from: SocketAddr,
    /// How it arrives.
    pub via: Via,
}

/// All payloads of one world.
pub struct Ledger {
    seed: u64,
    entries: Vec<Entry>,
}

struct Entry {
    destination: Destination,
    len: usize,
    copies: u32,
}

const MAGIC: &[u8; 8] = b"payload:";
/// Least length of a payload: magic and number.
const MIN_LEN: usize = 16;
/// Between client and peer lie two impaired ways, and each can double a datagram.
const MAX_COPIES: u32 = 4;

impl Ledger {
    pub fn new(seed: u64) -> Self {
        Self { seed, entries: Vec::new() }
    }

    /// A payload for this destination, to be sent now.
    pub fn payload(&mut self, destination: Destination, extra_len: usize) -> Vec<u8> {
        let len = MIN_LEN + extra_len;
        self.entries.push(Entry { destination, len, copies: 0 });
        self.content(self.entries.len() - 1, len)
    }

    /// Whether these are the bytes of a payload from here (then it has to be right).
    pub fn knows(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// A payload has arrived: it is the one sent, at the right place.
    #[track_caller]
    pub fn arrived(&mut self, at: Destination, bytes: &[u8]) {
        let number = bytes.get(8..MIN_LEN).expect("a payload has a number");
        let number = u64::from_be_bytes(number.try_into().expect("8 bytes")) as usize;
        let expected = self.content(number, self.entries[number].len);
        assert!(bytes == expected, "payload {number} was changed on its way");
        let entry = &mut self.entries[number];
        assert_eq!(at, entry.destination, "payload {number} arrived somewhere else");
        entry.copies += 1;
        assert!(entry.copies <= MAX_COPIES, "payload {number} arrived {} times", entry.copies);
    }

    /// Payloads sent, and those of them that arrived at least once.
    pub fn totals(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.iter().filter(|entry| entry.copies > 0).count())
    }

    fn content(&self, number: usize, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(number as u64).to_be_bytes());
        let mut state = self.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        while bytes.len() < len {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bytes.extend_from_slice(&(mixed ^ mixed >> 27).to_be_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
