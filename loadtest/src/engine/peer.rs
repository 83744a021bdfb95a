//! The built-in peer: echoes test packets, stamps them with its own time, and counts which of them
//! arrived, so that loss and delay are known for each direction.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::mmsg::{Poller, mono_ns, receive_drops};
use super::payload::{Header, STAMPED_PAYLOAD, tag_flow, tag_trial};
use super::receive::RecvBatch;
use super::{Plan, any_address, open_socket};
use crate::limits::MAX_PEER_SOCKETS;
use crate::stats::{Arrival, GroupStats, Tracker};

/// Receive queue of each socket, bytes.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Longest wait before it looks for commands, ns.
const TURN_NS: u64 = 5_000_000;
/// Window of a flow's sequence numbers in which duplicates are recognised.
const WINDOW: u64 = 1 << 14;

enum PeerCommand {
    Begin(u32),
    Finish(Sender<Vec<GroupStats>>),
}

/// A running built-in peer.
pub struct PeerHost {
    addresses: Vec<SocketAddr>,
    commands: Sender<PeerCommand>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PeerHost {
    /// Binds the sockets and starts the thread.
    pub fn start(plan: &Plan) -> io::Result<Self> {
        let ip = match plan.peer_bind {
            Some(ip) => ip,
            None => source_address(plan.server, plan.local)?,
        };
        let count = plan.flows.len().clamp(1, MAX_PEER_SOCKETS);
        let sockets = (0..count)
            .map(|_| open_socket(SocketAddr::new(ip, 0), None, SOCKET_BUFFER_BYTES))
            .collect::<io::Result<Vec<_>>>()?;
        let addresses = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
        let largest = plan.groups.iter().map(|group| group.payload_bytes).max().unwrap_or(0);
        let (commands, inbox) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let echo = Echo {
            buffer_bytes: (largest + 64).next_multiple_of(64),
            groups_of_flows: plan.flows.iter().map(|flow| flow.group).collect(),
            stats: vec![GroupStats::default(); plan.groups.len()],
            trackers: plan.flows.iter().map(|_| None).collect(),
            trial: 0,
            drops_base: vec![0; sockets.len()],
            sockets,
        };
        let flag = stop.clone();
        let thread =
            std::thread::Builder::new().name("peer".into()).spawn(move || echo.run(&inbox, &flag))?;
        Ok(Self { addresses, commands, stop, thread: Some(thread) })
    }

    /// Addresses that flows may use as their peer.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Starts counting a trial.
    pub fn begin(&self, trial: u32) {
        self.commands.send(PeerCommand::Begin(trial)).expect("the peer lives as long as its host");
    }

    /// Ends the trial; counters by group.
    pub fn finish(&self) -> Vec<GroupStats> {
        let (answer, result) = channel();
        self.commands.send(PeerCommand::Finish(answer)).expect("the peer lives as long as its host");
        result.recv().expect("the peer answers each command")
    }
}

impl Drop for PeerHost {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the peer thread has been printed already; there is nothing else to do here.
            let _ = thread.join();
        }
    }
}

/// The local address from which this machine reaches the server.
pub(crate) fn source_address(server: SocketAddr, local: Option<IpAddr>) -> io::Result<IpAddr> {
    if let Some(ip) = local {
        return Ok(ip);
    }
    let probe = UdpSocket::bind(any_address(server))?;
    probe.connect(server)?;
    Ok(probe.local_addr()?.ip())
}

struct Echo {
    sockets: Vec<UdpSocket>,
    buffer_bytes: usize,
    groups_of_flows: Vec<usize>,
    stats: Vec<GroupStats>,
    trackers: Vec<Option<Tracker>>,
    trial: u32,
    drops_base: Vec<u64>,
}

impl Echo {
    fn run(mut self, inbox: &Receiver<PeerCommand>, stop: &AtomicBool) {
        let mut poller = Poller::new().expect("an epoll descriptor was counted in the open-files check");
        for (index, socket) in self.sockets.iter().enumerate() {
            poller.add(socket.as_fd(), index as u64).expect("a fresh socket can be watched");
        }
        let mut recv = RecvBatch::new(self.buffer_bytes);
        let mut ready = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            match inbox.try_recv() {
                Ok(PeerCommand::Begin(trial)) => self.begin(trial),
                Ok(PeerCommand::Finish(answer)) => {
                    // The asker may have gone because of a signal.
                    let _ = answer.send(self.finish());
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            poller.wait(TURN_NS, &mut ready);
            for index in ready.drain(..) {
                self.echo(index as usize, &mut recv);
            }
        }
    }

    fn begin(&mut self, trial: u32) {
        self.trial = trial;
        self.trackers.iter_mut().for_each(|tracker| *tracker = None);
        self.stats.iter_mut().for_each(|group| *group = GroupStats::default());
        self.drops_base = self.sockets.iter().map(|socket| receive_drops(socket.as_fd())).collect();
    }

    fn finish(&mut self) -> Vec<GroupStats> {
        let drops: u64 = self
            .sockets
            .iter()
            .zip(&self.drops_base)
            .map(|(socket, base)| receive_drops(socket.as_fd()).saturating_sub(*base))
            .sum();
        // The sockets serve all groups; the drops are put down to the first.
        if let Some(first) = self.stats.first_mut() {
            first.own_drops = drops;
        }
        let empty = vec![GroupStats::default(); self.stats.len()];
        std::mem::replace(&mut self.stats, empty)
    }

    fn echo(&mut self, index: usize, recv: &mut RecvBatch) {
        let Some(socket) = self.sockets.get(index) else { return };
        let Ok(count) = recv.recv(socket.as_fd()) else { return };
        let now_ns = mono_ns();
        for datagram in 0..count {
            let Some(payload) = recv.datagram_mut(datagram) else { continue };
            let Some(header) = Header::read(payload) else { continue };
            if payload.len() >= STAMPED_PAYLOAD {
                payload[16..24].copy_from_slice(&now_ns.to_ne_bytes());
            }
            let flow = tag_flow(header.tag);
            let Some(group) = self.groups_of_flows.get(flow).and_then(|&group| self.stats.get_mut(group))
            else {
                continue;
            };
            if tag_trial(header.tag) != self.trial || self.trial == 0 {
                continue;
            }
            let tracker = self.trackers[flow].get_or_insert_with(|| Tracker::new(WINDOW));
            if !matches!(tracker.arrive(header.number), Arrival::Duplicate | Arrival::TooOld) {
                group.peer_received += 1;
                group.one_way.record(now_ns.saturating_sub(header.sent_ns));
            }
        }
        recv.send_back(socket.as_fd());
    }
}
