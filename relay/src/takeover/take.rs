//! The new process: it asks for everything, and serves nobody before it has it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::fs::SealFlags;
use turnpike_driver::sockets::ListenerSocket;
use turnpike_driver::streams::{Offer, StreamListener};
use turnpike_offload::pinning::Pinned;
use turnpike_proto::migrate::{FORMAT, Ground, Snapshot};
use turnpike_proto::{ClientPath, ClientSocket, ConnectionId, RelaySocket};
use zeroize::Zeroizing;

use super::{Channel, Folder, MAX_STATE, Message, Moved, PATIENCE, TakeoverError};

/// The process that runs has been asked, and would go.
pub struct Invitation {
    channel: Channel,
    /// How many workers it has.
    pub workers: u16,
}

/// Asks the process that runs, if one does.
///
/// # Errors
/// If it refuses, or does not answer.
pub fn knock(folder: &Folder) -> Result<Option<Invitation>, TakeoverError> {
    let Some(channel) = folder.connect()? else { return Ok(None) };
    let hello = Message::Hello { version: env!("CARGO_PKG_VERSION").to_owned(), format: FORMAT };
    channel.send(&hello, &[]).map_err(TakeoverError::system("the process that runs"))?;
    match channel.receive()? {
        (Message::Accepted { workers, .. }, _) => Ok(Some(Invitation { channel, workers })),
        (Message::Refused { why }, _) => Err(TakeoverError::Refused(why)),
        (other, _) => Err(TakeoverError::Confused(format!("says {other:?} instead of Accepted"))),
    }
}

/// Everything that the other process had.
pub struct Inheritance {
    channel: Channel,
    /// Its state.
    pub snapshot: Snapshot,
    /// Allocations that had ended, by reason.
    pub ended: Vec<(String, u64)>,
    /// Listeners by worker, in the order of their numbers there.
    listeners: Vec<Vec<(u32, ListenerSocket)>>,
    streams: Vec<Vec<StreamListener>>,
    known: HashMap<u32, Pinned>,
    relays: HashMap<(u16, RelaySocket), (OwnedFd, u32)>,
    /// Sockets that keep ports for the owners of RESERVATION-TOKENs.
    pub reserved: HashMap<SocketAddr, OwnedFd>,
    /// Numbers of listeners here, by those there.
    numbers: Vec<HashMap<u32, u32>>,
}

impl Invitation {
    /// Takes everything; the clients of the other process wait from now on.
    ///
    /// # Errors
    /// If it did not come whole; the other process goes on then.
    pub fn accept(self) -> Result<Inheritance, TakeoverError> {
        let Invitation { channel, workers } = self;
        channel.send(&Message::Begin, &[]).map_err(TakeoverError::system("the process that runs"))?;
        // It looks at its door now and then, and then its workers let go, one turn of each after the other.
        channel.set_patience(2 * PATIENCE).map_err(TakeoverError::system("the process that runs"))?;
        let mut sockets = Sockets::of(usize::from(workers));
        let mut count = 0;
        loop {
            let (message, descriptors) = channel.receive()?;
            match message {
                Message::Sockets(names) if names.len() == descriptors.len() => {
                    count += names.len() as u64;
                    for (name, socket) in names.into_iter().zip(descriptors) {
                        sockets.keep(name, socket)?;
                    }
                }
                Message::State { bytes, sockets: sent, ended } if sent == count => {
                    let state = descriptors.into_iter().next();
                    let state = state.ok_or_else(|| TakeoverError::Confused("sent no state".to_owned()))?;
                    let state = read_state(state, bytes)?;
                    let snapshot =
                        Snapshot::open(&state).map_err(|why| TakeoverError::Unfit(why.to_string()))?;
                    return Ok(sockets.with(channel, snapshot, ended));
                }
                Message::State { .. } => {
                    return Err(TakeoverError::Confused("did not send every socket".to_owned()));
                }
                Message::Refused { why } => return Err(TakeoverError::Refused(why)),
                other => return Err(TakeoverError::Confused(format!("says {other:?} out of turn"))),
            }
        }
    }
}

/// Sockets as they come.
struct Sockets {
    listeners: Vec<Vec<(u32, ListenerSocket)>>,
    streams: Vec<Vec<StreamListener>>,
    known: HashMap<u32, Pinned>,
    relays: HashMap<(u16, RelaySocket), (OwnedFd, u32)>,
    reserved: HashMap<SocketAddr, OwnedFd>,
}

impl Sockets {
    fn of(workers: usize) -> Sockets {
        Sockets {
            listeners: (0..workers).map(|_| Vec::new()).collect(),
            streams: (0..workers).map(|_| Vec::new()).collect(),
            known: HashMap::new(),
            relays: HashMap::new(),
            reserved: HashMap::new(),
        }
    }

    fn keep(&mut self, name: Moved, socket: OwnedFd) -> Result<(), TakeoverError> {
        let nobodys =
            || TakeoverError::Confused("sent a socket of a worker that it does not have".to_owned());
        match name {
            Moved::Listener(worker, number, lost) => {
                let own = self.listeners.get_mut(usize::from(worker)).ok_or_else(nobodys)?;
                let listener = ListenerSocket::adopt(socket, lost);
                own.push((number, listener.map_err(TakeoverError::system("a listener"))?));
            }
            Moved::Strangers(worker, number, lost) => {
                let own = self.listeners.get_mut(usize::from(worker)).ok_or_else(nobodys)?;
                let listener =
                    own.iter_mut().find(|(listener, _)| *listener == number).ok_or_else(nobodys)?;
                let adopted = listener.1.adopt_strangers(socket, lost);
                adopted.map_err(TakeoverError::system("a listener's socket for strangers"))?;
            }
            Moved::Known(number, seed, sockets) => {
                let pinned = Pinned::adopt(seed, sockets, socket);
                self.known.insert(number, pinned.map_err(TakeoverError::system("what the kernel knows"))?);
            }
            Moved::Streams(worker, plain, tls) => {
                let own = self.streams.get_mut(usize::from(worker)).ok_or_else(nobodys)?;
                let listener = StreamListener::adopt(socket, Offer { plain, tls });
                own.push(listener.map_err(TakeoverError::system("a listener"))?);
            }
            Moved::Relay(worker, index, generation, lost) => {
                self.relays.insert((worker, RelaySocket { index, generation }), (socket, lost));
            }
            Moved::Reserved(address) => drop(self.reserved.insert(address, socket)),
        }
        Ok(())
    }

    fn with(self, channel: Channel, snapshot: Snapshot, ended: Vec<(String, u64)>) -> Inheritance {
        let Sockets { listeners, streams, known, relays, reserved } = self;
        let numbers = listeners.iter().map(|_| HashMap::new()).collect();
        Inheritance { channel, snapshot, ended, listeners, streams, known, relays, reserved, numbers }
    }
}

impl Inheritance {
    /// The listeners at an address, one of each worker, if there are any; with port 0 those of any port. Also what the
    /// kernel knows of their clients.
    pub fn take_listeners(
        &mut self,
        address: SocketAddr,
        place: u32,
    ) -> Option<(Vec<ListenerSocket>, Option<Pinned>)> {
        let is_it = |(_, listener): &(u32, ListenerSocket)| fits(address, listener.local_addr());
        let found: Option<Vec<usize>> = self.listeners.iter().map(|own| own.iter().position(is_it)).collect();
        let found = found?;
        let known = self.listeners.first().zip(found.first()).map(|(own, at)| own[*at].0);
        let known = known.and_then(|number| self.known.remove(&number));
        let found = found.into_iter().zip(&mut self.listeners).zip(&mut self.numbers);
        let take = |((at, own), numbers): ((usize, &mut Vec<_>), &mut HashMap<u32, u32>)| {
            let (number, listener): (u32, ListenerSocket) = own.remove(at);
            numbers.insert(number, place);
            listener
        };
        Some((found.map(take).collect(), known))
    }

    /// The same for streams, where the same may be spoken.
    pub fn take_stream_listeners(
        &mut self,
        address: SocketAddr,
        offer: Offer,
    ) -> Option<Vec<StreamListener>> {
        let is_it =
            |listener: &StreamListener| fits(address, listener.local_addr()) && listener.offer() == offer;
        let found: Option<Vec<usize>> = self.streams.iter().map(|own| own.iter().position(is_it)).collect();
        Some(found?.into_iter().zip(&mut self.streams).map(|(at, own)| own.remove(at)).collect())
    }

    /// A relay socket, with what was lost at it.
    ///
    /// # Errors
    /// If it has not come.
    pub fn take_relay(&mut self, worker: u16, relay: RelaySocket) -> Result<(OwnedFd, u32), TakeoverError> {
        let found = self.relays.remove(&(worker, relay));
        found.ok_or_else(|| TakeoverError::Confused("did not send every relay socket".to_owned()))
    }

    /// What has become of a worker's listeners.
    pub fn ground(&self, worker: u16) -> ListenersHere<'_> {
        ListenersHere(self.numbers.get(usize::from(worker)))
    }

    /// Tells the other process that all of it is in use as soon as it may be; returns when it may.
    ///
    /// # Errors
    /// If it may not: the other process has it, or has gone.
    pub fn confirm(&self) -> Result<(), TakeoverError> {
        let sent = self.channel.send(&Message::Adopted, &[]);
        sent.map_err(TakeoverError::system("the process that runs"))?;
        match self.channel.receive()? {
            (Message::Yours, _) => Ok(()),
            (other, _) => Err(TakeoverError::Confused(format!("says {other:?} instead of Yours"))),
        }
    }
}

/// Where clients of a worker's listeners are reached now.
pub struct ListenersHere<'a>(Option<&'a HashMap<u32, u32>>);

impl Ground for ListenersHere<'_> {
    fn client_socket(&self, path: &ClientPath) -> Option<ClientSocket> {
        let here = self.0?.get(&path.socket.index).filter(|_| path.socket.is_listener())?;
        Some(ClientSocket::listener(*here))
    }

    fn has_connection(&self, _: ConnectionId) -> bool {
        false
    }

    fn keeps_plane(&self) -> bool {
        false
    }
}

fn fits(wanted: SocketAddr, has: SocketAddr) -> bool {
    wanted.ip() == has.ip() && (wanted.port() == has.port() || wanted.port() == 0)
}

/// The state from memory that nobody changes while it is read.
fn read_state(memory: OwnedFd, bytes: u64) -> Result<Zeroizing<Vec<u8>>, TakeoverError> {
    let failed = |error: rustix::io::Errno| TakeoverError::System("the state", error.into());
    let seals = rustix::fs::fcntl_get_seals(&memory).map_err(failed)?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) {
        return Err(TakeoverError::Unfit("the state is not sealed".to_owned()));
    }
    let mut file = File::from(memory);
    let len = file.metadata().map_err(TakeoverError::system("the state"))?.len();
    if len != bytes || len > MAX_STATE {
        return Err(TakeoverError::Unfit(format!("the state has {len} bytes, not {bytes}")));
    }
    let mut state = Zeroizing::new(vec![0; len as usize]);
    file.rewind().and_then(|()| file.read_exact(&mut state)).map_err(TakeoverError::system("the state"))?;
    Ok(state)
}
