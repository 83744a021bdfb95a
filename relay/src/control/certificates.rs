//! Certificates while the relay runs: read again when somebody asks for it, when their files change, and once a
//! minute.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::sign::CertifiedKey;
use tracing::{error, info, warn};
use turnpike_admin::model;

use super::lock::lock;
use super::state::Control;
use crate::config::Config;
use crate::tls::certificate::{Files, unix_secs};
use crate::tls::store::{self, Audience, Entry, Prepared};
use crate::tls::watch::Watch;

/// How often files are looked at without news: not every file system tells of changes.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// How often it is said that a certificate expires.
const WORD_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Follows the files of certificates as long as there is a relay; nothing if it has none.
///
/// # Errors
/// If there can be no thread for it.
pub fn follow_certificates(control: &Arc<Control>) -> io::Result<()> {
    if control.certificates.entries().is_empty() {
        return Ok(());
    }
    let control = Arc::downgrade(control);
    let run = move || {
        let mut words = Words::default();
        loop {
            let Some(there) = control.upgrade() else { return };
            // Watched before they are read: what comes between is not missed.
            let paths = there.certificate_paths();
            let watch = Watch::on(paths.iter().map(PathBuf::as_path));
            there.reload_certificates(&mut words);
            drop(there);
            watch.wait(LOOK_PERIOD);
        }
    };
    thread::Builder::new().name("certificates".to_owned()).spawn(run)?;
    Ok(())
}

/// The certificates that a configuration wants.
pub fn wanted(config: &Config) -> Vec<(Audience, Files)> {
    let clients = config.tls_cert.iter().cloned().zip(config.tls_key.iter().cloned());
    let clients = clients.map(|(cert, key)| (Audience::Clients, Files { cert, key }));
    let admin = config.admin_tls_cert.clone().zip(config.admin_tls_key.clone());
    let admin = admin.filter(|_| config.admin.is_some());
    clients.chain(admin.map(|(cert, key)| (Audience::Admin, Files { cert, key }))).collect()
}

impl Control {
    /// Reads the files that are in use, and puts in force what has changed.
    fn reload_certificates(&self, words: &mut Words) {
        let _reloading = lock(&self.reloading);
        let wanted = wanted(&self.config.load());
        let read = self.loader.in_time(move |loader| store::read(wanted, |path| loader.note(path)));
        let prepared = match read.map(|found| self.certificates.prepare(found)) {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(why)) => return words.say_fault(&why.to_string()),
            Err(stuck) => return words.say_fault(&stuck.to_string()),
        };
        for (why, _) in prepared.faults.iter().filter(|(_, is_news)| *is_news) {
            error!("{why}: the certificate from before stays in force");
        }
        self.put_certificates(prepared);
        words.say_warnings(&self.certificates.entries());
    }

    /// Puts what was read in force, for connections from now on.
    pub(super) fn put_certificates(&self, prepared: Prepared) {
        for entry in &prepared.changes {
            info!(
                file = %entry.files.cert.display(),
                names = entry.certificate.names.join(" "),
                expires_unix_secs = entry.certificate.expires_unix_secs,
                "a new certificate is in force"
            );
            if let (Audience::Admin, Some(admin)) = (entry.audience, self.admin.get()) {
                admin.set_certificate(Arc::clone(&entry.certificate.key));
            }
        }
        if let (Some(tls), Some(certificates)) = (&self.tls, prepared.changed_for_clients()) {
            tls.set(certificates);
        }
        self.certificates.put(prepared);
    }

    /// The administration's, if it has one.
    pub fn admin_certificate(&self) -> Option<Arc<CertifiedKey>> {
        let mut entries = self.certificates.entries().into_iter();
        entries
            .find(|entry| entry.audience == Audience::Admin)
            .map(|entry| Arc::clone(&entry.certificate.key))
    }

    /// What clients over TLS may call this relay.
    pub(super) fn certificate_names(&self) -> Vec<String> {
        self.certificates.for_clients().iter().flat_map(|certificate| certificate.names.clone()).collect()
    }

    fn certificate_paths(&self) -> Vec<PathBuf> {
        let entries = self.certificates.entries();
        entries.into_iter().flat_map(|entry| [entry.files.cert, entry.files.key]).collect()
    }

    /// What is in force, as the API shows it.
    pub(super) fn shown_certificates(&self) -> Vec<model::Certificate> {
        let show = |entry: Entry| model::Certificate {
            audience: match entry.audience {
                Audience::Clients => model::CertificateAudience::Clients,
                Audience::Admin => model::CertificateAudience::Admin,
            },
            cert_file: entry.files.cert.display().to_string(),
            key_file: entry.files.key.display().to_string(),
            names: entry.certificate.names.clone(),
            expires_unix_secs: entry.certificate.expires_unix_secs,
            loaded_unix_secs: entry.loaded_unix_secs,
            fault: entry.fault,
        };
        self.certificates.entries().into_iter().map(show).collect()
    }
}

/// What was said, so that it is not said each minute.
#[derive(Default)]
struct Words {
    fault: String,
    warned: HashMap<String, Instant>,
}

impl Words {
    fn say_fault(&mut self, why: &str) {
        if self.fault != why {
            error!("certificates were not read: {why}");
            self.fault = why.to_owned();
        }
    }

    fn say_warnings(&mut self, entries: &[Entry]) {
        self.fault.clear();
        self.warned.retain(|_, said| said.elapsed() < WORD_PERIOD);
        for entry in entries {
            let file = entry.files.cert.display().to_string();
            let warnings = entry.certificate.warnings(unix_secs());
            if !warnings.is_empty() && !self.warned.contains_key(&file) {
                warn!("{file}: the certificate {}", warnings.join("; "));
                self.warned.insert(file, Instant::now());
            }
        }
    }
}
