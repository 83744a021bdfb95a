//! The client's side of TLS.
//!
//! The caller says whose certificates are taken; that the server has the key of the one it shows is checked
//! always.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Versions of TLS that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2 only
    #[value(name = "1.2")]
    V1_2,
    /// TLS 1.3 only
    #[value(name = "1.3")]
    V1_3,
}

/// A certificate of the client's own.
#[derive(Debug, Clone, Default)]
pub enum Identity {
    /// None, as nearly all clients.
    #[default]
    None,
    /// Files in PEM.
    Files {
        /// The certificate, and its chain.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// The system's authorities, where distributions keep them.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Whose certificates are taken.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Those of the system's authorities.
    System,
    /// Those of the authorities in a file, PEM.
    File(&'a Path),
    /// Anybody's, as turnutils_uclient does without `-E`.
    Anybody,
}

/// What each TLS connection of a run begins with.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// Settings for connections to `name`, a host name or an IP address. Sessions are never resumed: each
    /// connection costs the server a full handshake.
    ///
    /// # Errors
    /// If a file can't be read or holds nothing usable, or the name is none.
    pub fn new(
        name: &str,
        trust: Trust<'_>,
        identity: Identity,
        version: Option<TlsVersion>,
    ) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let versions = match version {
            None => vec![&TLS13, &TLS12],
            Some(TlsVersion::V1_2) => vec![&TLS12],
            Some(TlsVersion::V1_3) => vec![&TLS13],
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?;
        let authorities = match trust {
            Trust::System => Some(Path::new(SYSTEM_AUTHORITIES)),
            Trust::File(path) => Some(path),
            Trust::Anybody => None,
        };
        let verifier: Arc<dyn ServerCertVerifier> = match authorities {
            None => Arc::new(AnyCertificate { provider, checks_key: true }),
            Some(path) => WebPkiServerVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                .build()
                .map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            Identity::None => builder.with_no_client_auth(),
            Identity::Files { certificate, key } => {
                let (chain, key) = (certificates(&certificate)?, private_key(&key)?);
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("{}: {error}", certificate.display()))?
            }
        };
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
            .map_err(|_| format!("{name}: neither a host name nor an IP address"))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// Checks nothing at all, which saves a generator the most costly part of a handshake.
    #[must_use]
    pub fn careless(mut self) -> Self {
        let provider = Arc::new(ring::default_provider());
        let config = Arc::make_mut(&mut self.config);
        config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate { provider, checks_key: false }));
        self
    }

    /// A new connection's TLS.
    pub(super) fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        let mut connection = ClientConnection::new(self.config.clone(), self.name.clone())?;
        // The link bounds what waits.
        connection.set_buffer_limit(None);
        Ok(connection)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(fault)?.collect();
    let found = found.map_err(fault)?;
    if found.is_empty() {
        return Err(format!("{}: holds no certificate in PEM", path.display()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    // Systems keep some that nobody can use any more.
    let (usable, _) = store.add_parsable_certificates(certificates(path)?);
    if usable == 0 {
        return Err(format!("{}: holds no certificate that can be an authority's", path.display()));
    }
    Ok(store)
}

/// Takes any certificate, but only from who has its key, if that is checked.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
    checks_key: bool,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.checks_key {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.checks_key {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_certificates_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "nothing\n").expect("written");
        for (file, cause) in
            [(path, "ca.pem: holds no certificate"), (folder.path().join("gone.pem"), "gone.pem")]
        {
            let fault =
                TlsClient::new("a.example", Trust::File(&file), Identity::None, None).expect_err(cause);
            assert!(fault.contains(cause), "{fault}");
        }
    }

    #[test]
    fn a_server_is_named_by_name_or_address() {
        for name in ["turn.example.org", "192.0.2.1", "2001:db8::1", "[2001:db8::1]"] {
            TlsClient::new(name, Trust::Anybody, Identity::None, Some(TlsVersion::V1_3)).expect(name);
        }
        let fault = TlsClient::new("not a name", Trust::Anybody, Identity::None, None).expect_err("spaces");
        assert!(fault.contains("not a name"), "{fault}");
    }
}
