//! What servers and clients of TCP and TLS have in common: a certificate, and where the server is.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use turnpike_loadtest::engine::stream::tls::{Identity, TlsClient, Trust};
use turnpike_loadtest::transport::Transport;

use crate::fault::Fault;
use crate::lab::{SERVER, SERVER_TLS};

/// Name in the servers' certificate.
const NAME: &str = "turn.example";

/// A server's certificate and key, as files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one that signs itself, ECDSA P-256.
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn make(folder: &Path) -> Result<Certificate, Fault> {
        let made =
            rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(|error| error.to_string())?;
        let (chain, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&chain, made.cert.pem()).map_err(Fault::file(&chain))?;
        fs::write(&key, made.signing_key.serialize_pem()).map_err(Fault::file(&key))?;
        Ok(Certificate { chain, key })
    }
}

/// What clients begin TLS with: as little work of their own as there can be.
pub fn tls_client() -> TlsClient {
    TlsClient::new(NAME, Trust::Anybody, Identity::None, None)
        .expect("the name is one, and there are no files")
        .careless()
}

/// Where a transport's clients go.
pub fn server_address(transport: Transport) -> SocketAddr {
    if transport == Transport::Tls { SERVER_TLS } else { SERVER }
}
