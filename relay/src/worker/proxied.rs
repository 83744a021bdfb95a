//! Clients behind proxies that the operator trusts, over UDP: what a header of the PROXY protocol says of whoever sent a
//! datagram.
//!
//! ```text
//!   datagram from a trusted prefix ─► header taken off ─► what is left goes the usual way, by the proxy's 5-tuple
//!                                         └► the client's own address: only where the core asks who it is
//! ```
//!
//! Proxies write a header in front of each datagram, or of the first one that a client's 5-tuple has. For those, all
//! workers share a bounded memory of what first datagrams said: the next one may come to another worker.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use turnpike_proto::addr::{ClientAddr, FiveTuple};
use turnpike_proto::wire::proxy::{self, Header, HeaderFault};

use crate::config::ProxyUdp;
use crate::limits::{MAX_PROXY_SESSIONS, PROXY_SESSION_NS};

/// Parts of the memory, so that workers seldom look at the same one.
const SHARDS: usize = 16;

/// Which proxies are trusted, and what they have said.
#[derive(Debug)]
pub struct Proxies {
    trusted: ArcSwap<Vec<IpNet>>,
    over_udp: ProxyUdp,
    sessions: Sessions,
}

/// What a datagram's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Bytes of the header; the client's own begin behind them.
    pub len: usize,
    /// The client's own address.
    pub client: ClientAddr,
}

/// Why a datagram is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has a header, and its sender is not trusted with one.
    Untrusted,
    /// Its sender is trusted, and there is no header that can be used.
    Header(HeaderFault),
}

impl Proxies {
    /// Trusts these prefixes; over UDP they write headers like this.
    pub fn new(trusted: Vec<IpNet>, over_udp: ProxyUdp) -> Self {
        Self { trusted: ArcSwap::from_pointee(trusted), over_udp, sessions: Sessions::default() }
    }

    /// Trusts these prefixes from now on. Whoever is connected stays what it is.
    pub fn set_trusted(&self, trusted: Vec<IpNet>) {
        self.trusted.store(Arc::new(trusted));
    }

    /// Whether this address is trusted.
    pub fn is_trusted(&self, ip: IpAddr) -> bool {
        self.trusted.load().iter().any(|prefix| prefix.contains(&ip))
    }

    fn is_believed(&self, sender: ClientAddr) -> bool {
        self.over_udp != ProxyUdp::Off && self.is_trusted(sender.ip())
    }

    /// The header that a datagram of this 5-tuple begins with, if there is one.
    ///
    /// # Errors
    /// If there is one from somebody who is not trusted, or none that can be used where there has to be one.
    pub(super) fn header(
        &self,
        now_ns: u64,
        five_tuple: &FiveTuple,
        bytes: &[u8],
    ) -> Result<Option<Said>, Refused> {
        let sender = five_tuple.client;
        if !self.is_believed(sender) {
            // No client's datagram begins with that byte.
            let has_header = bytes.first() == proxy::SIGNATURE.first() && proxy::is_header(bytes);
            return if has_header { Err(Refused::Untrusted) } else { Ok(None) };
        }
        if self.over_udp == ProxyUdp::First && !proxy::is_header(bytes) {
            return Ok(None);
        }
        let (len, client) = match proxy::read(bytes) {
            Header::Whole { len, client } => (len, client),
            Header::Need(_) => return Err(Refused::Header(HeaderFault::Malformed)),
            Header::Invalid(fault) => return Err(Refused::Header(fault)),
        };
        let client = client.map_or(sender, |client| ClientAddr(client.source));
        if self.over_udp == ProxyUdp::First {
            self.sessions.note(now_ns, five_tuple, client);
        }
        Ok(Some(Said { len, client }))
    }

    /// Whom a datagram without a header of its own is from.
    ///
    /// # Errors
    /// If its sender is trusted, and has never said so.
    pub(super) fn sender(
        &self,
        now_ns: u64,
        five_tuple: &FiveTuple,
        of_allocation: impl FnOnce() -> Option<ClientAddr>,
    ) -> Result<ClientAddr, Refused> {
        let sender = five_tuple.client;
        if self.over_udp != ProxyUdp::First || !self.is_believed(sender) {
            return Ok(sender);
        }
        let known = self.sessions.client_of(now_ns, five_tuple).or_else(of_allocation);
        known.ok_or(Refused::Header(HeaderFault::Missing))
    }
}

/// Whose datagrams without a header are, by 5-tuple. Each part forgets what nobody has used for a while, or what others
/// have pushed out.
#[derive(Debug)]
struct Sessions {
    hasher: RandomState,
    parts: [Mutex<Part>; SHARDS],
}

/// Used lately, and used before that: what of the latter is not used again is forgotten at the next turn.
#[derive(Debug, Default)]
struct Part {
    young: HashMap<FiveTuple, ClientAddr>,
    old: HashMap<FiveTuple, ClientAddr>,
    turned_ns: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { hasher: RandomState::new(), parts: Default::default() }
    }
}

impl Sessions {
    fn note(&self, now_ns: u64, five_tuple: &FiveTuple, client: ClientAddr) {
        self.with_part(now_ns, five_tuple, |part| part.young.insert(*five_tuple, client));
    }

    fn client_of(&self, now_ns: u64, five_tuple: &FiveTuple) -> Option<ClientAddr> {
        self.with_part(now_ns, five_tuple, |part| {
            let known = part.young.get(five_tuple).copied();
            known.or_else(|| {
                let client = part.old.remove(five_tuple)?;
                part.young.insert(*five_tuple, client);
                Some(client)
            })
        })
    }

    /// What is done is a look at a table: nobody waits for longer.
    fn with_part<R>(&self, now_ns: u64, five_tuple: &FiveTuple, look: impl FnOnce(&mut Part) -> R) -> R {
        let index = self.hasher.hash_one(five_tuple) as usize % SHARDS;
        let mut part = self.parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = part.young.len() >= MAX_PROXY_SESSIONS / SHARDS;
        if is_full || now_ns.saturating_sub(part.turned_ns) > PROXY_SESSION_NS {
            part.old = std::mem::take(&mut part.young);
            part.turned_ns = now_ns;
        }
        look(&mut part)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use turnpike_proto::wire::proxy::Proxied;

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn path(port: u16) -> FiveTuple {
        FiveTuple::udp((IpAddr::from([10, 0, 0, 7]), port).into(), addr("192.0.2.1:3478"))
    }

    fn proxies(over_udp: ProxyUdp) -> Proxies {
        Proxies::new(vec!["10.0.0.0/24".parse().expect("a prefix")], over_udp)
    }

    fn header(client: &str) -> Vec<u8> {
        let (source, destination) = (addr(client), addr("192.0.2.1:3478"));
        proxy::write(&Proxied { source, destination, is_stream: false })
    }

    fn nobody() -> Option<ClientAddr> {
        None
    }

    #[test]
    fn each_datagram_of_a_trusted_proxy_has_to_say_whose_it_is() {
        let proxies = proxies(ProxyUdp::Each);
        let bytes = [header("203.0.113.5:1000"), vec![0, 1]].concat();
        let said = Said { len: 28, client: ClientAddr(addr("203.0.113.5:1000")) };
        assert_eq!(proxies.header(0, &path(1), &bytes), Ok(Some(said)));
        let missing = Refused::Header(HeaderFault::Missing);
        assert_eq!(proxies.header(0, &path(1), &[0, 1]), Err(missing), "also after one that had a header");
        let cut = Refused::Header(HeaderFault::Malformed);
        assert_eq!(proxies.header(0, &path(1), &bytes[..20]), Err(cut), "a datagram is all there is");
        let version_1 = Refused::Header(HeaderFault::Version1);
        assert_eq!(proxies.header(0, &path(1), b"PROXY UNKNOWN\r\n\0\x01"), Err(version_1));
    }

    #[test]
    fn a_first_datagrams_header_holds_for_its_5_tuple_until_another_comes() {
        let proxies = proxies(ProxyUdp::First);
        let missing = Err(Refused::Header(HeaderFault::Missing));
        assert_eq!(proxies.header(0, &path(1), &[0, 1]), Ok(None));
        assert_eq!(proxies.sender(0, &path(1), nobody), missing);
        for own in ["203.0.113.5:1000", "203.0.113.6:1000"] {
            assert!(proxies.header(0, &path(1), &header(own)).is_ok_and(|said| said.is_some()));
            assert_eq!(proxies.sender(0, &path(1), nobody), Ok(ClientAddr(addr(own))));
        }
        assert_eq!(proxies.sender(0, &path(2), nobody), missing);
        // LOCAL: the proxy itself asks whether we live.
        let local = [&proxy::SIGNATURE[..], &[0x20, 0, 0, 0], &[0, 1]].concat();
        let said = proxies.header(0, &path(3), &local).expect("a header").expect("a header");
        assert_eq!((said.len, said.client), (16, path(3).client));
        // What an allocation remembers is as good.
        let of_allocation = || Some(ClientAddr(addr("203.0.113.9:1")));
        assert!(proxies.sender(0, &path(4), of_allocation).is_ok());
    }

    #[test]
    fn from_anybody_else_a_header_is_refused_and_nothing_else_is() {
        for (over_udp, sender) in [
            (ProxyUdp::Each, "198.51.100.7:1"),
            (ProxyUdp::First, "198.51.100.7:1"),
            (ProxyUdp::Off, "10.0.0.7:1"),
        ] {
            let proxies = proxies(over_udp);
            let five_tuple = FiveTuple::udp(addr(sender), addr("192.0.2.1:3478"));
            let bytes = [header("203.0.113.5:1000"), vec![0, 1]].concat();
            assert_eq!(proxies.header(0, &five_tuple, &bytes), Err(Refused::Untrusted));
            assert_eq!(proxies.header(0, &five_tuple, &[0, 1]), Ok(None));
            assert_eq!(proxies.sender(0, &five_tuple, nobody), Ok(five_tuple.client));
        }
        let proxies = proxies(ProxyUdp::Each);
        proxies.set_trusted(Vec::new());
        assert_eq!(proxies.header(0, &path(1), &[0, 1]), Ok(None), "trust is taken back while it runs");
    }

    #[test]
    fn memory_is_bounded_and_keeps_those_that_are_used() {
        let proxies = proxies(ProxyUdp::First);
        let own = header("203.0.113.5:1000");
        let held = || {
            let parts = proxies.sessions.parts.iter().map(|part| part.lock().expect("no panic"));
            parts.map(|part| part.young.len() + part.old.len()).sum::<usize>()
        };
        let crowd = 4 * MAX_PROXY_SESSIONS as u32;
        for number in 0..crowd {
            let sender = SocketAddr::new([10, 0, 0, (number >> 16) as u8].into(), number as u16);
            let five_tuple = FiveTuple::udp(sender, addr("192.0.2.1:3478"));
            proxies.header(0, &five_tuple, &own).expect("a header");
            if number % 1000 == 0 {
                if number > 0 {
                    assert!(proxies.sender(0, &path(9), nobody).is_ok(), "{number}");
                }
                proxies.header(0, &path(9), &own).expect("a header");
            }
        }
        assert!(held() <= 2 * MAX_PROXY_SESSIONS, "{}", held());
        assert!(proxies.sender(PROXY_SESSION_NS + 1, &path(9), nobody).is_ok());
        for turn in 2..4 {
            // Others come, this one is silent.
            let now_ns = turn * (PROXY_SESSION_NS + 1);
            for port in 1000..2000 {
                proxies.header(now_ns, &path(port), &own).expect("a header");
            }
        }
        let later_ns = 4 * (PROXY_SESSION_NS + 1);
        assert!(proxies.sender(later_ns, &path(9), nobody).is_err(), "it is forgotten");
    }
}
