//! A certificate with its key: whether they can be used, for which names, and how long.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::InconsistentKeys;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use turnpike_admin::files;
use turnpike_admin::limits::MAX_TLS_FILE_BYTES;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// From when on it is said that a certificate expires, or from the last quarter of a shorter life on: whoever
/// renews in time does it before.
const SOON_SECS: i64 = 7 * DAY_SECS;
const DAY_SECS: i64 = 86_400;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Files {
    /// The chain (PEM), the server's own certificate first.
    pub cert: PathBuf,
    /// The private key (PEM): PKCS #8, PKCS #1 or SEC 1. It may be the same file.
    pub key: PathBuf,
}

/// Why a certificate can't be used. Each text names the file.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A file can't be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// A file is no PEM.
    #[error("{}: {why}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{}: there is no certificate (PEM) in it", .0.display())]
    NoCertificate(PathBuf),
    /// There is no key in the file.
    #[error("{}: there is no private key (PEM) in it", .0.display())]
    NoKey(PathBuf),
    /// Nobody is there to type a passphrase.
    #[error(
        "{}: the key is encrypted, and nobody is there to type its passphrase: `openssl pkey` writes it without",
        .0.display()
    )]
    EncryptedKey(PathBuf),
    /// A certificate that isn't one, or of a kind that nobody uses.
    #[error("{}: the certificate can't be used: {why}", path.display())]
    Certificate {
        /// Its file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A key of an unknown kind.
    #[error("{}: the key can't be used: {why}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why not.
        why: rustls::Error,
    },
    /// Two halves of different pairs.
    #[error(
        "{}: is not the key of the first certificate in {}", .0.key.display(), .0.cert.display()
    )]
    Mismatch(Files),
}

/// A certificate that can be used, and what is to be known of it.
pub struct Certificate {
    /// Chain and key, as rustls wants them.
    pub key: Arc<CertifiedKey>,
    /// Names and addresses that it is for (subjectAltName), lower case, perhaps `*.` and a domain.
    pub names: Vec<String>,
    /// From when on it is valid, seconds since 1970.
    pub begins_unix_secs: i64,
    /// Until when it is valid, seconds since 1970.
    pub expires_unix_secs: i64,
}

impl Certificate {
    /// Reads both files; they may take their time.
    ///
    /// # Errors
    /// If they can't be read, or don't make a certificate with its key.
    pub fn read(files: &Files) -> Result<Self, Unusable> {
        let (cert, key) = (read_file(&files.cert)?, read_file(&files.key)?);
        let chain = CertificateDer::pem_slice_iter(&cert).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|why| Unusable::Pem { path: files.cert.clone(), why })?;
        let first = chain.first().ok_or_else(|| Unusable::NoCertificate(files.cert.clone()))?;
        let unusable = |why: String| Unusable::Certificate { path: files.cert.clone(), why };
        let (_, parsed) = X509Certificate::from_der(first).map_err(|why| unusable(why.to_string()))?;
        let (names, validity) = (names_of(&parsed).map_err(unusable)?, parsed.validity());
        let (begins, expires) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let key = private_key(&key, &files.key)?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider());
        Ok(Certificate {
            key: Arc::new(key.map_err(|why| unfit(why, files))?),
            names,
            begins_unix_secs: begins,
            expires_unix_secs: expires,
        })
    }

    /// Whether it says exactly this name, in lower case.
    pub fn names_exactly(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// Whether a wildcard of it covers this name: one label, the first (RFC 6125 s. 6.4.3).
    pub fn covers_by_wildcard(&self, name: &str) -> bool {
        let Some((_, domain)) = name.split_once('.') else { return false };
        self.names.iter().any(|own| own.strip_prefix("*.") == Some(domain))
    }

    /// What its clients won't like, or soon won't.
    pub fn warnings(&self, now_unix_secs: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        let days = |secs: i64| secs / DAY_SECS;
        let (left, ahead) = (self.expires_unix_secs - now_unix_secs, self.begins_unix_secs - now_unix_secs);
        if left < 0 {
            warnings.push(format!("expired {} days ago: clients refuse it", days(-left)));
        } else if left < SOON_SECS.min((self.expires_unix_secs - self.begins_unix_secs) / 4) {
            warnings.push(format!("expires in {} days", days(left)));
        }
        if ahead > 0 {
            warnings.push(format!("is not valid before {ahead} s from now: clients refuse it"));
        }
        if self.names.is_empty() {
            warnings.push("names no host (subjectAltName): clients refuse it".to_owned());
        }
        warnings
    }

    /// Whether another one is the same.
    pub fn is_same(&self, other: &Certificate) -> bool {
        // The key fits the certificate, so it needs no comparing.
        self.key.cert == other.key.cert
    }
}

/// The time, seconds since 1970.
pub fn unix_secs() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.names).finish()
    }
}

fn read_file(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, Unusable> {
    files::read(path, MAX_TLS_FILE_BYTES).map_err(|why| Unusable::File { path: path.to_owned(), why })
}

fn private_key(text: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    let path = path.to_owned();
    if is_encrypted(text) {
        return Err(Unusable::EncryptedKey(path));
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|why| match why {
        pem::Error::NoItemsFound => Unusable::NoKey(path),
        why => Unusable::Pem { path, why },
    })
}

/// Encrypted PKCS #8, or the way of OpenSSL before it (RFC 1421 s. 4.6.1.1).
fn is_encrypted(text: &[u8]) -> bool {
    let has = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn unfit(why: rustls::Error, files: &Files) -> Unusable {
    match why {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Unusable::Mismatch(files.clone()),
        rustls::Error::InvalidCertificate(why) => {
            Unusable::Certificate { path: files.cert.clone(), why: format!("{why:?}") }
        }
        why => Unusable::Key { path: files.key.clone(), why },
    }
}

/// What subjectAltName says; a common name alone counts for nobody any more (RFC 9525 s. 2).
fn names_of(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let found = certificate.subject_alternative_name().map_err(|why| why.to_string())?;
    let names = found.map_or(&[][..], |extension| &extension.value.general_names[..]);
    Ok(names.iter().filter_map(name_of).collect())
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| Ipv4Addr::from(octets).to_string());
            let v6 = <[u8; 16]>::try_from(*bytes).map(|octets| Ipv6Addr::from(octets).to_string());
            v4.or(v6).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{Folder, made_for};
    use super::*;

    const DAY: i64 = DAY_SECS;

    #[test]
    fn a_pair_says_for_whom_and_how_long() {
        let folder = Folder::new();
        let files = folder.write("a", &made_for(&["Turn.Example.ORG", "*.example.net", "192.0.2.1"], 0..90));
        let certificate = Certificate::read(&files).expect("a pair");
        assert_eq!(certificate.names, ["turn.example.org", "*.example.net", "192.0.2.1"]);
        let left = certificate.expires_unix_secs - unix_secs();
        assert!((89 * DAY..=90 * DAY).contains(&left), "{left}");
        assert!(certificate.warnings(unix_secs()).is_empty());
        assert!(certificate.names_exactly("turn.example.org") && !certificate.names_exactly("example.net"));
        assert!(!format!("{certificate:?}").contains("key"), "{certificate:?}");
    }

    // RFC 6125 s. 6.4.3
    #[test]
    fn a_wildcard_covers_one_label() {
        let folder = Folder::new();
        let files = folder.write("a", &made_for(&["*.example.net"], 0..90));
        let certificate = Certificate::read(&files).expect("a pair");
        for (name, covered) in [
            ("turn.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            ("example.org", false),
            ("net", false),
        ] {
            assert_eq!(certificate.covers_by_wildcard(name), covered, "{name}");
        }
    }

    #[test]
    fn what_clients_will_not_like_is_a_warning() {
        let folder = Folder::new();
        let read = |name: &str, made| Certificate::read(&folder.write(name, &made)).expect("a pair");
        let long = read("long", made_for(&["x.example"], 0..90));
        let (begin, end) = (long.begins_unix_secs, long.expires_unix_secs);
        assert_eq!(long.warnings(end + 3 * DAY), ["expired 3 days ago: clients refuse it"]);
        assert_eq!(long.warnings(end - 3 * DAY), ["expires in 3 days"]);
        assert_eq!(long.warnings(end - 8 * DAY), [""; 0]);
        assert_eq!(long.warnings(begin - 60), ["is not valid before 60 s from now: clients refuse it"]);
        let short = read("short", made_for(&["x.example"], 0..6));
        assert_eq!(short.warnings(short.begins_unix_secs), [""; 0], "some live for six days");
        let nobody = read("nobody", made_for(&[], 0..90));
        let expected = "names no host (subjectAltName): clients refuse it";
        assert_eq!(nobody.warnings(nobody.begins_unix_secs), [expected]);
    }

    #[test]
    fn each_fault_names_its_file() {
        let folder = Folder::new();
        let (one, two) = (made_for(&["a.example"], 0..90), made_for(&["b.example"], 0..90));
        let (good, other) = (folder.write("one", &one), folder.write("two", &two));
        let path = |name: &str| folder.path().join(name);
        fs::write(path("text"), "nothing\n").unwrap();
        fs::write(path("torn"), &one.cert[..one.cert.len() / 2]).unwrap();
        let body = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(path("not-x509"), body).unwrap();
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        fs::write(path("locked"), locked).unwrap();
        for (cert, key, file, why) in [
            (path("missing"), good.key.clone(), "missing", "No such file"),
            (path("text"), good.key.clone(), "text", "there is no certificate (PEM)"),
            (path("torn"), good.key.clone(), "torn", "section end"),
            (path("not-x509"), good.key.clone(), "not-x509", "the certificate can't be used"),
            (good.cert.clone(), path("missing"), "missing", "No such file"),
            (good.cert.clone(), path("text"), "text", "there is no private key (PEM)"),
            (good.cert.clone(), path("locked"), "locked", "the key is encrypted"),
            (good.cert.clone(), other.key, "two-key.pem", "is not the key of the first certificate in"),
            (good.cert.clone(), folder.path().to_owned(), "", "not a regular file"),
        ] {
            let error = Certificate::read(&Files { cert, key }).expect_err(why).to_string();
            assert!(error.contains(file) && error.contains(why), "{error}");
        }
    }

    // RSA as PKCS #1 and PKCS #8, ECDSA as SEC 1 behind its parameters: what openssl, certbot and others write
    #[test]
    fn keys_come_in_all_usual_forms() {
        let folder = Folder::new();
        for (name, make) in [
            (
                "pkcs8-rsa",
                "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -addext subjectAltName=DNS:x.example -keyout key -out cert",
            ),
            (
                "pkcs1",
                "openssl genrsa -traditional -out key 2048 && openssl req -x509 -key key -subj /CN=x -addext subjectAltName=DNS:x.example -out cert",
            ),
            (
                "sec1",
                "openssl ecparam -name prime256v1 -genkey -out key && openssl req -x509 -key key -subj /CN=x -addext subjectAltName=DNS:x.example -out cert",
            ),
            (
                "p384",
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -subj /CN=x -addext subjectAltName=DNS:x.example -keyout key -out cert",
            ),
            (
                "one-file",
                "openssl req -x509 -newkey ed25519 -nodes -subj /CN=x -addext subjectAltName=DNS:x.example -keyout key -out cert && cat key >> cert && cp cert key",
            ),
        ] {
            let own = folder.path().join(name);
            fs::create_dir(&own).unwrap();
            let made = std::process::Command::new("sh").args(["-ec", make]).current_dir(&own).output();
            let made = made.expect("there is a shell");
            assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
            let certificate = Certificate::read(&Files { cert: own.join("cert"), key: own.join("key") });
            let certificate = certificate.unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(certificate.names, ["x.example"], "{name}");
        }
    }
}
