//! Workers on threads of their own, each with a listener of its own for TCP and TLS: a client chooses its worker.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::ClientConfig;
use turnpike::config::resolve::Addresses;
use turnpike::config::{Config, Hidden, Secret, User};
use turnpike::setup;
use turnpike::worker::handover::Handover;
use turnpike::worker::{Order, Report, Status, Worker, WorkerHandle};
use turnpike_driver::epoll::EpollDriver;
use turnpike_driver::sockets::{ListenerSocket, SocketOptions};
use turnpike_driver::streams::{Offer, StreamOptions, Streams, bind_stream_listeners};
use turnpike_driver::uring::{self, UringDriver};
use turnpike_driver::{Driver, clock};
use turnpike_proto::shared::Shared;
use turnpike_proto::{Now, Server, WorkerId};
use turnpike_testkit::certificate::{Certificate, tls};
use turnpike_testkit::stream::StreamClient;
use turnpike_testkit::{PASSWORD, USER, becomes_true, skip};
use zeroize::Zeroizing;

/// Where everything is.
pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A relay.
pub struct Relay {
    /// The workers' listeners, in their order.
    pub listeners: Vec<SocketAddr>,
    /// How its clients speak TLS.
    tls: Arc<ClientConfig>,
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// Its configuration.
    pub config: Config,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its workers.
    pub workers: Vec<WorkerHandle>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// How far the workers' clocks are ahead, nanoseconds.
    ahead_ns: Arc<AtomicU64>,
}

impl Relay {
    /// So many workers with this configuration, which know the usual user and reach this machine.
    pub fn start<D: Driver + Send + 'static>(
        make: impl Fn(Vec<ListenerSocket>, SocketOptions) -> io::Result<D>,
        count: u16,
        config: &Config,
    ) -> Relay {
        let offer = Offer { plain: true, tls: true };
        let bind = || bind_stream_listeners((HERE, 0).into(), 1, offer).expect("a free port");
        let bound: Vec<_> = (0..count).map(|_| bind()).collect();
        let listeners: Vec<_> = bound.iter().map(|own| own[0].local_addr()).collect();
        let certificate = Certificate::new(&["localhost"]);
        let server = Arc::new(certificate.server());
        let options =
            StreamOptions { tls: Some(Arc::new(move || Arc::clone(&server))), ..Default::default() };
        let user = User { name: USER.to_owned(), password: Secret::new(Zeroizing::new(PASSWORD.to_owned())) };
        let config = Config {
            realm: "example.org".to_owned(),
            users: Hidden(vec![user]),
            allow_loopback_peers: true,
            ..config.clone()
        };
        let addresses =
            Addresses { listen: listeners.clone(), relay: vec![HERE.into()], ..Default::default() };
        let shared = setup::shared(&config, &addresses, &listeners, [7; 32], None).expect("a good user");
        let ahead_ns = Arc::new(AtomicU64::new(0));
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for ((number, own), handover) in (0..).zip(bound).zip(Handover::between(count.into())) {
            let streams = Streams::new(own, options.clone()).expect("descriptors");
            let server = Server::new(Arc::clone(&shared), WorkerId(number), [number as u8; 32]);
            let driver = make(Vec::new(), SocketOptions::default()).expect("a driver");
            let (handle, told, status) = WorkerHandle::new(driver.waker());
            let worker = Worker::new(driver, server, told, status).with_handover(handover);
            let mut worker = worker.with_streams(streams).expect("it can be watched");
            let ahead_ns = Arc::clone(&ahead_ns);
            let now = move || {
                let now = clock::now();
                Now { mono_ns: now.mono_ns + ahead_ns.load(Ordering::Relaxed), ..now }
            };
            threads.push(thread::spawn(move || worker.run(now)));
            workers.push(handle);
        }
        let tls = Arc::new(certificate.client());
        Relay { listeners, tls, shared, config, addresses, workers, threads, ahead_ns }
    }

    /// What all workers have counted together.
    pub fn count(&self, of: impl Fn(&Report) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(&worker.status.report())).sum()
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Relay) -> bool) {
        let is_so = becomes_true(|| holds(self));
        assert!(is_so, "{what}: {:?}", self.workers.iter().map(|it| it.status.report()).collect::<Vec<_>>());
    }

    /// The workers' clocks go forward at once.
    pub fn skip_time(&self, time: Duration) {
        self.ahead_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        self.workers.iter().for_each(WorkerHandle::wake);
    }

    /// Ends it as SIGTERM does; nothing is left but what the workers have counted.
    pub fn stop(self) -> Vec<Arc<Status>> {
        self.workers.iter().for_each(|worker| worker.send(Order::Stop).expect("it lives"));
        for thread in self.threads {
            thread.join().expect("no panic").expect("no error");
        }
        assert_eq!(self.shared.ports_taken(), 0);
        self.workers.into_iter().map(|worker| worker.status).collect()
    }

    /// A client of a worker.
    pub fn client(&self, worker: usize, is_tls: bool) -> StreamClient {
        let tls = is_tls.then(|| tls(Arc::clone(&self.tls), "localhost"));
        StreamClient::connect(self.listeners[worker], tls).expect("it listens")
    }
}

/// Runs a test on each driver.
pub fn on_both(workers: u16, config: &Config, test: impl Fn(Relay)) {
    test(Relay::start(EpollDriver::new, workers, config));
    match uring::probe() {
        Ok(()) => test(Relay::start(UringDriver::new, workers, config)),
        Err(why) => skip("streams on io_uring", &format!("there is no io_uring: {why}")),
    }
}
