//! One client as its worker knows it.

use std::net::UdpSocket;

use super::PeerChoice;
use super::schedule::Pace;
use crate::session::{Session, State};
use crate::stats::Tracker;

/// One client of a worker.
pub(super) struct Flow {
    pub id: u32,
    pub expected_sender: u32,
    pub group: usize,
    pub socket: Option<UdpSocket>,
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
}

impl Flow {
    pub fn is_busy(&self) -> bool {
        matches!(self.session.state(), State::Allocating | State::Binding)
    }

    pub fn is_settled(&self, first_byte: bool) -> bool {
        match self.session.state() {
            State::Ready => !first_byte || self.first_byte_done,
            State::Failed(_) => true,
            _ => false,
        }
    }
}
