//! Connections: how many, how long, how large; and threads of their own, so that no packet waits for a
//! page.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::sign::CertifiedKey;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tower::ServiceExt;
use tracing::warn;

use crate::api::router;
use crate::history;
use crate::limits::{
    BLOCKING_THREADS, CONNECTIONS_FOR_LOOPBACK, CONNECTIONS_PER_LOOPBACK, CONNECTIONS_PER_SOURCE,
    MAX_BACKLOG, MAX_CONNECTIONS, MAX_HEADER_BYTES, MAX_HEADERS, SERVING_THREADS,
};
use crate::managed::ManagedRelay;
use crate::slots::{Shares, Slots};
use crate::state::{AppState, told_to_stop};
use crate::tls::Tls;
use crate::token::Tokens;

/// For answers that are under way when everything stops.
const STOP_TIME: Duration = Duration::from_millis(500);
/// For threads that are at work then; a database may be locked.
const THREADS_STOP_TIME: Duration = Duration::from_millis(200);
/// Refused connections are logged at most this often.
const NOTICE_PERIOD: Duration = Duration::from_secs(60);
/// After an accept that failed: files may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection may take; tests have less patience.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once; further ones are closed without an answer.
    pub connections: Shares,
    /// For the headers of a request, from the first byte or from the answer before it on.
    pub header_time: Duration,
    /// For a TLS handshake.
    pub handshake_time: Duration,
    /// For everything else of a request; of a stream of events, for its beginning.
    pub request_time: Duration,
    /// A client that takes nothing for this long is gone.
    pub send_time: Duration,
}

pub(crate) const LIMITS: Limits = Limits {
    connections: Shares {
        total: MAX_CONNECTIONS,
        kept_for_loopback: CONNECTIONS_FOR_LOOPBACK,
        per_source: CONNECTIONS_PER_SOURCE,
        per_loopback: CONNECTIONS_PER_LOOPBACK,
    },
    header_time: Duration::from_secs(10),
    handshake_time: Duration::from_secs(5),
    request_time: Duration::from_secs(15),
    send_time: Duration::from_secs(20),
};

/// What to serve, and to whom.
#[derive(Clone)]
pub struct Settings {
    /// The address and port to listen on.
    pub listen: SocketAddr,
    /// Who may ask. There must be at least one.
    pub tokens: Tokens,
    /// Names in Host headers besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The certificate for HTTPS, instead of HTTP.
    pub tls: Option<Arc<CertifiedKey>>,
}

/// Why there is no administration.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nobody could ask anything.
    #[error("there is no token for the administration")]
    NoToken,
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address and port that were asked for.
        address: SocketAddr,
        /// The system's reason.
        why: io::Error,
    },
    /// No thread to be had.
    #[error("cannot start its threads: {0}")]
    Threads(io::Error),
}

/// A listener; on an address that this host doesn't have yet, it is bound ahead of it.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            match address {
                SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
            }
            socket.bind(&address.into())?;
            socket.listen(MAX_BACKLOG)?;
            warn!(%address, "no interface has the administration's address yet: it is waited for");
            Ok(socket.into())
        }
        outcome => outcome,
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// When it can't.
pub fn start(settings: Settings, relay: Arc<dyn ManagedRelay>) -> Result<Running, StartError> {
    start_with(LIMITS, settings, relay)
}

pub(crate) fn start_with(
    limits: Limits,
    settings: Settings,
    relay: Arc<dyn ManagedRelay>,
) -> Result<Running, StartError> {
    if settings.tokens.is_empty() {
        return Err(StartError::NoToken);
    }
    let fault = |why| StartError::Listen { address: settings.listen, why };
    let listener = listen(settings.listen).map_err(fault)?;
    listener.set_nonblocking(true).map_err(fault)?;
    let address = listener.local_addr().map_err(fault)?;
    let tls = settings.tls.map(Tls::new).map(Arc::new);
    let (stop, stopping) = watch::channel(false);
    let shared =
        Arc::new(AppState::new(relay, settings.tokens, settings.hosts, limits.request_time, stopping));
    let handle = Handle { shared: Arc::clone(&shared), tls: tls.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVING_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("admin")
        .enable_all()
        .build()
        .map_err(StartError::Threads)?;
    let thread = std::thread::Builder::new()
        .name("admin-accept".into())
        .spawn(move || {
            let watched = Arc::clone(&shared);
            runtime.spawn(async move { keep_history(&watched).await });
            let server = Server { router: router(Arc::clone(&shared)), shared, tls, limits };
            runtime.block_on(accept(listener, server));
            runtime.shutdown_timeout(THREADS_STOP_TIME);
        })
        .map_err(StartError::Threads)?;
    Ok(Running { address, handle, stop, thread: Some(thread) })
}

/// What can change while it runs. Clones are of the same one.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<AppState>,
    tls: Option<Arc<Tls>>,
}

impl Handle {
    /// Replaces all tokens, also for connections that exist.
    pub fn set_tokens(&self, tokens: Tokens) {
        self.shared.tokens.store(Arc::new(tokens));
    }

    /// Another certificate, for connections from now on; nothing without TLS.
    pub fn set_certificate(&self, certificate: Arc<CertifiedKey>) {
        if let Some(tls) = &self.tls {
            tls.set(certificate);
        }
    }
}

/// The administration at work. Stops when dropped.
pub struct Running {
    address: SocketAddr,
    handle: Handle,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Where it listens, with the port that was chosen if none was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What can change while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes no further request and ends streams of events, without waiting.
    pub fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ends streams of events, finishes what is under way, and returns; within a second in any case.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the administration has panicked");
        }
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    shared: Arc<AppState>,
    tls: Option<Arc<Tls>>,
    limits: Limits,
}

async fn accept(listener: TcpListener, server: Server) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the administration can't accept connections"),
    };
    let slots = Slots::new(server.limits.connections);
    let mut next_notice = Instant::now();
    let mut stopping = server.shared.stopping.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = told_to_stop(&mut stopping) => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let slot = match slots.take(client.ip()) {
            Ok(slot) => slot,
            Err(why) => {
                let refused = server.shared.counts.refused_connections.fetch_add(1, Ordering::Relaxed) + 1;
                if Instant::now() >= next_notice {
                    next_notice = Instant::now() + NOTICE_PERIOD;
                    tracing::warn!(source = %client.ip(), ?why, refused, "too many connections to the administration");
                }
                continue;
            }
        };
        let server = server.clone();
        tokio::spawn(async move {
            server.connection(stream, client).await;
            drop(slot);
        });
    }
    drop(listener);
    // Everybody has been told.
    slots.wait_until_free(STOP_TIME).await;
}

impl Server {
    async fn connection(self, stream: TcpStream, client: SocketAddr) {
        if let Err(error) = prepare(&stream, self.limits.send_time) {
            tracing::debug!(%error, "a connection is gone before it began");
            return;
        }
        let Some(tls) = self.tls.clone() else {
            return self.serve(stream, client).await;
        };
        match timeout(self.limits.handshake_time, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, client).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin, client: SocketAddr) {
        let Self { router, shared, limits, .. } = self;
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(client));
            router.clone().oneshot(request.map(Body::new))
        });
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEADER_BYTES);
        let mut connection = std::pin::pin!(protocol.serve_connection(TokioIo::new(stream), service));
        let mut stopping = shared.stopping.clone();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = told_to_stop(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended with an error");
        }
    }
}

/// Reads the counters into the history from now on, until everything stops.
async fn keep_history(shared: &AppState) {
    let mut stopping = shared.stopping.clone();
    let mut ticks = interval(history::PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = told_to_stop(&mut stopping) => return,
            _ = ticks.tick() => shared.history.record((&shared.relay.totals()).into()),
        }
    }
}

/// A client that is gone, or stops reading, must not keep its connection.
fn prepare(stream: &TcpStream, send_time: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(send_time))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(send_time))
}
