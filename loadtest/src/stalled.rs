//! Clients over TCP that are set up and then never read: what waits for them is the server's affair.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::blocking::{Connection, Exchanged};
use crate::engine::mmsg::mono_ns;
use crate::engine::stream::{Dial, StreamLink};
use crate::session::{Session, SessionConfig, SetupError, State};

/// Longest wait for one message during the set-up.
const WAIT: Duration = Duration::from_millis(20);
/// Receive buffer of each connection, bytes: the sooner it is full, the sooner the server has to keep what comes.
const RECEIVE_BUFFER_BYTES: usize = 4096;

/// What is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's TCP address.
    pub server: SocketAddr,
    /// Local address of the clients.
    pub local: Option<IpAddr>,
    /// The clients' sessions.
    pub session: Arc<SessionConfig>,
    /// The peer that each has a channel to.
    pub peer: SocketAddr,
    /// How many.
    pub clients: usize,
}

/// Clients with a channel each, whose sockets nobody looks at. Their connections, and with them their allocations,
/// end when this is dropped.
#[derive(Debug)]
pub struct Stalled {
    clients: Vec<(StreamLink, SocketAddr)>,
}

impl Stalled {
    /// Sets one up after the other; fewer of them if `stop` is raised.
    ///
    /// # Errors
    /// Of the first that can't be.
    pub fn set_up(settings: &Settings, stop: &AtomicBool) -> Result<Self, SetupError> {
        let mut rng = ChaCha8Rng::from_os_rng();
        let mut clients = Vec::new();
        while clients.len() < settings.clients && !stop.load(Ordering::Relaxed) {
            clients.push(client(settings, &mut rng)?);
        }
        Ok(Self { clients })
    }

    /// Where the peer reaches each.
    pub fn relayed(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.clients.iter().map(|(_, relayed)| *relayed)
    }
}

fn client(settings: &Settings, rng: &mut ChaCha8Rng) -> Result<(StreamLink, SocketAddr), SetupError> {
    let dial =
        Dial { local: settings.local, receive_buffer_bytes: Some(RECEIVE_BUFFER_BYTES), ..Dial::default() };
    let mut connection = Connection::open(settings.server, &dial, WAIT)?;
    let mut session = Session::new(Arc::clone(&settings.session));
    session.start(mono_ns(), rng, None, None);
    let mut exchanged = Exchanged::default();
    exchanged.drive(&mut connection, &mut session, &State::Allocated, rng)?;
    session.bind(mono_ns(), rng, settings.peer);
    exchanged.drive(&mut connection, &mut session, &State::Ready, rng)?;
    let relayed = session.relayed().ok_or(SetupError::NoRelayedAddress)?;
    Ok((connection.link, relayed))
}
