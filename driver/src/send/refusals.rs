//! Where joined messages are refused: learnt from the kernel's errors, forgotten after a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limits::MAX_REFUSING;

/// Routes and MTUs change: after this time it is tried again.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The longest datagram that may be joined with others, by destination.
#[derive(Debug)]
pub struct Refusals {
    longest: HashMap<IpAddr, usize>,
    since: Instant,
}

impl Refusals {
    /// Nothing was refused yet.
    pub fn new(now: Instant) -> Refusals {
        Refusals { longest: HashMap::new(), since: now }
    }

    /// The longest datagram that may be joined with others towards `to`, bytes; 0 for none at all.
    pub fn longest_joined(&self, to: IpAddr) -> usize {
        // Mostly nothing was ever refused, and this is asked for each datagram.
        if self.longest.is_empty() {
            return usize::MAX;
        }
        self.longest.get(&to).copied().unwrap_or(usize::MAX)
    }

    /// Whether this error refuses the joining, and not what is sent.
    pub fn is_refusal(errno: i32) -> bool {
        // Over the MTU; too many segments, or no checksum; a device or tunnel that cannot segment.
        matches!(errno, libc::EMSGSIZE | libc::EINVAL | libc::EIO)
    }

    /// A message of datagrams this long was refused with `errno`.
    pub fn remember(&mut self, to: IpAddr, segment_bytes: usize, errno: i32, now: Instant) {
        if self.longest.len() >= MAX_REFUSING {
            self.longest.clear();
        }
        if self.longest.is_empty() {
            self.since = now;
        }
        let longest = if errno == libc::EMSGSIZE { segment_bytes.saturating_sub(1) } else { 0 };
        let known = self.longest.entry(to).or_insert(longest);
        *known = (*known).min(longest);
    }

    /// Forgets what is too old; the clock is asked only if there is anything.
    pub fn expire(&mut self, now: impl FnOnce() -> Instant) {
        if !self.longest.is_empty() && now().duration_since(self.since) >= FORGET_AFTER {
            self.longest = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_size_is_remembered_for_its_destination_only() {
        let now = Instant::now();
        let mut refusals = Refusals::new(now);
        assert_eq!(refusals.longest_joined(ip(1)), usize::MAX);
        refusals.remember(ip(1), 1473, libc::EMSGSIZE, now);
        refusals.remember(ip(1), 1480, libc::EMSGSIZE, now);
        assert_eq!(refusals.longest_joined(ip(1)), 1472);
        assert_eq!(refusals.longest_joined(ip(2)), usize::MAX);
        refusals.remember(ip(2), 100, libc::EIO, now);
        assert_eq!(refusals.longest_joined(ip(2)), 0);
    }

    #[test]
    fn it_is_tried_again_later() {
        let now = Instant::now();
        let mut refusals = Refusals::new(now);
        refusals.remember(ip(1), 100, libc::EINVAL, now);
        refusals.expire(|| now + FORGET_AFTER - Duration::from_secs(1));
        assert_eq!(refusals.longest_joined(ip(1)), 0);
        refusals.expire(|| now + FORGET_AFTER);
        assert_eq!(refusals.longest_joined(ip(1)), usize::MAX);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut refusals = Refusals::new(now);
        for number in 0..10 * MAX_REFUSING as u32 {
            refusals.remember(IpAddr::from(number.to_be_bytes()), 100, libc::EIO, now);
        }
        assert!(refusals.longest.len() <= MAX_REFUSING);
    }

    #[test]
    fn only_errors_about_the_joining_count() {
        assert!(Refusals::is_refusal(libc::EMSGSIZE) && Refusals::is_refusal(libc::EINVAL));
        assert!(!Refusals::is_refusal(libc::EAGAIN) && !Refusals::is_refusal(libc::ECONNREFUSED));
    }
}
