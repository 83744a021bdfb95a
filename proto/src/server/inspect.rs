//! What the operator may see of the table: a walk in small steps, and one allocation in full.

use std::net::IpAddr;

use super::Server;
use crate::addr::{ClientAddr, FiveTuple, PeerAddr};
use crate::inspect::{
    AllocationDetail, AllocationView, ChannelView, InspectCursor, OffloadState, PermissionView, WhyNot,
};
use crate::io::Now;
use crate::limits::{MAX_INSPECTED, MAX_PLACES_WALKED, MAX_VIEWED_PEERS};
use crate::table::{Allocation, AllocationId};

impl Server {
    /// Whether a 5-tuple has an allocation, or is about to.
    pub fn has_allocation(&self, five_tuple: &FiveTuple) -> bool {
        self.table.find(five_tuple).is_some()
    }

    /// The own address of the client that has, or is about to have, a 5-tuple's allocation: behind a proxy another one
    /// than the 5-tuple's.
    pub fn client_of(&self, five_tuple: &FiveTuple) -> Option<ClientAddr> {
        let id = self.table.find(five_tuple)?;
        self.table.get(id).map(Allocation::client)
    }

    /// A part of a walk over all allocations: at most `max` of them, and not more than [`MAX_INSPECTED`];
    /// perhaps none, although the walk goes on. It goes on at the cursor, and begins without one. What lives
    /// during the whole walk is met exactly once, whatever else begins and ends meanwhile.
    pub fn inspect(
        &self,
        cursor: Option<InspectCursor>,
        max: usize,
    ) -> (Vec<AllocationView>, Option<InspectCursor>) {
        let max = max.clamp(1, MAX_INSPECTED);
        let start = cursor.map_or(0, |cursor| cursor.0);
        let (allocations, mut next) = self.table.walk(start, MAX_PLACES_WALKED);
        let mut views = Vec::new();
        for (id, allocation) in allocations {
            if views.len() == max {
                next = Some(id.place());
                break;
            }
            views.extend(self.view(allocation));
        }
        (views, next.map(InspectCursor))
    }

    /// Everything about one allocation, by its number.
    pub fn inspect_one(&self, now: Now, number: u64) -> Option<AllocationDetail> {
        let id = self.table.find_number(number)?;
        let allocation = self.table.get(id)?;
        let view = self.view(allocation)?;
        let mut permissions: Vec<PermissionView> = self
            .table
            .permissions(id)
            .filter(|(_, expires_ns)| *expires_ns > now.mono_ns)
            .map(|(ip, expires_ns)| PermissionView { ip: self.shared.to_public_ip(ip), expires_ns })
            .collect();
        permissions.sort_unstable_by_key(|permission| permission.ip);
        Some(AllocationDetail { view, permissions, channels: self.channel_views(now, id, allocation) })
    }

    fn channel_views(&self, now: Now, id: AllocationId, allocation: &Allocation) -> Vec<ChannelView> {
        let mut channels: Vec<ChannelView> = allocation
            .channels()
            .iter()
            .filter_map(|bound| {
                let channel = self.table.channel(id, bound.number(), now.mono_ns)?;
                Some(ChannelView {
                    number: bound.number(),
                    peer: self.shared.to_public(PeerAddr(channel.peer().0)),
                    expires_ns: channel.ends_ns(),
                    offload: match self.table.why_not(bound) {
                        None => OffloadState::Active { channels: 1, of: 1 },
                        Some(why_not) => OffloadState::Not(why_not),
                    },
                })
            })
            .collect();
        channels.sort_unstable_by_key(|channel| channel.number);
        channels
    }

    /// An allocation that has been answered.
    pub(super) fn view(&self, allocation: &Allocation) -> Option<AllocationView> {
        let created_ns = allocation.live_since_ns()?;
        let [to_peer, to_client] = allocation.traffic();
        let halves = allocation.halves();
        Some(AllocationView {
            id: allocation.number(),
            user: allocation.identity().user.clone(),
            quota_user: allocation.identity().quota_user.clone(),
            five_tuple: allocation.path().five_tuple,
            client: allocation.client(),
            socket: allocation.path().socket,
            tls: allocation.path().tls,
            relayed_transport: allocation.relayed_transport(),
            relayed: halves.map(|half| self.shared.relayed_to_public(half.relayed())).collect(),
            created_ns,
            expires_ns: allocation.ends_ns(),
            to_peer,
            to_client,
            stream_drops: allocation.stream_drops(),
            bitrate_bits: allocation.bitrate_bits(),
            channels: allocation.channels().len() as u32,
            connections: allocation.connections().len() as u32,
            permissions: allocation.permitted().len() as u32,
            peers: self.peers(allocation),
            offload: self.offload_state(allocation),
        })
    }

    fn peers(&self, allocation: &Allocation) -> Vec<IpAddr> {
        let some = allocation.permitted().iter().take(MAX_VIEWED_PEERS);
        some.map(|ip| self.shared.to_public_ip(*ip)).collect()
    }

    fn offload_state(&self, allocation: &Allocation) -> OffloadState {
        let of = allocation.channels().len() as u32;
        let reasons = allocation.channels().iter().map(|bound| self.table.why_not(bound));
        let (mut active, mut first_reason) = (0, None);
        for why_not in reasons {
            match why_not {
                None => active += 1,
                Some(_) => first_reason = first_reason.or(why_not),
            }
        }
        if active > 0 {
            return OffloadState::Active { channels: active, of };
        }
        let without_slot = self.why_not_allocation(allocation);
        OffloadState::Not(without_slot.or(first_reason).unwrap_or(WhyNot::NoChannel))
    }
}
