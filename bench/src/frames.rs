//! Frames made in the kernel: for a relay that is faster than sockets can send and receive.
//!
//! ```text
//!   client ns                                relay ns               peer ns
//!   sender ─ BPF_PROG_TEST_RUN, live ─ veth ─ the server ─ veth ─ sink: counts, drops
//!   sink ◄──────────────────────────── veth ─ the server ─ veth ─ sender, the other way
//! ```
//! The clients have real allocations and channels; only their data come from the sender, with their
//! addresses and ports, and never get to a socket.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use turnpike_fixtures::{Datagram, UdpChecksum};
use turnpike_loadtest::blocking::Exchanged;
use turnpike_loadtest::engine::Framing;
use turnpike_loadtest::engine::mmsg::{mono_ns, set_precise_timers};
use turnpike_loadtest::session::{Session, SessionConfig, State};
use turnpike_loadtest::stats::percent;
use turnpike_loadtest::transport::Transport;

use crate::fault::Fault;
use crate::lab::{CLIENT, Device, Lab, Namespace, PEER, SERVER, device};
use crate::scenario::{FrameTraffic, session};
use crate::search::{Outcome, kept_up};

/// The programs, built from `ebpf/program/src/generator.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/object/traffic.o");

/// First words of a frame, which the sender writes anew each time.
type Headers = [u64; 6];

/// What payloads begin with.
const MARK: &[u8; 8] = b"turnpike";
/// Offset of the UDP payload, bytes.
const PAYLOAD: usize = 14 + 20 + 8;
/// Bytes of a ChannelData header.
const CHANNEL_DATA: usize = 4;
/// First UDP port of the clients, and of the peers.
const FIRST_PORT: u16 = 4_000;
/// The channel of frames that no server gets.
const FIRST_CHANNEL: u16 = 0x4000;
/// Frames that the kernel makes and sends together.
const BATCH: u32 = 64;
/// How often the sender looks what is due.
const TICK: Duration = Duration::from_micros(200);
/// Frames sent by one system call at most.
const MOST: u64 = 4096;
/// Longest wait for an answer of the server.
const ANSWER: Duration = Duration::from_millis(500);
/// How long frames under way are waited for.
const DRAIN: Duration = Duration::from_millis(200);
/// Frames per second by which the relay learns the next hops, before anything is measured.
const WARM_UP_RATE: f64 = 1000.0;
/// How long a relay may take to forward them.
const WARM_UP_WITHIN: Duration = Duration::from_secs(3);

type Client = (UdpSocket, Session);

/// Clients with allocations and channels, and what makes and counts their frames.
pub struct Frames<'a> {
    source: &'a Namespace,
    device: Device,
    frame: Vec<u8>,
    clients: Vec<Client>,
    ebpf: Ebpf,
    received: PerCpuArray<MapData, u64>,
}

/// Where frames are sent, and where they have to arrive.
struct Way<'a> {
    source: &'a Namespace,
    device: Device,
    /// One for each client.
    frames: Vec<Vec<u8>>,
    sink: (&'a Namespace, &'static str),
    /// Offset of the mark when they arrive.
    mark: usize,
    payload_bytes: usize,
}

impl<'a> Way<'a> {
    /// From the clients: the relay takes the channel's header off. Without clients any channel will do.
    fn there(lab: &'a Lab, traffic: FrameTraffic, clients: &[Client]) -> Result<Way<'a>, Fault> {
        let (device, far) = (device(&lab.client, "relay0")?, device(&lab.relay, "client0")?);
        let payload = payload(traffic.payload_bytes);
        let frame = |number: u16| {
            let client = clients.get(usize::from(number));
            let channel = client.and_then(|(_, session)| session.channel()).unwrap_or(FIRST_CHANNEL);
            let message = channel_data(channel, &payload);
            frame(far, device, SocketAddr::new(CLIENT, FIRST_PORT + number), SERVER, message)
        };
        Ok(Way {
            source: &lab.client,
            device,
            frames: (0..traffic.clients).map(frame).collect(),
            sink: (&lab.peer, "relay0"),
            mark: PAYLOAD,
            payload_bytes: traffic.payload_bytes,
        })
    }

    /// From the peers: the relay puts the channel's header in front.
    fn back(lab: &'a Lab, traffic: FrameTraffic, clients: &[Client]) -> Result<Way<'a>, Fault> {
        let (device, far) = (device(&lab.peer, "relay0")?, device(&lab.relay, "peer0")?);
        let payload = payload(traffic.payload_bytes);
        let frame = |((_, session), number): (&Client, u16)| {
            let relayed = session.relayed().ok_or("the client has no relayed address")?;
            Ok(frame(far, device, SocketAddr::new(PEER, FIRST_PORT + number), relayed, payload.clone()))
        };
        Ok(Way {
            source: &lab.peer,
            device,
            frames: clients.iter().zip(0..).map(frame).collect::<Result<_, Fault>>()?,
            sink: (&lab.client, "relay0"),
            mark: PAYLOAD + CHANNEL_DATA,
            payload_bytes: traffic.payload_bytes,
        })
    }
}

/// What a trial showed.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Frames that were due.
    pub scheduled: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames that arrived where they had to.
    pub received: u64,
    /// How long it was sent.
    pub sending: Duration,
}

impl Counted {
    /// What a search wants to know.
    pub fn outcome(&self) -> Outcome {
        let lost = self.sent.saturating_sub(self.received);
        Outcome { loss_percent: percent(lost, self.sent), kept_up: kept_up(self.sent, self.scheduled) }
    }
}

impl Frames<'_> {
    /// Makes an allocation with a channel for each client, and the programs ready.
    ///
    /// # Errors
    /// If the server refuses, or the kernel does; or nothing of what is sent arrives.
    pub fn start(lab: &Lab, traffic: FrameTraffic) -> Result<Frames<'_>, Fault> {
        let config = Arc::new(session(Framing::Channel, Transport::Udp));
        let open = || -> Result<Vec<Client>, Fault> {
            (0..traffic.clients).map(|number| open_client(number, &config)).collect()
        };
        let clients = lab.client.enter(open)?;
        let way = if traffic.to_clients {
            Way::back(lab, traffic, &clients)
        } else {
            Way::there(lab, traffic, &clients)
        };
        Frames::new(way?, clients)
    }

    /// The same frames, counted where a server would get them: what sender and sink cost by themselves.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn start_alone(lab: &Lab, traffic: FrameTraffic) -> Result<Frames<'_>, Fault> {
        let way = Way::there(lab, traffic, &[])?;
        Frames::new(Way { sink: (&lab.relay, "client0"), mark: PAYLOAD + CHANNEL_DATA, ..way }, Vec::new())
    }

    fn new(way: Way<'_>, clients: Vec<Client>) -> Result<Frames<'_>, Fault> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(failed("the eBPF object"))?;
        let mut headers: Array<MapData, Headers> = map(&mut ebpf, "HEADERS")?;
        for (frame, index) in way.frames.iter().zip(0..) {
            headers.set(index, first_words(frame), 0).map_err(failed("HEADERS"))?;
        }
        let mut turn: Array<MapData, [u32; 2]> = map(&mut ebpf, "TURN")?;
        turn.set(0, [way.frames.len() as u32, 0], 0).map_err(failed("TURN"))?;
        let mut expected: Array<MapData, [u32; 2]> = map(&mut ebpf, "EXPECTED")?;
        let arriving = [way.mark + way.payload_bytes, way.mark].map(|value| value as u32);
        expected.set(0, arriving, 0).map_err(failed("EXPECTED"))?;
        let received = map(&mut ebpf, "RECEIVED")?;
        // Attached somewhere, where nothing comes by: else the kernel would patch its code, and stop all
        // processors for that, at the begin and the end of each run.
        let sender = program(&mut ebpf, "send")?;
        sender.load().map_err(failed("the sender"))?;
        way.source.enter(|| sender.attach("lo", XdpMode::Skb)).map_err(failed("the sender"))?;
        let sink = program(&mut ebpf, "sink")?;
        sink.load().map_err(failed("the sink"))?;
        let (namespace, interface) = way.sink;
        let target = device(namespace, interface)?.index;
        let attach = || sink.attach_to_if_index(target, XdpMode::Driver);
        namespace.enter(attach).map_err(failed("the sink's interface"))?;
        let frame = way.frames.into_iter().next().ok_or("there are no clients")?;
        let mut made = Frames { source: way.source, device: way.device, frame, clients, ebpf, received };
        made.warm_up()?;
        Ok(made)
    }

    /// Sends `rate` frames per second for `duration`, all that are due every 200 µs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn trial(&mut self, rate: f64, duration: Duration) -> Result<Counted, Fault> {
        let before = self.received()?;
        let scheduled = (rate * duration.as_secs_f64()) as u64;
        let Frames { source, frame, device, ebpf, .. } = self;
        let sender = program(ebpf, "send")?;
        let (sent, sending) = source.enter(|| {
            set_precise_timers();
            let (begin, mut sent) = (Instant::now(), 0);
            while sent < scheduled && begin.elapsed() < duration + TICK {
                let due = scheduled.min((rate * begin.elapsed().as_secs_f64()) as u64);
                let count = (due - sent).min(MOST);
                if count > 0 {
                    send(sender, frame, device.index, count as u32)?;
                    sent += count;
                }
                if due == sent {
                    std::thread::sleep(TICK);
                }
            }
            Ok::<_, Fault>((sent, begin.elapsed()))
        })?;
        std::thread::sleep(DRAIN);
        Ok(Counted { scheduled, sent, received: self.received()? - before, sending })
    }

    /// Deletes the allocations.
    ///
    /// # Errors
    /// If the server doesn't confirm.
    pub fn release(mut self) -> Result<(), Fault> {
        let mut rng = ChaCha8Rng::from_os_rng();
        for (socket, session) in &mut self.clients {
            session.release(mono_ns(), &mut rng);
            drive(socket, session, &State::Released, &mut rng)?;
        }
        Ok(())
    }

    /// Until frames arrive: next hops have to become known, and a kernel's routes to be written.
    fn warm_up(&mut self) -> Result<(), Fault> {
        let deadline = Instant::now() + WARM_UP_WITHIN;
        loop {
            let Counted { sent, received, .. } = self.trial(WARM_UP_RATE, DRAIN)?;
            if received == sent {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("of {sent} frames only {received} arrive").into());
            }
        }
    }

    fn received(&self) -> Result<u64, Fault> {
        let values = self.received.get(&0, 0).map_err(failed("RECEIVED"))?;
        Ok(values.iter().sum())
    }
}

/// Sends so many frames on an interface of this thread's namespace.
fn send(sender: &mut Xdp, frame: &[u8], interface: u32, count: u32) -> Result<(), Fault> {
    // struct xdp_md (linux/bpf.h): data_end and ingress_ifindex, by which the kernel finds the device.
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&interface.to_ne_bytes());
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat: count,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::new()
    };
    sender.test_run(options).map_err(failed("the sender")).map(drop)
}

fn failed<E: std::error::Error>(what: &'static str) -> impl Fn(E) -> Fault {
    move |error| {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        causes.fold(format!("{what}: {error}"), |text, cause| format!("{text}: {cause}")).into()
    }
}

fn map<M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, Fault> {
    let map = ebpf.take_map(name).ok_or("the eBPF object lacks a map: cargo xtask ebpf")?;
    M::try_from(map).map_err(failed(name))
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Xdp, Fault> {
    let program = ebpf.program_mut(name).ok_or("the eBPF object lacks a program: cargo xtask ebpf")?;
    program.try_into().map_err(failed(name))
}

/// One client with an allocation, and a channel to a peer of its own.
fn open_client(number: u16, config: &Arc<SessionConfig>) -> Result<Client, Fault> {
    let mut rng = ChaCha8Rng::from_os_rng();
    let address = SocketAddr::new(CLIENT, FIRST_PORT + number);
    let open = || {
        let socket = UdpSocket::bind(address)?;
        socket.connect(SERVER)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok::<_, std::io::Error>(socket)
    };
    let mut socket = open().map_err(|error| format!("{address}: {error}"))?;
    let mut session = Session::new(Arc::clone(config));
    session.start(mono_ns(), &mut rng, None, None);
    drive(&mut socket, &mut session, &State::Allocated, &mut rng)?;
    session.bind(mono_ns(), &mut rng, SocketAddr::new(PEER, FIRST_PORT + number));
    drive(&mut socket, &mut session, &State::Ready, &mut rng)?;
    Ok((socket, session))
}

/// Exchanges messages until a state is reached.
fn drive(
    socket: &mut UdpSocket,
    session: &mut Session,
    goal: &State,
    rng: &mut ChaCha8Rng,
) -> Result<(), Fault> {
    let driven = Exchanged::default().drive(socket, session, goal, rng);
    driven.map_err(|error| format!("a client's request failed: {error}").into())
}

/// Application bytes that the sink knows.
fn payload(bytes: usize) -> Vec<u8> {
    let mut payload = MARK.to_vec();
    assert!(payload.len() <= bytes, "the mark is in the payload");
    payload.resize(bytes, 0x55);
    payload
}

/// A ChannelData message.
fn channel_data(channel: u16, payload: &[u8]) -> Vec<u8> {
    [&channel.to_be_bytes()[..], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

fn first_words(frame: &[u8]) -> Headers {
    let mut words = Headers::default();
    for (word, bytes) in words.iter_mut().zip(frame.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

fn frame(to: Device, from: Device, source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Vec<u8> {
    let datagram = Datagram {
        to_mac: to.mac,
        from_mac: from.mac,
        tag: None,
        source,
        destination,
        tos: 0,
        ttl: 64,
        identification: 0,
        dont_fragment: true,
        flow_label: 0,
        payload,
        checksum: UdpChecksum::Right,
        trailer: Vec::new(),
    };
    datagram.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_begins_with_its_words_and_its_mark_is_where_it_is_looked_for() {
        let (to, from) = (Device { index: 1, mac: [1; 6] }, Device { index: 2, mac: [2; 6] });
        for payload_bytes in [8, 170, 171] {
            let message = channel_data(0x4001, &payload(payload_bytes));
            let frame = frame(to, from, SocketAddr::new(CLIENT, FIRST_PORT), SERVER, message);
            assert_eq!(frame.len(), PAYLOAD + CHANNEL_DATA + payload_bytes);
            assert_eq!(&frame[PAYLOAD + CHANNEL_DATA..][..8], MARK);
            let words: Vec<u8> = first_words(&frame).iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert_eq!(words, frame[..48]);
        }
    }
}
