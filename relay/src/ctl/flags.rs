//! The command line of `turnpike ctl`.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::config::{bitrate, duration_secs};

/// Where the administration is looked for if nothing is said.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Filters of lists: the flag is the name of the query's parameter with hyphens.
const FILTERS: &[(&str, &str)] = &[
    ("search", "A part of the user's name, of an address or of the id"),
    ("user", "The user's full name, or the part that quotas count"),
    ("client", "The client: IP address, network or address with port"),
    ("peer", "A peer with a permission: IP address or network"),
    ("transport", "How clients talk to the relay: udp, tcp or tls"),
    ("sort", "created, traffic, rate, drops, expires, user, client or id"),
    ("order", "asc or desc"),
    ("limit", "How many to show, at most 500"),
    ("offset", "How many to skip"),
];

/// `turnpike ctl` with all its commands.
pub fn command() -> Command {
    let id = || Arg::new("id").value_name("ID").required(true).help("The allocation's 16 digits");
    let name = || Arg::new("name").value_name("NAME").required(true).help("The user's name");
    Command::new("ctl")
        .about("Look at a running relay and change it, by its administration")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args(common())
        .subcommand(Command::new("status").about("What runs, and how"))
        .subcommand(Command::new("config").about("The configuration in force, without secrets"))
        .subcommand(Command::new("refusals").about("Why calls fail: the latest refusals, and how many"))
        .subcommand(
            Command::new("allocations").about("List allocations").args(FILTERS.iter().map(filter_flag)),
        )
        .subcommand(Command::new("allocation").about("Everything about one allocation").arg(id()))
        .subcommand(
            Command::new("limit").about("Limit an allocation in each direction").arg(id()).arg(bits("bits")),
        )
        .subcommand(Command::new("disconnect").about("End an allocation").arg(id()))
        .subcommand(Command::new("disconnect-user").about("End all allocations of a user").arg(name()))
        .subcommand(users_command(name))
        .subcommand(
            Command::new("drain").about("Take no new allocations").arg(
                Arg::new("deadline")
                    .long("deadline")
                    .value_name("DURATION")
                    .value_parser(duration_secs)
                    .help("End the rest after this time: 90s, 30m, 1h"),
            ),
        )
        .subcommand(Command::new("undrain").about("Take new allocations again"))
        .subcommand(
            Command::new("credentials")
                .about("Make time-limited credentials for a client")
                .arg(Arg::new("user").value_name("USER").required(true).help("Whom they are for"))
                .arg(
                    Arg::new("ttl")
                        .long("ttl")
                        .value_name("DURATION")
                        .default_value("1h")
                        .value_parser(duration_secs)
                        .help("How long they are valid: 90s, 30m, 1h, 2d"),
                ),
        )
        .subcommand(Command::new("reload").about("Read the configuration again, as SIGHUP does"))
        .subcommand(
            Command::new("events").about("Show what happens, one JSON object per line, until stopped"),
        )
}

fn common() -> [Arg; 4] {
    [
        Arg::new("url")
            .long("url")
            .value_name("URL")
            .env("TURNPIKE_ADMIN_URL")
            .default_value(DEFAULT_URL)
            .help("Where the administration is"),
        Arg::new("token-file").long("token-file").value_name("FILE").help(
            "Take the token from the first line of this file, else from the environment: TURNPIKE_ADMIN_TOKEN",
        ),
        Arg::new("ca")
            .long("ca")
            .value_name("FILE")
            .help("Certificates (PEM) to trust for HTTPS [default: those of the system]"),
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Print the API's answer instead of a table"),
    ]
    .map(|argument| argument.global(true))
}

fn users_command(name: impl Fn() -> Arg) -> Command {
    let set = Command::new("set")
        .about("Create a user of the database, or change it: what is left out goes back to the default")
        .arg(name())
        .arg(
            Arg::new("password-stdin")
                .long("password-stdin")
                .action(ArgAction::SetTrue)
                .help("Read the password from standard input; without it, a terminal asks"),
        )
        .arg(
            Arg::new("quota")
                .long("quota")
                .value_name("N")
                .value_parser(value_parser!(u32))
                .help("Allocations at once"),
        )
        .arg(bits("max-bitrate").long("max-bitrate").required(false));
    let list_filters = FILTERS.iter().filter(|(name, _)| matches!(*name, "search" | "limit" | "offset"));
    Command::new("users")
        .about("Users with passwords")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("list").about("List users").args(list_filters.map(filter_flag)))
        .subcommand(Command::new("show").about("One user").arg(name()))
        .subcommand(set)
        .subcommand(Command::new("remove").about("Remove a user of the database").arg(name()))
}

fn bits(name: &'static str) -> Arg {
    let parser = |text: &str| bitrate(text).map(|bits| bits.map_or(0, u64::from));
    Arg::new(name)
        .value_name("BITS")
        .required(true)
        .value_parser(parser)
        .help("Bits of payload per second, with k, M or G; 0 for none")
}

fn filter_flag((name, help): &(&'static str, &'static str)) -> Arg {
    Arg::new(*name).long(*name).value_name("VALUE").help(*help)
}

/// The filters that are set, as a query.
pub(super) fn query(arguments: &ArgMatches) -> String {
    let value = |name: &str| arguments.try_get_one::<String>(name).ok().flatten();
    let set = FILTERS.iter().filter_map(|(name, _)| Some((*name, value(name)?)));
    let pairs: Vec<String> = set.map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// A text with everything but unreserved characters percent-encoded (RFC 3986 s. 2.3).
pub(super) fn percent_encoded(text: &str) -> PercentEncode<'_> {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(line: &[&str]) -> Result<ArgMatches, clap::Error> {
        command().try_get_matches_from(std::iter::once("ctl").chain(line.iter().copied()))
    }

    #[test]
    fn filters_become_a_query_that_hides_nothing_in_itself() {
        let matches = matches(&["allocations", "--user", "a&b=c/é", "--sort", "rate"]).unwrap();
        let (_, arguments) = matches.subcommand().unwrap();
        assert_eq!(query(arguments), "?user=a%26b%3Dc%2F%C3%A9&sort=rate");
    }

    #[test]
    fn limits_have_units_and_common_flags_stand_anywhere() {
        let matches = matches(&["limit", "0001000000000007", "2M", "--json", "--url", "http://x:1"]).unwrap();
        let (_, arguments) = matches.subcommand().unwrap();
        assert_eq!(arguments.get_one::<u64>("bits"), Some(&2_000_000));
        assert!(matches.get_flag("json"));
        assert_eq!(matches.get_one::<String>("url").map(String::as_str), Some("http://x:1"));
        assert!(self::matches(&["limit", "0001000000000007", "2"]).is_err(), "a forgotten unit");
    }
}
