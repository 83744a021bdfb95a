//! The driver for every Linux: epoll, recvmmsg and sendmmsg.
//!
//! A turn waits once, then takes a bounded number of datagrams from each socket that has any,
//! listeners first. Buffers belong to the driver: sockets cost nothing but themselves. What is
//! to be sent is queued as ranges of those buffers and leaves at the turn's end with one system
//! call per socket and batch.
//!
//! It decides nothing about TURN, and nothing that a peer sends can close or disable a socket.
#![allow(unsafe_code)]
// The kernel's length fields have other widths in other C libraries.
#![allow(clippy::unnecessary_cast)]

mod poller;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use turnpike_proto::RelaySocket;

use self::poller::Poller;
use crate::kernel::errors::drain_errors;
use crate::kernel::recv::Receiver;
use crate::limits::{MAX_LISTENERS, MAX_READY, RECEIVED_PER_CALL, RELAY_DATAGRAMS, STRANGER_DATAGRAMS};
use crate::mechanism::{Base, Mechanism};
use crate::reserved::Reserved;
use crate::sockets::{ListenerSocket, SocketOptions};
use crate::strangers::Strangers;
use crate::{Driver, Event, HeldSocket, SocketName, clock};

/// The waker's token.
const WAKER_TOKEN: u64 = u64::MAX;
const WATCHED_TOKEN: u64 = u64::MAX - 1;
/// Listener `i` has this token less `i`. Relay sockets have their generation in the upper half and
/// an index below [`MAX_RELAY_SOCKETS`](crate::limits::MAX_RELAY_SOCKETS) in the lower one, so they never come near.
const LISTENER_TOKEN: u64 = u64::MAX - 2;
/// The socket for strangers of listener `i` has this token less `i`.
const STRANGERS_TOKEN: u64 = LISTENER_TOKEN - MAX_LISTENERS as u64;

/// A relay socket that epoll reported.
#[derive(Clone, Copy)]
struct ReadyRelay {
    relay: RelaySocket,
    has_error: bool,
    has_data: bool,
}

/// The epoll driver of one worker.
pub struct EpollDriver {
    base: Base,
    poller: Poller,
    /// The pool's first buffer that this turn has not used.
    next_buffer: usize,
    receiver: Receiver,
    ready_listeners: Vec<bool>,
    ready_relays: Vec<ReadyRelay>,
    strangers: Strangers,
    /// More waits than this turn took.
    has_more: bool,
}

impl EpollDriver {
    /// Makes a driver for these listeners: their order gives their
    /// [`ClientSocket`](turnpike_proto::ClientSocket) numbers, from 0.
    ///
    /// # Errors
    /// If there are more than 64 listeners, or the system has no descriptors left.
    pub fn new(listeners: Vec<ListenerSocket>, options: SocketOptions) -> io::Result<EpollDriver> {
        let count = listeners.len();
        let base = Base::new(
            listeners,
            options,
            count * RECEIVED_PER_CALL + RELAY_DATAGRAMS + STRANGER_DATAGRAMS,
            options.datagram_bytes,
        )?;
        let poller = Poller::new(MAX_READY)?;
        poller.add(base.waker.as_fd(), WAKER_TOKEN)?;
        for (listener, index) in base.sockets.listeners.iter().zip(0..) {
            poller.add(listener.socket.as_fd(), LISTENER_TOKEN - index)?;
            if let Some(strangers) = listener.socket.strangers() {
                poller.add(strangers, STRANGERS_TOKEN - index)?;
            }
        }
        Ok(EpollDriver {
            base,
            poller,
            next_buffer: 0,
            receiver: Receiver::new(0),
            ready_listeners: vec![false; count],
            ready_relays: Vec::with_capacity(MAX_READY),
            strangers: Strangers::new(count * RECEIVED_PER_CALL + RELAY_DATAGRAMS, 0),
            has_more: false,
        })
    }

    /// Shares the ports that are kept with other workers' drivers.
    #[must_use]
    pub fn with_reserved(mut self, reserved: Arc<Reserved>) -> Self {
        self.base.reserved = reserved;
        self
    }

    /// Sorts what epoll reported; whether the waker was called.
    fn sort_ready(&mut self) -> bool {
        // With more ready than fit, listeners and waker may be among those left out. All clients
        // share the listeners, so they are asked in every turn however many relay sockets are busy.
        let ask_all = self.poller.is_saturated();
        let mut is_woken = ask_all;
        let mut has_streams = ask_all && self.base.watched.is_some();
        self.ready_listeners.fill(ask_all);
        self.ready_relays.clear();
        for (token, mask) in self.poller.ready() {
            if token == WAKER_TOKEN {
                is_woken = true;
            } else if token == WATCHED_TOKEN {
                has_streams = true;
            } else if let Some(ready) = self.ready_listeners.get_mut((LISTENER_TOKEN - token) as usize) {
                *ready = true;
            } else if STRANGERS_TOKEN - token < MAX_LISTENERS as u64 {
                self.strangers.note_ready((STRANGERS_TOKEN - token) as u32);
            } else {
                self.ready_relays.push(ReadyRelay {
                    relay: relay_of(token),
                    has_error: mask & libc::EPOLLERR as u32 != 0,
                    has_data: mask & libc::EPOLLIN as u32 != 0,
                });
            }
        }
        if ask_all {
            (0..self.ready_listeners.len()).for_each(|index| self.strangers.note_ready(index as u32));
        }
        if has_streams {
            self.base.streams_are_ready();
        }
        is_woken && self.base.waker.take()
    }

    fn receive_from_listener(&mut self, index: usize) {
        let listener = &self.base.sockets.listeners[index].socket;
        let port = listener.local_addr().port();
        let first = self.next_buffer;
        let count = self.receiver.receive(listener.as_fd(), &mut self.base.pool, first, RECEIVED_PER_CALL);
        for offset in 0..count {
            match self.receiver.received(offset, port) {
                Some(received) => self.base.received_by_listener(index as u32, &received, first + offset),
                None => self.base.received_unaddressed(),
            }
        }
        self.next_buffer += count;
        self.has_more |= count == RECEIVED_PER_CALL;
    }

    /// Takes each ready relay socket's errors and a fair share of its datagrams.
    fn receive_from_relays(&mut self) {
        let mut budget = RELAY_DATAGRAMS;
        for place in 0..self.ready_relays.len() {
            let ready = self.ready_relays[place];
            if ready.has_error {
                self.receive_errors(ready.relay);
            }
            if ready.has_data {
                let share = (budget / (self.ready_relays.len() - place)).clamp(1, RECEIVED_PER_CALL);
                budget -= self.receive_from_relay(ready.relay, share.min(budget));
            }
        }
        self.has_more |= budget == 0;
    }

    /// Returns how many datagrams there were.
    fn receive_from_relay(&mut self, relay: RelaySocket, share: usize) -> usize {
        let Some(socket) = self.base.sockets.relay(relay) else { return 0 };
        let first = self.next_buffer;
        let count = self.receiver.receive(socket.as_fd(), &mut self.base.pool, first, share);
        for offset in 0..count {
            // A relay socket does not ask for the destination: its port matters to nobody.
            match self.receiver.received(offset, 0) {
                Some(received) => self.base.received_by_relay(relay, &received, first + offset),
                None => self.base.received_unaddressed(),
            }
        }
        self.next_buffer += count;
        count
    }

    fn receive_errors(&mut self, relay: RelaySocket) {
        if let Some(socket) = self.base.sockets.relay(relay) {
            drain_errors(socket, relay, &mut self.base.events);
        }
    }

    /// Waits for something to happen; with nothing there, first a little without looking if that lets more
    /// of it gather.
    fn wait_until_ready(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if let Some(pause) = self.base.pause(timeout) {
            self.poller.wait(Some(Duration::ZERO))?;
            if self.poller.has_ready() {
                self.base.woke();
                return Ok(());
            }
            self.base.coalescer.begin(clock::monotonic_ns());
            // Sleeping outside of epoll, so that what arrives meanwhile doesn't wake this thread.
            std::thread::sleep(pause);
        }
        let longest = self.base.longest_wait(timeout);
        self.poller.wait(longest)?;
        self.base.woke();
        if self.base.is_idle_after(self.poller.has_ready()) {
            self.base.release_memory();
        }
        Ok(())
    }
}

impl Mechanism for EpollDriver {
    const PREFIX_BYTES: usize = 0;

    fn base(&self) -> &Base {
        &self.base
    }

    fn base_mut(&mut self) -> &mut Base {
        &mut self.base
    }

    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.flush();
        self.base.begin_events();
        (self.next_buffer, self.has_more) = (0, false);
        let timeout = if self.base.events.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.wait_until_ready(timeout)?;
        if self.sort_ready() {
            self.base.events.push(Event::Woken);
        }
        for index in 0..self.ready_listeners.len() {
            if self.ready_listeners[index] {
                self.receive_from_listener(index);
            }
        }
        self.receive_from_relays();
        let of_strangers = self.strangers.receive(&mut self.base, self.has_more);
        self.base.count_datagrams(self.next_buffer + of_strangers);
        Ok(())
    }

    fn start(&mut self, relay: RelaySocket, socket: &Socket) -> io::Result<()> {
        if self.base.is_paused {
            // Taken up with all others.
            return Ok(());
        }
        self.poller.add(socket.as_fd(), relay_token(relay))
    }

    fn close(&mut self, relay: RelaySocket) {
        self.base.close(relay);
    }

    fn let_go(&mut self) -> io::Result<()> {
        self.base.sockets.all().try_for_each(|held| self.poller.remove(held.socket))
    }

    fn has_let_go(&self) -> bool {
        true
    }

    fn take_up(&mut self, listeners: bool) -> io::Result<()> {
        let token = |name| match name {
            SocketName::Listener(index) => LISTENER_TOKEN - u64::from(index),
            SocketName::Strangers(index) => STRANGERS_TOKEN - u64::from(index),
            SocketName::Relay(relay) => relay_token(relay),
        };
        let is_meant = |held: &HeldSocket<'_>| listeners || matches!(held.name, SocketName::Relay(_));
        let mut meant = self.base.sockets.all().filter(is_meant);
        meant.try_for_each(|held| self.poller.add(held.socket, token(held.name)))
    }

    fn start_watching(&mut self) -> io::Result<()> {
        self.base.watched.as_ref().map_or(Ok(()), |watched| self.poller.add(watched.as_fd(), WATCHED_TOKEN))
    }

    fn send(&mut self) {
        let Base { queue, pool, sockets, counters, .. } = &mut self.base;
        queue.send_all(pool, sockets, counters);
    }
}

/// The name of a relay socket as one number.
fn relay_token(relay: RelaySocket) -> u64 {
    u64::from(relay.generation) << 32 | u64::from(relay.index)
}

/// The relay socket of that name.
fn relay_of(token: u64) -> RelaySocket {
    RelaySocket { index: token as u32, generation: (token >> 32) as u32 }
}
