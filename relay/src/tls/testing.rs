//! Certificates for tests.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm, date_time_ymd};

use super::certificate::{Files, unix_secs};

/// Certificate and key as PEM.
pub(crate) struct Made {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// A certificate of nobody's but its own for these names, valid for these days from now on.
pub(crate) fn made_for(names: &[&str], days: Range<i64>) -> Made {
    made_with(&PKCS_ECDSA_P256_SHA256, names, days)
}

/// The same, with a key of another kind.
pub(crate) fn made_with(kind: &'static SignatureAlgorithm, names: &[&str], days: Range<i64>) -> Made {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    let (begin, end) = (unix_secs() + days.start * 86_400, unix_secs() + days.end * 86_400);
    let at = |secs: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(secs.unsigned_abs());
    (params.not_before, params.not_after) = (at(begin), at(end));
    let key = KeyPair::generate_for(kind).expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    Made { cert: cert.pem(), key: key.serialize_pem() }
}

/// A folder for certificates.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes both files.
    pub(crate) fn write(&self, name: &str, made: &Made) -> Files {
        let path = |what: &str| self.path().join(format!("{name}-{what}.pem"));
        let files = Files { cert: path("cert"), key: path("key") };
        fs::write(&files.cert, &made.cert).expect("written");
        fs::write(&files.key, &made.key).expect("written");
        files
    }
}
