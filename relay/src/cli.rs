//! The command line: commands, flags and exit codes. The flags of `run` are the table of options.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{
    Config, Kind, Loaded, Loader, OPTIONS, Problems, Quickstart, Secret, Spec, coturn, duration_secs,
    reference_markdown,
};
use crate::{credentials, ctl, health, import, logging, patience, probe, start};

/// A fault of the configuration or the command line; clap uses the same.
const CONFIGURATION_FAULT: u8 = 2;
/// Anything else that keeps the program from doing what it should.
const FAILURE: u8 = 1;

/// Does what the command line says.
pub fn execute(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are "errors" that go to stdout with code 0; a closed stdout is no news.
            let code = u8::try_from(error.exit_code()).unwrap_or(FAILURE);
            let _ = patience::print(move || error.print());
            return ExitCode::from(code);
        }
    };
    match matches.subcommand() {
        None => run_relay(&matches),
        Some(("run", matches)) => run_relay(matches),
        Some(("check-config", matches)) => check_config(matches),
        Some(("credentials", matches)) => issue_credentials(matches),
        Some(("ctl", matches)) => ctl::execute(matches),
        Some(("health", matches)) => check_health(matches),
        Some(("probe", matches)) => probe_host(matches),
        Some(("import-coturn", matches)) => import_coturn(matches),
        Some(("config-reference", _)) => print(&reference_markdown()),
        Some(("coturn-reference", _)) => print(&coturn::tables()),
        Some((other, _)) => unreachable!("clap knows no command {other}"),
    }
}

/// The whole command line.
pub fn command() -> Command {
    let run_arguments =
        || std::iter::once(quickstart_flag()).chain(std::iter::once(config_flag())).chain(option_flags());
    Command::new("turnpike")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A TURN relay (RFC 8656)")
        .args_conflicts_with_subcommands(true)
        .args(run_arguments())
        .subcommand(
            Command::new("run")
                .about("Run the relay; this is what happens without a command")
                .args(run_arguments()),
        )
        .subcommand(
            Command::new("check-config")
                .about("Check a configuration file, together with the environment")
                .arg(Arg::new("file").value_name("FILE").required(true).value_parser(value_parser!(PathBuf))),
        )
        .subcommand(credentials_command())
        .subcommand(ctl::command())
        .subcommand(health_command())
        .subcommand(probe_command())
        .subcommand(import::command())
        .subcommand(Command::new("config-reference").about("Print docs/configuration.md").hide(true))
        .subcommand(
            Command::new("coturn-reference")
                .about("Print the tables of docs/migrate-from-coturn.md")
                .hide(true),
        )
}

fn quickstart_flag() -> Arg {
    Arg::new("quickstart")
        .long("quickstart")
        .action(ArgAction::SetTrue)
        .help("Try it out: print a random user and ready-made browser settings")
}

fn config_flag() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("TOML file with the options below as keys [environment: TURNPIKE_CONFIG]")
}

fn option_flags() -> impl Iterator<Item = Arg> {
    OPTIONS.iter().map(option_flag)
}

fn option_flag(spec: &'static Spec) -> Arg {
    let doc: Vec<_> = spec.doc.lines().map(str::trim).collect();
    let doc = doc.join(" ");
    let short = first_sentence(&doc);
    let default = spec.default.replace('`', "");
    let argument = Arg::new(spec.key)
        .long(spec.key)
        .value_name(spec.value)
        .help(format!("{short} [default: {default}]"))
        .long_help(format!("{doc}\n[default: {default}] [environment: {}]", spec.variable()));
    match spec.kind {
        Kind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::List | Kind::Secrets => argument.action(ArgAction::Append),
        Kind::Text | Kind::Number => argument,
    }
}

/// The first sentence without its full stop; the one in "s. 12" doesn't end any.
fn first_sentence(doc: &str) -> &str {
    let ends = |(at, _): &(usize, &str)| doc[at + 2..].starts_with(|next: char| next.is_uppercase());
    let end = doc.match_indices(". ").find(ends).map_or(doc.len(), |(at, _)| at);
    doc[..end].trim_end_matches('.')
}

fn credentials_command() -> Command {
    let secrets = OPTIONS.iter().filter(|spec| matches!(spec.key, "auth-secret" | "auth-secret-file"));
    Command::new("credentials")
        .about("Make a time-limited credential from an auth-secret (of several, the first)")
        .args(secrets.map(option_flag))
        .arg(
            config_flag().help("Take the secret from this configuration file [environment: TURNPIKE_CONFIG]"),
        )
        .arg(
            // Not the option `user`, which has a password.
            Arg::new("for-user").long("user").value_name("USER").required(true).help("Whom it is for"),
        )
        .arg(
            Arg::new("ttl")
                .long("ttl")
                .value_name("DURATION")
                .default_value("1h")
                .value_parser(duration_secs)
                .help("How long it is valid: 90s, 30m, 1h, 2d"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print a JSON object"))
}

fn probe_command() -> Command {
    Command::new("probe").about("Show what this machine offers, and what this version uses of it").arg(
        Arg::new("attach").long("attach").value_name("INTERFACE").action(ArgAction::Append).help(
            "Try whether an interface takes the XDP program: its link may pause twice; exit code 1 if not",
        ),
    )
}

fn health_command() -> Command {
    Command::new("health")
        .about("Ask the relay on this machine for an answer; exit code 0 if it gives one, 1 if not")
        .arg(
            config_flag().help("Ask the first listener of this configuration [default: port 3478 on loopback] [environment: TURNPIKE_CONFIG]"),
        )
        .arg(
            Arg::new("server")
                .long("server")
                .value_name("IP:PORT")
                .value_parser(value_parser!(SocketAddr))
                .conflicts_with("config")
                .help("Ask this one"),
        )
}

fn probe_host(matches: &ArgMatches) -> ExitCode {
    let named: Vec<String> = matches.get_many::<String>("attach").into_iter().flatten().cloned().collect();
    if named.is_empty() {
        return print(&probe::report());
    }
    let (report, all) = probe::attach(&named);
    let printed = print(&report);
    if all { printed } else { ExitCode::from(FAILURE) }
}

fn check_health(matches: &ArgMatches) -> ExitCode {
    let server = match matches.get_one::<SocketAddr>("server") {
        Some(server) => health::Listener::udp(*server),
        None => match configured_listener(config_file(matches)) {
            Ok(server) => server,
            Err(code) => return code,
        },
    };
    match health::check(server) {
        Ok(took) => print(&format!("{}: answered in {:.1} ms\n", server.address, took.as_secs_f64() * 1e3)),
        Err(why) => fail(FAILURE, &why),
    }
}

fn configured_listener(file: Option<PathBuf>) -> Result<health::Listener, ExitCode> {
    if file.is_none() {
        return health::listener(&Config::default()).map_err(|why| fail(FAILURE, &why));
    }
    let loader = Arc::new(Loader::new(file, std::env::vars_os()));
    let loaded = match loader.in_time(Loader::load) {
        Ok(loaded) => loaded.map_err(|problems| configuration_fault(&problems))?,
        Err(stuck) => return Err(fail(FAILURE, &stuck.to_string())),
    };
    health::listener(&loaded.config).map_err(|why| fail(FAILURE, &why))
}

fn run_relay(matches: &ArgMatches) -> ExitCode {
    let mut loader = Loader::new(config_file(matches), std::env::vars_os()).with_flags(matches);
    if matches.get_flag("quickstart") {
        match Quickstart::generate() {
            Ok(quickstart) => loader = loader.with_quickstart(quickstart),
            Err(error) => return fail(FAILURE, &format!("quickstart: no random bytes: {error}")),
        }
    }
    let loader = Arc::new(loader);
    let Loaded { config, warnings } = match loader.in_time(Loader::load_to_start) {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(problems)) => return configuration_fault(&problems),
        // Another attempt may find the mount alive: not a fault of the configuration.
        Err(stuck) => return fail(FAILURE, &stuck.to_string()),
    };
    let _log = match logging::init(config.log_level, config.log_format) {
        Ok(guard) => guard,
        Err(error) => return fail(FAILURE, &format!("log: {error}")),
    };
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    match start::run(config, loader) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn config_file(matches: &ArgMatches) -> Option<PathBuf> {
    let variable = || std::env::var_os("TURNPIKE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    matches.get_one::<PathBuf>("config").cloned().or_else(variable)
}

fn check_config(matches: &ArgMatches) -> ExitCode {
    let file = matches.get_one::<PathBuf>("file").expect("clap requires it").clone();
    let name = file.display().to_string();
    let loader = Arc::new(Loader::new(Some(file), std::env::vars_os()).only_to_check());
    match loader.in_time(Loader::load_to_start) {
        Ok(Ok(loaded)) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            print(&format!("{name}: ok\n"))
        }
        Ok(Err(problems)) => configuration_fault(&problems),
        Err(stuck) => fail(FAILURE, &stuck.to_string()),
    }
}

fn issue_credentials(matches: &ArgMatches) -> ExitCode {
    let loader = Loader::new(config_file(matches), std::env::vars_os()).with_flags(matches);
    let secret: Secret = match loader.load_auth_secrets() {
        Ok(secrets) => secrets.into_iter().next().expect("there is one, or it is a fault"),
        Err(problems) => return configuration_fault(&problems),
    };
    let user = matches.get_one::<String>("for-user").expect("clap requires it");
    let ttl_secs = *matches.get_one::<u64>("ttl").expect("it has a default");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    match credentials::issue(&secret, user, now.saturating_add(ttl_secs)) {
        Ok(credential) if matches.get_flag("json") => print(&credential.to_json(ttl_secs)),
        Ok(credential) => print(&credential.to_text()),
        Err(why) => fail(CONFIGURATION_FAULT, &format!("--user: {why}")),
    }
}

fn import_coturn(matches: &ArgMatches) -> ExitCode {
    match import::convert(matches) {
        Ok((toml, report)) => {
            patience::complain(&report);
            print(&toml)
        }
        Err(why) => fail(FAILURE, &why),
    }
}

fn configuration_fault(problems: &Problems) -> ExitCode {
    fail(CONFIGURATION_FAULT, &problems.to_string())
}

fn fail(code: u8, message: &str) -> ExitCode {
    patience::complain(message);
    ExitCode::from(code)
}

/// Prints to stdout; a reader that went away is a failure, not a panic.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    }
}
