//! The command line: our own modes, and coturn's two programs by name or as subcommands.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::modes::{EXIT_FAILED, allocate, loss, ndr, stun};

/// Load tests for TURN servers, with honest statistics
#[derive(Debug, Parser)]
#[command(name = "turnpike-loadtest", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Fixed load: loss, duplicates, reordering, delays
    Loss(Box<loss::LossArgs>),
    /// Search for the highest rate without loss (NDR) and with 0.1 % (PDR)
    Ndr(Box<ndr::NdrArgs>),
    /// Allocations per second, held allocations, time to the first byte
    Allocate(Box<allocate::AllocateArgs>),
    /// STUN Binding requests per second
    Stun(Box<stun::StunArgs>),
}

/// Runs the program; `arguments` starts with the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let result = match Cli::parse_from(arguments).command {
        Mode::Loss(args) => loss::execute(&args),
        Mode::Ndr(args) => ndr::execute(&args),
        Mode::Allocate(args) => allocate::execute(&args),
        Mode::Stun(args) => stun::execute(&args),
    };
    result.unwrap_or_else(|fault| {
        eprintln!("turnpike-loadtest: {fault}");
        ExitCode::from(EXIT_FAILED)
    })
}
