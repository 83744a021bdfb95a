//! Which certificates are in force, and what became of the last reading of their files.
//!
//! Reading may take its time, so it is apart: [`read`] on a thread that may hang, then [`Store::prepare`], which
//! decides, then [`Store::put`]. Where a file can't be used any more, what it gave before stays in force.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::certificate::{Certificate, Files, Unusable, unix_secs};

/// Whom a certificate is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Clients over TLS.
    Clients,
    /// Clients of the administration.
    Admin,
}

/// A certificate that is wanted, and what its files have given.
pub type Found = (Audience, Files, Result<Certificate, Unusable>);

/// Reads what is wanted, one after another; `note` is told of each file before it is read.
pub fn read(wanted: Vec<(Audience, Files)>, note: impl Fn(&Path)) -> Vec<Found> {
    let read = |(audience, files): (Audience, Files)| {
        note(&files.cert);
        let certificate = Certificate::read(&files);
        (audience, files, certificate)
    };
    wanted.into_iter().map(read).collect()
}

/// One certificate in force.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who sees it.
    pub audience: Audience,
    /// Where it comes from.
    pub files: Files,
    /// What they gave last that could be used.
    pub certificate: Arc<Certificate>,
    /// When they did, seconds since 1970.
    pub loaded_unix_secs: i64,
    /// Why they, as they are now, are not in force.
    pub fault: Option<String>,
}

/// What comes of a reading.
#[derive(Debug)]
pub struct Prepared {
    entries: Vec<Entry>,
    /// What changes.
    pub changes: Vec<Entry>,
    /// Files that can't be used, and whether that is news.
    pub faults: Vec<(String, bool)>,
}

impl Prepared {
    /// What clients over TLS are to see, if that changes.
    pub fn changed_for_clients(&self) -> Option<Vec<Arc<Certificate>>> {
        let is_theirs = |entry: &&Entry| entry.audience == Audience::Clients;
        self.changes.iter().find(is_theirs)?;
        let theirs = self.entries.iter().filter(is_theirs);
        Some(theirs.map(|entry| Arc::clone(&entry.certificate)).collect())
    }
}

/// All certificates in force, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Store(Mutex<Vec<Entry>>);

impl Store {
    /// Decides what a reading changes. Nothing is in force yet.
    ///
    /// # Errors
    /// If files can't be used that never were: there is nothing to fall back on.
    pub fn prepare(&self, found: Vec<Found>) -> Result<Prepared, Unusable> {
        let (old, loaded_unix_secs) = (self.entries(), unix_secs());
        let mut prepared = Prepared { entries: Vec::new(), changes: Vec::new(), faults: Vec::new() };
        for (audience, files, certificate) in found {
            let before = old.iter().find(|entry| entry.audience == audience && entry.files == files);
            let entry = match (certificate, before) {
                (Ok(certificate), Some(before)) if before.certificate.is_same(&certificate) => {
                    Entry { loaded_unix_secs, fault: None, ..before.clone() }
                }
                (Ok(certificate), _) => {
                    let certificate = Arc::new(certificate);
                    let entry = Entry { audience, files, certificate, loaded_unix_secs, fault: None };
                    prepared.changes.push(entry.clone());
                    entry
                }
                (Err(why), Some(before)) => {
                    let why = why.to_string();
                    let is_news = before.fault.as_ref() != Some(&why);
                    prepared.faults.push((why.clone(), is_news));
                    Entry { fault: Some(why), ..before.clone() }
                }
                (Err(why), None) => return Err(why),
            };
            prepared.entries.push(entry);
        }
        Ok(prepared)
    }

    /// Puts it in force.
    pub fn put(&self, prepared: Prepared) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = prepared.entries;
    }

    /// What clients over TLS see.
    pub fn for_clients(&self) -> Vec<Arc<Certificate>> {
        let entries = self.entries().into_iter();
        entries.filter(|entry| entry.audience == Audience::Clients).map(|entry| entry.certificate).collect()
    }

    /// What is in force.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{Folder, made_for};
    use super::*;

    fn reading(files: &[&Files]) -> Vec<Found> {
        read(files.iter().map(|&files| (Audience::Admin, files.clone())).collect(), |_| ())
    }

    #[test]
    fn what_can_be_used_takes_the_place_of_what_was_and_nothing_else_does() {
        let (folder, store) = (Folder::new(), Store::default());
        let names = || {
            let entries = store.entries();
            entries.iter().map(|entry| entry.certificate.names.join(" ")).collect::<Vec<_>>()
        };
        let one = folder.write("one", &made_for(&["old.example"], 0..90));
        let two = folder.write("two", &made_for(&["two.example"], 0..90));
        let prepared = store.prepare(reading(&[&one, &two])).expect("both can be used");
        assert_eq!(prepared.changes.len(), 2);
        assert!(store.entries().is_empty(), "nothing is in force before it is put");
        store.put(prepared);
        assert_eq!(names(), ["old.example", "two.example"]);

        let prepared = store.prepare(reading(&[&one, &two])).expect("both can be used");
        assert!(prepared.changes.is_empty() && prepared.faults.is_empty(), "nothing is new: {prepared:?}");

        folder.write("one", &made_for(&["new.example"], 0..90));
        fs::write(&two.cert, "nonsense").unwrap();
        let prepared = store.prepare(reading(&[&one, &two])).expect("there is something to fall back on");
        assert_eq!(prepared.changes.len(), 1);
        let [(why, true)] = &prepared.faults[..] else { panic!("{prepared:?}") };
        assert!(why.contains("two-cert.pem: there is no certificate"), "{why}");
        store.put(prepared);
        assert_eq!(names(), ["new.example", "two.example"], "one broken file keeps no other back");
        assert!(store.entries()[1].fault.is_some() && store.entries()[0].fault.is_none());

        let prepared = store.prepare(reading(&[&two])).expect("there is something to fall back on");
        assert!(matches!(&prepared.faults[..], [(_, false)]), "it was said before");
        folder.write("two", &made_for(&["three.example"], 0..90));
        store.put(store.prepare(reading(&[&two])).expect("it is mended"));
        assert_eq!(names(), ["three.example"], "what is not wanted any more is gone");
        assert!(store.entries()[0].fault.is_none());
    }

    #[test]
    fn without_anything_to_fall_back_on_a_fault_is_an_error() {
        let (folder, store) = (Folder::new(), Store::default());
        let files = folder.write("one", &made_for(&["one.example"], 0..90));
        let missing = Files { key: folder.path().join("missing"), ..files.clone() };
        let error = store.prepare(reading(&[&files, &missing])).expect_err("there is no key").to_string();
        assert!(error.contains("missing: No such file"), "{error}");
        assert!(store.entries().is_empty());
    }
}
