//! Long-term credentials as the server applies them (RFC 8489 s. 9.2), static and REST.

use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use turnpike_proto::Verdict;
use turnpike_proto::auth::{Credentials, Key, rest_password};
use turnpike_proto::wire::{MessageBuilder, attr, method};

use crate::lab::*;

const ALL_ALGORITHMS: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];
const UDP: &[u8] = &[17, 0, 0, 0];

fn challenged(lab: &mut Lab) -> Client {
    let mut client = Client::new("203.0.113.5:1000");
    client.challenge(lab);
    client
}

/// A request with some of the usual attributes, signed all the same.
fn with_only(client: &mut Client, kinds: &[u16]) -> Vec<u8> {
    let mut builder = MessageBuilder::request(method::REFRESH, client.transaction());
    for (kind, value) in [
        (attr::USERNAME, client.user.as_bytes()),
        (attr::REALM, client.realm.as_bytes()),
        (attr::NONCE, &client.nonce),
    ] {
        if kinds.contains(&kind) {
            builder = builder.attribute(kind, value);
        }
    }
    builder.finish_signed(&client.key())
}

#[track_caller]
fn assert_challenge(answer: &Answer, code: u16) {
    let message = answer.expect_error(code).message();
    for kind in [attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS] {
        assert!(message.has(kind), "{kind:#06x}");
    }
    for kind in [attr::USERNAME, attr::USERHASH, attr::SOFTWARE] {
        assert!(!message.has(kind), "{kind:#06x}");
    }
    assert!(!message.has_integrity());
}

// RFC 8489 s. 9.2.4, first check
#[test]
fn s15_s16_without_integrity_a_challenge_that_says_nothing_of_the_user() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let mut bare = |lab: &mut Lab, method| {
        let request = MessageBuilder::request(method, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, UDP)
            .attribute(attr::USERNAME, b"alice")
            .finish();
        assert_challenge(&client.exchange(lab, &request), 401);
    };
    bare(&mut lab, method::ALLOCATE);
    Client::new("203.0.113.5:1000").allocate(&mut lab);
    for method in [method::ALLOCATE, method::REFRESH, method::CREATE_PERMISSION, method::CHANNEL_BIND] {
        bare(&mut lab, method);
    }
}

// Conformance Q4: RFC 8656 s. 5 and 7.1 say what a client begins with
#[test]
fn q4_what_no_client_begins_with_is_not_answered() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    for method in [method::REFRESH, method::CREATE_PERMISSION, method::CHANNEL_BIND, method::ALLOCATE] {
        let request = MessageBuilder::request(method, client.transaction()).finish();
        client.send_unanswered(&mut lab, &request);
    }
    assert_eq!(lab.workers[0].counts().verdicts.of(Verdict::DropNoCredentials), 4);
    // With credentials, right or wrong, it is.
    client.refresh(&mut lab, 600).expect_error(437);
    client.password = "wrong".into();
    client.refresh(&mut lab, 600).expect_error(401);
    client.request(&mut lab, method::ALLOCATE, |b| b).expect_error(401);
}

// Conformance Q4: an answer to somebody who may not be there is at most 2.7 times as large
#[test]
fn q4_s18_a_challenge_is_as_large_as_its_request_allows() {
    let mut lab = Lab::new();
    let client = Client::new("203.0.113.5:1000");
    let ask = |lab: &mut Lab, software: &[u8]| {
        let request = MessageBuilder::request(method::ALLOCATE, client.clone().transaction())
            .attribute(attr::REQUESTED_TRANSPORT, UDP);
        let request = if software.is_empty() { request } else { request.attribute(attr::SOFTWARE, software) };
        let request = request.finish();
        let answer = client.exchange(lab, &request);
        assert!(answer.bytes.len() * 28 <= request.len() * 76, "{} -> {}", request.len(), answer.bytes.len());
        answer
    };
    let small = ask(&mut lab, b"");
    assert_eq!(small.expect_error(401).message().attribute(attr::NONCE).map(<[u8]>::len), Some(20));
    assert!(!small.message().has(attr::PASSWORD_ALGORITHMS));
    assert_challenge(&ask(&mut lab, b"client"), 401);
    // An address that is known to be the sender's is not protected from him.
    let mut small_nonce = client.clone();
    small_nonce.nonce = small.message().attribute(attr::NONCE).expect("a nonce").to_vec();
    small_nonce.password = "wrong".into();
    assert_challenge(&small_nonce.allocate_with(&mut lab, |b| b), 401);
    small_nonce.password = "wonder".into();
    small_nonce.allocate(&mut lab);
}

// RFC 8489 s. 9.2.4, second check
#[test]
fn s15_integrity_without_username_realm_or_nonce_is_malformed() {
    let mut lab = Lab::new();
    let mut client = challenged(&mut lab);
    for missing in [attr::USERNAME, attr::REALM, attr::NONCE] {
        let kinds: Vec<u16> =
            [attr::USERNAME, attr::REALM, attr::NONCE].into_iter().filter(|kind| *kind != missing).collect();
        let request = with_only(&mut client, &kinds);
        let answer = client.exchange(&mut lab, &request);
        let message = answer.expect_error(400).message();
        assert!(!message.has(attr::REALM) && !message.has(attr::NONCE) && !message.has_integrity());
    }
}

// RFC 8489 s. 9.2.4, third check, and s. 16.1: a man in the middle can't take the better algorithm away
#[test]
fn s20_algorithms_that_disagree_with_the_offer_are_malformed() {
    let mut lab = Lab::new();
    let mut client = challenged(&mut lab);
    let key = Key::sha256("alice", REALM, "wonder").expect("good credentials");
    let sha256: &'static [u8] = &[0, 2, 0, 0];
    type Bytes = Option<&'static [u8]>;
    let cases: [(Bytes, Bytes); 5] = [
        (None, Some(sha256)),
        (Some(ALL_ALGORITHMS), None),
        (Some(&[0, 1, 0, 0]), Some(&[0, 1, 0, 0])),
        (Some(ALL_ALGORITHMS), Some(&[0, 3, 0, 0])),
        (Some(&[0, 1, 0, 0, 0, 2, 0, 0]), Some(sha256)),
    ];
    for (list, single) in cases {
        let mut builder = MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, UDP)
            .attribute(attr::USERNAME, b"alice")
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &client.nonce);
        for (kind, value) in [(attr::PASSWORD_ALGORITHMS, list), (attr::PASSWORD_ALGORITHM, single)] {
            if let Some(value) = value {
                builder = builder.attribute(kind, value);
            }
        }
        client.exchange(&mut lab, &builder.finish_signed(&key)).expect_error(400);
    }
    lab.assert_empty();
}

// RFC 8489 s. 9.2.4, fourth and fifth check, Q6: nobody can tell which names exist
#[test]
fn s15_q6_unknown_user_wrong_password_and_wrong_realm_look_alike() {
    let mut lab = Lab::new();
    let nonce = challenged(&mut lab).login.nonce;
    let cases = [("alice", "wrong", REALM), ("nobody", "wonder", REALM), ("alice", "wonder", "elsewhere")];
    let answers = cases.map(|(user, password, realm)| {
        let mut client = Client::named("203.0.113.5:1000", user, password);
        client.realm = realm.into();
        client.nonce = nonce.clone();
        let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, UDP));
        client.exchange(&mut lab, &request)
    });
    for answer in &answers {
        // S17: a foreign realm is a wrong credential, not a mismatch.
        assert_challenge(answer, 401);
        assert_eq!(answer.bytes.len(), answers[0].bytes.len());
        let kinds = |answer: &Answer| answer.message().attributes().map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds(answer), kinds(&answers[0]));
    }
    lab.assert_empty();
}

// RFC 8489 s. 9.2.4, last check; RFC 8656 s. 5
#[test]
fn s16_s25_a_stale_nonce_is_438_and_the_new_one_works_at_once() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let answer = client.allocate_with(&mut lab, |b| b.lifetime(3600));
    assert_eq!(answer.expect_success().lifetime(), 3600);
    lab.sleep(3500);
    client.refresh(&mut lab, 3600).expect_success();
    lab.sleep(101);
    let answer = client.refresh(&mut lab, 3600);
    assert_challenge(&answer, 438);
    client.nonce = answer.message().attribute(attr::NONCE).expect("a nonce").to_vec();
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8489 s. 9.2.4: a wrong password is told before a stale nonce is
#[test]
fn s15_a_stale_nonce_does_not_hide_a_wrong_password() {
    let mut lab = Lab::new();
    let mut client = challenged(&mut lab);
    client.password = "wrong".into();
    lab.sleep(4000);
    client.refresh(&mut lab, 600).expect_error(401);
}

// RFC 8489 s. 9.2 with its verified erratum: bit 0 is the least significant one
#[test]
fn s18_the_nonce_announces_what_every_source_of_credentials_can_do() {
    let prefix = |setup: Setup| {
        let mut lab = Lab::with(setup);
        String::from_utf8(challenged(&mut lab).nonce[..13].to_vec()).expect("ASCII")
    };
    assert_eq!(prefix(Setup::default()), "obMatJos2AAAD");
    // With a REST secret nobody can list all names, so USERHASH can't be looked up.
    assert_eq!(prefix(Setup { secrets: vec![SECRET], ..Setup::default() }), "obMatJos2AAAB");
}

// RFC 8489 s. 9.2.4
#[test]
fn s19_password_algorithms_lists_sha256_before_md5() {
    let mut lab = Lab::new();
    let request = MessageBuilder::request(method::ALLOCATE, Client::new("203.0.113.5:1000").transaction())
        .attribute(attr::REQUESTED_TRANSPORT, UDP)
        .attribute(attr::SOFTWARE, b"client");
    let answer = Client::new("203.0.113.5:1000").exchange(&mut lab, &request.finish());
    assert_eq!(answer.message().attribute(attr::PASSWORD_ALGORITHMS), Some(ALL_ALGORITHMS));
}

// RFC 8489 s. 16.1, Q5
#[test]
fn s21_a_nonce_with_other_feature_bits_is_not_ours() {
    let mut lab = Lab::new();
    let mut client = challenged(&mut lab);
    client.nonce[12] = b'A';
    client.allocate_with(&mut lab, |b| b).expect_error(438);
    client.nonce = b"obMatJos2AAAAinvented".to_vec();
    client.allocate_with(&mut lab, |b| b).expect_error(438);
    lab.assert_empty();
}

// Conformance Q5, Q9: stateless, yet of use to one client only
#[test]
fn q5_q9_a_nonce_works_only_from_where_it_was_sent_to() {
    let mut lab = Lab::new();
    let nonce = challenged(&mut lab).login.nonce;
    for mut other in [
        Client::new("203.0.113.5:1001"),
        Client::new("203.0.113.6:1000"),
        Client::new("203.0.113.5:1000").over_tcp(),
    ] {
        other.nonce = nonce.clone();
        other.allocate_with(&mut lab, |b| b).expect_error(438);
    }
    // Another worker is the same server.
    let mut same = Client::new("203.0.113.5:1000").on_worker(1);
    same.nonce = nonce;
    same.allocate(&mut lab);
}

/// A Refresh whose integrity attribute is computed here and cut, or filled up, to a length.
fn with_integrity(client: &mut Client, sha256: bool, len: usize) -> Vec<u8> {
    let mut builder = MessageBuilder::request(method::REFRESH, client.transaction())
        .attribute(attr::USERNAME, b"alice")
        .attribute(attr::REALM, REALM.as_bytes())
        .attribute(attr::NONCE, &client.nonce);
    if sha256 {
        builder = builder
            .attribute(attr::PASSWORD_ALGORITHMS, ALL_ALGORITHMS)
            .attribute(attr::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
    }
    let kind = if sha256 { attr::MESSAGE_INTEGRITY_SHA256 } else { attr::MESSAGE_INTEGRITY };
    // The HMAC is over what comes before it, with the length as if the message ended after it.
    let empty = append(builder.finish(), &raw_attribute(kind, &vec![0; len]));
    let covered = &empty[..empty.len() - (4 + len.next_multiple_of(4))];
    let key = format!("alice:{REALM}:wonder");
    let mut tag = if sha256 {
        let mut mac = Hmac::<Sha256>::new_from_slice(&Sha256::digest(key)).expect("any length");
        mac.update(covered);
        mac.finalize().into_bytes().to_vec()
    } else {
        let mut mac = Hmac::<Sha1>::new_from_slice(&md5::Md5::digest(key)).expect("any length");
        mac.update(covered);
        mac.finalize().into_bytes().to_vec()
    };
    tag.resize(len, 0);
    [covered, &raw_attribute(kind, &tag)].concat()
}

// RFC 8489 s. 14.5: HMAC-SHA1 of exactly 20 bytes
#[test]
fn s12_message_integrity_has_twenty_bytes() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    let right = with_integrity(&mut client, false, 20);
    client.exchange(&mut lab, &right).expect_success();
    for len in [0, 4, 16, 19, 21, 24, 32] {
        let wrong = with_integrity(&mut client, false, len);
        client.exchange(&mut lab, &wrong).expect_error(401);
    }
    let mut changed = with_integrity(&mut client, false, 20);
    *changed.last_mut().expect("not empty") ^= 1;
    client.exchange(&mut lab, &changed).expect_error(401);
}

// RFC 8489 s. 14.6: HMAC-SHA256 may be truncated to 16 bytes, in steps of four
#[test]
fn s14_message_integrity_sha256_has_16_to_32_bytes_in_steps_of_four() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    for len in [16, 20, 24, 28, 32] {
        let right = with_integrity(&mut client, true, len);
        client.exchange(&mut lab, &right).expect_success();
    }
    for len in [0, 4, 12, 15, 17, 30, 31, 33, 36] {
        let wrong = with_integrity(&mut client, true, len);
        client.exchange(&mut lab, &wrong).expect_error(401);
    }
}

// RFC 8489 s. 9.2.2, 14.4
#[test]
fn s22_userhash_stands_for_the_name() {
    let mut lab = Lab::new();
    let mut client = challenged(&mut lab);
    let hash: [u8; 32] = Sha256::digest(format!("alice:{REALM}")).into();
    let request = |client: &mut Client, method: u16| {
        MessageBuilder::request(method, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, UDP)
            .attribute(attr::USERHASH, &hash)
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &client.nonce)
            .attribute(attr::PASSWORD_ALGORITHMS, ALL_ALGORITHMS)
            .attribute(attr::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
            .finish_signed(&Key::sha256("alice", REALM, "wonder").expect("good credentials"))
    };
    let allocate = request(&mut client, method::ALLOCATE);
    client.exchange(&mut lab, &allocate).expect_success();
    // The name in the clear is the same user (RFC 8656 s. 5).
    client.refresh(&mut lab, 600).expect_success();
    let refresh = request(&mut client, method::REFRESH);
    client.exchange(&mut lab, &refresh).expect_success();
    assert_eq!(lab.shared.quotas.users(), 1);
}

// RFC 8489 s. 9.2.4
#[test]
fn s23_answers_are_protected_as_the_request_was() {
    let mut lab = Lab::new();
    let mut client = challenged(&mut lab);
    let integrity = |answer: &Answer, kind: u16, len: u8| {
        let header = [kind.to_be_bytes(), [0, len]].concat();
        answer.bytes.windows(4).any(|window| window == header)
    };
    client.style = Style::Sha256;
    let allocate = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, UDP));
    let answer = client.exchange(&mut lab, &allocate);
    answer.expect_success();
    assert!(integrity(&answer, attr::MESSAGE_INTEGRITY_SHA256, 32));
    assert!(!integrity(&answer, attr::MESSAGE_INTEGRITY, 20));
    let bind = client.signed(method::CHANNEL_BIND, |b| b);
    let answer = client.exchange(&mut lab, &bind);
    assert!(integrity(answer.expect_error(400), attr::MESSAGE_INTEGRITY_SHA256, 32), "errors too");
    client.style = Style::Md5;
    let answer = client.refresh(&mut lab, 600);
    assert!(integrity(answer.expect_success(), attr::MESSAGE_INTEGRITY, 20));
    assert!(!integrity(&answer, attr::MESSAGE_INTEGRITY_SHA256, 32));
}

// RFC 8489 s. 14.5, 9.2.2; RFC 8265
#[test]
fn s24_names_and_passwords_are_compared_in_their_prepared_form() {
    let users = vec![("J\u{fc}rgen", "gr\u{f6}\u{df}e")];
    let mut lab = Lab::with(Setup { users, ..Setup::default() });
    // The same text in another Unicode normal form.
    Client::named("203.0.113.5:1000", "Ju\u{308}rgen", "gro\u{308}\u{df}e").allocate(&mut lab);
    assert_eq!(lab.shared.quotas.users(), 1);
}

// Conformance Q17: in coturn 4.17.1 "bob\0" is "bob"
#[test]
fn q17_a_name_with_something_behind_it_is_another_name() {
    let mut lab = Lab::new();
    let mut client = challenged(&mut lab);
    for name in [&b"alice\0"[..], b"alice\n", b"alice ", b"alice%n", b"Alice", b"alice\xff", b""] {
        let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, UDP)
            .attribute(attr::USERNAME, name)
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &client.nonce)
            .finish_signed(&client.key());
        client.exchange(&mut lab, &request).expect_error(401);
    }
    lab.assert_empty();
}

// RFC 8656 s. 5
#[test]
fn t3_another_user_on_the_five_tuple_is_told_so_and_nothing_changes() {
    let mut lab = Lab::new();
    let mut alice = Client::new("203.0.113.5:1000");
    alice.allocate(&mut lab);
    let mut bob = Client::named("203.0.113.5:1000", "bob", "builder");
    bob.nonce = alice.nonce.clone();
    bob.refresh(&mut lab, 0).expect_error(441);
    bob.permit(&mut lab, PEER).expect_error(441);
    bob.bind(&mut lab, 0x4000, PEER).expect_error(441);
    // Allocate looks at the 5-tuple first (RFC 8656 s. 7.2 step 2).
    bob.allocate_with(&mut lab, |b| b).expect_error(437);
    assert_eq!(lab.held(), (0, 0));
    alice.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 5
#[test]
fn t2_without_an_allocation_requests_are_mismatches_and_data_is_ignored() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.refresh(&mut lab, 600).expect_error(437);
    client.permit(&mut lab, PEER).expect_error(437);
    client.bind(&mut lab, 0x4000, PEER).expect_error(437);
    // Even if they are malformed otherwise.
    client.request(&mut lab, method::CREATE_PERMISSION, |b| b).expect_error(437);
    assert!(client.send_indication(&mut lab, PEER, b"data").is_empty());
    assert!(client.channel_data(&mut lab, 0x4000, b"data").is_empty());
    lab.assert_empty();
}

fn rest_setup() -> Setup {
    Setup { users: vec![], secrets: vec![SECRET], ..Setup::default() }
}

fn rest_client(address: &str, name: &str) -> Client {
    Client::named(address, name, &rest_password(SECRET, name))
}

fn name_expiring_in(secs: u64, user: &str) -> String {
    format!("{}:{user}", START_UNIX_SECS + secs)
}

// draft-uberti-behave-turn-rest s. 2.2, conformance O3
#[test]
fn o3_an_expired_rest_credential_allocates_nothing() {
    let mut lab = Lab::with(rest_setup());
    rest_client("203.0.113.5:1000", &name_expiring_in(60, "carol")).allocate(&mut lab);
    lab.sleep(61);
    let mut late = rest_client("203.0.113.5:1001", &name_expiring_in(60, "carol"));
    late.allocate_with(&mut lab, |b| b).expect_error(401);
    let mut forged = rest_client("203.0.113.5:1002", &name_expiring_in(60, "carol"));
    forged.user = name_expiring_in(9000, "carol");
    forged.allocate_with(&mut lab, |b| b).expect_error(401);
}

// Conformance O3: long calls outlive what started them, also the secret
#[test]
fn o3_a_live_allocation_outlives_expiry_and_rotation() {
    let mut lab = Lab::with(rest_setup());
    let mut client = rest_client("203.0.113.5:1000", &name_expiring_in(60, "carol"));
    client.allocate(&mut lab);
    lab.sleep(500);
    client.refresh(&mut lab, 600).expect_success();
    let mut rotated = Credentials::new(REALM);
    rotated.add_secret("south".to_string());
    lab.shared.auth.replace_credentials(rotated).expect("the same realm");
    client.permit(&mut lab, PEER).expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    let mut other = rest_client("203.0.113.5:1001", &name_expiring_in(9000, "carol"));
    other.allocate_with(&mut lab, |b| b).expect_error(401);
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// The same with --strict-credential-expiry
#[test]
fn o3_strict_expiry_ends_the_right_to_refresh() {
    let mut lab = Lab::with(Setup { strict_expiry: true, ..rest_setup() });
    let mut client = rest_client("203.0.113.5:1000", &name_expiring_in(60, "carol"));
    client.allocate(&mut lab);
    lab.sleep(30);
    client.refresh(&mut lab, 600).expect_success();
    lab.sleep(31);
    client.refresh(&mut lab, 600).expect_error(401);
    client.permit(&mut lab, PEER).expect_error(401);
    lab.sleep(600);
    lab.assert_empty();
}

// Conformance O3: several secrets, three forms of names
#[test]
fn o3_quotas_count_the_user_part_of_any_form() {
    let secrets = vec!["old", SECRET];
    let mut lab = Lab::with(Setup { user_quota: 2, secrets, ..rest_setup() });
    let expiry = START_UNIX_SECS + 1000;
    let names = [format!("{expiry}:carol"), format!("carol:{}", expiry + 1), format!("{}:carol", expiry + 2)];
    rest_client("203.0.113.5:1000", &names[0]).allocate(&mut lab);
    let old = rest_password("old", &names[1]);
    Client::named("203.0.113.5:1001", &names[1], &old).allocate(&mut lab);
    let mut third = rest_client("203.0.113.5:1002", &names[2]);
    third.allocate_with(&mut lab, |b| b).expect_error(486);
    rest_client("203.0.113.5:1003", &format!("{expiry}:dave")).allocate(&mut lab);
    // Without a user part the whole name counts.
    rest_client("203.0.113.5:1004", &expiry.to_string()).allocate(&mut lab);
    assert_eq!(lab.shared.quotas.users(), 3);
}

// Conformance O3: another credential of the same person is another name (RFC 8656 s. 5)
#[test]
fn o3_a_renewed_rest_name_is_another_user_of_the_five_tuple() {
    let mut lab = Lab::with(rest_setup());
    let mut client = rest_client("203.0.113.5:1000", &name_expiring_in(60, "carol"));
    client.allocate(&mut lab);
    let mut renewed = rest_client("203.0.113.5:1000", &name_expiring_in(9000, "carol"));
    renewed.nonce = client.nonce.clone();
    renewed.refresh(&mut lab, 600).expect_error(441);
}
