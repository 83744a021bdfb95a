//! `loss`: a fixed load, or several one after another, and what becomes of it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Common, Fault, GroupSpec, Mode, Run, offered_pps, run, trial_progress};
use crate::arguments::secs;
use crate::engine::Trial;
use crate::limits::MAX_TRIALS;
use crate::report::{Report, TrialSummary};

/// Options of `loss`.
#[derive(Debug, Clone, Args)]
pub struct LossArgs {
    /// The server: address, host name or turn: URL, with or without port
    pub server: String,
    /// Clients, each with a socket and an allocation of its own
    #[arg(short, long, default_value_t = 10)]
    pub clients: usize,
    /// Packets per second of each client; several, separated by commas, make a sweep
    #[arg(short, long, value_delimiter = ',', default_value = "50")]
    pub rate: Vec<f64>,
    /// Application bytes per packet
    #[arg(short = 'l', long, default_value_t = 160)]
    pub payload: usize,
    /// Packets sent back to back (video frames)
    #[arg(long, default_value_t = 1)]
    pub run: u32,
    /// Path of the data
    #[arg(short, long, value_enum, default_value_t = Mode::Channel)]
    pub mode: Mode,
    /// Length of each trial
    #[arg(short, long, default_value = "10", value_name = "SECS|1m", value_parser = secs)]
    pub duration: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Runs `loss` and prints its report.
pub fn execute(args: &LossArgs) -> Result<ExitCode, Fault> {
    let server = args.common.server(&args.server)?;
    let duration = trial_duration(args.duration)?;
    let first = *args.rate.first().ok_or("give a packet rate")?;
    let group = GroupSpec {
        name: "clients".into(),
        clients: args.clients,
        mode: args.mode,
        payload_bytes: args.payload,
        packets_per_sec: first,
        run: args.run,
    };
    if args.rate.iter().any(|rate| !rate.is_finite() || *rate <= 0.0) || args.rate.len() > MAX_TRIALS {
        return Err(format!("packet rates are above 0, and at most {MAX_TRIALS}"));
    }
    let plan = args.common.plan(&server, &[group])?;
    let factors: Vec<f64> = args.rate.iter().map(|rate| rate / first).collect();
    let title = format!("loss, {} clients, {} B", plan.flows.len(), args.payload);
    let report = Report::new("loss", title, args.server.clone());
    run(&args.common, plan, report, |run| fixed_load(run, &factors, duration, &args.common))
}

/// One trial for each factor of the plan's packet rates.
pub fn fixed_load(
    run: &mut Run<'_>,
    factors: &[f64],
    duration: Duration,
    common: &Common,
) -> Result<(), Fault> {
    for (index, &factor) in factors.iter().enumerate() {
        let label = format!("trial {}", index + 1);
        let summary = trial(run, index as u32 + 1, factor, duration, &label, common);
        run.report.trials.push(summary);
        if run.engine.is_stopping() {
            break;
        }
    }
    Ok(())
}

/// Runs one trial and reduces it.
pub fn trial(
    run: &mut Run<'_>,
    number: u32,
    factor: f64,
    duration: Duration,
    label: &str,
    common: &Common,
) -> TrialSummary {
    let trial = Trial {
        number,
        rate_factor: factor,
        duration: Some(duration),
        count: None,
        drain: Duration::from_millis(common.drain),
        spread: None,
    };
    let offered = offered_pps(run.engine.plan(), factor);
    let result = run.engine.trial(trial, &mut trial_progress(run.bar, label, duration));
    TrialSummary::new(label.to_owned(), offered, run.engine.plan(), &result)
}

/// Checks a trial's length.
pub fn trial_duration(secs: f64) -> Result<Duration, Fault> {
    Duration::try_from_secs_f64(secs)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "a trial takes more than 0 seconds".into())
}
