//! Whether what is in the kernel has any effect: judged from what workers forward nevertheless, pure.
//!
//! A program may be attached, its routes in place, and all the same each datagram comes to userspace: because something
//! about them makes the program pass them on, or because it does not see them. Nobody is the worse for it, but nobody
//! should read that the kernel forwards.

use turnpike_abi::Verdict;

use super::limits::MISSED_BEFORE_IDLE;

/// What the program counted, by verdict.
pub type Counts = [u64; Verdict::COUNT];

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The kernel forwards nothing, and why.
    Idle(String),
    /// It does again.
    Effective,
}

/// What was seen so far.
#[derive(Debug)]
pub struct Effect {
    /// Datagrams that userspace had forwarded for the kernel, and what the program had counted, when the kernel was last
    /// seen forwarding.
    missed: u64,
    counts: Counts,
    is_idle: bool,
}

impl Effect {
    /// Nothing has been seen.
    pub fn new() -> Effect {
        Effect { missed: 0, counts: [0; Verdict::COUNT], is_idle: false }
    }

    /// Whether there is a reason to look at what the program counted.
    pub fn wants_counts(&self, missed: u64) -> bool {
        self.is_idle || missed.saturating_sub(self.missed) >= MISSED_BEFORE_IDLE
    }

    /// `missed`: datagrams that userspace has forwarded, of allocations that are the kernel's to forward for; `waiting`:
    /// how many channels are not in the kernel, of so many.
    pub fn look(&mut self, missed: u64, counts: &Counts, waiting: u64, channels: u64) -> Option<Change> {
        if !self.wants_counts(missed) {
            return None;
        }
        if forwarded(counts) != forwarded(&self.counts) {
            (self.missed, self.counts) = (missed, *counts);
            return std::mem::take(&mut self.is_idle).then_some(Change::Effective);
        }
        if std::mem::replace(&mut self.is_idle, true) {
            return None;
        }
        let missed = missed - self.missed;
        let why = self.why(missed, counts, waiting, channels);
        Some(Change::Idle(format!(
            "{missed} datagrams of channels came to userspace, and none was forwarded in the kernel: {why}"
        )))
    }

    fn why(&self, missed: u64, counts: &Counts, waiting: u64, channels: u64) -> String {
        if waiting == channels && channels > 0 {
            return format!(
                "none of the {channels} channels is in the kernel; offload.why_not of each in GET \
                 /v1/allocations/ID says why"
            );
        }
        let since =
            |(verdict, _): &(Verdict, &str)| counts[*verdict as usize] - self.counts[*verdict as usize];
        let most = TELLING.iter().max_by_key(|telling| since(telling));
        match most.map(|telling| (telling, since(telling))) {
            Some(((verdict, why), passed)) if 2 * passed >= missed => format!("{}: {why}", verdict.name()),
            _ => UNSEEN.to_owned(),
        }
    }
}

fn forwarded(counts: &Counts) -> u64 {
    let of = |verdict: Verdict| counts[verdict as usize];
    of(Verdict::ChannelToPeer) + of(Verdict::ChannelToClient)
}

/// When the program has passed on far fewer frames than came.
const UNSEEN: &str = "the program does not see them, or not as they are: they come in by an interface without it, a \
                      virtual function for instance, or this host rewrites their addresses (NAT)";

/// What is said of frames that could have been forwarded, and what it means for whoever looks after the host.
const TELLING: [(Verdict, &str); 16] = [
    (Verdict::PassVlan, "they are in a VLAN of which no interface is named, or have two tags"),
    (Verdict::PassIpOptions, "they have IP options or extension headers"),
    (
        Verdict::PassFragment,
        "they are fragments: clients send datagrams that are too large for their way here",
    ),
    (Verdict::PassInterface, "they come in by another interface than the one by which they are answered"),
    (Verdict::PassMac, "they are to another MAC address than the interface's: a bridge, VRRP or a macvlan"),
    (Verdict::PassSource, "their sources are addresses of this host, or nobody's"),
    (Verdict::PassLength, "their lengths contradict each other: hardware merges packets (LRO)"),
    (Verdict::PassHeaderChecksum, "the checksums of their IP headers are wrong"),
    (Verdict::PassPadding, "clients pad ChannelData with something else than zeros"),
    (Verdict::PassNoRoute, "they are from other addresses or ports than those that channels were bound with"),
    (Verdict::PassTtl, "their TTL is used up"),
    (Verdict::PassNoChecksum, "they have no UDP checksum, and would need one in IPv6"),
    (Verdict::PassNextHop, "the hardware addresses of the next hops are not known"),
    (Verdict::PassMtu, "they are too large for the interface that they leave by"),
    (Verdict::PassHeadroom, "the driver leaves no room for a longer header; `turnpike probe` says more"),
    (Verdict::PassUnattended, "the thread that keeps the kernel's routes stands still"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(Verdict, u64)]) -> Counts {
        let mut counts = [0; Verdict::COUNT];
        of.iter().for_each(|(verdict, count)| counts[*verdict as usize] = *count);
        counts
    }

    #[test]
    fn a_thousand_datagrams_with_none_forwarded_are_said_once_with_the_reason() {
        let mut effect = Effect::new();
        let passed = counts(&[(Verdict::PassHeadroom, 900), (Verdict::PassNotChannel, 5000)]);
        assert_eq!(effect.look(MISSED_BEFORE_IDLE - 1, &passed, 0, 2), None);
        let Some(Change::Idle(why)) = effect.look(MISSED_BEFORE_IDLE, &passed, 0, 2) else {
            panic!("it is idle")
        };
        assert!(why.contains("1000 datagrams") && why.contains("pass_headroom: the driver leaves"), "{why}");
        assert_eq!(effect.look(5000, &passed, 0, 2), None, "it was said");
        // One frame is enough.
        let again = counts(&[(Verdict::PassHeadroom, 900), (Verdict::ChannelToPeer, 1)]);
        assert_eq!(effect.look(5000, &again, 0, 2), Some(Change::Effective));
        assert_eq!(effect.look(5999, &again, 0, 2), None, "it begins anew");
        assert!(matches!(effect.look(6000, &again, 0, 2), Some(Change::Idle(_))));
    }

    #[test]
    fn what_the_kernel_forwards_beside_it_is_enough() {
        let mut effect = Effect::new();
        for round in 1..10 {
            let some = counts(&[(Verdict::ChannelToClient, round), (Verdict::PassTtl, 1000 * round)]);
            assert_eq!(effect.look(1000 * round, &some, 0, 2), None);
        }
    }

    #[test]
    fn frames_that_nobody_sees_and_channels_that_wait_are_told_apart() {
        let stun = counts(&[(Verdict::PassNotChannel, 5000), (Verdict::PassTtl, 20)]);
        let why = |waiting| match Effect::new().look(1000, &stun, waiting, 2) {
            Some(Change::Idle(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(0).contains("the program does not see them"), "{}", why(0));
        assert!(why(2).contains("none of the 2 channels is in the kernel"), "{}", why(2));
    }
}
