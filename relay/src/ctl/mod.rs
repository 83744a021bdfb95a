//! `turnpike ctl`: the administration from a shell, for people (tables) and for scripts (`--json`).
//!
//! It is a client of the REST API and knows nothing of the relay but its URL and a token.

mod client;
mod flags;
mod refusals;
mod show;
mod words;

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::ArgMatches;
use serde_json::{Value, json};
use ureq::http::Method;
use zeroize::Zeroizing;

use client::{Client, Fault};
pub use flags::command;

/// The command line is wrong, or leaves something out.
const USAGE_FAULT: u8 = 2;
/// The administration was not reached, or did not do it.
const FAILURE: u8 = 1;

/// What a command asks of the API.
struct Call {
    method: Method,
    path: String,
    body: Option<Zeroizing<String>>,
    /// How the answer is shown to people.
    show: fn(&Value) -> String,
}

/// Does what the command line says; 0 if it was done, 1 if not, 2 if the command line is at fault.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let client = match Client::new(matches) {
        Ok(client) => client,
        Err(why) => return fail(USAGE_FAULT, &why),
    };
    let (name, arguments) = matches.subcommand().expect("clap requires a subcommand");
    if name == "events" {
        return outcome(client.follow("/v1/events", print_line));
    }
    let call = match call(&client, name, arguments) {
        Ok(call) => call,
        Err(code) => return code,
    };
    let answer = match client.send(&call.method, &call.path, call.body) {
        Ok(answer) => answer,
        Err(fault) => return outcome(Err(fault)),
    };
    let printed = match matches.get_flag("json") {
        true => print(&format!("{answer:#}\n")),
        false => print(&(call.show)(&answer)),
    };
    if name == "disconnect-user" && answer["allocations"] == 0 {
        return fail(FAILURE, "there is no allocation of a user of that name");
    }
    printed
}

fn call(client: &Client, name: &str, arguments: &ArgMatches) -> Result<Call, ExitCode> {
    let text = |key: &str| arguments.get_one::<String>(key).expect("clap requires it").as_str();
    let get = |path: String, show| Ok(Call { method: Method::GET, path, body: None, show });
    let delete = |path: String, show| Ok(Call { method: Method::DELETE, path, body: None, show });
    let with = |method, path: String, body: Value, show| {
        Ok(Call { method, path, body: Some(Zeroizing::new(body.to_string())), show })
    };
    match name {
        "status" => get("/v1/status".to_owned(), show::status),
        "config" => get("/v1/config".to_owned(), show::config),
        "refusals" => get("/v1/refusals".to_owned(), refusals::refusals),
        "allocations" => get(format!("/v1/allocations{}", flags::query(arguments)), show::allocations),
        "allocation" => {
            get(format!("/v1/allocations/{}", flags::percent_encoded(text("id"))), show::allocation)
        }
        "limit" => {
            let bits = *arguments.get_one::<u64>("bits").expect("clap requires it");
            let path = format!("/v1/allocations/{}", flags::percent_encoded(text("id")));
            with(Method::PATCH, path, json!({ "max_bits_per_sec": bits }), show::limit)
        }
        "disconnect" => delete(format!("/v1/allocations/{}", flags::percent_encoded(text("id"))), show::done),
        "disconnect-user" => delete(
            format!("/v1/users/{}/allocations", flags::percent_encoded(text("name"))),
            show::disconnected,
        ),
        "users" => users(client, arguments),
        "drain" => {
            let deadline = arguments.get_one::<u64>("deadline");
            let body = deadline.map_or(json!({}), |secs| json!({ "deadline_secs": secs }));
            with(Method::POST, "/v1/drain".to_owned(), body, show::drain)
        }
        "undrain" => delete("/v1/drain".to_owned(), show::drain),
        "credentials" => {
            let ttl_secs = *arguments.get_one::<u64>("ttl").expect("it has a default");
            let body = json!({ "user": text("user"), "ttl_secs": ttl_secs });
            with(Method::POST, "/v1/credentials".to_owned(), body, show::credentials)
        }
        "reload" => {
            Ok(Call { method: Method::POST, path: "/v1/reload".to_owned(), body: None, show: show::reload })
        }
        other => unreachable!("clap knows no command {other}"),
    }
}

fn users(client: &Client, arguments: &ArgMatches) -> Result<Call, ExitCode> {
    let (name, arguments) = arguments.subcommand().expect("clap requires a subcommand");
    let path = || {
        let user = arguments.get_one::<String>("name").expect("clap requires it");
        format!("/v1/users/{}", flags::percent_encoded(user))
    };
    match name {
        "list" => {
            let path = format!("/v1/users{}", flags::query(arguments));
            Ok(Call { method: Method::GET, path, body: None, show: show::users })
        }
        "show" => Ok(Call { method: Method::GET, path: path(), body: None, show: show::user }),
        "remove" => Ok(Call { method: Method::DELETE, path: path(), body: None, show: show::done }),
        "set" => {
            let mut change = json!({});
            if let Some(password) = new_password(client, arguments, &path())? {
                change["password"] = json!(password.as_str());
            }
            if let Some(quota) = arguments.get_one::<u32>("quota") {
                change["quota"] = json!(quota);
            }
            if let Some(bits) = arguments.get_one::<u64>("max-bitrate") {
                change["max_bits_per_sec"] = json!(bits);
            }
            let body = Some(Zeroizing::new(change.to_string()));
            Ok(Call { method: Method::PUT, path: path(), body, show: show::user })
        }
        other => unreachable!("clap knows no command {other}"),
    }
}

/// The password for `users set`: from standard input if that is wanted. A person is asked, unless the user
/// exists and something else is to be changed.
fn new_password(
    client: &Client,
    arguments: &ArgMatches,
    path: &str,
) -> Result<Option<Zeroizing<String>>, ExitCode> {
    if arguments.get_flag("password-stdin") {
        return password_from_stdin().map(Some).map_err(|why| fail(USAGE_FAULT, &why));
    }
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let exists = match client.send(&Method::GET, path, None) {
        Ok(_) => true,
        Err(Fault::Missing(_)) => false,
        Err(fault) => return Err(outcome(Err(fault))),
    };
    let is_other_change = arguments.contains_id("quota") || arguments.contains_id("max-bitrate");
    if exists && is_other_change {
        return Ok(None);
    }
    let name = words::harmless(arguments.get_one::<String>("name").expect("clap requires it"));
    ask_password(&name, exists).map_err(|why| fail(FAILURE, &why))
}

/// Asks on the terminal, twice and without an echo.
fn ask_password(name: &str, exists: bool) -> Result<Option<Zeroizing<String>>, String> {
    let ask = |prompt: String| {
        rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| format!("password: {error}"))
    };
    let hint = if exists { " (empty to keep the old one)" } else { "" };
    let password = ask(format!("New password of {name}{hint}: "))?;
    match password.is_empty() {
        true if exists => return Ok(None),
        true => return Err("a new user needs a password".to_owned()),
        false => {}
    }
    if ask("Once more: ".to_owned())? != password {
        return Err("these were two different passwords: nothing was changed".to_owned());
    }
    Ok(Some(password))
}

/// The first line: passwords don't belong on a command line, which every process can see.
fn password_from_stdin() -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let read = io::stdin().take(4096).read_to_string(&mut text);
    read.map_err(|error| format!("--password-stdin: {error}"))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
        _ => Err("--password-stdin: there is no password on standard input".to_owned()),
    }
}

fn outcome(result: Result<(), Fault>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fail(FAILURE, &fault.to_string()),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("turnpike ctl: {message}");
    ExitCode::from(code)
}

fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

/// Prints to stdout; a reader that went away is a failure, not a panic.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    }
}
