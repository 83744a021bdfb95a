//! A session on a socket of its own that blocks: for clients that come one after another.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use crate::engine::mmsg::{Poller, mono_ns};
use crate::engine::stream::{Dial, Inbox, LinkError, StreamLink};
use crate::session::{Session, SetupError, State};
use crate::transport::Transport;

/// What carries a session's messages.
pub trait Carrier {
    /// Sends one; false if it is known not to have left.
    ///
    /// # Errors
    /// If there is no use in going on.
    fn send(&mut self, message: &[u8]) -> Result<bool, SetupError>;

    /// Waits for messages, not for long, and shows each.
    ///
    /// # Errors
    /// If there is no use in going on.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), SetupError>;
}

/// A connected socket with a read timeout: the session's own timers are looked at as often.
impl Carrier for UdpSocket {
    fn send(&mut self, message: &[u8]) -> Result<bool, SetupError> {
        Ok(Self::send(self, message).is_ok())
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), SetupError> {
        let mut buffer = [0; 2048];
        match self.recv(&mut buffer) {
            Ok(length) => take(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(SetupError::Refused(Transport::Udp));
            }
            Err(_) => {}
        }
        Ok(())
    }
}

/// A connection, waited for.
pub struct Connection {
    /// It itself.
    pub link: StreamLink,
    poller: Poller,
    inbox: Inbox,
    wait: Duration,
    transport: Transport,
}

impl Connection {
    /// Begins to connect. `wait` is how long [`Carrier::receive`] waits.
    ///
    /// # Errors
    /// If there is no socket, or nothing listens.
    pub fn open(server: SocketAddr, dial: &Dial<'_>, wait: Duration) -> Result<Self, SetupError> {
        let transport = if dial.tls.is_some() { Transport::Tls } else { Transport::Tcp };
        let link = StreamLink::connect(server, dial).map_err(|error| fault(error, transport))?;
        let socket = |error: io::Error| SetupError::Socket(error.to_string());
        let poller = Poller::new().map_err(socket)?;
        poller.add(link.fd(), 0).map_err(socket)?;
        Ok(Self { link, poller, inbox: Inbox::default(), wait, transport })
    }
}

fn fault(error: LinkError, transport: Transport) -> SetupError {
    match error {
        LinkError::Refused => SetupError::Refused(transport),
        error => SetupError::Connection(error),
    }
}

impl Carrier for Connection {
    fn send(&mut self, message: &[u8]) -> Result<bool, SetupError> {
        self.link.send(message);
        self.link.flush().map_err(|error| fault(error, self.transport))?;
        Ok(true)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), SetupError> {
        let writing = self.link.wants_write();
        self.poller
            .set_writing(self.link.fd(), 0, writing)
            .map_err(|error| SetupError::Socket(error.to_string()))?;
        let mut ready = Vec::new();
        self.poller.wait(self.wait.as_nanos() as u64, &mut ready);
        if ready.is_empty() {
            return Ok(());
        }
        let outcome = self.link.receive(&mut self.inbox);
        (0..self.inbox.len()).for_each(|index| take(self.inbox.message(index)));
        outcome.map_err(|error| fault(error, self.transport))
    }
}

/// Messages of one or more exchanges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Datagrams that came back.
    pub received: u64,
}

impl Exchanged {
    /// Exchanges messages until the session has reached `goal`.
    ///
    /// # Errors
    /// If the session fails, or nothing listens on the server's port.
    pub fn drive(
        &mut self,
        carrier: &mut dyn Carrier,
        session: &mut Session,
        goal: &State,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), SetupError> {
        while session.state() != goal {
            if let State::Failed(error) = session.state() {
                return Err(error.clone());
            }
            while let Some(message) = session.poll_transmit() {
                self.sent += u64::from(carrier.send(&message)?);
            }
            let before = self.received;
            carrier.receive(&mut |message| {
                self.received += 1;
                session.handle(mono_ns(), rng, message);
            })?;
            if self.received == before {
                session.handle_timeout(mono_ns(), rng);
            }
        }
        Ok(())
    }
}
