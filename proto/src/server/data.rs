//! Data, both ways: ChannelData and Send indications to peers; ChannelData, Data indications and
//! ICMP errors to the client.
//!
//! [`Server::forward`] is asked once per datagram segment. It allocates nothing and copies nothing; what it can't say
//! as a [`Transmit`] is `Slow` and comes back through `handle_input`.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use rand_chacha::rand_core::RngCore;
use turnpike_abi::Verdict;

use super::Server;
use crate::addr::{Family, FiveTuple, PeerAddr, RelayedTransport};
use crate::io::{
    ClientPath, Egress, Forward, IcmpError, Now, Origin, Output, Received, RelaySocket, Transmit,
};
use crate::limits::{MAX_STUN_MESSAGE, MAX_UDP_PAYLOAD, MAX_UDP_PAYLOAD_V6};
use crate::stats::UserspaceDrop;
use crate::table::{Admission, Allocation, AllocationId, Channel};
use crate::wire::{Class, HEADER_LEN, Message, MessageBuilder, TransactionId, attr, channel, method};

/// The first two bytes of a Send indication (RFC 8489 s. 5: method 6, class indication).
const SEND_INDICATION: [u8; 2] = [0x00, 0x16];

/// Why a client's data isn't sent on now.
enum Unsent {
    /// It is not at all.
    Dropped(Verdict),
    /// It may be asked about again then.
    Waits(u64),
}

impl From<Verdict> for Unsent {
    fn from(verdict: Verdict) -> Self {
        Unsent::Dropped(verdict)
    }
}

impl Server {
    /// What to do with a datagram or frame: the data path, which copies nothing.
    #[inline]
    pub fn forward(&mut self, now: Now, received: &Received<'_>) -> Forward {
        match &received.origin {
            Origin::Client(path) => self.forward_client(now, path, received),
            Origin::Peer { relay, peer } => self.forward_peer(now, *relay, *peer, received),
        }
    }

    fn forward_client(&mut self, now: Now, path: &ClientPath, received: &Received<'_>) -> Forward {
        let outcome = match received.bytes {
            bytes if is_channel_data(bytes) => self.forward_channel_data(now, path, received),
            [first, second, ..] if [*first, *second] == SEND_INDICATION => {
                self.forward_send(now, path, received)
            }
            // Anybody may answer a Binding; everything else is its allocation's worker's.
            [0, 1 | 0x11, ..] => return Forward::Slow,
            // RFC 7983 s. 7: 0-3 is STUN.
            [0..=3, ..] => return self.elsewhere(path).unwrap_or(Forward::Slow),
            _ => Err(Verdict::DropNotTurn.into()),
        };
        let outcome = match outcome {
            Ok(route) => Ok(route),
            Err(Unsent::Waits(until_ns)) => return Forward::Wait(until_ns),
            Err(Unsent::Dropped(verdict)) => Err(verdict),
        };
        match outcome {
            Err(Verdict::DropNoAllocation) => {
                self.elsewhere(path).unwrap_or_else(|| self.count_forward(outcome))
            }
            outcome => self.count_forward(outcome),
        }
    }

    /// Another worker has this 5-tuple's allocation.
    fn elsewhere(&self, path: &ClientPath) -> Option<Forward> {
        let five_tuple = &path.five_tuple;
        if self.table.find(five_tuple).is_some() {
            return None;
        }
        self.shared.directory.other_owner(five_tuple, self.worker).map(Forward::Elsewhere)
    }

    fn forward_peer(
        &mut self,
        now: Now,
        relay: RelaySocket,
        peer: PeerAddr,
        received: &Received<'_>,
    ) -> Forward {
        let Some((id, _)) = self.table.live_owner(relay, now.mono_ns) else {
            return self.count_forward(Err(Verdict::DropStale));
        };
        let Some(channel) = self.table.channel_of(id, peer, now.mono_ns) else {
            if self.admits_unbound(now, id, peer) {
                return Forward::Slow;
            }
            return self.count_forward(Err(Verdict::DropNoPermissionFromPeer));
        };
        let (number, is_closed) = (channel.number(), self.is_closed(channel));
        if is_closed {
            return self.count_forward(Err(Verdict::DropPeerDenied));
        }
        let outcome = self.channel_data_to_client(now, id, number, received);
        self.count_forward(outcome)
    }

    pub(super) fn channel_range(&self) -> RangeInclusive<u16> {
        match self.shared.config.rfc5766_channels {
            true => channel::RFC5766_NUMBERS,
            false => channel::NUMBERS,
        }
    }

    fn count_forward(&mut self, outcome: Result<Transmit, Verdict>) -> Forward {
        match outcome {
            Ok(transmit) => {
                self.counts.count_forwarded(transmit.verdict, u64::from(transmit.payload_len));
                Forward::Transmit(transmit)
            }
            Err(verdict) => {
                self.counts.verdicts.count(verdict);
                Forward::Drop(verdict)
            }
        }
    }

    // RFC 8656 s. 12.6
    fn forward_channel_data(
        &mut self,
        now: Now,
        path: &ClientPath,
        received: &Received<'_>,
    ) -> Result<Transmit, Unsent> {
        let Received { bytes, tos, .. } = *received;
        let (number, length) = channel::parse_header(bytes).ok_or(Verdict::DropMalformed)?;
        if !self.channel_range().contains(&number) {
            return Err(Verdict::DropNotTurn.into());
        }
        let id = self.table.find(&path.five_tuple).ok_or(Verdict::DropNoAllocation)?;
        let channel = *self.table.channel(id, number, now.mono_ns).ok_or(Verdict::DropUnboundChannel)?;
        // Padding behind the data is allowed over UDP and is not relayed (RFC 8656 s. 12.5).
        if channel::HEADER_LEN + usize::from(length) > bytes.len() {
            return Err(Verdict::DropChannelLength.into());
        }
        if usize::from(length) > max_payload(channel.peer().ip()) {
            return Err(Verdict::DropTooLarge.into());
        }
        if self.is_closed(&channel) {
            return Err(Verdict::DropPeerDenied.into());
        }
        let allocation = self.table.get_mut(id).ok_or(Verdict::DropStale)?;
        if !allocation.path().is_continued_by(path) {
            return Err(Verdict::DropStale.into());
        }
        if !allocation.half(Family::of(&channel.peer().ip())).is_some_and(|half| half.lives(now.mono_ns)) {
            return Err(Verdict::DropStale.into());
        }
        admit_to_peer(now, allocation, usize::from(length))?;
        self.counts.kernel_missed += u64::from(allocation.has_slot());
        Ok(Transmit {
            egress: Egress::Relay(channel.relay()),
            to: channel.peer().0,
            header: None,
            payload_start: channel::HEADER_LEN as u32,
            payload_len: u32::from(length),
            padding_len: 0,
            tos,
            dont_fragment: false,
            verdict: Verdict::ChannelToPeer,
        })
    }

    /// A channel's peer was allowed when it was bound. It is asked about again where it is a relayed address of ours
    /// whose allocation may have ended, so that another program may have the port by now; and while a change of the
    /// policy is on its way through the table.
    fn is_closed(&self, channel: &Channel) -> bool {
        (channel.is_internal() || self.sweeps.is_rechecking()) && !self.shared.permits(channel.peer())
    }

    // RFC 8656 s. 11.2: whatever is wrong with a Send indication, it is discarded silently.
    fn forward_send(
        &mut self,
        now: Now,
        path: &ClientPath,
        received: &Received<'_>,
    ) -> Result<Transmit, Unsent> {
        let Received { bytes, tos, .. } = *received;
        let message = Message::parse(bytes)?;
        if (message.class(), message.method()) != (Class::Indication, method::SEND) {
            return Err(Verdict::DropUnsupported.into());
        }
        if !message.unknown_required(super::KNOWN_ATTRIBUTES).is_empty() {
            return Err(Verdict::DropUnknownAttribute.into());
        }
        let id = self.table.find(&path.five_tuple).ok_or(Verdict::DropNoAllocation)?;
        let Some(Ok(peer)) = message.xor_address(attr::XOR_PEER_ADDRESS) else {
            return Err(Verdict::DropBadSend.into());
        };
        let data = message.data().ok_or(Verdict::DropBadSend)?;
        let peer = self.shared.to_local(peer);
        // Between the families DONT-FRAGMENT is ignored: there is no DF in IPv6 (RFC 8656 s. 13). A stream's data is
        // not translated, whatever family its packets are of (s. 15).
        let five_tuple = &path.five_tuple;
        let is_of_one_family = match five_tuple.transport.is_stream() {
            true => peer.ip().is_ipv4(),
            false => peer.ip().is_ipv4() == five_tuple.client.ip().is_ipv4(),
        };
        let dont_fragment = is_of_one_family && message.has(attr::DONT_FRAGMENT);
        let (start, len) = (offset_within(bytes, data), data.len());
        let relay = self.check_send(now, id, path, peer)?;
        if len > max_payload(peer.ip()) {
            return Err(Verdict::DropTooLarge.into());
        }
        let allocation = self.table.get_mut(id).ok_or(Verdict::DropStale)?;
        admit_to_peer(now, allocation, len)?;
        Ok(Transmit {
            egress: Egress::Relay(relay),
            to: peer.0,
            header: None,
            payload_start: start as u32,
            payload_len: len as u32,
            padding_len: 0,
            tos,
            dont_fragment,
            verdict: Verdict::SendToPeer,
        })
    }

    /// Permission and policy: the policy is asked again for each destination (conformance Q1), since a
    /// permission holds for every port of an address.
    fn check_send(
        &self,
        now: Now,
        id: AllocationId,
        path: &ClientPath,
        peer: PeerAddr,
    ) -> Result<RelaySocket, Verdict> {
        let allocation = self.table.get(id).ok_or(Verdict::DropStale)?;
        if !allocation.path().is_continued_by(path) {
            return Err(Verdict::DropStale);
        }
        // RFC 6062 s. 5: only connections carry data of an allocation that relays TCP.
        if allocation.relayed_transport() != RelayedTransport::Udp {
            return Err(Verdict::DropBadSend);
        }
        let half = allocation.half(Family::of(&peer.ip())).ok_or(Verdict::DropBadSend)?;
        if !half.lives(now.mono_ns) {
            return Err(Verdict::DropStale);
        }
        if !self.table.admits(id, peer, now.mono_ns) {
            return Err(Verdict::DropNoPermissionToPeer);
        }
        match self.shared.permits(peer) {
            true => Ok(half.socket()),
            false => Err(Verdict::DropPeerDenied),
        }
    }

    // RFC 8656 s. 12.7
    fn channel_data_to_client(
        &mut self,
        now: Now,
        id: AllocationId,
        number: u16,
        received: &Received<'_>,
    ) -> Result<Transmit, Verdict> {
        let (len, tos) = (received.bytes.len(), received.tos);
        let allocation = self.table.get_mut(id).ok_or(Verdict::DropStale)?;
        let path = *allocation.path();
        if channel::HEADER_LEN + len > max_to_client(&path.five_tuple) {
            return Err(Verdict::DropTooLarge);
        }
        let (tos, padding_len) = match path.five_tuple.transport.is_stream() {
            // RFC 8656 s. 16: DSCP and ECN are not handed on.
            true => (0, channel::padding(len)),
            false => (tos, 0),
        };
        if !allocation.admit_to_client(now.mono_ns, len) {
            return Err(Verdict::DropRateToClient);
        }
        self.counts.kernel_missed += u64::from(allocation.has_slot());
        Ok(Transmit {
            egress: Egress::Client { socket: path.socket, source: path.five_tuple.server },
            to: path.five_tuple.client.0,
            header: Some(channel::header(number, len as u16)),
            payload_start: 0,
            payload_len: len as u32,
            padding_len,
            tos,
            dont_fragment: false,
            verdict: Verdict::ChannelToClient,
        })
    }

    /// A peer without a channel: permission by IP (RFC 8656 s. 11.4), and the policy for the port, since
    /// other services of our own addresses are not to be reached through a relayed one.
    fn admits_unbound(&self, now: Now, id: AllocationId, peer: PeerAddr) -> bool {
        self.table.has_permission(id, peer.ip(), now.mono_ns) && self.shared.permits(peer)
    }

    /// A peer's datagram, whichever way it goes.
    pub(super) fn handle_peer(
        &mut self,
        now: Now,
        relay: RelaySocket,
        peer: PeerAddr,
        received: &Received<'_>,
    ) {
        match self.forward_peer(now, relay, peer, received) {
            Forward::Slow => {}
            forward => return self.transmit(&forward, received.bytes),
        }
        match self.data_indication(now, relay, peer, received.bytes) {
            Ok((path, payload)) => {
                self.counts.count_forwarded(Verdict::DataToClient, received.bytes.len() as u64);
                let tos = if path.five_tuple.transport.is_stream() { 0 } else { received.tos };
                self.send_to_client(&path, payload, tos);
            }
            Err(verdict) => self.discard(verdict),
        }
    }

    /// A permitted peer's datagram that has no channel goes as a Data indication (RFC 8656 s. 11.4).
    fn data_indication(
        &mut self,
        now: Now,
        relay: RelaySocket,
        peer: PeerAddr,
        bytes: &[u8],
    ) -> Result<(ClientPath, Vec<u8>), Verdict> {
        let (id, _) = self.table.live_owner(relay, now.mono_ns).ok_or(Verdict::DropStale)?;
        let transaction = self.transaction_id();
        let public = self.shared.to_public(peer);
        let allocation = self.table.get_mut(id).ok_or(Verdict::DropStale)?;
        let path = *allocation.path();
        if data_indication_len(public, bytes.len()) > max_to_client(&path.five_tuple) {
            return Err(Verdict::DropTooLarge);
        }
        if !allocation.admit_to_client(now.mono_ns, bytes.len()) {
            return Err(Verdict::DropRateToClient);
        }
        let indication = MessageBuilder::indication(method::DATA, transaction)
            .xor_address(attr::XOR_PEER_ADDRESS, public)
            .attribute(attr::DATA, bytes);
        Ok((path, indication.finish()))
    }

    /// ChannelData or a Send indication that came through `handle_input`: the same as on the data path.
    pub(super) fn handle_data(&mut self, now: Now, path: &ClientPath, received: &Received<'_>) {
        let forward = match self.forward_client(now, path, received) {
            Forward::Wait(_) => self.drop_over_limit(path),
            forward => forward,
        };
        self.transmit(&forward, received.bytes);
    }

    /// What could have waited for the bandwidth limit, had somebody been there who waits.
    fn drop_over_limit(&mut self, path: &ClientPath) -> Forward {
        let allocation = self.table.find(&path.five_tuple).and_then(|id| self.table.get_mut(id));
        allocation.expect("it has a limit").count_rate_drop_to_peer();
        self.count_forward(Err(Verdict::DropRateToPeer))
    }

    fn transmit(&mut self, forward: &Forward, bytes: &[u8]) {
        match forward {
            Forward::Transmit(transmit) => {
                let Transmit { egress, to, tos, dont_fragment, .. } = *transmit;
                let payload = transmit.assemble(bytes);
                self.outputs.push_back(Output::Transmit { egress, to, payload, tos, dont_fragment });
            }
            // Whoever has several workers asks first.
            Forward::Elsewhere(_) => self.discard(Verdict::DropNoAllocation),
            Forward::Drop(_) | Forward::Slow | Forward::Wait(_) => {}
        }
    }

    /// An ICMP error about a permitted peer goes to the client (RFC 8656 s. 11.5, 11.6, 18.13).
    pub(super) fn handle_icmp(&mut self, now: Now, error: &IcmpError) {
        let Some((id, family)) = self.table.live_owner(error.relay, now.mono_ns) else {
            return self.discard(Verdict::DropStale);
        };
        let relevant = match family {
            Family::V4 => matches!(error.icmp_type, 3 | 11),
            Family::V6 => matches!(error.icmp_type, 1..=3),
        };
        // The permission is checked against the destination that the error quotes, not its sender.
        if !relevant || !self.table.admits(id, error.peer, now.mono_ns) {
            return self.discard(Verdict::DropNoPermissionFromPeer);
        }
        let Some(allocation) = self.table.get(id) else { return };
        let path = *allocation.path();
        let mut value = [0; 8];
        value[2..4]
            .copy_from_slice(&(u16::from(error.icmp_type) << 9 | u16::from(error.icmp_code)).to_be_bytes());
        // RFC 8656 s. 18.13: error data is for "too big" alone, whatever else the quoted header held.
        let too_big =
            matches!((family, error.icmp_type, error.icmp_code), (Family::V4, 3, 4) | (Family::V6, 2, _));
        // RFC 1191, RFC 8201: the kernel has learned it as well. Forged ones about anybody else cost nothing.
        if too_big && self.shared.plane().is_some() {
            self.outputs.push_back(Output::PathMtuFell(error.peer.ip()));
        }
        if !self.shared.config.icmp_errors {
            return self.count_userspace(UserspaceDrop::IcmpError, 1);
        }
        value[4..].copy_from_slice(&if too_big { error.data } else { 0 }.to_be_bytes());
        let transaction = self.transaction_id();
        let indication = MessageBuilder::indication(method::DATA, transaction)
            .xor_address(attr::XOR_PEER_ADDRESS, self.shared.to_public(error.peer))
            .attribute(attr::ICMP, &value);
        self.counts.verdicts.count(Verdict::IcmpToClient);
        self.send_to_client(&path, indication.finish(), 0);
    }

    pub(super) fn transaction_id(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        TransactionId(id)
    }
}

/// RFC 7983 s. 7: 64-79 is a TURN channel; RFC 5766 had channels up to 127.
#[inline]
pub(super) fn is_channel_data(bytes: &[u8]) -> bool {
    matches!(bytes, [0x40..=0x7f, ..])
}

/// Charges a client's data to its allocation's bandwidth limit, or says when it will pass.
fn admit_to_peer(now: Now, allocation: &mut Allocation, len: usize) -> Result<(), Unsent> {
    match allocation.admit_to_peer(now.mono_ns, len) {
        Admission::Passes => Ok(()),
        Admission::PassesAt(at_ns) => Err(Unsent::Waits(at_ns)),
        Admission::Dropped => Err(Verdict::DropRateToPeer.into()),
    }
}

/// The largest UDP payload towards an address.
fn max_payload(to: IpAddr) -> usize {
    match to {
        IpAddr::V4(_) => MAX_UDP_PAYLOAD,
        IpAddr::V6(_) => MAX_UDP_PAYLOAD_V6,
    }
}

/// The largest message towards a client. What fits into a peer's datagram fits into a stream's ChannelData, but not
/// always into a STUN message, whose length is a multiple of four.
fn max_to_client(five_tuple: &FiveTuple) -> usize {
    match five_tuple.transport.is_stream() {
        true => MAX_STUN_MESSAGE,
        false => max_payload(five_tuple.client.ip()),
    }
}

/// Bytes of a Data indication: header, XOR-PEER-ADDRESS, DATA with its padding.
fn data_indication_len(peer: SocketAddr, payload_len: usize) -> usize {
    let address_len = if peer.is_ipv4() { 8 } else { 20 };
    HEADER_LEN + (4 + address_len) + 4 + payload_len.next_multiple_of(4)
}

/// Where `part` begins within `whole`, of which it is a part.
fn offset_within(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}
