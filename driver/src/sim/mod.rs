//! A network in memory: seeded impairments, virtual time, no system call.
//!
//! [`SimNetwork`] is the handle: it makes drivers for workers, endpoints for clients and peers,
//! and moves the clock. Nothing ever sleeps; a datagram arrives when the clock has reached its
//! time and somebody looks. The same seed and the same calls give the same trace.
//!
//! ```text
//!   endpoint.send_to ─┐                                   ┌─► SimDriver::wait ─► worker
//!                     ├─► loss, copies, delay ─► in flight ┤
//!   SimDriver::flush ─┘     (seeded)        (virtual time) └─► SimEndpoint::recv
//! ```
//!
//! What it keeps of a real network: workers share listener addresses by a hash of the 4-tuple,
//! relay sockets are reachable from everywhere (from other relay sockets too), ports can be
//! occupied, descriptors can run out, an address that nobody holds answers with ICMP.

mod driver;
mod network;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use turnpike_proto::Now;

pub use self::driver::SimDriver;
use self::network::{Network, Owner};

/// What happens to datagrams between hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairment {
    /// Probability, 0 to 1, that a datagram is lost.
    pub loss: f64,
    /// Probability that a datagram arrives twice, of those not lost.
    pub duplicate: f64,
    /// Probability that a datagram is delayed further, so that later ones overtake it, of those
    /// neither lost nor copied.
    pub reorder: f64,
    /// Time under way. Without reordering, datagrams of one flow keep their order however it varies.
    pub delay: Range<Duration>,
}

impl Impairment {
    /// A perfect network: nothing lost, no time under way.
    pub const NONE: Impairment =
        Impairment { loss: 0.0, duplicate: 0.0, reorder: 0.0, delay: Duration::ZERO..Duration::ZERO };
}

/// What was counted, in datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounters {
    /// Sent by anybody; copies not included.
    pub sent: u64,
    /// Lost by impairment.
    pub lost: u64,
    /// Copied by impairment: each arrives once more.
    pub duplicated: u64,
    /// Delayed further by impairment.
    pub reordered: u64,
    /// Put into a worker's or endpoint's inbox.
    pub delivered: u64,
    /// Sent to an address that nobody holds.
    pub unreachable: u64,
    /// Dropped at a full inbox.
    pub overflowed: u64,
}

/// What became of a datagram when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is under way, and will arrive after its delay.
    Sent,
    /// It is lost, as the impairment wants.
    Lost,
    /// It is under way, and so is a copy.
    Duplicated,
    /// Under way, delayed further.
    Reordered,
}

/// One datagram of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// When it was sent, on the virtual monotonic clock, nanoseconds.
    pub sent_ns: u64,
    /// Source address.
    pub from: SocketAddr,
    /// Destination address.
    pub to: SocketAddr,
    /// Bytes of payload.
    pub len: usize,
    /// DSCP and ECN.
    pub tos: u8,
    /// Whether DF was set.
    pub dont_fragment: bool,
    /// What became of it.
    pub fate: Fate,
}

/// A handle to the network; copies mean the same one.
#[derive(Clone)]
pub struct SimNetwork {
    network: Arc<Mutex<Network>>,
}

impl SimNetwork {
    /// An empty network at its fixed first moment.
    ///
    /// # Panics
    /// If a probability is not within 0 to 1.
    pub fn new(seed: u64, impairment: Impairment) -> SimNetwork {
        SimNetwork { network: Arc::new(Mutex::new(Network::new(seed, impairment))) }
    }

    /// Changes what happens to datagrams sent from now on.
    ///
    /// # Panics
    /// If a probability is not within 0 to 1.
    pub fn set_impairment(&self, impairment: Impairment) {
        self.lock().set_impairment(impairment);
    }

    /// Spreads clients over the workers anew from now on, as the kernel does when the group of sockets that
    /// share an address has changed. Begins with 0.
    pub fn respread(&self, spread: u32) {
        self.lock().respread(spread);
    }

    /// Exempts a host: its datagrams and those to it arrive at once and unharmed. Datagrams from a
    /// host to itself always do.
    pub fn exempt(&self, host: IpAddr) {
        self.lock().exempt(host);
    }

    /// The virtual time.
    pub fn now(&self) -> Now {
        self.lock().now()
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        let mut network = self.lock();
        let target = network.now().mono_ns.saturating_add(saturating_nanos(by));
        network.advance_to(target);
    }

    /// Moves the time forward to a moment of the monotonic clock; a moment in the past changes nothing.
    pub fn advance_to(&self, mono_ns: u64) {
        self.lock().advance_to(mono_ns);
    }

    /// When something happens next, on the monotonic clock in nanoseconds: now if a worker has
    /// something to take, else when the next datagram arrives; `None` if nothing is under way.
    pub fn next_due(&self) -> Option<u64> {
        self.lock().next_due()
    }

    /// Addresses of endpoints at which something has arrived by now, in order of address; each is told once,
    /// until more arrives. With thousands of endpoints, who asks each of them looks mostly in vain.
    pub fn take_ready(&self) -> Vec<SocketAddr> {
        let mut network = self.lock();
        network.deliver_due();
        network.take_ready().into_iter().collect()
    }

    /// Adds a worker, whose listeners have the numbers of their places in `listeners`.
    ///
    /// Workers with the same listener address share it: each 4-tuple belongs to one of them. Make
    /// all drivers before the first datagram, since a further one moves clients to other workers.
    /// `worker` orders the group, so that the share does not depend on who was made first.
    ///
    /// # Panics
    /// If an endpoint or a relay socket holds one of the addresses, or the worker already listens there.
    pub fn driver(&self, worker: usize, listeners: &[SocketAddr]) -> SimDriver {
        SimDriver::new(self.clone(), worker, listeners)
    }

    /// Adds a client or peer.
    ///
    /// # Panics
    /// If somebody holds the address.
    pub fn endpoint(&self, address: SocketAddr) -> SimEndpoint {
        self.lock().bind_endpoint(address);
        SimEndpoint { network: self.clone(), address }
    }

    /// Occupies an address, as a process outside would: relay sockets cannot be bound to it, and
    /// what is sent there vanishes.
    ///
    /// # Panics
    /// If somebody holds the address.
    pub fn occupy(&self, address: SocketAddr) {
        self.lock().occupy(address);
    }

    /// Frees what [`Self::occupy`] took.
    pub fn release(&self, address: SocketAddr) {
        self.lock().release(address);
    }

    /// Lets that many more relay sockets be opened, on all workers together; then descriptors have
    /// run out until this is called again.
    pub fn fail_ports_after(&self, more: usize) {
        self.lock().fail_ports_after(more);
    }

    /// Whether datagrams from relay sockets to addresses that nobody holds are answered with
    /// "port unreachable". They are unless switched off.
    pub fn set_port_unreachable(&self, on: bool) {
        self.lock().set_port_unreachable(on);
    }

    /// What the network has counted since it was made.
    pub fn counters(&self) -> SimCounters {
        self.lock().counters()
    }

    /// All datagrams sent, oldest first, at most [`SIM_TRACE`](crate::limits::SIM_TRACE).
    pub fn trace(&self) -> Vec<TraceEntry> {
        self.lock().trace()
    }

    /// Relay sockets open on all workers.
    pub fn open_ports(&self) -> usize {
        self.lock().open_ports()
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        // After a panic in one test thread the others still may look at the trace.
        self.network.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A client's or peer's socket. It is closed when dropped.
pub struct SimEndpoint {
    network: SimNetwork,
    address: SocketAddr,
}

impl SimEndpoint {
    /// The address and port that this endpoint sends from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a datagram; `tos` is DSCP and ECN.
    pub fn send_to(&self, to: SocketAddr, bytes: &[u8], tos: u8) {
        self.network.lock().send(self.address, to, bytes.to_vec(), tos, false);
    }

    /// The next datagram that has arrived by now: who sent it, its bytes, DSCP and ECN.
    pub fn recv(&self) -> Option<(SocketAddr, Vec<u8>, u8)> {
        let mut network = self.network.lock();
        network.deliver_due();
        let arrival = network.take_for_endpoint(self.address)?;
        Some((arrival.from, arrival.bytes, arrival.tos))
    }
}

impl Drop for SimEndpoint {
    fn drop(&mut self) {
        self.network.lock().unbind(self.address, |owner| matches!(owner, Owner::Endpoint(_)));
    }
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
