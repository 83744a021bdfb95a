//! Clients over TCP and TLS: video, handshakes, and memory of those that do nothing.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use turnpike_loadtest::engine::Framing;
use turnpike_loadtest::stats::percent;
use turnpike_loadtest::transport::Transport;
use turnpike_loadtest::video::shape::Shape;
use turnpike_loadtest::video::way::Way;
use turnpike_loadtest::video::{Calls, Outcome, Settings};

use crate::certificate::{server_address, tls_client};
use crate::cpu::{self, Reading};
use crate::fault::Fault;
use crate::generator::Generator;
use crate::handshakes;
use crate::lab::{CLIENT, CLIENTS, Lab, PEER, SERVER_TLS};
use crate::measure::{Context, SETTLED_AFTER, note_foreign, note_refusals, note_resident};
use crate::results::Sample;
use crate::room::Room;
use crate::scenario::{Traffic, idle_traffic, session};

/// Length of a call: five groups of frames.
const CALL: Duration = Duration::from_secs(10);
/// The way of a call: one way's delay, and the window.
const DELAY: Duration = Duration::from_millis(20);
const WINDOW_BYTES: usize = 256 << 10;
/// A frame that comes later is late, ns.
const LATE_NS: u64 = 400_000_000;
/// How long idle clients are left alone before their memory is read.
const IDLE: Duration = Duration::from_secs(2);

/// Share of its processors' time that a server at its limit uses.
const BUSY: f64 = 0.85;

impl Context<'_> {
    /// One call; a stream's losses are the server's.
    pub(crate) fn video(
        &self,
        lab: &Lab,
        transport: Transport,
        receiver_mbit_per_sec: Option<f64>,
        pid: u32,
        sample: &mut Sample,
    ) -> Result<(), Fault> {
        let settings = Settings {
            server: server_address(transport),
            tls: (transport == Transport::Tls).then(tls_client),
            local: Some(CLIENT),
            session: Arc::new(session(Framing::Channel, transport)),
            shape: shape(),
            way: Way {
                delay: DELAY,
                window_bytes: WINDOW_BYTES,
                bytes_per_sec: receiver_mbit_per_sec.map(|mbit| mbit * 1e6 / 8.0),
            },
            duration: CALL,
            late_ns: LATE_NS,
        };
        let peer = lab.peer.enter(|| UdpSocket::bind((PEER, 0))).map_err(|error| format!("peer: {error}"))?;
        let calls = lab.client.enter(|| Calls::set_up(settings, vec![peer], &self.stop));
        let calls = calls.map_err(|error| format!("the call could not be set up: {error}"))?;
        let begin = Reading::begin(Some(pid));
        let outcome = lab.client.enter(|| calls.run(&self.stop));
        let used = begin.end(Some(pid));
        if outcome.interrupted {
            return Err(Fault::Interrupted);
        }
        note_call(sample, &outcome);
        sample.set("server_busy_percent", 100.0 * used.server_secs / used.wall_secs.max(1e-9));
        note_foreign(sample, &used);
        Ok(())
    }

    /// As many full handshakes as go in a trial's time.
    pub(crate) fn handshakes(&self, lab: &Lab, pid: u32, sample: &mut Sample) -> Result<(), Fault> {
        let begin = Reading::begin(Some(pid));
        let tls = tls_client();
        let done = lab.client.enter(|| handshakes::run(SERVER_TLS, CLIENT, &tls, self.trial, &self.stop));
        let used = begin.end(Some(pid));
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        if done.done == 0 {
            let reason = done.reason.unwrap_or_else(|| "nothing came back".to_owned());
            return Err(format!("no handshake succeeded: {reason}").into());
        }
        if let Some(reason) = done.reason {
            sample.doubts.push(format!("{} connections failed: {reason}", done.failed));
        }
        let each = |secs: f64| secs * 1e6 / done.done as f64;
        sample.set("handshakes_per_sec", done.done as f64 / done.secs);
        sample.set("server_cpu_us_per_handshake", each(used.server_secs));
        sample.set("system_cpu_us_per_handshake", each(self.without_idle(&used)));
        sample.set("server_busy_percent", 100.0 * used.server_secs / used.wall_secs.max(1e-9));
        if used.server_secs < BUSY * used.wall_secs * self.programs.threads as f64 {
            sample
                .doubts
                .push("the clients were at their limit: the server had time left, so see its CPU".to_owned());
        }
        if let Some(delays) = done.delays.summary() {
            sample.set("p50_us", delays.p50_us);
            sample.set("p99_us", delays.p99_us);
        }
        note_foreign(sample, &used);
        Ok(())
    }

    /// Memory of idle clients, and what of it is given back.
    pub(crate) fn idle(
        &self,
        lab: &Lab,
        (wanted, room): (usize, Room),
        pid: u32,
        sample: &mut Sample,
    ) -> Result<(), Fault> {
        if room.clients < wanted {
            sample.doubts.push(format!(
                "{} of {wanted} clients: the limit on open files can't be raised here",
                room.clients
            ));
        }
        let each = Traffic { transport: Transport::Tls, ..idle_traffic(room.clients / CLIENTS.len()) };
        let before = Memory::of(pid)?;
        let (mut crowds, mut ready) = (Vec::new(), 0);
        for local in CLIENTS {
            let mut crowd = Generator::start_from(lab, local, &each, SERVER_TLS, self.threads, &self.stop)?;
            let setup = crowd.setup()?;
            note_refusals(sample, &setup);
            ready += setup.ready;
            crowds.push(crowd);
        }
        self.rest(IDLE)?;
        let held = Memory::of(pid)?.since(&before);
        note_resident(sample, "rss_mib", pid);
        sample.set("rss_kib_per_client", held.resident_kib / ready as f64);
        sample.set("kernel_kib_per_client", held.kernel_kib / ready as f64);
        crowds.into_iter().try_for_each(|crowd| crowd.release().map(drop))?;
        self.rest(SETTLED_AFTER)?;
        let left = Memory::of(pid)?.since(&before);
        let given_back = |held: f64, left: f64| 100.0 * (held - left) / held;
        sample.set("rss_given_back_percent", given_back(held.resident_kib, left.resident_kib));
        sample.set("kernel_given_back_percent", given_back(held.kernel_kib, left.kernel_kib));
        Ok(())
    }

    pub(crate) fn rest(&self, time: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Fault::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Memory at one time.
struct Memory {
    /// Of the server's process.
    resident_kib: f64,
    /// Of the kernel, for everybody.
    kernel_kib: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Memory, Fault> {
        let resident_kib = cpu::resident_kib(pid).ok_or("the server has ended")? as f64;
        let kernel_kib = cpu::kernel_kib().ok_or("/proc/meminfo can't be read")? as f64;
        Ok(Memory { resident_kib, kernel_kib })
    }

    fn since(&self, before: &Memory) -> Memory {
        Memory {
            resident_kib: self.resident_kib - before.resident_kib,
            kernel_kib: self.kernel_kib - before.kernel_kib,
        }
    }
}

/// 4 Mbit/s in 30 frames per second, as the load test's `video` has it.
fn shape() -> Shape {
    let (fps, group, i_packets, payload_bytes) = (30.0, 60, 150, 1200);
    Shape {
        fps,
        group,
        i_packets,
        p_packets: Shape::p_packets_for(4e6, fps, group, i_packets, payload_bytes),
        payload_bytes,
        pacing: Duration::from_millis(10),
    }
}

fn note_call(sample: &mut Sample, outcome: &Outcome) {
    let Outcome { viewed, sent, received, .. } = outcome;
    sample.set("offered_pps", *sent as f64 / outcome.seconds);
    sample.set("delivered_pps", *received as f64 / outcome.seconds);
    sample.set("loss_percent", percent(outcome.lost(), *sent));
    sample.set("lost_packets", outcome.lost() as f64);
    sample.set("frozen_percent", percent(viewed.frozen, viewed.frames));
    sample.set("late_percent", percent(viewed.late, viewed.frames));
    if let Some(added) = outcome.added.summary() {
        sample.set("p50_us", added.p50_us);
        sample.set("p99_us", added.p99_us);
    }
    if outcome.sent_late * 100 > *sent {
        sample.doubts.push(format!("the generator sent {} packets more than 5 ms late", outcome.sent_late));
    }
}
