//! A call over UDP beside clients over TCP that never read what is sent to them.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use turnpike_loadtest::engine::Framing;
use turnpike_loadtest::stalled::{Settings, Stalled};
use turnpike_loadtest::transport::Transport;

use crate::certificate::server_address;
use crate::fault::Fault;
use crate::generator::{Ends, Generator};
use crate::lab::{CLIENT, Lab, PEER};
use crate::measure::{Context, SETTLE, note_refusals, note_resident};
use crate::results::Sample;
use crate::scenario::{Traffic, session};

/// Bytes of each packet for clients that don't read.
const PACKET: [u8; 1200] = [7; 1200];
/// Packets for each before the call begins: more than kernel and server take in for one.
const FILL: u32 = 200;
/// Packets per second for each while it lasts.
const EACH_PER_SEC: f64 = 5.0;
/// Packets per second for all of them together while they are filled up.
const FILL_PER_SEC: f64 = 50_000.0;

impl Context<'_> {
    /// What becomes of a fixed load over UDP beside `stalled` clients that never read.
    pub(crate) fn beside_stalled(
        &self,
        lab: &Lab,
        stalled: usize,
        calls: &Traffic,
        pid: u32,
        sample: &mut Sample,
    ) -> Result<(), Fault> {
        let peer = lab.peer.enter(|| UdpSocket::bind((PEER, 0))).map_err(|error| format!("peer: {error}"))?;
        let settings = Settings {
            server: server_address(Transport::Tcp),
            local: Some(CLIENT),
            session: Arc::new(session(Framing::Channel, Transport::Tcp)),
            peer: peer.local_addr().map_err(|error| format!("peer: {error}"))?,
            clients: stalled,
        };
        let stalled = lab.client.enter(|| Stalled::set_up(&settings, &self.stop));
        let stalled = stalled.map_err(|error| format!("a client that never reads: {error}"))?;
        let relayed: Vec<SocketAddr> = stalled.relayed().collect();
        let is_over = AtomicBool::new(false);
        for _ in 0..FILL {
            self.rest(Duration::ZERO)?;
            send_round(&peer, &relayed, FILL_PER_SEC, &self.stop);
        }
        let rate = EACH_PER_SEC * relayed.len() as f64;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    send_round(&peer, &relayed, rate, &is_over);
                }
            });
            let outcome = self.calls_beside(lab, calls, pid, sample);
            is_over.store(true, Ordering::Relaxed);
            outcome
        })
    }

    fn calls_beside(&self, lab: &Lab, calls: &Traffic, pid: u32, sample: &mut Sample) -> Result<(), Fault> {
        let server = server_address(calls.transport);
        let mut generator = Generator::start(lab, calls, server, Ends::Peer, self.threads, &self.stop)?;
        note_refusals(sample, &generator.setup()?);
        std::thread::sleep(SETTLE);
        let load = generator.trial(1.0, self.trial, Some(pid))?;
        self.note_load(sample, &load);
        note_resident(sample, "rss_mib", pid);
        generator.release().map(drop)
    }
}

/// A packet for each, evenly spaced in time.
fn send_round(peer: &UdpSocket, relayed: &[SocketAddr], per_sec: f64, stop: &AtomicBool) {
    /// Packets between two looks at the clock.
    const BATCH: usize = 25;
    let begun = Instant::now();
    for (sent, batch) in (0..).step_by(BATCH).zip(relayed.chunks(BATCH)) {
        let due = Duration::from_secs_f64(f64::from(sent) / per_sec);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for address in batch {
            // What doesn't leave needn't arrive: nobody reads it.
            let _ = peer.send_to(&PACKET, address);
        }
    }
}
