//! A worker's driver on the simulated network.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use turnpike_proto::addr::RelayedAddr;
use turnpike_proto::limits::MAX_UDP_PAYLOAD;
use turnpike_proto::{Egress, RelaySocket, Transmit};

use super::SimNetwork;
use super::network::Delivery;
use crate::limits::SIM_EVENTS;
use crate::{Datagram, Driver, DriverCounters, Event, HeldSocket, Waker};

/// The simulated driver of one worker; its sockets are gone when it is dropped.
pub struct SimDriver {
    network: SimNetwork,
    /// Its number in the network.
    driver: usize,
    listeners: Vec<SocketAddr>,
    events: Vec<Event>,
    buffers: Vec<Vec<u8>>,
    queue: Vec<Queued>,
    counters: DriverCounters,
}

struct Queued {
    egress: Egress,
    to: SocketAddr,
    payload: Vec<u8>,
    tos: u8,
    dont_fragment: bool,
}

impl SimDriver {
    pub(super) fn new(network: SimNetwork, worker: usize, listeners: &[SocketAddr]) -> SimDriver {
        let driver = network.lock().add_driver(worker, listeners);
        SimDriver {
            network,
            driver,
            listeners: listeners.to_vec(),
            events: Vec::new(),
            buffers: Vec::new(),
            queue: Vec::new(),
            counters: DriverCounters::default(),
        }
    }

    /// The source address that the datagram will have, if its socket still exists.
    fn source(&self, egress: Egress) -> Option<SocketAddr> {
        match egress {
            Egress::Client { socket, source } => {
                let listener = *self.listeners.get(socket.index as usize)?;
                Some(if listener.ip().is_unspecified() { source } else { listener })
            }
            Egress::Relay(relay) => self.network.lock().relay_address(self.driver, relay),
        }
    }

    fn send(&mut self, queued: Queued) {
        let Some(from) = self.source(queued.egress) else {
            self.counters.send_failed += 1;
            return;
        };
        if from.is_ipv4() != queued.to.is_ipv4() {
            self.counters.send_failed += 1;
        } else if queued.payload.len() > MAX_UDP_PAYLOAD {
            self.counters.send_too_large += 1;
        } else {
            let Queued { to, payload, tos, dont_fragment, .. } = queued;
            self.network.lock().send(from, to, payload, tos, dont_fragment);
        }
    }

    fn accept(&mut self, now_ns: u64, delivery: Delivery) {
        let event = match delivery {
            Delivery::Event(event) => event,
            Delivery::Datagram { ingress, arrival } => {
                let len = arrival.bytes.len() as u32;
                let waited_ns = now_ns - arrival.at_ns;
                let buffer = self.buffers.len() as u32;
                self.buffers.push(arrival.bytes);
                Event::Datagram(Datagram {
                    ingress,
                    is_strangers: false,
                    from: arrival.from,
                    tos: arrival.tos,
                    truncated: false,
                    buffer,
                    len,
                    segment_size: len,
                    waited_us: (waited_ns / 1000) as u32,
                })
            }
        };
        self.events.push(event);
    }
}

impl Driver for SimDriver {
    /// Never sleeps: takes what has arrived by the virtual now.
    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<usize> {
        self.flush();
        self.events.clear();
        self.buffers.clear();
        let network = self.network.clone();
        let mut network = network.lock();
        network.deliver_due();
        if network.take_woken(self.driver) {
            self.events.push(Event::Woken);
        }
        while self.events.len() < SIM_EVENTS {
            let Some(delivery) = network.take_for_driver(self.driver) else { break };
            self.accept(network.now().mono_ns, delivery);
        }
        Ok(self.events.len())
    }

    fn event(&self, index: usize) -> Event {
        self.events[index]
    }

    fn bytes(&self, datagram: &Datagram) -> &[u8] {
        &self.buffers[datagram.buffer as usize]
    }

    fn forward(&mut self, datagram: &Datagram, segment_start: usize, transmit: &Transmit) {
        let start = segment_start + transmit.payload_start as usize;
        let data = &self.bytes(datagram)[start..start + transmit.payload_len as usize];
        let payload: Vec<u8> = transmit.header.iter().flatten().chain(data).copied().collect();
        self.transmit(transmit.egress, transmit.to, &payload, transmit.tos, transmit.dont_fragment);
    }

    fn transmit(&mut self, egress: Egress, to: SocketAddr, payload: &[u8], tos: u8, dont_fragment: bool) {
        self.queue.push(Queued { egress, to, payload: payload.to_vec(), tos, dont_fragment });
    }

    fn open_port(&mut self, relay: RelaySocket, address: RelayedAddr) {
        let mut network = self.network.lock();
        let event = match network.open_port(self.driver, relay, address.0) {
            Ok(()) => Event::PortOpened(relay),
            Err(error) => Event::PortFailed(relay, error),
        };
        network.report(self.driver, event);
    }

    fn open_pair(&mut self, relay: RelaySocket, address: RelayedAddr, reserve: RelayedAddr) {
        let reserved = self.network.lock().reserve(reserve.0);
        match reserved {
            Ok(()) => self.open_port(relay, address),
            Err(error) => self.network.lock().report(self.driver, Event::PortFailed(relay, error)),
        }
    }

    fn release_port(&mut self, address: RelayedAddr) {
        self.network.lock().release_reserved(address.0);
    }

    fn close_port(&mut self, relay: RelaySocket) {
        // What was queued before the end still belongs to the allocation.
        self.flush();
        let mut network = self.network.lock();
        if network.close_port(self.driver, relay) {
            network.report(self.driver, Event::PortClosed(relay));
        }
    }

    fn flush(&mut self) {
        for queued in std::mem::take(&mut self.queue) {
            self.send(queued);
        }
    }

    /// It waits for nothing.
    fn count_messages(&mut self, _messages: usize) {}

    /// There are no streams in the simulated network.
    fn watch(&mut self, _descriptor: OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(SimWaker { network: self.network.clone(), driver: self.driver })
    }

    fn open_ports(&self) -> usize {
        self.network.lock().open_ports_of(self.driver)
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }

    fn pause(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_paused(&self) -> bool {
        false
    }

    fn resume(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn held_sockets(&self) -> Vec<HeldSocket<'_>> {
        Vec::new()
    }

    fn adopt_port(&mut self, _: RelaySocket, _: OwnedFd, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.network.lock().remove_driver(self.driver);
    }
}

struct SimWaker {
    network: SimNetwork,
    driver: usize,
}

impl Waker for SimWaker {
    fn wake(&self) {
        self.network.lock().wake(self.driver);
    }
}
