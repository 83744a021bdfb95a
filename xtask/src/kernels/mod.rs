//! `cargo xtask kernels`: the eBPF objects in other kernels, and on a driver that isn't veth.
//!
//! For each of Debian's kernels a virtual machine starts with nothing in it but the frame tests, the relay, and those of
//! its tests that need network cards. Its cards are connected to each other inside of the emulator: no interface of this
//! machine has a part in it.
//!
//! ```text
//!   package ─► image ────────────────┐
//!           └► modules ───┐          ├─► QEMU: all frame tests, the tables on virtio_net, VLANs and bonds
//!   tests, relay, tools ──┴► initrd ─┘
//! ```

mod guest;
mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::{self, Need};
use crate::step::{Counts, command_line, skip};
use crate::target_folder;

/// Packages that always depend on the newest kernel of a series.
const SERIES: &[&str] = &["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];

/// Programs on this side, and those that the tests start on the other.
const NEEDS: &[Need] = &[
    Need { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Need { program: "busybox", package: "busybox-static" },
    Need { program: "cpio", package: "cpio" },
    Need { program: "xz", package: "xz-utils" },
    Need { program: "ip", package: "iproute2" },
    Need { program: "ethtool", package: "ethtool" },
    Need { program: "unshare", package: "util-linux" },
    Need { program: "turnutils_uclient", package: "coturn" },
];

/// Runs the tests in each kernel that can be had, and prints a table.
///
/// # Errors
/// When a test fails in one of them, or none can be had.
pub fn run(root: &Path) -> Result<(), String> {
    setup::install(NEEDS)?;
    let folder = target_folder(root).join("kernels");
    fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let programs = build_programs(root)?;
    let mut table = Vec::new();
    for series in SERIES {
        let Some(package) = newest(series)? else {
            skip(&format!("Debian's sources here have no {series}"), &mut Counts::default())?;
            continue;
        };
        println!("\n== {package}");
        let kernel = unpack(&folder, &package)?;
        let initrd = image::make(&kernel, &programs)?;
        table.push((package, guest::run(&kernel.image, &initrd)?));
    }
    println!("\n{:<24} {:<7} tests", "kernel", "result");
    for (_, outcome) in &table {
        println!("{:<24} {:<7} {}", outcome.release, if outcome.ok { "ok" } else { "FAILED" }, outcome.tests);
    }
    match table.iter().filter(|(_, outcome)| !outcome.ok).count() {
        _ if table.is_empty() => Err("no kernel to test in".to_owned()),
        0 => Ok(()),
        failed => Err(format!("{failed} of {} kernels failed", table.len())),
    }
}

/// An unpacked kernel package.
pub struct Kernel {
    /// What the machine boots.
    pub image: PathBuf,
    /// Where its modules are.
    pub modules: PathBuf,
    /// For files of ours.
    pub folder: PathBuf,
}

/// Programs of ours that run in the machine.
pub struct Programs {
    /// The frame tests.
    pub frames: PathBuf,
    /// The tests of the kernel data path.
    pub offload: PathBuf,
    /// The relay.
    pub relay: PathBuf,
}

fn build_programs(root: &Path) -> Result<Programs, String> {
    let tests =
        ["test", "--package", "turnpike", "--test", "frames", "--test", "offload", "--locked", "--no-run"];
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(tests)
        .args(["--message-format", "json"])
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err("the tests do not build".to_owned());
    }
    // One line for each artifact; programs that the tests start are among them.
    let text = String::from_utf8_lossy(&output.stdout);
    let executables = text.split("\"executable\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let executables: Vec<&str> = executables.collect();
    let find = |is_it: &dyn Fn(&str) -> bool| {
        let found = executables.iter().find(|path| is_it(path));
        found.map(PathBuf::from).ok_or_else(|| "cargo names no executable of the tests".to_owned())
    };
    Ok(Programs {
        frames: find(&|path| path.contains("/frames-"))?,
        offload: find(&|path| path.contains("/offload-"))?,
        relay: find(&|path| path.ends_with("/turnpike"))?,
    })
}

/// The package that a series depends on, if the sources have it.
fn newest(series: &str) -> Result<Option<String>, String> {
    let output = Command::new("apt-cache")
        .args(["depends", "--important", series])
        .output()
        .map_err(|error| format!("cannot start apt-cache: {error}"))?;
    Ok(dependency(&String::from_utf8_lossy(&output.stdout)).map(str::to_owned))
}

fn dependency(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-").map(|_| line))?
        .split(' ')
        .next_back()
}

/// Downloads and unpacks a kernel, once. Nothing is installed.
fn unpack(folder: &Path, package: &str) -> Result<Kernel, String> {
    let files = folder.join(package);
    if !files.join("boot").is_dir() {
        sh(folder, "apt-get", &["download", package])?;
        let archive = find(folder, |name| name.starts_with(&format!("{package}_")))?;
        sh(folder, "dpkg-deb", &["-x", &archive.to_string_lossy(), package])?;
        let _ = fs::remove_file(archive);
    }
    Ok(Kernel {
        image: find(&files.join("boot"), |name| name.starts_with("vmlinuz"))?,
        modules: files.join("lib/modules"),
        folder: files,
    })
}

fn find(folder: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf, String> {
    let entries =
        fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    entries
        .filter_map(Result::ok)
        .find(|entry| is_it(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .ok_or_else(|| format!("{} lacks a file", folder.display()))
}

/// Runs a program in a folder.
fn sh(folder: &Path, program: &str, arguments: &[&str]) -> Result<(), String> {
    let shown = command_line(program, arguments);
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .status()
        .map_err(|error| format!("cannot start {shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_package_that_the_series_depends_on() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(dependency(text), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency(""), None);
    }
}
