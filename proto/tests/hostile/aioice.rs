//! aioice, as its `turn.py` (0.10) behaves: it binds a channel with its first datagram to a peer, binds it
//! again with the first one that it sends later than 500 s after, refreshes the allocation after five
//! sixths of its lifetime, and never sends a CreatePermission. Its media must not stop for that.

use std::net::SocketAddr;

use turnpike_proto::wire::{attr, channel, method};

use crate::lab::*;

/// Milliseconds of one call: longer than a permission, a channel and an allocation last.
const CALL_MS: u64 = 11 * 60 * 1000;
/// A datagram from the peer, and one to it, every so many milliseconds.
const INBOUND_MS: u64 = 20;
const OUTBOUND_MS: u64 = 5000;
/// `DEFAULT_CHANNEL_REFRESH_TIME`, milliseconds.
const CHANNEL_REFRESH_MS: u64 = 500_000;

struct Aioice {
    client: Client,
    channel: Option<u16>,
    channel_refresh_at_ms: u64,
    allocation_refresh_at_ms: u64,
    binds: u32,
    refreshes: u32,
}

impl Aioice {
    fn connect(lab: &mut Lab) -> (Self, SocketAddr) {
        let mut client = Client::new("203.0.113.5:1000");
        let answer = client.allocate_with(lab, |builder| builder.lifetime(600));
        let relayed = answer.expect_success().relayed();
        let allocation_refresh_at_ms = u64::from(answer.lifetime()) * 1000 * 5 / 6;
        let aioice = Self {
            client,
            channel: None,
            channel_refresh_at_ms: 0,
            allocation_refresh_at_ms,
            binds: 0,
            refreshes: 0,
        };
        (aioice, relayed)
    }

    /// `send_data`: the channel first if there is none or it is due, then the datagram.
    fn send(&mut self, lab: &mut Lab, now_ms: u64, data: &[u8]) -> usize {
        if self.channel.is_none() || now_ms > self.channel_refresh_at_ms {
            self.with_retry(lab, method::CHANNEL_BIND);
            self.channel = Some(0x4000);
            self.channel_refresh_at_ms = now_ms + CHANNEL_REFRESH_MS;
            self.binds += 1;
        }
        self.client.channel_data(lab, 0x4000, data).len()
    }

    fn refresh_if_due(&mut self, lab: &mut Lab, now_ms: u64) {
        if now_ms >= self.allocation_refresh_at_ms {
            let lifetime = self.with_retry(lab, method::REFRESH).lifetime();
            self.allocation_refresh_at_ms = now_ms + u64::from(lifetime) * 1000 * 5 / 6;
            self.refreshes += 1;
        }
    }

    /// `request_with_retry`: a 438 brings a new nonce, and the request goes once more.
    fn with_retry(&mut self, lab: &mut Lab, method: u16) -> Answer {
        let answer = self.request(lab, method);
        if answer.code != Some(438) {
            answer.expect_success();
            return answer;
        }
        self.client.nonce = answer.message().attribute(attr::NONCE).expect("a 438 has one").to_vec();
        let answer = self.request(lab, method);
        answer.expect_success();
        answer
    }

    fn request(&mut self, lab: &mut Lab, method: u16) -> Answer {
        self.client.request(lab, method, |builder| match method {
            method::CHANNEL_BIND => builder
                .attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER)),
            _ => builder.lifetime(600),
        })
    }
}

/// Lets time pass up to `ms` since `start`, whole seconds of the calendar too.
fn advance(lab: &mut Lab, start_ns: u64, ms: u64) {
    lab.now.unix_secs = START_UNIX_SECS + ms / 1000;
    let wanted_ns = start_ns + ms * 1_000_000;
    for worker in 0..lab.workers.len() {
        while let Some((due_ns, _)) = lab.workers[worker].poll_timeout().filter(|(due, _)| *due <= wanted_ns)
        {
            lab.now.mono_ns = due_ns.max(lab.now.mono_ns);
            lab.input(worker, turnpike_proto::Input::Tick);
        }
    }
    lab.now.mono_ns = wanted_ns;
}

// RFC 8656 s. 12 would end the permission after 300 s; a live channel admits its exact peer (C3).
#[test]
fn c3_inbound_media_on_a_channel_never_stops_for_eleven_minutes() {
    let mut lab = Lab::new();
    let start_ns = lab.now.mono_ns;
    let (mut aioice, relayed) = Aioice::connect(&mut lab);
    aioice.send(&mut lab, 0, b"first");
    for ms in (0..=CALL_MS).step_by(INBOUND_MS as usize) {
        advance(&mut lab, start_ns, ms);
        aioice.refresh_if_due(&mut lab, ms);
        if ms % OUTBOUND_MS == 0 {
            assert_eq!(aioice.send(&mut lab, ms, b"consent"), 1, "after {ms} ms towards the peer");
        }
        lab.take_sent();
        lab.peer_sends(addr(PEER), relayed, b"media", 0);
        let sent = lab.take_sent();
        let expected = [&channel::header(0x4000, 5)[..], b"media"].concat();
        assert!(matches!(&sent[..], [one] if one.payload == expected), "after {ms} ms: {sent:?}");
    }
    assert_eq!((aioice.binds, aioice.refreshes), (2, 1), "only what aioice sends kept it alive");
}

// Another port of the same peer has the permission only, which nobody refreshes (RFC 8656 s. 9).
#[test]
fn c3_other_ports_of_the_peer_end_with_the_permission() {
    let mut lab = Lab::new();
    let start_ns = lab.now.mono_ns;
    let (mut aioice, relayed) = Aioice::connect(&mut lab);
    aioice.send(&mut lab, 0, b"first");
    let other = SocketAddr::new(addr(PEER).ip(), addr(PEER).port() + 1);
    for (ms, expected) in [(299_000, 1), (301_000, 0)] {
        advance(&mut lab, start_ns, ms);
        lab.take_sent();
        lab.peer_sends(other, relayed, b"media", 0);
        assert_eq!(lab.take_sent().len(), expected, "after {ms} ms");
    }
}
