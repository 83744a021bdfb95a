//! The command line: our own modes, and coturn's two programs by name or as subcommands.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::modes::{EXIT_FAILED, allocate, loss, ndr, stun, video};
use crate::{peer, reflect, scenario, uclient};

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
    /// Video calls to clients over TCP or TLS: frozen and late frames
    Video(Box<video::VideoArgs>),
    /// Runs a scenario file
    Run(Box<scenario::RunArgs>),
    /// turnutils_uclient's flags, output and exit status
    #[command(disable_help_flag = true)]
    Uclient(Raw),
    /// turnutils_peer: an echo server, for TCP too
    #[command(disable_help_flag = true)]
    Peer(Raw),
    /// Stand-in server that sends ChannelData straight back, to measure the generator itself
    Reflect(reflect::ReflectArgs),
}

/// Arguments that another parser reads.
#[derive(Debug, Args)]
struct Raw {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the program; `arguments` starts with the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let name = arguments.first().and_then(|path| Path::new(path).file_name()).unwrap_or_default();
    let rest =
        || arguments.iter().skip(1).map(|text| text.to_string_lossy().into_owned()).collect::<Vec<_>>();
    if name == "turnutils_uclient" {
        return uclient::main(&rest());
    }
    if name == "turnutils_peer" {
        return peer::main(&rest());
    }
    let result = match Cli::parse_from(arguments).command {
        Mode::Loss(args) => loss::execute(&args),
        Mode::Ndr(args) => ndr::execute(&args),
        Mode::Allocate(args) => allocate::execute(&args),
        Mode::Stun(args) => stun::execute(&args),
        Mode::Video(args) => video::execute(&args),
        Mode::Run(args) => scenario::execute(&args),
        Mode::Peer(raw) => return peer::main(&raw.arguments),
        Mode::Reflect(args) => reflect::execute(&args),
        Mode::Uclient(raw) => return uclient::main(&raw.arguments),
    };
    result.unwrap_or_else(|fault| {
        eprintln!("turnpike-loadtest: {fault}");
        ExitCode::from(EXIT_FAILED)
    })
}
