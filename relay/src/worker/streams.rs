//! Clients over TCP and TLS: from their connections to the core, and back.
//!
//! ```text
//!   driver: StreamsReady ─► streams.turn ─► Message ─► the core, as a datagram ─► driver
//!                                       ├─► Idle ─► closed, unless it carries an allocation
//!                                       └─► Closed ─► Input::ClientGone
//!   datagrams of peers, answers ─► the connection's queue ─► sent at the turn's end
//! ```
//!
//! An allocation lives on the worker that has taken its client's connection. Data that waits in a stream is late by the
//! client's own network, not by this worker: `max-queue-delay` does not apply to it.

use std::io;
use std::os::fd::AsFd;

use turnpike_driver::Driver;
use turnpike_driver::streams::{CloseReason, StreamEvent, Streams};
use turnpike_proto::stats::UserspaceDrop;
use turnpike_proto::{ClientPath, ClientSocket, Input, Now};

use super::Worker;

impl<D: Driver> Worker<D> {
    /// Lets it have clients over TCP and TLS.
    ///
    /// # Errors
    /// If the driver can't watch them.
    pub fn with_streams(mut self, streams: Streams) -> io::Result<Self> {
        self.driver.watch(streams.as_fd().try_clone_to_owned()?)?;
        self.streams = Some(streams);
        Ok(self)
    }

    /// Reads what clients have sent by streams, if something is there or a deadline has come. Whether anything was done.
    pub(super) fn handle_streams(&mut self, now: Now, is_ready: bool) -> bool {
        let Some(streams) = &mut self.streams else { return false };
        let is_due = streams.poll_timeout().is_some_and(|due_ns| due_ns <= now.mono_ns);
        if !is_ready && !is_due {
            return false;
        }
        if let Err(error) = streams.turn(now.mono_ns, is_ready) {
            // Only without memory in the kernel; the next turn asks again.
            tracing::error!("clients over TCP and TLS could not be looked at: {error}");
        }
        self.handle_stream_events(now);
        self.handle_relayed(now);
        true
    }

    /// Sends what this turn has for clients, and sees who is gone by that.
    pub(super) fn flush_streams(&mut self, now: Now) {
        let is_over = self.stopping && self.server.table_counts().allocations == 0;
        let Some(streams) = &mut self.streams else { return };
        if is_over {
            // After the last allocation's end, so that it is a stop that has ended it.
            streams.stop(now.mono_ns);
        }
        streams.flush(now.mono_ns);
        self.handle_stream_events(now);
    }

    /// Tells what became of connections.
    pub(super) fn report_streams(&mut self, now: Now) {
        let Some(streams) = &self.streams else { return };
        let counters = streams.counters();
        self.notices.streams(now, &counters.closed, streams.fallback_fault());
        self.reporter.note_streams(&counters);
    }

    fn handle_stream_events(&mut self, now: Now) {
        let mut messages = 0;
        while let Some(event) = self.streams.as_mut().and_then(|streams| streams.next_event(now.mono_ns)) {
            match event {
                StreamEvent::Message { path, client, bytes } => {
                    messages += 1;
                    self.handle_stream_message(now, path, client, bytes);
                }
                StreamEvent::Idle(path) => {
                    if !self.server.has_allocation(&path.five_tuple)
                        && let Some(streams) = &mut self.streams
                    {
                        streams.close(now.mono_ns, path.socket, CloseReason::Idle);
                    }
                }
                StreamEvent::Dropped { path, drops } => {
                    self.server.count_stream_drops(&path, UserspaceDrop::StreamQueueFull, drops.full);
                    self.server.count_stream_drops(&path, UserspaceDrop::StreamQueueAge, drops.old);
                    self.server.count_stream_drops(&path, UserspaceDrop::StreamClosed, drops.closed);
                }
                StreamEvent::Closed { path, .. } => self.handle(now, Input::ClientGone(path)),
            }
        }
        self.driver.count_messages(messages);
    }

    /// Queues what the core has for a client of a stream.
    pub(super) fn answer_stream(&mut self, now: Now, socket: ClientSocket, payload: &[u8]) {
        let is_queued = self.streams.as_mut().is_some_and(|streams| match payload {
            // A Data indication (RFC 8656 s. 11.4): media that may be dropped, unlike answers.
            [0x00, 0x17, ..] => streams.send_media(now.mono_ns, socket, [payload, &[]], 0),
            _ => streams.send_answer(now.mono_ns, socket, payload),
        });
        if !is_queued {
            self.count_closed();
        }
    }

    /// A limit has dropped what its client will never repeat.
    pub(super) fn close_stream(&mut self, now: Now, path: ClientPath) {
        if let Some(streams) = &mut self.streams {
            streams.close(now.mono_ns, path.socket, CloseReason::Limited);
        }
    }

    /// Something was for a client that is gone, and its allocation with it.
    pub(super) fn count_closed(&mut self) {
        self.server.count_userspace(UserspaceDrop::StreamClosed, 1);
    }

    /// Whether all streams are closed.
    pub(super) fn streams_are_closed(&self) -> bool {
        self.streams.as_ref().is_none_or(Streams::is_empty)
    }
}
