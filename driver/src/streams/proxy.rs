//! Connections of proxies that the operator trusts: each begins with a header of the PROXY protocol.
//!
//! What the header says is the client's own address: bounds, limits and records go by it. The 5-tuple stays the
//! wire's. From anybody else a header is a lie, and ends the connection.

use std::net::IpAddr;
use std::sync::Arc;

use turnpike_proto::ClientSocket;
use turnpike_proto::addr::ClientAddr;
use turnpike_proto::wire::proxy::{self, Header, HeaderFault};

use super::Streams;
use super::connection::Phase;
use super::counters::CloseReason;

/// Whether the operator trusts this address to speak for others.
pub type IsProxy = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

impl Streams {
    /// Reads the header in front of what a trusted proxy has sent, and takes it away; `false` if it has not come whole.
    pub(super) fn take_header(&mut self, socket: ClientSocket) -> Result<bool, CloseReason> {
        let (len, client) = match proxy::read(&self.inbox) {
            Header::Need(_) => return Ok(false),
            Header::Whole { len, client } => (len, client),
            Header::Invalid(fault) => return Err(reason(fault)),
        };
        self.inbox.drain(..len);
        let Some(connection) = self.table.get_mut(socket) else { return Ok(false) };
        connection.proxied = client.map(|client| ClientAddr(client.source));
        connection.phase = Phase::First;
        let own = connection.apparent();
        self.table.count_for(socket, own.0.ip(), &self.options.limits)?;
        Ok(true)
    }
}

fn reason(fault: HeaderFault) -> CloseReason {
    match fault {
        HeaderFault::Missing => CloseReason::ProxyMissing,
        HeaderFault::Version1 => CloseReason::ProxyVersion,
        _ => CloseReason::ProxyHeader,
    }
}
