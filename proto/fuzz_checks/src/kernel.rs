//! A double of what fills the kernel's maps: it answers late, repeatedly, out of order, or not at all.
//!
//! Checks by itself what has to hold for every history: names are never mixed up, and what is withdrawn has
//! lost its lease before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use turnpike_proto::shared::plane::PlainMemory;
use turnpike_proto::{Input, OffloadBinding, PlaneMemory, SlotName, WhyNot};

/// How much earlier than a thing ends its lease does, nanoseconds.
const MARGIN_NS: u64 = 20_000_000;
/// Names remembered after they have lost their meaning.
const MAX_STALE: usize = 16;

/// A binding that it was told of, and by which worker.
pub type Told = (usize, OffloadBinding);

/// The double.
pub struct Kernel {
    /// Leave what is told unanswered.
    pub hold: bool,
    memory: Arc<PlainMemory>,
    told: Vec<Told>,
    /// Told to be forgotten.
    withdrawing: Vec<Told>,
    unanswered: Vec<(usize, SlotName)>,
    stale: Vec<(usize, SlotName)>,
}

impl Kernel {
    /// Over this memory.
    pub fn new(memory: Arc<PlainMemory>) -> Self {
        let lists = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (told, withdrawing, unanswered, stale) = lists;
        Self { hold: false, memory, told, withdrawing, unanswered, stale }
    }

    /// What it shares with the core.
    pub fn memory(&self) -> &Arc<PlainMemory> {
        &self.memory
    }

    /// Bindings that it was told of and not told to forget.
    pub fn told(&self) -> &[Told] {
        &self.told
    }

    /// Whether it owes no answer.
    pub fn is_quiet(&self) -> bool {
        self.withdrawing.is_empty()
    }

    /// The server offloads a binding.
    pub fn offload(&mut self, worker: usize, binding: OffloadBinding) {
        let others = self.told.iter().chain(&self.withdrawing);
        let mut others = others.map(|(_, other)| other);
        assert!(others.all(|other| other.binding.slot != binding.binding.slot), "a slot has one owner");
        let words = &self.memory.bindings()[binding.binding.slot as usize];
        assert_ne!(binding.binding.generation, 0);
        for entry in [&words.to_peer, &words.to_client] {
            assert_eq!(entry.generation.load(Relaxed), u64::from(binding.binding.generation));
        }
        let words = &self.memory.allocations()[binding.allocation.slot as usize];
        for direction in [&words.to_peer, &words.to_client] {
            assert_eq!(direction.generation.load(Relaxed), u64::from(binding.allocation.generation));
            assert_ne!(direction.lease_ns.load(Relaxed), 0);
        }
        self.told.push((worker, binding));
        self.unanswered.push((worker, binding.binding));
    }

    /// The server withdraws a binding.
    pub fn withdraw(&mut self, worker: usize, name: SlotName) {
        let at = self.told.iter().position(|(w, told)| (*w, told.binding) == (worker, name));
        let told = self.told.remove(at.expect("what is withdrawn was offloaded, by the same worker"));
        self.withdrawing.push(told);
    }

    /// What it owes a worker, if it answers at all.
    pub fn answer(&mut self, worker: usize) -> Option<Input<'static>> {
        if self.hold {
            return None;
        }
        if let Some(at) = self.unanswered.iter().position(|(w, _)| *w == worker) {
            return Some(Input::OffloadDone(self.unanswered.remove(at).1));
        }
        let at = self.withdrawing.iter().position(|(w, _)| *w == worker)?;
        Some(self.forget(at).1)
    }

    /// An answer that nobody waits for, or that comes before others that are due.
    pub fn odd_answer(&mut self, pick: usize, why_not: usize) -> Option<(usize, Input<'static>)> {
        let why_not = WhyNot::ALL[why_not % WhyNot::ALL.len()];
        let one_of = |list: &[Told]| list.get(pick / 8 % list.len().max(1)).map(|(w, b)| (*w, b.binding));
        match pick % 8 {
            0 | 1 => one_of(&self.told).map(|(w, name)| (w, Input::OffloadFailed(name, why_not))),
            2 => one_of(&self.told).map(|(w, name)| (w, Input::OffloadDone(name))),
            // It is not being withdrawn: that must not free anything.
            3 => one_of(&self.told).map(|(w, name)| (w, Input::OffloadWithdrawn(name))),
            4 | 5 if !self.withdrawing.is_empty() => Some(self.forget(pick / 8 % self.withdrawing.len())),
            other => {
                let (worker, name) = *self.stale.get(pick / 8 % self.stale.len().max(1))?;
                Some((
                    worker,
                    match other {
                        6 => Input::OffloadDone(name),
                        7 => Input::OffloadFailed(name, why_not),
                        _ => Input::OffloadWithdrawn(name),
                    },
                ))
            }
        }
    }

    fn forget(&mut self, at: usize) -> (usize, Input<'static>) {
        let (worker, binding) = self.withdrawing.remove(at);
        self.stale.push((worker, binding.binding));
        if self.stale.len() > MAX_STALE {
            self.stale.remove(0);
        }
        (worker, Input::OffloadWithdrawn(binding.binding))
    }

    /// No binding's lease reaches beyond its end, none is left of what is withdrawn, and every port that a
    /// live route leads to is kept. `ends_ns` gives when a binding ends, if it has not.
    pub fn check(
        &self,
        now_ns: u64,
        ends_ns: impl Fn(&OffloadBinding) -> Option<u64>,
        is_open: impl Fn(usize, SocketAddr) -> bool,
    ) {
        let lease = |binding: &OffloadBinding| {
            let words = &self.memory.bindings()[binding.binding.slot as usize];
            let [to_peer, to_client] =
                [&words.to_peer, &words.to_client].map(|entry| entry.lease_ns.load(Relaxed));
            assert_eq!(to_peer, to_client);
            to_peer
        };
        for (worker, binding) in &self.told {
            match ends_ns(binding) {
                Some(ends_ns) => assert_eq!(lease(binding), ends_ns - MARGIN_NS, "{binding:?}"),
                None => assert!(lease(binding) <= now_ns, "{binding:?} is over, and nobody has ticked"),
            }
            assert!(is_open(*worker, binding.relayed), "{binding:?} has lost its port");
        }
        // Their ports may have gone to others by now: whoever has no lease reaches nobody.
        for (_, binding) in &self.withdrawing {
            assert_eq!(lease(binding), 0);
        }
    }
}
