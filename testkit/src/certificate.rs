//! Certificates that vouch for themselves, servers that show them, and clients that trust one of them alone.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// A certificate with its key.
pub struct Certificate(CertifiedKey<KeyPair>);

impl Certificate {
    /// A new one for these names or addresses.
    pub fn new(names: &[&str]) -> Certificate {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Certificate(rcgen::generate_simple_self_signed(names).expect("a certificate"))
    }

    /// Writes certificate and key as PEM, each renamed over what was there; gives their paths.
    pub fn write(&self, folder: &Path, name: &str) -> [String; 2] {
        let parts = [("cert", self.pem()), ("key", self.0.signing_key.serialize_pem())];
        parts.map(|(what, text)| {
            let path = folder.join(format!("{name}-{what}.pem"));
            let new = path.with_extension("new");
            std::fs::write(&new, text).expect("the folder is ours");
            std::fs::rename(&new, &path).expect("the folder is ours");
            path.display().to_string()
        })
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> String {
        self.0.cert.pem()
    }

    /// The certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    /// Its key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.0.signing_key.serialize_der()).expect("a key")
    }

    /// How a server that shows it speaks TLS.
    pub fn server(&self) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], self.key())
            .expect("they belong together")
    }

    /// How a client that trusts nothing else speaks TLS.
    pub fn client(&self) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS)
    }

    /// The same in these versions.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).expect("a certificate");
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

/// A client's TLS that asks for this name; its handshake has not begun.
pub fn tls(config: impl Into<Arc<ClientConfig>>, name: &str) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    ClientConnection::new(config.into(), name).expect("a client")
}
