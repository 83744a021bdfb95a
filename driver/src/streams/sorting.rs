//! Whom a connection is for, where a port is shared with somebody else: TURN, or whatever the fallback serves.
//!
//! ```text
//!   first byte 0x00 (STUN) ─► TURN          0x16 (TLS) ─► its ClientHello decides:
//!   anything else ─► fallback                 ALPN names a protocol of TURN's ─► TURN, only others ─► fallback
//!                                             no ALPN: a name (SNI) of our certificates, or none ─► TURN
//!                                                      another name ─► fallback
//! ```
//!
//! It changes no byte, and keeps none.

use std::sync::Arc;

use rustls::server::{Acceptor, ClientHello};

/// Bytes within which a ClientHello has to end: many times the largest that browsers send.
const MAX_HELLO: usize = 32 << 10;
/// The first byte of a STUN message with any of TURN's methods (RFC 8489 s. 5): clients begin with one.
const STUN: u8 = 0x00;
/// The first byte of a TLS handshake (RFC 8446 s. 5.1); no STUN method of TURN's and no channel begins with it.
pub(super) const TLS_HANDSHAKE: u8 = 0x16;

/// Whether a name that a client looks for is one of our certificates'.
pub type IsOwnName = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sorted {
    Turn,
    Fallback,
    /// It can't be said yet.
    NotYet,
}

/// Whom a connection is for that begins like this; `protocols` are those that TURN's clients name by ALPN.
pub(super) fn sort(bytes: &[u8], protocols: &[Vec<u8>], is_own_name: &IsOwnName) -> Sorted {
    match bytes.first() {
        None => Sorted::NotYet,
        Some(&STUN) => Sorted::Turn,
        Some(&TLS_HANDSHAKE) => sort_tls(bytes, protocols, is_own_name),
        Some(_) => Sorted::Fallback,
    }
}

fn sort_tls(mut bytes: &[u8], protocols: &[Vec<u8>], is_own_name: &IsOwnName) -> Sorted {
    let mut acceptor = Acceptor::default();
    let len = bytes.len();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => return sort_hello(&accepted.client_hello(), protocols, is_own_name),
            // What we don't understand can't be for us.
            Err(_) => return Sorted::Fallback,
            Ok(None) if bytes.is_empty() && len > MAX_HELLO => return Sorted::Fallback,
            Ok(None) if bytes.is_empty() => return Sorted::NotYet,
            Ok(None) => {}
        }
        if acceptor.read_tls(&mut bytes).is_err() {
            return Sorted::Fallback;
        }
    }
}

// RFC 7443 s. 3: TURN's clients may name it by ALPN, and most name nothing; browsers name HTTP.
fn sort_hello(hello: &ClientHello<'_>, protocols: &[Vec<u8>], is_own_name: &IsOwnName) -> Sorted {
    let is_ours = match (hello.alpn(), hello.server_name()) {
        (Some(mut named), _) => named.any(|name| protocols.iter().any(|own| own == name)),
        (None, Some(name)) => is_own_name(name),
        (None, None) => true,
    };
    if is_ours { Sorted::Turn } else { Sorted::Fallback }
}
