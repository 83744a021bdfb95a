//! `cargo xtask clean-root`: everything in a Debian that has nothing but what `setup` installs.
//!
//! ```text
//!   mmdebstrap ─► ROOT ◄─ git clone of HEAD into ROOT/src
//!   unshare (mounts, processes) ─► chroot ROOT ─► make test
//! ```
//!
//! The toolchain and cargo's downloads are the caller's; packages, programs, fonts and configuration are not.
//! The network is the machine's, for downloads; tests make namespaces of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::{self, Need};

const NEEDS: &[Need] = &[
    Need { program: "mmdebstrap", package: "mmdebstrap" },
    Need { program: "git", package: "git" },
    Need { program: "unshare", package: "util-linux" },
];

/// What README.md asks for, and a repository's tool.
const PACKAGES: &str = "ca-certificates,gcc,git,libc6-dev,make";
/// Where the repository lies in the new root.
const SOURCE: &str = "src";

/// Which root, and what to do in it.
#[derive(clap::Args)]
pub struct Options {
    /// Debian's release
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// Keep the root here, and use it again the next time; without it, it is removed at the end
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,
    /// What to run in the repository there
    #[arg(last = true, default_values = ["make", "test"])]
    command: Vec<String>,
}

/// Makes the root, runs the command in it, removes it.
///
/// # Errors
/// When the root can't be made, or the command fails.
pub fn run(repository: &Path, options: &Options) -> Result<(), String> {
    if !setup::is_root() {
        return Err("only root can make a root file system: use sudo -E".to_owned());
    }
    setup::install(NEEDS)?;
    let kept = options.root.clone();
    let root =
        kept.clone().unwrap_or_else(|| format!("/var/tmp/turnpike-root-{}", std::process::id()).into());
    let done = make(&root, &options.suite)
        .and_then(|()| clone(repository, &root))
        .and_then(|()| run_inside(&root, &options.command));
    if kept.is_none() {
        // Its mounts were those of a namespace that is gone.
        fs::remove_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    }
    done
}

fn make(root: &Path, suite: &str) -> Result<(), String> {
    if root.join("usr/bin/make").exists() {
        return Ok(());
    }
    let include = format!("--include={PACKAGES}");
    run_to_end(Command::new("mmdebstrap").args(["--variant=minbase", &include, suite]).arg(root))
}

/// The commit at hand: what is not committed isn't tested.
fn clone(repository: &Path, root: &Path) -> Result<(), String> {
    let source = root.join(SOURCE);
    if source.join(".git").exists() {
        let git = |arguments: &[&str]| run_to_end(Command::new("git").arg("-C").arg(&source).args(arguments));
        git(&["fetch", "--quiet", "origin", "HEAD"])?;
        return git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]);
    }
    run_to_end(Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(repository).arg(&source))
}

/// Everything that is mounted ends with the namespace.
const ENTER: &str = r#"
# `ip netns exec` wants a root that is a mount.
mount --bind "$ROOT" "$ROOT"
for folder in dev sys; do mount --rbind "/$folder" "$ROOT/$folder"; done
mount -t proc proc "$ROOT/proc"
mount -t tmpfs tmpfs "$ROOT/run"
for path in "$CARGO_HOME" "$RUSTUP_HOME"; do
    mkdir -p "$ROOT$path"
    mount --bind "$path" "$ROOT$path"
done
cp --dereference /etc/resolv.conf "$ROOT/etc/resolv.conf"
# Certificate authorities that the machine's own administrator trusts.
if [ -d /usr/local/share/ca-certificates ]; then
    cp --recursive --dereference /usr/local/share/ca-certificates "$ROOT/usr/local/share/"
    chroot "$ROOT" update-ca-certificates >"$ROOT/tmp/ca.log" 2>&1
fi
exec chroot "$ROOT" env --chdir=/src PATH="$CARGO_HOME/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root LANG=C.UTF-8 "$@"
"#;

fn run_inside(root: &Path, command: &[String]) -> Result<(), String> {
    let home = |name: &str, folder: &str| -> Result<PathBuf, String> {
        let fallback = std::env::home_dir().map(|home| home.join(folder));
        std::env::var_os(name).map(PathBuf::from).or(fallback).ok_or_else(|| format!("{name} is not known"))
    };
    let mut inside = Command::new("unshare");
    inside
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation=private",
            "sh",
            "-euc",
            ENTER,
            "sh",
        ])
        .args(command)
        .env("ROOT", root)
        .env("CARGO_HOME", home("CARGO_HOME", ".cargo")?)
        .env("RUSTUP_HOME", home("RUSTUP_HOME", ".rustup")?)
        .env_remove("CARGO_TARGET_DIR");
    run_to_end(&mut inside)
}

fn run_to_end(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("cannot start {program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}
