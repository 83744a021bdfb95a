//! What a configuration needs of this machine, beyond its text: looked at before every start, and by
//! `check-config`, which so says ok to nothing that a start would refuse.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use super::options::Config;
use super::report::{Problem, Report};
use super::settings::Settings;
use super::strength::exposure;
use crate::tls::certificate::{Certificate, Files, unix_secs};

/// Open files that a relay needs beside its relayed addresses: listeners, connections of the administration,
/// the kernel's data path, logs and databases.
const OTHER_FILES: usize = 512;
/// How every SQLite database begins.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";

/// Adds what would keep the relay from starting here, or from doing what is configured.
pub(super) fn check(config: &Config, settings: &Settings, report: &mut Report) {
    check_certificates(config, settings, report);
    check_database(config, settings, report);
    check_open_files(config, settings, report);
}

/// Adds where a start would find an address that is in use or not there (yet). Not for a start itself, which
/// finds out, and waits where that helps.
pub(super) fn check_addresses(config: &Config, settings: &Settings, report: &mut Report) {
    let mut look = |key, index, address: &dyn Display, bound: io::Result<()>| {
        if let Err(error) = bound {
            let message = format!("\"{address}\": {}", why_not(&error));
            report.warn(Problem::new(settings.place(key, index), key, message));
        }
    };
    for (index, listen) in config.listen.iter().enumerate() {
        look("listen", index, listen, UdpSocket::bind(listen).map(drop));
    }
    for (index, ip) in config.relay_address.iter().enumerate() {
        look("relay-address", index, ip, UdpSocket::bind((*ip, 0)).map(drop));
    }
    for (key, list) in [("listen-tcp", &config.listen_tcp), ("listen-tls", &config.listen_tls)] {
        for (index, listen) in list.iter().enumerate() {
            look(key, index, listen, TcpListener::bind(listen).map(drop));
        }
    }
    if let Some(admin) = config.admin {
        look("admin", 0, &admin, TcpListener::bind(admin).map(drop));
    }
}

fn why_not(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            "is in use now: by this relay, if it runs already, or by another program".to_owned()
        }
        ErrorKind::AddrNotAvailable => "is not an address of this host now: run waits for it".to_owned(),
        ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE, or root".to_owned(),
        _ => format!("can't be used here now: {error}"),
    }
}

/// Whatever is shown to anybody: each file is read.
fn check_certificates(config: &Config, settings: &Settings, report: &mut Report) {
    let mut pairs: Vec<_> = (config.tls_cert.iter().zip(&config.tls_key).enumerate())
        .map(|(index, (cert, key))| ("tls-cert", "tls-key", index, cert, key))
        .collect();
    if let (Some(_), Some(cert), Some(key)) = (config.admin, &config.admin_tls_cert, &config.admin_tls_key) {
        pairs.push(("admin-tls-cert", "admin-tls-key", 0, cert, key));
    }
    for (cert_option, key_option, index, cert, key) in pairs {
        let problem = |why: String| Problem::new(settings.place(cert_option, index), cert_option, why);
        match Certificate::read(&Files { cert: cert.clone(), key: key.clone() }) {
            Ok(certificate) => {
                let message = |why| format!("{:?}: the certificate {why}", cert.display());
                let warnings = certificate.warnings(unix_secs());
                warnings.into_iter().for_each(|why| report.warn(problem(message(why))));
            }
            Err(why) => report.fault(problem(why.to_string())),
        }
        if let Some(why) = exposure(key) {
            let message = format!("{:?}: {why}", key.display());
            report.warn(Problem::new(settings.place(key_option, index), key_option, message));
        }
    }
}

fn check_database(config: &Config, settings: &Settings, report: &mut Report) {
    const KEY: &str = "user-database";
    let Some(path) = &config.user_database else { return };
    if let Some(why) = database_fault(path) {
        let message = format!("{:?}: {why}", path.display());
        report.fault(Problem::new(settings.place(KEY, 0), KEY, message));
    }
}

/// Why a file can't become, or is no database. SQLite writes files beside it, so its folder counts, too.
fn database_fault(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Some(format!("there is no folder {:?}", folder.display()));
    }
    if let Err(error) = access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(format!("no file can be written in {:?}: {}", folder.display(), io::Error::from(error)));
    }
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return Some(error.to_string()),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return Some("is not a regular file".to_owned());
    }
    let mut start = Vec::new();
    match File::open(path).and_then(|file| file.take(SQLITE.len() as u64).read_to_end(&mut start)) {
        Err(error) => Some(error.to_string()),
        Ok(0) => None,
        Ok(_) if start == SQLITE => None,
        Ok(_) => Some("is no SQLite database".to_owned()),
    }
}

/// Each relayed address is an open file; the start raises the soft limit to the hard one.
fn check_open_files(config: &Config, settings: &Settings, report: &mut Report) {
    let Some(limit) = getrlimit(Resource::Nofile).maximum else { return };
    let ports = config.port_range.count() * config.relay_address.len().max(1);
    let allocations = config.total_quota.map_or(ports, |quota| ports.min(quota.get() as usize));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit < allocations.saturating_add(OTHER_FILES) {
        let message = format!(
            "{allocations} relayed addresses need as many open files, and {OTHER_FILES} for the rest, but the limit \
             is {limit}: raise it (LimitNOFILE= of the unit, ulimit -Hn), or set a total-quota"
        );
        report.warn(Problem::new(settings.place("port-range", 0), "port-range", message));
    }
}
