//! A session on a socket of its own that blocks: for clients that come one after another.

use std::io;
use std::net::UdpSocket;

use rand_chacha::ChaCha8Rng;

use crate::engine::mmsg::mono_ns;
use crate::session::{Session, SetupError, State};

/// Datagrams of one or more exchanges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
}

impl Exchanged {
    /// Exchanges messages until the session has reached `goal`. The socket is connected, and has a read
    /// timeout: the session's own timers are looked at as often.
    ///
    /// # Errors
    /// If the session fails, or nothing listens on the server's port.
    pub fn drive(
        &mut self,
        socket: &UdpSocket,
        session: &mut Session,
        goal: &State,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), SetupError> {
        let mut buffer = [0; 2048];
        while session.state() != goal {
            if let State::Failed(error) = session.state() {
                return Err(error.clone());
            }
            while let Some(datagram) = session.poll_transmit() {
                self.sent += u64::from(socket.send(&datagram).is_ok());
            }
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    self.received += 1;
                    session.handle(mono_ns(), rng, &buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(SetupError::Refused);
                }
                Err(_) => session.handle_timeout(mono_ns(), rng),
            }
        }
        Ok(())
    }
}
