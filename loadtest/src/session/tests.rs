//! Sessions against answers made by hand, in virtual time.

use rand::SeedableRng;
use stun_types::attribute::{ErrorCode, Nonce, Realm};
use stun_types::message::{
    IntegrityAlgorithm, LongTermCredentials, Message, MessageWrite, MessageWriteExt, MessageWriteVec,
};
use turn_types::attribute::XorRelayedAddress;

use super::*;

const SECOND: u64 = 1_000_000_000;

struct Pair {
    session: Session,
    rng: ChaCha8Rng,
}

impl Pair {
    fn started() -> Self {
        Self::started_over(Transport::Udp)
    }

    fn started_over(transport: Transport) -> Self {
        let config = SessionConfig {
            transport,
            credentials: Some(Credentials::new("u", "p")),
            allocate: AllocateOptions { lifetime_secs: 600, ..AllocateOptions::default() },
            channel: true,
            random_channel: false,
            permission: false,
            refresh_first: false,
            extra_requests: false,
            renew_every_ns: 100 * SECOND,
        };
        let mut pair = Self { session: Session::new(Arc::new(config)), rng: ChaCha8Rng::seed_from_u64(7) };
        pair.session.start(0, &mut pair.rng, None, None);
        pair
    }

    fn sent(&mut self) -> Vec<u8> {
        self.session.poll_transmit().expect("a request")
    }

    fn handle(&mut self, answer: &[u8]) -> bool {
        self.session.handle(0, &mut self.rng, answer)
    }

    fn refuse(&mut self, code: u16, nonce: &str) {
        let request = self.sent();
        let request = Message::from_bytes(&request).expect("valid");
        let mut answer = Message::builder_error(&request, MessageWriteVec::new());
        answer.push_attribute_unchecked(&ErrorCode::builder(code).build().expect("known"));
        answer.push_attribute_unchecked(&Realm::new("r").expect("short"));
        answer.push_attribute_unchecked(&Nonce::new(nonce).expect("short"));
        assert!(self.handle(&answer.finish()));
    }

    /// A success answer with integrity of this password.
    fn grant(&mut self, password: &str) {
        let request = self.sent();
        let request = Message::from_bytes(&request).expect("valid");
        let mut answer = Message::builder_success(&request, MessageWriteVec::new());
        let relayed = "192.0.2.1:5000".parse().expect("an address");
        answer.push_attribute_unchecked(&XorRelayedAddress::new(relayed, request.transaction_id()));
        let key = LongTermCredentials::new("u".into(), password.into()).to_key("r".into());
        let key = key.make_key(IntegrityAlgorithm::Sha1);
        answer.add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha1).expect("first");
        assert!(self.handle(&answer.finish()));
    }
}

// RFC 8489 section 9.2.3.2, 9.2.5.
#[test]
fn a_challenge_is_answered_with_credentials_and_a_stale_nonce_with_the_new_one() {
    let mut pair = Pair::started();
    pair.refuse(401, "n1");
    pair.refuse(438, "n2");
    let request = pair.session.outgoing.front().expect("a third try").clone();
    let request = Message::from_bytes(&request).expect("valid");
    assert_eq!(request.attribute::<Nonce>().expect("present").nonce(), "n2");
    pair.grant("p");
    assert_eq!(*pair.session.state(), State::Allocated);
    assert_eq!(pair.session.relayed(), "192.0.2.1:5000".parse().ok());
}

#[test]
fn a_second_401_means_wrong_credentials() {
    let mut pair = Pair::started();
    pair.refuse(401, "n1");
    pair.refuse(401, "n2");
    assert!(matches!(pair.session.state(), State::Failed(SetupError::WrongCredentials(401, _))));
}

#[test]
fn endless_stale_nonces_end() {
    let mut pair = Pair::started();
    pair.refuse(401, "n");
    (0..=MAX_STALE_NONCES).for_each(|_| pair.refuse(438, "n"));
    assert!(matches!(pair.session.state(), State::Failed(_)));
}

// RFC 8489 section 9.2.5: a response with wrong integrity is as if never received.
#[test]
fn a_forged_success_is_ignored_and_named_in_the_end() {
    let mut pair = Pair::started();
    pair.refuse(401, "n");
    pair.grant("not p");
    assert_eq!(*pair.session.state(), State::Allocating);
    while *pair.session.state() == State::Allocating {
        let at = pair.session.poll_timeout();
        pair.session.handle_timeout(at, &mut pair.rng);
    }
    assert_eq!(*pair.session.state(), State::Failed(SetupError::WrongIntegrity));
}

// RFC 8489 section 6.2.1: 0, 500, 1500, 3500, 7500, 15500, 31500 ms.
#[test]
fn requests_are_repeated_at_doubling_intervals_seven_times() {
    let mut pair = Pair::started();
    let first = pair.sent();
    let mut times = Vec::new();
    while *pair.session.state() == State::Allocating {
        let at = pair.session.poll_timeout();
        pair.session.handle_timeout(at, &mut pair.rng);
        if let Some(again) = pair.session.poll_transmit() {
            assert_eq!(again, first);
            times.push(at / 1_000_000);
        }
    }
    assert_eq!(times, [500, 1500, 3500, 7500, 15_500, 31_500]);
    assert_eq!(*pair.session.state(), State::Failed(SetupError::NoAnswer("Allocate", Transport::Udp)));
}

// RFC 8489 section 6.2.2.
#[test]
fn in_a_stream_no_request_is_repeated() {
    let mut pair = Pair::started_over(Transport::Tcp);
    pair.sent();
    assert_eq!(pair.session.poll_timeout(), 39_500 * SECOND / 1000);
    pair.session.handle_timeout(39_500 * SECOND / 1000, &mut pair.rng);
    assert_eq!(pair.session.poll_transmit(), None);
    assert!(matches!(pair.session.state(), State::Failed(SetupError::NoAnswer(..))));
}

#[test]
fn a_release_of_what_is_gone_already_is_done() {
    let mut pair = Pair::started();
    pair.refuse(401, "n");
    pair.grant("p");
    pair.session.release(0, &mut pair.rng);
    assert_eq!(*pair.session.state(), State::Releasing);
    pair.refuse(437, "n");
    assert_eq!(*pair.session.state(), State::Released);
    assert!(!pair.session.has_allocation());
}

/// A session whose signed Allocate is under way.
fn signed() -> Pair {
    let mut pair = Pair::started();
    pair.refuse(401, "n");
    pair
}

#[test]
fn a_release_waits_for_an_allocate_under_way_and_deletes_what_it_made() {
    let mut pair = signed();
    pair.session.release(0, &mut pair.rng);
    assert!(pair.session.has_allocation());
    pair.grant("p");
    assert_eq!(*pair.session.state(), State::Releasing);
    pair.grant("p");
    assert_eq!(*pair.session.state(), State::Released);
    assert!(pair.session.is_deleted() && !pair.session.has_allocation());
}

#[test]
fn a_release_deletes_what_an_unanswered_allocate_may_have_made() {
    let mut pair = signed();
    pair.sent();
    pair.session.release(0, &mut pair.rng);
    assert_eq!(pair.session.poll_transmit(), None, "the Allocate's answer comes first");
    pair.session.handle_timeout(SECOND, &mut pair.rng);
    let refresh = pair.session.outgoing.front().expect("Refresh 0").clone();
    let refresh = Message::from_bytes(&refresh).expect("valid");
    assert!(refresh.has_method(turn_types::message::REFRESH));
    // It had made nothing.
    pair.refuse(437, "n");
    assert_eq!(*pair.session.state(), State::Released);
    assert!(!pair.session.is_deleted() && !pair.session.has_allocation());
}

#[test]
fn a_release_of_a_refused_allocate_asks_for_nothing_more() {
    let mut pair = signed();
    pair.session.release(0, &mut pair.rng);
    pair.refuse(486, "n");
    assert_eq!(*pair.session.state(), State::Released);
    assert_eq!(pair.session.poll_transmit(), None);
}

#[test]
fn a_server_that_never_answered_is_not_asked_to_release() {
    let mut pair = Pair::started();
    pair.sent();
    pair.session.fail(SetupError::Refused(Transport::Udp));
    pair.session.release(0, &mut pair.rng);
    assert_eq!(*pair.session.state(), State::Released);
    assert_eq!(pair.session.poll_transmit(), None);
}

#[test]
fn a_failed_renewal_is_counted_and_does_not_end_the_session() {
    let mut pair = Pair::started();
    pair.refuse(401, "n");
    pair.grant("p");
    let peer = "192.0.2.9:9".parse().expect("an address");
    pair.session.bind(0, &mut pair.rng, peer);
    pair.grant("p");
    assert_eq!(*pair.session.state(), State::Ready);
    pair.session.handle_timeout(100 * SECOND, &mut pair.rng);
    pair.refuse(500, "n");
    assert_eq!((pair.session.state(), pair.session.renewal_failures()), (&State::Ready, 1));
    pair.grant("p");
}

#[test]
fn answers_to_nothing_and_garbage_are_not_taken() {
    let mut pair = Pair::started();
    let other = Request::Binding.encode(99, None);
    let other = Message::from_bytes(&other).expect("valid");
    let answer = Message::builder_success(&other, MessageWriteVec::new()).finish();
    assert!(!pair.handle(&answer));
    assert!(!pair.handle(&[]));
    assert!(!pair.handle(&[0x01; 19]));
    assert_eq!(*pair.session.state(), State::Allocating);
}
