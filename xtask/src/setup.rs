//! `cargo xtask setup`: what the tests need of the system, installed if it is missing.

use std::path::Path;
use std::process::Command;

use crate::step::command_line;

/// What tests need, and the Debian package that has it.
pub struct Need {
    /// A program on the path, or the whole path of another file.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
}

/// The fonts that the dashboard is tested with: it must fit with any.
pub const FONTS: [&str; 2] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
];

/// pion's libraries in Go, as sources.
const PION: [&str; 2] = [
    "/usr/share/gocode/src/github.com/pion/turn/v2/client.go",
    "/usr/share/gocode/src/github.com/pion/webrtc/peerconnection.go",
];

const NEEDS: &[Need] = &[
    Need { program: "ethtool", package: "ethtool" },
    Need { program: "sysctl", package: "procps" },
    Need { program: "taskset", package: "util-linux" },
    Need { program: "ip", package: "iproute2" },
    Need { program: "python3", package: "python3-venv" },
    Need { program: "setpriv", package: "util-linux" },
    Need { program: "turnutils_uclient", package: "coturn" },
    Need { program: "turnutils_peer", package: "coturn" },
    Need { program: "turnutils_stunclient", package: "coturn" },
    Need { program: "turnserver", package: "coturn" },
    Need { program: "node", package: "nodejs" },
    Need { program: "npm", package: "npm" },
    Need { program: "chromium", package: "chromium" },
    Need { program: "certutil", package: "libnss3-tools" },
    Need { program: "go", package: "golang-go" },
    Need { program: PION[0], package: "golang-github-pion-turn.v2-dev" },
    Need { program: PION[1], package: "golang-github-pion-webrtc.v3-dev" },
    Need { program: "/usr/sbin/haproxy", package: "haproxy" },
    Need { program: "/usr/sbin/nginx", package: "nginx" },
    Need { program: "/usr/lib/nginx/modules/ngx_stream_module.so", package: "libnginx-mod-stream" },
    Need { program: FONTS[0], package: "fonts-dejavu-core" },
    Need { program: FONTS[1], package: "fonts-liberation" },
    Need { program: "prometheus", package: "prometheus" },
    Need { program: "promtool", package: "prometheus" },
    Need { program: "systemd-analyze", package: "systemd" },
    Need { program: "sudo", package: "sudo" },
    Need { program: "nft", package: "nftables" },
    Need { program: "useradd", package: "passwd" },
    Need { program: "openssl", package: "openssl" },
    Need { program: "curl", package: "curl" },
    Need { program: "jq", package: "jq" },
];

/// Installs what the tests of the CI need.
///
/// # Errors
/// When packages are missing and can't be installed: the message names them.
pub fn run() -> Result<(), String> {
    install(NEEDS)
}

/// Installs what is missing; does nothing, and needs no rights, if nothing is.
///
/// # Errors
/// When packages are missing and can't be installed: the message names them.
pub fn install(needs: &[Need]) -> Result<(), String> {
    let missing = missing_packages(needs, is_installed);
    if missing.is_empty() {
        println!("setup: everything that the tests need is installed");
        return Ok(());
    }
    if !is_installed("apt-get") {
        return Err(format!("please install {}: there is no apt-get here", missing.join(", ")));
    }
    println!("setup: installing the packages {}", missing.join(", "));
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    apt_get(&arguments)?;
    match missing_packages(needs, is_installed) {
        still if still.is_empty() => Ok(()),
        still => Err(format!("{} installed, yet a program of it is not on the path", still.join(", "))),
    }
}

fn missing_packages(needs: &[Need], has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        needs.iter().filter(|need| !has(need.program)).map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Whether a program is on the path, or where Debian puts system programs; of a whole path, whether it is a file.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    };
    let shown = command_line("apt-get", arguments);
    println!("setup: {shown}");
    let status = command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot run {shown}: {error} (run this as root, or install sudo)"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}

/// The effective user, from /proc: no library needed for one number.
pub fn is_root() -> bool {
    std::fs::read_to_string(Path::new("/proc/self/status"))
        .is_ok_and(|status| effective_user(&status) == Some("0"))
}

fn effective_user(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_with_several_missing_programs_is_named_once() {
        assert_eq!(missing_packages(NEEDS, |program| program != "ip"), ["iproute2"]);
        assert_eq!(missing_packages(NEEDS, |program| !program.starts_with("turn")), ["coturn"]);
        assert!(missing_packages(NEEDS, |_| true).is_empty());
    }

    #[test]
    fn the_effective_user_is_the_second_number() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t1000\t1000\n"), Some("0"));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }
}
