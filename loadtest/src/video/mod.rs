//! Video calls to clients whose way to the server is a stream: who is sent too much at once, or for whom the
//! way is too narrow, what does the server do with that?
//!
//! ```text
//!   peer thread: paced frames ─UDP─► server ─TCP or TLS─► way (delay, window, rate) ─► client: what arrived when
//! ```
//! `shape` says what a stream consists of and what a viewer saw, `way` is the delaying proxy, this file joins
//! them to a server.

pub mod shape;
pub mod way;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use self::shape::{FrameSeen, Shape, Viewed, view};
use self::way::{Delaying, Way};
use crate::blocking::{Carrier, Connection, Exchanged};
use crate::engine::mmsg::{mono_ns, set_precise_timers};
use crate::engine::payload::{Header, MIN_PAYLOAD, tag};
use crate::engine::stream::Dial;
use crate::engine::stream::tls::TlsClient;
use crate::session::{Session, SessionConfig, SetupError, State};
use crate::stats::Delays;

/// Calls at most: each has a client, a peer and a thread for either.
pub const MAX_CALLS: usize = 64;
/// Smallest payload: the usual header, and the frame's number.
pub const MIN_BYTES: usize = MIN_PAYLOAD + 4;
/// Longest wait of a client for one message.
const WAIT: Duration = Duration::from_millis(20);
/// How long what is under way is waited for after the last packet.
const DRAIN: Duration = Duration::from_secs(3);
/// Between set-up and first frame, so that all clients are at their sockets.
const LEAD_NS: u64 = 50_000_000;
/// Times that the set-up and the release are given up after; a stream's request waits 39.5 s by itself.
const SETUP_WITHIN: Duration = Duration::from_secs(30);
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// What is done.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's TCP or TLS address.
    pub server: SocketAddr,
    /// Over TLS.
    pub tls: Option<TlsClient>,
    /// Local address of the way's connections to the server.
    pub local: Option<IpAddr>,
    /// The clients' sessions.
    pub session: Arc<SessionConfig>,
    /// The stream.
    pub shape: Shape,
    /// The way.
    pub way: Way,
    /// How long frames are sent.
    pub duration: Duration,
    /// A frame later than this after its last packet left, the way's own delay not counted, is late, ns.
    pub late_ns: u64,
}

/// What all calls together showed.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// As viewers saw it.
    pub viewed: Viewed,
    /// Packets that peers sent.
    pub sent: u64,
    /// Distinct packets that clients received.
    pub received: u64,
    /// Packets received again, or after a later one: a stream does neither, a server may.
    pub out_of_order: u64,
    /// From a packet's leaving to its arrival, less the way's own delay, ns.
    pub added: Delays,
    /// The same of whole frames, from their last packet's leaving, ns.
    pub frames: Delays,
    /// Packets that left more than 5 ms after their time: the generator's fault.
    pub sent_late: u64,
    /// Time of sending.
    pub seconds: f64,
    /// Stopped by a signal.
    pub interrupted: bool,
}

/// A client that is ready, and the peer that will send to it.
struct Call {
    index: u32,
    connection: Connection,
    session: Session,
    rng: ChaCha8Rng,
    peer: UdpSocket,
}

/// Calls that are set up.
pub struct Calls {
    calls: Vec<Call>,
    settings: Settings,
    _way: Delaying,
}

impl Calls {
    /// Sets one call up for each of the peers' sockets.
    ///
    /// # Errors
    /// Of the first client that can't be.
    pub fn set_up(settings: Settings, peers: Vec<UdpSocket>, stop: &AtomicBool) -> Result<Self, SetupError> {
        let socket = |error: std::io::Error| SetupError::Socket(error.to_string());
        let way = Delaying::start(settings.server, settings.local, settings.way).map_err(socket)?;
        let mut calls = Vec::new();
        for (index, peer) in (0..).zip(peers) {
            let dial = Dial { tls: settings.tls.as_ref(), ..Dial::default() };
            let connection = Connection::open(way.address, &dial, WAIT)?;
            let session = Session::new(settings.session.clone());
            let mut call = Call { index, connection, session, rng: ChaCha8Rng::from_os_rng(), peer };
            let address = call.peer.local_addr().map_err(socket)?;
            call.session.start(mono_ns(), &mut call.rng, None, None);
            call.drive(&State::Allocated, SETUP_WITHIN, stop)?;
            call.session.bind(mono_ns(), &mut call.rng, address);
            call.drive(&State::Ready, SETUP_WITHIN, stop)?;
            calls.push(call);
        }
        Ok(Self { calls, settings, _way: way })
    }

    /// Sends, receives, and ends the allocations.
    pub fn run(self, stop: &AtomicBool) -> Outcome {
        let start_ns = mono_ns() + LEAD_NS;
        let settings = &self.settings;
        let mut outcome = Outcome { seconds: settings.duration.as_secs_f64(), ..Outcome::default() };
        std::thread::scope(|scope| {
            let running: Vec<_> = self
                .calls
                .into_iter()
                .map(|call| scope.spawn(move || call.run(settings, start_ns, stop)))
                .collect();
            running.into_iter().for_each(|call| outcome.merge(&call.join().expect("a call doesn't panic")));
        });
        outcome.interrupted = stop.load(Ordering::Relaxed);
        outcome
    }
}

impl Outcome {
    fn merge(&mut self, other: &Self) {
        self.viewed.merge(&other.viewed);
        self.sent += other.sent;
        self.received += other.received;
        self.out_of_order += other.out_of_order;
        self.added.merge(&other.added);
        self.frames.merge(&other.frames);
        self.sent_late += other.sent_late;
    }

    /// Sent and never received.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// What a peer did.
struct Sent {
    /// When each frame's last packet left, ns.
    frames: Vec<u64>,
    packets: u64,
    late: u64,
}

impl Call {
    fn drive(&mut self, goal: &State, within: Duration, stop: &AtomicBool) -> Result<(), SetupError> {
        let deadline_ns = mono_ns() + within.as_nanos() as u64;
        let mut patient = Patient { connection: &mut self.connection, deadline_ns, stop };
        Exchanged::default().drive(&mut patient, &mut self.session, goal, &mut self.rng)
    }

    fn run(mut self, settings: &Settings, start_ns: u64, stop: &AtomicBool) -> Outcome {
        let frames = settings.shape.frames_within(settings.duration);
        let mut seen = Seen::new(frames, settings.way.delay);
        let relayed = self.session.relayed().expect("it is ready");
        let peer = self.peer.try_clone().expect("an open socket");
        let is_over = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let sent = send(&peer, relayed, settings, (self.index, frames, start_ns), stop);
                is_over.store(true, Ordering::Release);
                sent
            });
            let mut drain_until_ns = u64::MAX;
            while mono_ns() < drain_until_ns {
                if is_over.load(Ordering::Acquire) && drain_until_ns == u64::MAX {
                    drain_until_ns = mono_ns() + (DRAIN + settings.way.delay).as_nanos() as u64;
                }
                let tag = tag(1, self.index);
                if self.connection.receive(&mut |message| seen.take(message, tag, mono_ns())).is_err() {
                    break;
                }
            }
            sender.join().expect("the peer doesn't panic")
        });
        self.session.release(mono_ns(), &mut self.rng);
        // What isn't released ends with the connection.
        let _ = self.drive(&State::Released, RELEASE_WITHIN, &AtomicBool::new(false));
        seen.finish(settings, sent)
    }
}

/// A connection that is waited for until a deadline.
struct Patient<'a> {
    connection: &'a mut Connection,
    deadline_ns: u64,
    stop: &'a AtomicBool,
}

impl Carrier for Patient<'_> {
    fn send(&mut self, message: &[u8]) -> Result<bool, SetupError> {
        self.connection.send(message)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), SetupError> {
        if mono_ns() > self.deadline_ns || self.stop.load(Ordering::Relaxed) {
            return Err(SetupError::Deadline);
        }
        self.connection.receive(take)
    }
}

/// Sends all frames, each packet at its time.
fn send(
    peer: &UdpSocket,
    relayed: SocketAddr,
    settings: &Settings,
    (call, frames, start_ns): (u32, u32, u64),
    stop: &AtomicBool,
) -> Sent {
    /// Later than this is the generator's fault, ns.
    const LATE_NS: u64 = 5_000_000;
    set_precise_timers();
    let shape = &settings.shape;
    let mut sent = Sent { frames: vec![0; frames as usize], packets: 0, late: 0 };
    let mut packet = vec![7; shape.payload_bytes];
    for frame in 0..frames {
        for index in 0..shape.packets(frame) {
            if stop.load(Ordering::Relaxed) {
                return sent;
            }
            let due_ns = start_ns + shape.due_ns(frame, index);
            let mut now_ns = mono_ns();
            if due_ns > now_ns {
                std::thread::sleep(Duration::from_nanos(due_ns - now_ns));
                now_ns = mono_ns();
            }
            sent.late += u64::from(now_ns.saturating_sub(due_ns) > LATE_NS);
            Header { number: sent.packets as u32, tag: tag(1, call), sent_ns: now_ns }.write(&mut packet);
            packet[MIN_PAYLOAD..MIN_BYTES].copy_from_slice(&frame.to_ne_bytes());
            // A full queue of its own is waited out: what was not sent was not lost.
            while peer.send_to(&packet, relayed).is_err() && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(200));
            }
            sent.packets += 1;
            sent.frames[frame as usize] = now_ns;
        }
    }
    sent
}

/// What a client saw.
struct Seen {
    frames: Vec<FrameSeen>,
    delay_ns: u64,
    next: u32,
    received: u64,
    out_of_order: u64,
    added: Delays,
}

impl Seen {
    fn new(frames: u32, delay: Duration) -> Self {
        Self {
            frames: vec![FrameSeen::default(); frames as usize],
            delay_ns: delay.as_nanos() as u64,
            next: 0,
            received: 0,
            out_of_order: 0,
            added: Delays::default(),
        }
    }

    /// Takes one message: ChannelData's four bytes, then what the peer sent.
    fn take(&mut self, message: &[u8], tag: u32, now_ns: u64) {
        let Some(payload) = message.get(4..).filter(|_| message[0] >> 6 == 0b01) else { return };
        let Some(header) = Header::read(payload).filter(|header| header.tag == tag) else { return };
        let Some(frame) = payload.get(MIN_PAYLOAD..MIN_BYTES) else { return };
        let frame = u32::from_ne_bytes(frame.try_into().expect("four bytes"));
        let Some(seen) = self.frames.get_mut(frame as usize) else { return };
        if header.number < self.next {
            self.out_of_order += 1;
            return;
        }
        self.next = header.number + 1;
        seen.received += 1;
        seen.arrived_ns = now_ns;
        self.received += 1;
        self.added.record(now_ns.saturating_sub(header.sent_ns).saturating_sub(self.delay_ns));
    }

    fn finish(mut self, settings: &Settings, sent: Sent) -> Outcome {
        let mut frames = Delays::default();
        for (number, (seen, sent_ns)) in (0..).zip(self.frames.iter_mut().zip(sent.frames)) {
            // Frames are looked at as if the way took no time.
            seen.sent_ns = if sent_ns > 0 { sent_ns + self.delay_ns } else { 0 };
            if seen.received >= settings.shape.packets(number) {
                frames.record(seen.arrived_ns.saturating_sub(seen.sent_ns));
            }
        }
        Outcome {
            viewed: view(&settings.shape, &self.frames, settings.late_ns),
            sent: sent.packets,
            received: self.received,
            out_of_order: self.out_of_order,
            added: self.added,
            frames,
            sent_late: sent.late,
            ..Outcome::default()
        }
    }
}
