//! How clients reach the server: UDP, TCP, or TLS over TCP (RFC 8656 section 3.1), and what TLS needs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::engine::stream::tls::{Identity, TlsClient, TlsVersion, Trust};

/// Between client and server; what is relayed to peers is UDP with each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// A stream: STUN messages and padded ChannelData one after the other.
    Tcp,
    /// The same inside of TLS.
    Tls,
}

impl Transport {
    /// Whether messages go one after the other through a connection.
    pub fn is_stream(self) -> bool {
        self != Self::Udp
    }

    /// The port that a server has by default (RFC 8489 section 8.1, RFC 7065 section 3.1).
    pub fn default_port(self) -> u16 {
        if self == Self::Tls { 5349 } else { 3478 }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        })
    }
}

/// Options about the way to the server.
#[derive(Debug, Clone, Default, Args)]
pub struct TransportArgs {
    /// Between clients and server; default: what the server's URL says, else udp
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// Authorities of the server's certificate, PEM; default: the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca_file: Option<PathBuf>,
    /// Take any certificate, whoever has made it
    #[arg(long)]
    pub insecure: bool,
    /// Name that the certificate is for, sent as SNI; default: the server as it is named
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Only this version of TLS; default: the newest that the server has
    #[arg(long, value_enum)]
    pub tls_version: Option<TlsVersion>,
}

impl TransportArgs {
    /// What TLS needs, for the transport that was chosen; `host` is the server as it was named.
    ///
    /// # Errors
    /// If a file can't be read or holds no certificate, a name is none, or an option has no use.
    pub fn tls(&self, transport: Transport, host: &str) -> Result<Option<TlsClient>, String> {
        if transport == Transport::Tls {
            let name = self.server_name.as_deref().unwrap_or(host);
            return TlsClient::new(name, self.trust(), Identity::None, self.tls_version).map(Some);
        }
        let is_about_tls = self.ca_file.is_some() || self.insecure;
        if is_about_tls || self.server_name.is_some() || self.tls_version.is_some() {
            return Err(format!(
                "--ca-file, --insecure, --server-name and --tls-version are about TLS, and the transport is \
                 {transport}: --transport tls"
            ));
        }
        Ok(None)
    }

    fn trust(&self) -> Trust<'_> {
        match &self.ca_file {
            Some(path) => Trust::File(path),
            None if self.insecure => Trust::Anybody,
            None => Trust::System,
        }
    }
}
