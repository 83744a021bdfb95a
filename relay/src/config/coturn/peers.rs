//! `allowed-peer-ip` and `denied-peer-ip`: ranges there, prefixes here.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// The prefixes of an address, or of a range from one to another.
pub(super) fn prefixes(text: &str) -> Result<Vec<IpNet>, String> {
    let ip = |text: &str| {
        text.trim().parse::<IpAddr>().map_err(|_| "is no address, nor a range of them".to_owned())
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (ip(first)?, ip(last)?),
        None => (ip(text)?, ip(text)?),
    };
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
            Ok(Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect())
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
            Ok(Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect())
        }
        _ => Err("is a range that ends before it begins".to_owned()),
    }
}

/// IPv4 written as IPv6, which is brought to one form before any rule is asked.
pub(super) fn is_mapped(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96)
}

/// coturn lets `allowed-peer-ip` win, here the most specific prefix does: a denial within what is allowed means nothing
/// there, and would here.
pub(super) fn is_overruled(denied: &IpNet, allowed: &[IpNet]) -> bool {
    allowed.iter().any(|allowed| allowed.contains(denied))
}
