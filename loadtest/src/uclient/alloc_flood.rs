//! `-Y alloc`: allocations one after another, each made, refreshed, given a permission and deleted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::flags::Flags;
use super::output::{Output, rates};
use crate::blocking::{Carrier, Connection, Exchanged};
use crate::engine::any_address;
use crate::engine::mmsg::mono_ns;
use crate::engine::stream::Dial;
use crate::engine::stream::tls::TlsClient;
use crate::session::{Session, SessionConfig, SetupError, State};

/// Peers of the synthetic permissions: the benchmarking range (RFC 2544), and documentation's for IPv6.
const SYNTHETIC_V4: [u8; 2] = [198, 18];
const SYNTHETIC_V6: u16 = 0x2001;
/// Local ports are taken in order from here up, so that none is used again while the server still
/// remembers its 5-tuple.
const FIRST_PORT: u16 = 49_152;
/// Longest wait for one datagram.
const WAIT: Duration = Duration::from_millis(20);

/// The server, and how it is reached.
pub struct Way {
    /// The server's address and port.
    pub server: SocketAddr,
    /// For TLS.
    pub tls: Option<TlsClient>,
}

struct Flood<'a> {
    flags: &'a Flags,
    out: Output,
    way: &'a Way,
    config: Arc<SessionConfig>,
    stop: Arc<AtomicBool>,
    rng: ChaCha8Rng,
    exchanged: Exchanged,
    allocations: u64,
    next_port: u16,
    shown: (Instant, u64, u64),
}

/// Runs it. `Ok(false)` after a signal.
pub fn run(
    flags: &Flags,
    out: Output,
    way: &Way,
    config: Arc<SessionConfig>,
    stop: Arc<AtomicBool>,
) -> Result<bool, SetupError> {
    let start = Instant::now();
    let mut flood = Flood {
        flags,
        out,
        way,
        config,
        stop,
        rng: ChaCha8Rng::from_os_rng(),
        exchanged: Exchanged::default(),
        allocations: 0,
        next_port: FIRST_PORT,
        shown: (start, 0, 0),
    };
    let total = flags.messages.map_or(u64::MAX, |n| n.saturating_mul(flags.clients as u64));
    while flood.allocations < total && !flood.is_stopping() {
        flood.one()?;
        if flood.shown.0.elapsed() >= Duration::from_secs(1) {
            flood.show();
        }
    }
    flood.show();
    flood.out.info(&format!("Total allocation flood time is {}", start.elapsed().as_secs()));
    Ok(!flood.is_stopping())
}

impl Flood<'_> {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn one(&mut self) -> Result<(), SetupError> {
        let mut carrier = self.open()?;
        let mut session = Session::new(self.config.clone());
        session.start(mono_ns(), &mut self.rng, None, None);
        let mut bound = self.exchanged.drive(&mut *carrier, &mut session, &State::Allocated, &mut self.rng);
        if bound.is_ok() {
            let peer = self.peer();
            session.bind(mono_ns(), &mut self.rng, peer);
            bound = self.exchanged.drive(&mut *carrier, &mut session, &State::Ready, &mut self.rng);
        }
        // Whatever became of it, the allocation must not be left behind.
        session.release(mono_ns(), &mut self.rng);
        let released = self.exchanged.drive(&mut *carrier, &mut session, &State::Released, &mut self.rng);
        bound?;
        released?;
        self.allocations += 1;
        Ok(())
    }

    fn open(&mut self) -> Result<Box<dyn Carrier>, SetupError> {
        if !self.flags.transport.is_stream() {
            let socket = self.open_udp().map_err(|error| SetupError::Socket(error.to_string()))?;
            return Ok(Box::new(socket));
        }
        let dial = Dial {
            local: self.flags.local,
            device: self.flags.device.as_deref(),
            receive_buffer_bytes: None,
            tls: self.way.tls.as_ref(),
        };
        Ok(Box::new(Connection::open(self.way.server, &dial, WAIT)?))
    }

    fn open_udp(&mut self) -> io::Result<UdpSocket> {
        let local = self.flags.local.unwrap_or_else(|| any_address(self.way.server).ip());
        let mut attempts = u16::MAX - FIRST_PORT;
        let socket = loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            match UdpSocket::bind((local, port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => attempts -= 1,
                bound => break bound?,
            }
        };
        socket.connect(self.way.server)?;
        socket.set_read_timeout(Some(WAIT))?;
        Ok(socket)
    }

    fn peer(&self) -> SocketAddr {
        let [.., a, b] = self.allocations.to_be_bytes();
        let synthetic = if self.flags.relay_v6 {
            IpAddr::V6(Ipv6Addr::new(SYNTHETIC_V6, 0xdb8, 0, 0, 0, 0, 0, u16::from_be_bytes([a, b])))
        } else {
            IpAddr::V4(Ipv4Addr::new(SYNTHETIC_V4[0], SYNTHETIC_V4[1], a, b.max(1)))
        };
        SocketAddr::new(self.flags.alloc_peer.unwrap_or(synthetic), self.flags.peer_port)
    }

    fn show(&mut self) {
        let (at, sent, received) = self.shown;
        let secs = at.elapsed().as_secs_f64().max(1e-9);
        let pps = |now: u64, before: u64| (now - before) as f64 / secs;
        self.out.info(&rates(
            "start_allocation_flood",
            pps(self.exchanged.sent, sent),
            pps(self.exchanged.received, received),
            self.exchanged.sent,
            self.exchanged.received,
        ));
        self.out.info(&format!("start_allocation_flood: total_allocations={}", self.allocations));
        self.shown = (Instant::now(), self.exchanged.sent, self.exchanged.received);
    }
}
