//! New connections one after another: TLS, a Binding request and its answer, and away. The answer shows that
//! the server, too, has finished its handshake.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use turnpike_loadtest::engine::mmsg::{Poller, mono_ns};
use turnpike_loadtest::engine::stream::tls::TlsClient;
use turnpike_loadtest::engine::stream::{Dial, Inbox, LinkError, StreamLink};
use turnpike_loadtest::stats::Delays;

/// Connections at a time: enough that the server never waits for the client.
const AT_ONCE: usize = 32;
/// Longest wait before a look at the clock, ns.
const TURN_NS: u64 = 5_000_000;
/// A connection that takes longer has failed, ns.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Failures at most: a server that refuses everything must not be asked for ever.
const MAX_FAILURES: u64 = 100;
/// A Binding request (RFC 8489 section 5).
const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42turnpike-be\x00";

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Handshakes {
    /// Connections whose Binding request was answered.
    pub done: u64,
    /// Others.
    pub failed: u64,
    /// Why the first of them failed.
    pub reason: Option<String>,
    /// From the first step to the answer, ns.
    pub delays: Delays,
    /// Wall time, seconds.
    pub secs: f64,
}

struct Slot {
    link: StreamLink,
    begun_ns: u64,
}

/// Opens connections for `duration`; call it in the client's namespace.
pub fn run(
    server: SocketAddr,
    local: IpAddr,
    tls: &TlsClient,
    duration: Duration,
    stop: &AtomicBool,
) -> Handshakes {
    let mut result = Handshakes::default();
    let mut poller = Poller::new().expect("a descriptor");
    let mut slots: Vec<Option<Slot>> = (0..AT_ONCE).map(|_| None).collect();
    let (mut inbox, mut ready) = (Inbox::default(), Vec::new());
    let begun_ns = mono_ns();
    let end_ns = begun_ns + duration.as_nanos() as u64;
    while mono_ns() < end_ns && !stop.load(Ordering::Relaxed) && result.failed < MAX_FAILURES {
        for (key, slot) in (0..).zip(&mut slots) {
            let is_overdue = slot.as_ref().is_some_and(|slot| mono_ns() - slot.begun_ns > PATIENCE_NS);
            if is_overdue {
                result.fail(&"no answer in time");
                *slot = None;
            }
            if slot.is_none() {
                match open(server, local, tls, &poller, key) {
                    Ok(opened) => *slot = Some(opened),
                    Err(error) => result.fail(&error),
                }
            }
        }
        poller.wait(TURN_NS, &mut ready);
        for key in ready.drain(..) {
            let place = &mut slots[key as usize];
            let Some(slot) = place else { continue };
            let outcome = slot.link.receive(&mut inbox);
            if !inbox.is_empty() {
                result.done += 1;
                result.delays.record(mono_ns() - slot.begun_ns);
                *place = None;
            } else if let Err(error) = outcome {
                result.fail(&error);
                *place = None;
            } else {
                // It was added, so it can be changed.
                let _ = poller.set_writing(slot.link.fd(), key, slot.link.wants_write());
            }
        }
    }
    result.secs = (mono_ns() - begun_ns) as f64 / 1e9;
    result
}

fn open(
    server: SocketAddr,
    local: IpAddr,
    tls: &TlsClient,
    poller: &Poller,
    key: u64,
) -> Result<Slot, LinkError> {
    let dial = Dial { local: Some(local), tls: Some(tls), ..Dial::default() };
    let mut link = StreamLink::connect(server, &dial)?;
    link.send(&BINDING);
    link.flush()?;
    poller.add(link.fd(), key)?;
    poller.set_writing(link.fd(), key, link.wants_write())?;
    Ok(Slot { link, begun_ns: mono_ns() })
}

impl Handshakes {
    fn fail(&mut self, reason: &dyn std::fmt::Display) {
        self.failed += 1;
        self.reason.get_or_insert_with(|| reason.to_string());
    }
}
