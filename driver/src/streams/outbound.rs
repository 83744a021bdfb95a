//! What waits to be sent to one client.
//!
//! Media that comes too late is of no use to anybody, so it is bounded by age and bytes, and its oldest frames are
//! dropped; answers are few, wanted, and never dropped. A frame that was begun is always finished: nothing that is
//! dropped here has been encrypted, or sent in part.
//!
//! ```text
//!   begun (a frame's rest, TLS records) ─► answers ─► media, oldest first
//! ```

use std::collections::VecDeque;

/// What one connection may have waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Media that has waited for longer is dropped, nanoseconds.
    pub max_age_ns: u64,
    /// Media beyond this drops the oldest, bytes.
    pub max_media_bytes: usize,
    /// Answers beyond this end the connection, bytes.
    pub max_answer_bytes: usize,
}

impl Default for QueueLimits {
    /// 150 ms: what a call's jitter buffer still takes. 256 KiB: an I-frame of 4K video. 32 KiB: some hundred answers,
    /// more than any client asks for at once.
    fn default() -> Self {
        Self { max_age_ns: 150_000_000, max_media_bytes: 256 << 10, max_answer_bytes: 32 << 10 }
    }
}

/// Media frames that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Because there was more than the queue holds.
    pub full: u64,
    /// Because they had waited for too long.
    pub old: u64,
    /// Because the connection was closed.
    pub closed: u64,
}

/// The queue of one connection. Empty it owns no memory.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    begun: Bytes,
    answers: Bytes,
    media: Bytes,
    /// The frames in `media`, oldest first.
    frames: VecDeque<Frame>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    queued_ns: u64,
    len: u32,
}

impl Outbound {
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.answers.is_empty() && self.media.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.begun.len() + self.answers.len() + self.media.len()
    }

    /// Whether something was begun that has to be finished first.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Bytes of memory that it holds.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.begun.bytes.capacity() + self.answers.bytes.capacity() + self.media.bytes.capacity()
    }

    /// Queues an answer; `false` if there is no room for it.
    pub(super) fn push_answer(&mut self, answer: &[u8], limits: &QueueLimits) -> bool {
        let fits = self.answers.len() + answer.len() <= limits.max_answer_bytes;
        if fits {
            self.answers.push(answer);
        }
        fits
    }

    /// Queues a media frame, given in parts and with zeros behind it; drops older ones where it must.
    pub(super) fn push_media(
        &mut self,
        now_ns: u64,
        parts: [&[u8]; 2],
        padding_len: usize,
        limits: &QueueLimits,
    ) -> Dropped {
        let mut dropped = Dropped { old: self.drop_old(now_ns, limits), ..Dropped::default() };
        let len = parts[0].len() + parts[1].len() + padding_len;
        while !self.frames.is_empty() && self.media.len() + len > limits.max_media_bytes {
            self.drop_oldest();
            dropped.full += 1;
        }
        if len > limits.max_media_bytes {
            dropped.full += 1;
            return dropped;
        }
        parts.iter().for_each(|part| self.media.push(part));
        self.media.push(&[0; 4][..padding_len]);
        self.frames.push_back(Frame { queued_ns: now_ns, len: len as u32 });
        dropped
    }

    /// Drops what has waited for too long; how many frames.
    pub(super) fn drop_old(&mut self, now_ns: u64, limits: &QueueLimits) -> u64 {
        let mut dropped = 0;
        while self
            .frames
            .front()
            .is_some_and(|frame| now_ns.saturating_sub(frame.queued_ns) > limits.max_age_ns)
        {
            self.drop_oldest();
            dropped += 1;
        }
        dropped
    }

    fn drop_oldest(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.media.advance(frame.len as usize);
        }
        self.release();
    }

    /// How many media frames wait.
    pub(super) fn frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// What was begun, as yet unsent.
    pub(super) fn begun(&self) -> &[u8] {
        self.begun.as_slice()
    }

    /// So much of what was begun is sent.
    pub(super) fn advance_begun(&mut self, len: usize) {
        self.begun.advance(len);
    }

    /// Where records go that were encrypted.
    pub(super) fn begin(&mut self) -> &mut Vec<u8> {
        &mut self.begun.bytes
    }

    /// All that waits and was not begun: answers, media.
    pub(super) fn waiting(&self) -> [&[u8]; 2] {
        [self.answers.as_slice(), self.media.as_slice()]
    }

    /// What goes into the next record: answers, or whole media frames of at most `limit` bytes (a longer frame comes
    /// alone).
    pub(super) fn batch(&self, limit: usize) -> &[u8] {
        if !self.answers.is_empty() {
            let answers = self.answers.as_slice();
            return &answers[..answers.len().min(limit)];
        }
        let mut len = 0;
        for frame in &self.frames {
            let longer = len + frame.len as usize;
            if len > 0 && longer > limit {
                break;
            }
            len = longer;
        }
        &self.media.as_slice()[..len]
    }

    /// So many bytes of [`Self::waiting`] were sent, or encrypted. What remains of a frame that was cut has begun.
    pub(super) fn consume(&mut self, len: usize) {
        let answers = len.min(self.answers.len());
        self.answers.advance(answers);
        let mut left = len - answers;
        while left > 0 {
            let Some(frame) = self.frames.pop_front() else { break };
            let whole = frame.len as usize;
            if left < whole {
                let rest = &self.media.as_slice()[left..whole];
                self.begun.push(rest);
            }
            self.media.advance(whole);
            left = left.saturating_sub(whole);
        }
        self.release();
    }

    fn release(&mut self) {
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
    }
}

/// Bytes that come at the end and go at the front.
#[derive(Debug, Default)]
struct Bytes {
    bytes: Vec<u8>,
    start: usize,
}

impl Bytes {
    /// The first allocation: a frame, and no more than what allocators keep at hand for the next one.
    const ROOM: usize = 1024;

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.bytes.capacity() && !bytes.is_empty() {
            // Moved only where a quarter of it is gained: no byte is moved more often than four times.
            if 4 * self.start >= self.len() {
                self.bytes.drain(..self.start);
                self.start = 0;
            }
            self.bytes.reserve_exact(bytes.len().max(Self::ROOM).max(self.len() / 2));
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn advance(&mut self, len: usize) {
        self.start += len;
        if self.start >= self.bytes.len() {
            *self = Bytes::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits = QueueLimits { max_age_ns: 100, max_media_bytes: 40, max_answer_bytes: 20 };

    fn media(queue: &mut Outbound, now_ns: u64, byte: u8) -> Dropped {
        queue.push_media(now_ns, [&[byte; 4], &[byte; 5]], 3, &LIMITS)
    }

    fn waiting(queue: &Outbound) -> Vec<u8> {
        queue.waiting().concat()
    }

    #[test]
    fn a_frame_is_its_parts_and_zeros() {
        let mut queue = Outbound::default();
        assert_eq!(queue.push_media(0, [&[1, 2], &[3]], 1, &LIMITS), Dropped::default());
        assert_eq!(waiting(&queue), [1, 2, 3, 0]);
    }

    #[test]
    fn the_oldest_media_makes_room_and_answers_never_do() {
        let mut queue = Outbound::default();
        assert!(queue.push_answer(&[9; 8], &LIMITS));
        for byte in 1..=3 {
            assert_eq!(media(&mut queue, 0, byte), Dropped::default());
        }
        assert_eq!(media(&mut queue, 0, 4), Dropped { full: 1, ..Dropped::default() });
        assert_eq!(queue.frames(), 3);
        let sent = waiting(&queue);
        assert_eq!(sent[..8], [9; 8]);
        assert!(sent[8..].iter().all(|byte| [0, 2, 3, 4].contains(byte)), "{sent:?}");
        assert!(queue.push_answer(&[9; 12], &LIMITS));
        assert!(!queue.push_answer(&[9], &LIMITS), "they have a bound of their own");
    }

    #[test]
    fn media_that_waited_for_too_long_is_dropped() {
        let mut queue = Outbound::default();
        media(&mut queue, 0, 1);
        media(&mut queue, 50, 2);
        assert_eq!(queue.drop_old(100, &LIMITS), 0);
        assert_eq!(media(&mut queue, 101, 3), Dropped { old: 1, ..Dropped::default() });
        assert_eq!(queue.drop_old(151, &LIMITS), 1);
        assert_eq!(queue.frames(), 1);
    }

    #[test]
    fn a_frame_that_was_cut_is_finished_before_anything_else() {
        let mut queue = Outbound::default();
        media(&mut queue, 0, 1);
        media(&mut queue, 0, 2);
        queue.consume(5);
        assert!(queue.push_answer(&[9; 4], &LIMITS));
        assert_eq!(queue.drop_old(1000, &LIMITS), 1, "only the frame that was not begun");
        assert_eq!(queue.begun(), [1, 1, 1, 1, 0, 0, 0]);
        queue.advance_begun(7);
        assert!(!queue.has_begun());
        assert_eq!(waiting(&queue), [9; 4]);
    }

    #[test]
    fn an_answer_that_was_cut_goes_on_where_it_was() {
        let mut queue = Outbound::default();
        queue.push_answer(&[1, 2, 3, 4], &LIMITS);
        media(&mut queue, 0, 7);
        queue.consume(1);
        queue.push_answer(&[5], &LIMITS);
        assert_eq!(queue.waiting()[0], [2, 3, 4, 5]);
        queue.consume(4 + 12);
        assert!(queue.is_empty());
        assert_eq!(queue.held(), 0);
    }

    #[test]
    fn a_record_holds_whole_frames() {
        let mut queue = Outbound::default();
        for byte in 1..=3 {
            media(&mut queue, 0, byte);
        }
        assert_eq!(queue.batch(25).len(), 24);
        assert_eq!(queue.batch(5).len(), 12, "a long one comes alone");
        queue.push_answer(&[9; 4], &LIMITS);
        assert_eq!(queue.batch(25), [9; 4]);
    }

    #[test]
    fn memory_is_bounded_while_media_flows_by_what_is_never_read() {
        let mut queue = Outbound::default();
        let limits = QueueLimits::default();
        let mut dropped = 0;
        for _ in 0..10_000 {
            let now = queue.push_media(0, [&[0; 4], &[0; 1200]], 0, &limits);
            dropped += now.full;
        }
        assert_eq!(dropped + queue.frames(), 10_000);
        assert!(queue.held() <= 2 * limits.max_media_bytes, "{}", queue.held());
    }
}
