//! Connections by their names, whose they are, and when each is looked at again.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use foldhash::{HashMap, HashMapExt};
use turnpike_proto::ClientSocket;

use super::StreamLimits;
use super::connection::Connection;
use super::counters::CloseReason;

/// Of so many of the oldest one makes room.
const OLDEST: usize = 8;

/// The connections of one worker.
pub(super) struct Table {
    slots: Vec<Option<Box<Entry>>>,
    free: Vec<u32>,
    /// Each connection's is another one, whichever place it has: an old name never means a new connection.
    next_generation: u32,
    sources: HashMap<IpAddr, Source>,
    /// Those of each stage, by when they are looked at; before their first message they have to have sent it by then.
    queues: [BTreeSet<(u64, u32)>; Stage::COUNT],
}

/// How far a connection has come, as far as its place is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has cost nothing yet, and its client may be nobody.
    New,
    /// Its client was answered by TLS, which has cost a signature.
    Answered,
    /// It has sent a message, or is somebody else's.
    Open,
}

impl Stage {
    const COUNT: usize = 3;
}

struct Entry {
    generation: u32,
    due_ns: u64,
    /// Whose bounds it counts for; a proxy's before its header has said so.
    source: Option<IpAddr>,
    stage: Stage,
    connection: Connection,
}

#[derive(Default)]
struct Source {
    all: u32,
    opening: u32,
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            slots: Vec::new(),
            free: Vec::new(),
            next_generation: 1,
            sources: HashMap::new(),
            queues: Default::default(),
        }
    }

    /// Connections there are.
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(BTreeSet::len).sum()
    }

    /// Those that have not sent a message yet.
    pub(super) fn opening(&self) -> usize {
        self.len() - self.queues[Stage::Open as usize].len()
    }

    /// Whether another one may be taken, from this address; without one it is a proxy's, which says later for whom it is.
    pub(super) fn admit(&self, client: Option<IpAddr>, limits: &StreamLimits) -> Result<(), CloseReason> {
        if self.len() >= limits.total {
            return Err(CloseReason::TotalCap);
        }
        client.map_or(Ok(()), |client| self.admit_source(source_of(client), limits))
    }

    fn admit_source(&self, source: IpAddr, limits: &StreamLimits) -> Result<(), CloseReason> {
        let Some(source) = self.sources.get(&source) else { return Ok(()) };
        if source.all as usize >= limits.per_source {
            return Err(CloseReason::SourceCap);
        }
        if source.opening as usize >= limits.opening_per_source {
            return Err(CloseReason::SourceOpeningCap);
        }
        Ok(())
    }

    /// A proxy's connection, which has not sent a message yet, is for a client with this address.
    pub(super) fn count_for(
        &mut self,
        socket: ClientSocket,
        client: IpAddr,
        limits: &StreamLimits,
    ) -> Result<(), CloseReason> {
        let source = source_of(client);
        self.admit_source(source, limits)?;
        let Some(entry) = self.entry(socket).filter(|entry| entry.source.is_none()) else { return Ok(()) };
        entry.source = Some(source);
        self.count_source(source);
        Ok(())
    }

    fn count_source(&mut self, source: IpAddr) {
        let counts = self.sources.entry(source).or_default();
        counts.all += 1;
        counts.opening += 1;
    }

    /// Keeps a connection, which has not sent anything yet, and counts it for this address.
    pub(super) fn insert(
        &mut self,
        connection: Connection,
        client: Option<IpAddr>,
        due_ns: u64,
    ) -> ClientSocket {
        let generation = self.next_generation;
        // 0 is a listener's.
        self.next_generation = generation.checked_add(1).unwrap_or(1);
        let source = client.map(source_of);
        if let Some(source) = source {
            self.count_source(source);
        }
        let entry = Some(Box::new(Entry { generation, due_ns, source, stage: Stage::New, connection }));
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = entry;
                index
            }
            None => {
                self.slots.push(entry);
                self.slots.len() as u32 - 1
            }
        };
        self.queues[Stage::New as usize].insert((due_ns, index));
        ClientSocket { index, generation }
    }

    pub(super) fn get_mut(&mut self, socket: ClientSocket) -> Option<&mut Connection> {
        self.entry(socket).map(|entry| &mut entry.connection)
    }

    /// How far it has come; `None` if there is none of this name.
    pub(super) fn stage(&mut self, socket: ClientSocket) -> Option<Stage> {
        self.entry(socket).map(|entry| entry.stage)
    }

    fn entry(&mut self, socket: ClientSocket) -> Option<&mut Entry> {
        let entry = self.slots.get_mut(socket.index as usize)?.as_mut()?;
        (entry.generation == socket.generation).then_some(entry)
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, socket: ClientSocket) -> Option<Connection> {
        self.entry(socket)?;
        let entry = self.slots[socket.index as usize].take()?;
        self.queues[entry.stage as usize].remove(&(entry.due_ns, socket.index));
        self.forget_source(entry.source, entry.stage != Stage::Open);
        self.free.push(socket.index);
        if self.len() == 0 {
            // What a crowd has left.
            (self.slots, self.free) = (Vec::new(), Vec::new());
            self.sources = HashMap::new();
        }
        Some(entry.connection)
    }

    /// It has sent its first message, or is somebody else's.
    pub(super) fn set_open(&mut self, socket: ClientSocket, due_ns: u64) {
        let Some(entry) = self.entry(socket).filter(|entry| entry.stage != Stage::Open) else { return };
        let source = entry.source;
        self.put(socket, Stage::Open, due_ns);
        if let Some(counts) = source.and_then(|source| self.sources.get_mut(&source)) {
            counts.opening -= 1;
        }
    }

    /// TLS has answered its client, for the first time.
    pub(super) fn set_answered(&mut self, socket: ClientSocket) {
        if let Some(due_ns) = self.entry(socket).map(|entry| entry.due_ns) {
            self.put(socket, Stage::Answered, due_ns);
        }
    }

    /// It is to be looked at then.
    pub(super) fn set_due(&mut self, socket: ClientSocket, due_ns: u64) {
        if let Some(stage) = self.stage(socket) {
            self.put(socket, stage, due_ns);
        }
    }

    fn put(&mut self, socket: ClientSocket, stage: Stage, due_ns: u64) {
        let Some(entry) = self.entry(socket) else { return };
        let before_ns = std::mem::replace(&mut entry.due_ns, due_ns);
        let before = std::mem::replace(&mut entry.stage, stage);
        self.queues[before as usize].remove(&(before_ns, socket.index));
        self.queues[stage as usize].insert((due_ns, socket.index));
    }

    /// When one is to be looked at next.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.queues.iter().filter_map(|queue| queue.first()).map(|(due_ns, _)| *due_ns).min()
    }

    /// One that is to be looked at.
    pub(super) fn due(&self, now_ns: u64) -> Option<ClientSocket> {
        let first = self.queues.iter().filter_map(|queue| queue.first());
        let (_, index) = *first.into_iter().find(|(due_ns, _)| *due_ns <= now_ns)?;
        self.name(index)
    }

    /// Of those that have not sent a message yet the one that makes room for another, with so many places. Those that
    /// were answered keep half of them: what was spent on a client isn't lost to those who only begin. Of the oldest
    /// it is one whose source has the most.
    pub(super) fn to_displace(&self, places: usize) -> Option<ClientSocket> {
        let [new, answered, _] = &self.queues;
        let queue = if 2 * new.len() >= places && !new.is_empty() { new } else { answered };
        let oldest = queue.iter().take(OLDEST);
        let (_, index) = oldest.rev().max_by_key(|(_, index)| self.opening_of_source(*index))?;
        self.name(*index)
    }

    /// How many the source of this one has that have not sent a message yet.
    fn opening_of_source(&self, index: u32) -> u32 {
        let source = self.slots[index as usize].as_ref().and_then(|entry| entry.source);
        source.and_then(|source| self.sources.get(&source)).map_or(0, |source| source.opening)
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<ClientSocket> {
        (0..self.slots.len() as u32).filter_map(|index| self.name(index)).collect()
    }

    fn name(&self, index: u32) -> Option<ClientSocket> {
        let entry = self.slots.get(index as usize)?.as_ref()?;
        Some(ClientSocket { index, generation: entry.generation })
    }

    fn forget_source(&mut self, source: Option<IpAddr>, is_opening: bool) {
        let Some(source) = source else { return };
        let Some(counts) = self.sources.get_mut(&source) else { return };
        counts.all -= 1;
        counts.opening -= u32::from(is_opening);
        if counts.all == 0 {
            self.sources.remove(&source);
        }
    }
}

/// What bounds go by: an IPv4 address, or the /64 that one IPv6 customer has at least.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_source_is_a_network_of_64_bits() {
        let source = |text: &str| source_of(text.parse().expect("an address"));
        assert_eq!(source("2001:db8:1:2:3::4"), source("2001:db8:1:2:ffff::1"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }
}
