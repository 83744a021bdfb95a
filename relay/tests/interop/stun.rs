//! A STUN Binding on a real socket (RFC 8489 s. 2): who answers, and what it saw.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use stun_types::attribute::XorMappedAddress;
use stun_types::message::{BINDING, Message, MessageWrite, MessageWriteVec};
use turnpike_testkit::eventually;

use super::lab::Namespace;

/// How long an answer is waited for before the request is sent again.
const RESEND: Duration = Duration::from_millis(500);

/// An answer to a Binding request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where it came from.
    pub from: SocketAddr,
    /// The address of ours that it names.
    pub mapped: SocketAddr,
    /// The address that we know as ours.
    pub port: u16,
}

/// Asks `server` from inside `namespace` until it answers; `None` if no valid answer ever comes.
pub fn binding(namespace: &Namespace, server: SocketAddr) -> Option<Answer> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Not connected: a connected socket would hide an answer from another address.
    let socket = namespace.enter(|| UdpSocket::bind((any, 0))).expect("a port is free");
    socket.set_read_timeout(Some(RESEND)).expect("a timeout that is not zero");
    let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
    let id = Message::from_bytes(&request).expect("we built it").transaction_id();
    let mut buffer = [0; 1500];
    let (length, from) = eventually(|| {
        // Refused as long as nobody listens.
        let _ = socket.send_to(&request, server);
        socket.recv_from(&mut buffer).ok()
    })?;
    let answer =
        Message::from_bytes(&buffer[..length]).ok().filter(|answer| answer.transaction_id() == id)?;
    let mapped = answer.attribute::<XorMappedAddress>().ok()?.addr(id);
    Some(Answer { from, mapped, port: socket.local_addr().ok()?.port() })
}
