//! CreatePermission (RFC 8656 s. 10.2): all peers of the request, or none of them.

use std::net::{IpAddr, SocketAddr};

use super::{Request, Server};
use crate::addr::Family;
use crate::io::Now;
use crate::limits::MAX_PEERS_PER_REQUEST;
use crate::refusal::{Refusal, RefusalReason};
use crate::wire::MessageBuilder;

impl Server {
    pub(super) fn handle_create_permission(
        &mut self,
        now: Now,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        let id = self.owned_allocation(request)?;
        let mut peers: Vec<SocketAddr> = Vec::new();
        for peer in request.message.peer_addresses() {
            let peer = peer.map_err(|_| RefusalReason::Malformed)?;
            if peers.len() == MAX_PEERS_PER_REQUEST {
                return Err(RefusalReason::TooManyPermissions.into());
            }
            peers.push(peer);
        }
        if peers.is_empty() {
            return Err(RefusalReason::Malformed.into());
        }
        let allocation = self.table.get(id).ok_or(RefusalReason::NoAllocation)?;
        if peers.iter().any(|peer| allocation.half(Family::of(&peer.ip())).is_none()) {
            return Err(RefusalReason::FamilyMismatch.into());
        }
        let refused = |peer: &SocketAddr| Some((*peer, self.shared.check_permission(*peer).err()?));
        if let Some((peer, refused)) = peers.iter().find_map(refused) {
            return Err(Refusal::of_peer(peer.ip(), refused));
        }
        let peers: Vec<IpAddr> = peers.iter().map(|peer| self.shared.to_local_ip(peer.ip())).collect();
        if !self.table.has_room(id, &peers, self.shared.config.max_permissions) {
            return Err(RefusalReason::TooManyPermissions.into());
        }
        for ip in peers {
            self.table.permit(id, ip, now.mono_ns);
        }
        self.succeed(&request.sender.path, request.identity, MessageBuilder::success(request.message));
        Ok(())
    }
}
