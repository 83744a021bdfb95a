//! HTTPS by rustls, with a certificate that can be replaced while running.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::TlsAcceptor;

/// The certificate in force.
pub struct Tls(ArcSwap<ServerConfig>);

impl Tls {
    /// Shows this certificate.
    pub fn new(certificate: Arc<CertifiedKey>) -> Self {
        Self(ArcSwap::new(config(certificate)))
    }

    /// Another certificate, for connections from now on.
    pub fn set(&self, certificate: Arc<CertifiedKey>) {
        self.0.store(config(certificate));
    }

    /// What a connection is accepted with: the certificate of this moment.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.0.load_full().into()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn config(certificate: Arc<CertifiedKey>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
