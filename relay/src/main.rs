//! The relay.
use std::process::ExitCode;

fn main() -> ExitCode {
    turnpike::cli::execute(std::env::args_os())
}
