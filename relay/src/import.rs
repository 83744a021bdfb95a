//! `turnpike import-coturn`: a configuration from coturn's, on stdout, and a report of every line, on stderr.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use rusqlite::{Connection, OpenFlags, Row};

use crate::config::coturn::{Fate, Imported, Origin, Stored, import, realm};
use crate::config::random_hex;

/// Bytes of a file: many times any that somebody writes.
const MAX_BYTES: u64 = 1 << 20;

/// The command's line.
pub fn command() -> Command {
    Command::new("import-coturn")
        .about("Make a configuration from coturn's turnserver.conf: TOML on stdout, a report of every line on stderr")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("coturn's configuration"),
        )
        .arg(
            Arg::new("db")
                .long("db")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("coturn's SQLite database (`userdb`): its secrets, peers and limits for the file's realm"),
        )
}

/// The TOML, and the report.
///
/// # Errors
/// If a file can't be read, or there are no random bytes.
pub fn convert(matches: &ArgMatches) -> Result<(String, String), String> {
    let path = matches.get_one::<PathBuf>("file").expect("clap requires it");
    let text = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let invented = random_hex().map_err(|error| format!("no random bytes: {error}"))?;
    let stored = match matches.get_one::<PathBuf>("db") {
        Some(db) => stored(db, realm(&text).unwrap_or_default())
            .map_err(|error| format!("{}: {error}", db.display()))?,
        None => Vec::new(),
    };
    let imported = import(&text, &stored, invented.expose());
    let report = report(path, &imported);
    Ok((imported.toml, report))
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    // coturn takes lines as bytes; what of them is no text, no option of ours can have.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What coturn's database has for a realm, and for all of them.
fn stored(path: &Path, realm: &str) -> rusqlite::Result<Vec<Stored>> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut found = Vec::new();
    let mut ask = |rest: &str, make: fn(&Row<'_>) -> rusqlite::Result<Stored>| {
        let mut statement = database.prepare(&format!("SELECT {rest} WHERE realm IN ('', ?1)"))?;
        for stored in statement.query_map([realm], make)? {
            found.push(stored?);
        }
        Ok::<_, rusqlite::Error>(())
    };
    ask("value FROM turn_secret", |row| row.get(0).map(Stored::Secret))?;
    ask("ip_range FROM allowed_peer_ip", |row| row.get(0).map(Stored::Allowed))?;
    ask("ip_range FROM denied_peer_ip", |row| row.get(0).map(Stored::Denied))?;
    ask("opt, value FROM turn_realm_option", |row| {
        Ok(Stored::Limit { name: row.get(0)?, value: row.get(1)? })
    })?;
    ask("count(*) FROM turnusers_lt", |row| row.get(0).map(Stored::Users))?;
    found.retain(|stored| *stored != Stored::Users(0));
    Ok(found)
}

/// A line for each remark, and the sum of them.
fn report(path: &Path, imported: &Imported) -> String {
    let mut text = String::new();
    for remark in &imported.remarks {
        let place = match remark.origin {
            Origin::Line(line) => format!("{}:{line}", path.display()),
            Origin::Database(_) => "database".to_owned(),
            Origin::Unsaid => path.display().to_string(),
        };
        let _ = writeln!(text, "{place}: {}: {}: {}", remark.name, remark.fate, remark.why);
    }
    let count = |fate| imported.remarks.iter().filter(|remark| remark.fate == fate).count();
    let counts: Vec<_> = Fate::ALL.iter().map(|fate| format!("{} {fate}", count(*fate))).collect();
    text + &counts.join(", ")
}
