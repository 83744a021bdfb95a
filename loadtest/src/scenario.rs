//! Scenario files: named mixes of clients in TOML, run with `turnpike-loadtest run FILE`.
//!
//! Unknown keys are refused with file, line and key. Server and credentials are not part of a
//! scenario; they come from the command line, so that files can be shared.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use crate::arguments::secs;
use crate::limits::MAX_GROUPS;
use crate::modes::loss::{fixed_load, trial_duration};
use crate::modes::{Common, Fault, GroupSpec, Mode, run};
use crate::report::Report;

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The scenario
    pub file: PathBuf,
    /// The server: address, host name or turn: URL, with or without port
    #[arg(short, long)]
    pub server: String,
    /// Length, in place of the scenario's
    #[arg(short, long, value_name = "SECS|1m", value_parser = secs)]
    pub duration: Option<f64>,
    /// Multiplies the number of clients of each group
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// A scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// Title of the report.
    pub title: String,
    /// What it stands for.
    #[serde(default)]
    pub description: String,
    /// Seconds of the trial.
    pub duration_secs: f64,
    /// Clients with the same traffic.
    pub group: Vec<ScenarioGroup>,
}

/// Clients with the same traffic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScenarioGroup {
    /// Name in the report.
    pub name: String,
    /// Clients, one allocation each.
    pub clients: usize,
    /// Path of the data.
    #[serde(default = "default_mode")]
    pub mode: Mode,
    /// Application bytes of a packet.
    pub payload_bytes: usize,
    /// Packets per second and client.
    pub packets_per_sec: f64,
    /// Packets sent back to back.
    #[serde(default = "default_run")]
    pub run: u32,
}

fn default_mode() -> Mode {
    Mode::Channel
}

fn default_run() -> u32 {
    1
}

/// Reads a scenario; a fault names file, line and key.
pub fn load(path: &Path) -> Result<Scenario, Fault> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    parse(&text, &name.to_string())
}

fn parse(text: &str, name: &str) -> Result<Scenario, Fault> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
        format!("{name}:{line}: {}", error.message())
    })?;
    if scenario.group.is_empty() || scenario.group.len() > MAX_GROUPS {
        return Err(format!("{name}: a scenario has 1 to {MAX_GROUPS} groups"));
    }
    trial_duration(scenario.duration_secs).map_err(|fault| format!("{name}: duration-secs: {fault}"))?;
    Ok(scenario)
}

/// Runs a scenario's groups together and prints the report.
pub fn execute(args: &RunArgs) -> Result<ExitCode, Fault> {
    let scenario = load(&args.file)?;
    let server = args.common.server(&args.server)?;
    let duration = trial_duration(args.duration.unwrap_or(scenario.duration_secs))?;
    if !args.scale.is_finite() || args.scale <= 0.0 {
        return Err("--scale is above 0".into());
    }
    let groups: Vec<GroupSpec> = scenario.group.iter().map(|group| group.spec(args.scale)).collect();
    let plan = args.common.plan(&server, &groups)?;
    let mut report = Report::new("run", scenario.title.clone(), args.server.clone());
    if !scenario.description.is_empty() {
        report.notes.push(scenario.description.clone());
    }
    run(&args.common, plan, report, |run| fixed_load(run, &[1.0], duration, &args.common))
}

impl ScenarioGroup {
    fn spec(&self, scale: f64) -> GroupSpec {
        GroupSpec {
            name: self.name.clone(),
            clients: ((self.clients as f64 * scale).round() as usize).max(1),
            mode: self.mode,
            payload_bytes: self.payload_bytes,
            packets_per_sec: self.packets_per_sec,
            run: self.run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_key() {
        let text = "title = \"x\"\nduration-secs = 1\n\n[[group]]\nname = \"a\"\nclientz = 3\n";
        let fault = parse(text, "my.toml").expect_err("clientz is no key");
        assert!(fault.starts_with("my.toml:6: ") && fault.contains("clientz"), "{fault}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_line() {
        let fault = parse("title = \"x\"\nduration-secs = \"long\"\n", "my.toml").expect_err("a number");
        assert!(fault.starts_with("my.toml:2: "), "{fault}");
    }

    #[test]
    fn every_shipped_scenario_makes_a_plan() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).expect("the folder is part of the crate") {
            let path = entry.expect("readable").path();
            let scenario = load(&path).unwrap_or_else(|fault| panic!("{fault}"));
            assert!(!scenario.description.is_empty(), "{}", path.display());
            scenario.group.iter().for_each(|group| assert!(group.spec(1.0).clients > 0));
            seen += 1;
        }
        assert_eq!(seen, 5);
    }
}
