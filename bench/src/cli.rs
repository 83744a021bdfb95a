//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::fault::Fault;
use crate::results::Results;
use crate::scenario::SCENARIOS;
use crate::server::VARIANTS;
use crate::{compare, flood, hot, report};

/// Exit status when there is no result.
const EXIT_FAILED: u8 = 1;
/// Exit status after SIGINT or SIGTERM.
const EXIT_INTERRUPTED: u8 = 130;
/// Longest trial, seconds: together with rounds and scenarios it bounds the run.
const MAX_TRIAL_SECS: f64 = 60.0;
/// Shortest trial, seconds: in less, clients with thin traffic would send nothing.
const MIN_TRIAL_SECS: f64 = 1.0;

/// Turnpike against coturn, measured in one interleaved run
#[derive(Debug, Parser)]
#[command(name = "turnpike-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure all servers in namespaces of their own; needs root
    Compare(CompareArgs),
    /// Flood servers with forged packets beside live calls, and print a table; needs root
    Flood(FloodArgs),
    /// Make reports of an earlier run's JSON
    Report(ReportArgs),
    /// List scenarios and servers
    List,
    /// Run one of the core's hot paths many times, for callgrind
    Hot(HotArgs),
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// coturn's turnserver; default: the one on the path
    #[arg(long, value_name = "PATH")]
    turnserver: Option<PathBuf>,
    /// Turnpike's binary; default: the one beside this program
    #[arg(long, value_name = "PATH")]
    turnpike: Option<PathBuf>,
    /// Only this scenario (repeatable); see `list`
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Only this server (repeatable); see `list`
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// Rounds at most
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Begin another round only if it will probably end within this time, seconds
    #[arg(long, default_value_t = 690, value_name = "SECS")]
    budget: u64,
    /// Length of each trial with a fixed load, seconds
    #[arg(long, default_value_t = 2.0, value_name = "SECS")]
    seconds: f64,
    /// Write all samples
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write all samples to FOLDER/DATE-COMMIT.json
    #[arg(long, value_name = "FOLDER")]
    keep_in: Option<PathBuf>,
    #[command(flatten)]
    pages: Pages,
}

#[derive(Debug, Args)]
struct FloodArgs {
    /// coturn's turnserver; default: the one on the path
    #[arg(long, value_name = "PATH")]
    turnserver: Option<PathBuf>,
    /// Turnpike's binary; default: the one beside this program
    #[arg(long, value_name = "PATH")]
    turnpike: Option<PathBuf>,
    /// Only this server (repeatable); see `list`
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// Threads that send forged packets
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    senders: u32,
    /// Forged packets per second of all threads together at most; what was sent is in the table
    #[arg(long, default_value_t = 250_000, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    rate: u32,
    /// Length of each flood, seconds
    #[arg(long, default_value_t = 10, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// What `compare --json` has written
    results: PathBuf,
    #[command(flatten)]
    pages: Pages,
}

#[derive(Debug, Args)]
struct Pages {
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a Markdown page, and its pictures into the folder of the same name beside it
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct HotArgs {
    /// Which
    #[arg(value_enum)]
    path: hot::HotPath,
    /// How often
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    times: u64,
}

/// Runs the program; `arguments` starts with its name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let outcome = match Cli::parse_from(arguments).command {
        Command::Compare(args) => compare(&args),
        Command::Flood(args) => flood::run(&flood::Options {
            turnpike: args.turnpike,
            turnserver: args.turnserver,
            servers: args.server,
            senders: args.senders,
            rate: args.rate,
            duration: Duration::from_secs(args.seconds),
        }),
        Command::Report(args) => Results::read(&args.results).and_then(|results| {
            if args.pages.is_none() {
                print!("{}", report::text::render(&results));
            }
            publish(&results, &args.pages, &args.results)
        }),
        Command::List => {
            list();
            Ok(())
        }
        Command::Hot(args) => {
            println!("{} × {:?}: {}", args.times, args.path, hot::run(args.path, args.times));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("turnpike-bench: {fault}");
            ExitCode::from(if matches!(fault, Fault::Interrupted) { EXIT_INTERRUPTED } else { EXIT_FAILED })
        }
    }
}

impl Pages {
    fn is_none(&self) -> bool {
        self.html.is_none() && self.markdown.is_none()
    }
}

fn compare(args: &CompareArgs) -> Result<(), Fault> {
    if !(MIN_TRIAL_SECS..=MAX_TRIAL_SECS).contains(&args.seconds) {
        return Err(format!("--seconds is between {MIN_TRIAL_SECS} and {MAX_TRIAL_SECS}").into());
    }
    let results = compare::run(&compare::Options {
        turnpike: args.turnpike.clone(),
        turnserver: args.turnserver.clone(),
        scenarios: args.scenario.clone(),
        servers: args.server.clone(),
        rounds: args.rounds,
        budget: Duration::from_secs(args.budget),
        trial: Duration::from_secs_f64(args.seconds),
    })?;
    print!("{}", report::text::render(&results));
    let kept = args.keep_in.as_ref().map(|folder| folder.join(file_name(&results)));
    for path in args.json.iter().chain(&kept) {
        results.write(path)?;
    }
    let source = kept.or_else(|| args.json.clone()).unwrap_or_default();
    publish(&results, &args.pages, &source)?;
    match results.failures() {
        0 => Ok(()),
        some => {
            Err(format!("{some} of {} measurements failed: see the doubts above", results.samples.len())
                .into())
        }
    }
}

fn publish(results: &Results, pages: &Pages, source: &Path) -> Result<(), Fault> {
    if let Some(path) = &pages.html {
        report::html::write(results, path)?;
    }
    pages.markdown.as_ref().map_or(Ok(()), |path| report::markdown::write(results, path, source))
}

/// `2026-01-31-abcdef.json`: sorted by date, and says of which commit.
fn file_name(results: &Results) -> String {
    let date = results.started.split('T').next().unwrap_or_default();
    format!("{date}-{}.json", results.commit.trim_end_matches('+'))
}

fn list() {
    println!("Scenarios:");
    SCENARIOS.iter().for_each(|scenario| println!("  {:<16} {}", scenario.name, scenario.title));
    println!("Servers:");
    VARIANTS.iter().for_each(|variant| println!("  {:<18} {}", variant.name, variant.extra.join(" ")));
}
