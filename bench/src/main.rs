//! `turnpike-bench`: see [`turnpike_bench::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    turnpike_bench::cli::main(std::env::args_os().collect())
}
