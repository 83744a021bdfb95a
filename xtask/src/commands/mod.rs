//! `cargo xtask commands`: every command of README.md, CONTRIBUTING.md and docs/ is run as it is printed.
//!
//! ```text
//!   page ─► blocks: commands ─► unshare (network, mounts, processes): world.sh, the install recipe, the page
//! ```
//!
//! Somebody who isn't root types them, in a copy of the repository, with `sudo`. Each page has a machine of its
//! own, on which docs/operations.md's recipe was followed. What can't be run stands in [`NOT_RUN`].

mod blocks;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::{is_installed, is_root};
use crate::step::{Counts, cargo, run_command, skip};
use crate::target_folder;
use blocks::{Block, Kind, PrintedCommand};

/// The page whose first block installs everything.
const RECIPE: &str = "docs/operations.md";
/// Pages that talk to the installed relay; on the others it is stopped, so that they can start their own.
const WITH_SERVICE: &[&str] = &[RECIPE, "docs/admin-api.md"];
/// Programs that a machine for commands needs.
const PROGRAMS: &[&str] =
    &["unshare", "ip", "setpriv", "sudo", "useradd", "systemd-sysusers", "nft", "jq", "curl", "promtool"];

/// Commands that are not run, by how they begin, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("make run", "builds; what it starts is started by the relay's own tests (quickstart)"),
    ("make test", "is what runs this"),
    ("cargo build", "a step of the CI; needs the caller's toolchain and downloads"),
    ("cargo test", "a step of the CI"),
    ("cargo bench", "a measurement of minutes"),
    ("bench/callgrind.sh", "a measurement of minutes"),
    ("TURNPIKE_BIN=", "a measurement of minutes"),
    (
        "turnpike run --listen 127.0.0.1:34780",
        "the first of three commands of a measurement with 16,000 allocations",
    ),
    ("turnpike-loadtest loss 127.0.0.1:34780", "the second of them"),
    ("for i in $(seq 100)", "the third of them"),
    ("./target/release/turnpike-bench flood", "a measurement of minutes, beside coturn"),
    ("taskset -c", "a measurement that wants two idle processors"),
    (
        "turnpike run --config turnpike.toml --state-directory",
        "takes over from a relay of the same user: the relay's own tests do (program::takeover)",
    ),
    ("sudo sysctl", "would change the machine: most of these settings are in no namespace"),
];

/// Runs all commands of all pages.
///
/// # Errors
/// When one fails, or the documentation prints a command in a way that can't be read.
pub fn run(root: &Path, counts: &mut Counts) -> Result<(), String> {
    let missing = PROGRAMS.iter().find(|program| !is_installed(program));
    if !is_root() || missing.is_some() {
        let why = missing.map_or("root".to_owned(), |program| (*program).to_owned());
        return skip(
            &format!("the commands of the documentation need {why} (cargo xtask setup installs programs)"),
            counts,
        );
    }
    // With an example, for the same features as the workspace's tests: nothing is built twice.
    let build = [
        "build",
        "--locked",
        "--workspace",
        "--example",
        "fake",
        "--bin",
        "turnpike",
        "--bin",
        "turnpike-loadtest",
    ];
    cargo(root, &build, &[], counts)?;
    let pages = read_pages(root)?;
    check_table(&pages)?;
    let recipe = pages.iter().find(|page| page.name == RECIPE).and_then(|page| page.blocks.first());
    let recipe = recipe.ok_or_else(|| format!("{RECIPE} has no block with commands"))?;
    let mut failed = Vec::new();
    for page in pages.iter().filter(|page| page.commands().any(|command| not_run(command).is_none())) {
        if let Err(why) = run_page(root, page, recipe, counts) {
            failed.push(format!("{}: {why}", page.name));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

struct Page {
    /// Path from the root.
    name: String,
    blocks: Vec<Block>,
}

impl Page {
    fn commands(&self) -> impl Iterator<Item = &PrintedCommand> {
        self.blocks.iter().flat_map(|block| &block.commands)
    }
}

fn read_pages(root: &Path) -> Result<Vec<Page>, String> {
    let docs = root.join("docs");
    let entries = fs::read_dir(&docs).map_err(|error| format!("{}: {error}", docs.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .chain(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()])
        .collect();
    names.sort_unstable();
    let read = |name: String| {
        let text = fs::read_to_string(root.join(&name)).map_err(|error| format!("{name}: {error}"))?;
        check_blocks(&name, &text)?;
        Ok(Page { blocks: blocks::of(&text), name })
    };
    names.into_iter().map(read).collect()
}

/// A block of commands under another name would never be run.
fn check_blocks(name: &str, text: &str) -> Result<(), String> {
    let other = text.lines().position(|line| matches!(line, "```sh" | "```bash" | "```shell"));
    other.map_or(Ok(()), |line| {
        Err(format!("{name}:{}: write ```console, and `$ ` before each command", line + 1))
    })
}

/// Each line of the table is still needed.
fn check_table(pages: &[Page]) -> Result<(), String> {
    let is_printed =
        |start: &str| pages.iter().flat_map(Page::commands).any(|command| command.text.starts_with(start));
    match NOT_RUN.iter().find(|(start, _)| !is_printed(start)) {
        Some((start, _)) => Err(format!("no page prints `{start}` any more: take it out of NOT_RUN")),
        None => Ok(()),
    }
}

fn not_run(command: &PrintedCommand) -> Option<&'static str> {
    NOT_RUN.iter().find(|(start, _)| command.text.starts_with(start)).map(|(_, why)| *why)
}

fn run_page(root: &Path, page: &Page, recipe: &Block, counts: &mut Counts) -> Result<(), String> {
    let world = World::new(&page.name)?;
    let mut script = include_str!("world.sh").to_owned();
    if page.name != RECIPE {
        script.push_str(&as_visitor(RECIPE, &[recipe], ""));
    }
    if !WITH_SERVICE.contains(&page.name.as_str()) {
        script.push_str("sudo systemctl stop turnpike\n");
    }
    let blocks: Vec<&Block> = page.blocks.iter().collect();
    script.push_str(&as_visitor(&page.name, &blocks, "done_with_page\n"));
    let file = world.0.join("page.sh");
    fs::write(&file, script).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut command = Command::new("unshare");
    command
        .args([
            "--net",
            "--mount",
            "--propagation=private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["bash".as_ref(), file.as_os_str()])
        .env("REPOSITORY", root)
        .env("BUILT", target_folder(root).join("debug"))
        .env("WORLD", world.0.join("machine"));
    run_command(&mut command, &format!("the commands of {}", page.name), counts)
}

/// The part of a machine's script in which commands are typed; `last` is its last line.
fn as_visitor(page: &str, blocks: &[&Block], last: &str) -> String {
    let mut script = format!("as_visitor {page} <<'TYPED'\n. \"$WORLD/lib.sh\"\n");
    for block in blocks {
        for command in block.commands.iter().filter(|command| not_run(command).is_none()) {
            let word = match command.kind() {
                Kind::Ends => "ends",
                Kind::Serves => "serves",
                Kind::Streams => "streams",
            };
            let quoted = shlex::try_quote(&command.text).expect("a page has no NUL");
            let _ = writeln!(script, "{word} {} {quoted}", command.line);
        }
        script.push_str("stop\n");
    }
    script + last + "TYPED\n"
}

/// A folder for a machine, removed at the end; what is mounted in it ends with the machine.
struct World(PathBuf);

impl World {
    fn new(page: &str) -> Result<Self, String> {
        let name = format!("turnpike-commands-{}-{}", std::process::id(), page.replace('/', "-"));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("machine"))
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(World(folder))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A leftover in the folder for temporary files is no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_commands_under_another_name_is_found() {
        assert!(check_blocks("a.md", "x\n```sh\nls\n```\n").is_err_and(|why| why.starts_with("a.md:2:")));
        assert!(check_blocks("a.md", "```console\n$ ls\n```\n").is_ok());
    }

    #[test]
    fn commands_are_typed_as_printed() {
        let block = Block { commands: vec![PrintedCommand { line: 7, text: "echo 'a  b'".to_owned() }] };
        let script = as_visitor("a.md", &[&block], "");
        let typed = script.lines().find(|line| line.starts_with("ends ")).expect("the command's line");
        assert_eq!(shlex::split(typed).expect("whole quotes"), ["ends", "7", "echo 'a  b'"]);
        assert!(script.ends_with("\nstop\nTYPED\n"), "{script}");
    }
}
