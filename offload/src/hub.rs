//! Between the workers and the mirror: bindings one way, answers the other, nothing lost, nothing unbounded.
//!
//! ```text
//!   worker: Outbox ──► queue (bounded, one wake per batch) ──► mirror
//!           Outbox ◄── mailbox (the last word on each slot)  ◄──┘
//! ```
//!
//! What does not fit into the queue waits in the worker's own outbox, which holds at most two entries for
//! each slot: a slot is not used again before its withdrawal was answered. A mailbox holds at most one answer
//! for each slot: only the last one counts.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use turnpike_driver::Waker;
use turnpike_proto::{OffloadBinding, SlotName, WhyNot, WorkerId};

use super::limits::{MAX_ANSWERS, MAX_RECHECKS, MAX_TOLD};
use super::status::StatusCell;

/// What a worker wants of the mirror.
#[derive(Debug, PartialEq, Eq)]
pub enum ToMirror {
    /// Insert a binding's routes.
    Offload(Box<OffloadBinding>),
    /// Delete the routes of the binding in this slot.
    Withdraw(SlotName),
}

/// What the mirror says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The routes are in the kernel.
    Done(SlotName),
    /// They aren't, and why: userspace forwards.
    Failed(SlotName, WhyNot),
    /// They aren't any more, and no run of the program knows them.
    Withdrawn(SlotName),
}

impl Answer {
    fn name(&self) -> SlotName {
        match self {
            Answer::Done(name) | Answer::Failed(name, _) | Answer::Withdrawn(name) => *name,
        }
    }
}

/// What the mirror finds in its queue.
#[derive(Default)]
pub struct Work {
    /// What workers want, and which of them.
    pub told: Vec<(WorkerId, ToMirror)>,
    /// Destinations to which the way may have changed.
    pub rechecks: Vec<IpAddr>,
    /// There were more of those than are remembered.
    pub recheck_all: bool,
    /// Whether the mirror shall end.
    pub stop: bool,
}

/// Where workers and mirror meet: a queue for the mirror, and a mailbox for each worker.
pub struct Hub {
    queue: Mutex<Queue>,
    wake: OwnedFd,
    mailboxes: Vec<Mailbox>,
    status: Arc<StatusCell>,
}

#[derive(Default)]
struct Queue {
    told: VecDeque<(WorkerId, ToMirror)>,
    rechecks: Vec<IpAddr>,
    recheck_all: bool,
    /// Workers that have more than fitted.
    refused: HashSet<WorkerId>,
    stop: bool,
    /// The mirror has ended, and nothing of it is in the kernel.
    dead: bool,
}

#[derive(Default)]
struct Mailbox {
    answers: Mutex<HashMap<u32, Answer>>,
    waker: OnceLock<Arc<dyn Waker>>,
}

impl Hub {
    /// For that many workers.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn new(workers: usize, status: Arc<StatusCell>) -> io::Result<Arc<Hub>> {
        Ok(Arc::new(Hub {
            queue: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            status,
        }))
    }

    /// A worker's end; `waker` wakes it when there are answers. Each worker takes its own, once.
    pub fn outbox(self: &Arc<Hub>, worker: WorkerId, waker: Arc<dyn Waker>) -> Outbox {
        if let Some(mailbox) = self.mailboxes.get(worker.index()) {
            // Each worker has one end, so nobody was here before.
            let _ = mailbox.waker.set(waker);
        }
        Outbox {
            hub: Arc::clone(self),
            worker,
            waiting: VecDeque::new(),
            refused: 0,
            withdrawing: HashSet::new(),
            missed: 0,
        }
    }

    /// Takes at most `max` of what workers want, and everything else.
    pub fn take_work(&self, max: usize) -> Work {
        // Cleared before the queue is read: what comes later wakes again.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        let mut queue = self.queue();
        let count = queue.told.len().min(max);
        let told = queue.told.drain(..count).collect();
        let refused = std::mem::take(&mut queue.refused);
        let work = Work {
            told,
            rechecks: std::mem::take(&mut queue.rechecks),
            recheck_all: std::mem::take(&mut queue.recheck_all),
            stop: queue.stop,
        };
        let left = queue.told.len();
        drop(queue);
        self.status.set_queue(left);
        if left > 0 {
            self.wake();
        }
        refused.into_iter().for_each(|worker| self.wake_worker(worker));
        work
    }

    /// Hands answers out, with one wake for each worker.
    pub fn answer(&self, answers: &mut Vec<(WorkerId, Answer)>) {
        let mut workers = HashSet::new();
        for (worker, answer) in answers.drain(..) {
            let Some(mailbox) = self.mailboxes.get(worker.index()) else { continue };
            let mut waiting = mailbox.answers.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.insert(answer.name().slot, answer);
            workers.insert(worker);
        }
        workers.into_iter().for_each(|worker| self.wake_worker(worker));
    }

    /// Ends the mirror, after everything that is there.
    pub fn stop(&self) {
        self.queue().stop = true;
        self.wake();
    }

    /// The mirror has ended: from now on the workers answer themselves.
    pub fn set_dead(&self) {
        let mut queue = self.queue();
        queue.dead = true;
        queue.told.clear();
        drop(queue);
        (0..self.mailboxes.len()).for_each(|worker| self.wake_worker(WorkerId(worker as u16)));
    }

    fn wake(&self) {
        // Full only if it is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn wake_worker(&self, worker: WorkerId) {
        let mailbox = self.mailboxes.get(worker.index());
        if let Some(waker) = mailbox.and_then(|mailbox| mailbox.waker.get()) {
            waker.wake();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Hub {
    /// Readable when there is work.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// A worker's end of the hub.
pub struct Outbox {
    hub: Arc<Hub>,
    worker: WorkerId,
    /// What was not handed over yet.
    waiting: VecDeque<ToMirror>,
    /// How many of them the worker was told of already, from the front.
    refused: usize,
    /// Withdrawals that were not answered yet.
    withdrawing: HashSet<SlotName>,
    /// What was told by `note_missed` last.
    missed: u64,
}

impl Outbox {
    /// To be handed over by the next [`Outbox::flush`].
    pub fn offload(&mut self, binding: Box<OffloadBinding>) {
        self.waiting.push_back(ToMirror::Offload(binding));
    }

    /// To be handed over by the next [`Outbox::flush`].
    pub fn withdraw(&mut self, name: SlotName) {
        self.withdrawing.insert(name);
        self.waiting.push_back(ToMirror::Withdraw(name));
    }

    /// So many datagrams have come to this worker, since its start, that were the kernel's to forward.
    pub fn note_missed(&mut self, datagrams: u64) {
        if datagrams != self.missed {
            self.hub.status.add_missed(datagrams - std::mem::replace(&mut self.missed, datagrams));
        }
    }

    /// The way to a destination may have changed.
    pub fn recheck(&self, destination: IpAddr) {
        let mut queue = self.hub.queue();
        if queue.rechecks.len() >= MAX_RECHECKS {
            queue.recheck_all = true;
        } else if !queue.rechecks.contains(&destination) {
            queue.rechecks.push(destination);
        }
        drop(queue);
        self.hub.wake();
    }

    /// Hands over what fits. What doesn't is kept, and tried again when the mirror has made room; bindings
    /// among it are answered with `Busy` meanwhile.
    pub fn flush(&mut self) -> Vec<Answer> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let mut queue = self.hub.queue();
        if queue.dead {
            drop(queue);
            return self.answer_alone();
        }
        let room = MAX_TOLD.saturating_sub(queue.told.len()).min(self.waiting.len());
        let was_empty = queue.told.is_empty();
        queue.told.extend(self.waiting.drain(..room).map(|told| (self.worker, told)));
        if !self.waiting.is_empty() {
            queue.refused.insert(self.worker);
        }
        self.hub.status.set_queue(queue.told.len());
        drop(queue);
        if was_empty {
            self.hub.wake();
        }
        self.refused = self.refused.saturating_sub(room);
        let newly = self.waiting.iter().skip(self.refused);
        let busy = newly.filter_map(|told| match told {
            ToMirror::Offload(binding) => Some(Answer::Failed(binding.binding, WhyNot::Busy)),
            ToMirror::Withdraw(_) => None,
        });
        let busy = busy.collect();
        self.refused = self.waiting.len();
        busy
    }

    /// What the mirror has said since it was last asked, at most `MAX_ANSWERS`; with more of it the worker is
    /// woken again.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        if self.hub.queue().dead {
            return self.answer_alone();
        }
        let Some(mailbox) = self.hub.mailboxes.get(self.worker.index()) else { return Vec::new() };
        let mut waiting = mailbox.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answers: Vec<Answer> = match waiting.len() <= MAX_ANSWERS {
            true => std::mem::take(&mut *waiting).into_values().collect(),
            false => waiting.extract_if(|_, _| true).take(MAX_ANSWERS).map(|(_, answer)| answer).collect(),
        };
        let is_all = waiting.is_empty();
        drop(waiting);
        for answer in &answers {
            if let Answer::Withdrawn(name) = answer {
                self.withdrawing.remove(name);
            }
        }
        if !is_all {
            self.hub.wake_worker(self.worker);
        }
        answers
    }

    /// Without a mirror nothing is in the kernel.
    fn answer_alone(&mut self) -> Vec<Answer> {
        let mut answers: Vec<Answer> = self
            .waiting
            .drain(..)
            .filter_map(|told| match told {
                ToMirror::Offload(binding) => Some(Answer::Failed(binding.binding, WhyNot::Off)),
                ToMirror::Withdraw(_) => None,
            })
            .collect();
        self.refused = 0;
        let withdrawn = self.withdrawing.extract_if(|_| true).take(MAX_ANSWERS);
        answers.extend(withdrawn.map(Answer::Withdrawn));
        if !self.withdrawing.is_empty() {
            self.hub.wake_worker(self.worker);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use turnpike_proto::UserNumber;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Waker for Wakes {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn name(slot: u32) -> SlotName {
        SlotName { slot, generation: 1 }
    }

    fn binding(slot: u32) -> Box<OffloadBinding> {
        let address = "192.0.2.1:1".parse().unwrap();
        Box::new(OffloadBinding {
            binding: name(slot),
            allocation: name(0),
            client: address,
            server: address,
            relayed: address,
            peer: address,
            channel: 0x4000,
            internal: false,
            user: UserNumber(1),
        })
    }

    fn hub() -> (Arc<Hub>, Outbox, Arc<Wakes>) {
        let hub = Hub::new(1, Arc::default()).unwrap();
        let wakes = Arc::new(Wakes::default());
        let outbox = hub.outbox(WorkerId(0), Arc::clone(&wakes) as Arc<dyn Waker>);
        (hub, outbox, wakes)
    }

    #[test]
    fn commands_arrive_in_order_and_answers_with_one_wake() {
        let (hub, mut outbox, wakes) = hub();
        outbox.offload(binding(7));
        outbox.withdraw(name(7));
        assert_eq!(outbox.flush(), []);
        let work = hub.take_work(10);
        assert_eq!(
            work.told,
            [(WorkerId(0), ToMirror::Offload(binding(7))), (WorkerId(0), ToMirror::Withdraw(name(7)))]
        );
        hub.answer(&mut vec![
            (WorkerId(0), Answer::Done(name(6))),
            (WorkerId(0), Answer::Withdrawn(name(7))),
        ]);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        let mut answers = outbox.take_answers();
        answers.sort_by_key(Answer::name);
        assert_eq!(answers, [Answer::Done(name(6)), Answer::Withdrawn(name(7))]);
        assert_eq!(outbox.take_answers(), []);
    }

    #[test]
    fn a_full_queue_loses_nothing_and_says_so_once() {
        let (hub, mut outbox, wakes) = hub();
        (0..MAX_TOLD as u32).for_each(|slot| outbox.offload(binding(slot)));
        assert_eq!(outbox.flush(), []);
        outbox.offload(binding(20_000));
        outbox.withdraw(name(3));
        assert_eq!(outbox.flush(), [Answer::Failed(name(20_000), WhyNot::Busy)]);
        assert_eq!(outbox.flush(), [], "it was told already");
        assert_eq!(hub.take_work(usize::MAX).told.len(), MAX_TOLD);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "there is room now");
        assert_eq!(outbox.flush(), []);
        let rest = hub.take_work(usize::MAX).told;
        assert_eq!(
            rest,
            [(WorkerId(0), ToMirror::Offload(binding(20_000))), (WorkerId(0), ToMirror::Withdraw(name(3)))]
        );
    }

    #[test]
    fn a_turn_takes_a_bounded_number_of_answers_and_comes_back_for_the_rest() {
        let (hub, mut outbox, wakes) = hub();
        let count = 2 * MAX_ANSWERS as u32 + 1;
        (0..count).for_each(|slot| outbox.withdraw(name(slot)));
        outbox.flush();
        hub.answer(&mut (0..count).map(|slot| (WorkerId(0), Answer::Withdrawn(name(slot)))).collect());
        let taken: Vec<usize> = (0..4).map(|_| outbox.take_answers().len()).collect();
        assert_eq!(taken, [MAX_ANSWERS, MAX_ANSWERS, 1, 0]);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 3, "the answers, and what was left of them twice");
        (0..count).for_each(|slot| outbox.withdraw(name(slot)));
        hub.set_dead();
        let taken: Vec<usize> = (0..4).map(|_| outbox.take_answers().len()).collect();
        assert_eq!(taken, [MAX_ANSWERS, MAX_ANSWERS, 1, 0]);
    }

    #[test]
    fn without_a_mirror_workers_answer_themselves() {
        let (hub, mut outbox, wakes) = hub();
        outbox.withdraw(name(1));
        outbox.flush();
        hub.set_dead();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(outbox.take_answers(), [Answer::Withdrawn(name(1))], "it was under way");
        outbox.offload(binding(2));
        outbox.withdraw(name(2));
        assert_eq!(outbox.flush(), [Answer::Failed(name(2), WhyNot::Off), Answer::Withdrawn(name(2))]);
    }

    #[test]
    fn many_rechecks_become_one_for_all() {
        let (hub, outbox, _) = hub();
        for last in 0..=MAX_RECHECKS as u8 {
            outbox.recheck(IpAddr::from([192, 0, 2, last]));
            outbox.recheck(IpAddr::from([192, 0, 2, 0]));
        }
        let work = hub.take_work(1);
        assert!(work.recheck_all && work.rechecks.len() == MAX_RECHECKS);
    }
}
