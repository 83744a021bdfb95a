//! Which worker a client belongs to, and which of its sockets gets what it sends.

use crate::Address;

/// The one entry of the map `PINNING`: how clients are spread over the sockets of a listener.
///
/// A client's slot depends on nothing but its addresses, its ports and what is in here. Sockets that come
/// and go move nobody, and a restart with as many workers finds each client where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Pinning {
    /// Keeps strangers from choosing whom they share a worker with; the same after a restart.
    pub seed: u64,
    /// Workers.
    pub sockets: u32,
    /// Not 0: each worker has a second socket, for strangers.
    pub keeps_apart: u32,
}

/// The map `KNOWN` says of so many buckets, one byte each, how many clients with an allocation are in them; one that is
/// full stays so. With a thousand clients one stranger in a thousand is taken for one of them.
pub const KNOWN_BUCKETS: u32 = 1 << 20;

/// Where a datagram's sender belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The worker's slot, below [`Pinning::sockets`].
    pub slot: u32,
    /// The sender's bucket, below [`KNOWN_BUCKETS`].
    pub bucket: u32,
}

impl Pin {
    /// The entry of `KNOWN` that has the bucket.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.bucket / 8
    }

    /// How many clients that entry says are in the bucket.
    #[inline(always)]
    pub const fn count(self, word: u64) -> u64 {
        word >> self.shift() & 0xff
    }

    /// That entry with a client more in the bucket; `None` if it is full.
    pub const fn entered(self, word: u64) -> Option<u64> {
        if self.count(word) < 0xff { Some(word + (1 << self.shift())) } else { None }
    }

    /// The same with a client less; `None` if it was full, or is empty.
    pub const fn left(self, word: u64) -> Option<u64> {
        match self.count(word) {
            0 | 0xff => None,
            _ => Some(word - (1 << self.shift())),
        }
    }

    const fn shift(self) -> u32 {
        self.bucket % 8 * 8
    }
}

impl Pinning {
    /// Where a datagram's sender belongs; `ports` as they lie in the UDP header.
    #[inline(always)]
    pub const fn pin(&self, remote: Address, local: Address, ports: u32) -> Pin {
        let ([a, b], [c, d]) = (remote.v6_words(), local.v6_words());
        let hash = mix(mix(mix(mix(mix(self.seed, a), b), c), d), ports as u64);
        // The upper half scaled to the number of workers: no division.
        let slot = (((hash >> 32) * self.sockets as u64) >> 32) as u32;
        Pin { slot, bucket: hash as u32 % KNOWN_BUCKETS }
    }
}

/// An odd factor, and a shift that brings the well mixed upper half down: enough to spread addresses.
#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 32)
}

const _: () = assert!(size_of::<Pinning>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr};

    const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

    fn ports(port: u16) -> u32 {
        let [a, b] = port.to_be_bytes();
        u32::from_ne_bytes([a, b, 0x0d, 0x96])
    }

    #[test]
    fn neighbours_are_spread_over_all_slots() {
        for sockets in [2, 3, 4, 16] {
            let pinning = Pinning { seed: 7, sockets, keeps_apart: 0 };
            // One address with many ports, and many addresses with one port.
            for by_port in [true, false] {
                let mut found = [0_u32; 16];
                for i in 0..16_000_u16 {
                    let [high, low] = if by_port { [0, 1] } else { i.to_be_bytes() };
                    let client = IpAddr::from([198, 51, high, low]);
                    let port = if by_port { 1024 + i } else { 5000 };
                    found[pinning.pin(client.into(), SERVER.into(), ports(port)).slot as usize] += 1;
                }
                let expected = 16_000 / sockets;
                let used = &found[..sockets as usize];
                assert!(used.iter().all(|n| n.abs_diff(expected) < expected / 8), "{sockets}: {used:?}");
            }
        }
    }

    #[test]
    fn the_slot_depends_on_the_seed_and_both_ends() {
        let pinning = Pinning { seed: 7, sockets: 1 << 31, keeps_apart: 0 };
        let [one, other] = [1, 2].map(|last| Address::from(IpAddr::from([198, 51, 100, last])));
        let slot = pinning.pin(one, SERVER.into(), ports(5000)).slot;
        assert_ne!(slot, pinning.pin(other, SERVER.into(), ports(5000)).slot);
        assert_ne!(slot, pinning.pin(one, other, ports(5000)).slot);
        assert_ne!(slot, pinning.pin(one, SERVER.into(), ports(5001)).slot);
        assert_ne!(slot, Pinning { seed: 8, ..pinning }.pin(one, SERVER.into(), ports(5000)).slot);
    }

    #[test]
    fn who_shares_a_slot_shares_no_bucket() {
        let pinning = Pinning { seed: 7, sockets: 2, keeps_apart: 1 };
        let pin = |port| pinning.pin(IpAddr::from([198, 51, 100, 1]).into(), SERVER.into(), ports(port));
        let mut words = [0_u8; KNOWN_BUCKETS as usize / 8];
        let mut shared = 0;
        for pin in (0..10_000).map(pin).filter(|pin| pin.slot == 0) {
            let (word, bit) = (pin.bucket as usize / 8, 1 << (pin.bucket % 8));
            shared += u32::from(words[word] & bit != 0);
            words[word] |= bit;
        }
        // Of 5000 in a million about 12 by chance.
        assert!(shared < 40, "{shared}");
    }

    #[test]
    fn a_bucket_counts_and_a_full_one_stays() {
        for bucket in [0, 3, 7, 8 * 5 + 6] {
            let pin = Pin { slot: 0, bucket };
            let others = 0x0101_0101_0101_0101 & !(0xff << (bucket % 8 * 8));
            let mut word = others;
            assert_eq!((pin.count(word), pin.left(word)), (0, None));
            for count in 1..=254 {
                word = pin.entered(word).expect("there is room");
                assert_eq!(pin.count(word), count);
            }
            assert_eq!(pin.left(word).map(|word| pin.count(word)), Some(253));
            word = pin.entered(word).expect("there is room");
            assert_eq!((pin.entered(word), pin.left(word)), (None, None));
            assert_eq!(word & !(0xff << (bucket % 8 * 8)), others, "its neighbours are as they were");
        }
    }
}
