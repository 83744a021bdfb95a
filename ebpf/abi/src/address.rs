//! IP addresses of either family in one form.

use core::net::{IpAddr, Ipv6Addr};

/// An IP address as sixteen bytes in network order, IPv4 in its mapped form (RFC 4291 s. 2.5.5.2).
///
/// Two words instead of bytes: copying and comparing sixteen bytes becomes a loop in eBPF, and the
/// mapped form keeps an IPv4 address from ever equalling an IPv6 one that may be on the wire. Its
/// prefix adds 0xffff to a checksum, which is nothing in ones' complement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Address {
    high: u64,
    low: u64,
}

impl Address {
    /// No address: an unused place.
    pub const UNSET: Address = Address { high: 0, low: 0 };

    /// From the two words of an IPv6 address as they lie in a header.
    #[inline(always)]
    pub const fn from_v6_words(high: u64, low: u64) -> Address {
        Address { high, low }
    }

    /// From the word of an IPv4 address as it lies in a header.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Address {
        let [a, b, c, d] = word.to_ne_bytes();
        Address { high: 0, low: u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]) }
    }

    /// The words as they lie in an IPv6 header.
    #[inline(always)]
    pub const fn v6_words(self) -> [u64; 2] {
        [self.high, self.low]
    }

    /// The word as it lies in an IPv4 header, if the address is one.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        let [.., a, b, c, d] = self.low.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// Whether no address can be in here: the unused places of a table.
    pub const fn is_unset(self) -> bool {
        self.high == 0 && self.low == 0
    }

    /// Its part of a checksum: the sum of its 16-bit words, not folded.
    #[inline(always)]
    pub(crate) const fn sum(self) -> u64 {
        sum_words(self.high) + sum_words(self.low)
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let v6 = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let [high, low] = halves(v6);
        Address { high, low }
    }
}

fn halves(ip: Ipv6Addr) -> [u64; 2] {
    let bytes = ip.octets();
    let half = |from: usize| core::array::from_fn(|i| bytes[from + i]);
    [u64::from_ne_bytes(half(0)), u64::from_ne_bytes(half(8))]
}

/// The sum of a word's 16-bit words, not folded.
pub(crate) const fn sum_words(word: u64) -> u64 {
    (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_as_on_the_wire() {
        let v4 = Address::from(IpAddr::from([192, 0, 2, 7]));
        assert_eq!(v4.v4_word().to_ne_bytes(), [192, 0, 2, 7]);
        assert_eq!(Address::from_v4_word(v4.v4_word()), v4);
        let ip: IpAddr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let [high, low] = Address::from(ip).v6_words();
        assert_eq!(high.to_ne_bytes(), [0x20, 1, 0xd, 0xb8, 0, 1, 0, 2]);
        assert_eq!(low.to_ne_bytes(), [0, 3, 0, 4, 0, 5, 0, 6]);
        assert_eq!(Address::from_v6_words(high, low), ip.into());
    }

    #[test]
    fn families_never_meet() {
        let v4 = Address::from(IpAddr::from([192, 0, 2, 7]));
        assert_ne!(v4, Address::from("::192.0.2.7".parse::<IpAddr>().unwrap()));
        assert_ne!(v4, Address::from("c000:207::".parse::<IpAddr>().unwrap()));
        assert!(!Address::from(IpAddr::from([0, 0, 0, 0])).is_unset());
    }
}
