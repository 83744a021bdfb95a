//! The reference page of the configuration, written from the table of options.

use std::fmt::Write;

use super::options::{Kind, OPTIONS, Spec};

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `turnpike config-reference` from relay/src/config/options.rs; `cargo xtask docs` renews it. -->

Turnpike needs no configuration but credentials: it refuses to start when nobody could use it.

Every option has one name. It is a flag (`--port-range 50000-50999`), a key of the TOML file that
`--config` names (`port-range = \"50000-50999\"`) and an environment variable
(`TURNPIKE_PORT_RANGE=50000-50999`). The command line wins over the environment, the environment over the
file, and the file over the defaults. A list replaces the whole list of an earlier source; `user` and
`user-file` are replaced together, likewise `auth-secret` and `auth-secret-file`, `admin-token` and
`admin-token-file`.

- Flags of lists are repeated; in the environment, commas separate the parts of lists, but not secrets: of
  `user`, `auth-secret` and `admin-token` each line is one, with any commas in it. Empty environment variables
  count as unset. `TURNPIKE_CONFIG` names the file.
- A secret in a variable or in a file of secrets means itself, to the byte (a byte order mark at the start of a
  file, and line ends of either kind, don't count). What could be meant otherwise is refused with a reason: spaces
  around it, quotes around it, a comment behind it, invisible characters, and a password that is coturn's `0x...`
  key. In the configuration file, in quotes, every secret can be written.
- Secrets are best kept in files of their own (`user-file`, `auth-secret-file`, `admin-token-file`), then in the configuration
  file or the environment. On the command line every process of the machine can see them.
- `turnpike check-config FILE` checks a file together with the environment and reports every fault on a line
  of its own: `FILE:LINE:COLUMN: KEY: VALUE: what is wrong`. Unknown keys are faults.
- Exit codes: 2 for a fault of the configuration, 1 if the relay can't start or run, else 0.
- `turnpike run --quickstart` is for trials: it prints a random user and ready-made browser settings, serves
  the administration on a loopback port with a random token, turns on `rfc5766-channel-numbers` (the
  `turnutils_uclient` of most distributions needs it), allows peers in the private networks that the host
  is attached to, and leaves the network interfaces alone (`offload` is off). What is configured stays as configured. Without it, no credentials are ever invented.


";

/// The page `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("| option | value | default |\n| --- | --- | --- |\n");
    for spec in OPTIONS {
        let value = spec.value.replace('|', "\\|");
        writeln!(page, "| [`{0}`](#{0}) | `{value}` | {1} |", spec.key, spec.default).expect(INFALLIBLE);
    }
    for spec in OPTIONS {
        section(&mut page, spec);
    }
    page
}

fn section(page: &mut String, spec: &Spec) {
    writeln!(page, "\n## {}\n", spec.key).expect(INFALLIBLE);
    for line in spec.doc.lines() {
        writeln!(page, "{}", line.trim()).expect(INFALLIBLE);
    }
    let repeatable = if spec.is_list() { ", repeatable" } else { "" };
    let flag = match spec.kind {
        Kind::Switch => format!("--{}", spec.key),
        _ => format!("--{} {}", spec.key, spec.value),
    };
    writeln!(page, "\n- Flag: `{flag}`{repeatable}").expect(INFALLIBLE);
    writeln!(page, "- Environment: `{}`", spec.variable()).expect(INFALLIBLE);
    writeln!(page, "- File: `{} = {}`", spec.key, sample(spec)).expect(INFALLIBLE);
    writeln!(page, "- Default: {}", spec.default).expect(INFALLIBLE);
    let changes = if spec.is_reloadable() { "on reload" } else { "on restart" };
    writeln!(page, "- Changes: {changes}").expect(INFALLIBLE);
}

/// What the value looks like in TOML.
fn sample(spec: &Spec) -> String {
    match spec.kind {
        Kind::List | Kind::Secrets => format!("[\"{}\"]", spec.value),
        Kind::Text => format!("\"{}\"", spec.value),
        Kind::Number => spec.value.to_owned(),
        Kind::Switch => "true".to_owned(),
    }
}

const INFALLIBLE: &str = "writing to a String can't fail";
