//! Three network namespaces in a row, made for one test and removed with it.
//!
//! ```text
//!   client ns                    relay ns                    peer ns
//!   10.77.1.10 ──── veth ──── 10.77.1.2, .3
//!   fd77:1::10                fd77:1::2, ::3
//!                             10.77.2.2   ──── veth ──── 10.77.2.10
//!                             fd77:2::2                  fd77:2::10
//! ```
//!
//! The same addresses in every lab: namespaces do not see each other. The relay's relayed
//! addresses are those towards the peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

pub use crate::namespace::Namespace;
use crate::namespace::remove_leftovers;
use crate::process::find;
use crate::skip;

/// The client's address.
pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 10));
/// The client's IPv6 address.
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 0x10));
/// The relay's address towards the client.
pub const RELAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2));
/// The relay's second address on the same interface.
pub const RELAY_V4_SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 3));
/// The relay's IPv6 address towards the client.
pub const RELAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2));
/// The relay's second IPv6 address on the same interface.
pub const RELAY_V6_SECOND: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 3));
/// The relay's address towards the peer: the relayed address of allocations.
pub const RELAYED_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 2));
/// The relay's IPv6 address towards the peer.
pub const RELAYED_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 2));
/// The peer's address.
pub const PEER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 10));
/// The peer's IPv6 address.
pub const PEER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 0x10));

/// Programs without which no lab is of use.
const PROGRAMS: &[&str] = &["ip", "setpriv", "turnutils_uclient", "turnutils_peer", "turnutils_stunclient"];

/// The namespaces of one test.
pub struct Lab {
    /// Where clients run.
    pub client: Namespace,
    /// Where the server runs.
    pub relay: Namespace,
    /// Where peers run.
    pub peer: Namespace,
}

impl Lab {
    /// Makes the namespaces, or says loudly why the test `name` is skipped and returns `None`.
    ///
    /// Panics instead of skipping if the environment has `CI=true`.
    pub fn new(name: &str) -> Option<Lab> {
        static REMOVE_LEFTOVERS: Once = Once::new();
        if let Err(why) = prerequisites() {
            skip(name, &why);
            return None;
        }
        REMOVE_LEFTOVERS.call_once(remove_leftovers);
        match Lab::build() {
            Ok(lab) => Some(lab),
            Err(why) => {
                skip(name, &why);
                None
            }
        }
    }

    fn build() -> Result<Lab, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let lab = Lab {
            client: Namespace::add(&format!("{number}-client"))?,
            relay: Namespace::add(&format!("{number}-relay"))?,
            peer: Namespace::add(&format!("{number}-peer"))?,
        };
        lab.client.connect("relay0", &lab.relay, "client0")?;
        lab.relay.connect("peer0", &lab.peer, "relay0")?;
        lab.client.configure("relay0", &["10.77.1.10/24", "fd77:1::10/64", "fe80::10/64"])?;
        lab.relay.configure(
            "client0",
            &["10.77.1.2/24", "10.77.1.3/24", "fd77:1::2/64", "fd77:1::3/64", "fe80::2/64"],
        )?;
        lab.relay.configure("peer0", &["10.77.2.2/24", "fd77:2::2/64", "fe80::2/64"])?;
        lab.peer.configure("relay0", &["10.77.2.10/24", "fd77:2::10/64", "fe80::10/64"])?;
        [&lab.client, &lab.relay, &lab.peer].into_iter().try_for_each(Namespace::settle)?;
        Ok(lab)
    }
}

/// Whether labs can be made here; else why not.
fn prerequisites() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may make network namespaces".into());
    }
    match PROGRAMS.iter().find(|program| find(program).is_none()) {
        Some(missing) => Err(format!("{missing} is not installed (cargo xtask setup installs it)")),
        None => Ok(()),
    }
}
