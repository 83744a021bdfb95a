//! Certificates that vouch for themselves, and clients that trust one of them alone.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use turnpike_testkit::PATIENCE;

/// A certificate with its key.
pub struct Made {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Made {
    /// A new one for this name or address.
    pub fn new(name: &str) -> Made {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Made { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }

    /// Both files, `NAME-cert.pem` and `NAME-key.pem`, each renamed over the old one.
    pub fn write(&self, folder: &Path, name: &str) {
        for (what, text) in [("cert", &self.cert), ("key", &self.key)] {
            std::fs::write(folder.join("new"), text).expect("written");
            std::fs::rename(folder.join("new"), path(folder, name, what)).expect("renamed");
        }
    }
}

/// Where [`Made::write`] puts a file, as a value of the configuration.
pub fn path(folder: &Path, name: &str, what: &str) -> String {
    folder.join(format!("{name}-{what}.pem")).display().to_string()
}

/// A connection of a client that asks for this name.
///
/// # Errors
/// If nobody listens. A handshake fails with the first byte that is read or written.
pub fn connect(
    server: SocketAddr,
    name: &str,
    trusted: &Made,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    Ok(over(stream, name, trusted, versions, &[]))
}

/// The same over a connection that there is; the client names these protocols (ALPN).
pub fn over(
    stream: TcpStream,
    name: &str,
    trusted: &Made,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("ring has both")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    StreamOwned::new(connection, stream)
}
