//! HTTPS by rustls, from two PEM files that can be read again while running.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::files;
use crate::limits::MAX_TLS_FILE_BYTES;

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain (PEM), the server's first.
    pub cert: PathBuf,
    /// The private key (PEM).
    pub key: PathBuf,
}

/// Why certificate and key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the files can't be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// One of the files holds something else.
    #[error("{}: {why}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: rustls::pki_types::pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{}: there is no certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// They don't fit each other, or are of a kind that rustls doesn't know.
    #[error("certificate and key can't be used: {0}")]
    Unfit(#[from] rustls::Error),
}

/// A certificate and its key, ready to be used.
pub struct Certificate(Arc<ServerConfig>);

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// If they can't be read, or don't fit each other.
    pub fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        read(files).map(Self)
    }
}

/// The certificate in force.
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = read(&files)?;
        Ok(Self { files, config: ArcSwap::new(config) })
    }

    /// Reads the files again; what comes of it is in force once it is [`set`](Tls::set).
    pub fn read(&self) -> Result<Certificate, TlsError> {
        read(&self.files).map(Certificate)
    }

    /// Another certificate, for connections from now on.
    pub fn set(&self, certificate: Certificate) {
        self.config.store(certificate.0);
    }

    /// For one connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.load_full().into()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let read = |path: &PathBuf| {
        let fault = |why| TlsError::File { path: path.clone(), why };
        files::read(path, MAX_TLS_FILE_BYTES).map_err(fault)
    };
    let fault = |path: &PathBuf| {
        let path = path.clone();
        move |why| TlsError::Content { path, why }
    };
    let chain = CertificateDer::pem_slice_iter(&read(&files.cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(fault(&files.cert))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(files.cert.clone()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(fault(&files.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
