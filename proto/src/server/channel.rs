//! ChannelBind (RFC 8656 s. 12.2).

use super::{Request, Server};
use crate::addr::{Family, PeerAddr, RelayedTransport};
use crate::io::{Now, Output, RelaySocket};
use crate::refusal::{Detail, Refusal, RefusalReason};
use crate::settings::ServerConfig;
use crate::table::AllocationId;
use crate::wire::{MessageBuilder, attr, channel};

impl Server {
    pub(super) fn handle_channel_bind(&mut self, now: Now, request: &Request<'_>) -> Result<(), Refusal> {
        let id = self.owned_allocation(request)?;
        let (number, peer) = self.asked_binding(request)?;
        let known = self.check_binding(now, id, number, peer)?;
        let relay = self.check_peer(id, peer)?;
        let allocation = self.table.get(id).ok_or(RefusalReason::NoAllocation)?;
        let ServerConfig { max_channels, max_permissions, .. } = self.shared.config;
        if !known && allocation.channels().len() >= max_channels {
            return Err(RefusalReason::TooManyChannels.into());
        }
        if !self.table.has_room(id, &[peer.ip()], max_permissions) {
            return Err(RefusalReason::TooManyPermissions.into());
        }
        let internal = self.shared.is_relayed(peer);
        self.table.bind(id, number, (peer, internal), relay, now.mono_ns);
        self.table.permit(id, peer.ip(), now.mono_ns);
        self.offload_channel(id, number);
        self.succeed(&request.sender.path, request.identity, MessageBuilder::success(request.message));
        Ok(())
    }

    /// Both attributes, well-formed, and a number from the range.
    fn asked_binding(&mut self, request: &Request<'_>) -> Result<(u16, PeerAddr), Refusal> {
        let number = match request.message.channel_number() {
            Some(Ok(number)) => number,
            Some(Err(_)) | None => return Err(RefusalReason::Malformed.into()),
        };
        let peer = match request.message.xor_address(attr::XOR_PEER_ADDRESS) {
            Some(Ok(peer)) => self.shared.to_local(peer),
            Some(Err(_)) | None => return Err(RefusalReason::Malformed.into()),
        };
        if !self.channel_range().contains(&number) {
            if channel::RFC5766_NUMBERS.contains(&number) {
                self.outputs.push_back(Output::OldChannelNumber { channel: number });
            }
            return Err(Refusal::with(RefusalReason::ChannelNumber, Detail::Channel(number)));
        }
        Ok((number, peer))
    }

    /// Whether the pair is bound already; refused if either is bound to something else.
    fn check_binding(
        &self,
        now: Now,
        id: AllocationId,
        number: u16,
        peer: PeerAddr,
    ) -> Result<bool, Refusal> {
        let by_number = self.table.channel(id, number, now.mono_ns);
        let by_peer = self.table.channel_of(id, peer, now.mono_ns);
        match (by_number, by_peer) {
            (None, None) => Ok(false),
            (Some(bound), Some(_)) if bound.peer() == peer => Ok(true),
            _ => Err(Refusal::with(RefusalReason::ChannelConflict, Detail::Channel(number))),
        }
    }

    /// The relay socket that reaches the peer, if its family is ours and the policy lets us.
    fn check_peer(&self, id: AllocationId, peer: PeerAddr) -> Result<RelaySocket, Refusal> {
        let allocation = self.table.get(id).ok_or(RefusalReason::NoAllocation)?;
        if allocation.relayed_transport() != RelayedTransport::Udp {
            return Err(RefusalReason::OtherTransport.into());
        }
        let half = allocation.half(Family::of(&peer.ip())).ok_or(RefusalReason::FamilyMismatch)?;
        let relay = half.socket();
        let checked = self.shared.check_peer(peer);
        checked.map_err(|refused| Refusal::of_peer(peer.ip(), refused))?;
        Ok(relay)
    }
}
