//! Bytes from one connection to another, both ways: all of them, in their order, and nothing added.
//!
//! ```text
//!   client ─read─► what the far end has not taken yet ─write─► far end
//!          ◄─write─ what the client has not taken yet  ◄─read─
//! ```
//!
//! Nothing is read from one end while something waits for the other, so whoever reads slowly slows whoever sends, by
//! TCP itself, and a splice holds one piece each way at most; idle it owns no memory. That an end sends no more (FIN) is
//! passed on after all that came before, a reset as a reset. What the bytes mean it never asks.
//!
//! Its owner has the connections and the poller: [`Splice::interest`] says what an end waits for, [`Watched`] keeps what
//! the poller was told of it, and [`Splice::carry`] is called for those whose data can go on ([`senders`]). Its owner has
//! the deadlines and bounds, too: how much is read at once is an argument.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use socket2::SockRef;

use super::poller::Poller;
use super::tls::Session;

/// Read at once at the most, bytes.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// TLS records that have not come whole: more is none of TLS.
const MAX_RECORDS_BYTES: usize = 68 << 10;

/// One of two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// The client's.
    Client,
    /// The one that we, or somebody else, made for it.
    Far,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Client, Side::Far];

    /// The other one.
    pub(super) const fn other(self) -> Side {
        match self {
            Side::Client => Side::Far,
            Side::Far => Side::Client,
        }
    }
}

/// The connections of a splice, whose sockets don't block.
#[derive(Clone, Copy)]
pub(super) struct Sockets<'a> {
    pub(super) client: &'a TcpStream,
    pub(super) far: &'a TcpStream,
}

impl<'a> Sockets<'a> {
    fn of(self, side: Side) -> &'a TcpStream {
        match side {
            Side::Client => self.client,
            Side::Far => self.far,
        }
    }

    /// The error that a side's connection has come to, if it has and the poller says so.
    pub(super) fn fault(self, side: Side, flags: EventFlags) -> io::Result<()> {
        if !flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            return Ok(());
        }
        self.of(side).take_error()?.map_or(Ok(()), Err)
    }

    /// Closing them, once that is done, will be a reset: neither takes it for a regular end.
    pub(super) fn reset(self) {
        for side in Side::BOTH {
            reset(self.of(side));
        }
    }
}

/// Whose data can go on when the poller reports this of a side: its own, and what the other one's waits for, room.
pub(super) fn senders(side: Side, flags: EventFlags) -> impl Iterator<Item = Side> {
    let from_here = flags.intersects(EventFlags::IN | EventFlags::HUP).then_some(side);
    let to_here = flags.contains(EventFlags::OUT).then_some(side.other());
    from_here.into_iter().chain(to_here)
}

/// What a poller looks for at both sides; `None` where it looks no more.
pub(super) struct Watched([Option<EventFlags>; 2]);

impl Watched {
    /// As they were put into the poller, the client's side first.
    pub(super) fn new(flags: [Option<EventFlags>; 2]) -> Watched {
        Watched(flags)
    }

    /// Has the poller look for something else at a side.
    pub(super) fn update(
        &mut self,
        poller: &Poller,
        sockets: Sockets<'_>,
        (side, token): (Side, u64),
        wanted: Option<EventFlags>,
    ) -> io::Result<()> {
        let socket = sockets.of(side);
        match (std::mem::replace(&mut self.0[side as usize], wanted), wanted) {
            (None, Some(flags)) => poller.add(socket, token, flags)?,
            (Some(_), None) => poller.remove(socket),
            (Some(before), Some(flags)) if before != flags => poller.change(socket, token, flags),
            _ => {}
        }
        Ok(())
    }
}

/// Memory that one splice after the other uses.
pub(super) struct Scratch {
    read: Box<[u8]>,
    plain: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch { read: vec![0; PIECE_BYTES].into(), plain: Vec::new() }
    }
}

/// One of the connections, with TLS of ours on it or without.
#[derive(Default)]
pub(super) struct End {
    tls: Option<Box<Session>>,
    /// TLS records that have not come whole.
    records: Vec<u8>,
    /// What is to be written to it, as it goes out.
    waiting: Vec<u8>,
    /// So much of that is written.
    written: usize,
    /// It sends nothing more.
    has_finished: bool,
    /// The farewell of TLS is among what waits.
    is_farewell_queued: bool,
    /// It was told that nothing more comes.
    is_told: bool,
    /// It has said that nothing more comes, read or not, and was told so: the poller reports it whatever it looks for.
    has_hung_up: bool,
}

impl End {
    /// It speaks TLS with us: `records` have not come whole.
    pub(super) fn with_tls(self, tls: Option<Box<Session>>, records: Vec<u8>) -> End {
        End { tls, records, ..self }
    }

    /// Has this to be written to it before anything else, as it goes out.
    pub(super) fn with_waiting(self, waiting: Vec<u8>) -> End {
        End { waiting, ..self }
    }

    /// It has said already that it sends nothing more.
    pub(super) fn with_finished(self, has_finished: bool) -> End {
        End { has_finished, ..self }
    }

    /// Bytes of memory that wait to go out, or for the rest of a record.
    fn held(&self) -> usize {
        self.waiting.len() - self.written + self.records.len()
    }

    fn has_waiting(&self) -> bool {
        self.written < self.waiting.len()
    }

    /// Appends what it has sent, without TLS, to `scratch`.
    fn read<'a>(
        &mut self,
        mut socket: &TcpStream,
        limit: usize,
        scratch: &'a mut Scratch,
    ) -> io::Result<&'a [u8]> {
        let limit = limit.min(scratch.read.len());
        let read = match socket.read(&mut scratch.read[..limit]) {
            Ok(0) => {
                self.has_finished = true;
                0
            }
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        let Some(tls) = &mut self.tls else { return Ok(&scratch.read[..read]) };
        scratch.plain.clear();
        self.records.extend_from_slice(&scratch.read[..read]);
        let progress = tls.read(&mut self.records, &mut scratch.plain, &mut self.waiting);
        self.records.drain(..progress.consumed);
        if self.records.is_empty() {
            self.records = Vec::new();
        }
        self.has_finished |= progress.is_over;
        match progress.fault {
            Some(_) => {
                // The alert that says why, as far as it is taken at once.
                let _ = self.flush(socket);
                Err(io::ErrorKind::InvalidData.into())
            }
            None if self.records.len() > MAX_RECORDS_BYTES => Err(io::ErrorKind::InvalidData.into()),
            None => Ok(&scratch.plain),
        }
    }

    /// Sends bytes, and keeps what the kernel doesn't take now.
    fn send(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(tls) = &mut self.tls {
            return match tls.write(&mut self.records, bytes, &mut self.waiting) {
                true => self.flush(socket),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            };
        }
        let sent = if self.has_waiting() { 0 } else { write_some(socket, bytes)? };
        self.waiting.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Writes what waits, as far as the kernel takes it.
    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.has_waiting() {
            match write_some(socket, &self.waiting[self.written..])? {
                0 => return Ok(()),
                written => self.written += written,
            }
        }
        (self.waiting, self.written) = (Vec::new(), 0);
        Ok(())
    }

    /// Says that nothing more comes, once all is sent.
    fn finish(&mut self, socket: &TcpStream) -> io::Result<()> {
        if let Some(tls) = self.tls.as_mut().filter(|_| !self.is_farewell_queued) {
            self.is_farewell_queued = true;
            tls.close(&mut self.records, &mut self.waiting);
            self.flush(socket)?;
        }
        if !self.has_waiting() && !self.is_told {
            self.is_told = true;
            match socket.shutdown(Shutdown::Write) {
                // It has gone meanwhile, which its other direction tells.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Nothing more is to be read from it, nor written to it.
    fn is_over(&self) -> bool {
        self.has_finished && self.is_told
    }
}

/// Two connections, each of which gets what the other one sends.
pub(super) struct Splice {
    client: End,
    far: End,
}

impl Splice {
    pub(super) fn new(client: End, far: End) -> Splice {
        Splice { client, far }
    }

    /// What of an end is to be waited for: to be read, if it may be now, to be written, or neither, with errors even so.
    /// `None` while it must not be watched: the poller would say again and again that it is over.
    pub(super) fn interest(&self, side: Side, may_read: bool) -> Option<EventFlags> {
        let (end, other) = self.ends(side);
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, may_read && !end.has_finished && !other.has_waiting());
        interest.set(EventFlags::OUT, end.has_waiting());
        let is_mute = end.is_over() || end.has_hung_up && interest.is_empty();
        (!is_mute).then_some(interest)
    }

    /// Remembers what the poller has reported of a side.
    pub(super) fn note(&mut self, side: Side, flags: EventFlags) {
        self.ends_mut(side).0.has_hung_up |= flags.contains(EventFlags::HUP);
    }

    /// Carries what `from` has sent, `limit` bytes at the most, after what still waited for the other end. Gives how many
    /// bytes were read.
    ///
    /// # Errors
    /// If either connection has failed: the splice is over, and [`Sockets::reset`] passes that on.
    pub(super) fn carry(
        &mut self,
        from: Side,
        limit: usize,
        sockets: Sockets<'_>,
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
        let (from_socket, to_socket) = (sockets.of(from), sockets.of(from.other()));
        let (from, to) = self.ends_mut(from);
        to.flush(to_socket)?;
        let mut carried = 0;
        if !to.has_waiting() && !from.has_finished && limit > 0 {
            let bytes = from.read(from_socket, limit, scratch)?;
            carried = bytes.len();
            to.send(to_socket, bytes)?;
            // What TLS itself had to say about it.
            from.flush(from_socket)?;
        }
        if from.has_finished && !to.has_waiting() {
            to.finish(to_socket)?;
        }
        Ok(carried)
    }

    /// Sends bytes that came from an end before it was one.
    ///
    /// # Errors
    /// As [`Splice::carry`].
    pub(super) fn carry_before(&mut self, from: Side, bytes: &[u8], sockets: Sockets<'_>) -> io::Result<()> {
        self.ends_mut(from).1.send(sockets.of(from.other()), bytes)
    }

    /// Both ends have finished, and everything is sent.
    pub(super) fn is_over(&self) -> bool {
        self.client.is_over() && self.far.is_over()
    }

    /// Bytes of memory that it holds.
    pub(super) fn held(&self) -> usize {
        self.client.held() + self.far.held()
    }

    fn ends(&self, side: Side) -> (&End, &End) {
        match side {
            Side::Client => (&self.client, &self.far),
            Side::Far => (&self.far, &self.client),
        }
    }

    fn ends_mut(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Client => (&mut self.client, &mut self.far),
            Side::Far => (&mut self.far, &mut self.client),
        }
    }
}

/// Its close will be a reset: nothing of it stays in the kernel.
pub(super) fn reset(socket: &TcpStream) {
    // Where it fails, the connection is closed in the usual way.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// One write; 0 if the kernel takes nothing now.
fn write_some(mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        outcome => outcome,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use turnpike_testkit::PATIENCE;

    use super::*;

    /// A splice with what stands at its ends.
    struct Rig {
        splice: Splice,
        ours: [TcpStream; 2],
        client: TcpStream,
        far: TcpStream,
        scratch: Scratch,
    }

    /// Our end of a connection, which doesn't block, and the other one.
    pub(in super::super) fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (theirs, _) = listener.accept().expect("connected");
        ours.set_nonblocking(true).expect("an option");
        theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        (ours, theirs)
    }

    impl Rig {
        fn new() -> Rig {
            let ((to_client, client), (to_far, far)) = (pair(), pair());
            let splice = Splice::new(End::default(), End::default());
            Rig { splice, ours: [to_client, to_far], client, far, scratch: Scratch::new() }
        }

        fn carry(&mut self, from: Side, limit: usize) -> io::Result<usize> {
            let [client, far] = &self.ours;
            self.splice.carry(from, limit, Sockets { client, far }, &mut self.scratch)
        }

        /// Carries both ways until something holds.
        fn until(&mut self, holds: impl Fn(&Rig) -> bool) -> io::Result<()> {
            let deadline = Instant::now() + PATIENCE;
            while !holds(self) {
                assert!(Instant::now() < deadline, "it did not happen");
                for side in Side::BOTH {
                    self.carry(side, PIECE_BYTES)?;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        }
    }

    #[test]
    fn an_end_is_passed_on_while_the_other_way_goes_on() {
        let mut rig = Rig::new();
        rig.client.write_all(b"all I have to say").expect("sent");
        rig.client.shutdown(Shutdown::Write).expect("connected");
        rig.until(|rig| rig.splice.far.is_told).expect("no failure");
        let mut heard = Vec::new();
        rig.far.read_to_end(&mut heard).expect("a regular end");
        assert_eq!(heard, b"all I have to say");
        rig.far.write_all(b"and I").expect("sent");
        rig.until(|rig| !rig.splice.client.has_waiting()).expect("no failure");
        drop(rig.far.shutdown(Shutdown::Write));
        rig.until(|rig| rig.splice.is_over()).expect("no failure");
        heard.clear();
        rig.client.read_to_end(&mut heard).expect("a regular end");
        assert_eq!(heard, b"and I");
        assert_eq!(Side::BOTH.map(|side| rig.splice.interest(side, true)), [None, None]);
    }

    #[test]
    fn a_reset_is_passed_on_as_a_reset() {
        let mut rig = Rig::new();
        reset(&rig.client);
        drop(std::mem::replace(&mut rig.client, pair().1));
        rig.until(|_| false).expect_err("the connection has failed");
        let [client, far] = &rig.ours;
        Sockets { client, far }.reset();
        drop(rig.ours);
        let error = rig.far.read(&mut [0; 8]).expect_err("no regular end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn nothing_is_read_while_something_waits_and_nothing_is_lost() {
        let mut rig = Rig::new();
        rig.client.set_nonblocking(true).expect("an option");
        // More than the kernel's buffers hold.
        let data: Vec<u8> = (0_u32..8 << 20).flat_map(u32::to_be_bytes).collect();
        let (mut sent, mut held) = (0, 0);
        // Nobody reads: after a while nothing more is taken from the sender.
        let mut stalled_since = Instant::now();
        while stalled_since.elapsed() < Duration::from_millis(300) && sent < data.len() {
            let more = write_some(&rig.client, &data[sent..]).expect("no failure");
            let carried = rig.carry(Side::Client, PIECE_BYTES).expect("no failure");
            held = held.max(rig.splice.held());
            sent += more;
            if more + carried > 0 {
                stalled_since = Instant::now();
            }
        }
        assert!(sent < data.len() && held <= PIECE_BYTES, "{sent} sent, {held} held");
        assert_eq!(rig.splice.interest(Side::Client, true), Some(EventFlags::empty()));
        assert_eq!(rig.splice.interest(Side::Far, true), Some(EventFlags::IN | EventFlags::OUT));
        let mut far = rig.far.try_clone().expect("a descriptor");
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).map(|_| heard)
        });
        let deadline = Instant::now() + PATIENCE;
        while sent < data.len() {
            assert!(Instant::now() < deadline, "it did not go on");
            sent += write_some(&rig.client, &data[sent..]).expect("no failure");
            rig.carry(Side::Client, PIECE_BYTES).expect("no failure");
        }
        rig.client.shutdown(Shutdown::Write).expect("connected");
        rig.until(|rig| rig.splice.far.is_told).expect("no failure");
        assert!(reader.join().expect("no panic").expect("a regular end") == data, "something is missing");
        assert_eq!(rig.splice.held(), 0);
    }

    #[test]
    fn no_more_is_read_than_is_allowed() {
        let mut rig = Rig::new();
        rig.client.write_all(&[7; 1000]).expect("sent");
        let deadline = Instant::now() + PATIENCE;
        let mut carried = vec![];
        while carried.iter().sum::<usize>() < 1000 {
            assert!(Instant::now() < deadline, "it did not happen");
            assert_eq!(rig.carry(Side::Client, 0).expect("no failure"), 0);
            carried.push(rig.carry(Side::Client, 300).expect("no failure"));
        }
        assert!(carried.iter().all(|count| *count <= 300));
        rig.far.read_exact(&mut [0; 1000]).expect("all of it");
    }
}
