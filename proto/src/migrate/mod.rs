//! The state of a relay on its way into another process: what a restart, or an upgrade, hands over.
//!
//! ```text
//!   Shared::export ─┐                                  ┌─► Settings::seed, Shared::adopt
//!   Server::export ─┴─► Seal ─► bytes ─► Snapshot::open ┴─► Server::adopt, one section for each old worker
//! ```
//!
//! It decides what is in the bytes and whether they can be believed. Who carries them, and sockets, connections and the
//! kernel program's memory along, is somebody else; [`Ground`] says what of that has come.
//!
//! A snapshot is a header (magic, format), records, and a SHA-256 over all of it. A record is its length and the
//! postcard encoding of an image (`images`): types for this purpose alone, so that a change elsewhere changes no byte
//! here. What is counted goes by names, not by places. Whoever changes an image raises [`FORMAT`], and reads the
//! one before, too.
//!
//! Invariant: an image with keys in it is wiped when dropped, and none can be printed.

pub(crate) mod images;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use self::images::{Record, SharedImage, WorkerImage};
use crate::ClientSocket;
use crate::addr::{RelayedAddr, RelayedTransport, Transport};
use crate::io::{ClientPath, ConnectionId, RelaySocket, WorkerId};
use crate::limits::MAX_SNAPSHOT_RECORD;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u16 = 1;

/// What a snapshot begins with.
const MAGIC: [u8; 8] = *b"TURNPIKE";
const HEADER_LEN: usize = MAGIC.len() + size_of::<u16>();
const DIGEST_LEN: usize = 32;

/// Bytes of a snapshot: wiped when dropped, since keys are in them.
pub type SnapshotBytes = Zeroizing<Vec<u8>>;

/// Why bytes are not a snapshot that can be adopted. Nothing has been changed then, or the server is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Something else.
    #[error("this is not the state of a relay")]
    Foreign,
    /// Written by a newer version.
    #[error("the state has format {0}, and this version reads formats up to {FORMAT}")]
    Format(u16),
    /// Cut off, or changed on its way.
    #[error("the state is damaged: its digest is another one")]
    Damaged,
    /// Well-formed, but no relay can have been in such a state.
    #[error("the state contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Makes a snapshot of its parts, in order: those of the shared state, then worker by worker.
pub struct Seal(Sha256);

impl Seal {
    /// The header, which comes first.
    pub fn begin() -> (Self, Vec<u8>) {
        let mut header = MAGIC.to_vec();
        header.extend(FORMAT.to_le_bytes());
        let mut seal = Self(Sha256::new());
        seal.add(&header);
        (seal, header)
    }

    /// The next part: what an `export` gave.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// What comes last.
    pub fn end(self) -> [u8; DIGEST_LEN] {
        self.0.finalize().into()
    }
}

/// What of a worker's state goes to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    All,
    /// What belongs to clients over UDP. Those over TCP and TLS stay, and this process with them: afterwards
    /// [`Server::leave`](crate::Server::leave) ends what has gone.
    Datagrams,
}

impl Scope {
    /// Whether clients over a transport go.
    pub(crate) fn includes(self, transport: Transport) -> bool {
        self == Scope::All || !transport.is_stream()
    }
}

/// The state of a relay, read and found whole.
pub struct Snapshot {
    pub(crate) shared: Box<SharedImage>,
    sections: Vec<WorkerSection>,
}

/// The state of one worker.
pub struct WorkerSection {
    pub(crate) image: Box<WorkerImage>,
    pub(crate) records: Vec<Record>,
}

impl WorkerSection {
    /// The worker's number in its own process.
    pub fn worker(&self) -> WorkerId {
        WorkerId(self.image.worker)
    }
}

impl Snapshot {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// If it is foreign, newer, damaged or impossible.
    pub fn open(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
        let format = bytes.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk::<2>());
        let format = u16::from_le_bytes(*format.ok_or(SnapshotError::Foreign)?);
        if format != FORMAT {
            return Err(SnapshotError::Format(format));
        }
        let (sealed, digest) = bytes.split_last_chunk::<DIGEST_LEN>().ok_or(SnapshotError::Damaged)?;
        if sealed.len() < HEADER_LEN || Sha256::digest(sealed)[..] != digest[..] {
            return Err(SnapshotError::Damaged);
        }
        Self::read(&sealed[HEADER_LEN..])
    }

    /// Of records alone.
    fn read(mut bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
        let Some(Record::Shared(shared)) = take_record(&mut bytes)? else {
            return Err(SnapshotError::Contradiction("what the workers share is missing"));
        };
        let mut sections: Vec<WorkerSection> = Vec::new();
        while let Some(record) = take_record(&mut bytes)? {
            match (record, sections.last_mut()) {
                (Record::Worker(image), _) => sections.push(WorkerSection { image, records: Vec::new() }),
                (Record::Shared(_), _) => {
                    return Err(SnapshotError::Contradiction("what the workers share comes twice"));
                }
                (_, None) => return Err(SnapshotError::Contradiction("a record belongs to no worker")),
                (record, Some(section)) => section.records.push(record),
            }
        }
        Ok(Snapshot { shared, sections })
    }

    /// What [`Settings::seed`](crate::settings::Settings::seed) has to be: nonces stay valid by it.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.shared.seed.0)
    }

    /// The state of each worker, in the order in which they were exported.
    pub fn take_sections(&mut self) -> Vec<WorkerSection> {
        std::mem::take(&mut self.sections)
    }
}

/// What the adopting process has of the world that a snapshot was made in.
pub trait Ground {
    /// The socket by which the client of this path is reached now; `None` if neither its listener nor its connection
    /// is here. The path is as it was.
    fn client_socket(&self, path: &ClientPath) -> Option<ClientSocket>;
    /// Whether a connection with a peer has come along.
    fn has_connection(&self, was: ConnectionId) -> bool;
    /// Whether the kernel program's memory is the same, with all that it forwards meanwhile.
    fn keeps_plane(&self) -> bool;
}

/// A relay socket that goes on under another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedRelay {
    /// Its name in the worker that had it.
    pub was: RelaySocket,
    /// Its name from now on.
    pub relay: RelaySocket,
    /// What it is bound to.
    pub address: RelayedAddr,
    /// What is relayed there.
    pub transport: RelayedTransport,
}

/// What has come of a worker's section. Besides, outputs wait: what can't go on has ended, ports that were being opened
/// are asked for again.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Sockets that the driver is to know by their new names before it does anything else.
    pub relays: Vec<AdoptedRelay>,
    /// Connections with peers: as they were called, and as they are.
    pub connections: Vec<(ConnectionId, ConnectionId)>,
    /// Allocations that go on.
    pub kept: u64,
    /// Allocations that have ended with [`EndReason::NotAdopted`](crate::stats::EndReason::NotAdopted): their listener,
    /// or their connection, is not here.
    pub without_client: u64,
    /// The same, because none of their relayed addresses is one that is relayed from now.
    pub without_relay: u64,
}

/// Appends records to a part of a snapshot that has room for them before anything is written: no copy is left behind in
/// memory that was given back.
pub(crate) fn encode(records: &[Record]) -> SnapshotBytes {
    let size_of =
        |record| postcard::experimental::serialized_size(record).expect("sizes of images are known");
    let sizes: Vec<usize> = records.iter().map(size_of).collect();
    let mut part = Zeroizing::new(vec![0; sizes.iter().map(|size| PREFIX_LEN + size).sum()]);
    let mut rest = &mut part[..];
    for (record, size) in records.iter().zip(sizes) {
        let (prefix, behind) = rest.split_at_mut(PREFIX_LEN);
        let (body, behind) = behind.split_at_mut(size);
        prefix.copy_from_slice(&(size as u32).to_le_bytes());
        postcard::to_slice(record, body).expect("as long as its size");
        rest = behind;
    }
    part
}

/// Bytes of a record's length.
const PREFIX_LEN: usize = size_of::<u32>();

fn take_record<R: DeserializeOwned>(bytes: &mut &[u8]) -> Result<Option<R>, SnapshotError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (prefix, rest) = bytes.split_first_chunk().ok_or(SnapshotError::Damaged)?;
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > MAX_SNAPSHOT_RECORD {
        return Err(SnapshotError::Damaged);
    }
    let (body, rest) = rest.split_at_checked(len).ok_or(SnapshotError::Damaged)?;
    *bytes = rest;
    match postcard::take_from_bytes(body) {
        Ok((record, [])) => Ok(Some(record)),
        _ => Err(SnapshotError::Damaged),
    }
}
