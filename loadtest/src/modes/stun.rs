//! `stun`: Binding requests per second (RFC 8489), no allocation.

use std::process::ExitCode;

use clap::Args;

use super::loss::{fixed_load, trial_duration};
use super::{Common, Fault, GroupSpec, Mode, run};
use crate::arguments::secs;
use crate::engine::payload::MIN_PAYLOAD;
use crate::report::Report;

/// Options of `stun`.
#[derive(Debug, Clone, Args)]
pub struct StunArgs {
    /// The server: address, host name or turn: URL, with or without port
    pub server: String,
    /// Sockets that send
    #[arg(short, long, default_value_t = 10)]
    pub clients: usize,
    /// Binding requests per second, all sockets together
    #[arg(short, long, default_value_t = 1000.0)]
    pub rate: f64,
    /// How long
    #[arg(short, long, default_value = "10", value_name = "SECS|1m", value_parser = secs)]
    pub duration: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Runs `stun` and prints its report.
pub fn execute(args: &StunArgs) -> Result<ExitCode, Fault> {
    let server = args.common.server(&args.server)?;
    let duration = trial_duration(args.duration)?;
    let group = GroupSpec {
        name: "binding".into(),
        clients: args.clients,
        mode: Mode::Binding,
        payload_bytes: MIN_PAYLOAD,
        packets_per_sec: args.rate / args.clients.max(1) as f64,
        run: 1,
    };
    let plan = args.common.plan(&server, &[group])?;
    let title = format!("STUN Binding, {} sockets", args.clients);
    let report = Report::new("stun", title, args.server.clone());
    run(&args.common, plan, report, |run| {
        fixed_load(run, &[1.0], duration, &args.common)?;
        let silent = run.report.trials.iter().all(|trial| trial.total.received == 0);
        if silent && !run.engine.is_stopping() {
            return Err(format!(
                "no answer to any Binding request from {}: is the server running?",
                args.server
            ));
        }
        Ok(())
    })
}
