//! The books against a device queue that remembers by itself which frames it dropped.

extern crate std;

use std::vec::Vec;

use super::*;

/// A processor's queues for two devices, as the kernel has them, and what was charged and really sent.
struct Processor {
    books: Books,
    devices: Devices,
    queues: [Vec<u32>; 2],
    /// Frames by number: charged and not taken back; sent.
    counted: Vec<bool>,
    sent: Vec<bool>,
}

const DEVICES: [u64; 2] = [0xffff_8881_0000_1000, 0xffff_8881_0000_2000];

impl Processor {
    fn new() -> Processor {
        let queues = [Vec::new(), Vec::new()];
        Processor {
            books: Books::EMPTY,
            devices: [0; MAX_INTERFACES],
            queues,
            counted: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn charge(&mut self) -> (u32, Charge) {
        let frame = self.counted.len() as u32;
        self.counted.push(true);
        self.sent.push(false);
        (frame, Charge::new(frame, false, 100))
    }

    /// The program redirects; a full queue goes first, as `bq_enqueue` does it.
    fn redirect(&mut self, place: usize, takes: usize, is_refused: bool) {
        let (frame, charge) = self.charge();
        self.books.queue(place as u32, charge, Charge::NONE);
        if is_refused {
            let [first, second] = self.books.refuse(place as u32);
            assert_eq!((first, second), (charge, Charge::NONE));
            self.counted[frame as usize] = false;
            return;
        }
        if self.queues[place].len() == BATCH as usize {
            self.transmit(place, takes);
        }
        self.queues[place].push(frame);
    }

    /// The device takes so many of what is queued, and drops the rest.
    fn transmit(&mut self, place: usize, takes: usize) {
        let frames = std::mem::take(&mut self.queues[place]);
        if frames.is_empty() {
            return;
        }
        let takes = takes.min(frames.len());
        frames[..takes].iter().for_each(|frame| self.sent[*frame as usize] = true);
        let found = place_of(self.books.open, &mut self.devices, DEVICES[place]);
        if found == MAX_INTERFACES {
            panic!("both are known, or one is alone");
        }
        assert_eq!(found, place);
        let counted = &mut self.counted;
        self.books.settle(place as u32, takes as u32, (frames.len() - takes) as u32, |charge| {
            if !charge.is_none() {
                assert!(std::mem::take(&mut counted[charge.slot() as usize]), "once");
            }
        });
    }
}

/// No dependency on anything that draws numbers: the leaf has none.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn what_is_counted_is_what_was_sent_whatever_devices_take() {
    for seed in 0..200 {
        let (mut processor, mut state) = (Processor::new(), seed);
        // Each of the devices is alone for once: that is how they become known.
        for place in 0..2 {
            processor.redirect(place, 0, false);
            processor.transmit(place, 1);
        }
        for _ in 0..200 {
            for _ in 0..random(&mut state) % 40 {
                let takes = random(&mut state) % 20;
                processor.redirect(random(&mut state) % 2, takes, random(&mut state).is_multiple_of(5));
            }
            for place in 0..2 {
                let takes = random(&mut state) % 20;
                processor.transmit(place, takes);
            }
            assert_eq!(processor.books.open, 0, "the turn is over");
        }
        assert_eq!(processor.counted, processor.sent);
        let ledgers = &processor.books.ledgers[..2];
        let tried: u64 = ledgers.iter().map(|ledger| ledger.queued + ledger.refused).sum();
        let lost: u64 = ledgers.iter().map(|ledger| ledger.dropped + ledger.refused).sum();
        assert_eq!(tried, processor.sent.len() as u64);
        assert_eq!(tried - lost, processor.sent.iter().filter(|sent| **sent).count() as u64);
    }
}

#[test]
fn a_hairpin_is_taken_back_from_both_allocations() {
    let mut books = Books::EMPTY;
    let charges = [Charge::new(5, false, 1200), Charge::new(u32::MAX, true, 1200)];
    books.queue(3, charges[0], charges[1]);
    let mut taken = Vec::new();
    books.settle(3, 0, 1, |charge| taken.push(charge));
    assert_eq!(taken, charges);
    assert_eq!((taken[1].slot(), taken[1].to_client(), taken[1].bytes()), (u32::MAX, true, 1200));
    assert!(!taken[0].to_client() && !taken[0].is_none() && Charge::NONE.is_none());
}

#[test]
fn what_is_sent_back_is_taken_back_once() {
    let mut books = Books::EMPTY;
    assert_eq!(books.refuse_back(), [Charge::NONE; 2], "nothing was sent");
    let charge = Charge::new(7, true, 20);
    books.send_back(2, charge, Charge::NONE);
    assert_eq!(books.refuse_back(), [charge, Charge::NONE]);
    assert_eq!(books.refuse_back(), [Charge::NONE; 2]);
    assert_eq!((books.ledgers[2].back, books.ledgers[2].refused), (1, 1));
}

#[test]
fn drops_of_others_take_nothing_back() {
    let mut books = Books::EMPTY;
    books.settle(1, 3, 13, |_| panic!("nothing of ours was queued"));
    books.queue(1, Charge::new(1, false, 1), Charge::NONE);
    let mut taken = 0;
    // Another program's frames are in the same batch.
    books.settle(1, 0, 5, |charge| taken += u32::from(!charge.is_none()));
    assert_eq!((taken, books.open), (1, 0));
    assert_eq!(books.refuse(1), [Charge::NONE; 2]);
}

#[test]
fn devices_are_known_by_being_alone() {
    let mut devices = [0; MAX_INTERFACES];
    assert_eq!(place_of(0b101, &mut devices, 10), MAX_INTERFACES, "it could be either");
    assert_eq!(place_of(0b100, &mut devices, 10), 2);
    assert_eq!(place_of(0b101, &mut devices, 10), 2);
    assert_eq!(place_of(0b101, &mut devices, 11), 0, "the other one");
    assert_eq!(place_of(0b100, &mut devices, 12), 2, "it was made anew");
    assert_eq!(devices[..3], [11, 0, 12]);
    assert_eq!(place_of(0b1_0001, &mut devices, 11), 0);
}
