//! CreatePermission (RFC 8656 s. 10.2): all peers of the request, or none of them.

use std::net::{IpAddr, SocketAddr};

use super::{Request, Server};
use crate::addr::{Family, PeerAddr};
use crate::error::ErrorCode;
use crate::io::Now;
use crate::limits::MAX_PEERS_PER_REQUEST;
use crate::wire::MessageBuilder;

impl Server {
    pub(super) fn handle_create_permission(
        &mut self,
        now: Now,
        request: &Request<'_>,
    ) -> Result<(), ErrorCode> {
        let id = self.owned_allocation(request)?;
        let mut peers: Vec<SocketAddr> = Vec::new();
        for peer in request.message.peer_addresses() {
            let peer = peer.map_err(|_| ErrorCode::BadRequest)?;
            if peers.len() == MAX_PEERS_PER_REQUEST {
                return Err(ErrorCode::InsufficientCapacity);
            }
            peers.push(peer);
        }
        if peers.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let allocation = self.table.get(id).ok_or(ErrorCode::AllocationMismatch)?;
        if peers.iter().any(|peer| allocation.half(Family::of(&peer.ip())).is_none()) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        let refused = |peer: &SocketAddr| Some((*peer, self.shared.check_permission(*peer).err()?));
        if let Some((peer, refused)) = peers.iter().find_map(refused) {
            self.note_refused_peer(&request.path, PeerAddr(SocketAddr::new(peer.ip(), 0)), refused);
            return Err(ErrorCode::Forbidden);
        }
        let peers: Vec<IpAddr> = peers.iter().map(|peer| self.shared.to_local_ip(peer.ip())).collect();
        if !self.table.has_room(id, &peers, self.shared.config.max_permissions) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        for ip in peers {
            self.table.permit(id, ip, now.mono_ns);
        }
        self.succeed(&request.path, request.identity, MessageBuilder::success(request.message));
        Ok(())
    }
}
