//! The old process: it listens at the door, and gives everything away, or keeps all of it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use rustix::fs::{MemfdFlags, SealFlags};
use tracing::{error, info, warn};
use turnpike_driver::{clock, reserved::Reserved};
use turnpike_proto::migrate::{FORMAT, Seal, SnapshotBytes};

use super::{Channel, Folder, MAX_DESCRIPTORS, Message, Moved, PATIENCE, PREPARING, TakeoverError};
use crate::control::Control;
use crate::worker::Question;
use crate::worker::known::Known;
use crate::worker::leaving::{Leaving, Step, Told};

/// Where a process that takes over comes in: looked at now and then by whoever has to go.
pub(crate) struct Door {
    folder: Folder,
    listener: OwnedFd,
    /// Who has knocked, and until when it is waited for.
    guest: Option<(Channel, bool, Instant)>,
}

impl Door {
    /// Opens it.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub(crate) fn open(folder: Folder) -> Result<Door, TakeoverError> {
        let listener = folder.listen()?;
        Ok(Door { folder, listener, guest: None })
    }

    /// Looks whether somebody is there; gives the one that is prepared to take over. `why_not` says why nobody may.
    pub(crate) fn look(&mut self, workers: u16, why_not: impl Fn() -> Option<String>) -> Option<Channel> {
        if self.guest.is_none() {
            let guest = self.next_guest()?;
            self.guest = Some((guest, false, Instant::now() + PREPARING));
        }
        let (guest, is_accepted, deadline) = self.guest.take()?;
        let said = match guest.look() {
            Ok(said) => said,
            Err(why) => {
                warn!("not taken over: {why}; this process goes on");
                return None;
            }
        };
        match (said, is_accepted) {
            (None, _) if Instant::now() < deadline => self.guest = Some((guest, is_accepted, deadline)),
            (None, _) => warn!("not taken over: the other process says nothing; this process goes on"),
            (Some(Message::Begin), true) => return Some(guest),
            (Some(Message::Hello { version, format }), false) => {
                let answer = match why_not_with(format).or_else(why_not) {
                    Some(why) => Message::Refused { why },
                    None => Message::Accepted { version: env!("CARGO_PKG_VERSION").to_owned(), workers },
                };
                if let Message::Refused { why } = &answer {
                    warn!(version, "not taken over: {why}; this process goes on");
                }
                let is_accepted = matches!(answer, Message::Accepted { .. });
                let is_told = guest.send(&answer, &[]).is_ok();
                self.guest = (is_accepted && is_told).then_some((guest, true, deadline));
            }
            (Some(other), _) => warn!("not taken over: {other:?} is out of turn; this process goes on"),
        }
        None
    }

    /// Somebody new, if it is one of this very user.
    fn next_guest(&self) -> Option<Channel> {
        let socket = rustix::net::accept_with(&self.listener, rustix::net::SocketFlags::CLOEXEC).ok()?;
        let guest = Channel::new(socket).ok()?;
        match guest.user() {
            Ok(user) if user == rustix::process::geteuid().as_raw() => Some(guest),
            other => {
                warn!("not taken over: another user ({other:?}) asked; this process goes on");
                let why = "this process is another user's".to_owned();
                let _ = guest.send(&Message::Refused { why }, &[]);
                None
            }
        }
    }

    /// Whoever takes over opens a door of its own at the same place.
    pub(crate) fn shut(&self) {
        self.folder.remove();
    }

    /// Nobody has.
    pub(crate) fn open_again(&mut self) {
        match self.folder.listen() {
            Ok(listener) => self.listener = listener,
            Err(why) => error!("no other process can take over any more: {why}"),
        }
    }
}

/// A process that knows older formats only could not read ours.
fn why_not_with(format: u16) -> Option<String> {
    (format < FORMAT).then(|| {
        format!("its state has format {FORMAT}, and the version that wants it reads formats up to {format}")
    })
}

/// Gives everything to `guest`. If that fails, all workers go on as if nothing had been. `before_last` is called before
/// the last word: what the other process needs is let go of then.
///
/// # Errors
/// Why it failed.
pub(crate) fn give(
    guest: Channel,
    control: &Control,
    (reserved, known): (&Reserved, &Known),
    before_last: impl FnOnce(),
) -> Result<(), TakeoverError> {
    let began = Instant::now();
    let guest = Arc::new(guest);
    let workers = Workers::begin(control)?;
    let given = give_all(&guest, &workers, control, (reserved, known)).and_then(|sockets| {
        // Whoever has adopted it all waits for this word, and nobody for less.
        before_last();
        guest.send(&Message::Yours, &[]).map_err(TakeoverError::system("the other process"))?;
        Ok(sockets)
    });
    let paused = began.elapsed();
    workers.tell_all(if given.is_ok() { || Step::Leave } else { || Step::Resume });
    let sockets = given?;
    if let Some(plane) = control.shared().plane() {
        plane.give_away();
    }
    info!(sockets, paused_ms = paused.as_millis() as u64, "taken over by another process");
    Ok(())
}

fn give_all(
    guest: &Arc<Channel>,
    workers: &Workers,
    control: &Control,
    (reserved, known): (&Reserved, &Known),
) -> Result<usize, TakeoverError> {
    workers.await_all(|told| matches!(told, Told::Paused).then_some(()))?;
    workers.tell_all(|| Step::Export(Arc::clone(guest)));
    let exported = workers.await_all(|told| match told {
        Told::Exported { parts, sockets, ended } => Some((parts, sockets, ended)),
        _ => None,
    })?;
    let kept = give_reserved(guest, reserved)? + give_known(guest, known)?;
    let now = clock::now();
    let mut parts = vec![control.shared().export(now)];
    let (mut sockets, mut ended) = (kept, Vec::new());
    for (own, sent, own_ended) in exported {
        parts.extend(own);
        sockets += sent;
        ended.extend(own_ended);
    }
    let (state, bytes) = seal(&parts)?;
    let message = Message::State { bytes, sockets: sockets as u64, ended };
    guest.send(&message, &[state.as_fd()]).map_err(TakeoverError::system("the other process"))?;
    match guest.receive()? {
        (Message::Adopted, _) => Ok(sockets),
        (Message::Refused { why }, _) => Err(TakeoverError::Refused(why)),
        (other, _) => Err(TakeoverError::Confused(format!("says {other:?} instead of Adopted"))),
    }
}

fn give_reserved(guest: &Channel, reserved: &Reserved) -> Result<usize, TakeoverError> {
    let failed = TakeoverError::system("reserved ports");
    let kept = reserved.copies().map_err(failed)?;
    for batch in kept.chunks(MAX_DESCRIPTORS) {
        let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, socket)| socket.as_fd()).collect();
        let names = batch.iter().map(|(address, _)| Moved::Reserved(*address)).collect();
        let sent = guest.send(&Message::Sockets(names), &descriptors);
        sent.map_err(TakeoverError::system("the other process"))?;
    }
    Ok(kept.len())
}

/// What the kernel knows of clients: the program at the listeners goes on with it.
fn give_known(guest: &Channel, known: &Known) -> Result<usize, TakeoverError> {
    let mut count = 0;
    for (number, pinned) in known.parts() {
        let Some(memory) = pinned.memory() else { continue };
        let pinning = pinned.pinning();
        let name = Moved::Known(number, pinning.seed, pinning.sockets);
        let sent = guest.send(&Message::Sockets(vec![name]), &[memory]);
        sent.map_err(TakeoverError::system("the other process"))?;
        count += 1;
    }
    Ok(count)
}

/// The whole state in memory that nobody can change any more.
fn seal(parts: &[SnapshotBytes]) -> Result<(OwnedFd, u64), TakeoverError> {
    let failed = |error: rustix::io::Errno| TakeoverError::System("memory for the state", error.into());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("turnpike-state", flags).map_err(failed)?;
    let mut file = File::from(memory);
    let (mut digest, header) = Seal::begin();
    let mut write = |bytes: &[u8]| {
        file.write_all(bytes)
            .map(|()| bytes.len() as u64)
            .map_err(TakeoverError::system("memory for the state"))
    };
    let mut len = write(&header)?;
    for part in parts {
        digest.add(part);
        len += write(part)?;
    }
    len += write(&digest.end())?;
    let memory = OwnedFd::from(file);
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, all).map_err(failed)?;
    Ok((memory, len))
}

/// The workers while they are asked to go.
struct Workers(Vec<(Sender<Step>, Receiver<Told>)>);

impl Workers {
    /// Asks all of them to let go of their sockets.
    fn begin(control: &Control) -> Result<Workers, TakeoverError> {
        let mut workers = Workers(Vec::new());
        for (worker, number) in control.workers().iter().zip(0..) {
            let ((steps, to_do), (tell, told)) = (channel(), channel());
            let leaving = Box::new(Leaving::new(number, to_do, tell));
            if let Err(why) = worker.ask(Question::Leave(leaving)) {
                workers.tell_all(|| Step::Resume);
                return Err(TakeoverError::Unfit(why.to_string()));
            }
            workers.0.push((steps, told));
        }
        Ok(workers)
    }

    fn tell_all(&self, step: impl Fn() -> Step) {
        // One that is gone has ended the process anyway.
        self.0.iter().for_each(|(steps, _)| drop(steps.send(step())));
    }

    fn await_all<T>(&self, expected: impl Fn(Told) -> Option<T>) -> Result<Vec<T>, TakeoverError> {
        let deadline = Instant::now() + PATIENCE;
        let one = |(_, told): &(Sender<Step>, Receiver<Told>)| {
            let left = deadline.saturating_duration_since(Instant::now());
            match told.recv_timeout(left) {
                Ok(Told::Failed(why)) => Err(TakeoverError::Unfit(why)),
                Ok(told) => {
                    expected(told).ok_or_else(|| TakeoverError::Unfit("a worker is out of step".to_owned()))
                }
                Err(_) => Err(TakeoverError::Unfit("a worker stands still".to_owned())),
            }
        };
        self.0.iter().map(one).collect()
    }
}
