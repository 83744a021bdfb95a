//! A long or narrow way between clients and server: it passes bytes on after a delay, both ways, and from the
//! server at most so many per second.
//!
//! ```text
//!   server ─► socket ─read─► delay line (bounded by the window) ─► socket ─► client
//! ```
//! Bytes count against the window for a whole round trip, as they do for a sender that waits for their
//! acknowledgement; what doesn't fit stays with the sender.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::engine::mmsg::{mono_ns, set_precise_timers};

/// Between looks at the sockets.
const TICK: Duration = Duration::from_micros(500);
/// Receive buffer towards the server: little, so that what the way doesn't take stays with the server.
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;
/// The same where the way is narrow: bytes wait there, too.
const NARROW_BUFFER_BYTES: usize = 4 << 10;
/// Segments as on Ethernet, also where both ends are on one machine.
const SEGMENT_BYTES: u32 = 1448;
/// Bytes of one read at most.
const READ_BYTES: usize = 16 << 10;
/// A narrow way saves up capacity for this long.
const SAVED_NS: f64 = 5e6;

/// What the way is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// One way.
    pub delay: Duration,
    /// Bytes under way in a round trip.
    pub window_bytes: usize,
    /// From the server to the client; `None` = as fast as the window allows.
    pub bytes_per_sec: Option<f64>,
}

/// A running way.
pub struct Delaying {
    /// Where clients connect to.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Delaying {
    /// Starts it on loopback, towards a server.
    ///
    /// # Errors
    /// If there is no port or thread.
    pub fn start(server: SocketAddr, local: Option<IpAddr>, way: Way) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let mut ways = Ways { listener, server, local, way, pairs: Vec::new(), buffer: vec![0; READ_BYTES] };
        let thread = std::thread::Builder::new().name("way".into()).spawn(move || {
            set_precise_timers();
            while !flag.load(Ordering::Relaxed) {
                ways.turn(mono_ns());
                std::thread::sleep(TICK);
            }
        })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Delaying {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

struct Ways {
    listener: TcpListener,
    server: SocketAddr,
    local: Option<IpAddr>,
    way: Way,
    pairs: Vec<Pair>,
    buffer: Vec<u8>,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    up: Line,
    down: Line,
}

impl Ways {
    fn turn(&mut self, now_ns: u64) {
        while let Ok((client, _)) = self.listener.accept() {
            // A server that can't be reached closes the connection: the client sees that.
            if let Ok(server) = self.dial()
                && prepare(&client).is_ok()
            {
                let line = |bytes_per_sec| Line::new(Way { bytes_per_sec, ..self.way }, now_ns);
                let (up, down) = (line(None), line(self.way.bytes_per_sec));
                self.pairs.push(Pair { client, server, up, down });
            }
        }
        let buffer = &mut self.buffer;
        self.pairs.retain_mut(|Pair { client, server, up, down }| {
            up.turn(now_ns, client, server, buffer).is_ok()
                && down.turn(now_ns, server, client, buffer).is_ok()
        });
    }

    fn dial(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, Some(Protocol::TCP))?;
        let narrow = self.way.bytes_per_sec.is_some();
        socket.set_recv_buffer_size(if narrow { NARROW_BUFFER_BYTES } else { RECEIVE_BUFFER_BYTES })?;
        socket.set_tcp_mss(SEGMENT_BYTES)?;
        if let Some(ip) = self.local {
            socket.bind(&SocketAddr::new(ip, 0).into())?;
        }
        socket.connect_timeout(&self.server.into(), Duration::from_secs(2))?;
        let stream = socket.into();
        prepare(&stream)?;
        Ok(stream)
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)
}

/// One direction.
struct Line {
    way: Way,
    /// (when it arrives, what): the front may be sent in part.
    chunks: VecDeque<(u64, Vec<u8>)>,
    /// (when it is acknowledged, bytes).
    unacknowledged: VecDeque<(u64, usize)>,
    under_way: usize,
    capacity: f64,
    looked_ns: u64,
    /// Its source has ended: when what it sent has arrived, so has its end.
    ended: bool,
}

impl Line {
    fn new(way: Way, now_ns: u64) -> Self {
        Self {
            way,
            chunks: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            under_way: 0,
            capacity: 0.0,
            looked_ns: now_ns,
            ended: false,
        }
    }

    fn turn(
        &mut self,
        now_ns: u64,
        from: &mut impl Read,
        to: &mut impl Write,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        self.deliver(now_ns, to)?;
        self.accept(now_ns, from, buffer)?;
        if self.ended && self.chunks.is_empty() {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }

    fn deliver(&mut self, now_ns: u64, to: &mut impl Write) -> io::Result<()> {
        while let Some((_, chunk)) = self.chunks.front_mut().filter(|(at_ns, _)| *at_ns <= now_ns) {
            match to.write(chunk) {
                Ok(count) if count == chunk.len() => drop(self.chunks.pop_front()),
                Ok(count) => drop(chunk.drain(..count)),
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn accept(&mut self, now_ns: u64, from: &mut impl Read, buffer: &mut [u8]) -> io::Result<()> {
        let delay_ns = self.way.delay.as_nanos() as u64;
        while let Some((_, bytes)) = self.unacknowledged.front().filter(|(at_ns, _)| *at_ns <= now_ns) {
            self.under_way -= bytes;
            self.unacknowledged.pop_front();
        }
        if let Some(rate) = self.way.bytes_per_sec {
            let earned = (now_ns - self.looked_ns) as f64 * rate / 1e9;
            self.capacity = (self.capacity + earned).min(rate * SAVED_NS / 1e9 + earned);
        }
        self.looked_ns = now_ns;
        while !self.ended {
            let room = self.way.window_bytes - self.under_way;
            let allowed = self.way.bytes_per_sec.map_or(usize::MAX, |_| self.capacity as usize);
            let most = room.min(allowed).min(buffer.len());
            if most == 0 {
                break;
            }
            match from.read(&mut buffer[..most]) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.under_way += count;
                    self.capacity -= count as f64;
                    self.chunks.push_back((now_ns + delay_ns, buffer[..count].to_vec()));
                    self.unacknowledged.push_back((now_ns + 2 * delay_ns, count));
                }
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A source that never ends.
    struct Endless;

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }
    }

    fn passed(way: Way, ms: u64) -> Vec<usize> {
        let mut line = Line::new(way, 0);
        let (mut out, mut buffer) = (Vec::new(), vec![0; 4096]);
        (0..=ms)
            .map(|ms| {
                line.turn(ms * MS, &mut Endless, &mut out, &mut buffer).expect("neither end fails");
                out.len()
            })
            .collect()
    }

    #[test]
    fn nothing_arrives_before_the_delay_and_a_window_per_round_trip_after_it() {
        let way = Way { delay: Duration::from_millis(20), window_bytes: 10_000, bytes_per_sec: None };
        let passed = passed(way, 100);
        assert_eq!(
            [passed[19], passed[20], passed[59], passed[60], passed[100]],
            [0, 10_000, 10_000, 20_000, 30_000]
        );
    }

    #[test]
    fn a_narrow_way_passes_its_rate() {
        let way = Way { delay: Duration::ZERO, window_bytes: 1 << 20, bytes_per_sec: Some(100_000.0) };
        let passed = passed(way, 1000);
        assert!((98_000..=101_000).contains(&passed[1000]), "{}", passed[1000]);
    }

    #[test]
    fn what_the_far_end_does_not_take_waits_and_an_end_comes_last() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let way = Way { delay: Duration::ZERO, window_bytes: 1000, bytes_per_sec: None };
        let (mut line, mut buffer) = (Line::new(way, 0), vec![0; 4096]);
        let mut source = io::Cursor::new(vec![7; 500]);
        line.turn(0, &mut source, &mut Full, &mut buffer).expect("waits");
        line.turn(MS, &mut source, &mut Full, &mut buffer).expect("waits");
        let mut out = Vec::new();
        assert!(line.turn(2 * MS, &mut source, &mut out, &mut buffer).is_err(), "the end");
        assert_eq!(out, vec![7; 500]);
    }
}
