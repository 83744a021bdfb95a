//! One client as its worker knows it.

use std::net::UdpSocket;

use super::PeerChoice;
use super::schedule::Pace;
use super::stream::StreamLink;
use crate::session::{Session, State};
use crate::stats::Tracker;

/// A client's way to the server.
pub(super) enum Link {
    /// Datagrams.
    Udp(UdpSocket),
    /// A connection.
    Stream(Box<StreamLink>),
}

/// Bytes that wait in a client's connection from which on its packets wait, too: more than TCP itself takes
/// at once, less than a second of video.
const FULL_QUEUE_BYTES: usize = 64 << 10;

/// One client of a worker.
pub(super) struct Flow {
    pub id: u32,
    pub expected_sender: u32,
    pub group: usize,
    pub link: Option<Link>,
    pub session: Session,
    pub peer: PeerChoice,
    pub prefix: Vec<u8>,
    pub pace: Pace,
    pub tracker: Tracker,
    pub nominal_gap_ns: Option<u64>,
    pub even_port: Option<bool>,
    pub token_from: Option<usize>,
    pub armed_ns: u64,
    pub attempts: u32,
    pub started_ns: u64,
    pub first_sent_ns: u64,
    pub first_byte_done: bool,
    pub measured: Measured,
    pub drops_base: u64,
}

/// What of a flow's set-up has been recorded.
#[derive(Default)]
pub(super) struct Measured {
    pub allocated: bool,
    pub ready: bool,
    pub connected: bool,
}

impl Flow {
    /// Being set up; a client without an allocation is idle until it is connected.
    pub fn is_busy(&self) -> bool {
        match self.session.state() {
            State::Allocating | State::Binding => true,
            State::Idle => self.link.is_some(),
            _ => false,
        }
    }

    /// Its UDP socket, if it has one.
    pub fn socket(&self) -> Option<&UdpSocket> {
        match &self.link {
            Some(Link::Udp(socket)) => Some(socket),
            _ => None,
        }
    }

    /// Its connection, if it has one.
    pub fn stream(&mut self) -> Option<&mut StreamLink> {
        match &mut self.link {
            Some(Link::Stream(link)) => Some(link),
            _ => None,
        }
    }

    /// Whether its connection doesn't take more: the server reads too slowly, or the way is too narrow.
    pub fn is_blocked(&self) -> bool {
        matches!(&self.link, Some(Link::Stream(link)) if link.queued() >= FULL_QUEUE_BYTES)
    }

    pub fn is_settled(&self, first_byte: bool) -> bool {
        match self.session.state() {
            State::Ready => !first_byte || self.first_byte_done,
            State::Failed(_) => true,
            _ => false,
        }
    }
}
