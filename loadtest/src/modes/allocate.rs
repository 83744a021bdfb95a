//! `allocate`: how fast allocations are made, how many are held, and how soon the first byte passes.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Common, Fault, GroupSpec, Mode, run};
use crate::arguments::duration;
use crate::report::Report;

/// Options of `allocate`.
#[derive(Debug, Clone, Args)]
pub struct AllocateArgs {
    /// The server: address, host name or turn: URL, with or without port
    pub server: String,
    /// Allocations to make and hold
    #[arg(short, long, default_value_t = 1000)]
    pub clients: usize,
    /// Set-ups started per second; default: as many as --in-flight allows
    #[arg(short, long)]
    pub rate: Option<f64>,
    /// How long to hold them before they are released
    #[arg(long, default_value = "0", value_name = "SECS|1m", value_parser = duration)]
    pub hold: Duration,
    /// Only allocate: no permission, no channel, no data
    #[arg(long)]
    pub only: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Runs `allocate` and prints its report.
pub fn execute(args: &AllocateArgs) -> Result<ExitCode, Fault> {
    let server = args.common.server(&args.server)?;
    let group = GroupSpec {
        name: "allocations".into(),
        clients: args.clients,
        mode: Mode::Channel,
        payload_bytes: 64,
        packets_per_sec: 1.0,
        run: 1,
    };
    let mut plan = args.common.plan(&server, &[group])?;
    plan.first_byte = !args.only;
    plan.keep_going = true;
    if let Some(rate) = args.rate {
        if rate.is_nan() || rate <= 0.0 {
            return Err("--rate is above 0".into());
        }
        plan.setup_rate = rate;
    }
    if args.only {
        plan.flows.iter_mut().for_each(|flow| flow.peer = crate::engine::PeerChoice::None);
    }
    let title = format!("allocate, {} clients", args.clients);
    let report = Report::new("allocate", title, args.server.clone());
    run(&args.common, plan, report, |run| {
        let held = std::time::Instant::now();
        while held.elapsed() < args.hold && !run.engine.is_stopping() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })
}
