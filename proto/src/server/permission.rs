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
        let mut peers: Vec<IpAddr> = Vec::new();
        for peer in request.message.peer_addresses() {
            let ip = peer.map_err(|_| ErrorCode::BadRequest)?.ip();
            if peers.len() == MAX_PEERS_PER_REQUEST {
                return Err(ErrorCode::InsufficientCapacity);
            }
            peers.push(ip);
        }
        if peers.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let allocation = self.table.get(id).ok_or(ErrorCode::AllocationMismatch)?;
        if peers.iter().any(|ip| allocation.half(Family::of(ip)).is_none()) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        let policy = self.shared.policy();
        if let Some((ip, refused)) = peers.iter().find_map(|ip| Some((*ip, policy.check_ip(*ip).err()?))) {
            self.note_refused_peer(&request.path, PeerAddr(SocketAddr::new(ip, 0)), refused);
            return Err(ErrorCode::Forbidden);
        }
        let peers: Vec<IpAddr> = peers.into_iter().map(|ip| self.shared.to_local_ip(ip)).collect();
        if !self.table.has_room(id, &peers) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        for ip in peers {
            self.table.permit(id, ip, now.mono_ns);
        }
        self.succeed(&request.path, request.identity, MessageBuilder::success(request.message));
        Ok(())
    }
}
