//! The file system of the virtual machine: busybox, a few tools, modules and the tests.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kernel, Programs, sh};

/// Modules that the tests need; what they depend on comes along. Some kernels have them built in.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_net", "vmxnet3", "veth", "bridge", "8021q", "bonding", "macvlan"];
/// Programs that the tests start, instead of busybox's smaller ones.
const TOOLS: &[&str] = &[
    "ip",
    "ethtool",
    "unshare",
    "setpriv",
    // Nothing starts these here, but a lab wants to have them.
    "turnutils_uclient",
    "turnutils_peer",
    "turnutils_stunclient",
];

/// What the machine does. Its last line says how it went.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
ip link set lo up
export CI=true
echo "turnpike-guest: release $(uname -r)"
old_frames= old_cards=
case $(uname -r) in
# The kernel tells what devices can do since Linux 6.3, and vmxnet3 has XDP since 6.6.
6.1.*) old_frames="--skip it_is_heard_when_a_device" old_cards="--skip reach::hardware_that_takes_tags_off" ;;
esac
/frames --ignored --skip bench_ $old_frames
veth=$?
export TURNPIKE_BIN=/turnpike TURNPIKE_CARDS="eth0,eth1 eth2,eth3" TURNPIKE_TAKES_TAGS_OFF="eth5,eth4"
/offload --ignored --nocapture --test-threads 1 $old_cards reach::
cards=$?
while [ ! -e /sys/class/net/eth0 ] || [ ! -e /sys/class/net/eth1 ]; do sleep 1; done
export TURNPIKE_INSIDE_NAMESPACE=1 TURNPIKE_WIRE="eth0 eth1"
/frames --ignored --exact --nocapture wire::every_fixture_is_treated_as_written_on_a_real_wire
virtio=$?
echo "turnpike-guest: ended with $veth $cards $virtio"
poweroff -f
"#;

/// Builds the initial file system and returns its file.
pub fn make(kernel: &Kernel, programs: &Programs) -> Result<PathBuf, String> {
    let root = kernel.folder.join("initrd");
    let _ = fs::remove_dir_all(&root);
    for folder in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp", "usr/sbin"] {
        make_folder(&root.join(folder))?;
    }
    copy(&find_program("busybox")?, &root.join("bin/busybox"))?;
    for tool in TOOLS {
        let program = find_program(tool)?;
        copy(&program, &root.join("usr/sbin").join(tool))?;
        copy_libraries(&program, &root)?;
    }
    let Programs { frames, offload, relay } = programs;
    for (program, name) in [(frames, "frames"), (offload, "offload"), (relay, "turnpike")] {
        copy(program, &root.join(name))?;
        copy_libraries(program, &root)?;
    }
    for (place, module) in modules(kernel)?.iter().enumerate() {
        let name = module.file_stem().unwrap_or_default().to_string_lossy().replace(".ko", "");
        fs::write(root.join(format!("modules/{place:02}-{name}.ko")), read_module(module)?)
            .map_err(|error| format!("cannot write {name}: {error}"))?;
    }
    write_program(&root.join("init"), INIT)?;
    sh(&root, "sh", &["-c", "find . | cpio --quiet --create --format=newc > ../initrd.cpio"])?;
    Ok(kernel.folder.join("initrd.cpio"))
}

/// The modules' files, each after those that it depends on.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>, String> {
    let mut files = HashMap::new();
    collect(&kernel.modules, &mut files)?;
    let mut ordered = Vec::new();
    for module in MODULES {
        add(module, &files, &mut ordered)?;
    }
    Ok(ordered)
}

fn collect(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<(), String> {
    let entries =
        fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add(module: &str, files: &HashMap<String, PathBuf>, ordered: &mut Vec<PathBuf>) -> Result<(), String> {
    // Built in, if there is no file.
    let Some(file) = files.get(module).filter(|file| !ordered.contains(file)) else { return Ok(()) };
    for needed in dependencies(&read_module(file)?) {
        add(&needed, files, ordered)?;
    }
    ordered.push(file.clone());
    Ok(())
}

/// A module's own list of what it depends on.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(list);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn read_module(file: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", file.display());
    if file.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").args(["-dc"]).arg(file).output().map_err(|error| failed(&error))?;
        return if output.status.success() { Ok(output.stdout) } else { Err(failed(&output.status)) };
    }
    fs::read(file).map_err(|error| failed(&error))
}

/// The shared libraries of a program, at the same places.
fn copy_libraries(program: &Path, root: &Path) -> Result<(), String> {
    let output =
        Command::new("ldd").arg(program).output().map_err(|error| format!("cannot start ldd: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries {
        let place = root.join(library.trim_start_matches('/'));
        if !place.exists() {
            make_folder(place.parent().unwrap_or(root))?;
            copy(Path::new(library), &place)?;
        }
    }
    Ok(())
}

fn find_program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("there is no {name}"))
}

fn make_folder(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|error| format!("cannot copy {}: {error}", from.display()))
}

fn write_program(file: &Path, text: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(file, text)
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o755)))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_depends_on() {
        let module = b"\x7fELF\0license=GPL\0depends=net_failover,virtio-ring\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["net_failover", "virtio_ring"]);
        assert!(dependencies(b"\0depends=\0").is_empty() && dependencies(b"").is_empty());
    }
}
