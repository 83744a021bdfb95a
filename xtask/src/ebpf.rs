//! `cargo xtask ebpf`: builds the eBPF objects, and checks that the committed ones are what the sources say.
//!
//! The relay is built with a stable toolchain and nothing else, so the compiled objects are committed,
//! with a stamp that names their sources and their toolchain:
//!
//! ```text
//!   sources or objects differ from the stamp ───► fault: run `cargo xtask ebpf`
//!   they agree ────┬─ no toolchain here ────────► good, as far as can be told
//!                  ├─ the stamp's toolchain ────► rebuild, compare the bytes
//!                  └─ another toolchain ────────► rebuild, run the frame tests over the result
//! ```

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::step::Counts;

/// What an object depends on; folders with everything in them.
const SOURCES: &[&str] =
    &["ebpf/abi/Cargo.toml", "ebpf/abi/src", "ebpf/program/Cargo.toml", "ebpf/program/src", "ebpf/build.sh"];
/// The packages that are compiled into it, in the lock.
const LOCKED: &str = "aya-ebpf";
const OBJECTS: &[&str] = &["turnpike.o", "pinning.o", "bench.o", "traffic.o"];
const COMMITTED: &str = "ebpf/object";
const REBUILT: &str = "target/bpf/check";
const STAMP: &str = "ebpf/object/stamp";

/// Cargo's arguments for the frame tests: the object in the kernel, without the benchmark among them.
pub const FRAME_TESTS: &[&str] =
    &["test", "--workspace", "--test", "frames", "--locked", "--", "--ignored", "--skip", "bench_"];

/// What objects were built from and with.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    /// Hash of the sources, hexadecimal.
    sources: String,
    /// Hash of what came out, hexadecimal: an object that was changed alone shows everywhere.
    objects: String,
    /// Versions of compiler and linker.
    toolchain: String,
}

impl Stamp {
    fn text(&self) -> String {
        format!("sources {}\nobjects {}\ntoolchain {}\n", self.sources, self.objects, self.toolchain)
    }

    fn parse(text: &str) -> Option<Stamp> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        Some(Stamp {
            sources: value("sources ")?,
            objects: value("objects ")?,
            toolchain: value("toolchain ")?,
        })
    }
}

/// Builds the objects into the tree and stamps them.
///
/// # Errors
/// When the toolchain is missing or the build fails.
pub fn build(root: &Path) -> Result<(), String> {
    let toolchain =
        toolchain().ok_or("the eBPF toolchain is missing: ebpf/README.md says what to install")?;
    build_into(root, COMMITTED)?;
    let stamp = Stamp { sources: hash_sources(root)?, objects: hash_objects(root)?, toolchain };
    fs::write(root.join(STAMP), stamp.text()).map_err(|error| format!("cannot write {STAMP}: {error}"))?;
    println!("ebpf: built {COMMITTED} with {}", stamp.toolchain);
    Ok(())
}

/// Checks the committed objects as far as this machine allows.
///
/// # Errors
/// When they are not what the sources say.
pub fn check(root: &Path, counts: &mut Counts) -> Result<(), String> {
    let stamp = read_stamp(root)?;
    check_stamp(root, &stamp)?;
    let Some(present) = toolchain() else {
        let why = "the eBPF objects are not rebuilt, there is no toolchain (ebpf/README.md); they and their \
                   sources are those of the stamp";
        // Not an error anywhere: it needs a nightly's features and LLVM, which nothing else here does.
        println!("SKIPPED: {why}");
        counts.skipped += 1;
        return Ok(());
    };
    build_into(root, REBUILT)?;
    if present == stamp.toolchain {
        return compare_bytes(root);
    }
    println!("ebpf: built with {present} instead of {}: testing that object", stamp.toolchain);
    test_rebuilt(root)
}

fn read_stamp(root: &Path) -> Result<Stamp, String> {
    let text =
        fs::read_to_string(root.join(STAMP)).map_err(|error| format!("cannot read {STAMP}: {error}"))?;
    Stamp::parse(&text).ok_or_else(|| format!("{STAMP} is not a stamp"))
}

fn check_stamp(root: &Path, stamp: &Stamp) -> Result<(), String> {
    if hash_sources(root)? != stamp.sources {
        return Err(
            "the committed eBPF objects are not built from these sources: run `cargo xtask ebpf`".into()
        );
    }
    if hash_objects(root)? != stamp.objects {
        return Err(format!("{COMMITTED} has other objects than its stamp: run `cargo xtask ebpf`"));
    }
    Ok(())
}

fn compare_bytes(root: &Path) -> Result<(), String> {
    for object in OBJECTS {
        let read = |folder: &str| {
            let path = root.join(folder).join(object);
            fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        if read(COMMITTED)? != read(REBUILT)? {
            return Err(format!(
                "{COMMITTED}/{object} is not what its sources give with the same toolchain: run `cargo xtask ebpf`"
            ));
        }
    }
    println!("ebpf: the committed objects are what their sources give, byte for byte");
    Ok(())
}

fn test_rebuilt(root: &Path) -> Result<(), String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command
        .args(FRAME_TESTS)
        .env("TURNPIKE_EBPF_OBJECT", root.join(REBUILT).join(OBJECTS[0]))
        .current_dir(root);
    run(&mut command, "the frame tests over the rebuilt object")
}

fn build_into(root: &Path, folder: &str) -> Result<(), String> {
    let mut command = Command::new(root.join("ebpf/build.sh"));
    // Cargo's settings for this very process must not reach the build of another target.
    command.arg(folder).env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    run(command.current_dir(root), "ebpf/build.sh")
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot start {what}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what} ended with {status}")) }
}

/// Versions of the compiler and the linker that `ebpf/build.sh` takes, if both are there.
fn toolchain() -> Option<String> {
    let rustc = std::env::var("TURNPIKE_BPF_RUSTC").unwrap_or("/usr/bin/rustc".to_owned());
    let linker = std::env::var("TURNPIKE_BPF_LINKER").unwrap_or("bpf-linker".to_owned());
    let version = |program: &str| {
        let output =
            Command::new(program).arg("--version").output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
    };
    Some(format!("{}; {}", version(&rustc)?, version(&linker)?))
}

/// Hash over names and contents of all sources, in the order of their names, and the runtime's version.
fn hash_sources(root: &Path) -> Result<String, String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files).map_err(|error| format!("cannot read {source}: {error}"))?;
    }
    files.sort();
    let mut hash = hash_files(root, &files)?;
    let lock = fs::read_to_string(root.join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    hash.update(locked_versions(&lock));
    Ok(hexadecimal(hash))
}

fn hash_objects(root: &Path) -> Result<String, String> {
    let files: Vec<PathBuf> = OBJECTS.iter().map(|object| root.join(COMMITTED).join(object)).collect();
    hash_files(root, &files).map(hexadecimal)
}

fn hash_files(root: &Path, files: &[PathBuf]) -> Result<Sha256, String> {
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(file);
        let content = fs::read(file).map_err(|error| format!("cannot read {}: {error}", name.display()))?;
        hash.update(name.to_string_lossy().as_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hash)
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Everything of a folder, or the file itself; not the tests, which are in no object.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else if !path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_tests")) {
        files.push(path.to_owned());
    }
    Ok(())
}

/// Names and versions of the packages in the lock whose name begins with [`LOCKED`].
fn locked_versions(lock: &str) -> String {
    let mut versions = String::new();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        if line.starts_with(&format!("name = \"{LOCKED}")) {
            versions.push_str(line);
            versions.push_str(lines.next().unwrap_or_default());
        }
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
    }

    #[test]
    fn the_committed_objects_are_built_from_these_sources() {
        check_stamp(root(), &read_stamp(root()).unwrap()).unwrap();
    }

    #[test]
    fn other_sources_and_other_objects_are_noticed() {
        let stamp = read_stamp(root()).unwrap();
        let stale = Stamp { sources: "00ff".to_owned(), ..read_stamp(root()).unwrap() };
        assert!(check_stamp(root(), &stale).unwrap_err().contains("these sources"));
        let touched = Stamp { objects: "00ff".to_owned(), ..stamp };
        assert!(check_stamp(root(), &touched).unwrap_err().contains("other objects"));
    }

    #[test]
    fn a_stamp_survives_being_written() {
        let (sources, objects) = ("00ff".to_owned(), "ff00".to_owned());
        let stamp = Stamp { sources, objects, toolchain: "rustc 1 (x); bpf-linker 2".to_owned() };
        assert_eq!(Stamp::parse(&stamp.text()), Some(stamp));
        assert_eq!(Stamp::parse("sources 00ff\n"), None);
    }

    #[test]
    fn other_versions_of_the_runtime_are_noticed() {
        let lock = "[[package]]\nname = \"aya\"\nversion = \"1\"\n\n[[package]]\nname = \"aya-ebpf\"\nversion = \"2\"\n";
        assert_eq!(locked_versions(lock), "name = \"aya-ebpf\"version = \"2\"");
    }
}
