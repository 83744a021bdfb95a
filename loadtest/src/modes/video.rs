//! `video`: calls to clients over TCP or TLS through a long or narrow way; frozen and late frames.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{
    Common, EXIT_INTERRUPTED, EXIT_LOSS, Fault, GroupSpec, Mode, certificate_advice, print, stop_flag,
};
use crate::arguments::{millis, secs};
use crate::engine::peer::source_address;
use crate::modes::loss::trial_duration;
use crate::report::output::Outputs;
use crate::report::verdict::Verdict;
use crate::report::{Report, VideoSummary, table};
use crate::video::shape::Shape;
use crate::video::way::Way;
use crate::video::{Calls, MAX_CALLS, MIN_BYTES, Outcome, Settings};

/// Packets of an I-frame, and frames from one to the next, at most.
const MAX_PACKETS: u16 = 1000;
const MAX_GROUP: u32 = 10_000;

/// Options of `video`.
#[derive(Debug, Clone, Args)]
pub struct VideoArgs {
    /// The server: address, host name or URL (turn:HOST?transport=tcp, turns:HOST), with or without port
    pub server: String,
    /// Calls, each with a client, an allocation and a peer of its own
    #[arg(short, long, default_value_t = 1)]
    pub clients: usize,
    /// Bit rate of each call's payload, Mbit/s; what the I-frames leave is the P-frames'
    #[arg(short, long, default_value_t = 4.0, value_name = "MBIT")]
    pub bitrate: f64,
    /// Frames per second
    #[arg(long, default_value_t = 30.0)]
    pub fps: f64,
    /// Frames from one I-frame to the next
    #[arg(long, default_value_t = 60)]
    pub group: u32,
    /// Packets of an I-frame
    #[arg(long, default_value_t = 150, value_name = "PACKETS")]
    pub i_frame: u16,
    /// A frame's packets leave within this time
    #[arg(long, default_value = "10", value_name = "MS|1s", value_parser = millis)]
    pub pacing: u64,
    /// Application bytes per packet
    #[arg(short = 'l', long, default_value_t = 1200)]
    pub payload: usize,
    /// Round trip between client and server
    #[arg(long, default_value = "40", value_name = "MS|1s", value_parser = millis)]
    pub rtt: u64,
    /// Bytes that may be under way in a round trip, KiB
    #[arg(long, default_value_t = 256, value_name = "KIB")]
    pub window: usize,
    /// The client's way takes so much, Mbit/s: half of --bitrate is a receiver at half rate; default: enough
    #[arg(long, value_name = "MBIT")]
    pub receiver_rate: Option<f64>,
    /// How long frames are sent
    #[arg(short, long, default_value = "20", value_name = "SECS|1m", value_parser = secs)]
    pub duration: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Runs it.
pub fn execute(args: &VideoArgs) -> Result<ExitCode, Fault> {
    let outputs = Outputs::open(args.common.json.as_deref(), args.common.html.as_deref())?;
    let (settings, peers) = prepare(args)?;
    let stop = stop_flag();
    let title = format!("video over {}, {} calls", settings.session.transport, args.clients);
    let mut report = Report::new("video", title, args.server.clone());
    let calls = Calls::set_up(settings.clone(), peers, &stop)
        .map_err(|error| format!("{error}{}", certificate_advice(&error)))?;
    let outcome = calls.run(&stop);
    report.interrupted = outcome.interrupted;
    report.video = Some(VideoSummary::new(&settings, args.clients, &outcome));
    report.verdict = Verdict::of(&report, args.common.fail_above_loss);
    print(&table::render(&report))?;
    outputs.write(&report)?;
    Ok(exit_code(args, &outcome))
}

fn exit_code(args: &VideoArgs, outcome: &Outcome) -> ExitCode {
    let loss = crate::stats::percent(outcome.lost(), outcome.sent);
    match args.common.fail_above_loss {
        Some(limit) if loss > limit => ExitCode::from(EXIT_LOSS),
        _ if outcome.interrupted => ExitCode::from(EXIT_INTERRUPTED),
        _ => ExitCode::SUCCESS,
    }
}

fn prepare(args: &VideoArgs) -> Result<(Settings, Vec<UdpSocket>), Fault> {
    let common = &args.common;
    let server = common.server(&args.server)?;
    if !server.transport.is_stream() {
        return Err("video is about streams: --transport tcp or tls, or a URL that says so".into());
    }
    let group = GroupSpec {
        name: "calls".into(),
        clients: args.clients,
        mode: Mode::Channel,
        payload_bytes: args.payload,
        packets_per_sec: 1.0,
        run: 1,
    };
    // The same session as every other mode's.
    let plan = common.plan(&server, &[group])?;
    let ip = match common.peer_bind {
        Some(ip) => ip,
        None => source_address(server.address, common.local).map_err(|error| error.to_string())?,
    };
    if !(1..=MAX_CALLS).contains(&args.clients) {
        return Err(format!("--clients is between 1 and {MAX_CALLS}"));
    }
    let peers: std::io::Result<Vec<_>> = (0..args.clients).map(|_| UdpSocket::bind((ip, 0))).collect();
    let settings = Settings {
        server: server.address,
        tls: plan.tls.clone(),
        local: common.local,
        session: Arc::clone(&plan.groups[0].session),
        shape: args.shape()?,
        way: args.way()?,
        duration: trial_duration(args.duration)?,
        late_ns: common.late * 1_000_000,
    };
    Ok((settings, peers.map_err(|error| format!("peer: {error}"))?))
}

impl VideoArgs {
    fn shape(&self) -> Result<Shape, Fault> {
        let sane = |value: f64| value.is_finite() && value > 0.0;
        if !sane(self.bitrate) || !(1.0..=1000.0).contains(&self.fps) {
            return Err("--bitrate is above 0, and --fps between 1 and 1000".into());
        }
        if !(1..=MAX_PACKETS).contains(&self.i_frame) || !(2..=MAX_GROUP).contains(&self.group) {
            return Err(format!(
                "--i-frame is between 1 and {MAX_PACKETS} packets, --group between 2 and {MAX_GROUP} frames"
            ));
        }
        if self.payload < MIN_BYTES {
            return Err(format!("--payload is at least {MIN_BYTES} bytes"));
        }
        let pacing = Duration::from_millis(self.pacing).min(Duration::from_secs_f64(1.0 / self.fps));
        let bits = self.bitrate * 1e6;
        let p_packets = Shape::p_packets_for(bits, self.fps, self.group, self.i_frame, self.payload);
        Ok(Shape {
            fps: self.fps,
            group: self.group,
            i_packets: self.i_frame,
            p_packets,
            payload_bytes: self.payload,
            pacing,
        })
    }

    fn way(&self) -> Result<Way, Fault> {
        if self.window == 0 || self.receiver_rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err("--window and --receiver-rate are above 0".into());
        }
        Ok(Way {
            delay: Duration::from_millis(self.rtt) / 2,
            window_bytes: self.window << 10,
            bytes_per_sec: self.receiver_rate.map(|mbit| mbit * 1e6 / 8.0),
        })
    }
}
