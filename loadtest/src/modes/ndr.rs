//! `ndr`: searches for the highest rate with no more loss than a bound: NDR at 0 (the throughput of
//! RFC 2544 section 26.1), PDR at 0.1 %. A binary search over trials on the same allocations.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::loss::{trial, trial_duration};
use super::{Common, Fault, GroupSpec, Mode, Run, offered_pps, run};
use crate::arguments::secs;
use crate::limits::MAX_TRIALS;
use crate::report::{Report, SearchResult, SearchSummary, TrialSummary};
use crate::transport::Transport;

/// Options of `ndr`.
#[derive(Debug, Clone, Args)]
pub struct NdrArgs {
    /// The server: address, host name or turn: URL, with or without port
    pub server: String,
    /// Clients, each with a socket and an allocation of its own
    #[arg(short, long, default_value_t = 10)]
    pub clients: usize,
    /// Lowest rate tried, packets per second of all clients together
    #[arg(long, default_value_t = 1000.0)]
    pub min_rate: f64,
    /// Highest rate tried, packets per second of all clients together
    #[arg(long, default_value_t = 200_000.0)]
    pub max_rate: f64,
    /// Losses allowed, percent, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "0,0.1")]
    pub max_loss: Vec<f64>,
    /// Application bytes per packet
    #[arg(short = 'l', long, default_value_t = 160)]
    pub payload: usize,
    /// Packets sent back to back
    #[arg(long, default_value_t = 1)]
    pub run: u32,
    /// Path of the data
    #[arg(short, long, value_enum, default_value_t = Mode::Channel)]
    pub mode: Mode,
    /// Length of each trial (RFC 2544 section 24 asks for 60 s)
    #[arg(short, long, default_value = "10", value_name = "SECS|1m", value_parser = secs)]
    pub duration: f64,
    /// The search ends when its interval is smaller than this percentage of the rate
    #[arg(long, default_value_t = 2.0)]
    pub resolution: f64,
    /// Times that a rate must pass in a row; one loss fails it
    #[arg(long, default_value_t = 1)]
    pub repeat: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Runs `ndr` and prints its report.
pub fn execute(args: &NdrArgs) -> Result<ExitCode, Fault> {
    let server = args.common.server(&args.server)?;
    let duration = trial_duration(args.duration)?;
    let sane = |value: f64| value.is_finite() && value > 0.0;
    if !sane(args.min_rate) || !sane(args.max_rate) || args.min_rate > args.max_rate || !sane(args.resolution)
    {
        return Err("rates and resolution are above 0, and --min-rate is not above --max-rate".into());
    }
    let group = GroupSpec {
        name: "clients".into(),
        clients: args.clients,
        mode: args.mode,
        payload_bytes: args.payload,
        packets_per_sec: 1.0,
        run: args.run,
    };
    let plan = args.common.plan(&server, &[group])?;
    let title = format!("highest rate, {} clients, {} B", plan.flows.len(), args.payload);
    let report = Report::new("ndr", title, args.server.clone());
    run(&args.common, plan, report, |run| {
        let mut search = Search { run, args, duration, seen: Vec::new() };
        let results = args.max_loss.iter().map(|&bound| search.find(bound)).collect();
        run.report.search = Some(SearchSummary {
            results,
            trial_seconds: duration.as_secs_f64(),
            resolution_percent: args.resolution,
        });
        Ok(())
    })
}

/// What one rate showed.
#[derive(Debug, Clone, Copy)]
struct Seen {
    rate: f64,
    /// Loss that isn't the generator's own, percent.
    loss: f64,
    limited_by_generator: bool,
}

struct Search<'a, 'b> {
    run: &'a mut Run<'b>,
    args: &'a NdrArgs,
    duration: Duration,
    seen: Vec<Seen>,
}

impl Search<'_, '_> {
    fn find(&mut self, bound: f64) -> SearchResult {
        let NdrArgs { min_rate, max_rate, resolution, .. } = *self.args;
        let mut best: Option<Seen> = None;
        let mut generator_limit = false;
        let (mut low, mut high) = (min_rate, max_rate);
        let mut next = max_rate;
        while !self.is_over() {
            let seen = self.measure(next, bound);
            let passed = seen.loss <= bound && !seen.limited_by_generator;
            if passed {
                best = Some(seen);
                low = next;
            } else {
                generator_limit = seen.limited_by_generator;
                high = next;
            }
            if (passed && next >= max_rate) || (!passed && next <= min_rate) {
                break;
            }
            let narrow = (high - low) / high * 100.0 <= resolution;
            next = match (narrow, best) {
                (false, _) => (low * high).sqrt(),
                // The lower end itself is tried only when nothing above it passed.
                (true, None) => min_rate,
                (true, Some(_)) => break,
            };
        }
        let at_top = best.is_some_and(|seen| seen.rate >= max_rate);
        SearchResult {
            name: if bound == 0.0 { "NDR".into() } else { "PDR".into() },
            max_loss_percent: bound,
            rate_pps: best.map(|seen| seen.rate),
            loss_percent: best.map(|seen| seen.loss),
            payload_mbit_per_sec: best.map(|seen| seen.rate * self.args.payload as f64 * 8.0 / 1e6),
            is_lower_bound: at_top || generator_limit,
        }
    }

    fn is_over(&self) -> bool {
        self.run.engine.is_stopping() || self.run.report.trials.len() >= MAX_TRIALS
    }

    /// The worst of `--repeat` trials at a rate; trials of an earlier search count too.
    fn measure(&mut self, rate: f64, bound: f64) -> Seen {
        let earlier = self.seen.iter().filter(|seen| (seen.rate - rate).abs() < 0.5).copied();
        let mut worst = earlier.reduce(worse);
        let have = self.seen.iter().filter(|seen| (seen.rate - rate).abs() < 0.5).count() as u32;
        for _ in have..self.args.repeat.max(1) {
            if worst.is_some_and(|seen| seen.loss > bound || seen.limited_by_generator) || self.is_over() {
                break;
            }
            let seen = self.one_trial(rate);
            self.seen.push(seen);
            worst = Some(worst.map_or(seen, |before| worse(before, seen)));
        }
        worst.unwrap_or(Seen { rate, loss: 100.0, limited_by_generator: true })
    }

    fn one_trial(&mut self, rate: f64) -> Seen {
        let factor = rate / offered_pps(self.run.engine.plan(), 1.0);
        let number = self.run.report.trials.len() as u32 + 1;
        let label = format!("trial {number}, {rate:.0} packets/s");
        let summary = trial(self.run, number, factor, self.duration, &label, &self.args.common);
        let seen = judge(rate, &summary, self.run.engine.plan().transport);
        self.run.report.trials.push(summary);
        seen
    }
}

/// What nothing loses comes late instead: over a stream late packets count as lost.
fn judge(rate: f64, trial: &TrialSummary, transport: Transport) -> Seen {
    let total = &trial.total;
    let late = if transport.is_stream() { total.late } else { 0 };
    let lost_elsewhere = total.lost - total.lost_in_generator + late;
    Seen {
        rate,
        loss: crate::stats::percent(lost_elsewhere, total.sent),
        limited_by_generator: trial.generator.is_bottleneck || trial.interrupted,
    }
}

fn worse(a: Seen, b: Seen) -> Seen {
    Seen {
        rate: a.rate,
        loss: a.loss.max(b.loss),
        limited_by_generator: a.limited_by_generator || b.limited_by_generator,
    }
}
