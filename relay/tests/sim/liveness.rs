//! A worker that stands still is seen: by health, readiness, and whoever feeds a watchdog.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use turnpike::banner::{DataPath, Ready};
use turnpike::config::resolve::Addresses;
use turnpike::config::{Config, Loader};
use turnpike::control::{Control, Parts, Users};
use turnpike::setup;
use turnpike::tls::store::Store;
use turnpike::worker::Worker;
use turnpike::worker::{ToWorker, WorkerHandle};
use turnpike_admin::{ManagedRelay, Scope, Settings, Tokens};
use turnpike_driver::Driver;
use turnpike_driver::choose::{Backend, Choice};
use turnpike_driver::clock;
use turnpike_driver::sim::{Impairment, SimDriver, SimNetwork};
use turnpike_offload::status::StatusCell;
use turnpike_proto::{Server, WorkerId};

use turnpike_testkit::http::{TOKEN, exchange};

/// Looks after which a worker that does not turn is said to stand still, and some more.
const LOOKS: usize = 12;

struct Bench {
    control: Arc<Control>,
    workers: Vec<Worker<SimDriver>>,
    admin: turnpike_admin::Running,
}

impl Bench {
    /// A relay whose workers turn when a test wants it.
    fn new(count: u16) -> Bench {
        let config = Config { realm: "example.org".to_owned(), ..Config::default() };
        let addresses = Addresses::default();
        let shared = setup::shared(&config, &addresses, &[], [7; 32], None).expect("a configuration");
        let network = SimNetwork::new(1, Impairment::NONE);
        let (mut handles, mut workers) = (Vec::new(), Vec::new());
        for number in 0..count {
            let driver = network.driver(usize::from(number), &[]);
            let (handle, told, status): (_, Receiver<ToWorker>, _) = WorkerHandle::new(driver.waker());
            let server = Server::new(Arc::clone(&shared), WorkerId(number), [8; 32]);
            workers.push(Worker::new(driver, server, told, status));
            handles.push(handle);
        }
        let io = Choice { backend: Backend::Epoll, why: "a test".to_owned() };
        let path = DataPath { name: "userspace", why: "a test".to_owned() };
        let ready = Ready::new(&config, [const { Vec::new() }; 3], Vec::new(), io, path);
        let control = Control::new(Parts {
            proxies: Arc::new(setup::proxies(&Config::default())),
            publics: Arc::default(),
            config,
            loader: Arc::new(Loader::new(None, [])),
            addresses,
            ready,
            shared,
            workers: handles,
            offload: Arc::new(StatusCell::off("a test")),
            users: Users::default(),
            certificates: Store::default(),
            tls: None,
        });
        let mut tokens = Tokens::default();
        tokens.add(TOKEN, [Scope::Admin]);
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = Settings { listen, tokens, hosts: Vec::new(), tls: None };
        let admin = turnpike_admin::start(settings, Arc::clone(&control) as _).expect("a port is free");
        Bench { control, workers, admin }
    }

    fn get(&self, path: &str) -> (u16, String) {
        exchange(TcpStream::connect(self.admin.address()).expect("it listens"), "GET", path, "")
    }
}

#[test]
fn a_worker_that_stands_still_makes_the_relay_unhealthy_and_not_ready() {
    let mut bench = Bench::new(2);
    let turn = |worker: &mut Worker<SimDriver>| worker.turn(clock::now(), 0);
    bench.workers.iter_mut().for_each(turn);
    assert!(bench.control.look_at_workers());
    assert_eq!(bench.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(bench.get("/readyz").0, 200);

    let all_turn: Vec<bool> = (0..LOOKS)
        .map(|_| {
            turn(&mut bench.workers[0]);
            bench.control.look_at_workers()
        })
        .collect();
    assert!(all_turn[..9].iter().all(|turn| *turn), "two seconds are needed: {all_turn:?}");
    assert!(!all_turn[LOOKS - 1], "the watchdog starves");
    assert_eq!(bench.control.faults().len(), 1);
    for path in ["/healthz", "/readyz"] {
        let (status, text) = bench.get(path);
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("worker 1 has not turned for"), "{text}");
    }

    bench.workers.iter_mut().for_each(turn);
    assert!(bench.control.look_at_workers());
    assert_eq!((bench.get("/healthz").0, bench.get("/readyz").0), (200, 200));
}
