//! One request after another, over HTTP or HTTPS.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use turnpike_admin::ProblemBody;
use zeroize::Zeroizing;

/// The system's trusted certificates, where distributions keep them.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// For connecting and for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of an answer that is read: a page of 500 allocations is far below.
const MAX_ANSWER: usize = 16 << 20;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Nobody answered.
    #[error("{url} was not reached: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why not.
        why: String,
    },
    /// The API said no.
    #[error("{0}")]
    Refused(String),
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// The answer is none of this API.
    #[error("the answer is none of a relay's administration: {0}")]
    Strange(String),
    /// The answer can't be printed.
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Where the administration is, and the token for it.
pub(super) struct Client {
    uri: Uri,
    token: Zeroizing<String>,
    tls: Option<Arc<ClientConfig>>,
    runtime: Runtime,
}

impl Client {
    /// Reads what the command line names.
    pub(super) fn new(matches: &ArgMatches) -> Result<Client, String> {
        let url = matches.get_one::<String>("url").expect("it has a default");
        let uri: Uri = url.parse().map_err(|_| format!("--url: {url:?} is no URL"))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!("--url: {url:?} is not like http://127.0.0.1:8080"));
        }
        let is_https = uri.scheme_str() == Some("https");
        let ca = matches.get_one::<String>("ca").map_or(SYSTEM_CERTIFICATES, String::as_str);
        let tls = is_https.then(|| trust(ca)).transpose()?;
        let token = token(matches.get_one::<String>("token-file").map(String::as_str))?;
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        Ok(Client { uri, token, tls, runtime })
    }

    /// Sends a request; gives the answer's JSON, null where there is none.
    pub(super) fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<Zeroizing<String>>,
    ) -> Result<Value, Fault> {
        self.runtime.block_on(async {
            let answer = timeout(PATIENCE, async {
                let response = self.exchange(method, path, body).await?;
                self.read(response).await
            });
            answer.await.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))
        })
    }

    /// Follows a stream of events; gives the data of each.
    pub(super) fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), Fault> {
        self.runtime.block_on(async {
            let response = self.exchange(&Method::GET, path, None).await?;
            if !response.status().is_success() {
                return self.read(response).await.map(drop);
            }
            let (mut body, mut pending) = (response.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.unreachable(error))?;
                pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    if let Some(data) = String::from_utf8_lossy(&line).strip_prefix("data:") {
                        each(data.trim())?;
                    }
                }
                if pending.len() > MAX_ANSWER {
                    return Err(Fault::Strange("an event without an end".to_owned()));
                }
            }
            Ok(())
        })
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<Zeroizing<String>>,
    ) -> Result<Response<Incoming>, Fault> {
        let host = self.uri.host().expect("it was checked").trim_matches(['[', ']']);
        let port = self.uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let connected = timeout(PATIENCE, TcpStream::connect((host, port))).await;
        let stream = connected.map_err(|_| self.unreachable("no connection in time"))?;
        let stream = stream.map_err(|error| self.unreachable(error))?;
        let request = self.request(method, path, body)?;
        match &self.tls {
            None => self.converse(TokioIo::new(stream), request).await,
            Some(config) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|error| self.unreachable(error))?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream =
                    connector.connect(name, stream).await.map_err(|error| self.unreachable(error))?;
                self.converse(TokioIo::new(stream), request).await
            }
        }
    }

    async fn converse(
        &self,
        io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Fault> {
        let (mut sender, connection) = handshake(io).await.map_err(|error| self.unreachable(error))?;
        // It goes on while the answer's body is read.
        tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await;
        response.map_err(|error| self.unreachable(error))
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<Zeroizing<String>>,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let authority = self.uri.authority().expect("it was checked").as_str();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority)
            .header(ACCEPT, "application/json, text/event-stream")
            .header(AUTHORIZATION, format!("Bearer {}", self.token.as_str()));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |text| Bytes::copy_from_slice(text.as_bytes()));
        request.body(Full::new(body)).map_err(|error| self.unreachable(error))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Value, Fault> {
        let status = response.status();
        let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let body = limited.collect().await.map_err(|error| Fault::Strange(error.to_string()))?.to_bytes();
        if status.is_success() {
            if body.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&body).map_err(|error| Fault::Strange(error.to_string()));
        }
        match serde_json::from_slice::<ProblemBody>(&body) {
            Ok(problem) => {
                let why = format!("{} ({status})", problem.detail);
                Err(if problem.code == "not_found" { Fault::Missing(why) } else { Fault::Refused(why) })
            }
            Err(_) => Err(Fault::Strange(status.to_string())),
        }
    }

    fn unreachable(&self, why: impl ToString) -> Fault {
        Fault::Unreachable { url: self.uri.to_string(), why: why.to_string() }
    }
}

/// The token of a file's first line, or of the environment; a scope in front of it doesn't count.
fn token(file: Option<&str>) -> Result<Zeroizing<String>, String> {
    let text = match file {
        Some(file) => {
            Zeroizing::new(fs::read_to_string(file).map_err(|error| format!("--token-file {file}: {error}"))?)
        }
        None => Zeroizing::new(std::env::var("TURNPIKE_ADMIN_TOKEN").unwrap_or_default()),
    };
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let token = line.map(|line| line.rsplit(':').next().unwrap_or(line).trim());
    match token.filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())) {
        Some(token) => Ok(Zeroizing::new(token.to_owned())),
        None => Err("there is no token: set TURNPIKE_ADMIN_TOKEN, or name a --token-file".to_owned()),
    }
}

/// Trusts the certificates of a PEM file.
fn trust(file: &str) -> Result<Arc<ClientConfig>, String> {
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| format!("--ca {file}: {error}"))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(format!("--ca {file}: there is no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
