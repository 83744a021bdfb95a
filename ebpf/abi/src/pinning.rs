//! Which worker a client belongs to.

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
    /// Sockets, one for each worker.
    pub sockets: u32,
    /// Zero.
    pub reserved: u32,
}

impl Pinning {
    /// The slot of a datagram's sender, below [`Pinning::sockets`]; `ports` as they lie in the UDP header.
    #[inline(always)]
    pub const fn slot(&self, remote: Address, local: Address, ports: u32) -> u32 {
        let ([a, b], [c, d]) = (remote.v6_words(), local.v6_words());
        let hash = mix(mix(mix(mix(mix(self.seed, a), b), c), d), ports as u64);
        // The upper half scaled to the number of sockets: no division.
        (((hash >> 32) * self.sockets as u64) >> 32) as u32
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
            let pinning = Pinning { seed: 7, sockets, reserved: 0 };
            // One address with many ports, and many addresses with one port.
            for by_port in [true, false] {
                let mut found = [0_u32; 16];
                for i in 0..16_000_u16 {
                    let [high, low] = if by_port { [0, 1] } else { i.to_be_bytes() };
                    let client = IpAddr::from([198, 51, high, low]);
                    let port = if by_port { 1024 + i } else { 5000 };
                    found[pinning.slot(client.into(), SERVER.into(), ports(port)) as usize] += 1;
                }
                let expected = 16_000 / sockets;
                let used = &found[..sockets as usize];
                assert!(used.iter().all(|n| n.abs_diff(expected) < expected / 8), "{sockets}: {used:?}");
            }
        }
    }

    #[test]
    fn the_slot_depends_on_the_seed_and_both_ends() {
        let pinning = Pinning { seed: 7, sockets: 1 << 31, reserved: 0 };
        let [one, other] = [1, 2].map(|last| Address::from(IpAddr::from([198, 51, 100, last])));
        let slot = pinning.slot(one, SERVER.into(), ports(5000));
        assert_ne!(slot, pinning.slot(other, SERVER.into(), ports(5000)));
        assert_ne!(slot, pinning.slot(one, other, ports(5000)));
        assert_ne!(slot, pinning.slot(one, SERVER.into(), ports(5001)));
        assert_ne!(slot, Pinning { seed: 8, ..pinning }.slot(one, SERVER.into(), ports(5000)));
    }
}
