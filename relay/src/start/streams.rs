//! Listeners for clients over TCP and TLS, and how TLS is spoken there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use turnpike_driver::streams::{
    Fallback, IsProxy, Offer, StreamLimits, StreamListener, StreamOptions, Streams, TlsConfig,
    bind_stream_listeners,
};

use super::descriptors;
use super::error::StartError;
use crate::config::resolve::Addresses;
use crate::config::{Config, Loader};
use crate::control::wanted;
use crate::takeover::Inheritance;
use crate::tls::server::ClientTls;
use crate::tls::store::{self, Store};
use crate::worker::proxied::Proxies;

/// All workers' listeners for streams, and where they are.
#[derive(Default)]
pub(super) struct StreamListeners {
    pub(super) by_worker: Vec<Vec<StreamListener>>,
    pub(super) tcp: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
}

impl StreamListeners {
    /// Binds them; `udp` is where the listeners for UDP are, with the ports that the kernel chose.
    pub(super) fn bind(
        addresses: &Addresses,
        udp: &[SocketAddr],
        workers: usize,
        inheritance: &mut Option<Inheritance>,
    ) -> Result<Self, StartError> {
        let by_worker = (0..workers).map(|_| Vec::new()).collect();
        let mut all = StreamListeners { by_worker, ..StreamListeners::default() };
        for address in &addresses.listen_tcp {
            let has_tls = address.port() != 0 && addresses.listen_tls.contains(address);
            let offer = Offer { plain: true, tls: has_tls };
            let inherited = inheritance.as_mut().and_then(|it| it.take_stream_listeners(*address, offer));
            let group = inherited
                .map_or_else(|| bind_beside(*address, addresses, udp, workers, offer), Ok)
                .map_err(StartError::system("listen-tcp"))?;
            let local = group[0].local_addr();
            all.tcp.push(local);
            if has_tls {
                all.tls.push(local);
            }
            all.add(group);
        }
        for address in &addresses.listen_tls {
            if address.port() != 0 && addresses.listen_tcp.contains(address) {
                continue;
            }
            let offer = Offer { plain: false, tls: true };
            let inherited = inheritance.as_mut().and_then(|it| it.take_stream_listeners(*address, offer));
            let group = inherited
                .map_or_else(|| bind_stream_listeners(*address, workers, offer), Ok)
                .map_err(StartError::system("listen-tls"))?;
            all.tls.push(group[0].local_addr());
            all.add(group);
        }
        Ok(all)
    }

    /// All addresses of listeners, with those for UDP.
    pub(super) fn beside(&self, udp: &[SocketAddr]) -> Vec<SocketAddr> {
        udp.iter().chain(&self.tcp).chain(&self.tls).copied().collect()
    }

    fn add(&mut self, group: Vec<StreamListener>) {
        for (own, listener) in self.by_worker.iter_mut().zip(group) {
            own.push(listener);
        }
    }
}

/// Where the kernel chose a port for UDP, TCP gets the same one if it is free.
fn bind_beside(
    address: SocketAddr,
    addresses: &Addresses,
    udp: &[SocketAddr],
    workers: usize,
    offer: Offer,
) -> io::Result<Vec<StreamListener>> {
    let beside = addresses.listen.iter().zip(udp).find(|(configured, _)| **configured == address);
    if let (0, Some((_, chosen))) = (address.port(), beside) {
        match bind_stream_listeners(*chosen, workers, offer) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
    bind_stream_listeners(address, workers, offer)
}

/// What is shown to clients of TLS, from the files as they are now.
pub(super) fn open_certificates(config: &Config, loader: &Arc<Loader>) -> Result<Store, StartError> {
    let wanted = wanted(config);
    let read = loader.in_time(move |loader| store::read(wanted, |path| loader.note(path)));
    let found = read.map_err(StartError::other("certificates"))?;
    let store = Store::default();
    let prepared = store.prepare(found);
    store.put(prepared.map_err(StartError::other("certificates"))?);
    Ok(store)
}

/// How TLS is spoken with clients, if it is.
fn client_tls(
    config: &Config,
    streams: &StreamListeners,
    certificates: &Store,
) -> Result<Option<Arc<ClientTls>>, StartError> {
    if streams.tls.is_empty() {
        return Ok(None);
    }
    let tls = ClientTls::new(config.tls_min_version, certificates.for_clients());
    tls.map(|tls| Some(Arc::new(tls))).map_err(StartError::other("tls"))
}

/// A worker's streams, if it has listeners for them.
pub(super) fn of_worker(
    listeners: Vec<StreamListener>,
    options: &StreamOptions,
) -> Result<Option<Streams>, StartError> {
    if listeners.is_empty() {
        return Ok(None);
    }
    let streams = Streams::new(listeners, options.clone());
    streams.map(Some).map_err(StartError::system("listeners for TCP"))
}

/// How TLS is spoken with clients, if it is, and what each worker's streams are made of.
pub(super) fn options(
    config: &Config,
    listeners: &StreamListeners,
    certificates: &Store,
    proxies: &Arc<Proxies>,
) -> Result<(Option<Arc<ClientTls>>, StreamOptions), StartError> {
    let tls = client_tls(config, listeners, certificates)?;
    let shown = |tls: &Arc<ClientTls>| {
        let tls = Arc::clone(tls);
        Arc::new(move || tls.config()) as TlsConfig
    };
    let proxies = Arc::clone(proxies);
    let options = StreamOptions {
        limits: limits(config),
        tls: tls.as_ref().map(shown),
        proxies: Some(Arc::new(move |ip| proxies.is_trusted(ip)) as IsProxy),
        fallback: tls.as_ref().and_then(|tls| fallback(config, tls)),
        ..StreamOptions::default()
    };
    Ok((tls, options))
}

fn limits(config: &Config) -> StreamLimits {
    let total = descriptors::for_connections(config.workers.get(), config.max_connections.get());
    StreamLimits {
        total,
        per_source: config.max_connections_per_source.get(),
        opening: config.max_half_open.get(),
        opening_per_source: config.max_half_open_per_source.get(),
        opening_time: config.handshake_timeout,
        max_descriptor: descriptors::for_relay_sockets(),
        ..StreamLimits::default()
    }
}

/// Who takes what is not TURN's, if anybody does.
fn fallback(config: &Config, tls: &Arc<ClientTls>) -> Option<Fallback> {
    let tls = Arc::clone(tls);
    Some(Fallback {
        to: config.tls_fallback?,
        is_own_name: Arc::new(move |name| tls.has_name(name)),
        proxy_header: config.tls_fallback_proxy_protocol,
    })
}
