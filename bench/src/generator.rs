//! The load: clients in the client namespace, peers in the peer namespace, and the direct path's reflector.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use turnpike_loadtest::engine::peer::PeerHost;
use turnpike_loadtest::engine::{Engine, Plan, SetupReport, Trial, open_socket};
use turnpike_loadtest::reflect;
use turnpike_loadtest::stats::GroupStats;

use crate::cpu::{Reading, Used};
use crate::fault::Fault;
use crate::lab::{Lab, PEER};
use crate::scenario::{Path, Traffic};

/// How long packets that are under way are waited for at the end of a trial.
const DRAIN: Duration = Duration::from_millis(300);
/// How long the deletion of all allocations may take.
const RELEASE_WITHIN: Duration = Duration::from_secs(20);
/// Share of the clients without which a measurement makes no sense.
const READY_SHARE: f64 = 0.99;
/// Receive queue of the reflector, bytes.
const REFLECTOR_BUFFER_BYTES: usize = 8 << 20;

/// Who is at the other end of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Nobody: there is no data, or clients talk to each other.
    Nobody,
    /// A peer that echoes and counts.
    Peer,
    /// The [`Reflector`], which is the server and the peer at once.
    Reflector,
}

/// Clients and peers for one run.
pub struct Generator {
    engine: Engine,
    peer: Option<PeerHost>,
    path: Path,
    in_step: bool,
    trials: u32,
}

/// What a trial showed.
pub struct Load {
    /// The generator's counters, with those of the peer.
    pub stats: GroupStats,
    /// Processor time from the first packet to the last.
    pub used: Used,
    /// From the first packet sent to the last.
    pub sending: Duration,
    /// Datagrams that passed the server, each way counted once.
    pub hops: u64,
}

impl Generator {
    /// Opens the sockets; nothing is sent yet.
    ///
    /// # Errors
    /// If sockets or threads can't be had.
    pub fn start(
        lab: &Lab,
        traffic: &Traffic,
        server: SocketAddr,
        ends: Ends,
        threads: usize,
        stop: &Arc<AtomicBool>,
    ) -> Result<Generator, Fault> {
        let (peer, addresses) = match ends {
            Ends::Nobody => (None, Vec::new()),
            Ends::Reflector => (None, vec![server]),
            Ends::Peer => {
                let plan = traffic.plan(server, &[], threads);
                let host = lab.peer.enter(|| PeerHost::start(&plan));
                let host = host.map_err(|error| format!("peer: {error}"))?;
                let addresses = host.addresses();
                (Some(host), addresses)
            }
        };
        Generator::with_plan(lab, traffic.plan(server, &addresses, threads), peer, traffic, stop)
    }

    /// The same for clients of one of the lab's other addresses, to whom nobody sends anything.
    ///
    /// # Errors
    /// If sockets or threads can't be had.
    pub fn start_from(
        lab: &Lab,
        local: IpAddr,
        traffic: &Traffic,
        server: SocketAddr,
        threads: usize,
        stop: &Arc<AtomicBool>,
    ) -> Result<Generator, Fault> {
        let plan = Plan { local: Some(local), ..traffic.plan(server, &[], threads) };
        Generator::with_plan(lab, plan, None, traffic, stop)
    }

    fn with_plan(
        lab: &Lab,
        plan: Plan,
        peer: Option<PeerHost>,
        traffic: &Traffic,
        stop: &Arc<AtomicBool>,
    ) -> Result<Generator, Fault> {
        let engine = lab.client.enter(|| Engine::start(plan, Arc::clone(stop)));
        let engine = engine.map_err(|error| format!("load generator: {error}"))?;
        Ok(Generator { engine, peer, path: traffic.path, in_step: traffic.in_step, trials: 0 })
    }

    /// Makes all allocations.
    ///
    /// # Errors
    /// If more than one in a hundred failed, with the server's reason.
    pub fn setup(&mut self) -> Result<SetupReport, Fault> {
        let report = self.engine.setup(&mut |_| {});
        if report.interrupted || self.engine.is_stopping() {
            return Err(Fault::Interrupted);
        }
        if (report.ready as f64) < READY_SHARE * report.wanted as f64 {
            let reason =
                report.failures.first().map_or("not in time".to_owned(), |(reason, _)| reason.to_string());
            return Err(format!(
                "only {} of {} clients could be set up: {reason}",
                report.ready, report.wanted
            )
            .into());
        }
        Ok(report)
    }

    /// Sends for `duration` at the plan's rate times `factor`, while the processor time of the machine and
    /// of process `server` is measured.
    ///
    /// # Errors
    /// After SIGINT or SIGTERM.
    pub fn trial(&mut self, factor: f64, duration: Duration, server: Option<u32>) -> Result<Load, Fault> {
        self.trials += 1;
        let trial = Trial {
            number: self.trials,
            rate_factor: factor,
            duration: Some(duration),
            count: None,
            drain: DRAIN,
            spread: self.in_step.then_some(Duration::ZERO),
        };
        if let Some(peer) = &self.peer {
            peer.begin(self.trials);
        }
        let begin = Reading::begin(server);
        let report = self.engine.trial(trial, &mut |_| {});
        let used = begin.end(server);
        let mut stats = report.total();
        if let Some(peer) = &self.peer {
            peer.finish().iter().for_each(|part| stats.merge(part));
        }
        if report.interrupted {
            return Err(Fault::Interrupted);
        }
        let hops = match self.path {
            Path::Channel | Path::Indication if self.peer.is_some() => stats.peer_received + stats.received,
            // Without a peer it is the direct path: there and back again.
            Path::Channel | Path::Indication => stats.sent + stats.received,
            // Each datagram passes the server once for either allocation.
            Path::RelayToRelay => 2 * stats.received,
            Path::Binding => stats.received,
        };
        Ok(Load { stats, used, sending: report.sending, hops })
    }

    /// Deletes all allocations.
    ///
    /// # Errors
    /// If the server doesn't confirm all of them.
    pub fn release(self) -> Result<Duration, Fault> {
        let report = self.engine.release(RELEASE_WITHIN, &mut |_| {});
        if report.confirmed < report.held {
            let left = report.held - report.confirmed;
            return Err(format!(
                "the server didn't confirm the end of {left} of {} allocations",
                report.held
            )
            .into());
        }
        Ok(report.elapsed)
    }
}

/// What stands at the end of the direct path: it answers as a server would and sends all data back.
pub struct Reflector {
    /// Where it is.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    /// Starts it in the peer namespace.
    ///
    /// # Errors
    /// If the socket or the thread can't be had.
    pub fn start(lab: &Lab) -> Result<Reflector, Fault> {
        let open = || open_socket(SocketAddr::new(PEER, 0), None, REFLECTOR_BUFFER_BYTES);
        let socket: UdpSocket = lab.peer.enter(open).map_err(|error| format!("reflector: {error}"))?;
        let address = socket.local_addr().map_err(|error| format!("reflector: {error}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let work = move || {
            if let Err(error) = reflect::serve(&socket, 0, &flag) {
                eprintln!("turnpike-bench: reflector: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("reflector".into()).spawn(work);
        let thread = thread.map_err(|error| format!("reflector: {error}"))?;
        Ok(Reflector { address, stop, thread: Some(thread) })
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}
