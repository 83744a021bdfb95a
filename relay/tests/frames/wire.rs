//! The tables once more, as real frames on a real wire: written to one end, forwarded natively at the
//! other, and read again at the first.
//!
//! ```text
//!   this test ──frame──► outer ════ wire ════► inner: XDP ─┬─ PASS ─► read at inner
//!             ◄────────────────────────────────────────────┘ sent, by redirecting to inner
//! ```
//!
//! The wire is a veth pair in a namespace of the test's own. `TURNPIKE_WIRE="INNER OUTER"` names two
//! interfaces instead, which must be connected to each other and to nobody else: `cargo xtask kernels`
//! gives a virtual machine two network cards.
#![allow(unsafe_code)]

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use turnpike_abi::Verdict;
use turnpike_fixtures::{Case, Expect, MAC, Outcome, World, all, check};
use turnpike_offload::probe;
use turnpike_offload::xdp::Mode;
use turnpike_testkit::{PATIENCE, becomes_true};

use crate::attach::{inside_namespace, ip};
use crate::kernel::Kernel;

/// Interfaces to use instead of a veth pair.
const WIRE: &str = "TURNPIKE_WIRE";
/// The shortest Ethernet frame, bytes: a wire may fill shorter ones up.
const SHORTEST: usize = 60;
/// Longer than any frame of the tables, bytes.
const LARGEST: usize = 4096;
/// The interface's index in the tables, and one of them that has to be nobody's.
const TABLE_IFINDEX: u32 = 1;
const TABLE_STRANGER: u32 = 5;
const STRANGER: u32 = 0x7fff_0005;

/// Everything that an interface receives, as frames, and a way to send frames.
struct Tap(Socket);

impl Tap {
    fn open(ifindex: u32) -> Tap {
        // No protocol, so nothing is received before it is bound to its interface.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("root may open it");
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: ifindex as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the storage is for any address, so aligned for this one and larger; the length is its own.
        let address = unsafe {
            SockAddr::try_init(|storage, len| {
                storage.cast::<libc::sockaddr_ll>().write(address);
                len.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
                Ok(())
            })
        };
        let ((), address) = address.expect("it does not fail");
        socket.bind(&address).expect("the interface is there");
        tell_tags(&socket);
        Tap(socket)
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(self.0.send(frame).expect("the interface is up"), frame.len());
    }

    /// The next frame, if one comes in time.
    fn next(&self, patience: Duration) -> Option<Vec<u8>> {
        self.0.set_read_timeout(Some(patience)).expect("it can be set");
        self.receive(0)
    }

    /// The next frame, if it is there already.
    fn waiting(&self) -> Option<Vec<u8>> {
        self.receive(libc::MSG_DONTWAIT)
    }

    fn receive(&self, flags: i32) -> Option<Vec<u8>> {
        let mut buffer = [0; LARGEST];
        match receive_with_tag(&self.0, &mut buffer, flags) {
            Ok((len, tag)) => {
                let mut frame = buffer[..len].to_vec();
                frame.splice(12..12, tag.into_iter().flatten());
                Some(frame)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn forget(&self) {
        while self.waiting().is_some() {}
    }
}

/// Lets a packet socket say which tag the stack has taken off a frame.
fn tell_tags(socket: &Socket) {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the option is an integer that lives longer than the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            (&raw const on).cast(),
            length,
        )
    };
    assert_eq!(done, 0, "the kernel knows it");
}

/// The length of the next frame without the tag, and the tag as it lay there.
fn receive_with_tag(
    socket: &Socket,
    buffer: &mut [u8],
    flags: i32,
) -> std::io::Result<(usize, Option<[u8; 4]>)> {
    let mut control = [0_u64; 16];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros are a valid msghdr: no address, no parts, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the descriptor is open; the message names live locals with their sizes.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(len).map_err(|_| std::io::Error::last_os_error())?;
    // SAFETY: the kernel has filled in what the header says, in memory that is aligned for it.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let is_it = |header: &&libc::cmsghdr| {
        (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
    };
    let Some(header) = header.filter(is_it) else { return Ok((len, None)) };
    // SAFETY: the data of this kind of message is this structure, whatever its alignment.
    let said = unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
    let has_tag = said.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
    let [[a, b], [c, d]] = [said.tp_vlan_tpid, said.tp_vlan_tci].map(u16::to_be_bytes);
    Ok((len, has_tag.then_some([a, b, c, d])))
}

/// Two connected interfaces, the program on one of them.
struct Wire {
    kernel: Kernel,
    ifindex: u32,
    inner: Tap,
    outer: Tap,
}

impl Wire {
    /// With the interfaces that the environment names, or a veth pair.
    fn new() -> Wire {
        let names = std::env::var(WIRE).unwrap_or_else(|_| {
            ip("link add inner type veth peer name outer");
            "inner outer".to_owned()
        });
        let (inner, outer) = names.split_once(' ').expect("two names");
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        ip(&format!("link set {inner} address {mac}"));
        for name in [inner, outer] {
            // No neighbour discovery between the tables' frames.
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")
                .expect("IPv6 is there");
            ip(&format!("link set {name} promisc on up"));
        }
        if std::env::var_os(WIRE).is_none() {
            // What is redirected to a veth is lost unless its other end polls.
            let gro = Command::new("ethtool").args(["-K", outer, "gro", "on"]).status();
            assert!(gro.expect("ethtool can be started").success());
        }
        let facts = probe::facts(inner);
        assert_eq!(probe::verdict(&facts), Ok(()), "{facts:?}");
        let mut kernel = Kernel::new().expect("it was loaded before");
        kernel.xdp.attach(facts.ifindex, Mode::Native).expect("the driver takes it");
        println!("attached natively to {inner}, driver {:?}", facts.driver);
        let [inner, outer] = [facts.ifindex, probe::facts(outer).ifindex].map(Tap::open);
        let wire = Wire { kernel, ifindex: facts.ifindex, inner, outer };
        wire.await_carrier();
        wire
    }

    /// Until the first frame comes through.
    fn await_carrier(&self) {
        let came = becomes_true(|| {
            self.outer.send(&[0xff; SHORTEST]);
            self.inner.next(Duration::from_millis(20)).is_some()
        });
        assert!(came, "nothing comes through the wire");
        // A driver may be busy with its first frames for a moment.
        while self.inner.next(Duration::from_millis(100)).is_some() {}
    }

    fn run(&mut self, case: &Case) -> Result<(), String> {
        let world = self.here(&case.world);
        self.kernel.set(&world);
        self.inner.forget();
        self.outer.forget();
        let before = self.verdicts();
        self.outer.send(&case.frame);
        let mut outcome = Outcome {
            passed: matches!(case.expect, Expect::Pass(_)),
            redirected: false,
            sent_back: false,
            frame: case.frame.clone(),
            verdicts: self.counted(before, case.counts.len() as u64),
            traffic: self.kernel.traffic(world.allocations.len()),
        };
        let came = match &case.expect {
            Expect::Sent(_) => self.outer.next(PATIENCE),
            Expect::Pass(_) => self.inner.next(PATIENCE),
            Expect::Drop(_) => Some(case.frame.clone()),
        };
        let mut frame = came.ok_or_else(|| format!("{}: the frame did not arrive", case.name))?;
        trim(&mut frame, case);
        outcome.sent_back = case.is_sent_back();
        outcome.redirected = matches!(case.expect, Expect::Sent(_)) && !outcome.sent_back;
        outcome.frame = frame;
        check(case, &outcome)?;
        match self.outer.waiting() {
            Some(frame) => Err(format!("{}: one frame too many: {frame:02x?}", case.name)),
            None => Ok(()),
        }
    }

    /// The tables' world with the interface's own index.
    fn here(&self, world: &World) -> World {
        let index = |ifindex| match ifindex {
            TABLE_IFINDEX => self.ifindex,
            TABLE_STRANGER => STRANGER,
            other => other,
        };
        let mut world = world.clone();
        for interface in &mut world.config.interfaces {
            interface.ifindex = index(interface.ifindex);
            if std::env::var_os(WIRE).is_none() {
                // A veth loses what is sent back unless a program is at its far end.
                interface.flags = 0;
            }
        }
        for hop in &mut world.next_hops {
            hop.ifindex = index(hop.ifindex);
        }
        world
    }

    fn verdicts(&self) -> [u64; Verdict::COUNT] {
        self.kernel.xdp.maps.counters().verdicts().expect("they can be read")
    }

    /// What was counted since then, once it is as much as expected or the patience is over.
    fn counted(&self, before: [u64; Verdict::COUNT], expected: u64) -> [u64; Verdict::COUNT] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut counts = self.verdicts();
            counts.iter_mut().zip(before).for_each(|(count, before)| *count -= before);
            if counts.iter().sum::<u64>() >= expected || Instant::now() > deadline {
                return counts;
            }
            thread::yield_now();
        }
    }
}

/// Takes off what the wire filled a short frame up with.
fn trim(frame: &mut Vec<u8>, case: &Case) {
    let expected = match &case.expect {
        Expect::Sent(datagram) => datagram.bytes().len(),
        _ => case.frame.len(),
    };
    if frame.len() == SHORTEST && expected < SHORTEST && frame[expected..].iter().all(|byte| *byte == 0) {
        frame.truncate(expected);
    }
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn every_fixture_is_treated_as_written_on_a_real_wire() {
    if !inside_namespace("wire::every_fixture_is_treated_as_written_on_a_real_wire") {
        return;
    }
    let mut wire = Wire::new();
    let cases = all();
    let failures: Vec<String> = cases.iter().filter_map(|case| wire.run(case).err()).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
