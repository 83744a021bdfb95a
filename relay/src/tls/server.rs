//! How TLS is spoken with clients: which certificate, which versions.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SupportedProtocolVersion, version};
use turnpike_proto::addr::Alpn;

use super::certificate::Certificate;
use crate::config::TlsVersion;

/// Protocols that clients may name (RFC 7443 s. 3): TURN, and STUN for NAT discovery.
pub const PROTOCOLS: [&[u8]; 2] = [Alpn::Turn.name().as_bytes(), Alpn::NatDiscovery.name().as_bytes()];

/// The name of a cipher suite in IANA's registry; of one that is in no registry here, its number.
pub fn cipher_suite_name(number: u16) -> String {
    match CipherSuite::from(number).as_str() {
        // rustls tells the suites of TLS 1.3 from older ones that have no key exchange in their names.
        Some(name) => name.replacen("TLS13_", "TLS_", 1),
        None => format!("{number:#06x}"),
    }
}

static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// TLS for clients, with certificates that can be replaced while running.
pub struct ClientTls {
    config: ArcSwap<ServerConfig>,
    /// The same certificates, to be asked for names.
    certificates: ArcSwap<ByName>,
    versions: &'static [&'static SupportedProtocolVersion],
    /// Tickets outlive a change of certificates: reconnecting stays cheap (RFC 8446 s. 2.2).
    tickets: Arc<dyn ProducesTickets>,
}

impl ClientTls {
    /// Shows these certificates; the first where no other fits.
    ///
    /// # Errors
    /// If the operating system has no random bytes.
    pub fn new(min_version: TlsVersion, certificates: Vec<Arc<Certificate>>) -> Result<Self, rustls::Error> {
        let versions = match min_version {
            TlsVersion::V12 => rustls::ALL_VERSIONS,
            TlsVersion::V13 => ONLY_TLS13,
        };
        let tickets = ring::Ticketer::new()?;
        let certificates = Arc::new(ByName(certificates));
        let config = ArcSwap::from_pointee(config(versions, &tickets, &certificates));
        Ok(Self { config, certificates: ArcSwap::new(certificates), versions, tickets })
    }

    /// Other certificates, for handshakes that begin from now on.
    pub fn set(&self, certificates: Vec<Arc<Certificate>>) {
        let certificates = Arc::new(ByName(certificates));
        self.config.store(Arc::new(config(self.versions, &self.tickets, &certificates)));
        self.certificates.store(certificates);
    }

    /// Whether a name that a client looks for (SNI) is one of a certificate's, exactly or by a wildcard.
    pub fn has_name(&self, name: &str) -> bool {
        let name = normal(name);
        let certificates = self.certificates.load();
        certificates.0.iter().any(|own| own.names_exactly(&name) || own.covers_by_wildcard(&name))
    }

    /// For a handshake that begins now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

fn config(
    versions: &[&'static SupportedProtocolVersion],
    tickets: &Arc<dyn ProducesTickets>,
    certificates: &Arc<ByName>,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    config.ticketer = Arc::clone(tickets);
    // Whoever comes back has a ticket; nothing is kept for anybody.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// A name as certificates have it.
fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Certificates in the order of the configuration.
#[derive(Debug)]
struct ByName(Vec<Arc<Certificate>>);

impl ResolvesServerCert for ByName {
    /// One that says the name which the client looks for (RFC 6066 s. 3), else one whose wildcard covers it, else
    /// the first. There may be two for one name, with keys of two kinds: one that the client can check.
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = client.server_name().map(normal);
        let name = name.as_deref().unwrap_or_default();
        let exact = self.0.iter().filter(|certificate| certificate.names_exactly(name));
        let covering = self.0.iter().filter(|certificate| certificate.covers_by_wildcard(name));
        let can_check = |certificate: &&Arc<Certificate>| {
            certificate.key.key.choose_scheme(client.signature_schemes()).is_some()
        };
        let chosen = exact.chain(covering).chain(&self.0).find(can_check);
        chosen.map(|certificate| Arc::clone(&certificate.key))
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, Error, HandshakeKind, ProtocolVersion, RootCertStore};
    use rustls::{ServerConnection, SignatureScheme};

    use super::super::testing::{Folder, Made, made_for, made_with};
    use super::*;

    fn read(folder: &Folder, name: &str, made: &Made) -> Arc<Certificate> {
        Arc::new(Certificate::read(&folder.write(name, made)).expect("a pair"))
    }

    /// A client that believes everything that is signed as it should be.
    #[derive(Debug)]
    struct Believer(Arc<CryptoProvider>, Vec<SignatureScheme>);

    impl rustls::client::danger::ServerCertVerifier for Believer {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(
                message,
                cert,
                dss,
                &self.0.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(
                message,
                cert,
                dss,
                &self.0.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.1.clone()
        }
    }

    struct Client {
        versions: Vec<&'static SupportedProtocolVersion>,
        schemes: Vec<SignatureScheme>,
        alpn: Vec<Vec<u8>>,
        has_sni: bool,
    }

    impl Default for Client {
        fn default() -> Self {
            let provider = ring::default_provider();
            let schemes = provider.signature_verification_algorithms.supported_schemes();
            Client { versions: rustls::ALL_VERSIONS.to_vec(), schemes, alpn: Vec::new(), has_sni: true }
        }
    }

    impl Client {
        fn config(self) -> Arc<ClientConfig> {
            let provider = Arc::new(ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&self.versions)
                .expect("ring has both")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            config.dangerous().set_certificate_verifier(Arc::new(Believer(provider, self.schemes)));
            config.alpn_protocols = self.alpn;
            config.enable_sni = self.has_sni;
            Arc::new(config)
        }
    }

    /// A handshake, in memory; the client's view of it.
    fn shake(tls: &ClientTls, client: &Arc<ClientConfig>, name: &str) -> Result<ClientConnection, Error> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::clone(client), name)?;
        let mut server = ServerConnection::new(tls.config())?;
        for _ in 0..8 {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).expect("memory");
            }
            server.read_tls(&mut &sent[..]).expect("memory");
            let outcome = server.process_new_packets();
            let mut answered = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answered).expect("memory");
            }
            client.read_tls(&mut &answered[..]).expect("memory");
            client.process_new_packets()?;
            outcome?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(client)
    }

    fn shown(connection: &ClientConnection) -> CertificateDer<'static> {
        connection.peer_certificates().expect("it was shown")[0].clone().into_owned()
    }

    fn default_client() -> Arc<ClientConfig> {
        Client::default().config()
    }

    #[test]
    fn the_name_decides_exactly_then_by_wildcard_then_the_first() {
        let folder = Folder::new();
        let all = [&["first.example"][..], &["*.example.org"], &["Turn.example.org", "b.example.net"]];
        let all: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(n, names)| read(&folder, &n.to_string(), &made_for(names, 0..90)))
            .collect();
        let tls = ClientTls::new(TlsVersion::V12, all.clone()).expect("randomness");
        for (name, index) in [
            ("first.example", 0),
            ("turn.example.org", 2),
            ("TURN.Example.Org", 2),
            ("other.example.org", 1),
            ("b.example.net", 2),
            ("a.b.example.org", 0),
            ("nobody.example", 0),
            ("192.0.2.1", 0),
        ] {
            let connection = shake(&tls, &default_client(), name).expect("a handshake");
            assert_eq!(shown(&connection), all[index].key.cert[0], "{name}");
        }
        let silent = Client { has_sni: false, ..Client::default() };
        let connection = shake(&tls, &silent.config(), "turn.example.org").expect("a handshake");
        assert_eq!(shown(&connection), all[0].key.cert[0]);
    }

    #[test]
    fn names_are_those_of_the_certificates_in_force() {
        let folder = Folder::new();
        let all = [&["turn.example.org"][..], &["*.turn.example.net"]];
        let all = all.map(|names| read(&folder, names[0].trim_start_matches('*'), &made_for(names, 0..90)));
        let tls = ClientTls::new(TlsVersion::V12, all.to_vec()).expect("randomness");
        for (name, is_own) in [
            ("turn.example.org", true),
            ("TURN.example.org.", true),
            ("a.turn.example.net", true),
            ("a.b.turn.example.net", false),
            ("turn.example.net", false),
            ("www.example.org", false),
            ("", false),
        ] {
            assert_eq!(tls.has_name(name), is_own, "{name}");
        }
        tls.set(vec![Arc::clone(&all[1])]);
        assert!(!tls.has_name("turn.example.org"));
    }

    #[test]
    fn of_two_certificates_for_one_name_a_client_gets_the_one_it_can_check() {
        let folder = Folder::new();
        let ecdsa = read(&folder, "ecdsa", &made_for(&["x.example"], 0..90));
        let ed25519 = made_with(&rcgen::PKCS_ED25519, &["x.example"], 0..90);
        let ed25519 = read(&folder, "ed25519", &ed25519);
        let both = vec![Arc::clone(&ed25519), Arc::clone(&ecdsa)];
        let tls = ClientTls::new(TlsVersion::V12, both).expect("randomness");
        for version in rustls::ALL_VERSIONS {
            for (scheme, expected) in
                [(SignatureScheme::ED25519, &ed25519), (SignatureScheme::ECDSA_NISTP256_SHA256, &ecdsa)]
            {
                let client = Client { schemes: vec![scheme], versions: vec![version], ..Client::default() };
                let connection = shake(&tls, &client.config(), "x.example").expect("a handshake");
                assert_eq!(shown(&connection), expected.key.cert[0], "{version:?} {scheme:?}");
            }
        }
    }

    #[test]
    fn older_versions_than_the_minimum_are_refused() {
        let folder = Folder::new();
        let certificate = read(&folder, "x", &made_for(&["x.example"], 0..90));
        let spoken = |min_version, offered: &'static SupportedProtocolVersion| {
            let tls = ClientTls::new(min_version, vec![Arc::clone(&certificate)]).expect("randomness");
            let client = Client { versions: vec![offered], ..Client::default() };
            shake(&tls, &client.config(), "x.example").ok().and_then(|client| client.protocol_version())
        };
        assert_eq!(spoken(TlsVersion::V12, &version::TLS12), Some(ProtocolVersion::TLSv1_2));
        assert_eq!(spoken(TlsVersion::V12, &version::TLS13), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(spoken(TlsVersion::V13, &version::TLS13), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(spoken(TlsVersion::V13, &version::TLS12), None);
    }

    // RFC 7443 s. 3; RFC 7301 s. 3.2: somebody who wants another protocol is not to be talked to
    #[test]
    fn alpn_is_for_stun_and_turn() {
        let folder = Folder::new();
        let certificate = read(&folder, "x", &made_for(&["x.example"], 0..90));
        let tls = ClientTls::new(TlsVersion::V12, vec![certificate]).expect("randomness");
        for (alpn, expected) in [
            (&[&b"stun.turn"[..]][..], Some(&b"stun.turn"[..])),
            (&[b"h2", b"stun.nat-discovery"], Some(b"stun.nat-discovery")),
            (&[], None),
        ] {
            let client = Client { alpn: alpn.iter().map(|one| one.to_vec()).collect(), ..Client::default() };
            let connection = shake(&tls, &client.config(), "x.example").expect("a handshake");
            assert_eq!(connection.alpn_protocol(), expected);
        }
        let web = Client { alpn: vec![b"h2".to_vec()], ..Client::default() };
        assert!(shake(&tls, &web.config(), "x.example").is_err());
    }

    #[test]
    fn tickets_outlive_a_change_of_certificates() {
        let folder = Folder::new();
        let [old, new] = ["old", "new"].map(|name| read(&folder, name, &made_for(&["x.example"], 0..90)));
        let tls = ClientTls::new(TlsVersion::V12, vec![old]).expect("randomness");
        for version in rustls::ALL_VERSIONS {
            let client = Client { versions: vec![version], ..Client::default() }.config();
            let kind = || shake(&tls, &client, "x.example").expect("a handshake").handshake_kind();
            assert_eq!(kind(), Some(HandshakeKind::Full), "{version:?}");
            tls.set(vec![Arc::clone(&new)]);
            assert_eq!(kind(), Some(HandshakeKind::Resumed), "{version:?}");
        }
    }

    #[test]
    fn a_handshake_that_has_begun_keeps_its_certificate_and_the_next_one_has_the_new() {
        let folder = Folder::new();
        let [old, new] = ["old", "new"].map(|name| read(&folder, name, &made_for(&["x.example"], 0..90)));
        let tls = ClientTls::new(TlsVersion::V12, vec![Arc::clone(&old)]).expect("randomness");
        let begun = tls.config();
        tls.set(vec![Arc::clone(&new)]);
        let resolved = |config: Arc<ServerConfig>| {
            let tls = ClientTls {
                config: ArcSwap::new(config),
                certificates: ArcSwap::from_pointee(ByName(Vec::new())),
                versions: rustls::ALL_VERSIONS,
                tickets: Arc::clone(&tls.tickets),
            };
            shown(&shake(&tls, &default_client(), "x.example").expect("a handshake"))
        };
        assert_eq!(resolved(begun), old.key.cert[0]);
        assert_eq!(resolved(tls.config()), new.key.cert[0]);
    }
}
