//! A datagram's way through a worker: one question to the core, and what is done with its answer.

use std::net::SocketAddr;
use std::ops::Range;

use turnpike_driver::streams::Streams;
use turnpike_driver::{Datagram, Driver, Ingress};
use turnpike_proto::addr::{ClientAddr, FiveTuple, PeerAddr, Transport};
use turnpike_proto::limits::MAX_FORWARDED;
use turnpike_proto::{
    ClientPath, Egress, Forward, Input, Now, Origin, Received, Server, Transmit, Verdict, WorkerId,
};

use super::Worker;
use super::handover::{Handed, Handover};
use super::lag::is_data;
use super::proxied::{Proxies, Refused};

/// Where a datagram's bytes are.
enum Place<'a> {
    /// In a buffer of the driver.
    Buffer { datagram: &'a Datagram, segment: Range<usize> },
    /// Here: another worker has received them.
    Handed(&'a [u8]),
    /// Among those that a stream has brought.
    Stream(Range<usize>),
}

impl<D: Driver> Worker<D> {
    /// A datagram, or each one of a run, of the driver's.
    pub(super) fn handle_datagram(&mut self, now: Now, datagram: &Datagram) {
        if datagram.truncated {
            return self.server.count(Verdict::DropTruncated, 1);
        }
        let len = datagram.len as usize;
        let segment_size = (datagram.segment_size as usize).max(1);
        let is_late = self.lag.is_late(datagram.waited_us);
        let origin = match datagram.ingress {
            Ingress::Client { socket, server } => {
                // How late strangers are says nothing: they come last.
                if !datagram.is_strangers {
                    self.lag.note(datagram.waited_us);
                }
                let client = ClientAddr(datagram.from);
                let five_tuple = FiveTuple { client, server, transport: Transport::Udp };
                Origin::Client(ClientPath::new(five_tuple, socket))
            }
            Ingress::Relay(relay) => Origin::Peer { relay, peer: PeerAddr(without_scope(datagram.from)) },
        };
        // An empty datagram is one segment, too.
        for start in (0..len.max(1)).step_by(segment_size) {
            let mut segment = start..(start + segment_size).min(len);
            let Some(client) = self.take_header(now, &origin, datagram, &mut segment) else { continue };
            if is_late && self.is_data(datagram, segment.clone()) {
                self.server.count(Verdict::DropLate, 1);
                continue;
            }
            self.relay(now, origin, client, Place::Buffer { datagram, segment }, datagram.tos);
        }
    }

    /// Takes the header of a trusted proxy off a segment; whose it says that the rest is, if there is one. `None` if the
    /// datagram is refused.
    fn take_header(
        &mut self,
        now: Now,
        origin: &Origin,
        datagram: &Datagram,
        segment: &mut Range<usize>,
    ) -> Option<Option<ClientAddr>> {
        let Origin::Client(path) = origin else { return Some(None) };
        let bytes = &self.driver.bytes(datagram)[segment.clone()];
        match self.proxies.header(now.mono_ns, &path.five_tuple, bytes) {
            Ok(said) => {
                segment.start += said.map_or(0, |said| said.len);
                Some(said.map(|said| said.client))
            }
            Err(refused) => {
                self.refuse_header(now, refused);
                None
            }
        }
    }

    fn refuse_header(&mut self, now: Now, refused: Refused) {
        let verdict = match refused {
            Refused::Untrusted => Verdict::DropProxyUntrusted,
            Refused::Header(_) => Verdict::DropProxyHeader,
        };
        self.server.count(verdict, 1);
        self.notices.header_refused(now, refused);
    }

    /// What other workers have received for this one's clients.
    pub(super) fn handle_handed(&mut self, now: Now) {
        for _ in 0..MAX_FORWARDED {
            let Some(handed) = self.handover.as_mut().and_then(Handover::take) else { return };
            let Handed { path, client, bytes, tos } = handed;
            self.relay(now, Origin::Client(path), client, Place::Handed(&bytes), tos);
        }
        if let Some(handover) = &mut self.handover {
            handover.wake_self();
        }
    }

    /// Whether a segment is something to relay.
    fn is_data(&self, datagram: &Datagram, segment: Range<usize>) -> bool {
        match datagram.ingress {
            Ingress::Client { .. } => is_data(&self.driver.bytes(datagram)[segment]),
            Ingress::Relay(_) => true,
        }
    }

    /// Asks the core about a datagram, and does what it says. `client` is whose it is, if a trusted proxy has said so.
    fn relay(&mut self, now: Now, origin: Origin, client: Option<ClientAddr>, place: Place<'_>, tos: u8) {
        let bytes = match &place {
            Place::Buffer { datagram, segment } => &self.driver.bytes(datagram)[segment.clone()],
            Place::Handed(bytes) => *bytes,
            Place::Stream(range) => stream_bytes(&self.streams, range),
        };
        let received = Received { origin, bytes, tos };
        match self.server.forward(now, &received) {
            Forward::Transmit(transmit) => self.send(now, &place, &transmit),
            // The core has counted it.
            Forward::Drop(_) => {}
            Forward::Elsewhere(worker) => self.give(worker, origin, client, &place, tos),
            Forward::Wait(until_ns) => self.wait(now, origin, &place, until_ns),
            Forward::Slow => {
                let sender = match origin {
                    Origin::Client(path) => sender(&self.server, &self.proxies, now, &path, client),
                    Origin::Peer { .. } => Ok(None),
                };
                match (origin, sender) {
                    (Origin::Client(path), Ok(Some(client))) => {
                        self.server.handle_input(now, Input::Proxied { path, client, bytes, tos });
                    }
                    (_, Ok(_)) => self.server.handle_input(now, Input::Received(received)),
                    (_, Err(refused)) => self.refuse_header(now, refused),
                }
                self.carry_out(now);
            }
        }
    }

    fn send(&mut self, now: Now, place: &Place<'_>, transmit: &Transmit) {
        match (transmit.egress, place) {
            (Egress::Client { socket, .. }, Place::Buffer { datagram, segment }) if !socket.is_listener() => {
                let data = transmit.payload(&self.driver.bytes(datagram)[segment.clone()]);
                let header = transmit.header.as_ref().map_or(&[][..], |header| header);
                let is_queued = self.streams.as_mut().is_some_and(|streams| {
                    streams.send_media(now.mono_ns, socket, [header, data], transmit.padding_len)
                });
                if !is_queued {
                    self.count_closed();
                }
            }
            (_, Place::Buffer { datagram, segment }) => {
                self.driver.forward(datagram, segment.start, transmit);
            }
            // What comes from a client has no header in front, and no padding behind, on its way to a peer.
            (_, Place::Handed(bytes)) => send_copy(&mut self.driver, transmit, bytes),
            (_, Place::Stream(range)) => {
                send_copy(&mut self.driver, transmit, stream_bytes(&self.streams, range))
            }
        }
    }

    /// A message from a client of a stream.
    pub(super) fn handle_stream_message(
        &mut self,
        now: Now,
        path: ClientPath,
        client: ClientAddr,
        bytes: Range<usize>,
    ) {
        // A stream has no DSCP and no ECN to hand on (RFC 8656 s. 15).
        self.relay(now, Origin::Client(path), Some(client), Place::Stream(bytes), 0);
    }

    /// Lets a stream's client wait for its bandwidth limit; what can't wait is dropped.
    fn wait(&mut self, now: Now, origin: Origin, place: &Place<'_>, until_ns: u64) {
        let Place::Stream(range) = place else { return };
        let Some(streams) = &mut self.streams else { return };
        if !streams.pause(now.mono_ns, range, until_ns) {
            let received = Received { origin, bytes: streams.bytes(range), tos: 0 };
            self.server.handle_input(now, Input::Received(received));
            self.carry_out(now);
        }
    }

    /// Gives another worker what is for one of its clients.
    fn give(
        &mut self,
        worker: WorkerId,
        origin: Origin,
        client: Option<ClientAddr>,
        place: &Place<'_>,
        tos: u8,
    ) {
        let verdict = match (origin, place) {
            (Origin::Client(path), Place::Buffer { datagram, segment }) => {
                let bytes = self.driver.bytes(datagram)[segment.clone()].to_vec();
                let handed = Handed { path, client, bytes, tos };
                if self.handover.as_mut().is_some_and(|handover| handover.give(worker, handed)) {
                    return;
                }
                Verdict::DropForwardQueue
            }
            // Its allocation has ended since it was handed over, and there is a new one on another worker already. A
            // peer's datagram is never another worker's: the relay socket is ours.
            _ => Verdict::DropStale,
        };
        self.server.count(verdict, 1);
    }
}

/// Sends what is in no buffer of the driver.
fn send_copy(driver: &mut impl Driver, transmit: &Transmit, received: &[u8]) {
    let payload = transmit.payload(received);
    driver.transmit(transmit.egress, transmit.to, payload, transmit.tos, transmit.dont_fragment);
}

/// Whose a client's message is, if it is another one's than the 5-tuple's.
fn sender(
    server: &Server,
    proxies: &Proxies,
    now: Now,
    path: &ClientPath,
    said: Option<ClientAddr>,
) -> Result<Option<ClientAddr>, Refused> {
    let five_tuple = &path.five_tuple;
    let client = match said {
        Some(client) => client,
        None => proxies.sender(now.mono_ns, five_tuple, || server.client_of(five_tuple))?,
    };
    Ok(Some(client).filter(|client| *client != five_tuple.client))
}

fn stream_bytes<'a>(streams: &'a Option<Streams>, range: &Range<usize>) -> &'a [u8] {
    streams.as_ref().map_or(&[], |streams| streams.bytes(range))
}

/// A peer's address as the core compares it: without the interface and flow that a link-local one carries.
fn without_scope(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}
