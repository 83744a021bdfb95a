//! Why a client's session fails, in words that say what to do.

use std::net::SocketAddr;

use crate::engine::stream::LinkError;
use crate::transport::Transport;

/// Why a session couldn't be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Nothing came back.
    #[error("no answer to {0}: is the server running and reachable over {1}?")]
    NoAnswer(&'static str, Transport),
    /// The server's machine answered that nothing listens there.
    #[error("connection refused: nothing listens on the server's {port} port", port = port_of(*.0))]
    Refused(Transport),
    /// The connection to the server ended, or never began.
    #[error("the connection to the server: {0}")]
    Connection(LinkError),
    /// The server wants credentials and there are none.
    #[error("the server wants credentials: give a user and password, or a REST secret")]
    NeedCredentials,
    /// The server refused the credentials.
    #[error("wrong user name or password: {0} again for credentials of realm \"{1}\"")]
    WrongCredentials(u16, String),
    /// Success responses came without valid integrity.
    #[error("wrong integrity in a message received from server")]
    WrongIntegrity,
    /// The server refused the peer.
    #[error("the server refuses peer {0}: 403 {1} ({what}, or name another peer)", what = way_to_allow(.0))]
    PeerForbidden(SocketAddr, String),
    /// ALTERNATE-SERVER.
    #[error("the server redirects to {0}: name that one")]
    Redirected(SocketAddr),
    /// Any other error response.
    #[error("{request} refused: error {code} ({reason})")]
    Code {
        /// The request's name.
        request: &'static str,
        /// ERROR-CODE.
        code: u16,
        /// Reason phrase.
        reason: String,
    },
    /// A success response to Allocate without a usable relayed address.
    #[error("the server's answer to Allocate has no relayed address")]
    NoRelayedAddress,
    /// A success response to Connect without CONNECTION-ID.
    #[error("the server's answer to Connect has no CONNECTION-ID")]
    NoConnectionId,
    /// A client has connected to another's relayed address, and that one wasn't told.
    #[error("{0} has connected, and no ConnectionAttempt says so")]
    NoAttempt(SocketAddr),
    /// The deadline of the whole set-up passed.
    #[error("set-up not finished within its deadline")]
    Deadline,
    /// The session that this one depends on failed.
    #[error("its partner's set-up failed")]
    Partner,
    /// A local socket could not be made.
    #[error("cannot open a socket: {0}")]
    Socket(String),
}

/// TLS goes over TCP.
fn port_of(transport: Transport) -> &'static str {
    if transport.is_stream() { "TCP" } else { "UDP" }
}

/// How an operator allows a peer.
fn way_to_allow(peer: &SocketAddr) -> String {
    match peer.ip() {
        ip if ip.is_loopback() => {
            "allow it there: coturn and Turnpike have --allow-loopback-peers for trials".into()
        }
        ip => format!("allow it there: Turnpike by --allow-peer {ip}, coturn by --allowed-peer-ip={ip}"),
    }
}
