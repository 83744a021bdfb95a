//! `turnpike import-coturn`: a configuration from coturn's, on stdout, and a report of every line, on stderr.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};

use crate::config::coturn::{Fate, Imported, import};
use crate::config::random_hex;

/// Bytes of a file: many times any that somebody writes.
const MAX_BYTES: u64 = 1 << 20;

/// The command's line.
pub fn command() -> Command {
    Command::new("import-coturn")
        .about("Make a configuration from coturn's turnserver.conf: TOML on stdout, a report of every line on stderr")
        .arg(Arg::new("file").value_name("FILE").required(true).value_parser(value_parser!(PathBuf)))
}

/// The TOML, and the report.
///
/// # Errors
/// If the file can't be read, or there are no random bytes.
pub fn convert(matches: &ArgMatches) -> Result<(String, String), String> {
    let path = matches.get_one::<PathBuf>("file").expect("clap requires it");
    let text = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let invented = random_hex().map_err(|error| format!("no random bytes: {error}"))?;
    let imported = import(&text, invented.expose());
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

/// A line for each remark, and the sum of them.
fn report(path: &Path, imported: &Imported) -> String {
    let mut text = String::new();
    for remark in &imported.remarks {
        let place = if remark.line == 0 { String::new() } else { format!(":{}", remark.line) };
        let name = remark.name.escape_debug();
        let _ = writeln!(text, "{}{place}: {name}: {}: {}", path.display(), remark.fate, remark.why);
    }
    let count = |fate| imported.remarks.iter().filter(|remark| remark.fate == fate).count();
    let counts: Vec<_> = Fate::ALL.iter().map(|fate| format!("{} {fate}", count(*fate))).collect();
    text + &counts.join(", ")
}
