//! What each processor remembers of frames on their way to a device, so that what was not sent is not counted as
//! relayed.
//!
//! The kernel gathers redirected frames, and a device takes a batch of them at the end of the interrupt's turn, or when
//! the batch is full. How many it took is said then (tracepoint `xdp_devmap_xmit`), not which: but each processor has a
//! queue of its own for each device, first in, first out, so the last ones of the batch are those that were lost.
//!
//! ```text
//!   program:  charge ─► queue ─► redirect ─┬─► refused: taken back (`xdp_redirect_err`)
//!                                          └─► batch ─► device ─► settle (`xdp_devmap_xmit`)
//!   program:  charge ─► send_back ─► XDP_TX ─► refused: taken back (`xdp_exception`)
//! ```
//!
//! As long as frames of ours are open on a processor, what is sent there is ours: one turn runs the program of one
//! interface, and ends with sending.

use crate::MAX_INTERFACES;

/// Frames that the kernel gathers for a device (`DEV_MAP_BULK_SIZE`).
pub const BATCH: u64 = 16;
/// Frames that are remembered: a batch, and the one that did not fit into it; a power of two.
const REMEMBERED: usize = 32;

/// What one frame was charged to one direction of an allocation: slot, bytes of payload, direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Charge(u64);

impl Charge {
    /// Nothing.
    pub const NONE: Charge = Charge(0);
    const IS_THERE: u64 = 1 << 48;
    const TO_CLIENT: u64 = 1 << 49;

    /// A datagram with so many bytes of payload.
    #[inline(always)]
    pub const fn new(slot: u32, to_client: bool, bytes: u16) -> Charge {
        let direction = if to_client { Self::TO_CLIENT } else { 0 };
        Charge(slot as u64 | (bytes as u64) << 32 | Self::IS_THERE | direction)
    }

    /// Whether it is nothing.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 & Self::IS_THERE == 0
    }

    /// Slot in `ALLOCATIONS`.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    /// Whether it was for the client, else for a peer.
    #[inline(always)]
    pub const fn to_client(self) -> bool {
        self.0 & Self::TO_CLIENT != 0
    }

    /// Bytes of payload.
    #[inline(always)]
    pub const fn bytes(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

/// Frames to one interface, by one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ledger {
    /// Frames that the kernel has taken for the device.
    pub queued: u64,
    /// Of these, those whose fate is known.
    pub settled: u64,
    /// Frames that were sent back by the interface they came in on.
    pub back: u64,
    /// Frames that the kernel did not take.
    pub refused: u64,
    /// Frames that the device did not take.
    pub dropped: u64,
    /// The last frames that were queued, two charges each.
    charges: [Charge; 2 * REMEMBERED],
}

/// The entry of the map `BOOKS`, one for each processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Books {
    /// Places of interfaces with frames whose fate is not known, a bit each.
    pub open: u64,
    /// Frames that were dropped by a device of which nobody could tell which it is.
    pub unplaced: u64,
    /// One more than the place of the last frame that was sent back; 0 once its fate is known.
    last_back: u64,
    /// What that frame was charged.
    last_charges: [Charge; 2],
    /// By place of the device in [`crate::Config::devices`].
    pub ledgers: [Ledger; MAX_INTERFACES],
}

impl Ledger {
    const EMPTY: Ledger = Ledger {
        queued: 0,
        settled: 0,
        back: 0,
        refused: 0,
        dropped: 0,
        charges: [Charge::NONE; 2 * REMEMBERED],
    };

    #[inline(always)]
    fn charges_of(&self, frame: u64) -> [Charge; 2] {
        let at = frame as usize % REMEMBERED;
        [self.charges[2 * at], self.charges[2 * at + 1]]
    }
}

impl Books {
    /// Nothing has happened.
    pub const EMPTY: Books = Books {
        open: 0,
        unplaced: 0,
        last_back: 0,
        last_charges: [Charge::NONE; 2],
        ledgers: [Ledger::EMPTY; MAX_INTERFACES],
    };

    /// A frame is going to be redirected to the interface at `place`.
    #[inline(always)]
    pub fn queue(&mut self, place: u32, first: Charge, second: Charge) {
        let place = place as usize % MAX_INTERFACES;
        self.open |= 1 << place;
        let ledger = &mut self.ledgers[place];
        let at = ledger.queued as usize % REMEMBERED;
        ledger.charges[2 * at] = first;
        ledger.charges[2 * at + 1] = second;
        ledger.queued = ledger.queued.wrapping_add(1);
    }

    /// A frame is going to be sent back by the interface at `place`, on which it came in.
    #[inline(always)]
    pub fn send_back(&mut self, place: u32, first: Charge, second: Charge) {
        let place = place as usize % MAX_INTERFACES;
        self.ledgers[place].back += 1;
        self.last_back = place as u64 + 1;
        self.last_charges[0] = first;
        self.last_charges[1] = second;
    }

    /// The kernel did not take the frame that was queued last: gives what it was charged.
    #[inline(always)]
    pub fn refuse(&mut self, place: u32) -> [Charge; 2] {
        let place = place as usize % MAX_INTERFACES;
        let ledger = &mut self.ledgers[place];
        if ledger.queued == ledger.settled {
            return [Charge::NONE; 2];
        }
        ledger.queued -= 1;
        ledger.refused += 1;
        if ledger.queued == ledger.settled {
            self.open &= !(1 << place);
        }
        self.ledgers[place].charges_of(self.ledgers[place].queued)
    }

    /// The driver could not send the last frame back: gives what it was charged.
    #[inline(always)]
    pub fn refuse_back(&mut self) -> [Charge; 2] {
        if self.last_back == 0 {
            return [Charge::NONE; 2];
        }
        let place = (self.last_back - 1) as usize % MAX_INTERFACES;
        self.last_back = 0;
        self.ledgers[place].refused += 1;
        [self.last_charges[0], self.last_charges[1]]
    }

    /// The device at `place` was given a batch; `take_back` is called with what those were charged that it dropped.
    #[inline(always)]
    pub fn settle(&mut self, place: u32, sent: u32, dropped: u32, mut take_back: impl FnMut(Charge)) {
        let place = place as usize % MAX_INTERFACES;
        let ledger = &mut self.ledgers[place];
        let open = ledger.queued - ledger.settled;
        // The batch was full, and the frame that did not fit has been queued since.
        let is_full = sent as u64 + dropped as u64 == BATCH;
        let left = if is_full && open > BATCH { 1 } else { 0 };
        let end = ledger.queued - left;
        // Others' programs may send by the same device.
        let lost = if (dropped as u64) < open - left { dropped as u64 } else { open - left };
        let mut back = 1;
        while back <= BATCH {
            if back > lost {
                break;
            }
            let [first, second] = ledger.charges_of(end.wrapping_sub(back));
            take_back(first);
            take_back(second);
            back += 1;
        }
        ledger.dropped += lost;
        ledger.settled = end;
        if left == 0 {
            self.open &= !(1 << place);
        }
    }
}

/// The kernel's addresses of our interfaces' devices, by place, as far as they are known; 0 if not.
pub type Devices = [u64; MAX_INTERFACES];

/// The place of a device that was given a batch while frames to the interfaces in `open` are; [`MAX_INTERFACES`] if it
/// could be several. Remembers what it finds out.
#[inline(always)]
pub fn place_of(open: u64, devices: &mut Devices, device: u64) -> usize {
    let (mut places, mut last, mut unknown, mut last_unknown) = (0, 0, 0, 0);
    let mut place = 0;
    while place < MAX_INTERFACES {
        if open >> place & 1 != 0 {
            if devices[place] == device {
                return place;
            }
            places += 1;
            last = place;
            if devices[place] == 0 {
                unknown += 1;
                last_unknown = place;
            }
        }
        place += 1;
    }
    let found = if places == 1 {
        last
    } else if unknown == 1 {
        last_unknown
    } else {
        return MAX_INTERFACES;
    };
    devices[found % MAX_INTERFACES] = device;
    found
}

const _: () = {
    assert!(size_of::<Ledger>() == 40 + 16 * REMEMBERED);
    // What a map gives each processor at most is 32 KB.
    assert!(size_of::<Books>() == 40 + MAX_INTERFACES * size_of::<Ledger>());
    assert!(REMEMBERED.is_power_of_two() && REMEMBERED as u64 > BATCH);
};

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;
