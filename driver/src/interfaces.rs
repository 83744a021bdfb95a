//! The addresses of this host's interfaces, from `getifaddrs` and `/proc/net/if_inet6`.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use ipnet::IpNet;

/// An address that an interface of this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The interface's name.
    pub interface: String,
    /// Its IPv4 or IPv6 address.
    pub ip: IpAddr,
    /// The network that is attached there.
    pub network: IpNet,
    /// Whether it stays: not a temporary, deprecated or tentative IPv6 address (RFC 8981).
    pub stable: bool,
}

/// Flags of `/proc/net/if_inet6` (`linux/if_addr.h`) under which an IPv6 address isn't there to stay:
/// temporary, duplicate, deprecated, tentative.
const UNSTABLE: u32 = 0x01 | 0x08 | 0x20 | 0x40;

/// All addresses of the interfaces that are up, in the kernel's order.
///
/// # Errors
/// If the kernel doesn't tell.
pub fn local_addresses() -> io::Result<Vec<LocalAddress>> {
    let mut head: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: getifaddrs writes one pointer to the place given; the list is freed below.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let unstable = unstable_ipv6(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
    let mut found = Vec::new();
    let mut next = head;
    // SAFETY: `next` is null or an element of the list that getifaddrs made and that isn't freed yet.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        found.extend(local_address(entry, &unstable));
    }
    // SAFETY: `head` came from getifaddrs, nothing of the list was kept, and it is freed once.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

fn local_address(entry: &libc::ifaddrs, unstable: &HashSet<Ipv6Addr>) -> Option<LocalAddress> {
    if entry.ifa_flags & libc::IFF_UP as libc::c_uint == 0 {
        return None;
    }
    let ip = ip(entry.ifa_addr)?;
    let network = ip_net(ip, entry.ifa_netmask);
    // SAFETY: getifaddrs gives each element a name that ends with NUL and lives as long as the list.
    let interface = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
    let stable = !matches!(ip, IpAddr::V6(ip) if unstable.contains(&ip));
    Some(LocalAddress { interface, ip, network, stable })
}

/// The address behind a pointer of the list, if it is an IP address.
fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the list's addresses are null or point to a sockaddr, whose family is always there.
    let family = i32::from(unsafe { address.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: with this family the kernel's answer is a whole sockaddr_in; read unaligned.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: with this family the kernel's answer is a whole sockaddr_in6; read unaligned.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The attached network; only the address itself if the mask says nothing usable.
fn ip_net(address: IpAddr, mask: *const libc::sockaddr) -> IpNet {
    ip(mask)
        .and_then(|mask| IpNet::with_netmask(address, mask).ok())
        .map_or_else(|| address.into(), |net| net.trunc())
}

/// Lines: address in hex, interface index, prefix length, scope, flags, name.
fn unstable_ipv6(table: &str) -> HashSet<Ipv6Addr> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        (flags & UNSTABLE != 0).then(|| Ipv6Addr::from(address))
    };
    table.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_with_its_network() {
        let addresses = local_addresses().expect("the kernel tells");
        let loopback = addresses.iter().find(|a| a.ip == Ipv4Addr::LOCALHOST).expect("lo is up");
        assert_eq!(loopback.network.to_string(), "127.0.0.0/8");
        assert!(loopback.stable);
    }

    #[test]
    fn temporary_and_deprecated_addresses_are_unstable() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000001 02 40 00 01     eth0\n\
                     20010db8000000000000000000000002 02 40 00 00     eth0\n\
                     20010db8000000000000000000000003 02 40 00 20     eth0\n\
                     broken\n";
        let unstable = unstable_ipv6(table);
        assert_eq!(unstable.len(), 2);
        assert!(unstable.contains(&"2001:db8::1".parse().unwrap()));
        assert!(unstable.contains(&"2001:db8::3".parse().unwrap()));
    }
}
