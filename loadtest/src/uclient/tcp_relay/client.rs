//! One client: its control connection, and the data connection that it binds (RFC 6062 section 4).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;

use crate::blocking::{Carrier, Connection};
use crate::engine::Plan;
use crate::engine::mmsg::mono_ns;
use crate::engine::stream::{Dial, StreamLink};
use crate::session::{Session, SessionConfig, SetupError, State};
use crate::stun_client::connection_attempt;

/// Longest wait for one message before another look at the time.
const WAIT: Duration = Duration::from_millis(20);

/// How long to go on.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) until: Instant,
    /// Ends it earlier.
    pub(super) stop: Option<&'a AtomicBool>,
}

impl Patience<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// A client.
pub(super) struct Client {
    pub(super) control: Connection,
    pub(super) session: Session,
    /// Bound: it carries what the peer's connection does.
    pub(super) data: Option<StreamLink>,
    /// Who has connected to the relayed address, with the CONNECTION-ID of each.
    attempts: Vec<(SocketAddr, u32)>,
}

impl Client {
    /// Begins to connect to the server.
    pub(super) fn open(plan: &Plan, config: &Arc<SessionConfig>) -> Result<Self, SetupError> {
        let dial = Dial {
            local: plan.local,
            device: plan.device.as_deref(),
            receive_buffer_bytes: None,
            tls: plan.tls.as_ref(),
        };
        let control = Connection::open(plan.server, &dial, WAIT)?;
        Ok(Self { control, session: Session::new(config.clone()), data: None, attempts: Vec::new() })
    }

    /// Exchanges messages until the session has reached `goal`.
    pub(super) fn drive(
        &mut self,
        goal: &State,
        patience: Patience<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), SetupError> {
        while self.session.state() != goal {
            if let State::Failed(error) = self.session.state() {
                return Err(error.clone());
            }
            self.turn(patience, rng)?;
        }
        Ok(())
    }

    /// Waits until `from` has connected to the relayed address; gives the CONNECTION-ID.
    pub(super) fn attempt(
        &mut self,
        from: SocketAddr,
        patience: Patience<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<u32, SetupError> {
        loop {
            if let Some((_, id)) = self.attempts.iter().find(|(peer, _)| *peer == from) {
                return Ok(*id);
            }
            self.turn(patience, rng).map_err(|error| match error {
                SetupError::Deadline => SetupError::NoAttempt(from),
                error => error,
            })?;
        }
    }

    fn turn(&mut self, patience: Patience<'_>, rng: &mut ChaCha8Rng) -> Result<(), SetupError> {
        if patience.is_over() {
            return Err(SetupError::Deadline);
        }
        let Self { control, session, attempts, .. } = self;
        while let Some(message) = session.poll_transmit() {
            control.send(&message)?;
        }
        control.receive(&mut |message| match connection_attempt(message) {
            Some(attempt) => attempts.push(attempt),
            None => drop(session.handle(mono_ns(), rng, message)),
        })?;
        session.handle_timeout(mono_ns(), rng);
        Ok(())
    }
}
