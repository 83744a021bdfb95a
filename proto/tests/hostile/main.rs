//! What strangers, and users who mean no good, can do to the core; and a client that asks much of it
//! without meaning harm. Row ids (Q4, Q6, ...) are those of `docs/threat-model.md`.

mod aioice;
mod anything;
mod limits;
mod logins;

use turnpike_testkit::rig as lab;

/// A datagram from an address to the first worker.
fn send_from(lab: &mut lab::Lab, address: std::net::SocketAddr, bytes: &[u8]) {
    let path = lab::Client::new(&address.to_string()).path();
    lab.client_sends(0, path, bytes, 0);
}

/// A datagram from a peer to a relayed address.
fn send_to_relayed(
    lab: &mut lab::Lab,
    peer: std::net::SocketAddr,
    relayed: std::net::SocketAddr,
    bytes: &[u8],
) {
    lab.peer_sends(peer, relayed, bytes, 0);
}
