//! What a video stream consists of, and what became of it: pure.

use std::time::Duration;

use serde::Serialize;

/// A stream of frames: every so often one that stands for itself (I), the others build on it (P).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Frames per second.
    pub fps: f64,
    /// From one I-frame to the next, frames.
    pub group: u32,
    /// Packets of an I-frame.
    pub i_packets: u16,
    /// Packets of a P-frame.
    pub p_packets: u16,
    /// Application bytes of a packet.
    pub payload_bytes: usize,
    /// A frame's packets are sent within this time, evenly, as a sender's pacer does.
    pub pacing: Duration,
}

impl Shape {
    /// The P-frames' packets that make a stream of `bits_per_sec`, at least one.
    pub fn p_packets_for(
        bits_per_sec: f64,
        fps: f64,
        group: u32,
        i_packets: u16,
        payload_bytes: usize,
    ) -> u16 {
        let packets_of_group = bits_per_sec * f64::from(group) / fps / 8.0 / payload_bytes as f64;
        let each = (packets_of_group - f64::from(i_packets)) / f64::from(group.saturating_sub(1).max(1));
        each.round().clamp(1.0, f64::from(u16::MAX)) as u16
    }

    /// Bits of payload per second.
    pub fn bits_per_sec(&self) -> f64 {
        let packets = f64::from(self.i_packets) + f64::from(self.p_packets) * f64::from(self.group - 1);
        packets * self.payload_bytes as f64 * 8.0 * self.fps / f64::from(self.group)
    }

    /// Whether a frame stands for itself.
    pub fn is_key(&self, frame: u32) -> bool {
        frame.is_multiple_of(self.group)
    }

    /// Packets of a frame.
    pub fn packets(&self, frame: u32) -> u16 {
        if self.is_key(frame) { self.i_packets } else { self.p_packets }
    }

    /// When packet `index` of a frame is due after the stream's start, ns.
    pub fn due_ns(&self, frame: u32, index: u16) -> u64 {
        let captured = f64::from(frame) * 1e9 / self.fps;
        let paced = self.pacing.as_nanos() as f64 * f64::from(index) / f64::from(self.packets(frame));
        (captured + paced) as u64
    }

    /// Frames in a time.
    pub fn frames_within(&self, duration: Duration) -> u32 {
        (duration.as_secs_f64() * self.fps).round().max(1.0) as u32
    }
}

/// What is known of a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameSeen {
    /// When its last packet was sent, ns; 0 = it was not.
    pub sent_ns: u64,
    /// Distinct packets that arrived.
    pub received: u16,
    /// When the last of them did, ns.
    pub arrived_ns: u64,
}

/// What a viewer saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Viewed {
    /// Frames sent.
    pub frames: u64,
    /// Frames that could not be shown: a packet of them, or of one that they build on, was missing.
    pub frozen: u64,
    /// Frames that were shown, but came later than the limit.
    pub late: u64,
    /// Times that the picture froze.
    pub freezes: u64,
}

impl Viewed {
    /// Adds another call's.
    pub fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        self.frozen += other.frozen;
        self.late += other.late;
        self.freezes += other.freezes;
    }
}

/// Goes through a stream's frames as a decoder does: what is incomplete, and all that builds on it, isn't
/// shown, until the next I-frame is whole. `late_ns` is from a frame's last packet sent to its last one received.
pub fn view(shape: &Shape, frames: &[FrameSeen], late_ns: u64) -> Viewed {
    let mut viewed = Viewed::default();
    let mut is_frozen = false;
    for (number, frame) in (0..).zip(frames) {
        if frame.sent_ns == 0 {
            break;
        }
        viewed.frames += 1;
        let is_whole = frame.received >= shape.packets(number);
        let is_shown = is_whole && (shape.is_key(number) || !is_frozen);
        viewed.freezes += u64::from(!is_shown && !is_frozen);
        is_frozen = !is_shown;
        viewed.frozen += u64::from(is_frozen);
        viewed.late += u64::from(is_shown && frame.arrived_ns.saturating_sub(frame.sent_ns) > late_ns);
    }
    viewed
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        fps: 10.0,
        group: 4,
        i_packets: 3,
        p_packets: 1,
        payload_bytes: 1000,
        pacing: Duration::from_millis(30),
    };

    /// All frames whole after 5 ns, but for those with another number of packets.
    fn frames(received: &[u16]) -> Vec<FrameSeen> {
        received.iter().map(|&received| FrameSeen { sent_ns: 10, received, arrived_ns: 15 }).collect()
    }

    #[test]
    fn a_loss_freezes_until_the_next_key_frame_is_whole() {
        let whole = [3, 1, 1, 1, 3, 1, 1, 1];
        assert_eq!(view(&SHAPE, &frames(&whole), 5), Viewed { frames: 8, ..Viewed::default() });
        let one = Viewed { frames: 8, frozen: 2, freezes: 1, late: 0 };
        assert_eq!(view(&SHAPE, &frames(&[3, 1, 0, 1, 3, 1, 1, 1]), 5), one);
        let key = Viewed { frames: 8, frozen: 7, freezes: 1, late: 0 };
        assert_eq!(view(&SHAPE, &frames(&[3, 0, 1, 1, 2, 1, 1, 1]), 5), key);
    }

    #[test]
    fn late_frames_are_shown_and_counted_and_unsent_ones_are_not() {
        let mut seen = frames(&[3, 1, 1]);
        seen[1].arrived_ns = 16;
        seen.push(FrameSeen::default());
        assert_eq!(view(&SHAPE, &seen, 5), Viewed { frames: 3, late: 1, ..Viewed::default() });
    }

    #[test]
    fn a_bit_rate_makes_the_small_frames() {
        let p_packets = Shape::p_packets_for(4e6, 30.0, 60, 150, 1200);
        let shape = Shape { fps: 30.0, group: 60, i_packets: 150, p_packets, payload_bytes: 1200, ..SHAPE };
        assert!((shape.bits_per_sec() - 4e6).abs() < 0.15e6, "{}", shape.bits_per_sec());
        assert_eq!(Shape::p_packets_for(1e3, 30.0, 60, 150, 1200), 1);
    }

    #[test]
    fn packets_are_paced_within_their_frame() {
        let due = |frame, index| SHAPE.due_ns(frame, index) / 1_000_000;
        assert_eq!([due(0, 0), due(0, 1), due(0, 2), due(1, 0), due(4, 2)], [0, 10, 20, 100, 420]);
        assert_eq!(SHAPE.frames_within(Duration::from_secs(2)), 20);
    }
}
