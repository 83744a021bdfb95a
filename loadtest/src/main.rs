//! `turnpike-loadtest`, see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    turnpike_loadtest::cli::main(std::env::args_os().collect())
}
