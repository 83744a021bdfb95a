//! Turnpike's chores, each a subcommand: `cargo xtask ci` runs what the CI runs.
//!
//! ```text
//!   ci ──► format ► tidy ► coverage ► deny ► ebpf ► clippy ► doc ► build ► test ► api ► worker ► loom ►
//!        frames ► interop ► offload ► dashboard ► deploy ► commands ──► table, `N passed, N failed`
//! ```
//!
//! It decides nothing about the relay; it only starts cargo and reads the tree.

mod api;
mod ci;
mod clean_root;
mod commands;
mod coverage;
mod deny;
mod docs;
mod ebpf;
mod fuzz;
mod kernels;
mod node;
mod openapi;
mod setup;
mod step;
mod tidy;
mod tool;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::step::Counts;

/// Turnpike's chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Every check and test; ends with a table of steps and the line `N passed, N failed`.
    Ci,
    /// Installs the Debian packages that the tests use, if they are missing.
    Setup,
    /// Runs everything, or another command, in a new Debian that has nothing but what `setup` installs.
    CleanRoot(clean_root::Options),
    /// Rules that no compiler checks: purity of the core, places of `unsafe`, secrets, leftovers.
    Tidy,
    /// Bans, licenses and sources of the dependencies.
    Deny,
    /// Known vulnerabilities of the dependencies; downloads the advisory database.
    Advisories,
    /// Tests of the committed eBPF object in this kernel; needs root.
    Frames,
    /// Tests of the release binary with real clients in network namespaces; needs root.
    Interop {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Tests of the kernel data path with the release binary in network namespaces; needs root.
    Offload {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Tests of the dashboard in a real browser; `setup` installs it.
    Dashboard,
    /// Tests of the files in `deploy/`: systemd unit, alert rules, Grafana dashboard.
    Deploy,
    /// Runs every command that README.md, CONTRIBUTING.md and docs/ print, each as it is printed.
    Commands,
    /// Writes docs/configuration.md from the doc comments of the configuration.
    Docs,
    /// Tests of the administration's API by schemathesis, against docs/openapi.json.
    Api,
    /// Writes docs/openapi.json: what the administration's API is, from its code.
    Openapi,
    /// Writes docs/rfc-coverage.md: which requirement is met where, and which test shows it.
    Coverage,
    /// Builds the committed eBPF objects and their stamp; `ebpf/README.md` says which tools it needs.
    Ebpf {
        /// Only says whether the committed objects are what their sources give.
        #[arg(long)]
        check: bool,
    },
    /// The eBPF objects in Debian's kernels, in virtual machines: load, every frame test, real packets on
    /// virtio_net, the relay with VLANs and bonds. Takes minutes; downloads the kernels once.
    Kernels,
    /// Runs a fuzz target of the core.
    Fuzz {
        /// Which one.
        target: fuzz::Target,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        minutes: u32,
    },
}

fn main() -> ExitCode {
    let root = repository_root();
    let done = match Cli::parse().chore {
        Chore::Ci => ci::run(&root),
        Chore::Setup => setup::run(),
        Chore::CleanRoot(options) => clean_root::run(&root, &options),
        Chore::Tidy => tidy::run(&root),
        Chore::Deny => deny::check(&root),
        Chore::Advisories => deny::advisories(&root),
        Chore::Frames => ci::frames(&root),
        Chore::Interop { filter } => ci::interop(&root, filter.as_deref()),
        Chore::Offload { filter } => ci::offload(&root, filter.as_deref()),
        Chore::Dashboard => node::dashboard(&root, &mut Counts::default()),
        Chore::Deploy => node::deploy(&root, &mut Counts::default()),
        Chore::Commands => commands::run(&root, &mut Counts::default()),
        Chore::Docs => docs::run(&root),
        Chore::Api => api::run(&root),
        Chore::Openapi => openapi::run(&root),
        Chore::Coverage => coverage::run(&root),
        Chore::Ebpf { check: true } => ebpf::check(&root, &mut Counts::default()),
        Chore::Ebpf { check: false } => ebpf::build(&root),
        Chore::Kernels => kernels::run(&root),
        Chore::Fuzz { target, minutes } => fuzz::run(&root, target, minutes),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Where cargo builds.
fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// The folder of the workspace: this package's parent.
fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}
