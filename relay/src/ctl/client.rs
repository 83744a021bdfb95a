//! One request after another, over HTTP or HTTPS.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use turnpike_admin::ProblemBody;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{Error, Method, Request, Response, Uri};
use ureq::tls::{Certificate, TlsConfig};
use ureq::{Agent, AsSendBody, Body};
use zeroize::Zeroizing;

use crate::limits::MAX_ANSWER_BYTES;

/// The system's trusted certificates, where distributions keep them.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// For connecting and for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

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
    agent: Agent,
}

impl Client {
    /// Reads what the command line names.
    pub(super) fn new(matches: &ArgMatches) -> Result<Client, String> {
        let url = matches.get_one::<String>("url").expect("it has a default");
        let uri: Uri = url.parse().map_err(|_| format!("--url: {url:?} is no URL"))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!("--url: {url:?} is not like http://127.0.0.1:8080"));
        }
        let ca = matches.get_one::<String>("ca").map_or(SYSTEM_CERTIFICATES, String::as_str);
        let tls = match uri.scheme_str() {
            Some("https") => trust(ca)?,
            _ => TlsConfig::default(),
        };
        let token = token(matches.get_one::<String>("token-file").map(String::as_str))?;
        // The token goes to who was named: not to a proxy of the environment, nor where an answer points.
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .tls_config(tls)
            .build();
        Ok(Client { uri, token, agent: config.new_agent() })
    }

    /// Sends a request; gives the answer's JSON, null where there is none.
    pub(super) fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<Zeroizing<String>>,
    ) -> Result<Value, Fault> {
        let body = body.as_ref().map(|text| text.as_str());
        self.exchange(method, path, body, Some(PATIENCE)).and_then(|response| self.read(response))
    }

    /// Follows a stream of events; gives the data of each.
    pub(super) fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let response = self.exchange(&Method::GET, path, None, None)?;
        if !response.status().is_success() {
            return self.read(response).map(drop);
        }
        let (mut stream, mut line) = (BufReader::new(response.into_body().into_reader()), Vec::new());
        loop {
            line.clear();
            let read = stream.by_ref().take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line);
            let length = read.map_err(|error| self.unreachable(error))?;
            if !line.ends_with(b"\n") {
                let is_end = (length as u64) < MAX_ANSWER_BYTES;
                return if is_end {
                    Ok(())
                } else {
                    Err(Fault::Strange("an event without an end".to_owned()))
                };
            }
            if let Some(data) = String::from_utf8_lossy(&line).strip_prefix("data:") {
                each(data.trim())?;
            }
        }
    }

    /// Gives the answer's head; `patience` is for all of it, with the body.
    fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<&str>,
        patience: Option<Duration>,
    ) -> Result<Response<Body>, Fault> {
        let scheme = self.uri.scheme_str().expect("it was checked");
        let authority = self.uri.authority().expect("it was checked");
        let request = Request::builder()
            .method(method)
            .uri(format!("{scheme}://{authority}{path}"))
            .header(ACCEPT, "application/json, text/event-stream")
            .header(AUTHORIZATION, format!("Bearer {}", self.token.as_str()));
        match body {
            None => self.run(request.body(()), patience),
            Some(text) => self.run(request.header(CONTENT_TYPE, "application/json").body(text), patience),
        }
    }

    fn run<B: AsSendBody>(
        &self,
        request: Result<Request<B>, Error>,
        patience: Option<Duration>,
    ) -> Result<Response<Body>, Fault> {
        let request = request.map_err(|error| self.unreachable(error))?;
        let request = self.agent.configure_request(request).timeout_global(patience).build();
        self.agent.run(request).map_err(|error| self.failed(error))
    }

    fn read(&self, mut response: Response<Body>) -> Result<Value, Fault> {
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let body = body.map_err(|error| self.failed(error))?;
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

    fn failed(&self, error: ureq::Error) -> Fault {
        match error {
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                self.unreachable("no connection in time")
            }
            ureq::Error::Timeout(_) => self.unreachable("no answer in time"),
            ureq::Error::Protocol(_) | ureq::Error::BodyExceedsLimit(_) => Fault::Strange(error.to_string()),
            error => self.unreachable(error),
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
fn trust(file: &str) -> Result<TlsConfig, String> {
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| format!("--ca {file}: {error}"))?;
    let certificates: Vec<_> = certificates.filter_map(Result::ok).collect();
    let (usable, _) = RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        return Err(format!("--ca {file}: there is no certificate in it"));
    }
    let roots: Vec<_> = certificates.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    Ok(TlsConfig::builder()
        .root_certs(roots.into())
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
