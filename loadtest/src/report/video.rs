//! What `video` reports.

use std::fmt::Write as _;

use serde::Serialize;

use super::percent_text;
use crate::stats::{DelaySummary, percent};
use crate::video::shape::Viewed;
use crate::video::{Outcome, Settings};

/// Video calls over streams.
#[derive(Debug, Clone, Serialize)]
pub struct VideoSummary {
    /// How many calls there were at once.
    pub calls: usize,
    /// Payload of each, Mbit/s.
    pub mbit_per_sec: f64,
    /// Packets of an I-frame.
    pub i_packets: u16,
    /// Packets of each of the other frames.
    pub p_packets: u16,
    /// Round trip of the way, ms.
    pub rtt_ms: f64,
    /// Bytes under way in a round trip.
    pub window_bytes: usize,
    /// What the way takes, Mbit/s, if it is narrow.
    pub receiver_mbit_per_sec: Option<f64>,
    /// How many frames were seen whole and in time.
    #[serde(flatten)]
    pub viewed: Viewed,
    /// Packets that peers sent.
    pub packets_sent: u64,
    /// Packets that never arrived: a stream loses nothing, so the server, or its receive queue, dropped them.
    pub packets_lost: u64,
    /// `packets_lost` in percent.
    pub loss_percent: f64,
    /// Packets that came again, or behind a later one.
    pub out_of_order: u64,
    /// A packet's delay, less the way's own.
    pub added_delay: Option<DelaySummary>,
    /// A whole frame's, from its last packet's leaving.
    pub frame_delay: Option<DelaySummary>,
    /// Packets that the generator sent more than 5 ms too late.
    pub sent_late: u64,
}

impl VideoSummary {
    /// Reduces an outcome.
    pub fn new(settings: &Settings, calls: usize, outcome: &Outcome) -> Self {
        let Settings { shape, way, .. } = settings;
        Self {
            calls,
            mbit_per_sec: shape.bits_per_sec() / 1e6,
            i_packets: shape.i_packets,
            p_packets: shape.p_packets,
            rtt_ms: way.delay.as_secs_f64() * 2e3,
            window_bytes: way.window_bytes,
            receiver_mbit_per_sec: way.bytes_per_sec.map(|rate| rate * 8.0 / 1e6),
            viewed: outcome.viewed,
            packets_sent: outcome.sent,
            packets_lost: outcome.lost(),
            loss_percent: percent(outcome.lost(), outcome.sent),
            out_of_order: outcome.out_of_order,
            added_delay: outcome.added.summary(),
            frame_delay: outcome.frames.summary(),
            sent_late: outcome.sent_late,
        }
    }

    /// For a table's reader.
    pub(super) fn render(&self) -> String {
        let Self { calls, mbit_per_sec, i_packets, p_packets, rtt_ms, .. } = self;
        let mut out = format!(
            "{calls} calls of {mbit_per_sec:.2} Mbit/s, frames of {i_packets} and {p_packets} packets, round trip {rtt_ms:.0} ms, window {} KiB",
            self.window_bytes >> 10
        );
        if let Some(rate) = self.receiver_mbit_per_sec {
            let _ = write!(out, ", the receiver takes {rate:.2} Mbit/s");
        }
        out.push('\n');
        let mut row = |name: &str, value: u64, of: u64| {
            let _ = writeln!(out, "  {name:<14} {value:>12}  {:>12}", percent_text(value, of));
        };
        let Viewed { frames, frozen, late, freezes } = self.viewed;
        row("frames", frames, frames);
        row("frozen", frozen, frames);
        row("late", late, frames);
        row("freezes", freezes, frames);
        row("packets", self.packets_sent, self.packets_sent);
        row("lost", self.packets_lost, self.packets_sent);
        if self.out_of_order > 0 {
            row("out of order", self.out_of_order, self.packets_sent);
        }
        if self.sent_late > 0 {
            let _ =
                writeln!(out, "  WARNING: the generator sent {} packets more than 5 ms late", self.sent_late);
        }
        out
    }
}
